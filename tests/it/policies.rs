//! What a rule asks for beside a backend, in our own YAML: retries, time limits, quotas, concurrency.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::support::{Conn, Echo, Ingress, PATIENCE, Raw, eventually, free_port, get, until, wire::send};

/// One rule for everything, with these fields, and its upstream, with those.
fn world(rule: &str, upstream: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints = endpoints.iter().map(|address| format!("'{address}'")).collect::<Vec<_>>().join(", ");
    let mut text = "routes:\n- name: all\n  rules:\n  - backends: [up]\n".to_owned();
    for line in rule.lines() {
        let _ = writeln!(text, "    {line}");
    }
    let _ = writeln!(text, "upstreams:\n- name: up\n  endpoints: {{static: [{endpoints}]}}");
    for line in upstream.lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// How a backend that records what it is sent fails.
#[derive(Debug, Clone, Copy)]
enum Fails {
    /// After the head and at least this many bytes of the body.
    MidBody(usize),
    /// When it has the whole request.
    AfterBody,
    /// With part of an answer's head.
    MidHead,
}

const BODY: &str = "0123456789abcdefghij";

/// A backend that records every request whose head it read, and then fails.
async fn failing(fails: Fails) -> Raw {
    Raw::start(move |mut peer| async move {
        match fails {
            Fails::MidBody(bytes) => {
                peer.head().await?;
                let mut read = 0;
                while read < bytes {
                    read += peer.piece().await?.len();
                }
            }
            Fails::AfterBody => drop(peer.request().await?),
            Fails::MidHead => {
                peer.request().await?;
                peer.write("HTTP/1.1 200 OK\r\nContent-Le").await?;
            }
        }
        peer.reset()
    })
    .await
}

/// How often a request with this target reached the backend with at least one byte.
fn deliveries(backend: &Raw, target: &str) -> usize {
    backend.received().matches(&format!(" {target} HTTP/1.1\r\n")).count()
}

#[tokio::test]
async fn a_post_without_a_key_is_never_delivered_twice() {
    let rule = "retry: {attempts: 5, statuses: [500, 502, 503, 504]}";
    for fails in [Fails::MidBody(0), Fails::MidBody(1), Fails::MidBody(BODY.len()), Fails::AfterBody, Fails::MidHead] {
        let (one, other) = (failing(fails).await, failing(fails).await);
        let ingress = Ingress::start(&world(rule, "", &[one.addr, other.addr])).await;
        for number in 0..10 {
            let target = format!("/pay/{number}");
            let post = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
            assert_eq!(send(ingress.http, &post).await.status, 503, "{fails:?}");
            let delivered = deliveries(&one, &target) + deliveries(&other, &target);
            assert!(delivered <= 1, "{fails:?}: {delivered} deliveries of {target}");
            // One that says it may be known again is sent as often as the rule allows.
            let target = format!("/keyed/{number}");
            let post = format!(
                "POST {target} HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {number}\r\nContent-Length: {}\r\n\r\n{BODY}",
                BODY.len()
            );
            assert_eq!(send(ingress.http, &post).await.status, 503, "{fails:?}");
            let delivered = deliveries(&one, &target) + deliveries(&other, &target);
            assert!(delivered <= 6, "{fails:?}: {delivered} deliveries of {target}");
            if matches!(fails, Fails::AfterBody | Fails::MidHead) {
                assert_eq!(delivered, 6, "{fails:?}: {target}");
            }
        }
    }
}

#[tokio::test]
async fn a_listed_status_is_tried_again_and_comes_out_when_retries_are_used_up() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&world("retry: {attempts: 2, statuses: [503]}", "", &[echo.addr])).await;
    for (path, status, sent) in [("/status/503", 503, 3), ("/status/500", 500, 1), ("/status/200", 200, 1)] {
        let before = echo.seen();
        let response = get(ingress.http, "a", path).await;
        assert_eq!((response.status, echo.seen() - before), (status, sent), "{path}");
        assert!(response.text().contains("name: a\n"), "it is the backend's own answer");
    }
}

#[tokio::test]
async fn the_second_attempt_may_answer() {
    let flaky = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let raw = Raw::start(move |mut peer| {
        let flaky = flaky.clone();
        async move {
            while peer.request().await?.is_some() {
                let first = flaky.fetch_add(1, std::sync::atomic::Ordering::SeqCst).is_multiple_of(2);
                let status = if first { "503 Service Unavailable" } else { "200 OK" };
                peer.write(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await?;
            }
            Ok(())
        }
    })
    .await;
    let ingress = Ingress::start(&world("retry: {statuses: [503]}", "", &[raw.addr])).await;
    for _ in 0..10 {
        let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(send(ingress.http, put).await.status, 200);
    }
    assert_eq!(raw.requests().iter().filter(|request| request.ends_with("hello")).count(), 20);
}

#[tokio::test]
async fn nobody_there_is_503_with_retries() {
    let ingress = Ingress::start(&world("retry: {attempts: 1}", "", &[nobody()])).await;
    let response = get(ingress.http, "a", "/").await;
    assert_eq!(response.status, 503);
    assert!(response.head.contains("details=\"unreachable\""), "{}", response.head);
}

#[tokio::test]
async fn time_limits_are_of_each_attempt_and_of_all() {
    let echo = Echo::start("a").await;
    let rule = "timeouts: {backend_request: 200ms}\nretry: {attempts: 2}";
    let ingress = Ingress::start(&world(rule, "", &[echo.addr])).await;
    assert_eq!(get(ingress.http, "a", "/wait/5000").await.status, 504);
    until("three attempts arrived", Duration::from_secs(5), || echo.seen() == 3).await;

    let rule = "timeouts: {request: 500ms, backend_request: 200ms}\nretry: {attempts: 100}";
    let ingress = Ingress::start(&world(rule, "", &[echo.addr])).await;
    let before = echo.seen();
    assert_eq!(get(ingress.http, "a", "/wait/5000").await.status, 504);
    assert!((1..=3).contains(&(echo.seen() - before)), "{}", echo.seen() - before);

    let rule = "timeouts: {request: 0s, backend_request: 0s}";
    let ingress = Ingress::start(&world(rule, "", &[echo.addr])).await;
    assert_eq!(get(ingress.http, "a", "/wait/300").await.status, 200);
}

#[tokio::test]
async fn a_quota_is_exact_over_many_connections() {
    let echo = Echo::start("a").await;
    // Nothing is earned back while the test runs.
    let rule = "filters:\n- rate_limit: {requests: 25, per: 10h, key: client_ip}";
    let ingress = Ingress::start(&world(rule, "", &[echo.addr])).await;
    let clients = (0..20).map(|_| {
        let addr = ingress.http;
        tokio::spawn(async move {
            let mut conn = Conn::open(addr).await.unwrap();
            let mut allowed = 0;
            for _ in 0..5 {
                match conn.get("a", "/").await.unwrap().status {
                    200 => allowed += 1,
                    429 => {}
                    other => panic!("{other}"),
                }
            }
            allowed
        })
    });
    let mut allowed = 0;
    for client in clients.collect::<Vec<_>>() {
        allowed += client.await.unwrap();
    }
    assert_eq!((allowed, echo.seen()), (25, 25));
    let refused = get(ingress.http, "a", "/").await;
    assert_eq!(refused.value("retry-after"), Some("1440"));
}

#[tokio::test]
async fn an_endpoint_that_fails_is_asked_no_more_and_where_all_do_it_is_told_when_to_come_again() {
    let breaker = "balancer: round_robin\nendpoint_circuit_breaker: {consecutive_failures: 3, open: 1m}";
    let broken = Raw::answers("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n").await;
    let echo = Echo::start("sound").await;
    let ingress = Ingress::start(&world("", breaker, &[broken.addr, echo.addr])).await;
    let mut failed = 0;
    for _ in 0..30 {
        failed += u32::from(get(ingress.http, "a", "/").await.status == 500);
    }
    assert_eq!((failed, broken.requests().len(), echo.seen()), (3, 3, 27));
    let metrics = get(ingress.admin, "admin", "/metrics").await.text();
    for line in ["endpoint_breakers_open{upstream=\"up\"} 1", "endpoint_breakers_opened_total{upstream=\"up\"} 1"] {
        assert!(metrics.contains(&format!("portcullis_upstream_{line}\n")), "{line} in {metrics}");
    }

    // The other's too: panic does not set them aside.
    for _ in 0..3 {
        assert_eq!(get(ingress.http, "a", "/status/500").await.status, 500);
    }
    let refused = get(ingress.http, "a", "/").await;
    assert_eq!(refused.status, 503, "{}", refused.head);
    assert!(refused.value("proxy-status").is_some_and(|status| status.contains("breaker_open")), "{}", refused.head);
    let wait: u64 = refused.value("retry-after").unwrap().parse().unwrap();
    assert!((59..=90).contains(&wait), "{wait}");
    let grpc = "POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    let refused = send(ingress.http, grpc).await;
    assert_eq!((refused.status, refused.value("grpc-status")), (200, Some("14")), "{}", refused.head);
    let wait: u64 = refused.value("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!((59_000..=90_000).contains(&wait), "{wait}");
    assert_eq!((broken.requests().len(), echo.seen()), (3, 30), "nobody was asked");
}

#[tokio::test]
async fn an_endpoint_that_lets_a_rules_time_run_out_has_failed() {
    let silent = Raw::start(|mut peer| async move { peer.drain().await }).await;
    let breaker = "endpoint_circuit_breaker: {consecutive_failures: 2, open: 1m}";
    let ingress = Ingress::start(&world("timeouts: {request: 500ms}", breaker, &[silent.addr])).await;
    for status in [504, 504, 503, 503] {
        let response = get(ingress.http, "a", "/").await;
        assert_eq!(response.status, status, "{}", response.head);
    }
}

#[tokio::test]
async fn no_more_requests_are_with_an_upstream_than_it_is_allowed() {
    let echo = Echo::start("a").await;
    let upstream = "concurrency: {limit: 2, queue: 1, max_wait: 1m}";
    let ingress = Ingress::start(&world("", upstream, &[echo.addr])).await;
    let ask = || {
        let addr = ingress.http;
        tokio::spawn(async move { get(addr, "a", "/gate").await.status })
    };
    let first = [ask(), ask()];
    until("both are there", Duration::from_secs(5), || echo.seen() == 2).await;
    // One waits, and of those that come then each is refused.
    let mut others: Vec<_> = (0..4).map(|_| ask()).collect();
    until("three are refused", Duration::from_secs(5), || {
        others.iter().filter(|other| other.is_finished()).count() == 3
    })
    .await;
    assert_eq!(echo.seen(), 2);
    echo.open();
    for asked in first {
        assert_eq!(asked.await.unwrap(), 200);
    }
    let mut statuses = Vec::new();
    for other in others.drain(..) {
        statuses.push(other.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!((statuses, echo.seen()), (vec![200, 503, 503, 503], 3));
}

#[tokio::test]
async fn what_matters_least_is_refused_first_when_an_upstream_is_full() {
    let echo = Echo::start("a").await;
    let text = format!(
        "routes:\n- name: all\n  rules:\n  - {{matches: [{{path: {{prefix: /low}}}}], filters: [{{priority: sheddable}}], \
         backends: [up]}}\n  - {{matches: [{{path: {{prefix: /high}}}}], filters: [{{priority: critical_plus}}], backends: \
         [up]}}\nupstreams:\n- name: up\n  endpoints: {{static: ['{}']}}\n  shed: {{limit: 4, shares: {{sheddable: 0.5}}}}\n",
        echo.addr
    );
    let ingress = Ingress::start(&text).await;
    let addr = ingress.http;
    let hold = |path: &'static str| tokio::spawn(async move { get(addr, "a", path).await.status });
    let refused = async |path: &str| {
        let response = get(addr, "a", path).await;
        assert_eq!(response.status, 503, "{path}: {}", response.head);
        assert!(response.head.contains("overloaded"), "{path}: {}", response.head);
    };
    let mut held = vec![hold("/low/gate"), hold("/low/gate")];
    until("both are there", PATIENCE, || echo.seen() == 2).await;
    refused("/low").await;
    held.extend([hold("/high/gate"), hold("/high/gate")]);
    until("what matters goes through", PATIENCE, || echo.seen() == 4).await;
    refused("/low").await;
    refused("/high").await;
    assert_eq!(echo.seen(), 4);
    echo.open();
    for held in held {
        assert_eq!(held.await.unwrap(), 200);
    }
    // A place is free when the answer has gone out, which its reader may know first.
    eventually("there is room again", PATIENCE, || async {
        let status = get(addr, "a", "/low").await.status;
        if status == 200 { Ok(()) } else { Err(format!("{status}")) }
    })
    .await;
}

#[tokio::test]
async fn a_stream_is_cut_when_it_has_lasted_as_long_as_its_rule_allows() {
    let endless = Raw::start(|mut peer| async move {
        peer.request().await?;
        peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await?;
        // Until it is left alone.
        peer.piece().await.map(drop)
    })
    .await;
    let ingress = Ingress::start(&world("timeouts: {max_stream_duration: 300ms}", "", &[endless.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    let cut = conn.get("a", "/").await.unwrap_err();
    assert_ne!(cut.kind(), std::io::ErrorKind::TimedOut, "{cut}");
}

#[tokio::test]
async fn a_deadline_is_read_and_told_in_the_header_that_the_rule_names() {
    let echo = Echo::start("a").await;
    let rule = "timeouts: {request: 1h, deadline_header: x-left}";
    let ingress = Ingress::start(&world(rule, "", &[echo.addr])).await;
    for (said, most) in [("", 3_600_000), ("X-Left: 60000\r\n", 60_000)] {
        let text = send(ingress.http, &format!("GET / HTTP/1.1\r\nHost: a\r\n{said}\r\n")).await.text();
        let told = text.lines().find_map(|line| line.strip_prefix("> x-left: ")).unwrap_or_else(|| panic!("{text}"));
        let told: u64 = told.parse().unwrap();
        assert!((most - 30_000..=most).contains(&told), "{said:?}: {told}");
    }
    let late = send(ingress.http, "GET /gate HTTP/1.1\r\nHost: a\r\nX-Left: 200\r\n\r\n").await;
    assert_eq!(late.status, 504);
}

#[tokio::test]
async fn faults_are_injected_where_they_are_written() {
    let echo = Echo::start("a").await;
    let rule = "filters:\n- fault: {abort: {with: {status: 418}}}";
    let ingress = Ingress::start(&world(rule, "", &[echo.addr])).await;
    assert_eq!(get(ingress.http, "a", "/").await.status, 418);
    let rule = "filters:\n- fault: {delay: {duration: 300ms}}";
    let ingress = Ingress::start(&world(rule, "", &[echo.addr])).await;
    let began = Instant::now();
    assert_eq!(get(ingress.http, "a", "/").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(echo.seen(), 1);
}
