//! What a rule does, in words.

use std::fmt;

use crate::config::{BackendRef, Filter, PathChange, Rule, Split};

/// What a rule does with its requests, in one line.
pub(super) struct Does<'a>(pub(super) &'a Rule);

impl fmt::Display for Does<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.0;
        if let Some(why) = &rule.invalid {
            return write!(f, "answers 500: {why}");
        }
        let redirects = rule.filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
        match &*rule.backends {
            [] if redirects => {}
            [] => f.write_str("answers 500: it has no backend")?,
            [only] => backend(f, only)?,
            several => {
                let total: u64 = several.iter().map(|backend| u64::from(backend.weight)).sum();
                for (index, one) in several.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    backend(f, one)?;
                    write!(f, " ({} of {total})", one.weight)?;
                }
            }
        }
        let mut first = rule.backends.is_empty() && redirects;
        for one in &rule.filters {
            f.write_str(if std::mem::take(&mut first) { "" } else { "; " })?;
            filter(f, one)?;
        }
        match &rule.split {
            Split::Turns => {}
            Split::By(key) => write!(f, "; split by {key:?}")?,
            Split::Cohort => f.write_str("; split by cohort")?,
        }
        if let Some(rollout) = &rule.rollout {
            write!(f, "; rolls out {}", rollout.canary)?;
        }
        if rule.session.is_some() {
            f.write_str("; keeps sessions")?;
        }
        if let Some(retry) = &rule.retry {
            write!(f, "; retries up to {} times", retry.attempts)?;
        }
        for (what, limit) in [("request", rule.timeouts.request), ("attempt", rule.timeouts.backend_request)] {
            if let Some(limit) = limit.filter(|limit| !limit.is_zero()) {
                write!(f, "; {what} within {limit:?}")?;
            }
        }
        Ok(())
    }
}

fn backend(f: &mut fmt::Formatter<'_>, backend: &BackendRef) -> fmt::Result {
    f.write_str(&backend.name)?;
    if let Some(why) = &backend.invalid {
        write!(f, " [answers 500: {why}]")?;
    }
    for (index, one) in backend.filters.iter().enumerate() {
        f.write_str(if index == 0 { " [" } else { "; " })?;
        filter(f, one)?;
    }
    f.write_str(if backend.filters.is_empty() { "" } else { "]" })
}

fn filter(f: &mut fmt::Formatter<'_>, filter: &Filter) -> fmt::Result {
    let path = |path: &Option<PathChange>| match path {
        None => String::new(),
        Some(PathChange::Full(path)) => format!(" path {path}"),
        Some(PathChange::Prefix(prefix)) => format!(" prefix {prefix}"),
    };
    match filter {
        Filter::RequestHeaders(_) => f.write_str("changes request headers"),
        Filter::ResponseHeaders(_) => f.write_str("changes response headers"),
        Filter::Redirect(redirect) => {
            write!(f, "redirects with {}", redirect.status)?;
            if let Some(scheme) = &redirect.scheme {
                write!(f, " to scheme {scheme:?}")?;
            }
            if let Some(host) = &redirect.host {
                write!(f, " to host {host}")?;
            }
            if let Some(port) = redirect.port {
                write!(f, " to port {port}")?;
            }
            f.write_str(&path(&redirect.path))
        }
        Filter::Rewrite(rewrite) => {
            f.write_str("rewrites")?;
            if let Some(host) = &rewrite.host {
                write!(f, " host {host}")?;
            }
            f.write_str(&path(&rewrite.path))
        }
        Filter::Mirror(mirror) => write!(f, "mirrors to {}", mirror.backend.name),
        Filter::Cors(_) => f.write_str("answers CORS"),
        Filter::Allow(_) => f.write_str("admits by identity"),
        Filter::RateLimit(_) => f.write_str("limits the rate"),
        Filter::Fault(_) => f.write_str("injects faults"),
        Filter::ExternalAuth(auth) => write!(f, "asks {}", auth.backend.name),
    }
}
