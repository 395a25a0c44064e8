//! HTTP/1.1: reuse, and the ways in which a connection ends.

use super::*;

#[tokio::test]
async fn one_connection_serves_one_request_after_the_other() {
    let (address, accepted) = server(|_, stream| answer(stream, OK)).await;
    let pool = pool(address);
    for _ in 0..5 {
        assert_eq!(text(soon(pool.send(get("/"))).await.unwrap()).await.unwrap(), "ok");
    }
    assert_eq!(accepted.load(SeqCst), 1);
    assert_eq!(pool.stats(), Stats { open: 1, in_flight: 0, pending: 0 });
}

#[tokio::test]
async fn the_connection_that_became_idle_last_is_used_first() {
    let (address, _) = server(|number, stream| async move {
        answer(stream, &format!("HTTP/1.1 200 OK\r\nx: {number}\r\ncontent-length: 1\r\n\r\n.")).await;
    })
    .await;
    let pool = pool(address);
    let (a, b) = soon(async { tokio::join!(pool.send(get("/")), pool.send(get("/"))) }).await;
    let (a, b) = (a.unwrap(), b.unwrap());
    let last = a.headers()["x"].clone();
    assert_ne!(last, b.headers()["x"]);
    text(b).await.unwrap();
    text(a).await.unwrap();
    for _ in 0..3 {
        let response = soon(pool.send(get("/"))).await.unwrap();
        assert_eq!(response.headers()["x"], last);
        text(response).await.unwrap();
    }
}

#[tokio::test]
async fn the_request_is_written_in_origin_form_with_a_host() {
    let (heads, mut seen) = mpsc::unbounded_channel();
    let (address, _) = server(move |_, mut stream| {
        let heads = heads.clone();
        async move {
            loop {
                heads.send(head(&mut stream).await).unwrap();
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let pool = pool(address);
    for (uri, host, expected) in [
        ("http://user@a.example:81/p?q", None, ("GET /p?q HTTP/1.1", "host: a.example:81")),
        ("https://a.example", Some("b.example"), ("GET / HTTP/1.1", "host: b.example")),
        ("/x", None, ("GET /x HTTP/1.1", &*format!("host: {address}"))),
    ] {
        let mut request = Request::get(uri).version(http::Version::HTTP_2);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        text(soon(pool.send(request.body(Body::empty()).unwrap())).await.unwrap()).await.unwrap();
        let head = seen.recv().await.unwrap();
        let mut lines = head.lines();
        assert_eq!((lines.next().unwrap(), lines.next().unwrap()), expected);
    }
}

#[tokio::test]
async fn a_connection_said_to_close_is_not_used_again() {
    for response in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ] {
        // The server keeps it open all the same.
        let (address, accepted) = server(move |_, stream| answer(stream, response)).await;
        let pool = pool(address);
        for _ in 0..3 {
            assert_eq!(text(soon(pool.send(get("/"))).await.unwrap()).await.unwrap(), "ok");
        }
        assert_eq!(accepted.load(SeqCst), 3);
        settled(&pool, 0, 0, 0).await;
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_passed_over() {
    let (address, accepted) = server(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    })
    .await;
    let pool = pool(address);
    for _ in 0..20 {
        // No pause: now and then the end has come and has not been read.
        let response = soon(pool.send(post(Body::from("abc")))).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "ok");
        tokio::task::yield_now().await;
    }
    assert_eq!(accepted.load(SeqCst), 20);
}

#[tokio::test]
async fn a_request_that_may_have_been_read_is_not_sent_again() {
    let (address, accepted) = server(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        head(&mut stream).await;
    })
    .await;
    let pool = pool(address);
    text(soon(pool.send(get("/"))).await.unwrap()).await.unwrap();
    let failed = soon(pool.send(get("/"))).await.unwrap_err();
    assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::UpstreamReset, Sent::Stale));
    assert!(failed.request.is_none());
    assert_eq!(accepted.load(SeqCst), 1);
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test]
async fn an_answer_before_the_request_is_sent_ends_the_connection() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let (address, accepted) = server(move |_, mut stream| {
        let ended = ended.clone();
        async move {
            let request = head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            ended.send((request.starts_with("POST"), rest)).unwrap();
        }
    })
    .await;
    let pool = pool(address);
    let (upload, body) = channel();
    upload.send(data("one")).unwrap();
    let response = soon(pool.send(post(body))).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "ok");
    let (was_post, rest) = soon(ends.recv()).await.unwrap();
    assert!(was_post);
    assert_eq!(rest, b"3\r\none\r\n", "nothing but the unfinished request was written");
    assert!(upload.is_closed(), "the request's body is let go");
    assert_eq!(text(soon(pool.send(get("/"))).await.unwrap()).await.unwrap(), "ok");
    assert_eq!(accepted.load(SeqCst), 2);
}

#[tokio::test]
async fn a_connection_is_kept_after_a_body_was_sent() {
    let (address, accepted) = server(|_, mut stream| async move {
        while !head(&mut stream).await.is_empty() {
            let mut body = [0; 3];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let pool = pool(address);
    for _ in 0..5 {
        assert_eq!(text(soon(pool.send(post(Body::from("abc")))).await.unwrap()).await.unwrap(), "ok");
        // A stream of unknown length whose head tells its length.
        let (upload, body) = channel();
        upload.send(data("abc")).unwrap();
        let mut request = post(body);
        request.headers_mut().insert("content-length", "3".parse().unwrap());
        assert_eq!(text(soon(pool.send(request)).await.unwrap()).await.unwrap(), "ok");
    }
    assert_eq!(accepted.load(SeqCst), 1);
}

#[tokio::test]
async fn a_truncated_body_is_an_error() {
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    ] {
        let (address, _) = server(move |_, mut stream| async move {
            head(&mut stream).await;
            stream.write_all(response.as_bytes()).await.unwrap();
        })
        .await;
        let pool = pool(address);
        let got = soon(pool.send(get("/"))).await.unwrap();
        assert_eq!(soon(body_error(got)).await, Outcome::ResponseTruncated, "{response:?}");
        settled(&pool, 0, 0, 0).await;
    }
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_the_connection() {
    let (address, _) = server(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it").await.unwrap();
    })
    .await;
    let pool = pool(address);
    assert_eq!(text(soon(pool.send(get("/"))).await.unwrap()).await.unwrap(), "all of it");
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_error() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(64 * 1024));
    for response in [
        "220 smtp.example.com ESMTP\r\n".to_owned(),
        "HTTP/1.1 99 ?\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\na b: c\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n".to_owned(),
        many,
        large,
    ] {
        let shown: String = response.chars().take(60).collect();
        let (address, _) = server(move |_, stream| {
            let response = response.clone();
            async move { answer(stream, &response).await }
        })
        .await;
        let pool = pool(address);
        let failed = soon(pool.send(get("/"))).await.expect_err(&shown);
        assert_eq!(failed.error.outcome(), Outcome::UpstreamProtocol, "{shown:?}: {}", failed.error);
        assert_eq!(failed.error.sent(), Sent::Possibly);
        settled(&pool, 0, 0, 0).await;
    }
}

#[tokio::test]
async fn a_bad_chunk_is_a_protocol_error() {
    let (address, _) =
        server(|_, stream| answer(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n"))
            .await;
    let pool = pool(address);
    let response = soon(pool.send(get("/"))).await.unwrap();
    assert_eq!(soon(body_error(response)).await, Outcome::UpstreamProtocol);
}

#[tokio::test]
async fn an_answer_nobody_asked_for_ends_the_connection() {
    let (address, accepted) = server(|number, mut stream| async move {
        head(&mut stream).await;
        let smuggled = if number == 0 { "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil" } else { "" };
        stream.write_all(format!("{OK}{smuggled}").as_bytes()).await.unwrap();
        answer(stream, OK).await;
    })
    .await;
    let pool = pool(address);
    for _ in 0..3 {
        assert_eq!(text(soon(pool.send(get("/"))).await.unwrap()).await.unwrap(), "ok");
    }
    assert_eq!(accepted.load(SeqCst), 2);
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_clean() {
    let (address, accepted) = server(|_, mut stream| async move {
        loop {
            let request = head(&mut stream).await;
            let response = match request.split(' ').nth(1) {
                Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n",
                Some("/304") => "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
                Some("/head") => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
                Some("/early") => {
                    "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
                }
                Some(_) => OK,
                None => break,
            };
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    })
    .await;
    let pool = pool(address);
    let head = Request::head("/head").header("host", "x").body(Body::empty()).unwrap();
    for request in [get("/204"), get("/304"), head, get("/early"), get("/ok")] {
        let path = request.uri().path().to_owned();
        let expected = if path == "/ok" { "ok" } else { "" };
        assert_eq!(text(soon(pool.send(request)).await.unwrap()).await.unwrap(), expected, "{path}");
    }
    assert_eq!(accepted.load(SeqCst), 1);
}

#[tokio::test]
async fn after_an_upgrade_the_connection_has_left_the_pool() {
    let (address, accepted) = server(|_, mut stream| async move {
        if head(&mut stream).await.contains("upgrade: echo") {
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhi")
                .await
                .unwrap();
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        } else {
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let pool = pool(address);
    let mut request = get("/");
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "echo".parse().unwrap());
    let mut response = soon(pool.send(request)).await.unwrap();
    assert_eq!(response.status(), 101);
    let upgraded = hyper::upgrade::on(&mut response);
    drop(response);
    let mut upgraded = hyper_util::rt::TokioIo::new(soon(upgraded).await.unwrap());
    assert_eq!(pool.stats(), Stats { open: 1, in_flight: 0, pending: 0 });
    upgraded.write_all(b" there").await.unwrap();
    let mut seen = [0; 8];
    soon(upgraded.read_exact(&mut seen)).await.unwrap();
    assert_eq!(&seen, b"hi there");
    assert_eq!(text(soon(pool.send(get("/"))).await.unwrap()).await.unwrap(), "ok");
    assert_eq!(accepted.load(SeqCst), 2);
    drop(upgraded);
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test]
async fn dropping_the_request_or_the_body_closes_the_connection() {
    let (at, mut places) = mpsc::unbounded_channel();
    let (address, accepted) = server(move |_, mut stream| {
        let at = at.clone();
        async move {
            let request = head(&mut stream).await;
            if request.contains("/body") {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok").await.unwrap();
            }
            at.send("asked").unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
            at.send("closed").unwrap();
        }
    })
    .await;
    let pool = pool(address);

    let task = tokio::spawn({
        let pool = pool.clone();
        async move { pool.send(get("/head")).await.map(drop) }
    });
    assert_eq!(soon(places.recv()).await, Some("asked"));
    task.abort();
    assert_eq!(soon(places.recv()).await, Some("closed"));
    settled(&pool, 0, 0, 0).await;

    let response = soon(pool.send(get("/body"))).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "ok");
    assert_eq!(soon(places.recv()).await, Some("asked"));
    drop(body);
    assert_eq!(soon(places.recv()).await, Some("closed"));
    settled(&pool, 0, 0, 0).await;
    assert_eq!(accepted.load(SeqCst), 2);
}

#[tokio::test]
async fn a_request_whose_body_fails_says_why() {
    let (address, _) = server(|_, mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let pool = pool(address);
    for (error, outcome) in [
        (BoxError::from("gone"), Outcome::Cancelled),
        (BoxError::from(Error::new(Outcome::BodyTooLarge)), Outcome::BodyTooLarge),
    ] {
        let (upload, body) = channel();
        upload.send(data("one")).unwrap();
        upload.send(Err(error)).unwrap();
        let failed = soon(pool.send(post(body))).await.unwrap_err();
        assert_eq!((failed.error.outcome(), failed.error.sent()), (outcome, Sent::Possibly), "{}", failed.error);
        settled(&pool, 0, 0, 0).await;
    }
}

#[tokio::test]
async fn connect_is_never_sent() {
    let pool = pool("127.0.0.1:1".parse().unwrap());
    let request = Request::connect("example.com:443").body(Body::empty()).unwrap();
    let failed = pool.send(request).await.unwrap_err();
    assert_eq!(failed.error.outcome(), Outcome::NotImplemented);
    assert!(failed.request.is_some());
    assert_eq!(pool.stats(), Stats::default());
}
