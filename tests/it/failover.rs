//! Endpoints that fail: what is tried again elsewhere, and what is not.

use std::net::SocketAddr;

use crate::support::{Echo, Ingress, Raw, free_port, get, load::Load, manifest::everything_to, until, wire::send};

/// Where nobody listens.
fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// A backend that takes requests and resets the connection instead of answering.
async fn resetting() -> Raw {
    Raw::start(|mut peer| async move {
        peer.request().await?;
        peer.reset()
    })
    .await
}

#[tokio::test]
async fn a_failed_connect_moves_on_whatever_the_method() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[nobody(), echo.addr, nobody()])).await;
    for round in 0..30 {
        assert_eq!(get(ingress.http, "a", "/").await.status, 200, "GET {round}");
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        let response = send(ingress.http, post).await;
        assert_eq!(response.status, 200, "POST {round}");
        assert!(response.text().contains("body: 5\n"), "the body went along: {}", response.text());
    }
    assert_eq!(echo.seen(), 60);
}

#[tokio::test]
async fn nobody_there_is_502() {
    let ingress = Ingress::start(&everything_to(&[nobody(), nobody()])).await;
    assert_eq!(get(ingress.http, "a", "/").await.status, 502);
}

#[tokio::test]
async fn after_a_reset_a_get_moves_on() {
    let (raw, echo) = (resetting().await, Echo::start("a").await);
    let ingress = Ingress::start(&everything_to(&[raw.addr, echo.addr])).await;
    for round in 0..30 {
        assert_eq!(get(ingress.http, "a", "/").await.status, 200, "GET {round}");
    }
    assert!(!raw.requests().is_empty(), "the resetting backend was never tried");
}

#[tokio::test]
async fn after_a_reset_a_post_is_not_sent_again() {
    let (bad, good) = (resetting().await, Raw::ok().await);
    let ingress = Ingress::start(&everything_to(&[bad.addr, good.addr])).await;
    let mut failed = 0;
    for number in 0..30 {
        let post = format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        match send(ingress.http, &post).await.status {
            200 => {}
            502 => failed += 1,
            other => panic!("POST {number}: {other}"),
        }
    }
    assert_eq!(bad.requests().len(), failed, "each that was cut off is one that failed");
    assert!(failed > 0, "the resetting backend was never tried");
    let mut all = [bad.requests(), good.requests()].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 30, "every POST was sent, and none twice");
}

#[tokio::test]
async fn attempts_are_capped() {
    let mut raws = Vec::new();
    for _ in 0..12 {
        raws.push(resetting().await);
    }
    let ingress = Ingress::start(&everything_to(&raws.iter().map(|raw| raw.addr).collect::<Vec<_>>())).await;
    let response = get(ingress.http, "a", "/").await;
    assert_eq!(response.status, 502, "{}", response.head);
    let tried: usize = raws.iter().map(|raw| raw.requests().len()).sum();
    // gRPC's hard cap is 5 attempts.
    assert!((1..=5).contains(&tried), "{tried} attempts");
}

#[tokio::test]
async fn a_connection_the_backend_closed_while_idle_costs_nobody_a_request() {
    // One request a connection, without saying so.
    let raw = Raw::start(|mut peer| async move {
        peer.request().await?;
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    for round in 0..50 {
        assert_eq!(get(ingress.http, "a", "/").await.status, 200, "GET {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_one_of_three_backends_under_load_fails_no_get() {
    let (a, b, c) = (Echo::start("a").await, Echo::start("b").await, Echo::start("c").await);
    let ingress = Ingress::start(&everything_to(&[a.addr, b.addr, c.addr])).await;
    let load = Load::start(ingress.http, 16);
    until("all three serve", crate::support::PATIENCE, || [&a, &b, &c].iter().all(|echo| echo.seen() > 50)).await;
    load.go_on(300).await;
    let addr = b.kill().await;
    load.go_on(1000).await;

    // It comes back, and is used again.
    let again = Echo::start_at("b", addr).await;
    until("the third serves again", 3 * crate::support::PATIENCE, || again.seen() > 0).await;
    load.go_on(300).await;
    let answered = load.all_succeeded().await;
    assert!(answered > 1600, "{answered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_taken_out_of_the_manifests_fails_no_get() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let ingress = Ingress::start(&everything_to(&[a.addr, b.addr])).await;
    let load = Load::start(ingress.http, 8);
    load.go_on(300).await;
    ingress.replace("world.yaml", &everything_to(&[a.addr]));
    // Only what no longer gets anything may be stopped.
    crate::support::eventually("b gets nothing more", crate::support::RELOAD, || async {
        let before = b.seen();
        load.go_on(100).await;
        if b.seen() == before { Ok(()) } else { Err("it does".to_owned()) }
    })
    .await;
    b.kill().await;
    load.go_on(300).await;
    load.all_succeeded().await;
}
