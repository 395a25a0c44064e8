use std::{
    collections::VecDeque,
    future::{pending, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use tokio::{sync::mpsc, time::Instant};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{Body, BoxError, Error, Outcome, Sent, balance::Tried, grpc::Code, timeout::Deadline};

/// What a backend does with one attempt.
#[derive(Debug, Clone)]
enum Act {
    Answer(u16),
    /// A response with these fields in its head.
    Fields(u16, Vec<(&'static str, &'static str)>),
    /// An empty body with these trailers, after a while.
    Trailers(Duration, Vec<(&'static str, &'static str)>),
    /// Fails before anything is sent.
    Unreachable,
    /// Takes so many frames and says that it did not process them.
    Refuse(usize),
    /// Takes so many frames and breaks.
    Reset(usize),
    /// Takes so many frames and answers early, with this status.
    Early(usize, u16),
    Hang,
}

/// One attempt as the backend saw it.
#[derive(Debug, Clone, Default)]
struct Seen {
    at: Option<Instant>,
    /// All of it, where it was read to its end.
    body: Option<Vec<u8>>,
    headers: HeaderMap,
    /// It may have been processed: it reached the backend, which did not refuse it.
    processed: bool,
}

/// A backend that keeps a record of all it sees.
#[derive(Clone, Default)]
struct Backend(Arc<Mutex<(VecDeque<Act>, Vec<Seen>)>>);

impl Backend {
    fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        Self(Arc::new(Mutex::new((acts.into_iter().collect(), Vec::new()))))
    }

    fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().1.clone()
    }

    fn times(&self) -> Vec<Instant> {
        self.seen().into_iter().filter_map(|seen| seen.at).collect()
    }

    fn note(&self, index: usize, write: impl FnOnce(&mut Seen)) {
        write(&mut self.0.lock().unwrap().1[index]);
    }

    async fn serve(self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let (act, index) = {
            let mut state = self.0.lock().unwrap();
            let act = state.0.pop_front().unwrap_or(Act::Answer(200));
            state.1.push(Seen { at: Some(Instant::now()), headers: request.headers().clone(), ..Seen::default() });
            (act, state.1.len() - 1)
        };
        if matches!(act, Act::Unreachable) {
            return Err(Error::new(Outcome::ConnectFailed));
        }
        if !matches!(act, Act::Refuse(_)) {
            self.note(index, |seen| seen.processed = true);
        }
        let frames = match act {
            Act::Refuse(frames) | Act::Reset(frames) | Act::Early(frames, _) => frames,
            Act::Hang => 0,
            _ => usize::MAX,
        };
        let mut body = request.into_body();
        let mut read = Vec::new();
        for count in 0.. {
            if count == frames {
                break;
            }
            match body.frame().await {
                Some(Ok(frame)) => read.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(error)) => {
                    return Err(Error::new(Outcome::UpstreamReset).with_sent(Sent::Possibly).with_source(error));
                }
                None => {
                    self.note(index, |seen| seen.body = Some(read));
                    break;
                }
            }
        }
        let status = |status| StatusCode::from_u16(status).unwrap();
        match act {
            Act::Answer(code) | Act::Early(_, code) => {
                Ok(Response::builder().status(status(code)).body(Body::empty()).unwrap())
            }
            Act::Fields(code, fields) => {
                let response = fields
                    .into_iter()
                    .fold(Response::builder(), |response, (name, value)| response.header(name, value));
                Ok(response.status(status(code)).body(Body::from("text")).unwrap())
            }
            Act::Trailers(after, fields) => {
                let fields: HeaderMap =
                    fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
                Ok(Response::new(Body::new(StreamBody::new(Box::pin(futures_util::stream::once(async move {
                    tokio::time::sleep(after).await;
                    Ok::<_, BoxError>(Frame::trailers(fields))
                }))))))
            }
            Act::Unreachable => unreachable!(),
            Act::Refuse(_) => Err(Error::new(Outcome::UpstreamReset).with_sent(Sent::Refused)),
            Act::Reset(_) => Err(Error::new(Outcome::UpstreamReset).with_sent(Sent::Possibly)),
            Act::Hang => pending().await,
        }
    }

    async fn call(&self, layer: &RetryLayer, request: Request<Body>) -> Result<Response<Body>, Error> {
        let backend = self.clone();
        layer.layer(service_fn(move |request| backend.clone().serve(request))).oneshot(request).await
    }
}

fn layer(retries: u32) -> RetryLayer {
    RetryLayer::new().max_retries(retries).backoff(Duration::ZERO, Duration::ZERO)
}

fn get() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/").body(body.into()).unwrap()
}

fn grpc() -> Request<Body> {
    Request::post("/a/B").header("content-type", "application/grpc").body(Body::from("call")).unwrap()
}

const SOON: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_post_goes_again_only_while_nothing_can_have_been_processed() {
    for (act, attempts) in [
        (Act::Unreachable, 2),
        (Act::Refuse(0), 2),
        (Act::Refuse(1), 2),
        (Act::Reset(0), 1),
        (Act::Reset(1), 1),
        (Act::Early(0, 503), 1),
        (Act::Answer(503), 1),
        (Act::Hang, 1),
    ] {
        let backend = Backend::new([act.clone()]);
        let layer = layer(3).per_try_timeout(Duration::from_secs(1));
        let _ = backend.call(&layer, post("pay 10")).await;
        assert_eq!(backend.seen().len(), attempts, "{act:?}");

        let backend = Backend::new([act.clone()]);
        let mut keyed = post("pay 10");
        keyed.headers_mut().insert("idempotency-key", HeaderValue::from_static("k1"));
        assert_eq!(backend.call(&layer, keyed).await.unwrap().status(), 200, "{act:?}");
        assert_eq!(backend.seen()[1].body.as_deref(), Some(&b"pay 10"[..]), "{act:?}");
        assert_eq!(backend.seen()[1].headers["idempotency-key"], "k1");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_failure_comes_out_as_it_is() {
    let backend = Backend::new(vec![Act::Answer(503), Act::Reset(0), Act::Fields(502, vec![("x-last", "yes")])]);
    let response = backend.call(&layer(2), get()).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["x-last"].as_bytes()), (502, &b"yes"[..]));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "text");

    let backend = Backend::new([Act::Answer(503), Act::Reset(0)]);
    let error = backend.call(&layer(1), get()).await.unwrap_err();
    assert_eq!((error.outcome(), error.sent()), (Outcome::UpstreamReset, Sent::Possibly));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_among_the_conditions_is_passed_on() {
    for act in [Act::Answer(500), Act::Answer(404), Act::Answer(429), Act::Answer(200)] {
        let backend = Backend::new([act]);
        backend.call(&layer(3), get()).await.unwrap();
        assert_eq!(backend.seen().len(), 1);
    }
    let backend = Backend::new([Act::Reset(0)]);
    let narrow = layer(3).conditions(Conditions::none().connect_failure());
    backend.call(&narrow, get()).await.unwrap_err();
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn grpc_is_judged_by_head_and_by_trailers_after_an_empty_body() {
    let repeatable = layer(1).repeatable_if(|parts| parts.uri.path() == "/a/B");
    for act in [
        Act::Fields(200, vec![("grpc-status", "14")]),
        Act::Trailers(Duration::ZERO, vec![("grpc-status", "14")]),
        Act::Trailers(Duration::from_millis(9), vec![("grpc-status", "14")]),
    ] {
        let backend = Backend::new([act.clone()]);
        backend.call(&repeatable, grpc()).await.unwrap();
        assert_eq!(backend.seen().len(), 2, "{act:?}");
        assert_eq!(backend.seen()[1].headers["grpc-previous-rpc-attempts"], "1");
        assert!(!backend.seen()[0].headers.contains_key("grpc-previous-rpc-attempts"));

        let backend = Backend::new([act.clone()]);
        backend.call(&layer(1), grpc()).await.unwrap();
        assert_eq!(backend.seen().len(), 1, "a call is a POST: {act:?}");
    }
    for act in [
        Act::Trailers(Duration::ZERO, vec![("grpc-status", "13")]),
        Act::Trailers(Duration::from_millis(11), vec![("grpc-status", "14")]),
        Act::Fields(200, vec![("grpc-status", "0")]),
    ] {
        let backend = Backend::new([act.clone()]);
        let response = backend.call(&repeatable, grpc()).await.unwrap();
        assert_eq!(backend.seen().len(), 1, "{act:?}");
        let head = Code::of(response.headers());
        let trailers = response.into_body().collect().await.unwrap().trailers().and_then(Code::of);
        assert!(head.or(trailers).is_some(), "nothing was taken from the answer: {act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_head_of_a_call_that_is_still_sending_is_not_held_back() {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
    let stream = StreamBody::new(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)));
    let mut request = grpc();
    *request.body_mut() = Body::new(stream);
    let service = layer(1).repeatable_if(|_| true).layer(service_fn(|request: Request<Body>| {
        // Held, as the connection would.
        let body = StreamBody::new(futures_util::stream::once(async move {
            let _request = request;
            pending::<Result<Frame<Bytes>, BoxError>>().await
        }));
        ready(Ok::<_, Error>(Response::new(Body::new(body))))
    }));
    let mut call = task::spawn(service.oneshot(request));
    assert_ready_ok!(call.poll());
    drop(sender);
}

#[tokio::test(start_paused = true)]
async fn the_server_sets_the_pace() {
    let second = Duration::from_secs(1);
    let pushed = |value| Act::Fields(200, vec![("grpc-status", "14"), ("grpc-retry-pushback-ms", value)]);
    let layer = RetryLayer::new().max_retries(2).repeatable_if(|_| true);

    let backend = Backend::new([pushed("1500"), pushed("500")]);
    backend.call(&layer, grpc()).await.unwrap();
    let times = backend.times();
    assert_eq!((times[1] - times[0], times[2] - times[1]), (second * 3 / 2, second / 2));

    let backend = Backend::new([pushed("-1")]);
    backend.call(&layer, grpc()).await.unwrap();
    assert_eq!(backend.seen().len(), 1);

    let trailers = vec![("grpc-status", "14"), ("grpc-retry-pushback-ms", "2000")];
    let backend = Backend::new([Act::Trailers(Duration::ZERO, trailers)]);
    backend.call(&layer, grpc()).await.unwrap();
    assert_eq!(backend.times()[1] - backend.times()[0], second * 2);

    let backend = Backend::new([Act::Fields(503, vec![("retry-after", "120")])]);
    backend.call(&layer, get()).await.unwrap();
    let waited = backend.times()[1] - backend.times()[0];
    assert!(waited >= second * 120 && waited <= second * 120 + Duration::from_millis(26), "{waited:?}");

    let backend = Backend::new([Act::Fields(503, vec![("retry-after", "301")])]);
    assert_eq!(backend.call(&layer, get()).await.unwrap().status(), 503);
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_that_the_deadline_would_cut() {
    let began = Instant::now();
    let mut request = get();
    request.extensions_mut().insert(Deadline::after(began, Duration::from_secs(5)));
    let backend =
        Backend::new([Act::Fields(503, vec![("retry-after", "2")]), Act::Fields(503, vec![("retry-after", "3")])]);
    assert_eq!(backend.call(&layer(5), request).await.unwrap().status(), 503);
    assert_eq!(backend.seen().len(), 2);
    assert_eq!(began.elapsed(), Duration::from_secs(2), "the answer is not held back for a retry that is not made");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_goes_again_tells_what_is_left_by_then() {
    let fields = vec![("grpc-status", "14"), ("grpc-retry-pushback-ms", "500")];
    let backend = Backend::new([Act::Fields(200, fields)]);
    let mut request = grpc();
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("2S"));
    request.extensions_mut().insert(Deadline::after(Instant::now(), Duration::from_secs(2)));
    backend.call(&layer(1).repeatable_if(|_| true), request).await.unwrap();
    let told: Vec<_> = backend.seen().iter().map(|seen| seen.headers["grpc-timeout"].clone()).collect();
    assert_eq!(told, ["2S", "1500000u"]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_its_own_time() {
    let began = Instant::now();
    let backend = Backend::new([Act::Hang, Act::Answer(200)]);
    let layer = layer(1).per_try_timeout(Duration::from_secs(1));
    assert_eq!(backend.call(&layer, get()).await.unwrap().status(), 200);
    assert_eq!(began.elapsed(), Duration::from_secs(1));

    let backend = Backend::new([Act::Hang, Act::Hang]);
    let error = backend.call(&layer, get()).await.unwrap_err();
    assert_eq!((error.outcome(), error.sent()), (Outcome::UpstreamTimeout, Sent::Possibly));
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_all_together() {
    let budget = Budget::new(20, 0, Duration::from_secs(10));
    let layer = layer(3).budget(budget.clone());
    let backend = Backend::new((0..1000).map(|_| Act::Answer(503)));
    for _ in 0..50 {
        backend.call(&layer, get()).await.unwrap();
    }
    assert_eq!(backend.seen().len(), 60);
    // Where nothing is granted, nothing is waited for.
    assert!(!budget.withdraw(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn attempts_share_what_was_tried() {
    let service = layer(2).layer(service_fn(|request: Request<Body>| {
        let tried = Tried::of(request.extensions()).unwrap().clone();
        let before = tried.addresses().len();
        tried.add(([127, 0, 0, 1], u16::try_from(before).unwrap()).into());
        let status = if before == 2 { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
        ready(Ok::<_, Error>(Response::builder().status(status).body(Body::empty()).unwrap()))
    }));
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_is_retried_with_the_rest_of_the_body_still_to_come() {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
    let body = Body::new(StreamBody::new(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))));
    let backend = Backend::new([Act::Early(1, 503)]);
    let request = Request::put("/").body(body).unwrap();
    let layer = layer(1);
    let mut call = task::spawn(backend.call(&layer, request));
    assert_pending!(call.poll());
    sender.send(Ok(Frame::data("first ".into()))).unwrap();
    assert_pending!(call.poll());
    tokio::time::advance(SOON).await;
    assert_pending!(call.poll());
    assert_eq!(backend.seen().len(), 2);
    sender.send(Ok(Frame::data("second".into()))).unwrap();
    drop(sender);
    assert_eq!(assert_ready_ok!(call.poll()).status(), 200);
    assert_eq!(backend.seen()[1].body.as_deref(), Some(&b"first second"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_body_above_the_cap_streams_and_is_not_sent_again() {
    let backend = Backend::new([Act::Answer(503)]);
    let large = Request::put("/").body(Body::from("x".repeat(65 * 1024))).unwrap();
    assert_eq!(backend.call(&layer(1), large).await.unwrap().status(), 503);
    assert_eq!(backend.seen()[0].body.as_ref().unwrap().len(), 65 * 1024);
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_ours_is_an_answer() {
    for (outcome, attempts) in [(Outcome::Overloaded, 1), (Outcome::DeadlineExceeded, 1), (Outcome::UpstreamTimeout, 3)]
    {
        let calls = Arc::new(Mutex::new(0));
        let count = calls.clone();
        let service = layer(2).layer(service_fn(move |_: Request<Body>| {
            *count.lock().unwrap() += 1;
            ready(Ok::<_, Error>(crate::respond::refusal(outcome, crate::respond::Dialect::Http)))
        }));
        assert_eq!(service.oneshot(get()).await.unwrap().status(), outcome.status());
        assert_eq!(*calls.lock().unwrap(), attempts, "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_is_sent_once() {
    let backend = Backend::new([Act::Unreachable]);
    let mut request = get();
    request.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    backend.call(&layer(3), request).await.unwrap_err();
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_service_is_asked_for_readiness_before_each_attempt() {
    let (mock, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let mock = tower::ServiceBuilder::new().map_err(|_: BoxError| Error::new(Outcome::Internal)).service(mock);
    let mut service = layer(1).layer(mock);
    handle.allow(1);
    let mut ready = task::spawn(std::future::poll_fn(|cx| service.poll_ready(cx)));
    assert_ready_ok!(ready.poll());
    drop(ready);
    let mut call = task::spawn(service.call(get()));
    assert_pending!(call.poll());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::builder().status(503).body(Body::empty()).unwrap());
    assert_pending!(call.poll());
    tokio::time::advance(SOON).await;
    // Not ready yet: nothing may be sent.
    assert_pending!(call.poll());
    let mut next = task::spawn(handle.next_request());
    assert_pending!(next.poll());
    drop(next);
    handle.allow(1);
    assert_pending!(call.poll());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(Body::empty()));
    assert_eq!(assert_ready_ok!(call.poll()).status(), 200);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_anywhere_drops_the_attempt_and_the_body() {
    for polls in 0..3 {
        let alive = Arc::new(());
        let held = alive.clone();
        let service = layer(3).layer(service_fn(move |request: Request<Body>| {
            let held = held.clone();
            async move {
                let _held = (held, request);
                tokio::time::sleep(SOON).await;
                Ok::<_, Error>(Response::builder().status(503).body(Body::empty()).unwrap())
            }
        }));
        let body_held = alive.clone();
        let stream = futures_util::stream::once(async move {
            let _held = body_held;
            pending::<Result<Frame<Bytes>, BoxError>>().await
        });
        let request = Request::put("/").body(Body::new(StreamBody::new(stream))).unwrap();
        let mut call = task::spawn(service.oneshot(request));
        for _ in 0..polls {
            assert_pending!(call.poll());
            tokio::time::advance(SOON).await;
        }
        drop(call);
        assert_eq!(Arc::strong_count(&alive), 1, "after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_unwanted_answer_is_read_up_to_a_limit() {
    // Any number of empty frames is no more than that many of some.
    for (count, size, ended) in [(10, 100, "Complete"), (200, 100, "Dropped"), (usize::MAX, 0, "Dropped")] {
        struct Watch(mpsc::UnboundedSender<String>);
        impl crate::body::Observer for Watch {
            fn end(&mut self, end: crate::body::End<'_>) {
                self.0.send(format!("{end:?}")).unwrap();
            }
        }
        let (sender, mut ends) = mpsc::unbounded_channel();
        let service = layer(1).layer(service_fn(move |_: Request<Body>| {
            let chunks = (0..count).map(move |_| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![0; size]))));
            let body = Body::new(StreamBody::new(futures_util::stream::iter(chunks)));
            let body = body.observed(Watch(sender.clone()));
            ready(Ok::<_, Error>(Response::builder().status(503).body(body).unwrap()))
        }));
        let _last = service.oneshot(get()).await.unwrap();
        assert_eq!(ends.try_recv().unwrap(), ended);
    }
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        Just(Act::Answer(200)),
        Just(Act::Answer(503)),
        Just(Act::Fields(502, vec![("retry-after", "1")])),
        Just(Act::Unreachable),
        (0usize..5).prop_map(Act::Refuse),
        (0usize..5).prop_map(Act::Reset),
        ((0usize..5), prop_oneof![Just(200u16), Just(503)]).prop_map(|(frames, status)| Act::Early(frames, status)),
        Just(Act::Trailers(Duration::ZERO, vec![("grpc-status", "14")])),
        Just(Act::Hang),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever goes wrong, in whatever order: what may have been processed once is not sent again, unless it may be; and
    /// every body that arrives is the client's.
    #[test]
    fn a_post_without_a_key_is_never_delivered_twice(
        faults in prop::collection::vec(acts(), 0..8),
        body in prop::collection::vec(0usize..3000, 0..5),
        cap in 0usize..6000,
        retries in 0u32..8,
        method in prop_oneof![Just("POST"), Just("PATCH"), Just("PUT")],
        keyed: bool,
        is_grpc: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let backend = Backend::new(faults);
            let sent: Vec<u8> = body.iter().enumerate().flat_map(|(i, len)| vec![u8::try_from(i).unwrap(); *len]).collect();
            let frames: Vec<_> = body
                .iter()
                .enumerate()
                .map(|(i, len)| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![u8::try_from(i).unwrap(); *len]))))
                .collect();
            let stream = futures_util::stream::iter(frames);
            let mut request = Request::builder().method(method).uri("/").body(Body::new(StreamBody::new(stream))).unwrap();
            if keyed {
                request.headers_mut().insert("idempotency-key", HeaderValue::from_static("k"));
            }
            if is_grpc {
                request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            }
            let layer = RetryLayer::new()
                .max_retries(retries)
                .conditions(Conditions::default().server_errors())
                .per_try_timeout(Duration::from_secs(1))
                .body_cap(cap);
            let _ = backend.call(&layer, request).await;
            let seen = backend.seen();
            assert!(seen.len() <= retries as usize + 1);
            let repeatable = keyed || *method == *Method::PUT.as_str();
            let processed = seen.iter().filter(|seen| seen.processed).count();
            assert!(processed <= 1 || repeatable, "{seen:?}");
            // Also: nothing goes out after what may have been processed.
            let first = seen.iter().position(|seen| seen.processed);
            assert!(repeatable || first.is_none_or(|first| first + 1 == seen.len()));
            for body in seen.iter().filter_map(|seen| seen.body.as_ref()) {
                assert_eq!(body, &sent);
            }
        });
    }
}

/// An endpoint that answers all with `status`.
async fn endpoint(status: u16) -> (std::net::SocketAddr, Arc<Mutex<u32>>) {
    let seen = Arc::new(Mutex::new(0));
    let count = seen.clone();
    let app = axum::Router::new().fallback(move || {
        *count.lock().unwrap() += 1;
        ready(StatusCode::from_u16(status).unwrap())
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, seen)
}

#[tokio::test]
async fn an_upstream_is_asked_for_another_endpoint_as_long_as_there_is_one() {
    use crate::{config, upstream::Upstream};
    let get = || Request::get("http://cart/").body(Body::empty()).unwrap();
    let ((bad, failed), (good, _)) = (endpoint(503).await, endpoint(200).await);
    let both = Upstream::new(config::Upstream::new("cart", config::Endpoints::fixed([bad, good]))).unwrap();
    let budget = Budget::new(100, 100, Duration::from_secs(10));
    let service = layer(1).budget(budget.clone()).layer(both);
    for _ in 0..20 {
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 200);
    }
    assert!(*failed.lock().unwrap() > 0);

    let (alone, asked) = endpoint(503).await;
    let single = Upstream::new(config::Upstream::new("cart", config::Endpoints::fixed([alone]))).unwrap();
    let service = layer(2).budget(budget).layer(single);
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 503);
    assert_eq!(*asked.lock().unwrap(), 3, "the same again rather than none");
}

/// An endpoint that reads a request and closes.
async fn resetting() -> (std::net::SocketAddr, Arc<Mutex<u32>>) {
    use tokio::io::AsyncReadExt;
    let seen = Arc::new(Mutex::new(0));
    let count = seen.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            *count.lock().unwrap() += 1;
        }
    });
    (address, seen)
}

#[tokio::test]
async fn an_upstream_leaves_to_this_layer_what_may_have_been_processed() {
    use crate::{config, upstream::Upstream};
    let get = || Request::get("http://cart/").body(Body::empty()).unwrap();
    let ((one, first), (other, second)) = (resetting().await, resetting().await);
    let both = || Upstream::new(config::Upstream::new("cart", config::Endpoints::fixed([one, other]))).unwrap();
    let seen = || *first.lock().unwrap() + *second.lock().unwrap();
    let refusing = layer(1).conditions(Conditions::none()).layer(both());
    assert_eq!(refusing.oneshot(get()).await.unwrap_err().outcome(), Outcome::UpstreamReset);
    assert_eq!(seen(), 1);
    assert_eq!(layer(1).layer(both()).oneshot(get()).await.unwrap_err().outcome(), Outcome::UpstreamReset);
    assert_eq!(seen(), 3);
}
