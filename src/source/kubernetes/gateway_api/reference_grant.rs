//! `ReferenceGrant`: what may be referred to from other namespaces.

use std::collections::HashSet;

use serde::Deserialize;

use crate::source::{
    error::Fault,
    kubernetes::object::{Kind, Objects},
};

/// gateway.networking.k8s.io ReferenceGrant: lets objects `from` other namespaces refer `to` those of its own.
#[derive(Deserialize)]
pub(crate) struct ReferenceGrant {
    spec: ReferenceGrantSpec,
}

#[derive(Deserialize)]
struct ReferenceGrantSpec {
    from: Vec<GrantFrom>,
    to: Vec<GrantTo>,
}

#[derive(Deserialize)]
struct GrantFrom {
    #[serde(default)]
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Deserialize)]
struct GrantTo {
    #[serde(default)]
    group: String,
    kind: String,
    /// Default: all of the kind.
    name: Option<String>,
}

/// Who refers: the kind of object and its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Referrer<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
}

/// What is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Referent<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// All grants, by what they say.
#[derive(Default)]
pub(crate) struct Grants<'a> {
    named: HashSet<(Referrer<'a>, Referent<'a>)>,
    /// Without a name.
    whole: HashSet<(Referrer<'a>, (&'a str, &'a str, &'a str))>,
}

impl<'a> Grants<'a> {
    pub(crate) fn new(objects: &'a Objects) -> Self {
        let mut grants = Self::default();
        for object in objects.reference_grants.iter() {
            let namespace = &*object.namespace;
            for from in &object.value.spec.from {
                let from = Referrer { group: &from.group, kind: &from.kind, namespace: &from.namespace };
                for to in &object.value.spec.to {
                    let (group, kind) = (&*to.group, &*to.kind);
                    match &to.name {
                        Some(name) => {
                            grants.named.insert((from, Referent { group, kind, namespace, name }));
                        }
                        None => {
                            grants.whole.insert((from, (group, kind, namespace)));
                        }
                    }
                }
            }
        }
        grants
    }

    /// Whether `from` may refer to `to`: always within a namespace, else if a grant there says so.
    pub(crate) fn permits(&self, from: Referrer<'_>, to: Referent<'_>) -> bool {
        from.namespace == to.namespace
            || self.whole.contains(&(from, (to.group, to.kind, to.namespace)))
            || self.named.contains(&(from, to))
    }

    /// The same, with the reason for people.
    pub(crate) fn check(&self, from: Referrer<'_>, to: Referent<'_>) -> Result<(), String> {
        if self.permits(from, to) {
            return Ok(());
        }
        Err(format!(
            "no ReferenceGrant in namespace {} lets a {} of namespace {} refer to {} {}",
            to.namespace, from.kind, from.namespace, to.kind, to.name
        ))
    }
}

impl Kind for ReferenceGrant {
    const API_VERSIONS: &'static [&'static str] =
        &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1alpha2"];
    const KIND: &'static str = "ReferenceGrant";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        for (field, is_empty) in [("spec.from", self.spec.from.is_empty()), ("spec.to", self.spec.to.is_empty())] {
            if is_empty {
                found(field.to_owned(), Fault::Missing);
            }
        }
    }
}
