//! Filters of routes.

mod auth;
mod cors;

use std::{collections::HashSet, fmt::Display};

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use self::{auth::ExternalAuth, cors::Cors};
use super::{
    references::{BackendReference, LocalObjectReference, hostname},
    rules::Scope,
};
use crate::{
    config::{self, Fraction, HeaderChanges, Host, PathChange, Scheme},
    source::error::Fault,
};

/// A filter of a rule or a backend. Which of the other fields counts, `type` says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Filter {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    request_header_modifier: Option<HeaderModifier>,
    response_header_modifier: Option<HeaderModifier>,
    request_mirror: Option<RequestMirror>,
    pub(super) request_redirect: Option<RequestRedirect>,
    #[serde(rename = "urlRewrite")]
    url_rewrite: Option<UrlRewrite>,
    cors: Option<Cors>,
    external_auth: Option<ExternalAuth>,
    extension_ref: Option<LocalObjectReference>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct HeaderModifier {
    set: Vec<Header>,
    add: Vec<Header>,
    remove: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestMirror {
    backend_ref: BackendReference,
    percent: Option<u32>,
    fraction: Option<MirrorFraction>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct MirrorFraction {
    numerator: u32,
    #[serde(default = "hundred")]
    denominator: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestRedirect {
    scheme: Option<RedirectScheme>,
    hostname: Option<String>,
    path: Option<PathModifier>,
    port: Option<u16>,
    status_code: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RedirectScheme {
    Http,
    Https,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct UrlRewrite {
    hostname: Option<String>,
    path: Option<PathModifier>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathModifier {
    #[serde(rename = "type")]
    kind: PathModifierType,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum PathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

type Found<'f> = &'f mut dyn FnMut(String, Fault);

/// Names what the API server would refuse. `one_prefix` says whether the rule is found by exactly one prefix. A type that is
/// not known fails its rule when the route is made.
pub(super) fn check(filters: &[Filter], one_prefix: bool, field: impl Display, found: Found<'_>) {
    let mut seen = HashSet::new();
    for (index, filter) in filters.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let kind = &*filter.kind;
        let once = ["CORS", "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"];
        if once.contains(&kind) && !seen.insert(kind) {
            found(field.clone(), Fault::Invalid(format!("there is a {kind} already: put both into one")));
        }
        filter.check(one_prefix, &field, found);
    }
    if seen.contains("RequestRedirect") && seen.contains("URLRewrite") {
        let why = "RequestRedirect and URLRewrite do not go together: leave one of them out".to_owned();
        found(field.to_string(), Fault::Invalid(why));
    }
}

impl Filter {
    fn check(&self, one_prefix: bool, field: &str, found: Found<'_>) {
        for (kind, name, is_there) in [
            ("RequestHeaderModifier", "requestHeaderModifier", self.request_header_modifier.is_some()),
            ("ResponseHeaderModifier", "responseHeaderModifier", self.response_header_modifier.is_some()),
            ("RequestMirror", "requestMirror", self.request_mirror.is_some()),
            ("RequestRedirect", "requestRedirect", self.request_redirect.is_some()),
            ("URLRewrite", "urlRewrite", self.url_rewrite.is_some()),
            ("CORS", "cors", self.cors.is_some()),
            ("ExternalAuth", "externalAuth", self.external_auth.is_some()),
            ("ExtensionRef", "extensionRef", self.extension_ref.is_some()),
        ] {
            match (self.kind == kind, is_there) {
                (true, false) => found(format!("{field}.{name}"), Fault::Missing),
                (false, true) => {
                    let why = format!("is for `type: {kind}` only: leave it out, or change the type");
                    found(format!("{field}.{name}"), Fault::Invalid(why));
                }
                _ => {}
            }
        }
        if let Some(modifier) = &self.request_header_modifier {
            modifier.check(&format!("{field}.requestHeaderModifier"), found);
        }
        if let Some(modifier) = &self.response_header_modifier {
            modifier.check(&format!("{field}.responseHeaderModifier"), found);
        }
        if let Some(mirror) = &self.request_mirror {
            mirror.check(&format!("{field}.requestMirror"), found);
        }
        if let Some(redirect) = &self.request_redirect {
            redirect.check(one_prefix, &format!("{field}.requestRedirect"), found);
        }
        if let Some(UrlRewrite { hostname, path }) = &self.url_rewrite {
            let field = format!("{field}.urlRewrite");
            check_precise(hostname.as_deref(), &field, found);
            if let Some(path) = path {
                path.check(one_prefix, &format!("{field}.path"), found);
            }
        }
        if let Some(cors) = &self.cors {
            cors.check(&format!("{field}.cors"), found);
        }
        if let Some(auth) = &self.external_auth {
            auth.check(&format!("{field}.externalAuth"), found);
        }
    }

    /// What it becomes; nothing, with a warning, of a mirror whose backend cannot be used. An error says why the filter fails
    /// what it is written for.
    pub(super) fn resolve(&self, field: &str, scope: &mut Scope<'_, '_>) -> Result<Option<config::Filter>, String> {
        let http_only = || scope.is_http();
        Ok(Some(match self {
            Self { kind, request_header_modifier: Some(changes), .. } if kind == "RequestHeaderModifier" => {
                config::Filter::RequestHeaders(changes.into())
            }
            Self { kind, response_header_modifier: Some(changes), .. } if kind == "ResponseHeaderModifier" => {
                config::Filter::ResponseHeaders(changes.into())
            }
            Self { kind, request_mirror: Some(mirror), .. } if kind == "RequestMirror" => {
                let speaks = scope.speaks;
                let field = format!("{field}.requestMirror.backendRef");
                let backend = scope.backend(&mirror.backend_ref, speaks, &field);
                if backend.invalid.is_some() {
                    return Ok(None);
                }
                config::Filter::Mirror(config::Mirror { backend, share: mirror.share() })
            }
            Self { kind, request_redirect: Some(redirect), .. } if kind == "RequestRedirect" && http_only() => {
                config::Filter::Redirect(redirect.into())
            }
            Self { kind, url_rewrite: Some(UrlRewrite { hostname, path }), .. }
                if kind == "URLRewrite" && http_only() =>
            {
                let path = path.as_ref().map(PathChange::from);
                config::Filter::Rewrite(config::Rewrite { host: hostname.clone(), path })
            }
            Self { kind, cors: Some(cors), .. } if kind == "CORS" && http_only() => config::Filter::Cors(cors.into()),
            Self { kind, external_auth: Some(auth), .. } if kind == "ExternalAuth" && http_only() => {
                let field_of_backend = format!("{field}.externalAuth.backendRef");
                let backend = scope.backend(&auth.backend_ref, auth.speaks(), &field_of_backend);
                if let Some(why) = &backend.invalid {
                    return Err(format!("{field}: nobody can be asked: {why}"));
                }
                config::Filter::ExternalAuth(auth.with(backend))
            }
            Self { kind, extension_ref: Some(of), .. } if kind == "ExtensionRef" => {
                return Err(format!("{field}: no filter of kind {} ({}) is known here", of.kind, of.group));
            }
            Self { kind, .. } => return Err(format!("{field}: no filter of type `{kind}` is known here")),
        }))
    }
}

impl HeaderModifier {
    fn check(&self, field: &str, found: Found<'_>) {
        for (list, headers) in [("set", &self.set), ("add", &self.add)] {
            for (index, header) in headers.iter().enumerate() {
                let field = format_args!("{field}.{list}[{index}]");
                check_field_name(&header.name, || format!("{field}.name"), found);
                if HeaderValue::from_bytes(header.value.as_bytes()).is_err() {
                    let why = format!("{:?} is not a header field value", header.value);
                    found(format!("{field}.value"), Fault::Invalid(why));
                }
            }
        }
        for (index, name) in self.remove.iter().enumerate() {
            check_field_name(name, || format!("{field}.remove[{index}]"), found);
        }
    }
}

impl From<&HeaderModifier> for HeaderChanges {
    fn from(modifier: &HeaderModifier) -> Self {
        // Of several entries for one name the first counts (Gateway API, HTTPHeader).
        let once = |headers: &[Header]| {
            let mut seen = HashSet::new();
            headers
                .iter()
                .filter_map(|Header { name, value }| {
                    let name: HeaderName = name.parse().ok()?;
                    let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
                    seen.insert(name.clone()).then_some((name, value))
                })
                .collect()
        };
        let remove = modifier.remove.iter().filter_map(|name| name.parse().ok()).collect();
        Self { set: once(&modifier.set), add: once(&modifier.add), remove }
    }
}

impl RequestMirror {
    fn check(&self, field: &str, found: Found<'_>) {
        self.backend_ref.check(format_args!("{field}.backendRef"), found);
        if let Some(percent) = self.percent.filter(|percent| *percent > 100) {
            found(format!("{field}.percent"), number(percent, "a percentage from 0 to 100"));
        }
        let Some(MirrorFraction { numerator, denominator }) = self.fraction else {
            return;
        };
        if denominator == 0 {
            found(format!("{field}.fraction.denominator"), number(0, "1 or more"));
        } else if numerator > denominator {
            found(format!("{field}.fraction.numerator"), number(numerator, "no more than `denominator`"));
        }
        if self.percent.is_some() {
            let why = "says the share by `percent` and by `fraction`: leave one of them out".to_owned();
            found(field.to_owned(), Fault::Invalid(why));
        }
    }

    fn share(&self) -> Fraction {
        match (&self.fraction, self.percent) {
            (Some(fraction), _) => Fraction { numerator: fraction.numerator, denominator: fraction.denominator },
            (None, Some(percent)) => Fraction { numerator: percent, denominator: 100 },
            (None, None) => Fraction::default(),
        }
    }
}

impl RequestRedirect {
    fn check(&self, one_prefix: bool, field: &str, found: Found<'_>) {
        check_precise(self.hostname.as_deref(), field, found);
        if let Some(path) = &self.path {
            path.check(one_prefix, &format!("{field}.path"), found);
        }
        if self.port == Some(0) {
            found(format!("{field}.port"), number(0, "a port from 1 to 65535"));
        }
        if let Some(status) = self.status_code.filter(|status| ![301, 302, 303, 307, 308].contains(status)) {
            found(format!("{field}.statusCode"), number(status, "301, 302, 303, 307 or 308"));
        }
    }
}

impl From<&RequestRedirect> for config::Redirect {
    fn from(redirect: &RequestRedirect) -> Self {
        let scheme = redirect.scheme.map(|scheme| match scheme {
            RedirectScheme::Http => Scheme::Http,
            RedirectScheme::Https => Scheme::Https,
        });
        Self {
            scheme,
            host: redirect.hostname.clone(),
            path: redirect.path.as_ref().map(PathChange::from),
            port: redirect.port,
            status: redirect.status_code.unwrap_or(302),
        }
    }
}

impl PathModifier {
    fn check(&self, one_prefix: bool, field: &str, found: Found<'_>) {
        let is_full = self.kind == PathModifierType::ReplaceFullPath;
        for (name, is_there, is_due) in [
            ("replaceFullPath", self.replace_full_path.is_some(), is_full),
            ("replacePrefixMatch", self.replace_prefix_match.is_some(), !is_full),
        ] {
            match (is_due, is_there) {
                (true, false) => found(format!("{field}.{name}"), Fault::Missing),
                (false, true) => {
                    let why = "does not go with this `type`: leave it out, or change the type".to_owned();
                    found(format!("{field}.{name}"), Fault::Invalid(why));
                }
                _ => {}
            }
        }
        if !is_full && !one_prefix {
            let why = "replaces the prefix that was matched: the rule must have exactly one match, with a PathPrefix";
            found(field.to_owned(), Fault::Invalid(why.to_owned()));
        }
    }
}

impl From<&PathModifier> for PathChange {
    fn from(path: &PathModifier) -> Self {
        match path.kind {
            PathModifierType::ReplaceFullPath => Self::Full(path.replace_full_path.clone().unwrap_or_default()),
            PathModifierType::ReplacePrefixMatch => Self::Prefix(path.replace_prefix_match.clone().unwrap_or_default()),
        }
    }
}

pub(super) fn check_field_name(name: &str, field: impl FnOnce() -> String, found: Found<'_>) {
    if name.parse::<HeaderName>().is_err() {
        found(field(), Fault::Invalid(format!("`{name}` is not a header field name")));
    }
}

/// A hostname that stands for itself alone.
fn check_precise(text: Option<&str>, field: &str, found: Found<'_>) {
    let fault = match text.map(|text| (text, hostname(text))) {
        None | Some((_, Ok(Host::Exact(_)))) => return,
        Some((_, Err(fault))) => fault,
        Some((text, Ok(_))) => Fault::Host(format!("`{text}` stands for many hosts: write one")),
    };
    found(format!("{field}.hostname"), fault);
}

fn number(found: impl Display, expected: &str) -> Fault {
    Fault::Type { found: format!("the number {found}"), expected: expected.to_owned() }
}

fn hundred() -> u32 {
    100
}
