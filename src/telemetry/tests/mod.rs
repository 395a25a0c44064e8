use std::{
    convert::Infallible,
    io,
    panic::resume_unwind,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::Duration;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::{Body, BoxError, Error, Outcome, exchange::Exchange};

#[cfg(feature = "metrics")]
mod cost;
mod fates;
mod served;
mod streams;

/// Keeps every record, and how many requests have begun and not ended.
#[derive(Clone, Default)]
struct Kept(Arc<(Mutex<Vec<Finished>>, AtomicI64)>);

impl Kept {
    fn one(&self) -> Finished {
        let records = self.0.0.lock().unwrap();
        assert_eq!((records.len(), self.in_flight()), (1, 0), "{records:?}");
        records[0].clone()
    }

    fn in_flight(&self) -> i64 {
        self.0.1.load(Ordering::Relaxed)
    }
}

impl Recorder for Kept {
    fn begun(&self) {
        self.0.1.fetch_add(1, Ordering::Relaxed);
    }

    fn finished(&self, finished: &Finished) {
        self.0.1.fetch_sub(1, Ordering::Relaxed);
        self.0.0.lock().unwrap().push(finished.clone());
    }
}

fn stream(frames: Vec<Result<Frame<Bytes>, BoxError>>) -> Body {
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn trailers(name: &'static str, value: &'static str) -> Result<Frame<Bytes>, BoxError> {
    let mut fields = HeaderMap::new();
    fields.insert(name, value.parse().unwrap());
    Ok(Frame::trailers(fields))
}

/// What was kept of `request`, answered with `response`, of whose body `frames` frames were read before it was dropped.
async fn reading(frames: usize, request: Request<Body>, response: Response<Body>) -> Finished {
    let kept = Kept::default();
    let mut response = Some(response);
    let service = TelemetryLayer::new()
        .recorder(kept.clone())
        .around(service_fn(move |_: Request<Body>| std::future::ready(Ok::<_, Infallible>(response.take().unwrap()))));
    let mut body = service.oneshot(request).await.unwrap().into_body();
    for _ in 0..frames {
        let _ = body.frame().await;
    }
    drop(body);
    kept.one()
}

impl TelemetryLayer {
    fn around<S>(&self, service: S) -> Telemetry<S> {
        tower_layer::Layer::layer(self, service)
    }
}

fn get() -> Request<Body> {
    Request::new(Body::empty())
}

fn failing<E: 'static>(error: E) -> (Kept, Result<Response<Body>, E>) {
    let kept = Kept::default();
    let mut error = Some(error);
    let service = TelemetryLayer::new().recorder(kept.clone()).around(service_fn(move |_: Request<Body>| {
        std::future::ready(Err::<Response<Body>, _>(error.take().unwrap()))
    }));
    let answer = tokio_test::block_on(service.oneshot(get()));
    (kept, answer)
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_with_its_responses_body() {
    let kept = Kept::default();
    let mut service = ServiceBuilder::new().layer(TelemetryLayer::new().recorder(kept.clone())).service_fn(
        async |request: Request<Body>| {
            Exchange::of(request.extensions()).unwrap().update(|record| record.route = Some("shop".into()));
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "question");
            Ok::<_, Infallible>(Response::new(stream(vec![data("ab"), data("cde")])))
        },
    );
    let request = Request::post("http://shop.example/x").body(Full::new(Bytes::from_static(b"question"))).unwrap();
    let mut body = service.call(request).await.unwrap().into_body();
    assert_eq!(kept.in_flight(), 1);
    body.frame().await;
    tokio::time::advance(Duration::from_millis(500)).await;
    body.frame().await;
    assert_eq!(kept.in_flight(), 1, "its end is not known yet");
    assert!(body.frame().await.is_none());

    let finished = kept.one();
    assert_eq!((finished.outcome, finished.status), (Outcome::Completed, Some(StatusCode::OK)));
    assert_eq!((finished.record.request_bytes, finished.response_bytes), (8, 5));
    assert_eq!(finished.record.head_after.unwrap().as_millis(), 30);
    assert_eq!(finished.duration.as_millis(), 530);
    assert_eq!(finished.record.route.as_deref(), Some("shop"));
    let facts = finished.request.unwrap();
    assert_eq!((facts.method, facts.uri.path()), (Method::POST, "/x"));
    drop(body);
    assert_eq!(kept.0.0.lock().unwrap().len(), 1, "ended twice");
}

#[test]
fn a_future_dropped_before_the_head_is_cancelled() {
    for polled in [false, true] {
        let kept = Kept::default();
        let mut service = TelemetryLayer::new()
            .recorder(kept.clone())
            .around(service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>()));
        let mut future = tokio_test::task::spawn(service.call(get()));
        assert!(!polled || future.poll().is_pending());
        assert_eq!(kept.in_flight(), 1);
        drop(future);
        let finished = kept.one();
        assert_eq!((finished.outcome, finished.status), (Outcome::Cancelled, None));
        assert_eq!(finished.record.head_after, None);
    }
}

#[tokio::test]
async fn a_body_dropped_before_its_end_is_cancelled() {
    let finished = reading(1, get(), Response::new(stream(vec![data("ab"), data("cd")]))).await;
    assert_eq!((finished.outcome, finished.status), (Outcome::Cancelled, Some(StatusCode::OK)));
    assert_eq!(finished.response_bytes, 2);
}

#[tokio::test]
async fn a_body_dropped_after_what_was_due_is_complete() {
    let length = |length: u64| {
        let body = stream(vec![data("ab"), data("cd")]);
        Response::builder().header("content-length", length).body(body).unwrap()
    };
    assert_eq!(reading(2, get(), length(4)).await.outcome, Outcome::Completed);
    assert_eq!(reading(1, get(), length(4)).await.outcome, Outcome::Cancelled);
    assert_eq!(reading(1, get(), length(2)).await.outcome, Outcome::Completed);

    let trailing = || Response::new(stream(vec![data("ab"), trailers("x", "y")]));
    assert_eq!(reading(2, get(), trailing()).await.outcome, Outcome::Completed);
    assert_eq!(reading(1, get(), trailing()).await.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn answers_without_a_body_are_complete_unread() {
    let head = Request::head("/").body(Body::empty()).unwrap();
    assert_eq!(reading(0, head, Response::new(Body::from("hello"))).await.outcome, Outcome::Completed);
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED, StatusCode::SWITCHING_PROTOCOLS] {
        let response = Response::builder().status(status).body(stream(vec![])).unwrap();
        assert_eq!(reading(0, get(), response).await.outcome, Outcome::Completed, "{status}");
    }
    assert_eq!(reading(0, get(), Response::new(Body::empty())).await.outcome, Outcome::Completed);
    assert_eq!(reading(0, get(), Response::new(Body::from("hello"))).await.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn a_failed_body_tells_its_outcome() {
    let reset = Error::new(Outcome::UpstreamReset).with_source(io::Error::other("gone"));
    let finished = reading(2, get(), Response::new(stream(vec![data("ab"), Err(reset.into())]))).await;
    assert_eq!((finished.outcome, finished.record.outcome), (Outcome::UpstreamReset, Some(Outcome::UpstreamReset)));
    assert_eq!(finished.record.detail.as_deref(), Some("upstream_reset: gone"));
    assert_eq!((finished.status, finished.response_bytes), (Some(StatusCode::OK), 2));

    let finished = reading(1, get(), Response::new(stream(vec![Err("broken".into())]))).await;
    assert_eq!(finished.outcome, Outcome::ResponseTruncated);
    assert_eq!(finished.record.detail.as_deref(), Some("broken"));

    let wrapped = io::Error::other(Error::new(Outcome::UpstreamTimeout));
    let finished = reading(1, get(), Response::new(stream(vec![Err(wrapped.into())]))).await;
    assert_eq!(finished.outcome, Outcome::UpstreamTimeout);
    assert_eq!(finished.record.detail.as_deref(), Some("upstream_timeout"));
}

#[tokio::test]
async fn the_grpc_status_is_in_trailers_or_head() {
    let finished = reading(3, get(), Response::new(stream(vec![data("ab"), trailers("grpc-status", "14")]))).await;
    assert_eq!((finished.grpc_status, finished.outcome), (Some(14), Outcome::Completed));

    let head = Response::builder().header("grpc-status", "5").body(Body::empty()).unwrap();
    assert_eq!(reading(0, get(), head).await.grpc_status, Some(5));
    let nonsense = Response::builder().header("grpc-status", "ok").body(Body::empty()).unwrap();
    assert_eq!(reading(0, get(), nonsense).await.grpc_status, None);
}

#[test]
fn an_error_tells_its_outcome() {
    let (kept, answer) = failing(Error::new(Outcome::ConnectFailed).with_source(io::Error::other("refused")));
    assert_eq!(answer.unwrap_err().outcome(), Outcome::ConnectFailed);
    let finished = kept.one();
    assert_eq!((finished.outcome, finished.status), (Outcome::ConnectFailed, None));
    assert_eq!(finished.record.detail.as_deref(), Some("connect_failed: refused"));

    let (kept, _) = failing::<BoxError>(io::Error::other(Error::new(Outcome::NoEndpoint)).into());
    assert_eq!(kept.one().outcome, Outcome::NoEndpoint);
    let (kept, _) = failing::<BoxError>("opaque".into());
    assert_eq!((kept.one().outcome, kept.one().record.detail.as_deref()), (Outcome::Internal, Some("opaque")));
    let (kept, _) = failing(17_u8);
    assert_eq!((kept.one().outcome, kept.one().record.detail), (Outcome::Internal, None));
}

#[tokio::test]
async fn what_was_written_to_the_exchange_comes_first() {
    for (written, answered, outcome) in [
        (Some(Outcome::Loop), Some(Outcome::NoRoute), Outcome::Loop),
        (None, Some(Outcome::NoRoute), Outcome::NoRoute),
        (Some(Outcome::Completed), Some(Outcome::NoRoute), Outcome::NoRoute),
        (None, None, Outcome::Cancelled),
    ] {
        let kept = Kept::default();
        let service =
            TelemetryLayer::new().recorder(kept.clone()).around(service_fn(async |request: Request<Body>| {
                Exchange::of(request.extensions()).unwrap().update(|record| record.outcome = written);
                let mut response = Response::new(Body::from("unread"));
                if let Some(answered) = answered {
                    response.extensions_mut().insert(answered);
                }
                Ok::<_, Infallible>(response)
            }));
        drop(service.oneshot(get()).await);
        assert_eq!(kept.one().outcome, outcome);
    }
}

#[tokio::test]
async fn a_recorder_that_panics_takes_nothing_from_the_others() {
    struct Panics;
    impl Recorder for Panics {
        fn begun(&self) {
            resume_unwind(Box::new("begun"));
        }
        fn finished(&self, _: &Finished) {
            resume_unwind(Box::new("finished"));
        }
    }
    let kept = Kept::default();
    let service = TelemetryLayer::new()
        .recorder(Panics)
        .recorder(kept.clone())
        .around(service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty()))));
    service.oneshot(get()).await.unwrap();
    assert_eq!(kept.one().outcome, Outcome::Completed);
}

#[tokio::test]
async fn nothing_is_begun_for_nobody() {
    struct Bored;
    impl Recorder for Bored {
        fn interest(&self) -> Interest {
            Interest::None
        }
        fn begun(&self) {
            unreachable!();
        }
        fn finished(&self, _: &Finished) {
            unreachable!();
        }
    }
    for layer in [TelemetryLayer::new(), TelemetryLayer::new().recorder(Bored)] {
        let service = layer.around(service_fn(async |request: Request<Body>| {
            assert!(Exchange::of(request.extensions()).is_none());
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        service.oneshot(get()).await.unwrap();
    }
}

#[tokio::test]
async fn a_summary_has_no_request_facts() {
    struct Summary(Kept);
    impl Recorder for Summary {
        fn interest(&self) -> Interest {
            Interest::Summary
        }
        fn begun(&self) {
            self.0.begun();
        }
        fn finished(&self, finished: &Finished) {
            self.0.finished(finished);
        }
    }
    let kept = Kept::default();
    let service = TelemetryLayer::new()
        .recorder(Summary(kept.clone()))
        .around(service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty()))));
    service.oneshot(Request::put("/").body(Body::empty()).unwrap()).await.unwrap();
    assert!(kept.one().request.is_none());
    assert_eq!(kept.one().method.as_str(), "PUT");
}

#[test]
fn the_authority_is_the_targets_or_the_host_fields() {
    let authority = |uri: &str, host: &[u8]| {
        let request = Request::get(uri).header("host", host).body(()).unwrap();
        RequestFacts::of(&request).authority().map(std::borrow::Cow::into_owned)
    };
    assert_eq!(authority("http://user:secret@a.example:81/", b"b.example").as_deref(), Some("a.example:81"));
    assert_eq!(authority("/", b"b.example").as_deref(), Some("b.example"));
    assert_eq!(authority("/", b"b\xff").as_deref(), Some("b\u{fffd}"));
    assert_eq!(RequestFacts::of(&Request::new(())).authority(), None);
}
