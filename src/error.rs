//! The one error of the leaf: what failed, on whose side, and whether a byte was sent.

use std::{convert::Infallible, error::Error as StdError, fmt, io, time::Duration};

use http::StatusCode;

use crate::{BoxError, Outcome, Side};

/// How much of a request had left this process when it failed, which decides what may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Sent {
    /// Nothing was written to any connection: any method may go elsewhere.
    Nothing,
    /// Something may have been written to an HTTP/2 connection that its peer was just ending as it should, and the peer said
    /// that it did not process the request: its stream is above the last one named by `GOAWAY` (RFC 9113 section 6.8). It says
    /// nothing against the peer, and any method may go there again.
    GoAway,
    /// Something may have been written, and the peer said that it did not process the request (`REFUSED_STREAM`, or
    /// a `GOAWAY` for an error; RFC 9113 section 8.7): any method may go elsewhere.
    Refused,
    /// It was written to a connection that had served others before, and that ended without an answer: most likely it was
    /// being closed for idleness just then (RFC 9112 section 9.5). It says nothing against the peer, and a safe method may
    /// go there again.
    Stale,
    /// Something may have been written and processed: only safe methods may be tried again.
    Possibly,
}

/// Why a request could not be answered by its upstream.
///
/// Policies (layers) answer with a response and leave the inner error type alone; the leaf, an
/// upstream or what stands in for one, fails with this. One layer at the edge
/// turns it into a response.
///
/// # Example
/// ```
/// use portcullis::{Error, Outcome, Sent};
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = Error::new(Outcome::ConnectFailed).with_source(refused);
/// assert_eq!(error.sent(), Sent::Nothing);
/// assert_eq!(error.status(), http::StatusCode::BAD_GATEWAY);
/// assert_eq!(error.to_string(), "connect_failed: connection refused");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    outcome: Outcome,
    sent: Sent,
    retry_after: Option<Duration>,
    source: Option<BoxError>,
}

impl Error {
    /// An error of which nothing more is known than its outcome, with [`Sent::Nothing`].
    #[must_use]
    pub fn new(outcome: Outcome) -> Self {
        Self(Box::new(Inner { outcome, sent: Sent::Nothing, retry_after: None, source: None }))
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with how much of the request was sent.
    #[must_use]
    pub fn with_sent(mut self, sent: Sent) -> Self {
        self.0.sent = sent;
        self
    }

    /// The same error with after how long it is worth trying again, which the client is told.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// What happened.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// How much of the request was sent.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.0.sent
    }

    /// After how long it is worth trying again, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whose doing it is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.0.outcome.side()
    }

    /// The status to answer the client with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.outcome.status()
    }
}

/// Services that cannot fail stand beside ones that do.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("outcome", &self.0.outcome)
            .field("sent", &self.0.sent)
            .field("retry_after", &self.0.retry_after)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.outcome.fmt(f)?;
        if let Some(wait) = self.0.retry_after {
            write!(f, ": for {} ms more", wait.as_millis())?;
        }
        // The whole chain on one line: this text goes to the log, and the causes of hyper and rustls errors hold
        // what matters.
        let mut source = self.0.source.as_deref().map(|e| e as &dyn StdError);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// An error and its causes.
pub(crate) fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(bare(error)), |error| (*error).source().map(bare))
}

/// The outcome of the first [`Error`] among an error and its causes.
pub(crate) fn outcome_of(error: &(dyn StdError + 'static)) -> Option<Outcome> {
    chain(error).find_map(|error| error.downcast_ref::<Error>()).map(Error::outcome)
}

/// The error inside, where an I/O error is but its shell: that has its text, and hides it from the chain of sources.
fn bare<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => bare(inner),
        None => error,
    }
}
