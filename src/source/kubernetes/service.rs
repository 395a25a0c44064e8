//! `Service` and `EndpointSlice`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use super::object::Kind;
use crate::{config::Host, source::error::Fault};

/// v1 Service.
#[derive(Deserialize)]
pub(super) struct Service {
    #[serde(default)]
    pub(super) spec: ServiceSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) external_name: String,
    pub(super) ports: Vec<ServicePort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePort {
    #[serde(default)]
    pub(super) name: String,
    pub(super) port: u16,
    #[serde(default = "tcp")]
    pub(super) protocol: String,
    #[serde(default)]
    pub(super) app_protocol: String,
}

/// discovery.k8s.io/v1 EndpointSlice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    pub(super) address_type: String,
    #[serde(default)]
    pub(super) endpoints: Vec<SliceEndpoint>,
    #[serde(default)]
    pub(super) ports: Vec<SlicePort>,
}

#[derive(Deserialize)]
pub(super) struct SliceEndpoint {
    pub(super) addresses: Vec<String>,
    #[serde(default)]
    pub(super) conditions: Conditions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct SlicePort {
    #[serde(default)]
    pub(super) name: String,
    /// Without a number it means every port, which a Service never does.
    pub(super) port: Option<u16>,
    #[serde(default = "tcp")]
    pub(super) protocol: String,
}

/// The label by which a slice belongs to a Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

const EXTERNAL_NAME: &str = "ExternalName";

impl Service {
    /// The name it stands for, where it is one outside of the cluster.
    pub(super) fn external_name(&self) -> Option<&str> {
        (self.spec.kind == EXTERNAL_NAME).then_some(self.spec.external_name.trim_end_matches('.'))
    }
}

impl Conditions {
    /// Not said means yes.
    pub(super) fn is_ready(&self) -> bool {
        self.ready != Some(false)
    }

    /// On its way out, and still answering. Not said means that it does, as kube-proxy reads it.
    pub(super) fn is_terminating_but_serving(&self) -> bool {
        self.terminating == Some(true) && self.serving != Some(false)
    }
}

impl EndpointSlice {
    /// Whether its addresses are IP addresses.
    pub(super) fn is_ip(&self) -> bool {
        self.address_type != "FQDN"
    }
}

impl SliceEndpoint {
    /// Its address. What further ones would mean is not defined, and nobody uses them.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.addresses.first()?.parse().ok()
    }
}

impl Kind for Service {
    const API_VERSIONS: &'static [&'static str] = &["v1"];
    const KIND: &'static str = "Service";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        match self.external_name() {
            Some("") => found("spec.externalName".to_owned(), Fault::Missing),
            Some(name) if !matches!(name.parse(), Ok(Host::Exact(_))) => {
                found("spec.externalName".to_owned(), Fault::Host(format!("`{name}` is not a DNS name")));
            }
            _ => {}
        }
        for (index, port) in self.spec.ports.iter().enumerate() {
            if port.port == 0 {
                found(format!("spec.ports[{index}].port"), port_zero());
            }
        }
    }
}

impl Kind for EndpointSlice {
    const API_VERSIONS: &'static [&'static str] = &["discovery.k8s.io/v1"];
    const KIND: &'static str = "EndpointSlice";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        let fits: fn(&str) -> bool = match &*self.address_type {
            "IPv4" => |text| text.parse::<Ipv4Addr>().is_ok(),
            "IPv6" => |text| text.parse::<Ipv6Addr>().is_ok(),
            "FQDN" => |_| true,
            other => {
                let why = format!("`{other}` is not an address type: write `IPv4`, `IPv6` or `FQDN`");
                return found("addressType".to_owned(), Fault::Invalid(why));
            }
        };
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if endpoint.addresses.is_empty() {
                found(format!("endpoints[{index}].addresses"), Fault::Missing);
            }
            for (inner, address) in endpoint.addresses.iter().enumerate() {
                if !fits(address) {
                    let why = format!("`{address}` is not an {} address", self.address_type);
                    found(format!("endpoints[{index}].addresses[{inner}]"), Fault::Invalid(why));
                }
            }
        }
        for (index, port) in self.ports.iter().enumerate() {
            if port.port == Some(0) {
                found(format!("ports[{index}].port"), port_zero());
            }
        }
    }
}

fn port_zero() -> Fault {
    Fault::Type { found: "the number 0".to_owned(), expected: "a port from 1 to 65535".to_owned() }
}

fn tcp() -> String {
    "TCP".to_owned()
}
