//! HTTP/2 where it differs from HTTP/1.1: seen by an HTTP/2 client of the tests' own.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Frame,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::{Echo, Ingress, PATIENCE, Raw, manifest::everything_to, soon, until, wire::values};

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A connection by prior knowledge.
async fn connect(addr: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let builder = Builder::new(TokioExecutor::new());
    let (client, connection) = soon("handshake", builder.handshake(TokioIo::new(stream))).await.unwrap();
    tokio::spawn(connection);
    client
}

fn request(path: &str) -> http::request::Builder {
    Request::builder().uri(format!("http://a.example{path}"))
}

fn nothing() -> Body {
    Empty::new().boxed_unsync()
}

#[tokio::test]
async fn cookie_crumbs_are_joined() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut client = connect(ingress.http).await;
    let crumbs = request("/").header("cookie", "a=1").header("cookie", "b=2").header("cookie", "c=3");
    let response = soon("answer", client.send_request(crumbs.body(nothing()).unwrap())).await.unwrap();
    assert_eq!(response.status(), 200);
    // RFC 9113 section 8.2.3: before they go over HTTP/1.1.
    assert_eq!(values(&raw.request(), "cookie"), ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn an_http_2_request_becomes_a_plain_http_1_request() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut client = connect(ingress.http).await;
    let whole = request("/x%20y?z=/../").method("PUT").header("te", "trailers").header("x-a", "1");
    let body = Full::new(Bytes::from_static(b"hello")).boxed_unsync();
    soon("answer", client.send_request(whole.body(body).unwrap())).await.unwrap();
    let seen = raw.request();
    assert!(seen.starts_with("PUT /x%20y?z=/../ HTTP/1.1\r\n"), "{seen}");
    assert_eq!(values(&seen, "host"), ["a.example"], "{seen}");
    assert_eq!(values(&seen, "x-a"), ["1"], "{seen}");
    assert!(seen.ends_with("\r\n\r\nhello") || seen.contains("5\r\nhello\r\n0\r\n"), "{seen}");
    assert!(values(&seen, "via").iter().any(|via| via.starts_with("2 ") || via.starts_with("2.0 ")), "{seen}");
    assert!(!seen.contains("\r\n:"), "{seen}");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let raw = Raw::answers(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n",
    )
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut client = connect(ingress.http).await;
    let trailers = HeaderMap::from_iter([("x-check".parse().unwrap(), "7".parse().unwrap())]);
    let frames = [Frame::data(Bytes::from_static(b"hi")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed_unsync();
    let upload = request("/").method("POST").header("te", "trailers").header("trailer", "x-check").body(body).unwrap();
    let response = soon("answer", client.send_request(upload)).await.unwrap();
    let body = soon("body", response.into_body().collect()).await.unwrap();
    assert_eq!(body.trailers().and_then(|trailers| trailers.get("x-sum")).unwrap(), "42");
    assert_eq!(body.to_bytes(), "ok");
    let seen = raw.request().to_ascii_lowercase();
    assert!(seen.ends_with("0\r\nx-check: 7\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn connect_is_refused() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut client = connect(ingress.http).await;
    let connect = Request::builder().method(Method::CONNECT).uri("a.example:80").body(nothing()).unwrap();
    let answer = soon("answer", client.send_request(connect)).await;
    assert!(answer.map_or(true, |response| response.status().as_u16() >= 400));
    assert_eq!(raw.received(), "");
}

#[tokio::test]
async fn a_stream_that_is_reset_drops_its_work_and_no_other() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let mut client = connect(ingress.http).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(Box::pin(client.send_request(request("/gate").body(nothing()).unwrap())));
    }
    until("all arrive", PATIENCE, || echo.seen() == 3).await;
    drop(streams.pop());
    echo.open();
    for stream in streams {
        assert_eq!(soon("answer", stream).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn streams_that_wait_do_not_hold_up_others() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let mut client = connect(ingress.http).await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(tokio::spawn(client.send_request(request("/gate").body(nothing()).unwrap())));
    }
    until("all arrive", PATIENCE, || echo.seen() == 50).await;
    let quick = client.send_request(request("/quick").body(nothing()).unwrap());
    assert_eq!(soon("answer", quick).await.unwrap().status(), 200);
    echo.open();
    for stream in waiting {
        assert_eq!(soon("answer", stream).await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_stream_nobody_reads_does_not_hold_up_others() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let mut client = connect(ingress.http).await;
    let large = client.send_request(request("/bytes/50000000").body(nothing()).unwrap());
    let unread = soon("answer", large).await.unwrap();
    let quick = client.send_request(request("/quick").body(nothing()).unwrap());
    assert_eq!(soon("answer", quick).await.unwrap().status(), 200);
    drop(unread);
    let after = client.send_request(request("/after").body(nothing()).unwrap());
    assert_eq!(soon("answer", after).await.unwrap().status(), 200);
}
