//! Requests that stand for classes of requests.

use std::fmt;

use http::{HeaderValue, Method, Request, Uri};

use crate::{
    config::{Match, PathMatch, ValueMatch},
    route::{path::normalize, request::Words},
};

/// A part of a host's paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PathClass {
    /// This path and whatever lies below it, but for what is named more closely.
    Prefix(String),
    /// This path alone.
    Exact(String),
    /// What lies below this path, without itself.
    Below(String),
    /// This method of any gRPC service.
    GrpcMethod(String),
    /// What an expression fits, by one path that it fits.
    Regex {
        /// The expression.
        pattern: String,
        /// The path.
        sample: String,
    },
}

/// What a class of requests has beside its host and path: what some of the matches ask for, and nothing else of the kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum When<'a> {
    Nothing,
    One(&'a Match),
    Both(&'a Match, &'a Match),
}

impl PathClass {
    /// The classes that a match divides paths into.
    pub(super) fn of(path: &PathMatch, classes: &mut Vec<Self>) -> Result<(), String> {
        // A path without a normal form fits nothing; the table has refused it.
        let normal = |path: &str| normalize(path).map(std::borrow::Cow::into_owned).unwrap_or_default();
        match path {
            PathMatch::Exact(path) => classes.push(Self::Exact(normal(path))),
            PathMatch::Prefix(prefix) => {
                let prefix = normal(prefix);
                let prefix = prefix.trim_end_matches('/');
                classes.push(Self::Exact(if prefix.is_empty() { "/" } else { prefix }.to_owned()));
                classes.push(Self::Below(prefix.to_owned()));
            }
            PathMatch::GrpcMethod(method) => classes.push(Self::GrpcMethod(method.clone())),
            #[cfg(feature = "regex")]
            PathMatch::Regex(pattern) => {
                let sample = expression(pattern).filter(|path| path.starts_with('/'));
                let sample = sample.ok_or_else(|| format!("paths like `{}`", pattern.as_str()))?;
                classes.push(Self::Regex { pattern: pattern.as_str().to_owned(), sample });
            }
        }
        Ok(())
    }

    /// A path of the class; `unlisted` is a segment that no match names.
    pub(super) fn sample(&self, unlisted: &str) -> String {
        match self {
            Self::Exact(path) => path.clone(),
            Self::Prefix(path) | Self::Below(path) => format!("{path}/{unlisted}"),
            Self::GrpcMethod(method) => format!("/{unlisted}/{method}"),
            Self::Regex { sample, .. } => sample.clone(),
        }
    }
}

impl<'a> When<'a> {
    /// Nothing, each of the matches alone, and, as long as they are few, any two of them.
    pub(super) fn all(matches: &[&'a Match]) -> Vec<Self> {
        const FEW: usize = 16;
        let mut all = vec![Self::Nothing];
        all.extend(matches.iter().map(|one| Self::One(one)));
        if matches.len() <= FEW {
            for (index, first) in matches.iter().enumerate() {
                let compatible = |second: &&&Match| match (&first.method, &second.method) {
                    (Some(first), Some(second)) => first == second,
                    _ => true,
                };
                all.extend(matches[index + 1..].iter().filter(compatible).map(|second| Self::Both(first, second)));
            }
        }
        all
    }

    fn matches(self) -> impl Iterator<Item = &'a Match> {
        let (first, second) = match self {
            Self::Nothing => (None, None),
            Self::One(one) => (Some(one), None),
            Self::Both(first, second) => (Some(first), Some(second)),
        };
        first.into_iter().chain(second)
    }

    /// Whether this asks for all that `other` does, and for more.
    pub(super) fn includes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Nothing, _) => false,
            (_, Self::Nothing) => true,
            (Self::Both(first, second), Self::One(one)) => first == one || second == one,
            _ => false,
        }
    }

    /// A request for `path` of `host` that has all this. `other` is a method that no match asks for.
    pub(super) fn request(self, host: &str, path: &str, other: &Method) -> Result<Request<()>, String> {
        let mut request = Request::new(());
        *request.method_mut() =
            self.matches().find_map(|matching| matching.method.clone()).unwrap_or_else(|| other.clone());
        let mut query = String::new();
        let mut cookie = String::new();
        for matching in self.matches() {
            for header in &matching.headers {
                let Some(text) = value(&header.value)? else { continue };
                let text = HeaderValue::try_from(text).map_err(|_| format!("header {}", header.name))?;
                request.headers_mut().insert(header.name.clone(), text);
            }
            for one in &matching.query {
                let Some(text) = value(&one.value)? else { continue };
                query += if query.is_empty() { "?" } else { "&" };
                query += &format!("{}={}", encoded(&one.name), encoded(&text));
            }
            for one in &matching.cookies {
                let Some(text) = value(&one.value)? else { continue };
                cookie += if cookie.is_empty() { "" } else { "; " };
                cookie += &format!("{}={text}", one.name);
            }
        }
        if !cookie.is_empty() {
            let text = HeaderValue::try_from(cookie).map_err(|_| "a cookie".to_owned())?;
            request.headers_mut().insert(http::header::COOKIE, text);
        }
        let uri = format!("http://{host}{path}{query}");
        *request.uri_mut() = Uri::try_from(uri).map_err(|_| format!("path {path}"))?;
        Ok(request)
    }
}

/// A value that fits; `None` where it has to be absent.
fn value(expected: &ValueMatch) -> Result<Option<String>, String> {
    Ok(match expected {
        ValueMatch::Exact(value) => Some(value.clone()),
        ValueMatch::Present => Some("any".to_owned()),
        ValueMatch::Absent => None,
        #[cfg(feature = "regex")]
        ValueMatch::Regex(pattern) => {
            Some(expression(pattern).ok_or_else(|| format!("values like `{}`", pattern.as_str()))?)
        }
    })
}

fn encoded(text: &str) -> percent_encoding::PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

/// A short text that the expression fits, where one is easily found.
#[cfg(feature = "regex")]
fn expression(pattern: &crate::config::Pattern) -> Option<String> {
    let mut text = String::new();
    shortest(&regex_syntax::parse(pattern.as_str()).ok()?, &mut text);
    pattern.is_match(&text).then_some(text)
}

#[cfg(feature = "regex")]
fn shortest(hir: &regex_syntax::hir::Hir, text: &mut String) {
    use regex_syntax::hir::{Class, HirKind};
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(class) => {
            // A letter or digit where there is one: it stands in a path, a field and a cookie alike.
            let fits = |wanted: char| match class {
                Class::Unicode(class) => {
                    class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&wanted))
                }
                Class::Bytes(class) => {
                    let wanted = wanted as u32;
                    class
                        .ranges()
                        .iter()
                        .any(|range| (u32::from(range.start())..=u32::from(range.end())).contains(&wanted))
                }
            };
            let plain = ('a'..='z').chain('0'..='9').chain('A'..='Z').chain("-_.~/:".chars());
            let first = match class {
                Class::Unicode(class) => class.ranges().first().map(|range| range.start()),
                Class::Bytes(class) => class.ranges().first().map(|range| char::from(range.start())),
            };
            text.extend(plain.into_iter().find(|wanted| fits(*wanted)).or(first));
        }
        HirKind::Repetition(repetition) => {
            // Once where it may be, so that `.*` is not an empty segment.
            let times = repetition.min.max(u32::from(repetition.max != Some(0))).min(64);
            (0..times).for_each(|_| shortest(&repetition.sub, text));
        }
        HirKind::Capture(capture) => shortest(&capture.sub, text),
        HirKind::Concat(parts) => parts.iter().for_each(|part| shortest(part, text)),
        HirKind::Alternation(parts) => parts.iter().take(1).for_each(|part| shortest(part, text)),
    }
}

impl fmt::Display for PathClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "{path} exactly"),
            Self::Prefix(path) | Self::Below(path) if path.is_empty() => f.write_str("any other path"),
            Self::Prefix(path) => write!(f, "{path} and below"),
            Self::Below(path) => write!(f, "below {path}/"),
            Self::GrpcMethod(method) => write!(f, "gRPC method {method} of any service"),
            Self::Regex { pattern, sample } => write!(f, "paths like `{pattern}`, such as {sample}"),
        }
    }
}

impl fmt::Display for When<'_> {
    /// What is asked for; empty for nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut part = |f: &mut fmt::Formatter<'_>, kind: &str, name: &str, value: &dyn fmt::Display| {
            f.write_str(if std::mem::take(&mut first) { "" } else { ", " })?;
            if name.is_empty() { write!(f, "{kind} {value}") } else { write!(f, "{kind} {name}: {value}") }
        };
        for matching in self.matches() {
            if let Some(method) = &matching.method {
                part(f, "method", "", method)?;
            }
            for header in &matching.headers {
                part(f, "header", header.name.as_str(), &Words(&header.value))?;
            }
            for one in &matching.query {
                part(f, "query parameter", &one.name, &Words(&one.value))?;
            }
            for one in &matching.cookies {
                part(f, "cookie", &one.name, &Words(&one.value))?;
            }
        }
        Ok(())
    }
}
