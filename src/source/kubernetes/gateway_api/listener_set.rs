//! `ListenerSet`, and `XListenerSet` from the time of its trial.

use serde::Deserialize;

use super::{
    gateway::{ListenerSpec, check_listeners},
    references::GROUP,
};
use crate::source::{error::Fault, kubernetes::object::Kind};

/// gateway.networking.k8s.io ListenerSet: more listeners for a Gateway.
#[derive(Deserialize)]
pub(crate) struct ListenerSet {
    pub(crate) spec: ListenerSetSpec,
}

/// gateway.networking.x-k8s.io XListenerSet.
#[derive(Deserialize)]
pub(crate) struct XListenerSet {
    pub(crate) spec: ListenerSetSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerSetSpec {
    pub(crate) parent_ref: ParentGateway,
    pub(crate) listeners: Vec<ListenerSpec>,
}

#[derive(Deserialize)]
pub(crate) struct ParentGateway {
    #[serde(default = "own_group")]
    pub(crate) group: String,
    #[serde(default = "gateway")]
    pub(crate) kind: String,
    /// Default: the ListenerSet's.
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

impl ListenerSetSpec {
    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        if self.parent_ref.name.is_empty() {
            found("spec.parentRef.name".to_owned(), Fault::Missing);
        }
        check_listeners(&self.listeners, found);
    }
}

impl Kind for ListenerSet {
    const API_VERSIONS: &'static [&'static str] = &["gateway.networking.k8s.io/v1"];
    const KIND: &'static str = "ListenerSet";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        self.spec.check(found);
    }
}

impl Kind for XListenerSet {
    const API_VERSIONS: &'static [&'static str] = &["gateway.networking.x-k8s.io/v1alpha1"];
    const KIND: &'static str = "XListenerSet";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        self.spec.check(found);
    }
}

fn own_group() -> String {
    GROUP.to_owned()
}

fn gateway() -> String {
    "Gateway".to_owned()
}
