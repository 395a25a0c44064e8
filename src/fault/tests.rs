use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use tokio::time::{Duration, Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::{assert_request_eq, mock};

use super::*;
use crate::{Body, Error, Outcome, Sent, timeout::Deadline};

#[derive(Clone, Debug)]
struct Paths(mock::Mock<String, Response<Body>>);

/// A mock that panics when it is called unready, and hears paths and fields.
impl Service<Request<()>> for Paths {
    type Response = Response<Body>;
    type Error = Error;
    type Future = futures_util::future::MapErr<
        <mock::Mock<String, Response<Body>> as Service<String>>::Future,
        fn(crate::BoxError) -> Error,
    >;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Error>> {
        self.0.poll_ready(cx).map_err(|error| Error::new(Outcome::Internal).with_source(error))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        use futures_util::TryFutureExt as _;
        let text = format!("{} {}", request.uri(), request.headers().len());
        self.0.call(text).map_err(|error| Error::new(Outcome::Internal).with_source(error))
    }
}

const SECOND: Duration = Duration::from_secs(1);

macro_rules! call {
    ($service:expr, $request:expr) => {{
        assert_ready!(task::spawn($service.ready()).poll()).unwrap();
        task::spawn($service.call($request))
    }};
}

fn get(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_delayed_request_goes_on_later_and_through_the_service_that_was_ready() {
    let (mock, mut handle) = mock::pair();
    let layer = FaultLayer::new().delay(SECOND, Share::ALL);
    let mut service = layer.layer(Paths(mock));
    let mut call = call!(service, get("/a"));
    assert_pending!(call.poll());
    advance(SECOND - Duration::from_millis(1)).await;
    assert_pending!(call.poll());
    assert_pending!(task::spawn(handle.next_request()).poll());
    advance(Duration::from_millis(1)).await;
    assert!(call.is_woken());
    assert_pending!(call.poll());
    assert_request_eq!(handle, "/a 0").send_response(Response::new(Body::from("hello")));
    assert_eq!(assert_ready!(call.poll()).unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn what_is_late_after_its_delay_is_not_begun() {
    let (mock, mut handle) = mock::pair();
    let mut service = FaultLayer::new().delay(SECOND, Share::ALL).layer(Paths(mock));
    let mut request = get("/a");
    request.extensions_mut().insert(Deadline::after(Instant::now(), SECOND));
    let mut call = call!(service, request);
    assert_pending!(call.poll());
    advance(SECOND).await;
    let response = assert_ready!(call.poll()).unwrap();
    assert_eq!(response.extensions().get(), Some(&Outcome::DeadlineExceeded));
    assert_pending!(task::spawn(handle.next_request()).poll());
}

#[tokio::test(start_paused = true)]
async fn a_fault_ends_with_the_drop_at_each_state_and_only_so_many_are_active() {
    let (mock, mut handle) = mock::pair();
    let mut service = FaultLayer::new().delay(SECOND, Share::ALL).max_active(1).layer(Paths(mock));
    let active = service.settings.active.clone();
    let mut delayed = call!(service, get("/a"));
    assert_pending!(delayed.poll());
    // One is active already: this one is spared.
    let mut spared = call!(service, get("/b"));
    assert_pending!(spared.poll());
    assert_request_eq!(handle, "/b 0").send_response(Response::new(Body::empty()));
    assert_ready!(spared.poll()).unwrap();
    drop(delayed);
    assert_eq!(active.in_flight(), 0);
    drop(call!(service, get("/c")));
    assert_eq!(active.in_flight(), 0);
    let mut called = call!(service, get("/d"));
    assert_pending!(called.poll());
    advance(SECOND).await;
    assert_pending!(called.poll());
    // The delay is over, and so the fault is.
    assert_eq!(active.in_flight(), 0);
    drop(called);
    assert_request_eq!(handle, "/d 0").send_error("nobody listens");
}

#[tokio::test(start_paused = true)]
async fn a_failure_does_not_reach_the_service_and_looks_like_the_real_one() {
    let (mock, mut handle) = mock::pair();
    for (abort, outcome, sent) in [
        (Abort::Reset, Outcome::UpstreamReset, Sent::Possibly),
        (Abort::ConnectFailed, Outcome::ConnectFailed, Sent::Nothing),
    ] {
        let mut service = FaultLayer::new().abort(abort, Share::ALL).layer(Paths(mock.clone()));
        let error = assert_ready!(call!(service, get("/")).poll()).unwrap_err();
        assert_eq!((error.outcome(), error.sent()), (outcome, sent));
        assert!(error.to_string().ends_with("injected fault"), "{error}");
    }
    // First the delay, then the failure.
    let mut service =
        FaultLayer::new().delay(SECOND, Share::ALL).abort(Abort::Reset, Share::ALL).layer(Paths(mock.clone()));
    let mut call = call!(service, get("/"));
    assert_pending!(call.poll());
    advance(SECOND).await;
    assert_eq!(assert_ready!(call.poll()).unwrap_err().outcome(), Outcome::UpstreamReset);
    drop((mock, service));
    assert!(handle.next_request().await.is_none());
}

#[tokio::test]
async fn statuses_are_answered_in_the_clients_dialect() {
    let app = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let answered = async |abort, content_type: &str| {
        let request = Request::get("/").header("content-type", content_type).body(()).unwrap();
        FaultLayer::new().abort(abort, Share::ALL).layer(app).oneshot(request).await.unwrap()
    };
    let teapot = answered(Abort::Status(StatusCode::IM_A_TEAPOT), "").await;
    assert_eq!(teapot.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(teapot.extensions().get(), Some(&Outcome::FaultInjected));
    for (abort, code) in [(Abort::Status(StatusCode::FORBIDDEN), "7"), (Abort::Grpc(10), "10")] {
        let response = answered(abort, "application/grpc").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], code);
    }
    assert_eq!(answered(Abort::Grpc(5), "").await.headers()["content-type"], "application/grpc");
}

#[tokio::test(start_paused = true)]
async fn fields_act_only_where_enabled_and_within_what_is_set() {
    let wish = || {
        let request = Request::get("/").header("x-fault-abort-status", "418").header("x-other", "1");
        request.body(()).unwrap()
    };
    let (mock, mut handle) = mock::pair();
    let passes = [
        // They are fields like any other where they are not enabled, and gone where they are.
        (FaultLayer::new(), "/ 2"),
        (FaultLayer::new().headers(true).abort(Abort::Reset, Share::NONE), "/ 1"),
        (FaultLayer::new().headers(true).when(|request| request.uri.path() != "/"), "/ 1"),
        (FaultLayer::new().headers(true).max_active(0), "/ 1"),
    ];
    for (layer, seen) in passes {
        let mut service = layer.layer(Paths(mock.clone()));
        let mut call = call!(service, wish());
        assert_pending!(call.poll());
        assert_request_eq!(handle, seen).send_response(Response::new(Body::empty()));
        assert_ready!(call.poll()).unwrap();
    }
    let mut service = FaultLayer::new().headers(true).layer(Paths(mock.clone()));
    let response = assert_ready!(call!(service, wish()).poll()).unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    // The longest delay holds for wishes too.
    let mut service = FaultLayer::new().headers(true).max_delay(SECOND).layer(Paths(mock));
    let request = Request::get("/").header("x-fault-delay-ms", "3600000").body(()).unwrap();
    let mut call = call!(service, request);
    assert_pending!(call.poll());
    advance(SECOND).await;
    assert_pending!(call.poll());
    assert_request_eq!(handle, "/ 0").send_response(Response::new(Body::empty()));
    assert_ready!(call.poll()).unwrap();
}
