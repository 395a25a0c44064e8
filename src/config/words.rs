//! What rules and upstreams do, in words.

use std::fmt;

use super::{
    AdaptiveConcurrency, BackendRef, ClientCert, Endpoints, FaultKind, Filter, HeaderChanges, PathChange, Protocol,
    RateKey, Redirect, Retry, Rule, Scheme, SessionCarrier, Split, TrustBundle, Upstream,
};

/// What a rule does with its requests, in one line.
pub(crate) struct Does<'a>(pub(crate) &'a Rule);

/// A backend of a rule with what is done for it alone.
pub(crate) struct Backend<'a>(&'a BackendRef);

/// Backends with their shares.
pub(crate) struct Shares<'a>(pub(crate) &'a [BackendRef]);

/// An upstream's endpoints, and how they are spoken to.
pub(crate) struct Stands<'a> {
    pub(crate) upstream: &'a Upstream,
    /// What is answered where there is none.
    pub(crate) no_endpoint: &'a str,
}

/// Whose SPIFFE IDs are trusted, each by authorities of its own.
pub(crate) struct TrustDomains<'a>(pub(crate) &'a [TrustBundle]);

struct Filtering<'a>(&'a Filter);

impl<'a> Does<'a> {
    /// All but the backends: a part for each filter and policy.
    pub(crate) fn policies(&self) -> Vec<String> {
        let rule = self.0;
        let mut parts: Vec<String> = rule.filters.iter().map(|filter| Filtering(filter).to_string()).collect();
        match &rule.split {
            Split::Turns => {}
            Split::By(key) => parts.push(format!("split by {key:?}")),
            Split::Cohort => parts.push("split by cohort".to_owned()),
        }
        if let Some(rollout) = &rule.rollout {
            parts.push(format!("rolls out {} in steps of {:?} percent", rollout.canary, rollout.steps));
        }
        if let Some(session) = &rule.session {
            parts.push(match &session.carrier {
                SessionCarrier::Cookie { name, .. } => format!("keeps sessions by cookie {name}"),
                SessionCarrier::Header { name } => format!("keeps sessions by header {name}"),
            });
        }
        if let Some(retry) = &rule.retry {
            let times = if retry.attempts == 1 { "time" } else { "times" };
            let mut part = format!("retries up to {} {times}", retry.attempts);
            if !retry.statuses.is_empty() {
                part += &format!(" on {}", listed(&retry.statuses));
            }
            if !retry.grpc.is_empty() {
                part += &format!(" on gRPC status {}", listed(&retry.grpc));
            }
            if let Some(pause) = retry.backoff {
                part += &format!(" after {pause:?} at the least");
            }
            if retry.longest_wait != Retry::default().longest_wait {
                part += &format!(", {:?} at the most", retry.longest_wait);
            }
            parts.push(part);
        }
        let timeouts = &rule.timeouts;
        for (what, limit) in [
            ("request", timeouts.request),
            ("attempt", timeouts.backend_request),
            ("stream", timeouts.max_stream_duration),
            ("pause", timeouts.idle),
        ] {
            parts.extend(limit.map(|limit| match limit {
                limit if limit.is_zero() => format!("{what} without a limit of time"),
                limit => format!("{what} within {limit:?}"),
            }));
        }
        if timeouts.deadline_ends_body {
            parts.push("deadlines end bodies too".to_owned());
        }
        if let Some(name) = &timeouts.deadline_header {
            parts.push(format!("deadlines in {name}"));
        }
        parts
    }

    /// Its backends, in the order in which they are written.
    pub(crate) fn backends(&self) -> impl Iterator<Item = Backend<'a>> + use<'a> {
        self.0.backends.iter().map(Backend)
    }

    pub(crate) fn redirects(&self) -> bool {
        self.0.filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)))
    }
}

impl Backend<'_> {
    /// What is done for it alone: a part for each filter.
    pub(crate) fn filters(&self) -> Vec<String> {
        self.0.filters.iter().map(|filter| Filtering(filter).to_string()).collect()
    }
}

impl fmt::Display for Does<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.0.invalid {
            return write!(f, "answers 500: {why}");
        }
        let mut parts = Vec::new();
        match &*self.0.backends {
            [] if self.redirects() => {}
            [] => parts.push("answers 500: it has no backend".to_owned()),
            backends => parts.push(Shares(backends).to_string()),
        }
        parts.append(&mut self.policies());
        f.write_str(&parts.join("; "))
    }
}

impl fmt::Display for Shares<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0 {
            return Backend(only).fmt(f);
        }
        let total: u64 = self.0.iter().map(|backend| u64::from(backend.weight)).sum();
        f.write_str(&listed(self.0.iter().map(|one| format!("{} ({} of {total})", Backend(one), one.weight))))
    }
}

impl fmt::Display for Backend<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)?;
        if let Some(why) = &self.0.invalid {
            write!(f, " [answers 500: {why}]")?;
        }
        let filters = self.filters();
        if filters.is_empty() { Ok(()) } else { write!(f, " [{}]", filters.join("; ")) }
    }
}

impl fmt::Display for Filtering<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Filter::RequestHeaders(changes) => headers(f, "request", changes),
            Filter::ResponseHeaders(changes) => headers(f, "response", changes),
            Filter::Redirect(redirect) => redirects(f, redirect),
            Filter::Rewrite(rewrite) => {
                f.write_str("rewrites")?;
                if let Some(host) = &rewrite.host {
                    write!(f, " host to {host}")?;
                }
                path(f, rewrite.path.as_ref())
            }
            Filter::Mirror(mirror) => {
                write!(f, "mirrors to {}", Backend(&mirror.backend))?;
                let (part, whole) = (mirror.share.numerator, mirror.share.denominator.max(1));
                if part < whole { write!(f, " ({part} of {whole})") } else { Ok(()) }
            }
            Filter::Cors(cors) => write!(f, "answers CORS for {}", listed(&cors.origins)),
            Filter::Allow(allow) => write!(f, "admits peers: {}", listed(&allow.peers)),
            Filter::RateLimit(limit) => {
                write!(f, "admits {} requests in {:?}", limit.requests, limit.per)?;
                match &limit.key {
                    RateKey::Rule => Ok(()),
                    RateKey::ClientIp => f.write_str(" for each client address"),
                    RateKey::Header(name) => write!(f, " for each value of header {name}"),
                    RateKey::Identity => f.write_str(" for each identity"),
                }
            }
            Filter::Fault(fault) => {
                f.write_str("injects faults")?;
                if let Some(delay) = &fault.delay {
                    write!(f, ", a delay of {:?} for {} percent", delay.duration, delay.percent)?;
                }
                if let Some(abort) = &fault.abort {
                    match &abort.with {
                        FaultKind::Status(status) => write!(f, ", status {status}")?,
                        with => write!(f, ", {with:?}")?,
                    }
                    write!(f, " for {} percent", abort.percent)?;
                }
                Ok(())
            }
            Filter::Priority(priority) => write!(f, "priority {priority:?}"),
            Filter::ClientCert(told) => match told.tell {
                ClientCert::Keep => f.write_str("keeps what is told of the client's certificate"),
                ClientCert::Set => f.write_str("tells of the client's certificate"),
                ClientCert::Append => f.write_str("adds to what is told of certificates"),
            },
            Filter::ExternalAuth(auth) => write!(f, "asks {} whether it may", Backend(&auth.backend)),
        }
    }
}

fn headers(f: &mut fmt::Formatter<'_>, whose: &str, changes: &HeaderChanges) -> fmt::Result {
    let value = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let set = changes.set.iter().map(|(name, text)| format!("sets {name}: `{}`", value(text)));
    let add = changes.add.iter().map(|(name, text)| format!("adds {name}: `{}`", value(text)));
    let remove = changes.remove.iter().map(|name| format!("removes {name}"));
    write!(f, "{whose} headers: {}", listed(set.chain(add).chain(remove)))
}

fn redirects(f: &mut fmt::Formatter<'_>, redirect: &Redirect) -> fmt::Result {
    write!(f, "redirects with {}", redirect.status)?;
    match redirect.scheme {
        Some(Scheme::Http) => f.write_str(" to scheme http")?,
        Some(Scheme::Https) => f.write_str(" to scheme https")?,
        None => {}
    }
    if let Some(host) = &redirect.host {
        write!(f, " to host {host}")?;
    }
    if let Some(port) = redirect.port {
        write!(f, " to port {port}")?;
    }
    path(f, redirect.path.as_ref())
}

fn path(f: &mut fmt::Formatter<'_>, change: Option<&PathChange>) -> fmt::Result {
    match change {
        None => Ok(()),
        Some(PathChange::Full(path)) => write!(f, " path to {path}"),
        Some(PathChange::Prefix(prefix)) => write!(f, " prefix to {prefix}"),
    }
}

impl fmt::Display for Stands<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upstream, no_endpoint } = self;
        match &upstream.endpoints {
            Endpoints::Static(endpoints) if endpoints.is_empty() => write!(f, "no endpoint ({no_endpoint})")?,
            Endpoints::Static(endpoints) => {
                let one = endpoints.iter().map(|endpoint| match endpoint.weight {
                    1 => endpoint.address.to_string(),
                    weight => format!("{} (weight {weight})", endpoint.address),
                });
                f.write_str(&listed(one))?;
            }
            Endpoints::Dns { host, port, .. } => write!(f, "{host}:{port} by DNS")?,
        }
        match upstream.protocol {
            Protocol::Auto => {}
            Protocol::Http1 => f.write_str("; HTTP/1.1")?,
            Protocol::Http2 => f.write_str("; HTTP/2")?,
        }
        if let Some(tls) = &upstream.tls {
            f.write_str("; TLS")?;
            if let Some(name) = &tls.server_name {
                write!(f, " as {name}")?;
            }
            if let Some(identity) = &tls.identity {
                write!(f, ", shows identity {identity}")?;
            }
            if let Some(bundles) = &tls.trust {
                write!(f, ", trusts {}", TrustDomains(bundles))?;
            }
        }
        let adaptive = upstream.adaptive_concurrency.as_ref().map(|adaptive| match adaptive {
            AdaptiveConcurrency::Gradient(_) | AdaptiveConcurrency::Aimd(_) => "adaptive limit of concurrency",
        });
        let parts = [
            upstream.circuit_breaker.as_ref().map(|_| "circuit breaker"),
            upstream.endpoint_circuit_breaker.as_ref().map(|_| "circuit breaker for each endpoint"),
            upstream.outlier_detection.as_ref().map(|_| "outlier detection"),
            upstream.health_check.as_ref().map(|_| "health checks"),
            upstream.hedge.as_ref().map(|_| "hedging"),
            upstream.concurrency.as_ref().map(|_| "limit of concurrency"),
            adaptive,
            upstream.shed.as_ref().map(|_| "load shedding"),
        ];
        parts.into_iter().flatten().try_for_each(|part| write!(f, "; {part}"))
    }
}

impl fmt::Display for TrustDomains<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody");
        }
        let one = self.0.iter().map(|bundle| {
            let names = if bundle.dns_names { " (its DNS names too)" } else { "" };
            format!("{}{names}", bundle.domain)
        });
        f.write_str(&listed(one))
    }
}

fn listed<T: ToString>(parts: impl IntoIterator<Item = T>) -> String {
    parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Rewrite, Timeouts, UpstreamTls};

    #[test]
    fn a_rule_is_told_in_one_line() {
        let changes = HeaderChanges { set: vec![("x-a".parse().unwrap(), "1".parse().unwrap())], ..Default::default() };
        let rewrite = Rewrite { path: Some(PathChange::Prefix("/v2".into())), ..Rewrite::default() };
        let canary = BackendRef { filters: vec![Filter::Rewrite(rewrite)], ..BackendRef::new("canary") };
        let rule = Rule {
            backends: vec![BackendRef { weight: 9, ..BackendRef::new("web") }, canary],
            filters: vec![Filter::RequestHeaders(changes)],
            retry: Some(Retry {
                attempts: 2,
                statuses: vec![503],
                longest_wait: Duration::from_secs(2),
                ..Retry::default()
            }),
            timeouts: Timeouts {
                request: Some(Duration::from_secs(2)),
                backend_request: Some(Duration::ZERO),
                max_stream_duration: Some(Duration::from_secs(60)),
                idle: Some(Duration::from_secs(5)),
                deadline_header: Some(http::HeaderName::from_static("x-left")),
                deadline_ends_body: true,
            },
            ..Rule::default()
        };
        assert_eq!(
            Does(&rule).to_string(),
            "web (9 of 10), canary [rewrites prefix to /v2] (1 of 10); request headers: sets x-a: `1`; \
             retries up to 2 times on 503, 2s at the most; request within 2s; attempt without a limit of time; \
             stream within 60s; pause within 5s; deadlines end bodies too; deadlines in x-left"
        );
        assert_eq!(Does(&Rule::default()).to_string(), "answers 500: it has no backend");
        let away = Rule { filters: vec![Filter::Redirect(Redirect::default())], ..Rule::default() };
        assert_eq!(Does(&away).to_string(), "redirects with 302");
    }

    #[test]
    fn an_upstream_is_told_with_its_tls() {
        let mut upstream = Upstream::new("cart", Endpoints::fixed([]));
        let words = |upstream: &Upstream| Stands { upstream, no_endpoint: "503" }.to_string();
        assert_eq!(words(&upstream), "no endpoint (503)");
        upstream.endpoints = Endpoints::fixed(["127.0.0.1:1".parse().unwrap()]);
        upstream.tls = Some(UpstreamTls { server_name: Some("cart.example".into()), ..UpstreamTls::default() });
        assert_eq!(words(&upstream), "127.0.0.1:1; TLS as cart.example");
        let bundle = |domain: &str, dns_names| {
            let (domain, roots) = (domain.parse().unwrap(), b"".as_slice().into());
            TrustBundle { domain, roots, crls: None, dns_names }
        };
        let trust = Some(vec![bundle("ours.example", true), bundle("partner.example", false)]);
        upstream.tls = Some(UpstreamTls { trust, identity: Some("mesh".into()), ..UpstreamTls::default() });
        assert_eq!(
            words(&upstream),
            "127.0.0.1:1; TLS, shows identity mesh, trusts ours.example (its DNS names too), partner.example"
        );
    }
}
