//! Which listeners a route attaches to.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    conflicts::Family,
    gateway::RouteKind,
    namespace::{From, Namespace, NamespaceRule},
    references::{CORE, EXPERIMENTAL_GROUP, GROUP, ParentReference},
};
use crate::{
    config::{ClientAuth, Host},
    source::kubernetes::object::Table,
};

/// What routes can attach to, by kind, namespace and name.
pub(crate) struct Parents<'a> {
    pub(super) namespaces: &'a Table<Namespace>,
    pub(super) all: HashMap<ParentKind, HashMap<&'a str, HashMap<&'a str, Parent<'a>>>>,
}

/// A Gateway or a ListenerSet.
pub(crate) struct Parent<'a> {
    pub(super) namespace: &'a str,
    /// As in `Gateway default/web`.
    pub(super) label: String,
    pub(super) listeners: Vec<ParentListener<'a>>,
    /// Why none of its listeners is served.
    pub(super) unserved: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ParentKind {
    Gateway,
    ListenerSet,
    XListenerSet,
}

/// A listener as routes see it.
#[derive(Debug)]
pub(crate) struct ParentListener<'a> {
    /// The name it has in the configuration.
    pub(crate) name: String,
    /// What its connections start with.
    pub(crate) family: Family,
    /// Whether TLS is passed on as it is.
    pub(crate) is_passthrough: bool,
    /// The certificate that its Gateway shows to backends.
    pub(crate) client: Option<Arc<BackendClient>>,
    pub(super) section: &'a str,
    pub(super) port: u16,
    pub(super) host: Host,
    pub(super) namespaces: &'a NamespaceRule,
    pub(super) kinds: &'a [RouteKind],
    /// Kinds of routes that its protocol takes.
    pub(super) natural: &'static [&'static str],
    /// Why it is not served.
    pub(super) unserved: Option<String>,
}

/// Who a Gateway is towards backends that ask.
///
/// An upstream that speaks TLS is another one for each such Gateway: its name has `@` and [`gateway`](Self::gateway) behind
/// it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BackendClient {
    /// As `namespace/name`.
    pub(crate) gateway: String,
    pub(crate) auth: ClientAuth,
}

/// A route, as far as attachment is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attaching<'r> {
    /// Of the API's own group.
    pub(crate) kind: &'r str,
    pub(crate) namespace: &'r str,
    pub(crate) parents: &'r [ParentReference],
    /// None means any.
    pub(crate) hosts: &'r [Host],
}

/// What a route is attached to.
///
/// Mind that a configured route without listeners is for requests that come in where no listener is: one that is attached to
/// nothing must be left out.
#[derive(Debug, Default)]
pub(crate) struct Attached<'p> {
    pub(crate) listeners: Vec<&'p ParentListener<'p>>,
    /// What came to nothing, by field of the route.
    pub(crate) warnings: Vec<(String, String)>,
}

impl<'a> Parents<'a> {
    /// Finds the listeners that a route attaches to. References to Services are passed over: they are the mesh's.
    pub(crate) fn attach<'p>(&'p self, route: Attaching<'_>) -> Attached<'p> {
        let mut attached = Attached::default();
        let mut seen = HashSet::new();
        for (index, reference) in route.parents.iter().enumerate() {
            if reference.group == CORE && reference.kind == "Service" {
                continue;
            }
            match self.one(route, reference) {
                Ok(listeners) => {
                    for listener in listeners {
                        if seen.insert(&*listener.name) {
                            attached.listeners.push(listener);
                        }
                    }
                }
                Err((field, why)) => attached.warnings.push((format!("spec.parentRefs[{index}]{field}"), why)),
            }
        }
        attached
    }

    fn one<'p>(
        &'p self,
        route: Attaching<'_>,
        reference: &ParentReference,
    ) -> Result<Vec<&'p ParentListener<'a>>, (&'static str, String)> {
        let namespace = reference.namespace.as_deref().unwrap_or(route.namespace);
        let kind = ParentKind::of(reference).ok_or_else(|| {
            let ParentReference { group, kind, .. } = reference;
            (".kind", format!("`{kind}` of group `{group}` is nothing that routes can be attached to here"))
        })?;
        let parent = self.all.get(&kind).and_then(|all| all.get(namespace)?.get(&*reference.name));
        let parent =
            parent.ok_or_else(|| ("", format!("there is no {} {namespace}/{}", reference.kind, reference.name)))?;
        if let Some(why) = &parent.unserved {
            return Err(("", format!("{} is not served: {why}", parent.label)));
        }
        let label = &parent.label;
        let left: Vec<_> = parent.listeners.iter().collect();
        let section = reference.section_name.as_deref().filter(|section| !section.is_empty());
        let left = narrow(
            &left,
            ".sectionName",
            |one| section.is_none_or(|section| one.section == section),
            || format!("{label} has no such listener"),
        )?;
        let left = narrow(
            &left,
            ".port",
            |one| reference.port.is_none_or(|port| one.port == port),
            || "none there is at this port".to_owned(),
        )?;
        let left = narrow(&left, "", |one| one.takes(route.kind), || format!("{label} takes no {} there", route.kind))?;
        let admits = |one: &ParentListener<'_>| {
            one.namespaces.admits(From::Same, parent.namespace, route.namespace, self.namespaces)
        };
        let left =
            narrow(&left, "", admits, || format!("{label} admits no route of namespace {} there", route.namespace))?;
        let left = narrow(
            &left,
            "",
            |one| one.has_host_of(route.hosts),
            || {
                let hosts: Vec<_> = route.hosts.iter().map(Host::to_string).collect();
                format!("{label} has none of the hostnames ({}) there", hosts.join(", "))
            },
        )?;
        narrow(&left, "", |one| one.unserved.is_none(), || format!("{label} does not serve it"))
    }
}

/// Keeps the listeners that fit; where none does, `why` says so.
fn narrow<'p, 'a>(
    listeners: &[&'p ParentListener<'a>],
    field: &'static str,
    fits: impl Fn(&ParentListener<'a>) -> bool,
    why: impl Fn() -> String,
) -> Result<Vec<&'p ParentListener<'a>>, (&'static str, String)> {
    let left: Vec<_> = listeners.iter().copied().filter(|listener| fits(listener)).collect();
    if left.is_empty() { Err((field, format!("{}: {}", why(), describe(listeners)))) } else { Ok(left) }
}

/// Names of listeners by the certificate that is shown to backends for them, in the order of the listeners: there is a route
/// to be made for each.
pub(crate) fn by_client<'p>(
    listeners: impl IntoIterator<Item = &'p ParentListener<'p>>,
) -> Vec<(Option<&'p BackendClient>, Vec<String>)> {
    let mut groups: Vec<(Option<&BackendClient>, Vec<String>)> = Vec::new();
    for listener in listeners {
        let client = listener.client.as_deref();
        match groups.iter_mut().find(|(other, _)| other.map(|one| &one.gateway) == client.map(|one| &one.gateway)) {
            Some((_, names)) => names.push(listener.name.clone()),
            None => groups.push((client, vec![listener.name.clone()])),
        }
    }
    groups
}

impl ParentKind {
    pub(crate) fn of(reference: &ParentReference) -> Option<Self> {
        match (&*reference.group, &*reference.kind) {
            (GROUP, "Gateway") => Some(Self::Gateway),
            (GROUP, "ListenerSet") => Some(Self::ListenerSet),
            (EXPERIMENTAL_GROUP, "XListenerSet") => Some(Self::XListenerSet),
            _ => None,
        }
    }
}

impl ParentListener<'_> {
    fn takes(&self, kind: &str) -> bool {
        self.natural.contains(&kind)
            && (self.kinds.is_empty() || self.kinds.iter().any(|one| one.group == GROUP && one.kind == kind))
    }

    fn has_host_of(&self, hosts: &[Host]) -> bool {
        // TCP knows no hosts.
        self.family == Family::Tcp
            || hosts.is_empty()
            || hosts.iter().any(|host| host.intersection(&self.host).is_some())
    }
}

fn describe(listeners: &[&ParentListener<'_>]) -> String {
    let one = |listener: &&ParentListener<'_>| {
        let ParentListener { section, port, host, .. } = listener;
        let host = if *host == Host::Any { String::new() } else { format!(" {host}") };
        let fate = listener.unserved.as_ref().map(|why| format!(", not served: {why}")).unwrap_or_default();
        format!("`{section}` (port {port}{host}{fate})")
    };
    match listeners {
        [] => "it has no listener".to_owned(),
        [listener] => format!("there is {}", one(listener)),
        listeners => format!("there are {}", listeners.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}
