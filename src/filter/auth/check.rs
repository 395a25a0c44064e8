//! One request's way past the authorization service.

use std::{future::poll_fn, pin::Pin};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::EXPECT};
use http_body::Body as _;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;
use tower_service::Service;

#[cfg(feature = "grpc-auth")]
use super::by_grpc;
use super::{
    answer, body, by_http,
    layer::{Protocol, Settings},
    verdict::{Changes, Verdict},
};
use crate::{
    Body, BoxError, Outcome,
    exchange::Exchange,
    respond::{Dialect, refusal},
    timeout::Deadline,
};

/// An answer's body up to this size is read, so that its connection can be used again.
const SMALL: u64 = 16 * 1024;

/// Why there is no verdict.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("the request's target does not fit behind the path prefix")]
    Target,
    #[error("it did not answer in time")]
    Late,
    #[error("the request's deadline has passed")]
    NoTime,
    #[error("{0}")]
    Call(BoxError),
    #[error("its answer has the status {0}")]
    Status(StatusCode),
    #[cfg(feature = "grpc-auth")]
    #[error("its call ended with {0}")]
    Grpc(crate::grpc::Code),
    #[error("its answer is not valid: {0}")]
    Invalid(&'static str),
}

impl Failure {
    fn outcome(&self) -> Outcome {
        match self {
            Self::NoTime => Outcome::DeadlineExceeded,
            _ => Outcome::Forbidden,
        }
    }
}

/// What became of a request.
pub(super) enum Checked {
    /// It goes on, and its response is to be changed so.
    Allowed(Request<Body>, Changes),
    /// This is its answer.
    Refused(Response<Body>),
}

/// Asks about a request.
pub(super) async fn check<T>(target: T, settings: &Settings, request: Request<Body>) -> Checked
where
    T: Service<Request<Body>, Response = Response<Body>>,
    T::Error: Into<BoxError>,
{
    let (mut parts, mut body) = request.into_parts();
    let dialect = Dialect::of(&parts.headers);
    let mut seen = Bytes::new();
    if settings.max_body > 0 && !body.is_end_stream() {
        (body, seen) = match body::read(body, settings.max_body).await {
            Ok(read) => read,
            Err(outcome) => return Checked::Refused(refusal(outcome, dialect)),
        };
        // The client was asked for it.
        parts.headers.remove(EXPECT);
    }

    let now = Instant::now();
    let left = Deadline::in_force(&parts.extensions).map(|deadline| deadline.left(now));
    let (limit, late) = match left.filter(|left| *left <= settings.timeout) {
        Some(left) => (left, Failure::NoTime),
        None => (settings.timeout, Failure::Late),
    };
    let question = match &settings.protocol {
        Protocol::Http(terms) => by_http::question(terms, &parts, &seen),
        #[cfg(feature = "grpc-auth")]
        Protocol::Grpc(terms) => Ok(by_grpc::question(terms, &parts, &body, &seen, limit)),
    };
    let asked = match question {
        Ok(question) => timeout(limit, ask(target, &settings.protocol, question)).await,
        Err(failure) => Ok(Err(failure)),
    };
    let verdict = match asked.unwrap_or(Err(late)) {
        Ok(Verdict::Allowed(changes)) => match changes.make(&mut parts) {
            Ok(()) => return Checked::Allowed(Request::from_parts(parts, body), changes),
            Err(_) => Err(Failure::Invalid("the query it asks for is none")),
        },
        Ok(Verdict::Denied(answer)) => Ok(answer),
        Err(failure) => Err(failure),
    };
    let (answer, detail) = match verdict {
        Ok(Some(denied)) => {
            let detail = format!("denied by the authorization service: {}", denied.status().as_u16());
            (answer::denied(*denied, dialect), detail)
        }
        Ok(None) => (refusal(Outcome::Forbidden, dialect), "denied by the authorization service".to_owned()),
        Err(failure) => {
            (refusal(failure.outcome(), dialect), format!("no verdict of the authorization service: {failure}"))
        }
    };
    tracing::debug!(detail, "request denied");
    if let Some(exchange) = Exchange::of(&parts.extensions) {
        exchange.update(|record| record.detail = Some(detail));
    }
    Checked::Refused(answer)
}

async fn ask<T>(target: T, protocol: &Protocol, question: Request<Body>) -> Result<Verdict, Failure>
where
    T: Service<Request<Body>, Response = Response<Body>>,
    T::Error: Into<BoxError>,
{
    let answer = target.oneshot(question).await.map_err(|error| Failure::Call(error.into()))?;
    match protocol {
        Protocol::Http(terms) => {
            let (parts, mut body) = answer.into_parts();
            if parts.status == StatusCode::OK {
                finish(&mut body).await;
            }
            by_http::verdict(terms, Response::from_parts(parts, body))
        }
        #[cfg(feature = "grpc-auth")]
        Protocol::Grpc(_) => by_grpc::verdict(answer).await,
    }
}

/// Reads a small body that nobody needs to its end, whatever that is.
async fn finish(body: &mut Body) {
    while !body.is_end_stream() && body.size_hint().exact().is_some_and(|length| length <= SMALL) {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            Some(Ok(_)) => {}
            _ => return,
        }
    }
}
