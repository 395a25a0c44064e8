//! Services and their slices as upstreams.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use super::{
    object::{Object, Objects},
    service::{EndpointSlice, SERVICE_NAME, Service, ServicePort},
};
use crate::{
    config::{BackendRef, Endpoints, Protocol, Upstream, UpstreamTls},
    source::error::Warning,
};

/// Makes an upstream of each Service port that something refers to.
pub(super) struct Backends<'a> {
    objects: &'a Objects,
    /// By namespace and Service.
    slices: HashMap<(&'a str, &'a str), Vec<&'a Object<EndpointSlice>>>,
    upstreams: BTreeMap<String, Upstream>,
    pub(super) warnings: Vec<Warning>,
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
        Self { objects, slices, upstreams: BTreeMap::new(), warnings }
    }

    /// The backend for a port of a Service: `namespace/service:port`, with the port's number as far as it is known. If the
    /// Service or the port is not there, a backend of that name that answers 500.
    pub(super) fn resolve(&mut self, namespace: &str, service: &str, port: Port<'_>) -> BackendRef {
        let unresolved = |why: String| match port {
            Port::Name(name) => BackendRef::invalid(format!("{namespace}/{service}:{name}"), why),
            Port::Number(number) => BackendRef::invalid(format!("{namespace}/{service}:{number}"), why),
        };
        let Some(object) = self.objects.services.get(namespace, service) else {
            return unresolved(format!("there is no Service {namespace}/{service}"));
        };
        let declared = object.value.spec.ports.iter().find(|declared| {
            declared.protocol == "TCP"
                && match port {
                    Port::Name(name) => declared.name == name,
                    Port::Number(number) => declared.port == number,
                }
        });
        let (number, endpoints) = match (object.value.external_name(), declared, port) {
            // Such a Service needs no ports.
            (Some(host), None, Port::Number(number)) => (number, external(host, number)),
            (Some(host), Some(declared), _) => (declared.port, external(host, declared.port)),
            (None, Some(declared), _) => (declared.port, Endpoints::Static(Vec::new())),
            (_, None, _) => {
                let ports: Vec<_> = object.value.spec.ports.iter().map(describe).collect();
                let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
                let port = match port {
                    Port::Name(name) => format!("`{name}`"),
                    Port::Number(number) => number.to_string(),
                };
                return unresolved(format!("Service {namespace}/{service} has no TCP port {port}; it has {ports}"));
            }
        };
        let name = format!("{namespace}/{service}:{number}");
        if !self.upstreams.contains_key(&name) {
            let endpoints = match (endpoints, declared) {
                (Endpoints::Static(_), Some(declared)) => {
                    Endpoints::fixed(self.addresses(namespace, service, &declared.name))
                }
                (endpoints, _) => endpoints,
            };
            let upstream = Upstream::new(name.clone(), endpoints);
            let upstream = match declared {
                Some(declared) => self.speak(object, declared, upstream),
                None => upstream,
            };
            self.upstreams.insert(name.clone(), upstream);
        }
        BackendRef::new(name)
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

    /// Sets what `appProtocol` asks for.
    fn speak(&mut self, service: &Object<Service>, port: &ServicePort, mut upstream: Upstream) -> Upstream {
        let tls = || {
            let server_name = match service.value.external_name() {
                Some(host) => host.to_owned(),
                None => format!("{}.{}.svc", service.name, service.namespace),
            };
            Some(UpstreamTls { server_name: Some(server_name), ..UpstreamTls::default() })
        };
        match &*port.app_protocol {
            "" | "http" => {}
            "kubernetes.io/h2c" | "grpc" => upstream.protocol = Protocol::Http2,
            "kubernetes.io/ws" => upstream.protocol = Protocol::Http1,
            "kubernetes.io/wss" => {
                upstream.protocol = Protocol::Http1;
                upstream.tls = tls();
            }
            "https" => upstream.tls = tls(),
            other => {
                let index = service.value.spec.ports.iter().position(|one| std::ptr::eq(one, port)).unwrap_or_default();
                let why = format!("`{other}` is not known; the port is taken to speak HTTP/1.1 without TLS");
                self.warnings.push(service.warning(&format!("spec.ports[{index}].appProtocol"), why));
            }
        }
        upstream
    }
}

fn external(host: &str, port: u16) -> Endpoints {
    Endpoints::Dns { host: host.to_owned(), port, refresh: std::time::Duration::from_secs(5) }
}

fn describe(port: &ServicePort) -> String {
    let ServicePort { name, port, protocol, .. } = port;
    if name.is_empty() { format!("{port} ({protocol})") } else { format!("`{name}` {port} ({protocol})") }
}
