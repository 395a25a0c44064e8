//! `GRPCRoute`.

use serde::Deserialize;

use super::{
    filters::{self, Filter},
    http_route::{MatchType, SessionPersistence, ValueMatch, check_backends, check_rule_names, pattern},
    references::{BackendReference, ParentReference, check_hostnames, check_parents},
};
use crate::source::{error::Fault, kubernetes::object::Kind};

/// gateway.networking.k8s.io GRPCRoute.
#[derive(Deserialize)]
pub(crate) struct GrpcRoute {
    pub(crate) spec: GrpcRouteSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GrpcRouteSpec {
    #[serde(default)]
    pub(crate) parent_refs: Vec<ParentReference>,
    #[serde(default)]
    pub(crate) hostnames: Vec<String>,
    #[serde(default)]
    pub(crate) rules: Vec<GrpcRule>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct GrpcRule {
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<GrpcMatch>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) backend_refs: Vec<BackendReference<Vec<Filter>>>,
    pub(crate) session_persistence: Option<SessionPersistence>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrpcMatch {
    pub(crate) method: Option<MethodMatch>,
    pub(crate) headers: Vec<ValueMatch>,
}

#[derive(Deserialize)]
pub(crate) struct MethodMatch {
    #[serde(default, rename = "type")]
    pub(crate) kind: MatchType,
    pub(crate) service: Option<String>,
    pub(crate) method: Option<String>,
}

impl MethodMatch {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        if self.service.is_none() && self.method.is_none() {
            let why = "names neither `service` nor `method`: write one of them, or leave it out";
            found(field.to_owned(), Fault::Invalid(why.to_owned()));
        }
        for (text, name, is_service) in [(&self.service, "service", true), (&self.method, "method", false)] {
            let Some(text) = text else {
                continue;
            };
            let refused = match self.kind {
                MatchType::RegularExpression => pattern(text).err(),
                MatchType::Exact if is_named(text, is_service) => None,
                MatchType::Exact => Some(Fault::Invalid(format!(
                    "`{text}` is not the name of a gRPC {name}: letters, digits and `_`{}",
                    if is_service { ", elements with `.` between them" } else { "" }
                ))),
            };
            if let Some(fault) = refused {
                found(format!("{field}.{name}"), fault);
            }
        }
    }
}

/// Whether it can be the name of a method, or, with dots, of a service.
fn is_named(text: &str, dots: bool) -> bool {
    let text = if dots { text.strip_prefix('.').unwrap_or(text) } else { text };
    let is_element = |element: &str| {
        element.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && element.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if dots { text.split('.').all(is_element) } else { is_element(text) }
}

impl Kind for GrpcRoute {
    const API_VERSIONS: &'static [&'static str] =
        &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"];
    const KIND: &'static str = "GRPCRoute";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        let Self { spec } = self;
        check_parents(&spec.parent_refs, found);
        check_hostnames(&spec.hostnames, found);
        check_rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()), found);
        for (index, rule) in spec.rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            for (inner, one) in rule.matches.iter().enumerate() {
                let field = format!("{field}.matches[{inner}]");
                if let Some(method) = &one.method {
                    method.check(&format!("{field}.method"), found);
                }
                for (at, header) in one.headers.iter().enumerate() {
                    header.check(format_args!("{field}.headers[{at}]"), found);
                }
            }
            filters::check(&rule.filters, true, format_args!("{field}.filters"), found);
            check_backends(&rule.backend_refs, true, &field, found);
            if let Some(session) = &rule.session_persistence {
                session.check(&format!("{field}.sessionPersistence"), found);
            }
        }
    }
}
