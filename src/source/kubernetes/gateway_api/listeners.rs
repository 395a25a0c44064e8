//! Gateways and ListenerSets as listeners.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    attach::{BackendClient, Parent, ParentKind, ParentListener, Parents},
    conflicts::{Claim, Claims, Family, indistinct},
    gateway::{Gateway, IP_ADDRESS, ListenerSpec, ListenerTls, TlsMode, Validation, ValidationMode},
    listener_set::ListenerSetSpec,
    namespace::From,
    reference_grant::Referrer,
    references::{EXPERIMENTAL_GROUP, GROUP, hostname},
    tls::{Credentials, of_group},
};
use crate::{
    config::{ClientValidation, ClientValidationMode, Host, Listener, ListenerProtocol, Termination},
    source::{
        error::Warning,
        kubernetes::object::{Kind, Object, Objects},
    },
};

/// An object with listeners.
struct Unit<'a> {
    kind: ParentKind,
    namespace: &'a str,
    name: &'a str,
    label: String,
    listeners: &'a [ListenerSpec],
    created: Option<i64>,
    object: &'a dyn Warn,
}

/// Where warnings of an object come from.
trait Warn {
    fn warn(&self, field: &str, message: String) -> Warning;
}

impl<T: Kind> Warn for Object<T> {
    fn warn(&self, field: &str, message: String) -> Warning {
        self.warning(field, message)
    }
}

/// A listener, on the way to being served.
struct Draft<'a> {
    seen: ParentListener<'a>,
    listener: Option<Listener>,
    field: String,
}

struct Builder<'a, 'w> {
    credentials: Credentials<'a>,
    warnings: &'w mut Vec<Warning>,
    claims: Claims,
    parents: Parents<'a>,
    listeners: Vec<Listener>,
}

/// The listeners of all Gateways that are served, and what routes can attach to.
pub(crate) fn listeners<'a>(
    objects: &'a Objects,
    credentials: Credentials<'a>,
    warnings: &mut Vec<Warning>,
) -> (Parents<'a>, Vec<Listener>) {
    let parents = Parents { namespaces: &objects.namespaces, all: HashMap::new() };
    let mut builder = Builder { credentials, warnings, claims: Claims::default(), parents, listeners: Vec::new() };
    let mut sets = builder.sets(objects);
    for gateway in objects.gateways.by_age() {
        let sets = sets.remove(&(&*gateway.namespace, &*gateway.name)).unwrap_or_default();
        builder.gateway(objects, gateway, &sets);
    }
    (builder.parents, builder.listeners)
}

impl<'a> Builder<'a, '_> {
    /// The ListenerSets by the Gateway they are for, in the order in which they come there.
    fn sets(&mut self, objects: &'a Objects) -> HashMap<(&'a str, &'a str), Vec<Unit<'a>>> {
        let own = objects
            .listener_sets
            .iter()
            .map(|set| (Unit::new(ParentKind::ListenerSet, set, &set.value.spec.listeners), &set.value.spec));
        let experimental = &objects.experimental_listener_sets;
        let others = experimental
            .iter()
            .map(|set| (Unit::new(ParentKind::XListenerSet, set, &set.value.spec.listeners), &set.value.spec));
        let mut all: Vec<_> = own.chain(others).collect();
        all.sort_by_key(|(unit, _)| (unit.created.unwrap_or(i64::MAX), unit.namespace, unit.name, unit.kind));
        let mut by_gateway: HashMap<_, Vec<_>> = HashMap::new();
        for (unit, spec) in all {
            match unit.gateway(objects, spec) {
                Ok(gateway) => by_gateway.entry(gateway).or_default().push(unit),
                Err((field, why)) => {
                    self.warnings.push(unit.object.warn(field, format!("{why}, and its listeners are not served")));
                    self.unserved(&unit, &why);
                }
            }
        }
        by_gateway
    }

    fn gateway(&mut self, objects: &'a Objects, gateway: &'a Object<Gateway>, sets: &[Unit<'a>]) {
        let spec = &gateway.value.spec;
        let unit = Unit::of_gateway(gateway);
        if objects.gateway_classes.get("", &spec.gateway_class_name).is_none() {
            let why = format!("there is no GatewayClass `{}`", spec.gateway_class_name);
            let message = format!("{why}, and the Gateway is not served: add the class, or name another");
            self.warnings.push(gateway.warning("spec.gatewayClassName", message));
            self.unserved(&unit, &why);
            let why = format!("{} is not served: {why}", unit.label);
            for set in sets {
                self.unserved(set, &why);
            }
            return;
        }
        if let Some((place, why)) = spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.mistake()) {
            self.warnings.push(gateway.warning(&format!("spec.allowedListeners.namespaces.{place}"), why));
        }
        let addresses = self.addresses(gateway);
        let client = self.client(gateway);
        let mut own = Claims::default();
        for unit in std::iter::once(&unit).chain(sets) {
            let mut drafts: Vec<_> =
                (0..).zip(unit.listeners).map(|(index, listener)| self.draft(gateway, unit, index, listener)).collect();
            for draft in &mut drafts {
                draft.seen.client.clone_from(&client);
            }
            self.keep_distinct(&mut own, unit, &mut drafts);
            self.place(&addresses, unit, &mut drafts);
            let mut seen = Vec::with_capacity(drafts.len());
            for draft in drafts {
                self.listeners.extend(draft.listener);
                seen.push(draft.seen);
            }
            self.add(unit, seen, None);
        }
    }

    /// The addresses it asks for. One without a value leaves the choice, as no address at all does.
    fn addresses(&mut self, gateway: &Object<Gateway>) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for (index, address) in gateway.value.spec.addresses.iter().enumerate() {
            match address.value.parse() {
                Ok(ip) if address.kind == IP_ADDRESS => addresses.push(ip),
                // What is no address was refused when it was read.
                _ if address.kind == IP_ADDRESS => {}
                _ => {
                    let why = format!("addresses of type `{}` cannot be bound, only `{IP_ADDRESS}` can", address.kind);
                    self.warnings.push(gateway.warning(&format!("spec.addresses[{index}].type"), why));
                }
            }
        }
        addresses
    }

    fn client(&mut self, gateway: &Object<Gateway>) -> Option<Arc<BackendClient>> {
        let (field, reference) = gateway.value.spec.client_certificate()?;
        let from = Referrer { group: GROUP, kind: Gateway::KIND, namespace: &gateway.namespace };
        match self.credentials.client(from, reference) {
            Ok(auth) => {
                let gateway = format!("{}/{}", gateway.namespace, gateway.name);
                Some(Arc::new(BackendClient { gateway, auth }))
            }
            Err(why) => {
                self.warnings.push(gateway.warning(field, format!("{why}; backends are shown no certificate")));
                None
            }
        }
    }

    fn draft(
        &mut self,
        gateway: &'a Object<Gateway>,
        unit: &Unit<'a>,
        index: usize,
        spec: &'a ListenerSpec,
    ) -> Draft<'a> {
        let field = format!("spec.listeners[{index}]");
        let name = unit.listener_name(&spec.name);
        // What is no host was refused when it was read.
        let host = hostname(&spec.hostname).unwrap_or(Host::Any);
        let (mut invalid, mut is_passthrough) = (None, false);
        let (protocol, natural, family): (_, &[&str], _) = match (&*spec.protocol, &spec.tls) {
            ("HTTP", _) => (Some(ListenerProtocol::Http), &["HTTPRoute", "GRPCRoute"], Family::Http),
            ("HTTPS", tls) => {
                let (termination, fault) = self.termination(gateway, unit, &field, spec, tls.as_ref());
                invalid = fault;
                (Some(ListenerProtocol::Https(termination)), &["HTTPRoute", "GRPCRoute"], Family::Tls)
            }
            ("TLS", Some(tls)) if tls.mode == TlsMode::Passthrough => {
                is_passthrough = true;
                (Some(ListenerProtocol::TlsPassthrough), &["TLSRoute"], Family::Tls)
            }
            ("TLS", tls) => {
                let (termination, fault) = self.termination(gateway, unit, &field, spec, tls.as_ref());
                invalid = fault;
                (Some(ListenerProtocol::Tls(termination)), &["TLSRoute"], Family::Tls)
            }
            ("TCP", _) => (Some(ListenerProtocol::Tcp), &["TCPRoute"], Family::Tcp),
            _ => (None, &[], Family::Tcp),
        };
        let mut unserved = None;
        if protocol.is_none() {
            let why = format!("protocol `{}` is not known; there are `HTTP`, `HTTPS`, `TLS` and `TCP`", spec.protocol);
            let message = format!("{why}; the listener is not served");
            self.warnings.push(unit.object.warn(&format!("{field}.protocol"), message));
            unserved = Some(why);
        }
        if let Some(why) = &invalid {
            let message = format!("{why}; connections to the listener are closed");
            self.warnings.push(unit.object.warn(&format!("{field}.tls"), message));
        }
        let allowed = &spec.allowed_routes;
        if let Some((place, why)) = allowed.namespaces.mistake() {
            let field = format!("{field}.allowedRoutes.namespaces.{place}");
            self.warnings.push(unit.object.warn(&field, why));
        }
        for (inner, kind) in allowed.kinds.iter().enumerate().filter(|_| protocol.is_some()) {
            if kind.group != GROUP || !natural.contains(&&*kind.kind) {
                let other = of_group(&kind.kind, &kind.group, GROUP);
                let natural = natural.join(", ");
                let why = format!("a listener of protocol {} takes no {other}: it takes {natural}", spec.protocol);
                self.warnings.push(unit.object.warn(&format!("{field}.allowedRoutes.kinds[{inner}]"), why));
            }
        }
        let listener = protocol.map(|protocol| Listener {
            name: name.clone(),
            addresses: Vec::new(),
            port: spec.port,
            host: host.clone(),
            protocol,
            optional: true,
            invalid,
        });
        let seen = ParentListener {
            name,
            family,
            is_passthrough,
            client: None,
            section: &spec.name,
            port: spec.port,
            host,
            namespaces: &allowed.namespaces,
            kinds: &allowed.kinds,
            natural,
            unserved,
        };
        Draft { seen, listener, field }
    }

    /// How a listener ends TLS, and why it cannot.
    fn termination(
        &mut self,
        gateway: &'a Object<Gateway>,
        unit: &Unit<'a>,
        field: &str,
        spec: &'a ListenerSpec,
        tls: Option<&'a ListenerTls>,
    ) -> (Termination, Option<String>) {
        let Some(tls) = tls else {
            return (Termination::default(), Some("the listener has no certificate: there is no `tls`".to_owned()));
        };
        let mut faults = Vec::new();
        let mut certificates = Vec::new();
        for (index, reference) in tls.certificate_refs.iter().enumerate() {
            match self.credentials.certificate(unit.referrer(), reference) {
                Ok(certificate) => certificates.push(certificate),
                Err(why) => faults.push((format!("{field}.tls.certificateRefs[{index}]"), why)),
            }
        }
        let without = certificates.is_empty().then(|| {
            let why: Vec<_> = faults.iter().map(|(_, why)| &**why).collect();
            format!("the listener has no certificate: {}", why.join("; "))
        });
        if without.is_none() {
            for (field, why) in faults {
                self.warnings.push(unit.object.warn(&field, why));
            }
        }
        let (client, refused) = match &tls.frontend_validation {
            Some(validation) => {
                self.validation(unit.object, unit.referrer(), &format!("{field}.tls.frontendValidation"), validation)
            }
            // The Gateway's own setting is about HTTPS.
            None if spec.protocol == "HTTPS" => match gateway.value.spec.validation(spec.port) {
                Some((field, validation)) => {
                    let from = Referrer { group: GROUP, kind: Gateway::KIND, namespace: &gateway.namespace };
                    self.validation(gateway, from, &field, validation)
                }
                None => (None, None),
            },
            None => (None, None),
        };
        (Termination { certificates, client, ..Termination::default() }, without.or(refused))
    }

    /// What is asked of clients' certificates, and why nothing can be.
    fn validation(
        &mut self,
        object: &dyn Warn,
        from: Referrer<'_>,
        field: &str,
        validation: &Validation,
    ) -> (Option<ClientValidation>, Option<String>) {
        let (mut roots, mut faults) = (Vec::new(), Vec::new());
        for (index, reference) in validation.ca_certificate_refs.iter().enumerate() {
            match self.credentials.authorities(from, reference) {
                Ok(mut authorities) => {
                    roots.append(&mut authorities);
                    roots.push(b'\n');
                }
                Err(why) => faults.push((format!("{field}.caCertificateRefs[{index}]"), why)),
            }
        }
        if roots.is_empty() {
            let why: Vec<_> = faults.iter().map(|(_, why)| &**why).collect();
            return (None, Some(format!("there is no authority for clients' certificates: {}", why.join("; "))));
        }
        for (field, why) in faults {
            self.warnings.push(object.warn(&field, why));
        }
        let mode = match validation.mode {
            ValidationMode::AllowValidOnly => ClientValidationMode::Required,
            ValidationMode::AllowInsecureFallback => ClientValidationMode::Unverified,
        };
        (Some(ClientValidation { roots: roots.into(), crls: None, trust: None, mode }), None)
    }

    /// Drops what cannot be told apart within a Gateway: what came before keeps its place, and of one object's own
    /// listeners none is the first.
    fn keep_distinct(&mut self, own: &mut Claims, unit: &Unit<'a>, drafts: &mut [Draft<'a>]) {
        let mut dropped = Vec::new();
        let mut left = Vec::new();
        for (index, draft) in drafts.iter().enumerate().filter(|(_, draft)| draft.listener.is_some()) {
            if own.is_free(None, &draft.claim()) { left.push(index) } else { dropped.push(index) }
        }
        let claims: Vec<_> = left.iter().filter_map(|index| Some(drafts.get(*index)?.claim())).collect();
        let mut reasons: Vec<(usize, String)> = Vec::new();
        for (index, is_indistinct) in std::iter::zip(&left, indistinct(&claims)) {
            if is_indistinct {
                let why =
                    "another listener of it has the same port, and they cannot be told apart by protocol and hostname";
                reasons.push((*index, why.to_owned()));
            }
        }
        for index in dropped {
            if let Some(draft) = drafts.get(index)
                && let Err(why) = own.take(None, &draft.claim(), "")
            {
                reasons.push((index, why));
            }
        }
        for (index, why) in reasons {
            if let Some(draft) = drafts.get_mut(index) {
                self.drop(unit, draft, why);
            }
        }
        for draft in drafts.iter().filter(|draft| draft.listener.is_some()) {
            // What is left is free.
            let _ = own.take(None, &draft.claim(), &draft.seen.name);
        }
    }

    /// Gives listeners their addresses, except where one of an older Gateway is.
    fn place(&mut self, addresses: &[IpAddr], unit: &Unit<'a>, drafts: &mut [Draft<'a>]) {
        for draft in drafts {
            if draft.listener.is_none() {
                continue;
            }
            let asked: Vec<_> =
                if addresses.is_empty() { vec![None] } else { addresses.iter().copied().map(Some).collect() };
            let (mut free, mut reasons) = (Vec::new(), Vec::new());
            for address in asked {
                match self.claims.take(address, &draft.claim(), &draft.seen.name) {
                    Ok(()) => free.push(address),
                    Err(why) => reasons.push(match address {
                        Some(address) => format!("{why} at {address}"),
                        None => why,
                    }),
                }
            }
            if free.is_empty() {
                self.drop(unit, draft, reasons.join("; "));
                continue;
            }
            if !reasons.is_empty() {
                let why = format!("{}; the listener is served at its other addresses", reasons.join("; "));
                self.warnings.push(unit.object.warn(&draft.field, why));
            }
            if let Some(listener) = &mut draft.listener {
                listener.addresses = free.into_iter().flatten().collect();
            }
        }
    }

    fn drop(&mut self, unit: &Unit<'a>, draft: &mut Draft<'a>, why: String) {
        self.warnings.push(unit.object.warn(&draft.field, format!("{why}; the listener is not served")));
        draft.listener = None;
        draft.seen.unserved = Some(why);
    }

    fn unserved(&mut self, unit: &Unit<'a>, why: &str) {
        self.add(unit, Vec::new(), Some(why.to_owned()));
    }

    fn add(&mut self, unit: &Unit<'a>, listeners: Vec<ParentListener<'a>>, unserved: Option<String>) {
        let parent = Parent { namespace: unit.namespace, label: unit.label.clone(), listeners, unserved };
        let of_kind = self.parents.all.entry(unit.kind).or_default();
        of_kind.entry(unit.namespace).or_default().insert(unit.name, parent);
    }
}

impl Draft<'_> {
    fn claim(&self) -> Claim<'_> {
        Claim { port: self.seen.port, family: self.seen.family, host: &self.seen.host }
    }
}

impl<'a> Unit<'a> {
    fn of_gateway(object: &'a Object<Gateway>) -> Self {
        Self::new(ParentKind::Gateway, object, &object.value.spec.listeners)
    }

    fn new<T: Kind>(kind: ParentKind, object: &'a Object<T>, listeners: &'a [ListenerSpec]) -> Self {
        let Object { namespace, name, created, .. } = object;
        Self { kind, namespace, name, label: object.label(), listeners, created: *created, object }
    }

    /// The Gateway that a ListenerSet is for, if that one lets it.
    fn gateway(
        &self,
        objects: &'a Objects,
        spec: &'a ListenerSetSpec,
    ) -> Result<(&'a str, &'a str), (&'static str, String)> {
        let parent = &spec.parent_ref;
        if parent.group != GROUP || parent.kind != Gateway::KIND {
            let why = format!("`{}` of group `{}` is no Gateway", parent.kind, parent.group);
            return Err(("spec.parentRef", why));
        }
        let namespace = parent.namespace.as_deref().unwrap_or(self.namespace);
        let Some(gateway) = objects.gateways.get(namespace, &parent.name) else {
            return Err(("spec.parentRef", format!("there is no Gateway {namespace}/{}", parent.name)));
        };
        let allowed = gateway.value.spec.allowed_listeners.as_ref();
        let is_allowed = allowed.is_some_and(|allowed| {
            allowed.namespaces.admits(From::None, &gateway.namespace, self.namespace, &objects.namespaces)
        });
        if !is_allowed {
            let why = format!(
                "Gateway {namespace}/{} admits no ListenerSet of namespace {} by its `spec.allowedListeners`",
                parent.name, self.namespace
            );
            return Err(("spec.parentRef", why));
        }
        Ok((&gateway.namespace, &gateway.name))
    }

    /// Those of ListenerSets have one part more than those of Gateways, so that they are never the same.
    fn listener_name(&self, section: &str) -> String {
        let Self { namespace, name, .. } = self;
        match self.kind {
            ParentKind::Gateway => format!("{namespace}/{name}/{section}"),
            ParentKind::ListenerSet => format!("listenerset/{namespace}/{name}/{section}"),
            ParentKind::XListenerSet => format!("xlistenerset/{namespace}/{name}/{section}"),
        }
    }

    fn referrer(&self) -> Referrer<'a> {
        let (group, kind) = match self.kind {
            ParentKind::Gateway => (GROUP, "Gateway"),
            ParentKind::ListenerSet => (GROUP, "ListenerSet"),
            ParentKind::XListenerSet => (EXPERIMENTAL_GROUP, "XListenerSet"),
        };
        Referrer { group, kind, namespace: self.namespace }
    }
}
