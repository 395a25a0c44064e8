//! Services and their slices as upstreams.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
};

use super::{
    gateway_api::{BackendClient, Policies},
    object::{Object, Objects},
    service::{EndpointSlice, SERVICE_NAME, Service, ServicePort},
};
use crate::{
    config::{BackendRef, Endpoints, Protocol, Upstream, UpstreamTls},
    source::error::Warning,
};

/// Makes an upstream of each Service port that something refers to: several where it is spoken to in several ways.
///
/// An upstream is called `namespace/service:port`. Where those who refer to a port ask for something else than the port's own
/// way, their upstream has a name of its own: `+grpc` behind it is HTTP/2 for a GRPCRoute, `+plaintext` without the TLS that
/// the port has for others, and `@` with a Gateway's name is with the certificate that this Gateway shows.
pub(super) struct Backends<'a> {
    objects: &'a Objects,
    policies: Policies<'a>,
    /// By namespace and Service.
    slices: HashMap<(&'a str, &'a str), Vec<&'a Object<EndpointSlice>>>,
    upstreams: BTreeMap<String, Upstream>,
    /// Ports whose protocol was warned of, by namespace, Service and index: they may be spoken to in several ways.
    warned: HashSet<(&'a str, &'a str, usize)>,
    pub(super) warnings: Vec<Warning>,
}

/// What is spoken to a backend, as far as it is not the Service that says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// What an Ingress sends: `appProtocol` turns TLS on, too.
    Ingress,
    /// What an HTTPRoute sends.
    Http,
    /// What a GRPCRoute sends: HTTP/2 always.
    Grpc,
    /// Streams whose TLS is ended here.
    Stream,
    /// Streams that are passed on as they are, with their own TLS.
    Opaque,
}

/// A port of a Service.
#[derive(Debug, Clone, Copy)]
pub(super) enum Port<'a> {
    Name(&'a str),
    Number(u16),
}

impl<'a> Backends<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        let mut warnings = Vec::new();
        for slice in objects.slices.iter() {
            let Some(service) = slice.metadata.labels.get(SERVICE_NAME) else {
                let why = format!("belongs to no Service without the label `{SERVICE_NAME}`, and is left out");
                warnings.push(slice.warning("metadata.labels", why));
                continue;
            };
            if slice.value.is_ip() {
                slices.entry((&*slice.namespace, &**service)).or_default().push(slice);
            } else {
                let why = "addresses of type FQDN are not used, and the slice is left out".to_owned();
                warnings.push(slice.warning("addressType", why));
            }
        }
        let policies = Policies::new(objects, &mut warnings);
        Self { objects, policies, slices, upstreams: BTreeMap::new(), warned: HashSet::new(), warnings }
    }

    /// The backend for a port of a Service: `namespace/service:port`, with the port's number as far as it is known. If the
    /// Service or the port is not there, a backend of that name that answers 500.
    pub(super) fn resolve(
        &mut self,
        namespace: &str,
        service: &str,
        port: Port<'_>,
        speaks: Speaks,
        client: Option<&BackendClient>,
    ) -> BackendRef {
        let found = match self.find(namespace, service, port, speaks, client) {
            Ok(found) => found,
            Err(invalid) => return invalid,
        };
        if !self.upstreams.contains_key(&found.name) {
            if let Some(declared) = found.declared {
                self.warn_of_protocol(found.service, declared);
            }
            self.upstreams.insert(found.name.clone(), self.upstream(&found));
        }
        BackendRef::new(found.name)
    }

    /// The same for a port that nothing may refer to: with its upstream, if nothing has so far.
    pub(super) fn look_up(
        &self,
        namespace: &str,
        service: &str,
        port: Port<'_>,
        speaks: Speaks,
    ) -> (BackendRef, Option<Upstream>) {
        match self.find(namespace, service, port, speaks, None) {
            Ok(found) => {
                let upstream = (!self.upstreams.contains_key(&found.name)).then(|| self.upstream(&found));
                (BackendRef::new(found.name), upstream)
            }
            Err(invalid) => (invalid, None),
        }
    }

    /// What a reference leads to; or the backend that says why it leads nowhere.
    fn find(
        &self,
        namespace: &str,
        service: &str,
        port: Port<'_>,
        speaks: Speaks,
        client: Option<&BackendClient>,
    ) -> Result<Found<'a>, BackendRef> {
        let unresolved = |why: String| match port {
            Port::Name(name) => BackendRef::invalid(format!("{namespace}/{service}:{name}"), why),
            Port::Number(number) => BackendRef::invalid(format!("{namespace}/{service}:{number}"), why),
        };
        let object = self.objects.services.get(namespace, service);
        let object = object.ok_or_else(|| unresolved(format!("there is no Service {namespace}/{service}")))?;
        let declared = object.value.spec.ports.iter().find(|declared| {
            declared.protocol == "TCP"
                && match port {
                    Port::Name(name) => declared.name == name,
                    Port::Number(number) => declared.port == number,
                }
        });
        let number = match (object.value.external_name(), declared, port) {
            // Such a Service needs no ports.
            (Some(_), None, Port::Number(number)) => number,
            (_, Some(declared), _) => declared.port,
            (_, None, _) => {
                let ports: Vec<_> = object.value.spec.ports.iter().map(describe).collect();
                let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
                let port = match port {
                    Port::Name(name) => format!("`{name}`"),
                    Port::Number(number) => number.to_string(),
                };
                let why = format!("Service {namespace}/{service} has no TCP port {port}; it has {ports}");
                return Err(unresolved(why));
            }
        };
        let mut name = format!("{namespace}/{service}:{number}");
        let way = match self.way(object, declared, speaks, client) {
            Ok(way) => way,
            Err(why) => return Err(BackendRef::invalid(name, why)),
        };
        name.push_str(way.suffix);
        if let Some(client) = client.filter(|_| way.tls.is_some()) {
            name.push('@');
            name.push_str(&client.gateway);
        }
        Ok(Found { service: object, declared, number, way, name })
    }

    fn upstream(&self, found: &Found<'_>) -> Upstream {
        let Found { service, declared, number, way, name } = found;
        let endpoints = match (service.value.external_name(), declared) {
            (Some(host), _) => external(host, *number),
            (None, Some(declared)) => {
                Endpoints::fixed(self.addresses(&service.namespace, &service.name, &declared.name))
            }
            (None, None) => Endpoints::Static(Vec::new()),
        };
        Upstream { protocol: way.protocol, tls: way.tls.clone(), ..Upstream::new(name.clone(), endpoints) }
    }

    /// The upstreams of all backends that were resolved, by name.
    pub(super) fn finish(self) -> (Vec<Upstream>, Vec<Warning>) {
        (self.upstreams.into_values().collect(), self.warnings)
    }

    /// Every ready address in the Service's slices, with the number of the slice's port of that name. If none is ready,
    /// those that are terminating and still serve (KEP-1669).
    fn addresses(&self, namespace: &str, service: &str, port: &str) -> BTreeSet<SocketAddr> {
        let (mut ready, mut terminating) = (BTreeSet::new(), BTreeSet::new());
        for slice in self.slices.get(&(namespace, service)).map(Vec::as_slice).unwrap_or_default() {
            let slice = &slice.value;
            let named = slice.ports.iter().find(|declared| declared.name == port && declared.protocol == "TCP");
            let Some(number) = named.and_then(|declared| declared.port) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let Some(address) = endpoint.address() else {
                    continue;
                };
                if endpoint.conditions.is_ready() {
                    ready.insert(SocketAddr::new(address, number));
                } else if endpoint.conditions.is_terminating_but_serving() {
                    terminating.insert(SocketAddr::new(address, number));
                }
            }
        }
        if ready.is_empty() { terminating } else { ready }
    }

    /// How a port is spoken to. An error says why it must not be.
    fn way(
        &self,
        service: &Object<Service>,
        port: Option<&ServicePort>,
        speaks: Speaks,
        client: Option<&BackendClient>,
    ) -> Result<Way, String> {
        let app_protocol = AppProtocol::of(port);
        let protocol = match app_protocol {
            AppProtocol::Http2 => Protocol::Http2,
            AppProtocol::WebSocket | AppProtocol::SecureWebSocket => Protocol::Http1,
            _ => Protocol::Auto,
        };
        // What an Ingress finds there by `appProtocol` alone, as there was nothing else before there were policies.
        let own_tls = matches!(app_protocol, AppProtocol::Https | AppProtocol::SecureWebSocket).then(|| {
            let server_name = match service.value.external_name() {
                Some(host) => host.to_owned(),
                None => format!("{}.{}.svc", service.name, service.namespace),
            };
            UpstreamTls { server_name: Some(server_name), ..UpstreamTls::default() }
        });
        let port_name = port.map(|port| &*port.name).unwrap_or_default();
        let policy = self.policies.find(&service.namespace, &service.name, port_name);
        if speaks == Speaks::Opaque {
            let suffix = if policy.is_some() || own_tls.is_some() { PLAINTEXT } else { "" };
            return Ok(Way { protocol, tls: None, suffix });
        }
        let (mut tls, suffix) = match (policy.transpose()?, own_tls, speaks) {
            (Some(policy), ..) => (Some(policy), ""),
            (None, own, Speaks::Ingress) => (own, ""),
            (None, Some(_), _) => (None, PLAINTEXT),
            (None, None, _) => (None, ""),
        };
        if let (Some(tls), Some(client)) = (&mut tls, client) {
            tls.client_auth = Some(client.auth.clone());
        }
        Ok(match speaks {
            Speaks::Grpc if protocol != Protocol::Http2 => {
                let suffix = if suffix.is_empty() { "+grpc" } else { "+grpc+plaintext" };
                Way { protocol: Protocol::Http2, tls, suffix }
            }
            _ => Way { protocol, tls, suffix },
        })
    }

    fn warn_of_protocol(&mut self, service: &'a Object<Service>, port: &ServicePort) {
        if AppProtocol::of(Some(port)) == AppProtocol::Unknown {
            let index = service.value.spec.ports.iter().position(|one| std::ptr::eq(one, port)).unwrap_or_default();
            if self.warned.insert((&service.namespace, &service.name, index)) {
                let why = format!("`{}` is not known; the port is taken to speak HTTP/1.1", port.app_protocol);
                self.warnings.push(service.warning(&format!("spec.ports[{index}].appProtocol"), why));
            }
        }
    }
}

/// A port of a Service, and how it is spoken to.
struct Found<'a> {
    service: &'a Object<Service>,
    declared: Option<&'a ServicePort>,
    number: u16,
    way: Way,
    /// That of the upstream.
    name: String,
}

/// How an upstream is spoken to, and what its name has behind it for that.
struct Way {
    protocol: Protocol,
    tls: Option<UpstreamTls>,
    suffix: &'static str,
}

const PLAINTEXT: &str = "+plaintext";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AppProtocol {
    Http,
    Http2,
    WebSocket,
    SecureWebSocket,
    Https,
    Unknown,
}

impl AppProtocol {
    fn of(port: Option<&ServicePort>) -> Self {
        match port.map(|port| &*port.app_protocol) {
            None | Some("" | "http") => Self::Http,
            Some("kubernetes.io/h2c" | "grpc") => Self::Http2,
            Some("kubernetes.io/ws") => Self::WebSocket,
            Some("kubernetes.io/wss") => Self::SecureWebSocket,
            Some("https") => Self::Https,
            Some(_) => Self::Unknown,
        }
    }
}

fn external(host: &str, port: u16) -> Endpoints {
    Endpoints::Dns { host: host.to_owned(), port, refresh: std::time::Duration::from_secs(5) }
}

fn describe(port: &ServicePort) -> String {
    let ServicePort { name, port, protocol, .. } = port;
    if name.is_empty() { format!("{port} ({protocol})") } else { format!("`{name}` {port} ({protocol})") }
}
