//! `Ingress` and `IngressClass`.

use serde::Deserialize;

use super::object::Kind;
use crate::{config::Host, source::error::Fault};

/// networking.k8s.io/v1 Ingress.
#[derive(Deserialize)]
pub(super) struct Ingress {
    #[serde(default)]
    pub(super) spec: IngressSpec,
}

/// networking.k8s.io/v1 IngressClass. That it is there is all that counts.
#[derive(Deserialize)]
pub(super) struct IngressClass {}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct IngressSpec {
    pub(super) ingress_class_name: Option<String>,
    pub(super) default_backend: Option<IngressBackend>,
    pub(super) tls: Vec<IngressTls>,
    pub(super) rules: Vec<IngressRule>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct IngressTls {
    pub(super) hosts: Vec<String>,
    pub(super) secret_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct IngressRule {
    pub(super) host: String,
    pub(super) http: Option<HttpRule>,
}

#[derive(Deserialize)]
pub(super) struct HttpRule {
    pub(super) paths: Vec<HttpPath>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HttpPath {
    #[serde(default)]
    pub(super) path: String,
    pub(super) path_type: String,
    pub(super) backend: IngressBackend,
}

#[derive(Deserialize)]
pub(super) struct IngressBackend {
    pub(super) service: Option<ServiceBackend>,
    pub(super) resource: Option<ResourceBackend>,
}

#[derive(Deserialize)]
pub(super) struct ServiceBackend {
    pub(super) name: String,
    #[serde(default)]
    pub(super) port: ServicePortRef,
}

/// A port of a Service, by name or number.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ServicePortRef {
    pub(super) name: String,
    pub(super) number: u16,
}

/// A reference to an object of another kind.
#[derive(Deserialize)]
pub(super) struct ResourceBackend {
    pub(super) kind: String,
    pub(super) name: String,
}

/// Reads a host of an Ingress: a wildcard stands for exactly one label, an address is none.
pub(super) fn host(text: &str) -> Result<Host, Fault> {
    let hint = "an Ingress takes a DNS name, or `*.` and a DNS name";
    match text.parse() {
        Ok(Host::Wildcard(suffix)) => Ok(Host::OneLabelWildcard(suffix)),
        Ok(Host::Any) => Err(Fault::Host(format!("`{text}` is not a host here: leave the field out to mean any host"))),
        Ok(Host::Exact(name)) if name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok() => {
            Err(Fault::Host(format!("`{text}` is an address: {hint}; leave the field out to mean any host")))
        }
        Ok(host) => Ok(host),
        Err(_) => Err(Fault::Host(format!("`{text}` is not a host: {hint}; without a port"))),
    }
}

impl Kind for Ingress {
    const API_VERSIONS: &'static [&'static str] = &["networking.k8s.io/v1"];
    const KIND: &'static str = "Ingress";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        let Self { spec } = self;
        if spec.rules.is_empty() && spec.default_backend.is_none() {
            found("spec".to_owned(), Fault::Backend("has neither `rules` nor a `defaultBackend`: give it one of them"));
        }
        if let Some(backend) = &spec.default_backend {
            backend.check("spec.defaultBackend", found);
        }
        for (index, tls) in spec.tls.iter().enumerate() {
            for (inner, text) in tls.hosts.iter().enumerate() {
                if let Err(fault) = host(text) {
                    found(format!("spec.tls[{index}].hosts[{inner}]"), fault);
                }
            }
        }
        for (index, rule) in spec.rules.iter().enumerate() {
            if !rule.host.is_empty()
                && let Err(fault) = host(&rule.host)
            {
                found(format!("spec.rules[{index}].host"), fault);
            }
            let Some(http) = &rule.http else {
                continue;
            };
            if http.paths.is_empty() {
                found(format!("spec.rules[{index}].http.paths"), Fault::Missing);
            }
            for (inner, path) in http.paths.iter().enumerate() {
                path.check(&format!("spec.rules[{index}].http.paths[{inner}]"), found);
            }
        }
    }
}

impl Kind for IngressClass {
    const API_VERSIONS: &'static [&'static str] = &["networking.k8s.io/v1"];
    const KIND: &'static str = "IngressClass";
    const NAMESPACED: bool = false;

    fn check(&self, _: &mut dyn FnMut(String, Fault)) {}
}

impl HttpPath {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        let why = match &*self.path_type {
            "Exact" | "Prefix" => unmatchable(&self.path),
            // The rest of the form is the implementation's business, by the name of the thing.
            "ImplementationSpecific" => (!self.path.is_empty() && !self.path.starts_with('/')).then_some(NOT_ABSOLUTE),
            _ => {
                found(format!("{field}.pathType"), Fault::PathType(self.path_type.clone()));
                None
            }
        };
        if let Some(why) = why {
            found(format!("{field}.path"), Fault::Path { path: self.path.clone(), why });
        }
        self.backend.check(&format!("{field}.backend"), found);
    }
}

const NOT_ABSOLUTE: &str = "it must start with `/`";

/// Why the API server refuses a path.
fn unmatchable(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some(NOT_ABSOLUTE);
    }
    let lower = path.to_ascii_lowercase();
    let dots = ["/./", "/../"].iter().any(|part| path.contains(part)) || path.ends_with("/.") || path.ends_with("/..");
    if path.contains("//") {
        Some("it must not have `//`")
    } else if dots {
        Some("it must not have `.` or `..` as an element")
    } else if lower.contains("%2f") {
        Some("it must not have an encoded `/`")
    } else {
        None
    }
}

impl IngressBackend {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        let fault = match (&self.service, &self.resource) {
            (Some(_), Some(_)) => "names a `service` and a `resource`: leave one of them out",
            (None, None) => "names no `service`: write its name and port",
            (None, Some(_)) => return,
            (Some(service), None) => match (service.port.name.is_empty(), service.port.number) {
                (true, 0) => {
                    let why = "names neither `name` nor `number` (1 to 65535) of the Service's port: write one of them";
                    return found(format!("{field}.service.port"), Fault::Backend(why));
                }
                (false, 1..) => {
                    let why = "names the Service's port by `name` and by `number`: leave one of them out";
                    return found(format!("{field}.service.port"), Fault::Backend(why));
                }
                _ if service.name.is_empty() => return found(format!("{field}.service.name"), Fault::Missing),
                _ => return,
            },
        };
        found(field.to_owned(), Fault::Backend(fault));
    }
}
