//! One request's first attempt and its hedge.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use http::{Request, Response, request::Parts};
use tokio::time::{Instant, timeout};
use tower_service::Service;

use super::layer::Shared;
use crate::{
    Body,
    balance::Tried,
    exchange::Exchange,
    grpc::Code,
    retry::replay::Replay,
    timeout::{Deadline, tell_what_is_left},
};

/// How much of a request's body is kept for the hedge; as with retries, Linkerd's limit for them.
const BODY_CAP: usize = 64 * 1024;

pub(super) async fn race<S>(
    mut service: S,
    shared: Arc<Shared>,
    request: Request<Body>,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone,
{
    let began = Instant::now();
    let (mut parts, body) = request.into_parts();
    parts.extensions.get_or_insert_default::<Tried>();
    let (replay, body) = Replay::new(body, BODY_CAP);
    // One that is not hedged now only adds its latency.
    let hedge = shared.delay(began).map(|delay| (delay, parts.clone()));
    let clock = Clock { shared: &shared, began };
    let mut first = pin!(service.call(Request::from_parts(parts, body)));
    let Some((delay, parts)) = hedge else {
        drop(replay);
        let result = first.await;
        clock.ended(&result);
        return result;
    };

    if let Ok(result) = timeout(delay, &mut first).await {
        clock.ended(&result);
        return result;
    }
    let Some(request) = second(parts, &replay, &shared) else {
        drop(replay);
        let result = first.await;
        clock.ended(&result);
        return result;
    };
    tracing::debug!(?delay, "hedging");
    if let Some(exchange) = Exchange::of(request.extensions()) {
        exchange.update(|record| record.hedges += 1);
    }
    let mut other = service.clone();
    let mut second = pin!(async {
        poll_fn(|cx| other.poll_ready(cx)).await?;
        other.call(request).await
    });

    let (mut held, mut running) = (None, (true, true));
    poll_fn(|cx| {
        if running.0
            && let Poll::Ready(result) = first.as_mut().poll(cx)
        {
            running.0 = false;
            clock.ended(&result);
            if is_good(&result) || !running.1 {
                return Poll::Ready(better(held.take(), result));
            }
            held = Some(result);
        }
        if running.1
            && let Poll::Ready(result) = second.as_mut().poll(cx)
        {
            running.1 = false;
            if is_good(&result) || !running.0 {
                if running.0 {
                    clock.stop();
                }
                return Poll::Ready(better(held.take(), result));
            }
            held = Some(result);
        }
        Poll::Pending
    })
    .await
}

/// The hedge's request, if there may be one.
fn second(mut parts: Parts, replay: &Replay, shared: &Shared) -> Option<Request<Body>> {
    let now = Instant::now();
    let late = Deadline::in_force(&parts.extensions).is_some_and(|deadline| deadline.has_passed(now));
    let granted = !late && replay.is_whole() && shared.settings.budget.withdraw(now);
    granted.then(|| {
        tell_what_is_left(&mut parts, now);
        Request::from_parts(parts, replay.reader())
    })
}

/// The first attempt's clock.
#[derive(Clone, Copy)]
struct Clock<'a> {
    shared: &'a Shared,
    began: Instant,
}

impl Clock<'_> {
    /// The first attempt ended so. What failed, perhaps fast, says nothing of how long answers take.
    fn ended<E>(self, result: &Result<Response<Body>, E>) {
        if is_good(result) {
            self.stop();
        }
    }

    fn stop(self) {
        let now = Instant::now();
        self.shared.record(now, now.saturating_duration_since(self.began));
    }
}

fn is_good<E>(result: &Result<Response<Body>, E>) -> bool {
    result.as_ref().is_ok_and(|response| {
        !response.status().is_server_error() && !Code::of(response.headers()).is_some_and(Code::is_failure)
    })
}

/// Of an earlier result that was not good and a later one: an answer rather than an error.
fn better<E>(
    earlier: Option<Result<Response<Body>, E>>,
    later: Result<Response<Body>, E>,
) -> Result<Response<Body>, E> {
    match (earlier, later) {
        (Some(Ok(earlier)), Err(_)) => Ok(earlier),
        (_, later) => later,
    }
}
