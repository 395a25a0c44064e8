//! Both connections of a request in the hands of the test: raw bytes in, raw bytes out.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, Version, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::{client, server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::Mutex,
};
use tower::{ServiceExt, service_fn as tower_service_fn};
use tower_layer::Layer;
use tower_service::Service;

use super::*;
use crate::{Body, Error, Outcome, Sent};

/// The far ends of the connection from a client and of the one to an upstream.
struct Wire {
    client: DuplexStream,
    upstream: DuplexStream,
    tunnels: Tunnels,
}

/// What stands for a pool: one connection to an upstream, the far end of which is returned.
async fn upstream(
    layer: ForwardLayer,
) -> (impl Service<Request<Body>, Response = Response<Body>, Error = Error, Future: Send> + Clone + Send, DuplexStream)
{
    let (io, upstream) = tokio::io::duplex(1 << 16);
    let (sender, connection) = client::conn::http1::handshake::<_, Body>(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let sender = Arc::new(Mutex::new(sender));
    let forward = layer.via("edge").unwrap().layer(tower_service_fn(move |mut request: Request<Body>| {
        let sender = Arc::clone(&sender);
        async move {
            let failed = |error| Error::new(Outcome::UpstreamReset).with_sent(Sent::Possibly).with_source(error);
            *request.uri_mut() = request.uri().path_and_query().cloned().unwrap().into();
            *request.version_mut() = Version::HTTP_11;
            let response = {
                let mut sender = sender.lock().await;
                sender.ready().await.map_err(failed)?;
                sender.send_request(request)
            };
            Ok::<_, Error>(response.await.map_err(failed)?.map(Body::from))
        }
    }));
    (forward, upstream)
}

async fn wire(layer: ForwardLayer) -> Wire {
    let tunnels = Tunnels::new();
    let (forward, upstream) = upstream(layer.tunnels(tunnels.clone())).await;
    let (client, server_io) = tokio::io::duplex(1 << 16);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let forward = forward.clone();
        async move {
            let response = forward.oneshot(request.map(Body::from)).await.unwrap_or_else(|error| {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = error.status();
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            });
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = server::conn::http1::Builder::new();
    builder.auto_date_header(false).half_close(true);
    tokio::spawn(builder.serve_connection(TokioIo::new(server_io), service).with_upgrades());
    Wire { client, upstream, tunnels }
}

fn patient() -> ForwardLayer {
    ForwardLayer::new().continue_timeout(Duration::from_secs(3600)).tunnel_idle_timeout(Duration::from_secs(3600))
}

/// Reads up to and with the end of a message's head.
async fn head(io: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

async fn text(io: &mut DuplexStream, length: usize) -> String {
    let mut text = vec![0; length];
    io.read_exact(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

async fn rest(io: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    io.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

const EXPECTING: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn the_body_is_asked_for_when_the_upstream_wants_it() {
    let Wire { mut client, mut upstream, .. } = wire(patient()).await;
    client.write_all(EXPECTING).await.unwrap();
    assert!(head(&mut upstream).await.contains("\r\nexpect: 100-continue\r\n"));
    upstream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    assert_eq!(head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").await.unwrap();
    assert_eq!(text(&mut upstream, 5).await, "hello");
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test(start_paused = true)]
async fn the_body_is_not_asked_for_when_the_upstream_answers_without_it() {
    let Wire { mut client, mut upstream, .. } = wire(patient()).await;
    client.write_all(EXPECTING).await.unwrap();
    head(&mut upstream).await;
    upstream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 413 "));
    assert_eq!(text(&mut client, 2).await, "no");
    // The connection that waits for a body is of no use any more.
    assert_eq!(rest(&mut upstream).await, "");
}

#[tokio::test(start_paused = true)]
async fn the_body_is_asked_for_when_the_upstream_is_silent() {
    let Wire { mut client, mut upstream, .. } = wire(ForwardLayer::new()).await;
    let began = tokio::time::Instant::now();
    client.write_all(EXPECTING).await.unwrap();
    head(&mut upstream).await;
    assert_eq!(head(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(began.elapsed() >= Duration::from_secs(1));
    client.write_all(b"hello").await.unwrap();
    assert_eq!(text(&mut upstream, 5).await, "hello");
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_complete() {
    let Wire { mut client, mut upstream, .. } = wire(ForwardLayer::new()).await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello").await.unwrap();
    head(&mut upstream).await;
    assert_eq!(text(&mut upstream, 5).await, "hello");
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(text(&mut client, 2).await, "ok");
}

#[tokio::test]
async fn a_truncated_answer_does_not_end_cleanly() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let Wire { mut client, mut upstream, .. } = wire(ForwardLayer::new()).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        head(&mut upstream).await;
        upstream.write_all(answer.as_bytes()).await.unwrap();
        drop(upstream);
        let head = head(&mut client).await;
        let body = rest(&mut client).await;
        assert!(body.contains("hello") && !body.ends_with("0\r\n\r\n"), "{head}{body}");
        assert!(head.contains("content-length: 10") || head.contains("transfer-encoding: chunked"), "{head}");
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_is_not_completed() {
    let Wire { mut client, mut upstream, .. } = wire(ForwardLayer::new()).await;
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\n")
        .await
        .unwrap();
    let received = rest(&mut upstream).await;
    assert!(received.ends_with("5\r\nhello\r\n"), "{received}");
    assert!(head(&mut client).await.starts_with("HTTP/1.1 400 "));
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_the_upstream_connection_along() {
    let Wire { client, mut upstream, .. } = wire(ForwardLayer::new()).await;
    let mut client = client;
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await.unwrap();
    head(&mut upstream).await;
    drop(client);
    assert_eq!(rest(&mut upstream).await, "hello");
}

const UPGRADING: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nX-Y: z\r\n\r\n";

/// A tunnel that is up.
async fn tunnel(layer: ForwardLayer) -> Wire {
    let mut wire = wire(layer).await;
    wire.client.write_all(UPGRADING).await.unwrap();
    let asked = head(&mut wire.upstream).await;
    assert!(asked.contains("\r\nconnection: upgrade\r\n") && asked.contains("\r\nupgrade: websocket\r\n"), "{asked}");
    wire.upstream.write_all(SWITCHING).await.unwrap();
    let switched = head(&mut wire.client).await;
    assert!(switched.starts_with("HTTP/1.1 101 ") && switched.contains("\r\nupgrade: WebSocket\r\n"), "{switched}");
    assert!(switched.contains("\r\nconnection: upgrade\r\n") && switched.contains("\r\nx-y: z\r\n"), "{switched}");
    wire
}

#[tokio::test]
async fn each_direction_of_a_tunnel_ends_for_itself() {
    let Wire { mut client, mut upstream, tunnels } = tunnel(patient()).await;
    assert_eq!(tunnels.live(), 1);
    client.write_all(b"ping").await.unwrap();
    assert_eq!(text(&mut upstream, 4).await, "ping");
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut upstream).await, "");
    upstream.write_all(b"still here").await.unwrap();
    assert_eq!(text(&mut client, 10).await, "still here");
    assert_eq!(tunnels.live(), 1);
    upstream.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    tunnels.drained().await;
    assert_eq!(tunnels.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_without_a_byte_is_ended() {
    let idle = Duration::from_secs(300);
    let Wire { mut client, mut upstream, tunnels } = tunnel(ForwardLayer::new()).await;
    tokio::time::sleep(idle / 2).await;
    upstream.write_all(b"x").await.unwrap();
    assert_eq!(text(&mut client, 1).await, "x");
    let last = tokio::time::Instant::now();
    assert_eq!(rest(&mut client).await, "");
    assert!(last.elapsed() >= idle);
    assert_eq!(rest(&mut upstream).await, "");
    assert_eq!(tunnels.live(), 0);
}

#[tokio::test]
async fn tunnels_can_be_closed() {
    let Wire { mut client, mut upstream, tunnels } = tunnel(patient()).await;
    assert_eq!(tunnels.live(), 1);
    tunnels.close();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(rest(&mut upstream).await, "");
    tunnels.drained().await;
}

#[tokio::test]
async fn a_tunnel_does_not_end_because_nobody_could_close_it() {
    let Wire { mut client, mut upstream, tunnels } = tunnel(patient()).await;
    drop(tunnels);
    for _ in 0..3 {
        client.write_all(b"ping").await.unwrap();
        assert_eq!(text(&mut upstream, 4).await, "ping");
    }
}

#[tokio::test]
async fn a_slow_reader_of_a_tunnel_slows_the_writer() {
    let Wire { mut client, mut upstream, .. } = tunnel(patient()).await;
    // What fits into the two pipes and one buffer; then nobody takes any more.
    let mut taken = 0;
    loop {
        tokio::select! {
            biased;
            written = client.write(&[0; 1024]) => taken += written.unwrap(),
            () = async { for _ in 0..100 { tokio::task::yield_now().await } } => break,
        }
    }
    assert!(taken <= 2 * (1 << 16) + 32 * 1024, "{taken}");
    drop(client);
    let mut received = Vec::new();
    upstream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), taken);
}

#[tokio::test]
async fn nothing_is_tunnelled_before_the_upstream_has_switched() {
    let Wire { mut client, mut upstream, tunnels } = wire(patient()).await;
    client.write_all(UPGRADING).await.unwrap();
    client.write_all(b"GET /smuggled HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-for\r\n\r\n").await.unwrap();
    head(&mut upstream).await;
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(text(&mut client, 2).await, "ok");
    // It was a request all along, and is treated as one.
    let second = head(&mut upstream).await;
    assert!(second.starts_with("GET /smuggled ") && second.contains("\r\nvia: 1.1 edge\r\n"), "{second}");
    assert!(!second.contains("connection"), "{second}");
    assert_eq!(tunnels.live(), 0);
}

#[tokio::test]
async fn a_switch_to_something_else_is_refused() {
    for answer in [
        &b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n"[..],
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n",
    ] {
        let Wire { mut client, mut upstream, tunnels } = wire(patient()).await;
        client.write_all(UPGRADING).await.unwrap();
        head(&mut upstream).await;
        upstream.write_all(answer).await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 502 "));
        assert_eq!(tunnels.live(), 0);
    }
}

#[tokio::test]
async fn an_upgrade_that_is_not_one_is_a_plain_request() {
    for request in [
        &b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
    ] {
        let Wire { mut client, mut upstream, .. } = wire(patient()).await;
        client.write_all(request).await.unwrap();
        let asked = head(&mut upstream).await;
        assert!(!asked.contains("upgrade"), "{asked}");
    }
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_a_plain_request() {
    let Wire { mut client, mut upstream, .. } = wire(patient()).await;
    let request =
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi";
    client.write_all(request).await.unwrap();
    let asked = head(&mut upstream).await;
    assert!(!asked.contains("upgrade") && asked.contains("\r\ncontent-length: 2\r\n"), "{asked}");
    assert_eq!(text(&mut upstream, 2).await, "hi");
    // A switch now would take what follows on the client's connection for the new protocol.
    upstream.write_all(SWITCHING).await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn every_answer_means_one_thing() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", "200 content-length: 2 ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "200 content-length: 2 ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "200 content-length: 2 ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "502"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", "502"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "200 transfer-encoding: chunked 2\r\nok\r\n0\r\n\r\n",
        ),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "502"),
        ("HTTP/1.0 200 OK\r\n\r\nok", "200 transfer-encoding: chunked 2\r\nok\r\n0\r\n\r\n"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", "204 "),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "304 "),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "200 content-length: 2 ok",
        ),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", "502"),
        ("HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok", "502"),
        ("garbage\r\n\r\n", "502"),
        ("", "502"),
    ] {
        let Wire { mut client, mut upstream, .. } = wire(ForwardLayer::new()).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        head(&mut upstream).await;
        upstream.write_all(answer.as_bytes()).await.unwrap();
        drop(upstream);
        let head = head(&mut client).await;
        let status = head.get(9..12).unwrap();
        let framing: Vec<_> = head
            .lines()
            .filter(|line| line.starts_with("content-length") || line.starts_with("transfer-encoding"))
            .collect();
        let body = rest(&mut client).await;
        let got = format!("{status} {} {body}", framing.join(" "));
        match expected {
            "502" => assert_eq!(status, "502", "{answer:?}: {head}"),
            _ => assert_eq!(got.trim_end_matches(' '), expected.trim_end_matches(' '), "{answer:?}"),
        }
    }
}

/// A client on HTTP/2, in front of an upstream on HTTP/1.1.
#[tokio::test]
async fn http2_becomes_http1_and_back() {
    let (client_io, server_io) = tokio::io::duplex(1 << 16);
    let (forward, mut upstream) = upstream(ForwardLayer::new()).await;
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let forward = forward.clone();
        async move { forward.oneshot(request.map(Body::from)).await }
    });
    tokio::spawn(
        server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(server_io), service),
    );
    let (mut sender, connection) =
        client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client_io)).await.unwrap();
    tokio::spawn(connection);

    let (frames, body) = tests::piped();
    let request = Request::post("http://shop.example:8080/x?y")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .body(body)
        .unwrap();
    let answer = tokio::spawn(sender.send_request(request));
    let asked = head(&mut upstream).await;
    assert!(asked.starts_with("POST /x?y HTTP/1.1\r\n"), "{asked}");
    for line in
        ["host: shop.example:8080", "cookie: a=1; b=2", "te: trailers", "via: 2.0 edge", "transfer-encoding: chunked"]
    {
        assert!(asked.contains(&format!("\r\n{line}\r\n")), "{line}: {asked}");
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    trailers.insert("x-forwarded-for", "1.1.1.1".parse().unwrap());
    frames.send(Ok(Frame::data("hello".into()))).unwrap();
    frames.send(Ok(Frame::trailers(trailers))).unwrap();
    let body = "5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n";
    assert_eq!(text(&mut upstream, body.len()).await, body);

    let answered = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\ncontent-length: 9\r\n\r\n";
    upstream.write_all(answered).await.unwrap();
    let answer = answer.await.unwrap().unwrap();
    assert!(!answer.headers().contains_key("connection") && !answer.headers().contains_key("transfer-encoding"));
    let answer = answer.into_body().collect().await.unwrap();
    let trailers = answer.trailers().unwrap();
    assert_eq!((trailers.len(), &trailers["grpc-status"]), (1, &HeaderValue::from_static("0")));
    assert_eq!(answer.to_bytes(), "ok");
}
