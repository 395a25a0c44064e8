//! One request's way through an upstream: the attempts.

use std::net::SocketAddr;

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout};

use super::{AttemptTimeout, Upstream};
use crate::{
    Body, Error, Outcome, Sent,
    balance::{Attempt, Pick, Tried, is_failure},
    client::{Failed, Pool},
    exchange::Exchange,
};

pub(super) async fn send(upstream: Upstream, mut request: Request<Body>) -> Result<Response<Body>, Error> {
    let endpoints = upstream.discovered().await;
    let exchange = Exchange::of(request.extensions()).cloned();
    let attempt_timeout = request.extensions().get::<AttemptTimeout>().copied();
    let hash = endpoints.balancer().hash(&request);
    let spare = Spare::of(&request);
    // What a layer above has offered the request to, and after it what is tried here.
    let shared = Tried::of(request.extensions()).cloned();
    let mut tried: SmallVec<[SocketAddr; 4]> = shared.as_ref().map(Tried::addresses).unwrap_or_default();
    let before = tried.len();
    let mut last = None;

    while tried.len() - before < upstream.config().max_attempts as usize {
        let pick = |tried: &[SocketAddr]| {
            endpoints.pick(&mut Pick { now: Instant::now(), rng: &mut fastrand::Rng::new(), hash, tried })
        };
        let Some(attempt) = pick(&tried).or_else(|| pick(tried.get(before..).filter(|_| before > 0)?)) else { break };
        let address = attempt.endpoint().address();
        tried.push(address);
        if let Some(shared) = &shared {
            shared.add(address);
        }
        if let Some(exchange) = &exchange {
            exchange.update(|record| {
                record.attempts += 1;
                record.endpoint = Some(address);
            });
        }

        let failed = match one(&attempt, request, attempt_timeout).await {
            Ok(response) => return Ok(answered(attempt, response)),
            Err(failed) => failed,
        };
        tracing::debug!(upstream = upstream.name(), endpoint = %address, error = %failed.error, "attempt failed");
        settle(attempt, &failed.error);
        let Some(again) = failed.request.or_else(|| spare.as_ref()?.again(&failed.error)) else {
            return Err(failed.error);
        };
        request = again;
        last = Some(failed.error);
    }
    Err(last.unwrap_or_else(|| Error::new(Outcome::NoEndpoint)))
}

/// One attempt, in the time a rule allows for it.
async fn one(
    attempt: &Attempt<Pool>,
    request: Request<Body>,
    limit: Option<AttemptTimeout>,
) -> Result<Response<Body>, Failed> {
    let sending = attempt.endpoint().payload().send(request);
    let Some(AttemptTimeout(limit)) = limit else { return sending.await };
    match timeout(limit, sending).await {
        Ok(sent) => sent,
        Err(_) => {
            let error = Error::new(Outcome::UpstreamTimeout).with_sent(Sent::Possibly);
            Err(Failed { error, request: None })
        }
    }
}

/// The attempt rides on the body: it is over when that is.
fn answered(mut attempt: Attempt<Pool>, response: Response<Body>) -> Response<Body> {
    attempt.reached();
    if is_failure(response.status()) {
        attempt.note_failure();
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        attempt.succeed(Instant::now());
        return response;
    }
    response.map(|body| body.observed(attempt))
}

/// Tells the balancer what a failed attempt says of its endpoint.
fn settle(mut attempt: Attempt<Pool>, error: &Error) {
    let now = Instant::now();
    match error.outcome() {
        Outcome::ConnectFailed | Outcome::ConnectTimeout | Outcome::TlsFailed | Outcome::CertificateRefused => {
            attempt.unreachable(now);
        }
        // Our own limit, and the client's doing, say nothing of the endpoint.
        Outcome::PoolExhausted | Outcome::Cancelled | Outcome::BadRequest | Outcome::RequestTimeout => attempt.cancel(),
        _ => {
            attempt.reached();
            attempt.fail(now);
        }
    }
}

/// What a request is made of again once its first making has left: only for requests without a body.
struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    exchange: Option<Exchange>,
    /// A layer above decides whether what may have been processed is sent again.
    governed: bool,
}

impl Spare {
    fn of(request: &Request<Body>) -> Option<Self> {
        // A request that asks for an upgrade carries the client's connection, which cannot be had twice.
        if !request.body().is_end_stream() || request.headers().contains_key(http::header::UPGRADE) {
            return None;
        }
        Some(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            exchange: Exchange::of(request.extensions()).cloned(),
            governed: Tried::of(request.extensions()).is_some_and(Tried::is_governed),
        })
    }

    /// The request once more, if `error` allows that.
    fn again(&self, error: &Error) -> Option<Request<Body>> {
        let allowed = match error.sent() {
            Sent::Nothing | Sent::Refused => true,
            Sent::Possibly => !self.governed && error.outcome() == Outcome::UpstreamReset && self.method.is_safe(),
        };
        if !allowed {
            return None;
        }
        let mut request = Request::new(Body::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(exchange) = &self.exchange {
            request.extensions_mut().insert(exchange.clone());
        }
        Some(request)
    }
}
