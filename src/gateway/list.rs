use std::{fmt, sync::Arc};

use crate::config::{Config, Match, PathMatch};

/// The routes of a configuration as text for people: a line for each match, with the backends it leads to.
#[derive(Debug, Clone)]
pub struct RouteList(pub(super) Arc<Config>);

impl fmt::Display for RouteList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for route in &self.0.routes {
            for (index, rule) in route.rules.iter().enumerate() {
                let any = [Match::default()];
                let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
                for asked in matches {
                    write!(f, "{} rule {index}: ", route.name)?;
                    hosts(route, f)?;
                    conditions(asked, f)?;
                    f.write_str(" ->")?;
                    for backend in &rule.backends {
                        write!(f, " {}", backend.name)?;
                        if backend.weight != 1 {
                            write!(f, "*{}", backend.weight)?;
                        }
                        if let Some(why) = &backend.invalid {
                            write!(f, " (500: {why})")?;
                        }
                    }
                    f.write_str("\n")?;
                }
            }
        }
        Ok(())
    }
}

fn hosts(route: &crate::config::Route, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if route.hosts.is_empty() {
        return f.write_str("*");
    }
    for (index, host) in route.hosts.iter().enumerate() {
        write!(f, "{}{host}", if index == 0 { "" } else { "," })?;
    }
    Ok(())
}

fn conditions(asked: &Match, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &asked.path {
        PathMatch::Exact(path) => write!(f, " ={path}")?,
        PathMatch::Prefix(path) => write!(f, " {path}")?,
        PathMatch::GrpcMethod(method) => write!(f, " */{method}")?,
        #[cfg(feature = "regex")]
        PathMatch::Regex(pattern) => write!(f, " ~{}", pattern.as_str())?,
    }
    if let Some(method) = &asked.method {
        write!(f, " {method}")?;
    }
    for header in &asked.headers {
        write!(f, " header {}", header.name)?;
    }
    for query in &asked.query {
        write!(f, " query {}", query.name)?;
    }
    for cookie in &asked.cookies {
        write!(f, " cookie {}", cookie.name)?;
    }
    Ok(())
}
