//! Retries and hedges of calls between services, over real sockets: how often what arrives, and what becomes of the losers.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use portcullis::{
    Body,
    config::{self, Balancer, Protocol},
    hedge::HedgeLayer,
    retry::{Budget, Conditions, RetryLayer},
    upstream::Upstream,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};
use tower::ServiceBuilder;

use crate::{
    mesh::{answer, get, upstream},
    support::{Raw, backend, soon, within},
};

/// Makes 900 calls, which are retried and hedged as eagerly as can be: of three, one GET, one POST with an Idempotency-Key and one
/// without. Each has its number.
async fn call_eagerly(config: config::Upstream) {
    let budget = Budget::new(1000, 1000, Duration::from_secs(10));
    let caller = ServiceBuilder::new()
        .layer(
            RetryLayer::new()
                .conditions(Conditions::default().server_errors())
                .max_retries(4)
                .per_try_timeout(Duration::from_secs(2))
                .backoff(Duration::from_micros(1), Duration::from_micros(10))
                .budget(budget.clone()),
        )
        .layer(HedgeLayer::after(Duration::from_millis(1)).budget(budget))
        .service(Upstream::new(config).unwrap());
    let mut calls = JoinSet::new();
    for number in 0..900 {
        let mut request = Request::builder().method(if number % 3 == 0 { Method::GET } else { Method::POST });
        if number % 3 == 1 {
            request = request.header("idempotency-key", number);
        }
        let request = request.uri("http://pay.example/").header("x-number", number);
        let body = if number % 3 == 0 { Body::empty() } else { Body::from("pay 10") };
        let (caller, request) = (caller.clone(), request.body(body).unwrap());
        calls.spawn(async move { drop(answer(&caller, request).await) });
        // A few at a time, so that connections are used again, and end under several streams.
        if calls.len() >= 8 {
            within("a call", Duration::from_secs(30), calls.join_next()).await.unwrap().unwrap();
        }
    }
    within("the rest", Duration::from_secs(30), calls.join_all()).await;
}

/// That none of these numbers that must not be repeated is there twice.
fn check_arrivals(numbers: impl Iterator<Item = usize>) {
    let mut arrivals: HashMap<usize, usize> = HashMap::new();
    numbers.for_each(|number| *arrivals.entry(number).or_default() += 1);
    let mut repeated = [0; 3];
    for (number, times) in arrivals {
        repeated[number % 3] += usize::from(times > 1);
        assert!(number % 3 != 2 || times == 1, "POST {number} without a key arrived {times} times");
    }
    // What may be repeated was, many times: there was something to get wrong.
    assert!(repeated[0] > 50 && repeated[1] > 50, "{repeated:?}");
}

/// Whatever can be done to a request that arrived.
async fn do_harm(mut peer: backend::Peer, rng: Arc<Mutex<fastrand::Rng>>) -> io::Result<()> {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    loop {
        let what = rng.lock().unwrap().u8(..10);
        if what == 0 {
            // Between two requests, or with one unread: what came is not in the record, as it is in what follows.
            return peer.reset();
        }
        let Some(head) = peer.head().await? else { return Ok(()) };
        if what == 1 {
            return peer.reset();
        }
        if what == 2 {
            return Ok(());
        }
        if head.contains("content-length") {
            let _ = peer.piece().await?;
        }
        match what {
            3 => return peer.reset(),
            4 => return Ok(()),
            5 => peer.write("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await?,
            6 => {
                // As if it kept the connection.
                peer.write(OK).await?;
                return Ok(());
            }
            7 => {
                peer.write("HTTP/1.1 200 OK\r\nContent-").await?;
                return Ok(());
            }
            8 => {
                // Later than a hedge waits.
                tokio::time::sleep(Duration::from_millis(3)).await;
                peer.write(OK).await?;
            }
            _ => peer.write(OK).await?,
        }
    }
}

#[tokio::test]
async fn a_post_without_a_key_arrives_at_most_once_whatever_happens_to_it() {
    let rng = Arc::new(Mutex::new(fastrand::Rng::with_seed(7)));
    let start = || {
        let rng = rng.clone();
        Raw::start(move |peer| do_harm(peer, rng.clone()))
    };
    let backends = [start().await, start().await, start().await];
    let config = config::Upstream { balancer: Balancer::Random, ..upstream(backends.iter().map(|raw| raw.addr)) };
    call_eagerly(config).await;
    let received: String = backends.iter().map(Raw::received).collect();
    let numbers = received.lines().filter_map(|line| line.strip_prefix("x-number: "));
    check_arrivals(numbers.map(|number| number.trim().parse().unwrap()));
}

/// The same over HTTP/2. Notes the numbers of those that arrived and were not refused.
async fn do_harm_over_h2(socket: TcpStream, rng: Arc<Mutex<fastrand::Rng>>, arrived: Arc<Mutex<Vec<usize>>>) {
    let status = |code: u16| Response::builder().status(code).body(()).unwrap();
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((mut request, mut respond))) = connection.accept().await {
        let what = rng.lock().unwrap().u8(..14);
        if what == 0 {
            // It says that it did not process it, so it may come again.
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let number = request.headers()["x-number"].to_str().unwrap().parse().unwrap();
        arrived.lock().unwrap().push(number);
        match what {
            1 => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            2 => drop(tokio::spawn(async move {
                // After the body.
                while let Some(Ok(_)) = request.body_mut().data().await {}
                respond.send_reset(h2::Reason::INTERNAL_ERROR);
            })),
            // GOAWAY, and an end, while what arrived has no answer.
            3 => connection.abrupt_shutdown(h2::Reason::NO_ERROR),
            4 => connection.abrupt_shutdown(h2::Reason::INTERNAL_ERROR),
            // Cut.
            5 => return,
            6 => {
                connection.graceful_shutdown();
                let _ = respond.send_response(status(200), true);
            }
            7 => {
                let _ = respond.send_response(status(503), true);
            }
            8 => {
                if let Ok(mut body) = respond.send_response(status(200), false) {
                    body.send_reset(h2::Reason::INTERNAL_ERROR);
                }
            }
            9 => drop(tokio::spawn(async move {
                // Later than a hedge waits.
                tokio::time::sleep(Duration::from_millis(3)).await;
                let _ = respond.send_response(status(200), true);
            })),
            _ => {
                let _ = respond.send_response(status(200), true);
            }
        }
    }
}

#[tokio::test]
async fn a_post_without_a_key_is_processed_at_most_once_over_http_2() {
    let rng = Arc::new(Mutex::new(fastrand::Rng::with_seed(7)));
    let arrived: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        endpoints.push(listener.local_addr().unwrap());
        let (rng, arrived) = (rng.clone(), arrived.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(do_harm_over_h2(socket, rng.clone(), arrived.clone()));
            }
        });
    }
    let config = config::Upstream { balancer: Balancer::Random, protocol: Protocol::Http2, ..upstream(endpoints) };
    call_eagerly(config).await;
    check_arrivals(arrived.lock().unwrap().iter().copied());
}

/// Two backends that keep the first request, and answer the second. Tells how the first one's stream or connection ended.
async fn keeps_the_first_over_h2(ended: oneshot::Sender<h2::Reason>) -> [SocketAddr; 2] {
    let (first, ended) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Some(ended))));
    let start = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (first, ended) = (first.clone(), ended.clone());
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                if first.swap(false, SeqCst) {
                    let ended = ended.lock().unwrap().take().unwrap();
                    tokio::spawn(async move {
                        let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                        ended.send(reason).unwrap();
                    });
                } else {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            }
        });
        address
    };
    [start().await, start().await]
}

#[tokio::test]
async fn the_loser_of_a_hedge_is_reset_over_http_2() {
    let (sender, ended) = oneshot::channel();
    let endpoints = keeps_the_first_over_h2(sender).await;
    let config = config::Upstream { protocol: Protocol::Http2, ..upstream(endpoints) };
    let caller = ServiceBuilder::new()
        .layer(HedgeLayer::after(Duration::from_millis(1)))
        .service(Upstream::new(config).unwrap());
    assert_eq!(answer(&caller, get("/")).await.unwrap().0, StatusCode::OK);
    assert_eq!(soon("RST_STREAM", ended).await.unwrap(), h2::Reason::CANCEL);
}

#[tokio::test]
async fn the_loser_of_a_hedge_is_closed_over_http_1() {
    let first = Arc::new(AtomicBool::new(true));
    let (sender, ended) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let start = || {
        let (first, sender) = (first.clone(), sender.clone());
        Raw::start(move |mut peer| {
            let (first, sender) = (first.clone(), sender.clone());
            async move {
                while peer.request().await?.is_some() {
                    if first.swap(false, SeqCst) {
                        let end = peer.head().await;
                        sender.lock().unwrap().take().unwrap().send(end).unwrap();
                        return Ok(());
                    }
                    peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
                }
                Ok(())
            }
        })
    };
    let backends = [start().await, start().await];
    let caller = ServiceBuilder::new()
        .layer(HedgeLayer::after(Duration::from_millis(1)))
        .service(Upstream::new(upstream(backends.iter().map(|raw| raw.addr))).unwrap());
    assert_eq!(answer(&caller, get("/")).await.unwrap().0, StatusCode::OK);
    // Closed, or reset: no more requests come on it.
    assert!(matches!(soon("the end", ended).await.unwrap(), Ok(None) | Err(_)));
}
