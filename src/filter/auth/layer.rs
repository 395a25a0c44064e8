use std::{fmt, sync::Arc};

use http::HeaderName;
#[cfg(feature = "grpc-auth")]
use http::HeaderValue;
use thiserror::Error;
use tokio::time::Duration;
use tower_layer::Layer;

use super::{Auth, fields};
use crate::config::{self, AuthProtocol};

/// Asks a target whether requests may go on; see the [module](super).
#[must_use]
#[derive(Clone)]
pub struct AuthLayer<T> {
    target: T,
    settings: Settings,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) protocol: Protocol,
    /// How many bytes of the body are shown; none if zero.
    pub(super) max_body: usize,
    pub(super) timeout: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Protocol {
    Http(HttpTerms),
    #[cfg(feature = "grpc-auth")]
    Grpc(GrpcTerms),
}

#[derive(Debug, Clone)]
pub(super) struct HttpTerms {
    /// Without a slash at the end.
    pub(super) prefix: String,
    /// The request's fields that are shown, besides those that always are.
    pub(super) headers: Vec<HeaderName>,
    /// The answer's fields that go into the request; if empty, all that may.
    pub(super) response_headers: Vec<HeaderName>,
}

#[cfg(feature = "grpc-auth")]
#[derive(Debug, Clone)]
pub(super) struct GrpcTerms {
    /// The request's fields that are shown; if empty, all.
    pub(super) headers: Vec<HeaderName>,
    pub(super) authority: HeaderValue,
}

/// Why an authorization service cannot be asked as configured.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidAuth {
    /// A field's name is none.
    #[error("external authorization: `{name}` is not the name of a header field")]
    Name {
        /// The name.
        name: String,
    },
    /// A field belongs to the message it is in, and cannot go into another.
    #[error(
        "external authorization: the field `{name}` frames or routes the message it is in and cannot be copied to \
         another; leave it out of `{list}`"
    )]
    Field {
        /// Its name.
        name: HeaderName,
        /// The list it is in.
        list: &'static str,
    },
    /// What is put before paths is no path.
    #[error("external authorization: the path prefix `{path}` is not usable: {why}")]
    Path {
        /// The prefix.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// This program cannot ask by gRPC.
    #[error("external authorization by gRPC: build with the feature `grpc-auth`")]
    NoGrpc,
}

impl<T> AuthLayer<T> {
    /// Asks `target` as `config` says. Its `backend` is not looked at: it is what `target` stands for.
    ///
    /// # Errors
    /// When a field's name or the path is not usable, or the protocol is not compiled in.
    pub fn new(config: &config::ExternalAuth, target: T) -> Result<Self, InvalidAuth> {
        let protocol = match &config.protocol {
            AuthProtocol::Http { path, headers, response_headers } => Protocol::Http(HttpTerms {
                prefix: prefix(path)?,
                headers: names(headers, "headers", fields::is_shown)?,
                response_headers: names(response_headers, "response_headers", fields::is_copied)?,
            }),
            #[cfg(feature = "grpc-auth")]
            AuthProtocol::Grpc { headers } => Protocol::Grpc(GrpcTerms {
                headers: names(headers, "headers", fields::is_shown)?,
                authority: HeaderValue::from_static("authorization"),
            }),
            #[cfg(not(feature = "grpc-auth"))]
            AuthProtocol::Grpc { .. } => return Err(InvalidAuth::NoGrpc),
        };
        let max_body = config.body.map_or(0, |max| usize::try_from(max).unwrap_or(usize::MAX));
        Ok(Self { target, settings: Settings { protocol, max_body, timeout: Duration::from_secs(10) } })
    }

    /// How long the service may take to answer. Default 10 s, which leaves it time to ask an identity provider in turn;
    /// Envoy's is 200 ms. A request's own deadline, where it comes first, counts as well.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// What the service is addressed as, over gRPC. Default `authorization`. Over HTTP it gets the request's own `Host`.
    #[cfg(feature = "grpc-auth")]
    pub fn authority(mut self, authority: HeaderValue) -> Self {
        if let Protocol::Grpc(terms) = &mut self.settings.protocol {
            terms.authority = authority;
        }
        self
    }
}

impl<S, T: Clone> Layer<S> for AuthLayer<T> {
    type Service = Auth<S, T>;

    fn layer(&self, inner: S) -> Auth<S, T> {
        Auth { inner, target: self.target.clone(), settings: Arc::new(self.settings.clone()) }
    }
}

fn names(
    list: &[String],
    called: &'static str,
    allowed: impl Fn(&HeaderName) -> bool,
) -> Result<Vec<HeaderName>, InvalidAuth> {
    let name = |text: &String| {
        let name = HeaderName::try_from(text).map_err(|_| InvalidAuth::Name { name: text.clone() })?;
        if allowed(&name) { Ok(name) } else { Err(InvalidAuth::Field { name, list: called }) }
    };
    list.iter().map(name).collect()
}

/// The prefix with a slash in front and none at the end.
fn prefix(path: &str) -> Result<String, InvalidAuth> {
    let invalid = |why| InvalidAuth::Path { path: path.to_owned(), why };
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&byte);
    if !path.bytes().all(is_path) {
        return Err(invalid("it has characters that a path does not have"));
    }
    if path.split('/').any(|segment| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")) {
        return Err(invalid("it has `.` or `..` as a segment"));
    }
    let path = path.trim_end_matches('/');
    Ok(if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

impl<T: fmt::Debug> fmt::Debug for AuthLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer").field("target", &self.target).field("settings", &self.settings).finish()
    }
}
