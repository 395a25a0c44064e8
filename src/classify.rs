//! What a response, or its absence, says of who was asked: the one place that decides what a failure is.
//!
//! Balancers, circuit breakers and outlier detection all go by it.
//!
//! # Rules
//! 1. A response that a layer of ours made in another's stead, and an [`Error`], are classified by their
//!    [`Outcome`]: what is the upstream's doing is a [`GatewayError`](Class::GatewayError); the client's doing, a limit or
//!    a refusal of ours, and a request that was sent to nobody, are [`Ignored`](Class::Ignored).
//! 2. Other responses are classified by their status: 502, 503 and 504 are gateway errors, 429 is
//!    [`Throttled`](Class::Throttled), other 5xx are [server errors](Class::ServerError) but 501 and 505, which say
//!    something of the request. Anything else is a [`Success`](Class::Success).
//! 3. gRPC: `grpc-status`, in the head or the trailers, where the status is a success: `DEADLINE_EXCEEDED` and
//!    `UNAVAILABLE` are gateway errors, `RESOURCE_EXHAUSTED` is throttled, `INTERNAL` and `DATA_LOSS` are server errors;
//!    the others are the application's answers. `DEADLINE_EXCEEDED` where the time that the caller has allowed by
//!    `grpc-timeout` is over is the caller's doing, and [`Ignored`](Class::Ignored). (Linkerd counts `PERMISSION_DENIED` too; it says something of the caller.)
//! 4. A body that fails is classified by the outcome that its error carries, by default a gateway error. A body that is
//!    dropped says nothing, but what the head said of a failure stands.
//!
//! # Example
//! ```
//! use http::{Response, StatusCode};
//! use portcullis::classify::Class;
//!
//! assert_eq!(Class::of_status(StatusCode::SERVICE_UNAVAILABLE), Class::GatewayError);
//! let trailers_only = Response::builder().header("grpc-status", "8").body(()).unwrap();
//! assert_eq!(Class::of_response(&trailers_only), Class::Throttled);
//! ```

use std::{any::Any, error::Error as StdError};

use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;

use crate::{BoxError, Error, Outcome, Side, body::End, error::outcome_of, grpc::Code};

/// What one request says of who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// It answered, whatever it was asked.
    Success,
    /// It is there, and asks for fewer requests.
    Throttled,
    /// It failed.
    ServerError,
    /// It could not be reached, broke off or was late, or says so of whom it asked itself.
    GatewayError,
    /// Nothing: the client went away, or nobody was asked.
    Ignored,
}

impl Class {
    /// Of a response's status alone.
    #[must_use]
    pub fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            429 => Self::Throttled,
            501 | 505 => Self::Success,
            502..=504 => Self::GatewayError,
            500..=599 => Self::ServerError,
            _ => Self::Success,
        }
    }

    /// Of a `grpc-status`, if there is one among these fields: a head's, or trailers.
    #[must_use]
    pub fn of_grpc(fields: &HeaderMap) -> Option<Self> {
        Some(match Code::of(fields)? {
            Code::DeadlineExceeded | Code::Unavailable => Self::GatewayError,
            Code::ResourceExhausted => Self::Throttled,
            Code::Internal | Code::DataLoss => Self::ServerError,
            _ => Self::Success,
        })
    }

    /// Of a response's head.
    #[must_use]
    pub fn of_response<B>(response: &Response<B>) -> Self {
        Self::of_head(response.status(), response.headers(), response.extensions())
    }

    pub(crate) fn of_head(status: StatusCode, headers: &HeaderMap, extensions: &http::Extensions) -> Self {
        match extensions.get::<Outcome>() {
            None | Some(Outcome::Completed) => {}
            Some(outcome) => return Self::of_outcome(*outcome),
        }
        match Self::of_status(status) {
            Self::Success => Self::of_grpc(headers).unwrap_or(Self::Success),
            failure => failure,
        }
    }

    /// Of an outcome other than [`Outcome::Completed`], which is taken for a success.
    #[must_use]
    pub fn of_outcome(outcome: Outcome) -> Self {
        match (outcome, outcome.side()) {
            (Outcome::Completed, _) => Self::Success,
            (Outcome::NoEndpoint | Outcome::PoolExhausted | Outcome::BreakerOpen, _) => Self::Ignored,
            (_, Side::Upstream) => Self::GatewayError,
            (_, Side::Downstream | Side::Internal) => Self::Ignored,
        }
    }

    /// Of what a service failed with: by the outcome of the [`Error`] that it is or that caused it, else a gateway
    /// error, for there was no answer.
    #[must_use]
    pub fn of_error<E: 'static>(error: &E) -> Self {
        outcome_in(error).map_or(Self::GatewayError, Self::of_outcome)
    }

    /// At the end of a body whose head and trailers said this so far.
    #[must_use]
    pub fn at_end(self, end: &End<'_>) -> Self {
        match (self, end) {
            (Self::Success, End::Failed(error)) => {
                outcome_of(error.as_ref()).map_or(Self::GatewayError, Self::of_outcome)
            }
            (Self::Success, End::Dropped) => Self::Ignored,
            (class, _) => class,
        }
    }

    /// With what trailers say; a failure known before stands.
    #[must_use]
    pub fn and_trailers(self, trailers: &HeaderMap) -> Self {
        match self {
            Self::Success => Self::of_grpc(trailers).unwrap_or(self),
            known => known,
        }
    }

    /// Of a gRPC call for which its caller has allowed time until `told`: that it is over then, as these fields say of it,
    /// is the caller's doing.
    pub(crate) fn in_time(self, fields: &HeaderMap, told: Option<Instant>) -> Self {
        let late =
            || told.is_some_and(|told| Instant::now() >= told) && Code::of(fields) == Some(Code::DeadlineExceeded);
        if self == Self::GatewayError && late() { Self::Ignored } else { self }
    }

    /// Throttled, or either error.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Throttled | Self::ServerError | Self::GatewayError)
    }

    /// Either error.
    #[must_use]
    pub const fn is_error(self) -> bool {
        matches!(self, Self::ServerError | Self::GatewayError)
    }
}

/// The outcome of the [`Error`] that this is, or that caused it.
pub(crate) fn outcome_in<E: 'static>(error: &E) -> Option<Outcome> {
    let error: &dyn Any = error;
    let error: Option<&(dyn StdError + 'static)> =
        match (error.downcast_ref::<Error>(), error.downcast_ref::<BoxError>()) {
            (Some(error), _) => Some(error),
            (_, Some(error)) => Some(error.as_ref()),
            _ => None,
        };
    error.and_then(outcome_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_follow_the_rules() {
        for (status, class) in [
            (200, Class::Success),
            (404, Class::Success),
            (429, Class::Throttled),
            (500, Class::ServerError),
            (501, Class::Success),
            (502, Class::GatewayError),
            (504, Class::GatewayError),
            (505, Class::Success),
            (599, Class::ServerError),
        ] {
            assert_eq!(Class::of_status(StatusCode::from_u16(status).unwrap()), class, "{status}");
        }
    }

    #[test]
    fn a_refusal_of_ours_says_nothing_of_the_upstream_whatever_its_status() {
        for (outcome, class) in [
            (Outcome::BreakerOpen, Class::Ignored),
            (Outcome::NoEndpoint, Class::Ignored),
            (Outcome::PoolExhausted, Class::Ignored),
            (Outcome::Overloaded, Class::Ignored),
            (Outcome::RequestTimeout, Class::Ignored),
            (Outcome::Cancelled, Class::Ignored),
            (Outcome::UpstreamTimeout, Class::GatewayError),
            (Outcome::ConnectFailed, Class::GatewayError),
        ] {
            let mut response = Response::builder().status(503).body(()).unwrap();
            response.extensions_mut().insert(outcome);
            assert_eq!(Class::of_response(&response), class, "{outcome}");
        }
    }

    #[test]
    fn an_error_is_found_in_its_boxes() {
        assert_eq!(Class::of_error(&Error::new(Outcome::Cancelled)), Class::Ignored);
        let boxed: BoxError = std::io::Error::other(Error::new(Outcome::Cancelled)).into();
        assert_eq!(Class::of_error(&boxed), Class::Ignored);
        let foreign: BoxError = "timed out".into();
        assert_eq!(Class::of_error(&foreign), Class::GatewayError);
    }

    #[test]
    fn a_dropped_body_says_nothing_but_a_failing_head_stands() {
        assert_eq!(Class::Success.at_end(&End::Dropped), Class::Ignored);
        assert_eq!(Class::ServerError.at_end(&End::Dropped), Class::ServerError);
        let cancelled: BoxError = Error::new(Outcome::Cancelled).into();
        assert_eq!(Class::Success.at_end(&End::Failed(&cancelled)), Class::Ignored);
        assert_eq!(Class::Success.at_end(&End::Failed(&"cut".into())), Class::GatewayError);
    }
}
