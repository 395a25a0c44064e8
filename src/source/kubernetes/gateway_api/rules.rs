//! Rules of HTTPRoutes and GRPCRoutes.

use std::{fmt::Display, time::Duration};

use http::Method;

use super::{
    GatewayApi, Reach,
    attach::BackendClient,
    filters::Filter,
    grpc_route::{GrpcMatch, GrpcRule, MethodMatch},
    http_route::{self, HttpMatch, HttpRule, LifetimeType, MatchType, PathMatchType, SessionPersistence, SessionType},
    reference_grant::Referrer,
    references::{BackendReference, GROUP},
};
use crate::{
    balance::stable_hash,
    config::{
        self, BackendRef, HeaderMatch, Match, PathMatch, QueryMatch, Rule, SessionCarrier, ValueMatch, parse_duration,
    },
    source::{
        error::Warning,
        kubernetes::backends::{Backends, Speaks},
    },
};

/// What rules are made with: whose they are, and for whom.
pub(super) struct Scope<'r, 'a> {
    pub(super) api: &'r GatewayApi<'a>,
    pub(super) backends: &'r mut Backends<'a>,
    /// The route's kind.
    pub(super) kind: &'static str,
    pub(super) namespace: &'r str,
    pub(super) name: &'r str,
    /// What backends are sent.
    pub(super) speaks: Speaks,
    /// Who is shown to backends that ask.
    pub(super) client: Option<&'r BackendClient>,
    /// Whether the route governs calls between Services: those may go to other namespaces without a grant, as they could
    /// without the route (GEP-1294).
    pub(super) is_mesh: bool,
    pub(super) route: &'r dyn Warns,
}

/// What warnings can be about.
pub(super) trait Warns {
    /// A warning about a field of it.
    fn warning(&self, field: &str, message: String) -> Warning;
}

impl Scope<'_, '_> {
    pub(super) fn is_http(&self) -> bool {
        self.speaks == Speaks::Http
    }

    fn warn(&mut self, field: &str, message: String) {
        let warning = self.route.warning(field, message);
        // A route that is attached in several ways is made several times.
        if self.backends.warnings.last() != Some(&warning) {
            self.backends.warnings.push(warning);
        }
    }

    /// The backend that a reference leads to; what is wrong with it becomes a warning.
    pub(super) fn backend<F>(
        &mut self,
        reference: &BackendReference<F>,
        speaks: Speaks,
        field: impl Display,
    ) -> BackendRef {
        let from = Referrer { group: GROUP, kind: self.kind, namespace: self.namespace };
        let reach = Reach { speaks, client: self.client, needs_grant: !self.is_mesh };
        let backend = self.api.backend(from, reference, reach, self.backends);
        if let Some(why) = &backend.invalid {
            self.warn(&field.to_string(), format!("{why}; requests for it are answered 500"));
        }
        backend
    }
}

pub(super) fn http(rules: &[HttpRule], scope: &mut Scope<'_, '_>) -> Vec<Rule> {
    let rules = rules.iter().enumerate().map(|(index, rule)| {
        let field = format!("spec.rules[{index}]");
        let identity = rule.name.clone().unwrap_or_else(|| index.to_string());
        Rule {
            matches: rule.matches.iter().map(http_match).collect(),
            timeouts: rule.timeouts.as_ref().map(timeouts).unwrap_or_default(),
            retry: rule.retry.as_ref().map(retry),
            session: session(rule.session_persistence.as_ref(), &identity, &field, scope),
            ..common(rule.name.as_deref(), &rule.filters, &rule.backend_refs, &field, scope)
        }
    });
    rules.collect()
}

pub(super) fn grpc(rules: &[GrpcRule], scope: &mut Scope<'_, '_>) -> Vec<Rule> {
    let rules = rules.iter().enumerate().map(|(index, rule)| {
        let field = format!("spec.rules[{index}]");
        let identity = rule.name.clone().unwrap_or_else(|| index.to_string());
        Rule {
            matches: rule.matches.iter().map(grpc_match).collect(),
            session: session(rule.session_persistence.as_ref(), &identity, &field, scope),
            ..common(rule.name.as_deref(), &rule.filters, &rule.backend_refs, &field, scope)
        }
    });
    rules.collect()
}

/// Name, backends and filters.
fn common(
    name: Option<&str>,
    filters: &[Filter],
    references: &[BackendReference<Vec<Filter>>],
    field: &str,
    scope: &mut Scope<'_, '_>,
) -> Rule {
    let (filters, mut invalid) = match resolve_filters(filters, format_args!("{field}.filters"), scope) {
        Ok(filters) => (filters, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let mut backends = Vec::with_capacity(references.len());
    for (index, reference) in references.iter().enumerate() {
        let field = format_args!("{field}.backendRefs[{index}]");
        let backend = scope.backend(reference, scope.speaks, field);
        let resolved = resolve_filters(&reference.filters, format_args!("{field}.filters"), scope);
        backends.push(match (&backend.invalid, resolved) {
            (None, Ok(filters)) => BackendRef { filters, ..backend },
            (Some(_), _) => backend,
            (None, Err(why)) => {
                scope.warn(&format!("{field}.filters"), format!("{why}; requests for it are answered 500"));
                BackendRef { invalid: Some(why), ..backend }
            }
        });
    }
    let is_redirect = filters.iter().any(|filter| matches!(filter, config::Filter::Redirect(_)));
    match &invalid {
        Some(why) => scope.warn(&format!("{field}.filters"), format!("{why}; requests for the rule are answered 500")),
        None if backends.is_empty() && !is_redirect => {
            let why = "the rule has neither `backendRefs` nor a redirect".to_owned();
            scope.warn(field, format!("{why}; its requests are answered 500"));
            invalid = Some(why);
        }
        None => {}
    }
    Rule { name: name.map(str::to_owned), backends, filters, invalid, ..Rule::default() }
}

/// An error says why what they are written for cannot be served as it asks.
fn resolve_filters(
    filters: &[Filter],
    field: impl Display,
    scope: &mut Scope<'_, '_>,
) -> Result<Vec<config::Filter>, String> {
    let mut resolved = Vec::with_capacity(filters.len());
    for (index, filter) in filters.iter().enumerate() {
        resolved.extend(filter.resolve(&format!("{field}[{index}]"), scope)?);
    }
    Ok(resolved)
}

// === matches ===

fn http_match(asked: &HttpMatch) -> Match {
    let text = &asked.path.value;
    let path = match asked.path.kind {
        PathMatchType::Exact => PathMatch::Exact(text.clone()),
        PathMatchType::PathPrefix => PathMatch::Prefix(text.clone()),
        PathMatchType::RegularExpression => regex_path(text),
    };
    let method = asked.method.as_deref().and_then(|method| method.parse::<Method>().ok());
    let query = asked.query_params.iter().map(|one| QueryMatch { name: one.name.clone(), value: value(one) });
    Match { path, method, headers: headers(&asked.headers), query: query.collect(), cookies: Vec::new() }
}

fn headers(asked: &[http_route::ValueMatch]) -> Vec<HeaderMatch> {
    let header = |one: &http_route::ValueMatch| Some(HeaderMatch { name: one.name.parse().ok()?, value: value(one) });
    asked.iter().filter_map(header).collect()
}

fn value(asked: &http_route::ValueMatch) -> ValueMatch {
    match asked.kind {
        MatchType::Exact => ValueMatch::Exact(asked.value.clone()),
        #[cfg(feature = "regex")]
        MatchType::RegularExpression => match http_route::pattern(&asked.value) {
            Ok(pattern) => ValueMatch::Regex(pattern),
            // Refused when it was read.
            Err(_) => ValueMatch::Exact(asked.value.clone()),
        },
        #[cfg(not(feature = "regex"))]
        MatchType::RegularExpression => ValueMatch::Exact(asked.value.clone()),
    }
}

fn regex_path(text: &str) -> PathMatch {
    #[cfg(feature = "regex")]
    if let Ok(pattern) = http_route::pattern(text) {
        return PathMatch::Regex(pattern);
    }
    // Refused when it was read.
    PathMatch::Exact(text.to_owned())
}

/// A gRPC method is the path `/service/method`, and so the spec's order of services and methods is that of paths.
fn grpc_match(asked: &GrpcMatch) -> Match {
    let path = match &asked.method {
        None => PathMatch::default(),
        Some(MethodMatch { kind: MatchType::Exact, service, method }) => match (service, method) {
            (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
            (Some(service), None) => PathMatch::Prefix(format!("/{service}")),
            (None, Some(method)) => PathMatch::GrpcMethod(method.clone()),
            (None, None) => PathMatch::default(),
        },
        Some(MethodMatch { kind: MatchType::RegularExpression, service, method }) => {
            let part = |text: &Option<String>| match text {
                Some(text) => format!("(?:{text})"),
                None => "[^/]+".to_owned(),
            };
            regex_path(&format!("/{}/{}", part(service), part(method)))
        }
    };
    Match { path, headers: headers(&asked.headers), ..Match::default() }
}

// === policies ===

/// What is given was found to be durations when it was read.
fn duration(text: Option<&str>) -> Option<Duration> {
    parse_duration(text?).ok()
}

fn timeouts(asked: &http_route::Timeouts) -> config::Timeouts {
    let request = duration(asked.request.as_deref());
    // Where only the whole has a limit, an attempt has none of its own, such as the upstream's default.
    let backend_request = duration(asked.backend_request.as_deref()).or_else(|| request.map(|_| Duration::ZERO));
    config::Timeouts { request, backend_request, ..config::Timeouts::default() }
}

fn retry(asked: &http_route::Retry) -> config::Retry {
    let default = config::Retry::default();
    config::Retry {
        attempts: asked.attempts.unwrap_or(default.attempts),
        statuses: asked.codes.clone(),
        backoff: duration(asked.backoff.as_deref()),
        // The API is silent about methods. A POST that may have been processed is not sent twice on the word of a list of
        // statuses; what was certainly not processed is sent again whatever its method.
        non_idempotent: false,
        ..default
    }
}

fn session(
    asked: Option<&SessionPersistence>,
    rule: &str,
    field: &str,
    scope: &mut Scope<'_, '_>,
) -> Option<config::SessionPersistence> {
    let asked = asked?;
    let cookie = asked.cookie.as_ref();
    let named = match asked.kind {
        SessionType::Cookie => cookie.and_then(|cookie| cookie.name.clone()),
        SessionType::Header => asked.header.as_ref().map(|header| header.name.clone()),
    };
    let name = named.or_else(|| asked.session_name.clone()).unwrap_or_else(|| {
        // The same in every process, and another one for every rule.
        let text = format!("{}/{}/{}/{rule}", scope.kind, scope.namespace, scope.name);
        format!("session-{:016x}", stable_hash(text.as_bytes()))
    });
    let carrier = match asked.kind {
        SessionType::Cookie => {
            let permanent = cookie.is_some_and(|cookie| cookie.lifetime_type == LifetimeType::Permanent);
            if let Some(path) = cookie.and_then(|cookie| cookie.path.as_deref()).filter(|path| *path != "/") {
                let why = format!("`{path}` is not used: the cookie is for all paths");
                scope.warn(&format!("{field}.sessionPersistence.cookie.path"), why);
            }
            SessionCarrier::Cookie { name, permanent }
        }
        SessionType::Header => SessionCarrier::Header { name },
    };
    Some(config::SessionPersistence {
        carrier,
        absolute_timeout: duration(asked.absolute_timeout.as_deref()),
        idle_timeout: duration(asked.idle_timeout.as_deref()),
    })
}
