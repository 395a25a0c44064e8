use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::ServiceExt;

use super::*;
use crate::{
    Body, Error, Outcome, Sent,
    balance::{Availability, Tried},
    config::Endpoints,
    connection::ConnectionInfo,
    exchange::Exchange,
    timeout::AttemptTimeout,
    upstream::discover::Dns,
};

mod breakers;
mod time;

/// Counts connections and requests.
#[derive(Clone, Default)]
struct Seen {
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Seen {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A backend that answers with the body it was sent.
async fn echo() -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let requests = seen.requests.clone();
    let app = Router::new().fallback(move |body: String| {
        requests.fetch_add(1, Ordering::SeqCst);
        async move { body }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = seen.connections.clone();
    let listener = axum::serve::ListenerExt::tap_io(listener, move |_| {
        connections.fetch_add(1, Ordering::SeqCst);
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, seen)
}

/// A backend that reads a request and closes without a byte of answer.
async fn resetting() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.connections.fetch_add(1, Ordering::SeqCst);
            let _ = socket.read(&mut [0; 4096]).await;
            counted.requests.fetch_add(1, Ordering::SeqCst);
            let _ = socket.shutdown().await;
        }
    });
    (address, seen)
}

/// A backend that takes connections and says nothing.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            open.push(socket);
        }
    });
    address
}

/// An address nobody listens on.
async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Round robin, so that which endpoint comes first does not depend on chance for long.
fn upstream(endpoints: impl IntoIterator<Item = SocketAddr>) -> config::Upstream {
    config::Upstream {
        balancer: config::Balancer::RoundRobin,
        ..config::Upstream::new("test", Endpoints::fixed(endpoints))
    }
}

fn request(method: Method, body: &'static str) -> (Request<Body>, Exchange) {
    let exchange = Exchange::begin();
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = "http://test/".parse().unwrap();
    request.extensions_mut().insert(exchange.clone());
    (request, exchange)
}

async fn ask(upstream: &Upstream, method: Method, body: &'static str) -> Result<String, Error> {
    let response = upstream.clone().oneshot(request(method, body).0).await?;
    Ok(String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap())
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over_within_the_request_whatever_its_method() {
    let (alive, seen) = echo().await;
    for method in [Method::GET, Method::POST, Method::PATCH] {
        // A new upstream each: nothing is known yet of the dead endpoint, and it may come first or second.
        for _ in 0..4 {
            let upstream = Upstream::new(upstream([closed().await, alive])).unwrap();
            assert_eq!(ask(&upstream, method.clone(), "body").await.unwrap(), "body");
        }
    }
    assert_eq!(seen.requests(), 12, "each request arrived once");
}

#[tokio::test]
async fn a_dead_endpoint_is_left_out_of_the_requests_that_follow() {
    let (alive, _) = echo().await;
    let upstream = Upstream::new(config::Upstream { panic_threshold: 0, ..upstream([closed().await, alive]) }).unwrap();
    let mut attempts = 0;
    for _ in 0..20 {
        let (request, exchange) = request(Method::GET, "");
        upstream.clone().oneshot(request).await.unwrap();
        attempts += exchange.record().attempts;
    }
    assert_eq!(attempts, 21, "only one of the requests met it");
}

#[tokio::test]
async fn after_a_reset_only_safe_methods_go_elsewhere() {
    let (alive, alive_saw) = echo().await;
    let (broken, broken_saw) = resetting().await;

    for _ in 0..4 {
        let upstream = Upstream::new(upstream([broken, alive])).unwrap();
        assert_eq!(ask(&upstream, Method::GET, "").await.unwrap(), "");
    }
    assert_eq!(alive_saw.requests(), 4);

    let before = (alive_saw.requests(), broken_saw.requests());
    let mut failed = 0;
    for _ in 0..8 {
        let upstream = Upstream::new(upstream([broken, alive])).unwrap();
        if let Err(error) = ask(&upstream, Method::POST, "").await {
            assert_eq!((error.outcome(), error.sent()), (Outcome::UpstreamReset, Sent::Possibly));
            failed += 1;
        }
    }
    assert_eq!(broken_saw.requests() - before.1, failed, "what reached the broken one ended there");
    assert_eq!(alive_saw.requests() - before.0, 8 - failed);
}

#[tokio::test]
async fn attempts_are_capped_and_counted() {
    let mut dead = Vec::new();
    for _ in 0..6 {
        dead.push(closed().await);
    }
    let upstream = Upstream::new(upstream(dead)).unwrap();
    let (request, exchange) = request(Method::GET, "");
    let error = upstream.oneshot(request).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::ConnectFailed);
    assert_eq!(exchange.record().attempts, 3);
    assert!(exchange.record().endpoint.is_some());
}

#[tokio::test]
async fn an_endpoint_is_tried_once_a_request_even_when_it_is_the_only_one() {
    let upstream = Upstream::new(upstream([closed().await])).unwrap();
    let (request, exchange) = request(Method::GET, "");
    assert_eq!(upstream.oneshot(request).await.unwrap_err().outcome(), Outcome::ConnectFailed);
    assert_eq!(exchange.record().attempts, 1);
}

#[tokio::test]
async fn endpoints_that_stay_keep_their_connections() {
    let (alive, seen) = echo().await;
    let upstream = Upstream::new(upstream([alive])).unwrap();
    ask(&upstream, Method::GET, "").await.unwrap();
    for _ in 0..10 {
        upstream.set_endpoints(&[alive.into(), closed().await.into()]);
        upstream.set_endpoints(&[alive.into()]);
        ask(&upstream, Method::GET, "").await.unwrap();
    }
    assert_eq!((seen.requests(), seen.connections()), (11, 1));
}

#[tokio::test]
async fn a_removed_endpoint_finishes_what_it_has_begun() {
    let (old, _) = echo().await;
    let (new, new_saw) = echo().await;
    let upstream = Upstream::new(upstream([old])).unwrap();
    let response = upstream.clone().oneshot(request(Method::POST, "still here").0).await.unwrap();
    upstream.set_endpoints(&[new.into()]);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "still here");
    ask(&upstream, Method::GET, "").await.unwrap();
    assert_eq!(new_saw.requests(), 1);
}

#[tokio::test]
async fn an_attempt_is_in_flight_until_the_body_ends() {
    let (alive, _) = echo().await;
    let upstream = Upstream::new(upstream([alive])).unwrap();
    let in_flight = || upstream.endpoints().iter().map(|(endpoint, _)| endpoint.in_flight()).sum::<u32>();

    let response = upstream.clone().oneshot(request(Method::POST, "body").0).await.unwrap();
    assert_eq!(in_flight(), 1);
    response.into_body().collect().await.unwrap();
    assert_eq!(in_flight(), 0);

    let response = upstream.clone().oneshot(request(Method::POST, "body").0).await.unwrap();
    drop(response);
    assert_eq!(in_flight(), 0, "a body that is dropped gives its place back");
}

#[tokio::test]
async fn a_rules_limit_on_an_attempt_is_kept() {
    let upstream = Upstream::new(upstream([silent().await])).unwrap();
    let (mut request, _) = request(Method::GET, "");
    request.extensions_mut().insert(AttemptTimeout(Duration::from_millis(50)));
    let error = upstream.clone().oneshot(request).await.unwrap_err();
    assert_eq!((error.outcome(), error.status()), (Outcome::UpstreamTimeout, StatusCode::GATEWAY_TIMEOUT));
    let in_flight: u32 = upstream.endpoints().iter().map(|(endpoint, _)| endpoint.in_flight()).sum();
    assert_eq!(in_flight, 0);
}

#[tokio::test]
async fn a_rules_limit_on_an_attempt_takes_the_place_of_the_upstreams() {
    let app = Router::new().fallback(async |body: String| {
        tokio::time::sleep(Duration::from_millis(800)).await;
        body
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    for protocol in [config::Protocol::Http1, config::Protocol::Http2] {
        let response_timeout = Duration::from_millis(200);
        let upstream = Upstream::new(config::Upstream { response_timeout, protocol, ..upstream([address]) }).unwrap();
        for (limit, body, answered) in
            [(None, "", false), (Some(60), "", true), (Some(0), "", true), (Some(60), "body", true)]
        {
            let (mut request, _) = request(Method::POST, body);
            if let Some(limit) = limit {
                request.extensions_mut().insert(AttemptTimeout(Duration::from_secs(limit)));
            }
            let result = upstream.clone().oneshot(request).await;
            assert_eq!(result.is_ok(), answered, "{protocol:?} {limit:?} {body}: {result:?}");
        }
    }
}

#[tokio::test]
async fn the_first_requests_wait_for_discovery_and_no_longer_than_for_a_connection() {
    let (alive, _) = echo().await;
    let (answer, asked) = tokio::sync::oneshot::channel::<()>();
    let asked = Arc::new(tokio::sync::Mutex::new(Some(asked)));
    let dns = Dns::new("backend.test", alive.port()).resolver(move |_: String, _: u16| {
        let asked = asked.clone();
        async move {
            if let Some(asked) = asked.lock().await.take() {
                let _ = asked.await;
            }
            Ok(vec![alive])
        }
    });
    let by_name = Upstream::discovered_by(upstream([]), Discover::dns(dns)).unwrap();
    let waiting = tokio::spawn({
        let by_name = by_name.clone();
        async move { ask(&by_name, Method::GET, "").await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    answer.send(()).unwrap();
    waiting.await.unwrap().unwrap();

    let never =
        Dns::new("backend.test", 80).resolver(|_: String, _: u16| pending::<std::io::Result<Vec<SocketAddr>>>());
    let config = config::Upstream { connect_timeout: Duration::from_millis(50), ..upstream([]) };
    let lost = Upstream::discovered_by(config, Discover::dns(never)).unwrap();
    assert_eq!(ask(&lost, Method::GET, "").await.unwrap_err().outcome(), Outcome::NoEndpoint);
}

#[tokio::test]
async fn a_full_pool_sends_the_request_elsewhere_and_says_nothing_of_the_endpoint() {
    let (alive, seen) = echo().await;
    let full = silent().await;
    let pool = config::PoolLimits { max_connections: 1, max_pending: 0, ..config::PoolLimits::default() };
    let upstream = Upstream::new(config::Upstream { pool, ..upstream([full, alive]) }).unwrap();
    // One request for each: that of the silent one stays there and fills its pool.
    let stuck: Vec<_> = (0..2).map(|_| tokio::spawn(upstream.clone().oneshot(request(Method::GET, "").0))).collect();
    let stats = || upstream.endpoints().iter().map(|(endpoint, _)| endpoint.payload().stats()).collect::<Vec<_>>();
    timeout(Duration::from_secs(20), async {
        while seen.requests() < 1 || stats().iter().map(|stats| stats.in_flight).sum::<usize>() < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    let before = seen.requests();
    for _ in 0..6 {
        assert_eq!(ask(&upstream, Method::POST, "body").await.unwrap(), "body");
    }
    assert_eq!(seen.requests() - before, 6);
    let now = Instant::now();
    for (endpoint, _) in upstream.endpoints().iter() {
        assert_eq!(endpoint.availability(now), Availability::Available);
    }
    stuck.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn what_the_client_does_wrong_is_tried_once_and_not_held_against_the_endpoint() {
    let (alive, seen) = echo().await;
    let upstream = Upstream::new(upstream([alive, echo().await.0])).unwrap();
    let (mut wrong, exchange) = request(Method::POST, "body");
    wrong.headers_mut().insert("content-length", "5".parse().unwrap());
    let error = upstream.clone().oneshot(wrong).await.unwrap_err();
    assert_eq!((error.outcome(), exchange.record().attempts), (Outcome::BadRequest, 1));
    let (connect, exchange) = request(Method::CONNECT, "");
    let error = upstream.clone().oneshot(connect).await.unwrap_err();
    assert_eq!((error.outcome(), exchange.record().attempts), (Outcome::NotImplemented, 1));
    assert_eq!(seen.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_may_change_under_load_and_those_that_go_leave_nothing_open() {
    let mut backends = Vec::new();
    for _ in 0..5 {
        backends.push(echo().await);
    }
    let addresses: Vec<_> = backends.iter().map(|(address, _)| *address).collect();
    let upstream = Upstream::new(upstream(addresses[..1].iter().copied())).unwrap();
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    assert_eq!(ask(&upstream, Method::POST, "body").await.unwrap(), "body");
                }
            })
        })
        .collect();
    let mut dropped = Vec::new();
    let mut rng = fastrand::Rng::with_seed(7);
    while asking.iter().any(|task| !task.is_finished()) {
        let mut set = addresses.clone();
        rng.shuffle(&mut set);
        set.truncate(rng.usize(1..=set.len()));
        dropped.extend(upstream.endpoints().iter().map(|(endpoint, _)| Arc::downgrade(endpoint)));
        upstream.set_endpoints(&set.into_iter().map(config::Endpoint::from).collect::<Vec<_>>());
        tokio::task::yield_now().await;
    }
    for task in asking {
        task.await.unwrap();
    }
    assert_eq!(backends.iter().map(|(_, seen)| seen.requests()).sum::<usize>(), 400, "each arrived once");
    upstream.set_endpoints(&[]);
    assert!(dropped.iter().all(|endpoint| endpoint.strong_count() == 0), "no endpoint is held by anyone");
}

#[test]
fn a_number_that_a_setting_cannot_have_is_refused() {
    let breaker = config::CircuitBreaker { failure_rate: 101, ..Default::default() };
    let config = config::Upstream { endpoint_circuit_breaker: Some(breaker), ..upstream([]) };
    let error = Upstream::new(config).unwrap_err();
    let told = "upstream `test`, endpoint_circuit_breaker.failure_rate: 101 is not a percentage: use 0 to 100";
    assert_eq!(error.to_string(), told);
}

#[test]
fn lookups_need_a_runtime_and_say_so() {
    let endpoints = Endpoints::Dns { host: "backend.test".into(), port: 80, refresh: Duration::from_secs(5) };
    let error = Upstream::new(config::Upstream::new("far", endpoints)).unwrap_err();
    assert!(error.to_string().contains("`far`") && error.to_string().contains("runtime"), "{error}");
}

/// A backend that serves one request on each connection, and reads the second before it closes: the race of a request with
/// the end of an idle connection, always lost.
async fn closing_when_reused() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.connections.fetch_add(1, Ordering::SeqCst);
            let counted = counted.clone();
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                counted.requests.fetch_add(1, Ordering::SeqCst);
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                let _ = socket.read(&mut [0; 4096]).await;
                counted.requests.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    (address, seen)
}

#[tokio::test]
async fn a_safe_request_goes_once_more_to_the_only_endpoint_when_a_used_connection_ends() {
    let (address, seen) = closing_when_reused().await;
    let upstream = Upstream::new(config::Upstream { max_attempts: 1, ..upstream([address]) }).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&upstream, Method::GET, "").await.unwrap(), "ok");
    }
    assert_eq!((seen.connections(), seen.requests()), (3, 5), "each on a new connection, after the used one");
    let error = ask(&upstream, Method::POST, "").await.unwrap_err();
    assert_eq!((error.outcome(), error.sent()), (Outcome::UpstreamReset, Sent::Stale));
    assert_eq!(seen.connections(), 3, "what may have been processed is not sent again");
}

#[tokio::test]
async fn who_counts_attempts_gets_back_what_a_used_connection_ended_under() {
    let (address, seen) = closing_when_reused().await;
    let upstream = Upstream::new(upstream([address])).unwrap();
    let ask_with = |tried: Tried| {
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(tried);
        upstream.clone().oneshot(request)
    };
    assert_eq!(ask(&upstream, Method::GET, "").await.unwrap(), "ok");
    let error = ask_with(Tried::default().governed().counting_resets()).await.unwrap_err();
    assert_eq!((error.sent(), seen.requests()), (Sent::Stale, 2));

    assert_eq!(ask(&upstream, Method::GET, "").await.unwrap(), "ok");
    assert!(ask_with(Tried::default().governed()).await.is_ok(), "where it is not counted, it is sent again here");
    assert_eq!(seen.requests(), 5);
}

/// Speaks HTTP/2: the first connection is being ended, and leaves its request out; the others answer.
async fn ending_at_first() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        // SETTINGS, and GOAWAY without an error and a stream.
        first.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        first.read_exact(&mut [0; 24]).await.unwrap();
        let mut frame = [0; 9];
        while frame[3] != /* HEADERS */ 1 {
            first.read_exact(&mut frame).await.unwrap();
            let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
            first.read_exact(&mut vec![0; length]).await.unwrap();
        }
        first.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let (second, _) = listener.accept().await.unwrap();
        let mut second = h2::server::handshake(second).await.unwrap();
        while let Some(Ok((_, mut respond))) = second.accept().await {
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            body.send_data("ok".into(), true).unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_connection_that_is_being_ended_is_no_attempt_and_no_failure_of_its_endpoint() {
    for body in ["", "body"] {
        let address = ending_at_first().await;
        let config = config::Upstream { max_attempts: 1, protocol: config::Protocol::Http2, ..upstream([address]) };
        let upstream = Upstream::new(config).unwrap();
        let mut request = Request::post("http://backend.example/").body(Body::from(body)).unwrap();
        // As of a retry layer with any conditions, which decides about what may be a failure.
        request.extensions_mut().insert(Tried::default().governed().counting_resets());
        let response = upstream.clone().oneshot(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    }
}

#[tokio::test]
async fn connections_that_are_being_ended_open_no_breaker() {
    let circuit_breaker = Some(config::CircuitBreaker { consecutive_failures: 1, ..Default::default() });
    let protocol = config::Protocol::Http2;
    let upstream = config::Upstream { circuit_breaker, protocol, ..upstream([ending_at_first().await]) };
    let upstream = Upstream::new(upstream).unwrap();
    // More than is kept of a body, so that it fails.
    let request = Request::post("http://backend.example/").body(Body::from("x".repeat(100_000))).unwrap();
    let error = upstream.clone().oneshot(request).await.unwrap_err();
    assert_eq!((error.outcome(), error.sent()), (Outcome::UpstreamReset, Sent::GoAway));
    assert_eq!(upstream.circuit().unwrap().state(), crate::breaker::State::Closed);
}

#[tokio::test]
async fn a_new_connection_that_ends_without_an_answer_is_no_reason_to_try_again() {
    let (address, seen) = resetting().await;
    let upstream = Upstream::new(upstream([address])).unwrap();
    let error = ask(&upstream, Method::GET, "").await.unwrap_err();
    assert_eq!((error.outcome(), error.sent()), (Outcome::UpstreamReset, Sent::Possibly));
    assert_eq!(seen.requests(), 1);
}

#[tokio::test]
async fn what_may_have_been_processed_is_sent_again_within_the_budget_only() {
    let mut seen = Vec::new();
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        let (address, saw) = resetting().await;
        endpoints.push(address);
        seen.push(saw);
    }
    let deliveries = || seen.iter().map(Seen::requests).sum::<usize>();
    for (percent, expected) in [(0, 10), (50, 15)] {
        let retry_budget = config::RetryBudget { percent, per_second: 0, window: Duration::from_secs(3600) };
        let upstream = Upstream::new(config::Upstream { retry_budget, ..upstream(endpoints.clone()) }).unwrap();
        let before = deliveries();
        for _ in 0..10 {
            let error = ask(&upstream, Method::GET, "").await.unwrap_err();
            assert_eq!((error.outcome(), error.sent()), (Outcome::UpstreamReset, Sent::Possibly));
        }
        assert_eq!(deliveries() - before, expected, "{percent} %");
        // Of which nothing is left for a layer around it.
        assert!(!upstream.budget().withdraw(Instant::now()));
    }
    // Nothing is taken where there is nobody else, or no other attempt.
    for (count, max_attempts) in [(1, 3), (3, 1)] {
        let retry_budget = config::RetryBudget { percent: 50, per_second: 0, window: Duration::from_secs(3600) };
        let some = endpoints.iter().copied().take(count);
        let config = config::Upstream { retry_budget, max_attempts, ..upstream(some) };
        let upstream = Upstream::new(config).unwrap();
        for _ in 0..10 {
            ask(&upstream, Method::GET, "").await.unwrap_err();
        }
        let left = (0..10).filter(|_| upstream.budget().withdraw(Instant::now())).count();
        assert_eq!(left, 5, "{count} {max_attempts}");
    }
}

fn peer() -> ConnectionInfo {
    ConnectionInfo::new(SocketAddr::from(([192, 0, 2, 7], 4711)), SocketAddr::from(([127, 0, 0, 1], 80)))
}

#[tokio::test]
async fn a_stream_passes_over_an_endpoint_that_is_not_there_and_counts_as_long_as_it_lives() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = listener.local_addr().unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let limits = config::PoolLimits { max_connections: 1, ..config::PoolLimits::default() };
    let config = config::Upstream { pool: limits, ..config::Upstream::new("tcp", Endpoints::fixed([gone, there])) };
    let upstream = Upstream::new(config).unwrap();
    let pool = || upstream.endpoints().iter().find(|(e, _)| e.address() == there).unwrap().0.payload().stats().open;

    let mut stream = upstream.connect_stream(&peer()).await.unwrap();
    assert_eq!((stream.endpoint(), pool()), (there, 1));
    let (mut accepted, _) = listener.accept().await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    accepted.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "ping");

    let full = upstream.connect_stream(&peer()).await.unwrap_err();
    assert!([Outcome::PoolExhausted, Outcome::ConnectFailed].contains(&full.outcome()), "{full}");
    drop(stream);
    assert_eq!(pool(), 0);
    upstream.connect_stream(&peer()).await.unwrap();

    let nobody = Upstream::new(config::Upstream::new("none", Endpoints::Static(vec![]))).unwrap();
    assert_eq!(nobody.connect_stream(&peer()).await.unwrap_err().outcome(), Outcome::NoEndpoint);
}
