//! Bodies: their framing, their size, their trailers, their end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::io::AsyncReadExt;

use crate::support::{
    Conn, Echo, Ingress, Raw, get,
    manifest::everything_to,
    soon,
    tools::curl,
    until,
    wire::{send, values},
};

/// More than all buffers on the way may hold: kernel's and ours.
const FAR_TOO_MUCH: usize = 64 << 20;

#[tokio::test]
async fn a_length_stays_a_length_and_chunks_stay_chunks() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let sized = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(send(ingress.http, sized).await.status, 200);
    let seen = raw.requests().pop().unwrap();
    assert_eq!(values(&seen, "content-length"), ["5"], "{seen}");
    assert!(seen.ends_with("\r\n\r\nhello"), "{seen}");

    let chunked =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    assert_eq!(send(ingress.http, chunked).await.status, 200);
    let seen = raw.requests().pop().unwrap();
    assert_eq!(values(&seen, "transfer-encoding"), ["chunked"], "{seen}");
    assert!(values(&seen, "content-length").is_empty(), "{seen}");
    assert!(!seen.contains("x=y"), "chunk extensions end at every hop: {seen}");
}

#[tokio::test]
async fn a_request_without_body_gets_none() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    get(ingress.http, "a", "/").await;
    let seen = raw.request();
    assert!(values(&seen, "content-length").is_empty() && values(&seen, "transfer-encoding").is_empty(), "{seen}");

    send(ingress.http, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    let seen = raw.requests().pop().unwrap();
    assert_eq!(values(&seen, "content-length"), ["0"], "an empty body is not no body: {seen}");
}

#[tokio::test]
async fn answers_keep_their_framing() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let response = get(ingress.http, "a", "/bytes/70000").await;
    assert_eq!((response.value("content-length"), response.body.len()), (Some("70000"), 70_000));
    let response = get(ingress.http, "a", "/chunked/70000").await;
    assert_eq!((response.value("transfer-encoding"), response.body.len()), (Some("chunked"), 70_000));
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    let raw = Raw::start(|mut peer| async move {
        peer.request().await?;
        peer.write("HTTP/1.1 200 OK\r\n\r\nuntil the end").await
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let response = get(ingress.http, "a", "/").await;
    assert_eq!((response.status, response.text().as_str()), (200, "until the end"));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let raw = Raw::answers(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n",
    )
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let response = send(
        ingress.http,
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Check\r\nTransfer-Encoding: chunked\r\n\
         \r\n2\r\nhi\r\n0\r\nX-Check: 7\r\n\r\n",
    )
    .await;
    assert_eq!(response.text(), "ok");
    assert!(response.trailers.to_ascii_lowercase().contains("x-sum: 42"), "{response:?}");
    let seen = raw.request().to_ascii_lowercase();
    assert!(seen.ends_with("0\r\nx-check: 7\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn framing_does_not_come_in_by_trailers() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    send(
        ingress.http,
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: Content-Length, X-Forwarded-For\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nContent-Length: 7\r\nTransfer-Encoding: gzip\r\n\
         X-Forwarded-For: 192.0.2.1\r\nHost: evil\r\n\r\n",
    )
    .await;
    let received = raw.received().to_ascii_lowercase();
    let (_, trailers) = received.split_once("\r\nhi\r\n0\r\n").expect(&received);
    for name in ["content-length:", "transfer-encoding:", "x-forwarded-for:", "host:"] {
        assert!(!trailers.contains(name), "{name} in {trailers:?}");
    }
}

#[tokio::test]
async fn answers_without_body_have_none_and_keep_their_length() {
    for (method, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: \"x\"\r\n\r\n", Some("1234")),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"x\"\r\n\r\n", Some("1234")),
        ("GET", "HTTP/1.1 204 No Content\r\nETag: \"x\"\r\n\r\n", None),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: \"x\"\r\n\r\n", None),
    ] {
        let raw = Raw::answers(answer).await;
        let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
        let mut conn = Conn::open(ingress.http).await.unwrap();
        for round in 0..2 {
            conn.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await.unwrap();
            let response = conn.response_to(method).await.unwrap();
            assert_eq!(response.value("etag"), Some("\"x\""), "{method} {answer:?} round {round}");
            if response.status != 304 || response.value("content-length").is_some() {
                assert_eq!(response.value("content-length"), length, "{method} {answer:?} round {round}");
            }
        }
        assert_eq!(raw.requests().len(), 2, "{method} {answer:?}: the connections were still in step");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_arrives() {
    let raw = Raw::start(|mut peer| async move {
        peer.head().await?;
        peer.write("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").await?;
        peer.drain().await
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nonly a little").await.unwrap();
    let response = conn.response().await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (413, "big"));
}

#[tokio::test]
async fn both_directions_flow_at_the_same_time() {
    // The backend answers each piece of the body as it comes; the next is sent only after that.
    let raw = Raw::start(|mut peer| async move {
        peer.head().await?;
        peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        // Until the test has seen enough and goes away.
        while !peer.piece().await?.is_empty() {
            peer.write("2\r\nhi\r\n").await?;
        }
        Ok(())
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    for round in 1..=3 {
        conn.send("1\r\nx\r\n").await.unwrap();
        let what = format!("answer to piece {round}");
        soon(&what, async {
            while seen.windows(2).filter(|piece| piece == b"hi").count() < round {
                assert!(conn.stream.read_buf(&mut seen).await.unwrap() > 0, "closed: {seen:?}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b'y'; 20 << 20]).unwrap();
    let upload = format!("@{}", file.path().display());
    for (version, framing) in
        [("--http1.1", "Expect:"), ("--http1.1", "Transfer-Encoding: chunked"), ("--http2-prior-knowledge", "Expect:")]
    {
        let url = format!("http://{}/", ingress.http);
        let output = curl(&[version, "--header", framing, "--data-binary", &upload, &url]).await;
        assert!(output.stdout.contains(&format!("body: {}\n", 20 << 20)), "{version} {framing}: {output:?}");
        for kind in ["bytes", "chunked"] {
            let url = format!("http://{}/{kind}/{}", ingress.http, 20 << 20);
            let output = curl(&[version, "--output", "/dev/null", "--write-out", "%{size_download}", &url]).await;
            assert_eq!((output.code, output.stdout), (0, (20 << 20).to_string()), "{version} {kind}");
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_backend() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send(format!("GET /bytes/{} HTTP/1.1\r\nHost: a\r\n\r\n", 1_usize << 30)).await.unwrap();
    // It stands still when half a second adds nothing; the clock is part of what is asked here.
    let mut before = 0;
    let stalled = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = echo.sent();
        assert!(now < FAR_TOO_MUCH, "{now} bytes are somewhere between");
        if now > 0 && now == before {
            break now;
        }
        before = now;
    };
    // Reading sets it going again.
    let mut block = vec![0; 1 << 20];
    until("the backend goes on", Duration::from_secs(5), || {
        let _ = conn.stream.try_read(&mut block);
        echo.sent() > stalled + (4 << 20)
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_does_not_read_stops_the_client() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    let length = 1_usize << 30;
    conn.send(format!("POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).await.unwrap();
    let block = vec![b'x'; 1 << 16];
    let mut taken = 0;
    // Until it takes nothing for half a second.
    while let Ok(ready) = tokio::time::timeout(Duration::from_millis(500), conn.stream.writable()).await {
        ready.unwrap();
        taken += conn.stream.try_write(&block).unwrap_or(0);
        assert!(taken < FAR_TOO_MUCH, "{taken} bytes are somewhere between");
    }
    assert!(taken > 0);
    echo.open();
    let mut more = 0;
    until("the client may go on", Duration::from_secs(5), || {
        more += conn.stream.try_write(&block).unwrap_or(0);
        more > 4 << 20
    })
    .await;
}

#[tokio::test]
async fn a_truncated_answer_is_no_clean_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
    ] {
        let raw = Raw::start(move |mut peer| async move {
            peer.request().await?;
            peer.write(answer).await
        })
        .await;
        let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
        let url = format!("http://{}/", ingress.http);
        let output = curl(&["--http1.1", &url]).await;
        assert_eq!(output.code, 18, "a transfer closed with bytes outstanding: {output:?}");
        let output = curl(&["--http2-prior-knowledge", &url]).await;
        assert_eq!(output.code, 92, "a stream that was reset: {output:?}");
    }
}

#[tokio::test]
async fn expect_100_continue_is_answered_before_the_body_comes() {
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await.unwrap();
    let mut interim = [0; 25];
    soon("100 Continue", conn.stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    conn.send("hello").await.unwrap();
    let response = conn.response().await.unwrap();
    assert!(response.text().contains("body: 5\n"), "{}", response.text());
}

#[tokio::test]
async fn a_refused_request_is_not_asked_for_its_body() {
    let ingress = Ingress::start(&everything_to(&[]).replace("  - http:", "  - host: a\n    http:")).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("POST / HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await.unwrap();
    let response = conn.response().await.unwrap();
    assert_eq!((response.status, response.interim.as_slice()), (404, &[][..]));
}

#[tokio::test]
async fn interim_answers_do_not_disturb_the_final_one() {
    let raw = Raw::answers(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    for _ in 0..3 {
        let response = conn.get("a", "/").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    }
}

#[tokio::test]
async fn work_for_a_client_that_went_away_is_dropped() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let raw = Raw::start(move |mut peer| {
        let flag = Arc::clone(&flag);
        async move {
            peer.request().await?;
            // No answer: the connection ends when the ingress gives up.
            let end = peer.drain().await;
            flag.store(true, Ordering::Relaxed);
            end
        }
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until("the request arrives", Duration::from_secs(5), || raw.requests().len() == 1).await;
    drop(conn);
    until("the upstream connection is closed", Duration::from_secs(5), || dropped.load(Ordering::Relaxed)).await;
}

#[tokio::test]
async fn a_truncated_answer_is_a_reset_where_the_end_of_the_connection_would_make_it_whole() {
    for truncated in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
    ] {
        let raw = Raw::start(move |mut peer| async move {
            peer.request().await?;
            peer.write(truncated).await
        })
        .await;
        let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
        let mut conn = Conn::open(ingress.http).await.unwrap();
        // No chunks for HTTP/1.0: what is without a length ends with the connection.
        conn.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let error = soon("the end", conn.stream.read_to_end(&mut answer)).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{}", String::from_utf8_lossy(&answer));
    }
}
