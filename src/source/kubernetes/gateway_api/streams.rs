//! What TLSRoutes and TCPRoutes have in common.

use serde::Deserialize;

use super::{
    GatewayApi, Reach,
    attach::{Attaching, ParentListener, by_client},
    reference_grant::Referrer,
    references::{BackendReference, GROUP, ParentReference},
    tls_route::TlsRoute,
};
use crate::{
    config::{BackendRef, Host, StreamRoute},
    source::{
        error::Fault,
        kubernetes::{
            backends::{Backends, Speaks},
            object::{Kind, Object},
        },
    },
};

/// The one rule of a route whose connections are not looked into.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StreamRule {
    #[serde(default)]
    pub(crate) backend_refs: Vec<BackendReference>,
}

/// A route of either kind.
pub(super) struct StreamSpec<'s> {
    pub(super) parents: &'s [ParentReference],
    pub(super) hosts: Vec<Host>,
    pub(super) rules: &'s [StreamRule],
}

/// The routes that an object becomes: one for each way in which its backends are reached.
pub(super) fn routes<T: Kind>(
    api: &GatewayApi<'_>,
    object: &Object<T>,
    spec: StreamSpec<'_>,
    backends: &mut Backends<'_>,
) -> Vec<StreamRoute> {
    let StreamSpec { parents, hosts, rules } = spec;
    let attaching = Attaching { kind: T::KIND, namespace: &object.namespace, parents, hosts: &hosts };
    let attached = api.parents.attach(attaching);
    for (field, why) in attached.warnings {
        let message = format!("{why}; the route is not attached there");
        backends.warnings.push(object.warning(&field, message));
    }
    if rules.len() > 1 {
        let why = "only the first rule is used: nothing tells when another would be".to_owned();
        backends.warnings.push(object.warning("spec.rules[1]", why));
    }
    // What is passed on as it is has its own TLS already.
    let (passed, ended): (Vec<&ParentListener<'_>>, Vec<_>) =
        attached.listeners.into_iter().partition(|listener| listener.is_passthrough);
    let is_tls = T::KIND == TlsRoute::KIND;
    let ended_speaks = if is_tls { Speaks::Stream } else { Speaks::Opaque };
    let mut groups: Vec<_> =
        by_client(ended).into_iter().map(|(client, names)| (ended_speaks, client, names)).collect();
    if !passed.is_empty() {
        let names = passed.into_iter().map(|listener| listener.name.clone()).collect();
        groups.push((Speaks::Opaque, None, names));
    }
    let mut routes = Vec::with_capacity(groups.len());
    for (speaks, client, listeners) in groups {
        let reach = Reach { speaks, client, needs_grant: true };
        routes.push(StreamRoute {
            name: format!("{}/{}", object.namespace, object.name),
            listeners,
            hosts: hosts.clone(),
            backends: resolve(api, object, rules.first(), reach, backends),
            created: object.created,
        });
    }
    routes
}

/// What is wrong with the rules.
pub(super) fn check_rules(rules: &[StreamRule], found: &mut dyn FnMut(String, Fault)) {
    if rules.is_empty() {
        found("spec.rules".to_owned(), Fault::Missing);
    }
    for (index, rule) in rules.iter().enumerate() {
        for (inner, backend) in rule.backend_refs.iter().enumerate() {
            backend.check(format_args!("spec.rules[{index}].backendRefs[{inner}]"), found);
        }
    }
}

fn resolve<T: Kind>(
    api: &GatewayApi<'_>,
    object: &Object<T>,
    rule: Option<&StreamRule>,
    reach: Reach<'_>,
    backends: &mut Backends<'_>,
) -> Vec<BackendRef> {
    let references = rule.map(|rule| &*rule.backend_refs).unwrap_or_default();
    if references.is_empty() {
        let why = "the rule has no backend";
        backends.warnings.push(object.warning("spec.rules[0]", format!("{why}; its connections are closed")));
        return vec![BackendRef::invalid(format!("{}/", object.namespace), why)];
    }
    let from = Referrer { group: GROUP, kind: T::KIND, namespace: &object.namespace };
    let mut resolved = Vec::with_capacity(references.len());
    for (index, reference) in references.iter().enumerate() {
        let backend = api.backend(from, reference, reach, backends);
        if let Some(why) = &backend.invalid {
            let field = format!("spec.rules[0].backendRefs[{index}]");
            backends.warnings.push(object.warning(&field, format!("{why}; connections for it are closed")));
        }
        resolved.push(backend);
    }
    resolved
}
