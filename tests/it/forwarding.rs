//! What a backend sees of a request and a client of an answer, to the byte where it matters.

use crate::support::{
    Conn, Ingress, RELOAD, Raw, eventually, get,
    manifest::everything_to,
    wire::{send, values},
};

/// An ingress before one backend that answers everything with an empty 200.
async fn world() -> (Ingress, Raw) {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    (ingress, raw)
}

#[tokio::test]
async fn hop_by_hop_and_nominated_fields_end_here() {
    let (ingress, raw) = world().await;
    let response = send(
        ingress.http,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Nominated\r\nConnection: x-second\r\nKeep-Alive: 5\r\n\
         X-Nominated: 1\r\nX-Second: 1\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: unknown/1\r\n\
         Proxy-Authorization: Basic eA==\r\nX-Kept: 1\r\n\r\n",
    )
    .await;
    assert_eq!(response.status, 200);
    let seen = raw.request();
    for name in ["keep-alive", "x-nominated", "x-second", "proxy-connection", "upgrade"] {
        assert!(values(&seen, name).is_empty(), "{name} in\n{seen}");
    }
    assert!(!values(&seen, "te").iter().any(|te| te.contains("gzip")), "{seen}");
    assert!(!values(&seen, "connection").iter().any(|value| value.contains("ominated")), "{seen}");
    assert_eq!(values(&seen, "x-kept"), ["1"]);
}

#[tokio::test]
async fn hop_by_hop_fields_of_an_answer_end_here() {
    let raw = Raw::answers(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Nominated\r\nKeep-Alive: timeout=5\r\nX-Nominated: 1\r\n\
         Proxy-Connection: x\r\nServer: raw/1\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\nSet-Cookie: a=1\r\n\
         Set-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let response = get(ingress.http, "a", "/").await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    for name in ["keep-alive", "x-nominated", "proxy-connection"] {
        assert_eq!(response.value(name), None, "{}", response.head);
    }
    // What is the backend's own survives.
    assert_eq!(response.value("server"), Some("raw/1"));
    assert_eq!(response.value("date"), Some("Tue, 01 Jan 2030 00:00:00 GMT"));
    assert_eq!(response.values("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(response.value("content-length"), Some("2"));
}

#[tokio::test]
async fn a_load_balancer_in_front_is_believed_for_as_long_as_the_configuration_says_so() {
    let raw = Raw::ok().await;
    let world = |forwarded: &str| {
        let addr = raw.addr;
        format!(
            "{forwarded}routes: [{{name: all, rules: [{{backends: [up]}}]}}]\nupstreams: [{{name: up, endpoints: \
             {{static: ['{addr}']}}}}]\n"
        )
    };
    let ingress = Ingress::start(&world("forwarded: {trust: [127.0.0.1]}\n")).await;
    let seen = async || {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\r\n";
        assert_eq!(send(ingress.http, request).await.status, 200);
        let seen = raw.requests().pop().unwrap();
        ["x-forwarded-for", "x-real-ip", "x-forwarded-proto"].map(|name| values(&seen, name).join("|"))
    };
    assert_eq!(seen().await, ["192.0.2.1, 127.0.0.1", "192.0.2.1", "https"]);
    ingress.replace("world.yaml", &world(""));
    ingress.sighup().await;
    eventually("nobody is believed", RELOAD, || async {
        let seen = seen().await;
        if seen == ["127.0.0.1", "127.0.0.1", "http"] { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_tells_the_backend_its_client_cannot_be_nominated_away() {
    let (ingress, raw) = world().await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-for, x-forwarded-proto, host, via\r\n\r\n";
    let response = send(ingress.http, request).await;
    // Refusing such a request is as good; forwarding it without the fields is not.
    if response.status == 200 {
        let seen = raw.request();
        assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"], "{seen}");
        assert_eq!(values(&seen, "x-forwarded-proto"), ["http"], "{seen}");
        assert_eq!(values(&seen, "host"), ["a"], "{seen}");
    } else {
        assert_eq!(response.status, 400);
    }
}

#[tokio::test]
async fn identity_claimed_by_an_untrusted_client_is_replaced() {
    let (ingress, raw) = world().await;
    let response = send(
        ingress.http,
        "GET / HTTP/1.1\r\nHost: a.example:81\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 192.0.2.3\r\n\
         Forwarded: for=192.0.2.4\r\n\r\n",
    )
    .await;
    assert_eq!(response.status, 200);
    let seen = raw.request();
    assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"], "{seen}");
    assert_eq!(values(&seen, "x-forwarded-proto"), ["http"], "{seen}");
    assert!(!seen.contains("192.0.2."), "{seen}");
    assert!(!seen.contains("evil"), "{seen}");
}

#[tokio::test]
async fn names_that_collide_by_underscore_are_dropped() {
    let (ingress, raw) = world().await;
    let response = send(
        ingress.http,
        "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 192.0.2.1\r\nX-Forwarded_Proto: https\r\nX_Real_IP: 192.0.2.2\r\n\
         Content_Length: 7\r\n\r\n",
    )
    .await;
    assert_eq!(response.status, 200);
    let seen = raw.request();
    let fields = seen.lines().skip(1).map(|line| line.split(':').next().unwrap_or_default());
    for name in fields {
        let plain = name.replace('_', "-").to_ascii_lowercase();
        let ours = ["x-forwarded-for", "x-forwarded-proto", "x-real-ip", "content-length"].contains(&plain.as_str());
        assert!(!(ours && name.contains('_')), "{name} in\n{seen}");
    }
}

#[tokio::test]
async fn via_is_added_and_a_loop_is_refused() {
    let (ingress, raw) = world().await;
    send(ingress.http, "GET / HTTP/1.1\r\nHost: a\r\nVia: 1.0 fred\r\n\r\n").await;
    let seen = raw.request();
    let via = values(&seen, "via").join(", ");
    assert!(via.starts_with("1.0 fred, 1.1 "), "{seen}");

    // What comes back with our own mark in it has been here before.
    let response = send(ingress.http, &format!("GET / HTTP/1.1\r\nHost: a\r\nVia: {via}\r\n\r\n")).await;
    assert_eq!(response.status, 508, "{}", response.head);
    assert_eq!(raw.requests().len(), 1);
}

#[tokio::test]
async fn host_reaches_the_backend_as_sent() {
    let (ingress, raw) = world().await;
    for host in ["a.example", "A.example:8080", "127.0.0.1", "[::1]:99"] {
        assert_eq!(get(ingress.http, host, "/").await.status, 200);
        let seen = raw.requests().pop().unwrap();
        assert_eq!(values(&seen, "host"), [host], "{seen}");
    }
}

#[tokio::test]
async fn an_absolute_target_is_served_by_its_own_host() {
    let (ingress, raw) = world().await;
    let response = send(ingress.http, "GET http://b.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    // RFC 9112 section 3.2.2: the target's authority replaces Host. Refusing the contradiction is as safe.
    if response.status == 200 {
        let seen = raw.request();
        assert!(seen.starts_with("GET /x?y HTTP/1.1\r\n"), "{seen}");
        assert_eq!(values(&seen, "host"), ["b.example"], "{seen}");
    } else {
        assert_eq!(response.status, 400);
    }
}

#[tokio::test]
async fn fields_keep_their_values_and_order() {
    let (ingress, raw) = world().await;
    send(ingress.http, "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nCookie: a=1; b=2\r\nX-A:  2 ,3\t\r\nX-Empty:\r\n\r\n")
        .await;
    let seen = raw.request();
    assert_eq!(values(&seen, "x-a"), ["1", "2 ,3"], "{seen}");
    assert_eq!(values(&seen, "cookie"), ["a=1; b=2"], "{seen}");
    assert_eq!(values(&seen, "x-empty"), [""], "{seen}");
}

#[tokio::test]
async fn every_method_passes() {
    let (ingress, raw) = world().await;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
        let body = if ["POST", "PUT", "PATCH"].contains(&method) { "Content-Length: 0\r\n" } else { "" };
        let response = send(ingress.http, &format!("{method} / HTTP/1.1\r\nHost: a\r\n{body}\r\n")).await;
        assert_eq!(response.status, 200, "{method}");
        assert!(raw.requests().pop().unwrap().starts_with(&format!("{method} / HTTP/1.1\r\n")));
    }
}

#[tokio::test]
async fn an_options_request_for_the_server_itself_is_answered() {
    let (ingress, _raw) = world().await;
    let response = send(ingress.http, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(response.status < 500, "{}", response.head);
}

#[tokio::test]
async fn upstream_connections_are_used_again() {
    let (ingress, raw) = world().await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    for _ in 0..10 {
        assert_eq!(conn.get("a", "/").await.unwrap().status, 200);
    }
    assert_eq!((raw.requests().len(), raw.connections()), (10, 1));
}

#[tokio::test]
async fn an_http_1_0_client_is_answered_in_its_terms() {
    let raw = Raw::answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
    let response = conn.response().await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "abc"));
    assert_eq!(response.value("transfer-encoding"), None, "{}", response.head);
    assert!(raw.request().starts_with("GET / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn informational_responses_go_ahead_of_the_answer_they_belong_to() {
    let raw = Raw::start(|mut peer| async move {
        while let Some(request) = peer.request().await? {
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = format!(
                "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <{path}>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n\
                 HTTP/1.1 200 OK\r\nX-Path: {path}\r\nContent-Length: 0\r\n\r\n"
            );
            peer.write(answer).await?;
        }
        Ok(())
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    // All at once: each is to go ahead of its own answer and behind the one before.
    let paths = ["/1", "/2", "/3"];
    conn.send(paths.map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).concat()).await.unwrap();
    for path in paths {
        let [processing, hints, answer] =
            [conn.head().await.unwrap(), conn.head().await.unwrap(), conn.head().await.unwrap()];
        assert!(processing.starts_with("HTTP/1.1 102 "), "{processing}");
        assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{hints}");
        assert_eq!(values(&hints, "link"), [format!("<{path}>")]);
        assert!(values(&hints, "x-hop").is_empty() && values(&hints, "connection").is_empty(), "{hints}");
        assert_eq!(values(&answer, "x-path"), [path], "{answer}");
    }
    // HTTP/1.0 knows none.
    let answer = send(ingress.http, "GET /0 HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.status, answer.value("x-path")), (200, Some("/0")));
}
