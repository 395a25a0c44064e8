use std::{
    convert::Infallible,
    future::{Ready, pending, poll_fn, ready},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    sync::mpsc,
    time::{Instant, advance, sleep},
};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{Body, BoxError, Error, Outcome, exchange::Exchange, grpc::Code};

const SECOND: Duration = Duration::from_secs(1);

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

fn channel() -> (Frames, Body) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (sender, Body::new(StreamBody::new(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)))))
}

fn request() -> Request<Body> {
    Request::new(Body::empty())
}

fn grpc() -> Request<Body> {
    Request::post("/a/B").header("content-type", "application/grpc").body(Body::empty()).unwrap()
}

fn outcome_of(error: &BoxError) -> Outcome {
    error.downcast_ref::<Error>().unwrap().outcome()
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_the_last_instant_is_an_answer() {
    let slow = |time| {
        service_fn(move |_: Request<Body>| async move {
            sleep(time).await;
            Ok::<_, Infallible>(Response::new(Body::empty()))
        })
    };
    let layer = TimeoutLayer::new(SECOND);
    assert_eq!(layer.layer(slow(SECOND)).oneshot(request()).await.unwrap().status(), 200);
    let late = SECOND + Duration::from_millis(1);
    let response = layer.layer(slow(late)).oneshot(request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(response.extensions().get(), Some(&Outcome::UpstreamTimeout));
    let response = layer.layer(slow(late)).oneshot(grpc()).await.unwrap();
    assert_eq!((response.status().as_u16(), Code::of(response.headers())), (200, Some(Code::DeadlineExceeded)));
}

#[tokio::test(start_paused = true)]
async fn the_work_is_dropped_with_its_refusal_and_errors_pass() {
    let alive = Arc::new(());
    let held = alive.clone();
    let mut service = TimeoutLayer::new(SECOND).layer(service_fn(move |_: Request<Body>| {
        let held = held.clone();
        async move {
            let _held = held;
            pending::<Result<Response<Body>, &str>>().await
        }
    }));
    let mut call = task::spawn(service.call(request()));
    assert_pending!(call.poll());
    assert_eq!(Arc::strong_count(&alive), 3);
    advance(SECOND).await;
    assert!(call.is_woken());
    assert_ready_ok!(call.poll());
    assert_eq!(Arc::strong_count(&alive), 2);

    let failing =
        TimeoutLayer::new(SECOND).layer(service_fn(|_: Request<Body>| ready(Err::<Response<Body>, _>("as it was"))));
    assert_eq!(failing.oneshot(request()).await.unwrap_err(), "as it was");
}

/// A service that answers with `body`.
fn answering(body: Body) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> {
    let mut body = Some(body);
    service_fn(move |request: Request<Body>| {
        let mut upload = request.into_body();
        tokio::spawn(async move { while upload.frame().await.is_some() {} });
        ready(Ok(Response::new(body.take().unwrap())))
    })
}

#[tokio::test(start_paused = true)]
async fn a_pause_counts_while_the_reader_waits_and_only_then() {
    let (sender, body) = channel();
    let layer = BodyTimeoutLayer::new().idle(10 * SECOND);
    let mut body = layer.layer(answering(body)).oneshot(request()).await.unwrap().into_body();
    for _ in 0..3 {
        let mut frame = task::spawn(body.frame());
        assert_pending!(frame.poll());
        advance(9 * SECOND).await;
        sender.send(Ok(Frame::data("x".into()))).unwrap();
        assert!(assert_ready!(frame.poll()).unwrap().is_ok());
        drop(frame);
        // A reader that does not read.
        advance(60 * SECOND).await;
    }
    let mut frame = task::spawn(body.frame());
    assert_pending!(frame.poll());
    advance(10 * SECOND).await;
    assert!(frame.is_woken());
    assert_eq!(outcome_of(&assert_ready!(frame.poll()).unwrap().unwrap_err()), Outcome::UpstreamTimeout);
    drop(frame);
    assert!(sender.is_closed(), "the inner body goes at once");
    assert!(body.is_end_stream() && body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_moving_upload_ends_a_pause() {
    let ((_sender, body), (upload, sent)) = (channel(), channel());
    let layer = BodyTimeoutLayer::new().idle(10 * SECOND);
    let mut body = layer.layer(answering(body)).oneshot(Request::new(sent)).await.unwrap().into_body();
    let mut frame = task::spawn(body.frame());
    for _ in 0..5 {
        assert_pending!(frame.poll());
        upload.send(Ok(Frame::data("x".into()))).unwrap();
        advance(9 * SECOND).await;
    }
    assert_pending!(frame.poll());
    advance(SECOND).await;
    // The task that uploads runs between; the last frame moved nine seconds ago at least.
    advance(9 * SECOND).await;
    assert!(assert_ready!(frame.poll()).unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_last_as_long_as_it_may_however_lively() {
    let (sender, body) = channel();
    let layer = BodyTimeoutLayer::new().idle(Duration::ZERO).max_duration(10 * SECOND);
    let began = Instant::now();
    let mut body = layer.layer(answering(body)).oneshot(request()).await.unwrap().into_body();
    let lively = tokio::spawn(async move {
        while sender.send(Ok(Frame::data("x".into()))).is_ok() {
            sleep(Duration::from_millis(700)).await;
        }
    });
    let error = loop {
        if let Err(error) = body.frame().await.unwrap() {
            break error;
        }
    };
    assert_eq!((outcome_of(&error), began.elapsed()), (Outcome::UpstreamTimeout, 10 * SECOND));
    lively.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_is_not_limited() {
    let service = BodyTimeoutLayer::new().idle(SECOND).layer(service_fn(|_: Request<Body>| {
        let (sender, body) = channel();
        let response = Response::builder().status(101).extension(sender).body(body).unwrap();
        ready(Ok::<_, Infallible>(response))
    }));
    let mut response = service.oneshot(request()).await.unwrap();
    let mut frame = task::spawn(response.body_mut().frame());
    assert_pending!(frame.poll());
    advance(60 * SECOND).await;
    assert_pending!(frame.poll());
}

/// Answers with the deadline that it finds, in milliseconds from now, by the task and by the extensions.
fn telling(request: &Request<Body>) -> Ready<Result<Response<String>, Infallible>> {
    let now = Instant::now();
    let current = Deadline::current().unwrap();
    assert_eq!(Deadline::of(request.extensions()), Some(current));
    ready(Ok(Response::new(current.left(now).as_millis().to_string())))
}

async fn left(layer: &DeadlineLayer, request: Request<Body>) -> Result<u64, Outcome> {
    let response = layer.layer(service_fn(|request: Request<Body>| telling(&request))).oneshot(request).await.unwrap();
    if let Some(outcome) = response.extensions().get() {
        return Err(*outcome);
    }
    let text = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(text.into()).unwrap().parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_server_takes_the_least_of_what_it_is_told() {
    let layer = DeadlineLayer::server(15 * SECOND).header(HeaderName::from_static("x-timeout-ms"));
    let with = |fields: &[(&'static str, &str)]| {
        let mut request = request();
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    };
    for (fields, expected) in [
        (&[][..], 15_000),
        (&[("grpc-timeout", "2S")], 2000),
        (&[("grpc-timeout", "1H")], 15_000),
        (&[("grpc-timeout", "2s")], 15_000),
        (&[("x-timeout-ms", "300")], 300),
        (&[("x-timeout-ms", "-1")], 15_000),
        (&[("x-timeout-ms", "")], 15_000),
        (&[("x-timeout-ms", "99999999999999999999999")], 15_000),
        (&[("grpc-timeout", "2S"), ("x-timeout-ms", "3000")], 2000),
    ] {
        assert_eq!(left(&layer, with(fields)).await, Ok(expected), "{fields:?}");
    }
    let mut given = with(&[("grpc-timeout", "2S")]);
    given.extensions_mut().insert(Deadline::after(Instant::now(), SECOND));
    assert_eq!(left(&layer, given).await, Ok(1000));
}

#[tokio::test(start_paused = true)]
async fn time_in_a_queue_counts_and_what_came_too_late_is_not_started() {
    let layer = DeadlineLayer::server(15 * SECOND);
    let mut queued = grpc();
    queued.headers_mut().insert("grpc-timeout", "2S".parse().unwrap());
    let exchange = Exchange::begin();
    queued.extensions_mut().insert(exchange.clone());
    advance(SECOND / 2).await;
    assert_eq!(left(&layer, queued).await, Ok(1500));

    let mut late = grpc();
    late.headers_mut().insert("grpc-timeout", "500m".parse().unwrap());
    late.extensions_mut().insert(exchange);
    let service = layer.layer(service_fn(|_: Request<Body>| -> Ready<Result<Response<Body>, Infallible>> {
        panic!("it was started")
    }));
    let response = service.oneshot(late).await.unwrap();
    assert_eq!(response.extensions().get(), Some(&Outcome::DeadlineExceeded));
    assert_eq!(Code::of(response.headers()), Some(Code::DeadlineExceeded));
    assert_eq!(Outcome::DeadlineExceeded.status(), 504);
}

#[tokio::test(start_paused = true)]
async fn calls_made_while_serving_inherit_what_is_left() {
    let client = DeadlineLayer::client(2 * SECOND).header(HeaderName::from_static("x-timeout-ms"));
    let calls = Arc::new(AtomicU32::new(0));
    let seen = calls.clone();
    let other = client.layer(service_fn(move |request: Request<Body>| {
        seen.fetch_add(1, Ordering::SeqCst);
        ready(Ok::<_, Infallible>(Response::new(format!(
            "{} {}",
            request.headers().get("grpc-timeout").map_or("-", |value| value.to_str().unwrap()),
            request.headers()["x-timeout-ms"].to_str().unwrap()
        ))))
    }));
    let text = async |response: Response<Body>| {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
    };

    // Alone: its own limit, or less if its caller says so.
    for (said, told) in [("9H", "2000000u 2000"), ("100m", "100000u 100"), ("0.1S", "2000000u 2000")] {
        let mut own = grpc();
        own.headers_mut().insert("grpc-timeout", said.parse().unwrap());
        assert_eq!(text(other.clone().oneshot(own).await.unwrap()).await, told, "{said}");
    }

    let server = DeadlineLayer::server(SECOND);
    let inner = other.clone();
    let service = server.layer(service_fn(move |_: Request<Body>| {
        let other = inner.clone();
        async move {
            // Polled again later, from outside: the deadline is still there.
            sleep(SECOND / 4).await;
            other.oneshot(Request::new(Body::empty())).await
        }
    }));
    assert_eq!(text(service.oneshot(request()).await.unwrap()).await, "- 750");
    assert_eq!(Deadline::current(), None);

    let before = calls.load(Ordering::SeqCst);
    let passed = Deadline::after(Instant::now(), Duration::ZERO);
    let response = passed.scope(other.oneshot(grpc())).await.unwrap();
    assert_eq!(response.extensions().get(), Some(&Outcome::DeadlineExceeded));
    assert_eq!(calls.load(Ordering::SeqCst), before);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_told_in_the_header_at_both_ends_and_no_limit_is_not() {
    let name = HeaderName::from_static("x-timeout-ms");
    let told = async |layer: DeadlineLayer, said: Option<&str>| {
        let service = layer.header(name.clone()).layer(service_fn(|request: Request<Body>| {
            let (mut parts, _) = request.into_parts();
            let now = Instant::now() + SECOND / 10;
            let first = parts.headers.get("x-timeout-ms").cloned();
            tell_what_is_left(&mut parts, now);
            let again = parts.headers.get("x-timeout-ms").cloned();
            let text = |value: Option<http::HeaderValue>| value.map(|value| value.to_str().unwrap().to_owned());
            ready(Ok::<_, Infallible>(
                Response::builder().extension((text(first), text(again))).body(Body::empty()).unwrap(),
            ))
        }));
        let mut request = request();
        if let Some(said) = said {
            request.headers_mut().insert("x-timeout-ms", said.parse().unwrap());
        }
        let response = service.oneshot(request).await.unwrap();
        response.extensions().get::<(Option<String>, Option<String>)>().cloned().unwrap()
    };
    let both = |first: &str, again: &str| (Some(first.to_owned()), Some(again.to_owned()));
    assert_eq!(told(DeadlineLayer::server(SECOND), None).await, both("1000", "900"));
    assert_eq!(told(DeadlineLayer::server(SECOND), Some("5000")).await, both("1000", "900"));
    assert_eq!(told(DeadlineLayer::server(Duration::MAX), Some("300")).await, both("300", "200"));
    assert_eq!(told(DeadlineLayer::server(Duration::MAX), None).await, (None, None));
    assert_eq!(told(DeadlineLayer::client(SECOND), None).await, both("1000", "900"));
    assert_eq!(told(DeadlineLayer::client(Duration::MAX), None).await, (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_head_and_the_body() {
    let began = Instant::now();
    let service = DeadlineLayer::server(SECOND)
        .layer(service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>()));
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!((response.status().as_u16(), began.elapsed()), (504, SECOND));

    let (_sender, body) = channel();
    let response = DeadlineLayer::server(SECOND).layer(answering(body)).oneshot(request()).await.unwrap();
    let error = response.into_body().frame().await.unwrap().unwrap_err();
    assert_eq!((outcome_of(&error), began.elapsed()), (Outcome::UpstreamTimeout, 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn calls_made_by_a_body_inherit_it_too() {
    let service = DeadlineLayer::server(SECOND).layer(service_fn(|_: Request<Body>| {
        let frames = futures_util::stream::once(async {
            let deadline = Deadline::current().ok_or("no deadline")?;
            Ok::<_, BoxError>(Frame::data(deadline.left(Instant::now()).as_millis().to_string().into()))
        });
        ready(Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(frames)))))
    }));
    let response = service.oneshot(request()).await.unwrap();
    advance(SECOND / 4).await;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "750");
}

#[tokio::test(start_paused = true)]
async fn readiness_is_that_of_the_inner_service() {
    let (mock, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let mut service =
        DeadlineLayer::server(SECOND).layer(TimeoutLayer::new(SECOND).layer(BodyTimeoutLayer::new().layer(mock)));
    handle.allow(0);
    let mut waiting = task::spawn(poll_fn(|cx| service.poll_ready(cx)));
    assert_pending!(waiting.poll());
    handle.allow(1);
    assert!(waiting.is_woken());
    assert!(matches!(waiting.poll(), Poll::Ready(Ok(()))));
}
