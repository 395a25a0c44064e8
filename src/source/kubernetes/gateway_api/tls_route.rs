//! `TLSRoute`.

use serde::Deserialize;

use super::{
    GatewayApi,
    references::{ParentReference, check_hostnames, check_parents, hostname},
    streams::{self, StreamRule, StreamSpec, check_rules},
};
use crate::{
    config::StreamRoute,
    source::{
        error::Fault,
        kubernetes::{
            backends::Backends,
            object::{Kind, Object},
        },
    },
};

/// gateway.networking.k8s.io TLSRoute.
#[derive(Deserialize)]
pub(crate) struct TlsRoute {
    spec: TlsRouteSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TlsRouteSpec {
    #[serde(default)]
    parent_refs: Vec<ParentReference>,
    /// None, as older versions have it, means those of its listeners.
    #[serde(default)]
    hostnames: Vec<String>,
    rules: Vec<StreamRule>,
}

pub(super) fn routes(api: &GatewayApi<'_>, object: &Object<TlsRoute>, backends: &mut Backends<'_>) -> Vec<StreamRoute> {
    let spec = &object.value.spec;
    // What is no host was refused when it was read.
    let hosts = spec.hostnames.iter().filter_map(|text| hostname(text).ok()).collect();
    streams::routes(api, object, StreamSpec { parents: &spec.parent_refs, hosts, rules: &spec.rules }, backends)
}

impl Kind for TlsRoute {
    const API_VERSIONS: &'static [&'static str] =
        &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha3", "gateway.networking.k8s.io/v1alpha2"];
    const KIND: &'static str = "TLSRoute";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        check_parents(&self.spec.parent_refs, found);
        check_hostnames(&self.spec.hostnames, found);
        check_rules(&self.spec.rules, found);
    }
}
