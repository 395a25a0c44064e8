//! `GatewayClass`.

use serde::Deserialize;

use crate::source::{error::Fault, kubernetes::object::Kind};

/// gateway.networking.k8s.io GatewayClass. That it is there is all that counts: every one is ours, whatever its controller.
#[derive(Deserialize)]
pub(crate) struct GatewayClass {}

impl Kind for GatewayClass {
    const API_VERSIONS: &'static [&'static str] =
        &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    const KIND: &'static str = "GatewayClass";
    const NAMESPACED: bool = false;

    fn check(&self, _: &mut dyn FnMut(String, Fault)) {}
}
