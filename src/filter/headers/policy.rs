use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};

use crate::{config::HeaderChanges, filter::InvalidFilter};

/// Changes that have been checked, each name once.
#[derive(Debug, Default)]
pub(super) struct Changes {
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    remove: Box<[HeaderName]>,
}

impl Changes {
    /// Of a request's fields.
    pub(super) fn request(changes: HeaderChanges) -> Result<Self, InvalidFilter> {
        let changes = Self::response(changes)?;
        if changes.names().any(|name| dashed(name) == HOST.as_str()) {
            return Err(InvalidFilter::HostField);
        }
        Ok(changes)
    }

    /// Of a response's fields.
    pub(super) fn response(changes: HeaderChanges) -> Result<Self, InvalidFilter> {
        let HeaderChanges { set, add, remove } = changes;
        let changes = Self { set: first_of_each(set), add: first_of_each(add), remove: remove.into() };
        let forbidden = changes.names().find(|name| is_connections(name)).cloned();
        forbidden.map_or(Ok(changes), |name| Err(InvalidFilter::ConnectionField { name }))
    }

    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().chain(&self.add).map(|(name, _)| name).chain(&self.remove)
    }
}

/// Gateway API: of entries with one name the first counts.
fn first_of_each(fields: Vec<(HeaderName, HeaderValue)>) -> Box<[(HeaderName, HeaderValue)]> {
    let mut kept = Vec::<(HeaderName, HeaderValue)>::with_capacity(fields.len());
    for (name, value) in fields {
        if !kept.iter().any(|(other, _)| *other == name) {
            kept.push((name, value));
        }
    }
    kept.into()
}

/// Whether a field frames the message or is for one hop (RFC 9110 section 7.6.1), also for readers to whom `_` is `-`.
fn is_connections(name: &HeaderName) -> bool {
    matches!(
        &*dashed(name),
        "connection"
            | "content-length"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn dashed(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}
