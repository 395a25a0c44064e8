//! `HTTPRoute`, and what it shares with `GRPCRoute`.

use std::{collections::HashSet, fmt::Display, time::Duration};

use serde::Deserialize;

use super::{
    filters::{self, Filter},
    references::{BackendReference, ParentReference, check_hostnames, check_parents},
};
use crate::{
    config::parse_duration,
    source::{error::Fault, kubernetes::object::Kind},
};

/// gateway.networking.k8s.io HTTPRoute.
#[derive(Deserialize)]
pub(crate) struct HttpRoute {
    pub(crate) spec: HttpRouteSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRouteSpec {
    #[serde(default)]
    pub(crate) parent_refs: Vec<ParentReference>,
    #[serde(default)]
    pub(crate) hostnames: Vec<String>,
    /// Default: one for every request, which leads nowhere.
    #[serde(default = "one_rule")]
    pub(crate) rules: Vec<HttpRule>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpRule {
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<HttpMatch>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) backend_refs: Vec<BackendReference<Vec<Filter>>>,
    pub(crate) timeouts: Option<Timeouts>,
    pub(crate) retry: Option<Retry>,
    pub(crate) session_persistence: Option<SessionPersistence>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpMatch {
    pub(crate) path: PathMatch,
    pub(crate) method: Option<String>,
    pub(crate) headers: Vec<ValueMatch>,
    pub(crate) query_params: Vec<ValueMatch>,
}

#[derive(Deserialize)]
#[serde(default)]
pub(crate) struct PathMatch {
    #[serde(rename = "type")]
    pub(crate) kind: PathMatchType,
    pub(crate) value: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum PathMatchType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

/// What a header field or a query parameter must be.
#[derive(Deserialize)]
pub(crate) struct ValueMatch {
    #[serde(default, rename = "type")]
    pub(crate) kind: MatchType,
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum MatchType {
    #[default]
    Exact,
    RegularExpression,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Timeouts {
    pub(crate) request: Option<String>,
    pub(crate) backend_request: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Retry {
    #[serde(default)]
    pub(crate) codes: Vec<u16>,
    pub(crate) attempts: Option<u32>,
    pub(crate) backoff: Option<String>,
}

/// In the form of today, and in that of the API's releases up to 1.4 (`sessionName`, `idleTimeout`, `cookieConfig`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionPersistence {
    #[serde(default, rename = "type")]
    pub(crate) kind: SessionType,
    pub(crate) session_name: Option<String>,
    pub(crate) absolute_timeout: Option<String>,
    pub(crate) idle_timeout: Option<String>,
    #[serde(alias = "cookieConfig")]
    pub(crate) cookie: Option<CookieConfig>,
    pub(crate) header: Option<HeaderConfig>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum SessionType {
    #[default]
    Cookie,
    Header,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CookieConfig {
    pub(crate) name: Option<String>,
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) lifetime_type: LifetimeType,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum LifetimeType {
    #[default]
    Session,
    Permanent,
}

#[derive(Deserialize)]
pub(crate) struct HeaderConfig {
    pub(crate) name: String,
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

impl Default for PathMatch {
    fn default() -> Self {
        Self { kind: PathMatchType::PathPrefix, value: "/".to_owned() }
    }
}

impl HttpRule {
    /// Whether a prefix can be replaced: there is exactly one, by which the rule is found.
    fn has_one_prefix(&self) -> bool {
        match &*self.matches {
            // The API fills in a prefix where nothing is said.
            [] => true,
            [one] => one.path.kind == PathMatchType::PathPrefix,
            _ => false,
        }
    }

    fn check(&self, field: impl Display, found: &mut dyn FnMut(String, Fault)) {
        for (index, one) in self.matches.iter().enumerate() {
            one.check(format_args!("{field}.matches[{index}]"), found);
        }
        let one_prefix = self.has_one_prefix();
        filters::check(&self.filters, one_prefix, format_args!("{field}.filters"), found);
        if !self.backend_refs.is_empty()
            && let Some(index) = self.filters.iter().position(|filter| filter.request_redirect.is_some())
        {
            let why = "a redirect leaves nothing for `backendRefs`: leave one of them out";
            found(format!("{field}.filters[{index}]"), Fault::Invalid(why.to_owned()));
        }
        check_backends(&self.backend_refs, one_prefix, &field, found);
        if let Some(timeouts) = &self.timeouts {
            timeouts.check(&format!("{field}.timeouts"), found);
        }
        if let Some(retry) = &self.retry {
            retry.check(&format!("{field}.retry"), found);
        }
        if let Some(session) = &self.session_persistence {
            session.check(&format!("{field}.sessionPersistence"), found);
        }
    }
}

impl HttpMatch {
    fn check(&self, field: impl Display, found: &mut dyn FnMut(String, Fault)) {
        let path = &self.path;
        let refused = match path.kind {
            PathMatchType::RegularExpression => pattern(&path.value).err(),
            _ => unmatchable(&path.value).map(|why| Fault::Path { path: path.value.clone(), why }),
        };
        if let Some(fault) = refused {
            found(format!("{field}.path.value"), fault);
        }
        if let Some(method) = self.method.as_deref().filter(|method| !METHODS.contains(method)) {
            let fault =
                Fault::Type { found: format!("`{method}`"), expected: format!("one of {}", METHODS.join(", ")) };
            found(format!("{field}.method"), fault);
        }
        for (index, header) in self.headers.iter().enumerate() {
            header.check(format_args!("{field}.headers[{index}]"), found);
        }
        for (index, parameter) in self.query_params.iter().enumerate() {
            parameter.check(format_args!("{field}.queryParams[{index}]"), found);
        }
    }
}

impl ValueMatch {
    /// The API wants the names of query parameters to be such as header fields have, too.
    pub(super) fn check(&self, field: impl Display, found: &mut dyn FnMut(String, Fault)) {
        filters::check_field_name(&self.name, || format!("{field}.name"), found);
        if self.kind == MatchType::RegularExpression
            && let Err(fault) = pattern(&self.value)
        {
            found(format!("{field}.value"), fault);
        }
    }
}

impl Timeouts {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        let request = check_duration(self.request.as_deref(), || format!("{field}.request"), found);
        let attempt = check_duration(self.backend_request.as_deref(), || format!("{field}.backendRequest"), found);
        if let (Some(request), Some(attempt)) = (request, attempt)
            && !request.is_zero()
            && attempt > request
        {
            let why = "cannot be longer than `request`, which spans all attempts".to_owned();
            found(format!("{field}.backendRequest"), Fault::Invalid(why));
        }
    }
}

impl Retry {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        let out_of_range = |number: u64, expected: &str| Fault::Type {
            found: format!("the number {number}"),
            expected: expected.to_owned(),
        };
        for (index, code) in self.codes.iter().enumerate().filter(|(_, code)| !(400..600).contains(*code)) {
            found(format!("{field}.codes[{index}]"), out_of_range((*code).into(), "a status from 400 to 599"));
        }
        if self.attempts == Some(0) {
            found(format!("{field}.attempts"), out_of_range(0, "1 or more; leave `retry` out for none"));
        }
        check_duration(self.backoff.as_deref(), || format!("{field}.backoff"), found);
    }
}

impl SessionPersistence {
    pub(super) fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        check_duration(self.absolute_timeout.as_deref(), || format!("{field}.absoluteTimeout"), found);
        check_duration(self.idle_timeout.as_deref(), || format!("{field}.idleTimeout"), found);
        let permanent = self.cookie.as_ref().is_some_and(|cookie| cookie.lifetime_type == LifetimeType::Permanent);
        if permanent && self.absolute_timeout.is_none() {
            found(format!("{field}.absoluteTimeout"), Fault::Missing);
        }
        let mut check = |name: &Option<String>, at: &str| {
            if let Some(name) = name {
                filters::check_field_name(name, || format!("{field}.{at}"), found);
            }
        };
        check(&self.session_name, "sessionName");
        check(&self.cookie.as_ref().and_then(|cookie| cookie.name.clone()), "cookie.name");
        check(&self.header.as_ref().map(|header| header.name.clone()), "header.name");
        match self.kind {
            SessionType::Cookie if self.header.is_some() => found(format!("{field}.header"), only("Header")),
            SessionType::Header if self.cookie.is_some() => found(format!("{field}.cookie"), only("Cookie")),
            _ => {}
        }
    }
}

impl Kind for HttpRoute {
    const API_VERSIONS: &'static [&'static str] =
        &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    const KIND: &'static str = "HTTPRoute";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        let Self { spec } = self;
        check_parents(&spec.parent_refs, found);
        check_hostnames(&spec.hostnames, found);
        if spec.rules.is_empty() {
            found("spec.rules".to_owned(), Fault::Missing);
        }
        check_rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()), found);
        for (index, rule) in spec.rules.iter().enumerate() {
            rule.check(format_args!("spec.rules[{index}]"), found);
        }
    }
}

// === what routes have in common ===

pub(super) fn check_rule_names<'r>(names: impl Iterator<Item = Option<&'r str>>, found: &mut dyn FnMut(String, Fault)) {
    let mut seen = HashSet::new();
    for (index, name) in names.enumerate() {
        if let Some(name) = name
            && !seen.insert(name)
        {
            let why = format!("another rule of this route is named `{name}` too: give each a name of its own");
            found(format!("spec.rules[{index}].name"), Fault::Invalid(why));
        }
    }
}

pub(super) fn check_backends(
    backends: &[BackendReference<Vec<Filter>>],
    one_prefix: bool,
    rule: impl Display,
    found: &mut dyn FnMut(String, Fault),
) {
    for (index, backend) in backends.iter().enumerate() {
        let field = format_args!("{rule}.backendRefs[{index}]");
        backend.check(field, found);
        filters::check(&backend.filters, one_prefix, format_args!("{field}.filters"), found);
    }
}

fn check_duration(
    text: Option<&str>,
    field: impl FnOnce() -> String,
    found: &mut dyn FnMut(String, Fault),
) -> Option<Duration> {
    let parsed = parse_duration(text?);
    if let Err(error) = &parsed {
        found(field(), Fault::Invalid(error.to_string()));
    }
    parsed.ok()
}

/// Why the API server refuses a path that is to be matched letter by letter.
fn unmatchable(path: &str) -> Option<&'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte);
    if !path.starts_with('/') {
        Some("it must start with `/`")
    } else if path.contains("//") {
        Some("it must not have `//`")
    } else if path.split('/').any(|element| element == "." || element == "..") {
        Some("it must not have `.` or `..` as an element")
    } else if path.contains("%2f") || path.contains("%2F") {
        Some("it must not have an encoded `/`")
    } else if path.contains('#') {
        Some("it must not have `#`")
    } else if !path.bytes().all(plain) || !percent_is_encoding(path) {
        Some("it must have only characters of paths (RFC 3986), others percent-encoded")
    } else {
        None
    }
}

/// Whether every `%` has two hexadecimal digits behind it.
fn percent_is_encoding(path: &str) -> bool {
    path.split('%')
        .skip(1)
        .all(|rest| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)))
}

#[cfg(feature = "regex")]
pub(super) fn pattern(text: &str) -> Result<crate::config::Pattern, Fault> {
    text.parse().map_err(|error: crate::config::InvalidPattern| Fault::Invalid(error.to_string()))
}

#[cfg(not(feature = "regex"))]
pub(super) fn pattern(_: &str) -> Result<std::convert::Infallible, Fault> {
    Err(Fault::Invalid("this program was built without the feature `regex`".to_owned()))
}

fn only(kind: &str) -> Fault {
    Fault::Invalid(format!("is for `type: {kind}` only: leave it out, or change the type"))
}

fn one_rule() -> Vec<HttpRule> {
    vec![HttpRule::default()]
}
