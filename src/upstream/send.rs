//! One request's way through an upstream: the attempts.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout};

use super::Upstream;
use crate::{
    Body, Error, Outcome, Sent, Side,
    balance::{Affinity, Attempt, EndpointSet, Pick, Tried},
    breaker::{Refused, watched},
    classify::Class,
    client::Pool,
    exchange::Exchange,
    timeout::{AttemptTimeout, Patience, Told},
};

/// How many connections may turn out to be closing before that counts as an attempt. Each is one fewer in the pool; it is
/// the end of those that come back to it meanwhile.
const MAX_STALE: u32 = 8;

/// The future has the request in one place, which the attempts take it from: an `async fn` would keep a second one for its
/// argument.
pub(super) fn send(upstream: Upstream, request: Request<Body>) -> impl Future<Output = Result<Response<Body>, Error>> {
    let mut place = Some(request);
    async move { guarded(&upstream, &mut place).await }
}

/// Behind the upstream's circuit breaker, where it has one.
async fn guarded(upstream: &Upstream, place: &mut Option<Request<Body>>) -> Result<Response<Body>, Error> {
    let limit = place.as_ref().and_then(|request| request.extensions().get::<AttemptTimeout>().copied());
    let patience = place.as_mut().and_then(|request| Patience::of_call(request, limit.map(|limit| limit.0)));
    let told = place.as_ref().and_then(|request| Patience::told(request.headers(), patience.as_ref()));
    let attempts = attempts(upstream, place, Time { limit, patience: patience.as_ref(), told });
    let Some(circuit) = &upstream.0.circuit else { return attempts.await.map_err(|failed| failed.error) };
    let call = circuit.begin().map_err(|Refused { retry_after, .. }| open_for(retry_after))?;
    let call = call.within(patience.clone(), told);
    match attempts.await {
        Ok(response) => Ok(watched(response, Some(call), None)),
        Err(Failed { error, excused }) => {
            call.settle(if excused || is_closing(&error) { Class::Ignored } else { Class::of_error(&error) });
            Err(error)
        }
    }
}

/// What is known of the time that a request has.
#[derive(Clone, Copy)]
struct Time<'a> {
    /// For each attempt.
    limit: Option<AttemptTimeout>,
    patience: Option<&'a Patience>,
    /// Until when its caller has allowed some.
    told: Option<Instant>,
}

/// No answer, and whether that is the client's doing, whatever the error is: it has not sent its whole request in time.
struct Failed {
    error: Error,
    excused: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, excused: false }
    }
}

async fn attempts(
    upstream: &Upstream,
    place: &mut Option<Request<Body>>,
    time: Time<'_>,
) -> Result<Response<Body>, Failed> {
    let endpoints = upstream.discovered().await;
    let Some(request) = place.as_ref() else { return Err(Error::new(Outcome::Internal).into()) };
    let exchange = Exchange::of(request.extensions()).cloned();
    let hash = endpoints.balancer().hash(request);
    let spare = Spare::of(request);
    let affinity = Affinity::of(request.extensions()).cloned();
    let wanted = affinity.as_ref().and_then(Affinity::wanted);
    // What a layer above has offered the request to, and after it what is tried here.
    let shared = Tried::of(request.extensions()).cloned();
    let mut tried: SmallVec<[SocketAddr; 4]> = shared.as_ref().map(Tried::addresses).unwrap_or_default();
    let before = tried.len();
    if !shared.as_ref().is_some_and(Tried::is_governed) {
        let budget = upstream.0.budget.load();
        if !budget.has_counted(request.extensions()) {
            budget.deposit(Instant::now());
        }
    }
    let mut stale = 0;
    let mut last = None;

    while tried.len() - before < upstream.config().max_attempts as usize {
        let pick = |tried: &[SocketAddr]| {
            endpoints.pick(&mut Pick { now: Instant::now(), rng: &mut fastrand::Rng::new(), hash, tried })
        };
        let wanted = wanted.and_then(|id| {
            let mut pick = Pick { now: Instant::now(), rng: &mut fastrand::Rng::new(), hash, tried: &tried };
            endpoints.pick_wanted(id, &mut pick)
        });
        let attempt = wanted.or_else(|| pick(&tried)).or_else(|| pick(tried.get(before..).filter(|_| before > 0)?));
        let Some(mut attempt) = attempt else { break };
        attempt.told(time.told);
        if let Some(patience) = time.patience {
            patience.begin_attempt();
            attempt.within(patience.clone());
        }
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

        let failed = match one(&attempt, place, time).await {
            Ok(response) => {
                if let Some(affinity) = &affinity {
                    affinity.answered(address);
                }
                return Ok(answered(attempt, response, time.told));
            }
            Err(failed) => failed,
        };
        let Failed { error, excused } = failed;
        tracing::debug!(upstream = upstream.name(), endpoint = %address, %error, "attempt failed");
        if excused {
            attempt.cancel()
        } else {
            settle(attempt, &error)
        }
        if excused && place.is_none() || error.side() == Side::Downstream {
            // What is wrong with the request is wrong with it everywhere.
            return Err(Failed { error, excused });
        }
        if place.is_none() {
            // Asked last, so that nothing is taken from it in vain.
            let granted = || {
                let goes_on = tried.len() - before < upstream.config().max_attempts as usize;
                let mut others =
                    endpoints.iter().filter(|(other, weight)| *weight > 0 && !tried.contains(&other.address()));
                goes_on && others.next().is_some() && upstream.0.budget.load().withdraw(Instant::now())
            };
            *place = spare.as_ref().and_then(|spare| spare.again(&error, granted));
            if let (Some(request), Some(patience)) = (place.as_mut(), time.patience) {
                request.extensions_mut().insert(patience.clone());
            }
        }
        if place.is_none() {
            return Err(error.into());
        }
        if is_closing(&error) && stale < MAX_STALE {
            stale += 1;
            tried.pop();
        }
        last = Some(Failed { error, excused });
    }
    Err(last.unwrap_or_else(|| nobody(&endpoints).into()))
}

/// Why no endpoint could be picked.
pub(super) fn nobody(endpoints: &EndpointSet<Pool>) -> Error {
    endpoints.retry_after(Instant::now()).map_or_else(|| Error::new(Outcome::NoEndpoint), open_for)
}

/// A breaker is open for so long.
pub(super) fn open_for(wait: Duration) -> Error {
    Error::new(Outcome::BreakerOpen).with_retry_after(wait)
}

/// One attempt, in the time a rule allows for it.
async fn one(
    attempt: &Attempt<Pool>,
    place: &mut Option<Request<Body>>,
    time: Time<'_>,
) -> Result<Response<Body>, Failed> {
    let pool = attempt.endpoint().payload();
    let Some(AttemptTimeout(limit)) = time.limit.filter(|limit| !limit.0.is_zero()) else {
        return Ok(pool.send_from(place).await?);
    };
    let began = Instant::now();
    // Boxed, as few rules have a limit: the future of every request would be the larger for the timer.
    match Box::pin(timeout(limit, pool.send_from(place))).await {
        Ok(sent) => Ok(sent?),
        Err(_) => {
            let excused = !time.patience.is_some_and(|patience| patience.was_used(limit, began, Instant::now()));
            // While it waits for a connection it is whole.
            let sent = if place.is_some() { Sent::Nothing } else { Sent::Possibly };
            Err(Failed { error: Error::new(Outcome::UpstreamTimeout).with_sent(sent), excused })
        }
    }
}

/// The attempt rides on the body: it is over when that is.
fn answered(mut attempt: Attempt<Pool>, response: Response<Body>, told: Option<Instant>) -> Response<Body> {
    attempt.reached();
    attempt.note(Class::of_response(&response).in_time(response.headers(), told));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        attempt.succeed(Instant::now());
        return response;
    }
    response.map(|body| body.observed(attempt))
}

/// Whether the connection ended as connections do, which says nothing of the endpoint.
fn is_closing(error: &Error) -> bool {
    matches!(error.sent(), Sent::GoAway | Sent::Stale)
}

/// Tells the balancer what a failed attempt says of its endpoint.
pub(super) fn settle(mut attempt: Attempt<Pool>, error: &Error) {
    let now = Instant::now();
    if is_closing(error) {
        return attempt.cancel();
    }
    match error.outcome() {
        Outcome::ConnectFailed | Outcome::ConnectTimeout | Outcome::TlsFailed | Outcome::CertificateRefused => {
            attempt.unreachable(now);
        }
        // Our own limits and defects, and the client's doing, say nothing of the endpoint.
        Outcome::PoolExhausted | Outcome::NoEndpoint => attempt.cancel(),
        _ if error.side() != Side::Upstream => attempt.cancel(),
        _ => {
            attempt.reached();
            attempt.fail(now);
        }
    }
}

/// What a request is made of again once its first making has left: only for requests without a body. In a box, as it
/// lies beside the request in the future.
struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    exchange: Option<Exchange>,
    told: Told,
    /// A layer above decides whether what was sent is sent again.
    governed: bool,
    /// It also counts what is sent again since a used connection ended.
    counts_resets: bool,
}

impl Spare {
    fn of(request: &Request<Body>) -> Option<Box<Self>> {
        // A request that asks for an upgrade carries the client's connection, which cannot be had twice.
        if !request.body().is_end_stream() || request.headers().contains_key(http::header::UPGRADE) {
            return None;
        }
        let tried = Tried::of(request.extensions());
        Some(Box::new(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            exchange: Exchange::of(request.extensions()).cloned(),
            told: Told::of(request.extensions()),
            governed: tried.is_some_and(Tried::is_governed),
            counts_resets: tried.is_some_and(Tried::counts_resets),
        }))
    }

    /// The request once more, if `error` allows that, and it is granted where it may have been processed.
    fn again(&self, error: &Error, granted: impl FnOnce() -> bool) -> Option<Request<Body>> {
        let reset = error.outcome() == Outcome::UpstreamReset && self.method.is_safe();
        let allowed = match error.sent() {
            Sent::Nothing | Sent::GoAway => true,
            Sent::Refused => !self.governed,
            // It is nobody's failure, and no attempt to be counted, unless who counts attempts wants this one too.
            Sent::Stale => !self.counts_resets && reset,
            Sent::Possibly => !self.governed && reset && granted(),
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
        self.told.give(request.extensions_mut());
        Some(request)
    }
}
