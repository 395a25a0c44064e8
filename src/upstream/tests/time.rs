//! Limits of time, and what is told of them.

use futures_util::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;
use tower::Layer;

use super::*;
use crate::{BoxError, breaker::State, timeout::DeadlineLayer};

/// What becomes of the breakers of an endpoint that never answers, where these requests are sent to it through `layer`.
async fn waited_for(layer: DeadlineLayer, request: impl Fn() -> Request<Body>) -> [State; 2] {
    let breaker = || Some(config::CircuitBreaker { consecutive_failures: 2, ..Default::default() });
    let (circuit_breaker, endpoint_circuit_breaker) = (breaker(), breaker());
    let config = config::Upstream { circuit_breaker, endpoint_circuit_breaker, ..upstream([silent().await]) };
    let upstream = Upstream::new(config).unwrap();
    for _ in 0..2 {
        let waiting = layer.layer(upstream.clone()).oneshot(request());
        let status = timeout(Duration::from_secs(20), waiting).await.unwrap().map(|response| response.status());
        assert_eq!(status.unwrap_or_else(|error| error.status()), StatusCode::GATEWAY_TIMEOUT);
    }
    let endpoints = upstream.endpoints();
    [upstream.circuit(), endpoints.iter().next().unwrap().0.circuit()].map(|circuit| circuit.unwrap().state())
}

/// A body of which one piece is there, and the rest is not.
fn unfinished() -> Body {
    let pieces = futures_util::stream::once(async { Ok::<_, BoxError>(Frame::data("half".into())) });
    Body::new(StreamBody::new(Box::pin(pieces.chain(futures_util::stream::pending()))))
}

#[tokio::test]
async fn an_endpoint_that_uses_up_a_limit_of_ours_has_failed_and_one_that_a_client_gives_no_time_has_not() {
    let short = || DeadlineLayer::server(Duration::from_millis(300));
    let long = || DeadlineLayer::server(Duration::from_secs(60));
    let post = |body| Request::post("http://test/").body(body).unwrap();
    let told = |time: &'static str| {
        move || Request::get("http://test/").header("grpc-timeout", time).body(Body::empty()).unwrap()
    };
    let attempt = |mut request: Request<Body>| {
        request.extensions_mut().insert(AttemptTimeout(Duration::from_millis(300)));
        request
    };
    assert_eq!(waited_for(short(), told("1S")).await, [State::Open; 2]);
    assert_eq!(waited_for(short(), || post("all of it".into())).await, [State::Open; 2]);
    assert_eq!(waited_for(long(), || attempt(post("all of it".into()))).await, [State::Open; 2]);
    // The client's own time, and what it takes to send.
    assert_eq!(waited_for(long(), told("50m")).await, [State::Closed; 2]);
    assert_eq!(waited_for(short(), || post(unfinished())).await, [State::Closed; 2]);
    assert_eq!(waited_for(long(), || attempt(post(unfinished()))).await, [State::Closed; 2]);
}

#[tokio::test]
async fn what_is_told_of_the_time_left_is_what_is_left_when_a_connection_is_had() {
    let (held, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begun, go) = (held.clone(), release.clone());
    let app = Router::new().fallback(move |request: Request<axum::body::Body>| {
        let (begun, go) = (begun.clone(), go.clone());
        async move {
            if request.uri().path() == "/hold" {
                begun.notify_one();
                go.notified().await;
            }
            let told = |name| request.headers().get(name).map(|told: &http::HeaderValue| told.to_str().unwrap());
            format!("{} {}", told("x-left").unwrap_or("-"), told("grpc-timeout").unwrap_or("-"))
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let pool = config::PoolLimits { max_connections: 1, ..config::PoolLimits::default() };
    let upstream = Upstream::new(config::Upstream { pool, ..upstream([address]) }).unwrap();
    let layer = DeadlineLayer::server(Duration::from_secs(60)).header(http::HeaderName::from_static("x-left"));
    let service = layer.layer(upstream);
    let hold = Request::get("http://test/hold").body(Body::empty()).unwrap();
    let holding = tokio::spawn(service.clone().oneshot(hold));
    timeout(Duration::from_secs(20), held.notified()).await.unwrap();

    let request = Request::get("http://test/").header("grpc-timeout", "59S").body(Body::empty()).unwrap();
    let mut waiting = tokio::spawn(service.oneshot(request));
    tokio::task::yield_now().await;
    let began = Instant::now();
    let still = timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(still.is_err(), "there is but one connection");
    let waited = began.elapsed().as_millis() as u64;
    release.notify_one();
    holding.await.unwrap().unwrap().into_body().collect().await.unwrap();
    let answer = waiting.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    let answer = String::from_utf8(answer.to_vec()).unwrap();
    let (left, grpc) = answer.split_once(' ').unwrap();
    assert!(left.parse::<u64>().unwrap() <= 59_000 - waited, "{answer} after {waited} ms");
    let grpc: u64 = grpc.strip_suffix('u').unwrap().parse().unwrap();
    assert!(grpc / 1000 <= 59_000 - waited, "{answer} after {waited} ms");
}

#[tokio::test]
async fn a_request_that_is_made_again_tells_what_is_left_too() {
    let late = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let breaks = late.local_addr().unwrap();
    let app = Router::new().fallback(async |request: Request<axum::body::Body>| {
        request.headers().get("x-left").map(|told| told.to_str().unwrap().to_owned()).unwrap_or_default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answers = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut told = Vec::new();
    let upstream = Upstream::new(upstream([breaks, answers])).unwrap();
    // They take turns: at least one of the two requests goes to the one first that breaks off.
    for _ in 0..2 {
        let layer = DeadlineLayer::server(Duration::from_secs(60)).header(http::HeaderName::from_static("x-left"));
        let answer = async {
            let request = Request::get("http://test/").body(Body::empty()).unwrap();
            let response = layer.layer(upstream.clone()).oneshot(request).await.unwrap();
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
        };
        let breaking = async {
            let (mut socket, _) = late.accept().await.unwrap();
            assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0);
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(socket);
            pending::<()>().await;
        };
        tokio::select! {
            answer = answer => told.push(answer.parse::<u64>().unwrap()),
            () = breaking => {}
        }
    }
    assert!(told.iter().any(|left| *left <= 59_700), "{told:?}");
}

/// A request that is answered too late: for this limit of an attempt, or else for one of the whole.
async fn be_late(upstream: &Upstream, limit: Option<AttemptTimeout>) {
    let (mut request, _) = request(Method::GET, "");
    let whole = match limit {
        Some(limit) => {
            request.extensions_mut().insert(limit);
            Duration::from_secs(60)
        }
        None => Duration::from_millis(200),
    };
    let late = DeadlineLayer::server(whole).layer(upstream.clone()).oneshot(request).await;
    let status = late.map_or_else(|error| error.status(), |response| response.status());
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn who_waits_for_a_connection_in_vain_has_not_waited_for_the_endpoint() {
    let (held, seen) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (begun, count) = (held.clone(), seen.clone());
    let app = Router::new().fallback(move || {
        let begun = begun.clone();
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            begun.notify_one();
            pending::<String>().await
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let breaker = || Some(config::CircuitBreaker { consecutive_failures: 1, ..Default::default() });
    let config = config::Upstream {
        pool: config::PoolLimits { max_connections: 1, ..Default::default() },
        circuit_breaker: breaker(),
        endpoint_circuit_breaker: breaker(),
        ..upstream([address])
    };
    let upstream = Upstream::new(config).unwrap();
    let holding = tokio::spawn(upstream.clone().oneshot(request(Method::GET, "").0));
    timeout(Duration::from_secs(20), held.notified()).await.unwrap();
    for limit in [None, Some(AttemptTimeout(Duration::from_millis(200)))] {
        be_late(&upstream, limit).await;
    }
    let endpoints = upstream.endpoints();
    let states = [upstream.circuit(), endpoints.iter().next().unwrap().0.circuit()];
    assert_eq!(states.map(|circuit| circuit.unwrap().state()), [State::Closed; 2]);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    holding.abort();
}

#[tokio::test]
async fn a_silent_http2_connection_gets_no_more_requests_when_a_limit_has_ended_on_it() {
    for limit in [None, Some(AttemptTimeout(Duration::from_millis(200)))] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                open.push(socket);
            }
        });
        let protocol = config::Protocol::Http2;
        let upstream = Upstream::new(config::Upstream { protocol, ..upstream([address]) }).unwrap();
        for connections in 1..=2 {
            be_late(&upstream, limit).await;
            assert_eq!(accepted.load(Ordering::SeqCst), connections);
        }
    }
}
