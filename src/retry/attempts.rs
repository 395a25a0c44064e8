//! One request's attempts.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Request, Response, request::Parts};
use http_body::Body as HttpBody;
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service;

use super::{
    conditions::{is_repeatable, is_unprocessed},
    layer::Settings,
    peek::peek,
    policy::{Asked, Failure, Refused},
    replay::Replay,
};
use crate::{
    Body, Error, Outcome, Sent, Side,
    balance::Tried,
    grpc::Code,
    respond::Dialect,
    timeout::{Deadline, Patience, tell_what_is_left},
};

/// How much of a response that is not wanted is read, so that its connection can be used again.
const DRAIN: usize = 16 * 1024;

/// What a frame counts as at the least.
const FRAME: usize = 256;

pub(super) async fn attempts<S>(
    mut service: S,
    settings: Arc<Settings>,
    request: Request<Body>,
) -> Result<Response<Body>, Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Into<Error>,
{
    let deadline = Deadline::in_force(request.extensions()).map(Deadline::instant);
    let (again, mut request) = Again::of(request, &settings);
    let (mut retries, mut since_pushback) = (0, 0);

    loop {
        let (result, trailers) = look(one(&mut service, request, settings.per_try).await, &again, &settings).await;
        let failed = match &result {
            Err(error) => settings.conditions.has_error(error),
            // A refusal of ours, or of what the client did, would be the same again.
            Ok(response) if is_refusal(response) => false,
            Ok(response) => {
                let code = trailers.as_ref().map_or_else(|| Code::of(response.headers()), Code::of);
                settings.conditions.has_status(response.status())
                    || code.filter(|_| again.is_grpc).is_some_and(|code| settings.conditions.has_grpc(code))
            }
        };
        if !failed {
            return result;
        }
        let wall = SystemTime::now();
        let asked = match &result {
            Err(_) => Asked::Nothing,
            Ok(response) => match &trailers {
                Some(trailers) => Asked::of(trailers, wall),
                None => Asked::of(response.headers(), wall),
            },
        };
        let now = Instant::now();
        let failure = Failure {
            retries,
            since_pushback,
            unprocessed: result.as_ref().is_err_and(is_unprocessed),
            repeatable: again.repeatable,
            whole: again.replay.can_repeat(),
            asked,
            now,
            deadline,
        };
        let decided = settings.rules.decide(&failure, &mut fastrand::Rng::new(), || settings.budget.withdraw(now));
        let delay = match decided {
            Ok(delay) => delay,
            // Unless the server itself asked for the wait: then its answer says more.
            Err(Refused::PastDeadline) if settings.late_times_out && asked == Asked::Nothing => {
                return Err(Error::new(Outcome::UpstreamTimeout).with_sent(Sent::Possibly));
            }
            Err(why) => {
                tracing::debug!(retries, ?why, "not sent again");
                return result;
            }
        };
        tracing::debug!(retries, ?delay, failure = ?result.as_ref().map(Response::status), "sending again");
        retries += 1;
        since_pushback = if matches!(asked, Asked::After(_)) { 0 } else { since_pushback + 1 };
        discard(result, delay).await;
        request = again.request(retries);
    }
}

/// What the request is made of again.
struct Again {
    parts: Parts,
    replay: Replay,
    repeatable: bool,
    is_grpc: bool,
}

impl Again {
    fn of(request: Request<Body>, settings: &Settings) -> (Self, Request<Body>) {
        let (mut parts, body) = request.into_parts();
        let tried = parts.extensions.remove::<Tried>().unwrap_or_default();
        let resets = settings.conditions.has_error(&Error::new(Outcome::UpstreamReset).with_sent(Sent::Stale));
        parts.extensions.insert(if resets { tried.governed().counting_resets() } else { tried.governed() });
        let (replay, body) = Replay::new(body, settings.body_cap);
        let known = settings.repeatable.as_ref().is_some_and(|test| test(&parts));
        let first = Request::from_parts(parts.clone(), body);
        let again = Self {
            repeatable: known || is_repeatable(&parts.method, &parts.headers),
            is_grpc: Dialect::of(&parts.headers) != Dialect::Http,
            parts,
            replay,
        };
        (again, first)
    }

    fn request(&self, retries: u32) -> Request<Body> {
        let mut parts = self.parts.clone();
        tell_what_is_left(&mut parts, Instant::now());
        if self.is_grpc {
            // So that the server may know, as gRPC's retry design has it.
            parts.headers.insert("grpc-previous-rpc-attempts", HeaderValue::from(retries));
        }
        Request::from_parts(parts, self.replay.again())
    }
}

/// One attempt, in the time there is for it.
async fn one<S>(service: &mut S, mut request: Request<Body>, limit: Option<Duration>) -> Result<Response<Body>, Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Into<Error>,
{
    if let Some(limit) = limit {
        let now = Instant::now();
        Patience::note(&mut request, now, Deadline::after(now, limit).instant());
    }
    let attempt = async {
        // Ready already for the first attempt, which says so again at once.
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
        service.call(request).await.map_err(Into::into)
    };
    let Some(limit) = limit else { return attempt.await };
    match timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Outcome::UpstreamTimeout).with_sent(Sent::Possibly)),
    }
}

/// The result with the trailers of an answer that has nothing but those, where they may matter.
async fn look(
    result: Result<Response<Body>, Error>,
    again: &Again,
    settings: &Settings,
) -> (Result<Response<Body>, Error>, Option<http::HeaderMap>) {
    match result {
        Ok(response)
            if again.is_grpc
                && again.repeatable
                && settings.conditions.reads_grpc()
                && Code::of(response.headers()).is_none()
                && again.replay.can_repeat() =>
        {
            // Who is still sending may be waiting for the head.
            let limit = if again.replay.has_ended() { settings.peek } else { Duration::ZERO };
            let (response, trailers) = peek(response, limit).await;
            (Ok(response), trailers)
        }
        result => (result, None),
    }
}

/// Whether a layer of this process answered, for a reason that is not the upstream's.
fn is_refusal(response: &Response<Body>) -> bool {
    response.extensions().get().is_some_and(|outcome: &Outcome| outcome.side() != Side::Upstream)
}

/// Waits, and meanwhile reads what is left of an answer that is not wanted, up to a limit.
async fn discard(result: Result<Response<Body>, Error>, delay: Duration) {
    let mut body = result.map(Response::into_body).ok();
    let mut read = 0;
    let mut waiting = pin!(sleep(delay));
    poll_fn(|cx| {
        while let Some(unwanted) = &mut body {
            match Pin::new(unwanted).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => {
                    // Frames of nothing count too: there may be any number of them.
                    read += frame.data_ref().map_or(0, bytes::Bytes::len).max(FRAME);
                    if read > DRAIN {
                        body = None;
                    }
                }
                Poll::Ready(None | Some(Err(_))) => body = None,
            }
        }
        waiting.as_mut().poll(cx)
    })
    .await;
}
