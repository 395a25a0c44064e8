//! Drain: SIGTERM announces the end, finishes what is in flight, waits for nothing else, and exits 0.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    Conn, Echo, Ingress, PATIENCE, eventually,
    manifest::{Path, Rule, backend, everything_to, ingress, secret},
    pki::Pki,
    tools::{curl, curl_tls},
    until,
};

/// Far below the 30 s a drain may take when something is in flight.
const SOON: Duration = Duration::from_secs(5);

async fn refused(addr: SocketAddr) {
    eventually("new connections are refused", PATIENCE, || async {
        match tokio::net::TcpStream::connect(addr).await {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn with_nothing_to_do_it_exits_at_once() {
    let mut ingress = Ingress::start(&everything_to(&[])).await;
    ingress.sigterm().await;
    let exit = ingress.exited(SOON).await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}

#[tokio::test]
async fn a_request_in_flight_is_finished_and_new_connections_are_refused() {
    let echo = Echo::start("a").await;
    let mut ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until("the request arrives", PATIENCE, || echo.seen() == 1).await;

    ingress.sigterm().await;
    refused(ingress.http).await;
    refused(ingress.https).await;
    echo.open();
    let response = conn.response().await.unwrap();
    assert_eq!((response.status, response.value("x-backend")), (200, Some("a")));
    assert_eq!(response.value("connection"), Some("close"), "{}", response.head);
    assert!(conn.closes_within(SOON).await);
    assert_eq!(ingress.exited(SOON).await.code, Some(0));
}

#[tokio::test]
async fn a_body_in_flight_is_finished_both_ways() {
    let echo = Echo::start("a").await;
    let mut ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let mut down = Conn::open(ingress.http).await.unwrap();
    let length = 30 << 20;
    down.send(format!("GET /bytes/{length} HTTP/1.1\r\nHost: a\r\n\r\n")).await.unwrap();
    let mut up = Conn::open(ingress.http).await.unwrap();
    up.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello").await.unwrap();
    until("both arrive", PATIENCE, || echo.seen() == 2 && echo.sent() > 0).await;
    assert!(echo.sent() < length, "the test means to catch it half way");

    ingress.sigterm().await;
    refused(ingress.http).await;
    assert_eq!(down.response().await.unwrap().body.len(), length);
    up.send("world").await.unwrap();
    assert!(up.response().await.unwrap().text().contains("body: 10\n"));
    assert_eq!(ingress.exited(SOON).await.code, Some(0));
}

#[tokio::test]
async fn idle_connections_do_not_delay_it() {
    let (echo, pki) = (Echo::start("a").await, Pki::new());
    let leaf = pki.leaf(&["a.example"]);
    let yaml = ingress("a").tls(&["a.example"], "cert").rule(Rule("", &[Path("Prefix", "/", "app", "80")])).yaml()
        + &secret("cert", &leaf.certificate, &leaf.key)
        + &backend("app", &[echo.addr]);
    let mut ingress = Ingress::start(&yaml).await;
    let mut used = Conn::open(ingress.http).await.unwrap();
    assert_eq!(used.get("a", "/").await.unwrap().status, 200);
    let mut silent = Conn::open(ingress.http).await.unwrap();
    let mut half = Conn::open(ingress.http).await.unwrap();
    half.send("GET / HTTP/1.1\r\nHo").await.unwrap();
    let mut tls = pki.connect(ingress.https, "a.example").await.unwrap();
    assert_eq!(tls.get("a.example", "/").await.unwrap().status, 200);
    let mut raw_tls = Conn::open(ingress.https).await.unwrap();

    ingress.sigterm().await;
    let exit = ingress.exited(SOON).await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    for conn in [&mut used, &mut silent, &mut half, &mut raw_tls] {
        assert!(conn.closes_within(SOON).await);
    }
    assert!(tls.closes_within(SOON).await);
}

#[tokio::test]
async fn http_2_streams_in_flight_are_finished() {
    let (echo, pki) = (Echo::start("a").await, Pki::new());
    let leaf = pki.leaf(&["a.example"]);
    let yaml = ingress("a").tls(&["a.example"], "cert").rule(Rule("", &[Path("Prefix", "/", "app", "80")])).yaml()
        + &secret("cert", &leaf.certificate, &leaf.key)
        + &backend("app", &[echo.addr]);
    let mut ingress = Ingress::start(&yaml).await;
    let url = format!("http://{}/gate", ingress.http);
    let (http, https, ca) = (ingress.http, ingress.https, pki.ca_file());
    let ends = async {
        until("both arrive", PATIENCE, || echo.seen() == 2).await;
        ingress.sigterm().await;
        refused(http).await;
        echo.open();
        ingress.exited(SOON).await
    };
    let clear_args = ["--http2-prior-knowledge", url.as_str()];
    let (clear, tls, exit) =
        tokio::join!(curl(&clear_args), curl_tls(https, &ca, "a.example", "/gate", &["--http2"]), ends);
    for output in [clear, tls] {
        assert_eq!(output.code, 0, "{output:?}");
        assert!(output.stdout.contains("version: HTTP/1.1"), "{output:?}");
    }
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}

#[tokio::test]
async fn an_open_tunnel_does_not_hold_it_for_ever() {
    let raw = crate::support::Raw::start(|mut peer| async move {
        peer.head().await?;
        peer.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await?;
        peer.drain().await
    })
    .await;
    let mut ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    assert_eq!(conn.response().await.unwrap().status, 101);
    ingress.sigterm().await;
    // The drain deadline is 30 s by default.
    let exit = ingress.exited(Duration::from_secs(40)).await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}
