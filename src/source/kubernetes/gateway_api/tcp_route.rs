//! `TCPRoute`.

use serde::Deserialize;

use super::{
    GatewayApi,
    references::{ParentReference, check_parents},
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

/// gateway.networking.k8s.io TCPRoute.
#[derive(Deserialize)]
pub(crate) struct TcpRoute {
    spec: TcpRouteSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TcpRouteSpec {
    #[serde(default)]
    parent_refs: Vec<ParentReference>,
    rules: Vec<StreamRule>,
}

pub(super) fn routes(api: &GatewayApi<'_>, object: &Object<TcpRoute>, backends: &mut Backends<'_>) -> Vec<StreamRoute> {
    let TcpRouteSpec { parent_refs, rules } = &object.value.spec;
    streams::routes(api, object, StreamSpec { parents: parent_refs, hosts: Vec::new(), rules }, backends)
}

impl Kind for TcpRoute {
    const API_VERSIONS: &'static [&'static str] =
        &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"];
    const KIND: &'static str = "TCPRoute";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        check_parents(&self.spec.parent_refs, found);
        check_rules(&self.spec.rules, found);
    }
}
