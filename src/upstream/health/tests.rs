//! The loop in paused time with checks that are made up; then real ones, of real servers.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::Router;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::*;
use crate::{
    Body,
    balance::{Availability, Balancer, EndpointSet},
    classify::Class,
    config::{self, Check, Endpoints, OutlierDetection, StatusRange},
    outlier::{Alarm, Detector},
    upstream::{BuildError, Upstream},
};

fn terms(config: HealthCheck) -> Terms {
    Terms { config, unejects: true }
}

fn set() -> EndpointSet<()> {
    let balancer = Balancer::new(&config::Balancer::RoundRobin).unwrap();
    let endpoints = [SocketAddr::from(([127, 0, 0, 1], 1)).into()];
    EndpointSet::new(balancer, &endpoints, Instant::now(), |_| ())
}

fn only<E>(set: &EndpointSet<E>) -> Arc<Endpoint<E>> {
    set.iter().next().unwrap().0.clone()
}

/// How checks end.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Pass,
    Fail,
    Never,
}

/// Runs the loop with these answers, the last one for ever, and returns when each check began and whether the endpoint
/// was in at that moment.
async fn play(config: HealthCheck, traffic: bool, answers: &[Answer], seconds: u64) -> Vec<(u64, bool)> {
    let set = set();
    let endpoint = only(&set);
    let start = Instant::now();
    let log = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let check = || {
        let index = next.fetch_add(1, SeqCst).min(answers.len() - 1);
        let healthy = endpoint.availability(Instant::now()) == Availability::Available;
        log.lock().unwrap().push((start.elapsed().as_secs(), healthy));
        let answer = answers[index];
        async move {
            match answer {
                Answer::Pass => Ok(()),
                Answer::Fail => Err("no".into()),
                Answer::Never => std::future::pending().await,
            }
        }
    };
    let terms = terms(config);
    let watched = Arc::downgrade(&endpoint);
    let _ = timeout(Duration::from_secs(seconds), watch(&watched, &terms, || traffic, check)).await;
    log.into_inner().unwrap()
}

fn quick() -> HealthCheck {
    HealthCheck { unhealthy_interval: Some(Duration::from_secs(2)), ..HealthCheck::new(Check::Tcp) }
}

#[tokio::test(start_paused = true)]
async fn three_failures_take_it_out_and_two_passes_bring_it_back_at_other_intervals() {
    use Answer::{Fail, Never, Pass};
    let log = play(quick(), true, &[Pass, Fail, Never, Fail, Pass, Fail, Pass, Pass], 75).await;
    let states: Vec<_> = log.iter().map(|(_, healthy)| *healthy).collect();
    assert_eq!(states[..10], [true, true, true, true, false, false, false, false, true, true], "{log:?}");
    let pauses: Vec<_> = log.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    for (n, least) in [10, 10, 11, 2, 2, 2, 2, 10, 10].into_iter().enumerate() {
        assert!((least..=least + 2).contains(&pauses[n]), "{n}: {pauses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_was_never_well_is_out_at_once() {
    let log = play(quick(), false, &[Answer::Fail], 9).await;
    assert_eq!(log[..2].iter().map(|entry| entry.1).collect::<Vec<_>>(), [true, false]);
    assert_eq!(log[0].0, 0);
}

#[tokio::test(start_paused = true)]
async fn without_traffic_a_minute_passes() {
    let log = play(quick(), false, &[Answer::Pass], 130).await;
    assert_eq!(log.len(), 2 + usize::from(log.len() > 2), "{log:?}");
    assert!((60..=66).contains(&log[1].0), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_passes_ends_an_ejection_unless_told_otherwise() {
    for unejects in [true, false] {
        let set = set();
        let config = OutlierDetection::default();
        let (alarm, mut detector) = (Alarm::new(&config), Detector::new(config, Instant::now()));
        set.watch(alarm);
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..5 {
            let mut attempt = set.pick(&mut crate::balance::Pick::new(Instant::now(), &mut rng)).unwrap();
            attempt.note(Class::ServerError);
            attempt.succeed(Instant::now());
        }
        set.detect(&mut detector, Instant::now(), &mut rng);
        let endpoint = only(&set);
        assert_eq!(endpoint.availability(Instant::now()), Availability::Ejected);
        let terms = Terms { config: quick(), unejects };
        let watched = Arc::downgrade(&endpoint);
        let passes = || async { Ok(()) };
        let _ = timeout(Duration::from_millis(1), watch(&watched, &terms, || true, passes)).await;
        assert_eq!(endpoint.is_ejected(), !unejects);
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_endpoint() {
    let set = set();
    let watched = Arc::downgrade(&only(&set));
    let terms = terms(quick());
    let mut task = tokio_test::task::spawn(watch(&watched, &terms, || true, || async { Ok(()) }));
    tokio_test::assert_pending!(task.poll());
    drop(set);
    tokio::time::advance(Duration::from_secs(12)).await;
    tokio_test::assert_ready!(task.poll());
}

/// A server whose health can be set, speaking HTTP/1.1 or HTTP/2.
struct Server {
    address: SocketAddr,
    well: Arc<AtomicBool>,
    heads: Arc<Mutex<Vec<http::request::Parts>>>,
    bodies: Arc<Mutex<Vec<bytes::Bytes>>>,
}

impl Server {
    async fn start(http2: bool, answer: fn(bool) -> Response<Body>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            well: Arc::new(AtomicBool::new(true)),
            heads: Arc::default(),
            bodies: Arc::default(),
        };
        let (well, heads, bodies) = (server.well.clone(), server.heads.clone(), server.bodies.clone());
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let (well, heads, bodies) = (well.clone(), heads.clone(), bodies.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                heads.lock().unwrap().push(parts);
                bodies.lock().unwrap().push(body);
                Ok::<_, hyper::Error>(answer(well.load(SeqCst)))
            }
        });
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                let io = TokioIo::new(socket);
                if http2 {
                    tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
                } else {
                    tokio::spawn(http1::Builder::new().serve_connection(io, service));
                }
            }
        });
        server
    }

    async fn check(&self, check: &Check) -> Result<(), String> {
        let config = config::Upstream::new("cart", Endpoints::fixed([self.address]));
        let dial = super::super::Dial::new(&config, None).unwrap();
        let prober = Prober::new(&Recipe::new(check, "cart").unwrap(), &dial, self.address);
        prober.check().await.map_err(|error| error.to_string())
    }
}

fn plain(well: bool) -> Response<Body> {
    Response::builder().status(if well { 204 } else { 503 }).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn http_is_asked_for_a_path_and_judged_by_the_status() {
    let server = Server::start(false, plain).await;
    let check = Check::Http {
        path: "/healthz?full=1".into(),
        host: Some("shop.example.com:81".into()),
        expected: vec![StatusRange { from: 200, to: 204 }],
    };
    assert_eq!(server.check(&check).await, Ok(()));
    {
        let heads = server.heads.lock().unwrap();
        assert_eq!(heads[0].uri, "/healthz?full=1");
        assert_eq!(heads[0].headers["host"], "shop.example.com:81");
        assert_eq!(heads[0].method, "GET");
    }
    server.well.store(false, SeqCst);
    assert_eq!(server.check(&check).await, Err("status 503".to_owned()));
    let expected = vec![StatusRange { from: 200, to: 299 }, StatusRange { from: 503, to: 503 }];
    assert_eq!(server.check(&Check::Http { path: "/".into(), host: None, expected }).await, Ok(()));
    assert_eq!(server.heads.lock().unwrap()[2].headers["host"], "cart");
}

fn grpc(well: bool) -> Response<Body> {
    let status = if well { 1 } else { 2 };
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())]);
    let frames = [Frame::data(bytes::Bytes::from(vec![0, 0, 0, 0, 2, 8, status])), Frame::trailers(trailers)];
    struct Items(std::array::IntoIter<Frame<bytes::Bytes>, 2>);
    impl futures_core::Stream for Items {
        type Item = Result<Frame<bytes::Bytes>, BoxError>;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(self.0.next().map(Ok))
        }
    }
    let body = Body::new(StreamBody::new(Items(frames.into_iter())));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

#[tokio::test]
async fn grpc_is_asked_by_its_protocol() {
    let server = Server::start(true, grpc).await;
    let check = Check::Grpc { service: "shop.Cart".into() };
    assert_eq!(server.check(&check).await, Ok(()));
    {
        let heads = server.heads.lock().unwrap();
        assert_eq!(heads[0].uri.path(), "/grpc.health.v1.Health/Check");
        assert_eq!((&heads[0].method, heads[0].version), (&http::Method::POST, http::Version::HTTP_2));
        assert_eq!(heads[0].headers["content-type"], "application/grpc");
        assert_eq!(heads[0].headers["te"], "trailers");
        assert_eq!(&server.bodies.lock().unwrap()[0][..], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    }
    server.well.store(false, SeqCst);
    assert_eq!(server.check(&check).await, Err("serving status 2".to_owned()));

    let unimplemented = |_| {
        let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", "12");
        head.body(Body::empty()).unwrap()
    };
    let server = Server::start(true, unimplemented).await;
    assert_eq!(server.check(&check).await, Err("grpc-status 12".to_owned()));
    // One that speaks no gRPC.
    let server = Server::start(true, |_| Response::new(Body::from("hello"))).await;
    assert_eq!(server.check(&check).await, Err("no grpc-status".to_owned()));
}

#[tokio::test]
async fn tcp_is_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let prober = Prober::Tcp(listener.local_addr().unwrap());
    prober.check().await.unwrap();
    drop(listener);
    prober.check().await.unwrap_err();
}

async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.expect("in time");
}

#[tokio::test]
async fn an_upstream_checks_its_endpoints_as_they_come_and_go() {
    let (first, second) = (Server::start(false, plain).await, Server::start(false, plain).await);
    let config = config::Upstream {
        panic_threshold: 0,
        health_check: Some(HealthCheck {
            interval: Duration::from_millis(5),
            no_traffic_interval: Duration::from_millis(5),
            unhealthy_threshold: 2,
            timeout: Duration::from_secs(5),
            ..HealthCheck::http("/healthz")
        }),
        ..config::Upstream::new("cart", Endpoints::fixed([first.address]))
    };
    let upstream = Upstream::new(config).unwrap();
    let out = || -> Vec<_> {
        let endpoints = upstream.endpoints();
        let out =
            endpoints.iter().filter(|(endpoint, _)| endpoint.availability(Instant::now()) != Availability::Available);
        out.map(|(endpoint, _)| endpoint.address()).collect()
    };
    first.well.store(false, SeqCst);
    until(|| out() == [first.address]).await;
    second.well.store(false, SeqCst);
    upstream.set_endpoints(&[first.address.into(), second.address.into()]);
    until(|| out().len() == 2).await;
    first.well.store(true, SeqCst);
    until(|| out() == [second.address]).await;

    // One that left is left alone, and so are all once the upstream is gone.
    upstream.set_endpoints(&[first.address.into()]);
    let checks = |server: &Server| server.heads.lock().unwrap().len();
    let quiet = async |server: &Server| {
        let mut before = checks(server);
        loop {
            sleep(Duration::from_millis(60)).await;
            let after = checks(server);
            if after == before {
                return;
            }
            before = after;
        }
    };
    timeout(Duration::from_secs(20), quiet(&second)).await.unwrap();
    drop(upstream);
    timeout(Duration::from_secs(20), quiet(&first)).await.unwrap();
}

#[tokio::test]
async fn an_upstream_ejects_who_fails_and_takes_back_who_recovered() {
    let app = |status: Arc<AtomicUsize>| {
        Router::new().fallback(move || {
            let status = status.clone();
            async move { http::StatusCode::from_u16(status.load(SeqCst) as u16).unwrap() }
        })
    };
    let (bad, good) = (Arc::new(AtomicUsize::new(500)), Arc::new(AtomicUsize::new(200)));
    let mut addresses = Vec::new();
    for status in [&bad, &good] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let app = app(status.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
    }
    let config = config::Upstream {
        balancer: config::Balancer::RoundRobin,
        outlier_detection: Some(OutlierDetection {
            base_ejection: Duration::from_millis(200),
            ejection_jitter: Duration::ZERO,
            ..OutlierDetection::default()
        }),
        ..config::Upstream::new("cart", Endpoints::fixed(addresses.clone()))
    };
    let upstream = Upstream::new(config).unwrap();
    let ask = async || {
        let response = tower::ServiceExt::oneshot(upstream.clone(), Request::new(Body::empty())).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        status.as_u16()
    };
    let ejected = || {
        let endpoints = upstream.endpoints();
        endpoints.iter().filter(|(endpoint, _)| endpoint.is_ejected()).map(|(e, _)| e.address()).collect::<Vec<_>>()
    };
    let mut failures = 0;
    while ejected().is_empty() {
        failures += usize::from(ask().await == 500);
        assert!(failures < 200, "never ejected");
    }
    assert!(failures >= 5);
    assert_eq!(ejected(), addresses[..1]);
    #[cfg(feature = "metrics")]
    assert_eq!((upstream.stats().endpoints_ejected, upstream.stats().endpoints_available), (1, 1));
    assert_eq!(ask().await, 200);

    bad.store(200, SeqCst);
    let back = async {
        while !ejected().is_empty() {
            assert_eq!(ask().await, 200);
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), back).await.unwrap();
}

#[test]
fn what_is_wrong_about_a_check_is_told_when_the_upstream_is_built() {
    for (check, told) in [
        (
            Check::Http { path: "healthz".into(), host: None, expected: vec![StatusRange { from: 200, to: 200 }] },
            "path",
        ),
        (
            Check::Http { path: "/".into(), host: Some("a b".into()), expected: vec![StatusRange { from: 1, to: 2 }] },
            "host",
        ),
        (Check::Http { path: "/".into(), host: None, expected: vec![] }, "status"),
    ] {
        let config = config::Upstream {
            health_check: Some(HealthCheck::new(check)),
            ..config::Upstream::new("cart", Endpoints::Static(vec![]))
        };
        let error = Upstream::new(config).unwrap_err();
        assert!(matches!(error, BuildError::HealthCheck { .. }) && error.to_string().contains(told), "{error}");
    }
}
