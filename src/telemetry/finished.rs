use std::{borrow::Cow, fmt};

use http::{HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use tokio::time::Duration;

use crate::{Outcome, connection::ConnectionInfo, exchange::Record};

/// The record of one request, complete and final.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// The status the client was answered with; `None` if it went away before, or the service failed.
    pub status: Option<StatusCode>,
    /// The gRPC status, from trailers or from the head of an answer without a body.
    pub grpc_status: Option<u32>,
    /// The request's method, as a label of bounded cardinality.
    pub method: MethodLabel,
    /// Bytes of the response's body that were handed to the server.
    pub response_bytes: u64,
    /// From the beginning to the end.
    pub duration: Duration,
    /// What the layers and services inside made known. Its `outcome` and `detail` are the final ones.
    pub record: Record,
    /// What was asked; `None` unless a recorder had asked for it as the request began ([`Interest::Request`]).
    ///
    /// [`Interest::Request`]: super::Interest::Request
    pub request: Option<RequestFacts>,
}

/// What was asked for, as it came in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RequestFacts {
    /// The method.
    pub method: Method,
    /// The request's target.
    pub uri: Uri,
    /// The `Host` field.
    pub host: Option<HeaderValue>,
    /// The protocol's version.
    pub version: Version,
    /// The connection it came on, where the server told.
    pub connection: Option<ConnectionInfo>,
}

impl RequestFacts {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: request.headers().get(header::HOST).cloned(),
            version: request.version(),
            connection: request.extensions().get::<ConnectionInfo>().cloned(),
        }
    }

    /// The host that was asked for, with its port if it was named: the target's authority, else the `Host` field.
    #[must_use]
    pub fn authority(&self) -> Option<Cow<'_, str>> {
        match self.uri.authority() {
            // Credentials in a target are nobody's business.
            Some(authority) => authority.as_str().rsplit('@').next().map(Cow::Borrowed),
            None => self.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes())),
        }
    }
}

/// A request's method as a label: one of the standard ones, or `other`.
///
/// # Example
/// ```
/// use http::Method;
/// use portcullis::telemetry::MethodLabel;
///
/// assert_eq!(MethodLabel::from(&Method::PATCH).as_str(), "PATCH");
/// assert_eq!(MethodLabel::from(&Method::from_bytes(b"BREW").unwrap()).as_str(), "other");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodLabel(u8);

const LABELS: [&str; MethodLabel::COUNT] =
    ["other", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

impl MethodLabel {
    pub(super) const COUNT: usize = 10;

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        LABELS.get(self.index()).copied().unwrap_or("other")
    }

    /// Less than [`COUNT`](Self::COUNT).
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    #[cfg(feature = "metrics")]
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..=9).map(Self)
    }
}

impl From<&Method> for MethodLabel {
    fn from(method: &Method) -> Self {
        Self(match *method {
            Method::GET => 1,
            Method::HEAD => 2,
            Method::POST => 3,
            Method::PUT => 4,
            Method::DELETE => 5,
            Method::CONNECT => 6,
            Method::OPTIONS => 7,
            Method::TRACE => 8,
            Method::PATCH => 9,
            _ => 0,
        })
    }
}

impl fmt::Display for MethodLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
