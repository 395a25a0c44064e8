//! One request's first attempt and its hedge.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use http::{Request, Response, request::Parts};
use tokio::time::{Instant, timeout};
use tower_service::Service;

use super::layer::Shared;
use crate::{
    Body,
    balance::Tried,
    exchange::Exchange,
    grpc::Code,
    respond::Dialect,
    retry::{peek::peek, replay::Replay},
    timeout::{Deadline, tell_what_is_left},
};

/// How much of a request's body is kept for the hedge; as with retries, Linkerd's limit for them.
const BODY_CAP: usize = 64 * 1024;

/// How long the head of a gRPC response is held back to see whether trailers follow, while another attempt may have a
/// better one; as with retries.
const PEEK: Duration = Duration::from_millis(10);

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
    let is_grpc = Dialect::of(&parts.headers) != Dialect::Http;
    let clock = Clock { shared: &shared, began };
    let mut first = pin!(service.call(Request::from_parts(parts, body)));
    let Some((delay, parts)) = hedge else {
        drop(replay);
        return clock.alone(first.await, is_grpc).await;
    };

    if let Ok(result) = timeout(delay, &mut first).await {
        return clock.alone(result, is_grpc).await;
    }
    let Some(request) = second(parts, &replay, &shared) else {
        drop(replay);
        return clock.alone(first.await, is_grpc).await;
    };
    tracing::debug!(?delay, "hedging");
    if let Some(exchange) = Exchange::of(request.extensions()) {
        exchange.update(|record| record.hedges += 1);
    }
    let mut first = pin!(async { Answer::of(first.await, is_grpc, PEEK).await });
    let mut other = service.clone();
    let mut second = pin!(async {
        poll_fn(|cx| other.poll_ready(cx)).await?;
        Ok(Answer::of(other.call(request).await, is_grpc, PEEK).await)
    });

    let (mut held, mut running) = (None, (true, true));
    poll_fn(|cx| {
        if running.0
            && let Poll::Ready(answer) = first.as_mut().poll(cx)
        {
            running.0 = false;
            clock.ended(&answer);
            if answer.is_good || !running.1 {
                return Poll::Ready(better(held.take(), answer.result));
            }
            held = Some(answer.result);
        }
        if running.1
            && let Poll::Ready(answer) = second.as_mut().poll(cx)
        {
            running.1 = false;
            let answer = answer.unwrap_or_else(Answer::failed);
            if answer.is_good || !running.0 {
                if running.0 {
                    clock.stop(Instant::now());
                }
                return Poll::Ready(better(held.take(), answer.result));
            }
            held = Some(answer.result);
        }
        Poll::Pending
    })
    .await
}

/// How an attempt ended.
struct Answer<E> {
    result: Result<Response<Body>, E>,
    is_good: bool,
    /// When its head came.
    at: Instant,
}

impl<E> Answer<E> {
    /// Of a gRPC call also by trailers that follow the head within `limit`.
    async fn of(result: Result<Response<Body>, E>, is_grpc: bool, limit: Duration) -> Self {
        let at = Instant::now();
        match result {
            Ok(response) if is_grpc && is_good(&response) && Code::of(response.headers()).is_none() => {
                let (response, trailers) = peek(response, limit).await;
                let is_good = !trailers.as_ref().and_then(Code::of).is_some_and(Code::is_failure);
                Self { result: Ok(response), is_good, at }
            }
            Ok(response) => Self { is_good: is_good(&response), result: Ok(response), at },
            Err(error) => Self { at, ..Self::failed(error) },
        }
    }

    fn failed(error: E) -> Self {
        Self { result: Err(error), is_good: false, at: Instant::now() }
    }
}

fn is_good(response: &Response<Body>) -> bool {
    !response.status().is_server_error() && !Code::of(response.headers()).is_some_and(Code::is_failure)
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
    /// What the only attempt ended with, whatever that is: nothing is waited for.
    async fn alone<E>(self, result: Result<Response<Body>, E>, is_grpc: bool) -> Result<Response<Body>, E> {
        let answer = Answer::of(result, is_grpc, Duration::ZERO).await;
        self.ended(&answer);
        answer.result
    }

    /// The first attempt ended so. What failed, perhaps fast, says nothing of how long answers take.
    fn ended<E>(self, answer: &Answer<E>) {
        if answer.is_good {
            self.stop(answer.at);
        }
    }

    fn stop(self, now: Instant) {
        self.shared.record(now, now.saturating_duration_since(self.began));
    }
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
