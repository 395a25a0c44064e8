//! `Namespace`, and what selects some of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::source::{
    error::Fault,
    kubernetes::object::{Kind, Table},
};

/// v1 Namespace. Its labels are in its metadata.
#[derive(Deserialize)]
pub(crate) struct Namespace {}

/// Which namespaces something may come from.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceRule {
    pub(crate) from: Option<From>,
    pub(crate) selector: Option<LabelSelector>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum From {
    /// From any.
    All,
    /// From the same namespace.
    Same,
    /// From those that the selector fits.
    Selector,
    /// From none.
    None,
}

/// A selector of objects by their labels: everything it asks must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LabelSelector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Requirement>,
}

#[derive(Debug, Deserialize)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

/// The label that the API server gives every namespace.
const NAME: &str = "kubernetes.io/metadata.name";

impl NamespaceRule {
    /// Whether something in `namespace` may come to `own`. A namespace without an object has the label with its name alone.
    pub(crate) fn admits(&self, default: From, own: &str, namespace: &str, namespaces: &Table<Namespace>) -> bool {
        match self.from.unwrap_or(default) {
            From::All => true,
            From::Same => own == namespace,
            From::None => false,
            From::Selector => self.selector.as_ref().is_some_and(|selector| {
                let labels = namespaces.get("", namespace).map(|object| &object.metadata.labels);
                selector.fits(&|key| match (key, labels) {
                    (NAME, _) => Some(namespace),
                    (_, labels) => labels?.get(key).map(String::as_str),
                })
            }),
        }
    }

    /// Why nothing fits its selector although it is not written so, and the field.
    pub(crate) fn mistake(&self) -> Option<(&'static str, String)> {
        match (self.from, &self.selector) {
            (Some(From::Selector), None) => {
                Some(("selector", "there is none, and so no namespace fits: add it, or change `from`".to_owned()))
            }
            (Some(From::Selector), Some(selector)) => {
                let why = selector.match_expressions.iter().find_map(Requirement::mistake)?;
                Some(("selector.matchExpressions", format!("{why}; so no namespace fits")))
            }
            _ => None,
        }
    }

    /// The API server knows `None` for ListenerSets alone.
    pub(crate) fn check_for_routes(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        if self.from == Some(From::None) {
            let expected = "one of `All`, `Selector`, `Same`".to_owned();
            found(format!("{field}.from"), Fault::Type { found: "`None`".to_owned(), expected });
        }
    }
}

impl LabelSelector {
    /// Whether the labels that `label` finds by key fit. A selector that asks for nothing fits all.
    fn fits<'l>(&self, label: &dyn Fn(&str) -> Option<&'l str>) -> bool {
        self.match_labels.iter().all(|(key, value)| label(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.fits(label(&requirement.key)))
    }
}

impl Requirement {
    fn fits(&self, label: Option<&str>) -> bool {
        let is_one = || label.is_some_and(|label| self.values.iter().any(|value| value == label));
        self.mistake().is_none()
            && match &*self.operator {
                "In" => is_one(),
                // Also where there is no such label.
                "NotIn" => !is_one(),
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
    }

    fn mistake(&self) -> Option<String> {
        match (&*self.operator, self.values.is_empty()) {
            ("In" | "NotIn", false) | ("Exists" | "DoesNotExist", true) => None,
            ("In" | "NotIn", true) => Some(format!("`{}` of `{}` needs `values`", self.operator, self.key)),
            ("Exists" | "DoesNotExist", false) => {
                Some(format!("`{}` of `{}` takes no `values`", self.operator, self.key))
            }
            _ => {
                let Self { key, operator, .. } = self;
                Some(format!("`{operator}` of `{key}` is none of `In`, `NotIn`, `Exists`, `DoesNotExist`"))
            }
        }
    }
}

impl Kind for Namespace {
    const API_VERSIONS: &'static [&'static str] = &["v1"];
    const KIND: &'static str = "Namespace";
    const NAMESPACED: bool = false;

    fn check(&self, _: &mut dyn FnMut(String, Fault)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_has_its_meaning() {
        for (operator, values, label, fits) in [
            ("In", &["a", "b"][..], Some("b"), true),
            ("In", &["a", "b"], Some("c"), false),
            ("In", &["a"], None, false),
            ("In", &[], Some("a"), false),
            ("NotIn", &["a"], Some("a"), false),
            ("NotIn", &["a"], Some("b"), true),
            ("NotIn", &["a"], None, true),
            ("NotIn", &[], None, false),
            ("Exists", &[], Some(""), true),
            ("Exists", &[], None, false),
            ("Exists", &["a"], Some("a"), false),
            ("DoesNotExist", &[], None, true),
            ("DoesNotExist", &[], Some("a"), false),
            ("in", &["a"], Some("a"), false),
        ] {
            let values = values.iter().map(|&value| value.to_owned()).collect();
            let requirement = Requirement { key: "k".to_owned(), operator: operator.to_owned(), values };
            assert_eq!(requirement.fits(label), fits, "{requirement:?} {label:?}");
        }
    }
}
