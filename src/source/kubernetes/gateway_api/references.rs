//! References between objects, as several kinds of the Gateway API write them.

use std::{collections::HashSet, fmt::Display, net::Ipv4Addr};

use serde::{Deserialize, de::IgnoredAny};

use crate::{config::Host, source::error::Fault};

/// The API's own group.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";
/// The group of its experiments.
pub(crate) const EXPERIMENTAL_GROUP: &str = "gateway.networking.x-k8s.io";
/// The group of Services, Secrets and ConfigMaps.
pub(crate) const CORE: &str = "";

/// What a route wants to be attached to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ParentReference {
    #[serde(default = "own_group")]
    pub(crate) group: String,
    #[serde(default = "gateway")]
    pub(crate) kind: String,
    /// Default: the route's.
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    /// A Gateway's or ListenerSet's listener; the name of a Service's port.
    pub(crate) section_name: Option<String>,
    pub(crate) port: Option<u16>,
}

/// Where a rule's requests or connections go. `F` is what the kind of route has for `filters`; nothing by default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct BackendReference<F = IgnoredAny> {
    #[serde(default)]
    pub(crate) group: String,
    #[serde(default = "service")]
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Default: that of the object that refers.
    pub(crate) namespace: Option<String>,
    /// The Service's port. The API asks for it where a Service is meant.
    pub(crate) port: Option<u16>,
    /// Its share. Where the API has none it is not looked at.
    #[serde(default = "one")]
    pub(crate) weight: u32,
    #[serde(default, bound(deserialize = "F: Deserialize<'de> + Default"))]
    pub(crate) filters: F,
}

/// A Secret, if it is not said to be something else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct SecretObjectReference {
    #[serde(default)]
    pub(crate) group: String,
    #[serde(default = "secret")]
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Default: that of the object that refers.
    pub(crate) namespace: Option<String>,
}

/// An object of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct ObjectReference {
    /// The API requires it; the core group, which it is in all cases known, is taken where it is missing.
    #[serde(default)]
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Default: that of the object that refers.
    pub(crate) namespace: Option<String>,
}

/// An object of any kind in the namespace of the object that refers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct LocalObjectReference {
    #[serde(default)]
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl ParentReference {
    pub(crate) fn check(&self, field: impl Display, found: &mut dyn FnMut(String, Fault)) {
        check_name(&self.name, &field, found);
        if self.port == Some(0) {
            found(format!("{field}.port"), port_zero());
        }
    }
}

impl<F> BackendReference<F> {
    /// Whether a Service is meant.
    pub(crate) fn is_service(&self) -> bool {
        self.group == CORE && self.kind == "Service"
    }

    pub(crate) fn check(&self, field: impl Display, found: &mut dyn FnMut(String, Fault)) {
        check_name(&self.name, &field, found);
        match self.port {
            Some(0) => found(format!("{field}.port"), port_zero()),
            None if self.is_service() => found(format!("{field}.port"), Fault::Missing),
            _ => {}
        }
        if self.weight > 1_000_000 {
            let found_here = format!("the number {}", self.weight);
            let expected = "a weight from 0 to 1000000".to_owned();
            found(format!("{field}.weight"), Fault::Type { found: found_here, expected });
        }
    }
}

impl SecretObjectReference {
    pub(crate) fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        check_name(&self.name, field, found);
    }
}

impl ObjectReference {
    pub(crate) fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        check_name(&self.name, field, found);
    }
}

impl LocalObjectReference {
    pub(crate) fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        check_name(&self.name, field, found);
    }
}

/// The fault of a port that is none.
pub(crate) fn port_zero() -> Fault {
    Fault::Type { found: "the number 0".to_owned(), expected: "a port from 1 to 65535".to_owned() }
}

fn check_name(name: &str, field: impl Display, found: &mut dyn FnMut(String, Fault)) {
    if name.is_empty() {
        found(format!("{field}.name"), Fault::Missing);
    }
}

fn own_group() -> String {
    GROUP.to_owned()
}

fn gateway() -> String {
    "Gateway".to_owned()
}

fn service() -> String {
    "Service".to_owned()
}

fn secret() -> String {
    "Secret".to_owned()
}

fn one() -> u32 {
    1
}

/// Reads a hostname of a Gateway, a listener or a route: a DNS name, or `*.` and a DNS name for one label and more.
pub(crate) fn hostname(text: &str) -> Result<Host, Fault> {
    let hint = "the Gateway API takes a DNS name, or `*.` and a DNS name";
    match text.parse() {
        Ok(Host::Any) => Err(Fault::Host(format!("`{text}` is not a host here: leave the field out to mean any host"))),
        Ok(Host::Exact(name)) if name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok() => {
            Err(Fault::Host(format!("`{text}` is an address: {hint}; leave the field out to mean any host")))
        }
        Ok(host) => Ok(host),
        Err(_) => Err(Fault::Host(format!("`{text}` is not a host: {hint}; without a port"))),
    }
}

/// The same for a list of them.
pub(crate) fn check_hostnames(hostnames: &[String], found: &mut dyn FnMut(String, Fault)) {
    for (index, text) in hostnames.iter().enumerate() {
        if let Err(fault) = hostname(text) {
            found(format!("spec.hostnames[{index}]"), fault);
        }
    }
}

/// What the API server refuses of a route's parents: two references to one object that say the same of its sections.
pub(crate) fn check_parents(parents: &[ParentReference], found: &mut dyn FnMut(String, Fault)) {
    for (index, parent) in parents.iter().enumerate() {
        parent.check(format_args!("spec.parentRefs[{index}]"), found);
    }
    let mut seen = HashSet::new();
    for (index, parent) in parents.iter().enumerate() {
        if !seen.insert(parent) {
            let why = "is there twice: remove one, or give each a `sectionName` or `port` of its own";
            found(format!("spec.parentRefs[{index}]"), Fault::Invalid(why.to_owned()));
        }
    }
}
