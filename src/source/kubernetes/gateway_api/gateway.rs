//! `Gateway`, and the listeners that it shares with `ListenerSet`.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use serde::{Deserialize, de::IgnoredAny};

use super::{
    namespace::NamespaceRule,
    references::{GROUP, ObjectReference, SecretObjectReference, hostname, port_zero},
};
use crate::source::{error::Fault, kubernetes::object::Kind};

/// gateway.networking.k8s.io Gateway.
#[derive(Deserialize)]
pub(crate) struct Gateway {
    pub(crate) spec: GatewaySpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewaySpec {
    pub(crate) gateway_class_name: String,
    pub(crate) listeners: Vec<ListenerSpec>,
    #[serde(default)]
    pub(crate) addresses: Vec<GatewayAddress>,
    pub(crate) allowed_listeners: Option<AllowedListeners>,
    #[serde(default)]
    pub(crate) tls: GatewayTls,
    /// Where the client certificate stood before `tls.backend`.
    #[serde(default, rename = "backendTLS")]
    pub(crate) backend_tls: GatewayBackendTls,
}

#[derive(Deserialize)]
pub(crate) struct GatewayAddress {
    #[serde(default = "ip_address", rename = "type")]
    pub(crate) kind: String,
    /// Empty: whichever the implementation likes.
    #[serde(default)]
    pub(crate) value: String,
}

#[derive(Deserialize)]
pub(crate) struct AllowedListeners {
    #[serde(default)]
    pub(crate) namespaces: NamespaceRule,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct GatewayTls {
    pub(crate) frontend: Option<FrontendTls>,
    pub(crate) backend: GatewayBackendTls,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct GatewayBackendTls {
    pub(crate) client_certificate_ref: Option<SecretObjectReference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FrontendTls {
    #[serde(default)]
    pub(crate) default: FrontendTlsConfig,
    #[serde(default)]
    pub(crate) per_port: Vec<PortTls>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct FrontendTlsConfig {
    pub(crate) validation: Option<Validation>,
}

#[derive(Deserialize)]
pub(crate) struct PortTls {
    pub(crate) port: u16,
    pub(crate) tls: FrontendTlsConfig,
}

/// What is asked of clients' certificates.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Validation {
    pub(crate) ca_certificate_refs: Vec<ObjectReference>,
    #[serde(default)]
    pub(crate) mode: ValidationMode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum ValidationMode {
    #[default]
    AllowValidOnly,
    AllowInsecureFallback,
}

/// A listener of a Gateway or a ListenerSet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerSpec {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) hostname: String,
    pub(crate) port: u16,
    pub(crate) protocol: String,
    pub(crate) tls: Option<ListenerTls>,
    #[serde(default)]
    pub(crate) allowed_routes: AllowedRoutes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerTls {
    #[serde(default)]
    pub(crate) mode: TlsMode,
    #[serde(default)]
    pub(crate) certificate_refs: Vec<SecretObjectReference>,
    /// Where client certificates were asked for before the Gateway's `tls.frontend`.
    pub(crate) frontend_validation: Option<Validation>,
    #[serde(default)]
    options: BTreeMap<String, IgnoredAny>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum TlsMode {
    #[default]
    Terminate,
    Passthrough,
}

/// Which routes may attach.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AllowedRoutes {
    pub(crate) namespaces: NamespaceRule,
    /// None: those that the protocol takes.
    pub(crate) kinds: Vec<RouteKind>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RouteKind {
    #[serde(default = "own_group")]
    pub(crate) group: String,
    pub(crate) kind: String,
}

/// The type of addresses that can be bound.
pub(crate) const IP_ADDRESS: &str = "IPAddress";

impl GatewaySpec {
    /// The certificate it shows to backends, and where that is written.
    pub(crate) fn client_certificate(&self) -> Option<(&'static str, &SecretObjectReference)> {
        let places = [
            ("spec.tls.backend.clientCertificateRef", &self.tls.backend),
            ("spec.backendTLS.clientCertificateRef", &self.backend_tls),
        ];
        places.into_iter().find_map(|(field, tls)| Some((field, tls.client_certificate_ref.as_ref()?)))
    }

    /// What it asks of the clients that come in at a port over HTTPS, and where that is written.
    pub(crate) fn validation(&self, port: u16) -> Option<(String, &Validation)> {
        let frontend = self.tls.frontend.as_ref()?;
        let (field, tls) = match frontend.per_port.iter().position(|one| one.port == port) {
            Some(index) => (format!("spec.tls.frontend.perPort[{index}].tls"), &frontend.per_port.get(index)?.tls),
            None => ("spec.tls.frontend.default".to_owned(), &frontend.default),
        };
        Some((format!("{field}.validation"), tls.validation.as_ref()?))
    }
}

impl Kind for Gateway {
    const API_VERSIONS: &'static [&'static str] =
        &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    const KIND: &'static str = "Gateway";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        let Self { spec } = self;
        if spec.gateway_class_name.is_empty() {
            found("spec.gatewayClassName".to_owned(), Fault::Missing);
        }
        check_listeners(&spec.listeners, found);
        let mut seen = HashSet::new();
        for (index, address) in spec.addresses.iter().enumerate() {
            let field = format!("spec.addresses[{index}].value");
            if address.value.is_empty() {
                continue;
            }
            if address.kind == IP_ADDRESS && address.value.parse::<IpAddr>().is_err() {
                let why =
                    format!("`{}` is not an IP address: write one as in `192.0.2.1` or `2001:db8::1`", address.value);
                found(field.clone(), Fault::Invalid(why));
            }
            if !seen.insert((&*address.kind, &*address.value)) {
                found(field, Fault::Invalid("is there twice: remove one of them".to_owned()));
            }
        }
        if let Some(reference) = &spec.tls.backend.client_certificate_ref {
            reference.check("spec.tls.backend.clientCertificateRef", found);
        }
        let Some(frontend) = &spec.tls.frontend else {
            return;
        };
        if let Some(validation) = &frontend.default.validation {
            validation.check("spec.tls.frontend.default.validation", found);
        }
        let mut ports = HashSet::new();
        for (index, one) in frontend.per_port.iter().enumerate() {
            let field = format!("spec.tls.frontend.perPort[{index}]");
            if one.port == 0 {
                found(format!("{field}.port"), port_zero());
            } else if !ports.insert(one.port) {
                let why = format!("port {} is there twice: remove one of them", one.port);
                found(format!("{field}.port"), Fault::Invalid(why));
            }
            if let Some(validation) = &one.tls.validation {
                validation.check(&format!("{field}.tls.validation"), found);
            }
        }
    }
}

/// What the API server refuses of the listeners of a Gateway or a ListenerSet.
pub(crate) fn check_listeners(listeners: &[ListenerSpec], found: &mut dyn FnMut(String, Fault)) {
    if listeners.is_empty() {
        found("spec.listeners".to_owned(), Fault::Missing);
    }
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    for (index, listener) in listeners.iter().enumerate() {
        let field = format!("spec.listeners[{index}]");
        listener.check(&field, found);
        if listener.name.is_empty() {
            found(format!("{field}.name"), Fault::Missing);
        } else if !names.insert(&*listener.name) {
            let why = format!("`{}` is the name of another listener: give each its own", listener.name);
            found(format!("{field}.name"), Fault::Invalid(why));
        }
        if !places.insert((listener.port, &*listener.protocol, &*listener.hostname)) {
            let why = "another listener has the same port, protocol and hostname: change one of them, or remove it";
            found(field, Fault::Invalid(why.to_owned()));
        }
    }
}

impl ListenerSpec {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        let invalid = |why: &str| Fault::Invalid(why.to_owned());
        if self.port == 0 {
            found(format!("{field}.port"), port_zero());
        }
        if self.protocol.is_empty() {
            found(format!("{field}.protocol"), Fault::Missing);
        }
        if !self.hostname.is_empty() {
            if matches!(&*self.protocol, "TCP" | "UDP") {
                let why = format!("a listener of protocol {} knows no hosts: leave it out", self.protocol);
                found(format!("{field}.hostname"), Fault::Invalid(why));
            } else if let Err(fault) = hostname(&self.hostname) {
                found(format!("{field}.hostname"), fault);
            }
        }
        match (&*self.protocol, &self.tls) {
            ("HTTP" | "TCP" | "UDP", Some(_)) => {
                let why = format!("a listener of protocol {} takes no `tls`: leave it out", self.protocol);
                found(format!("{field}.tls"), Fault::Invalid(why));
            }
            ("HTTPS", Some(tls)) if tls.mode == TlsMode::Passthrough => {
                let why = "HTTPS is ended here: write `Terminate`, or make TLS the listener's protocol";
                found(format!("{field}.tls.mode"), invalid(why));
            }
            ("TLS", None) => found(format!("{field}.tls"), Fault::Missing),
            (_, Some(tls)) => tls.check(&format!("{field}.tls"), found),
            _ => {}
        }
        self.allowed_routes.namespaces.check_for_routes(&format!("{field}.allowedRoutes.namespaces"), found);
    }
}

impl ListenerTls {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        if self.mode == TlsMode::Terminate && self.certificate_refs.is_empty() && self.options.is_empty() {
            found(format!("{field}.certificateRefs"), Fault::Missing);
        }
        for (index, reference) in self.certificate_refs.iter().enumerate() {
            reference.check(&format!("{field}.certificateRefs[{index}]"), found);
        }
        if let Some(validation) = &self.frontend_validation {
            validation.check(&format!("{field}.frontendValidation"), found);
        }
    }
}

impl Validation {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        if self.ca_certificate_refs.is_empty() {
            found(format!("{field}.caCertificateRefs"), Fault::Missing);
        }
        for (index, reference) in self.ca_certificate_refs.iter().enumerate() {
            reference.check(&format!("{field}.caCertificateRefs[{index}]"), found);
        }
    }
}

fn ip_address() -> String {
    IP_ADDRESS.to_owned()
}

fn own_group() -> String {
    GROUP.to_owned()
}
