//! The layer, poll by poll.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::advance;
use tower::{Service, ServiceExt, service_fn, util::BoxCloneService};
use tower_layer::Layer;

use super::*;
use crate::{Body, BoxError, Error, Outcome};

type Answer = Result<Response<Body>, Error>;
type Script = Box<dyn FnMut() -> Option<Answer> + Send>;
type Frames = Vec<Result<Frame<bytes::Bytes>, BoxError>>;

/// A service that answers what it is told to, and how often it was asked.
#[derive(Clone)]
struct Backend {
    answer: Arc<Mutex<Script>>,
    asked: Arc<AtomicUsize>,
}

impl Backend {
    fn new(answer: impl FnMut() -> Option<Answer> + Send + 'static) -> Self {
        Self { answer: Arc::new(Mutex::new(Box::new(answer))), asked: Arc::default() }
    }

    fn now(&self, answer: impl FnMut() -> Option<Answer> + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    fn behind(&self, layer: &BreakerLayer) -> BoxCloneService<Request<Body>, Response<Body>, Error> {
        let backend = self.clone();
        let inner = service_fn(move |_: Request<Body>| {
            backend.asked.fetch_add(1, SeqCst);
            let answer = (backend.answer.lock().unwrap())();
            async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        });
        BoxCloneService::new(layer.layer(inner))
    }
}

fn status(status: u16) -> Option<Answer> {
    Some(Ok(Response::builder().status(status).body(Body::from("text")).unwrap()))
}

fn grpc(code: &'static str) -> Option<Answer> {
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), code.parse().unwrap())]);
    framed(vec![Ok(Frame::data("reply".into())), Ok(Frame::trailers(trailers))])
}

fn framed(frames: Frames) -> Option<Answer> {
    struct Items(std::vec::IntoIter<Result<Frame<bytes::Bytes>, BoxError>>);
    impl futures_core::Stream for Items {
        type Item = Result<Frame<bytes::Bytes>, BoxError>;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(self.0.next())
        }
    }
    Some(Ok(Response::new(Body::new(StreamBody::new(Items(frames.into_iter()))))))
}

fn request() -> Request<Body> {
    Request::new(Body::empty())
}

fn circuit(failures: u32) -> Circuit {
    Circuit::new("test", only_in_a_row(failures))
}

async fn read<S>(service: &S) -> Answer
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone,
{
    let response = service.clone().oneshot(request()).await?;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

#[tokio::test(start_paused = true)]
async fn open_it_answers_by_itself_and_one_probe_finds_the_way_back() {
    let circuit = circuit(3);
    let backend = Backend::new(|| status(503));
    let layer = BreakerLayer::new(circuit.clone());
    // Services made one by one, as servers make them for each connection, share the state.
    for _ in 0..3 {
        assert_eq!(read(&backend.behind(&layer)).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let refused = read(&backend.behind(&layer)).await.unwrap();
    assert_eq!(refused.extensions().get(), Some(&Outcome::BreakerOpen));
    let after: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&after), "{after}");
    assert_eq!(backend.asked(), 3);

    backend.now(|| status(200));
    advance(Duration::from_secs(after)).await;
    let service = backend.behind(&layer);
    let probe = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(circuit.state(), State::HalfOpen, "until the end of the body");
    assert_eq!(read(&service).await.unwrap().extensions().get(), Some(&Outcome::BreakerOpen));
    probe.into_body().collect().await.unwrap();
    assert_eq!(circuit.state(), State::Closed);
    assert_eq!(read(&service).await.unwrap().status(), StatusCode::OK);
    assert_eq!((circuit.stats().opened, circuit.stats().refused), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn grpc_is_judged_by_its_trailers_and_refused_as_grpc() {
    let circuit = circuit(2);
    let backend = Backend::new(|| grpc("14"));
    let service = backend.behind(&BreakerLayer::new(circuit.clone()));
    backend.now(|| grpc("5"));
    for _ in 0..3 {
        read(&service).await.unwrap();
    }
    assert_eq!(circuit.state(), State::Closed, "NOT_FOUND is the application's answer");
    backend.now(|| grpc("14"));
    for _ in 0..2 {
        read(&service).await.unwrap();
    }
    assert_eq!(circuit.state(), State::Open);

    let mut request = request();
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let refused = service.oneshot(request).await.unwrap();
    assert_eq!((refused.status(), &refused.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
    let pushback: u64 = refused.headers()["grpc-retry-pushback-ms"].to_str().unwrap().parse().unwrap();
    assert!((1_000..=1_500).contains(&pushback), "{pushback}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_and_a_service_that_fails_count() {
    let circuit = circuit(2);
    let backend = Backend::new(|| framed(vec![Ok(Frame::data("a".into())), Err("cut".into())]));
    let service = backend.behind(&BreakerLayer::new(circuit.clone()));
    read(&service).await.unwrap();
    backend.now(|| Some(Err(Error::new(Outcome::UpstreamTimeout))));
    read(&service).await.unwrap_err();
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn the_clients_going_away_never_counts_and_gives_the_probe_back() {
    let circuit = circuit(1);
    let backend = Backend::new(|| None);
    let service = backend.behind(&BreakerLayer::new(circuit.clone()));
    let leave_early = async || {
        let mut waiting = tokio_test::task::spawn(service.clone().oneshot(request()));
        tokio_test::assert_pending!(waiting.poll());
    };
    for _ in 0..50 {
        leave_early().await;
    }
    backend.now(|| status(200));
    for _ in 0..50 {
        drop(service.clone().oneshot(request()).await.unwrap());
    }
    backend.now(|| Some(Err(Error::new(Outcome::Cancelled))));
    read(&service).await.unwrap_err();
    assert_eq!(circuit.state(), State::Closed);

    // A failure that its head told of is one, read or not.
    backend.now(|| status(500));
    drop(service.clone().oneshot(request()).await.unwrap());
    assert_eq!(circuit.state(), State::Open);

    advance(Duration::from_secs(2)).await;
    backend.now(|| None);
    for _ in 0..3 {
        let before = backend.asked();
        leave_early().await;
        assert_eq!((backend.asked(), circuit.state()), (before + 1, State::Open), "each could probe");
    }
    backend.now(|| status(200));
    read(&service).await.unwrap();
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_counts() {
    let circuit = circuit(2);
    let inner = service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, BoxError>>());
    let layers = tower::ServiceBuilder::new()
        .layer(BreakerLayer::new(circuit.clone()))
        .layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(1)));
    let service = layers.service(inner);
    for _ in 0..2 {
        service.clone().oneshot(request()).await.unwrap_err();
    }
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_panic_counts() {
    let circuit = circuit(1);
    let service = BreakerLayer::new(circuit.clone())
        .layer(service_fn(|_: Request<Body>| async { if true { panic!("a bug") } else { status(200).unwrap() } }));
    tokio::spawn(service.oneshot(request())).await.unwrap_err();
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn the_application_has_the_first_word() {
    let circuit = circuit(1);
    let backend = Backend::new(|| status(404));
    let layer = BreakerLayer::new(circuit.clone()).classify(|parts| match parts.status.as_u16() {
        503 => Some(Class::Success),
        404 => Some(Class::ServerError),
        _ => None,
    });
    let service = backend.behind(&layer);
    backend.now(|| status(503));
    read(&service).await.unwrap();
    assert_eq!(circuit.state(), State::Closed);
    backend.now(|| status(404));
    read(&service).await.unwrap();
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn many_callers_at_once_get_one_probe_through() {
    let circuit = circuit(1);
    let backend = Backend::new(|| status(500));
    let service = backend.behind(&BreakerLayer::new(circuit.clone()));
    read(&service).await.unwrap();
    backend.now(|| None);
    advance(Duration::from_secs(2)).await;
    let mut all: Vec<_> = (0..100).map(|_| tokio_test::task::spawn(service.clone().oneshot(request()))).collect();
    let waiting = all.iter_mut().filter_map(|one| one.poll().is_pending().then_some(())).count();
    assert_eq!((waiting, backend.asked()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_says_nothing_is_no_opening() {
    let circuit = circuit(1);
    circuit.begin().unwrap().settle(Class::ServerError);
    advance(Duration::from_secs(2)).await;
    drop(circuit.begin().unwrap());
    drop(circuit.begin().unwrap());
    assert_eq!((circuit.state(), circuit.stats().opened), (State::Open, 1));
    circuit.begin().unwrap().settle(Class::ServerError);
    assert_eq!(circuit.stats().opened, 2);
}

#[tokio::test(start_paused = true)]
async fn a_limit_outside_of_it_counts_as_one_inside_does_and_a_client_that_goes_does_not() {
    let backend = Backend::new(|| None);
    for (limit, opens) in [(1, true), (60, false)] {
        let circuit = circuit(1);
        let service = backend.behind(&BreakerLayer::new(circuit.clone()));
        let limited = crate::timeout::TimeoutLayer::new(Duration::from_secs(limit)).layer(service);
        let _ = tokio::time::timeout(Duration::from_secs(5), limited.oneshot(request())).await;
        assert_eq!(circuit.state() == State::Open, opens, "{limit} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_that_is_late_for_its_callers_own_time_says_nothing() {
    let trailers_only = || Some(Ok(Response::builder().header("grpc-status", "4").body(Body::empty()).unwrap()));
    for (told, ours, counts) in [
        (None, None, true),
        // It was over, ...
        (Some("1S"), None, false),
        (Some("1S"), Some(60), false),
        // ... it was not, and what was told was ours.
        (Some("9S"), Some(60), true),
        (Some("1S"), Some(1), true),
    ] {
        for answer in [trailers_only as fn() -> Option<Answer>, || grpc("4")] {
            let circuit = circuit(1);
            let backend = Backend::new(answer);
            let inner = service_fn(move |request: Request<Body>| {
                let backend = backend.clone();
                async move {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    drop(request);
                    (backend.answer.lock().unwrap())().unwrap()
                }
            });
            let service = BreakerLayer::new(circuit.clone()).layer(inner);
            let mut request = request();
            if let Some(told) = told {
                request.headers_mut().insert("grpc-timeout", told.parse().unwrap());
            }
            if let Some(ours) = ours {
                let now = Instant::now();
                crate::timeout::Patience::note(&mut request, now, now + Duration::from_secs(ours));
            }
            let response = service.oneshot(request).await.unwrap();
            let _ = response.into_body().collect().await;
            assert_eq!(circuit.state() == State::Open, counts, "{told:?} {ours:?}");
        }
    }
}
