use std::fmt::Write as _;

use http::{HeaderValue, StatusCode, uri::Authority};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use crate::{
    config,
    config::Scheme,
    filter::{InvalidFilter, host, path::Replacement},
};

/// Where requests are redirected to.
#[derive(Debug)]
pub(super) struct Policy {
    scheme: Option<Scheme>,
    host: Option<Authority>,
    path: Option<Replacement>,
    port: Option<u16>,
    pub(super) status: StatusCode,
}

/// What a redirect takes from a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) scheme: Scheme,
    /// As the client named it, perhaps with a port.
    pub(super) authority: Option<&'a str>,
    /// The port the client connected to, where that is known.
    pub(super) port: Option<u16>,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) prefix_len: usize,
}

impl Policy {
    pub(super) fn new(redirect: config::Redirect) -> Result<Self, InvalidFilter> {
        let config::Redirect { scheme, host, path, port, status } = redirect;
        if port == Some(0) {
            return Err(InvalidFilter::Port);
        }
        let status = match (status, StatusCode::from_u16(status)) {
            (301 | 302 | 303 | 307 | 308, Ok(status)) => status,
            _ => return Err(InvalidFilter::Status { status }),
        };
        Ok(Self {
            scheme,
            host: host.map(host::parse).transpose()?,
            path: path.map(Replacement::new).transpose()?,
            port,
            status,
        })
    }

    /// An absolute URI, or nothing if the request does not say which host it is for.
    pub(super) fn location(&self, asked: Asked<'_>) -> Option<HeaderValue> {
        let named = asked.authority.and_then(host::split);
        let scheme = self.scheme.unwrap_or(asked.scheme);
        let (name, well_known) = match scheme {
            Scheme::Http => ("http", 80),
            Scheme::Https => ("https", 443),
        };
        let port = match (self.port, self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => asked.port.or_else(|| named?.1),
        };
        let host = match &self.host {
            Some(host) => host.as_str(),
            None => named?.0,
        };
        let path = match &self.path {
            Some(replacement) => replacement.apply(asked.path, asked.prefix_len).0,
            None => asked.path.into(),
        };
        let mut location = format!("{name}://{host}");
        // To a string nothing fails.
        if let Some(port) = port.filter(|port| *port != well_known) {
            let _ = write!(location, ":{port}");
        }
        // `*` and nothing are targets, not paths.
        let path = if path.starts_with('/') { &*path } else { "/" };
        let _ = write!(location, "{}", utf8_percent_encode(path, CONTROLS));
        if let Some(query) = asked.query {
            let _ = write!(location, "?{}", utf8_percent_encode(query, CONTROLS));
        }
        HeaderValue::try_from(location).ok()
    }
}
