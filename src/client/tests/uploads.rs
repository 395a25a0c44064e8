//! Requests' bodies: how they are framed, and what becomes of a connection whose request was not sent to its end.

use super::*;

/// Limits under which an idle connection is never closed for its age.
fn patient() -> PoolLimits {
    PoolLimits { idle_timeout: Duration::from_secs(3600), ..PoolLimits::default() }
}

/// A server that answers each request as soon as its head is there, keeps its connections open, and tells what else is
/// written to them: `(connection, bytes)`, without bytes at the connection's end.
async fn hasty() -> (SocketAddr, mpsc::UnboundedReceiver<(usize, Vec<u8>)>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (address, _) = server(move |number, mut stream| {
        let sender = sender.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            loop {
                let mut bytes = vec![0; 4096];
                let read = stream.read(&mut bytes).await.unwrap_or(0);
                bytes.truncate(read);
                let _ = sender.send((number, bytes));
                if read == 0 {
                    break;
                }
                stream.write_all(OK.as_bytes()).await.unwrap_or(());
            }
        }
    })
    .await;
    (address, receiver)
}

/// Everything that came on the first connection, once it has closed.
async fn first_connection(seen: &mut mpsc::UnboundedReceiver<(usize, Vec<u8>)>) -> String {
    let mut all = Vec::new();
    loop {
        match soon(seen.recv()).await.unwrap() {
            (0, bytes) if bytes.is_empty() => break,
            (0, bytes) => all.extend(bytes),
            _ => {}
        }
    }
    String::from_utf8(all).unwrap()
}

/// What would follow an unfinished request could be read as its body, and the rest of the body as a request.
#[tokio::test]
async fn nothing_follows_a_request_that_was_answered_before_it_was_sent() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Rest {
        Never,
        Slow,
        JustAfter,
    }
    for known_length in [false, true] {
        for rest in [Rest::Never, Rest::Slow, Rest::JustAfter] {
            let (address, mut seen) = hasty().await;
            let pool = Pool::new(Target::new(address), &patient());
            let (upload, body) = channel();
            let mut request = post(body);
            if known_length {
                request.headers_mut().insert("content-length", "6".parse().unwrap());
            }
            let response = soon(pool.send(request)).await.unwrap();
            let mut upload = Some(upload);
            if rest == Rest::Slow {
                let upload = upload.take().unwrap();
                tokio::spawn(async move {
                    while upload.send(data("x")).is_ok() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                });
            }
            assert_eq!(text(response).await.unwrap(), "ok");
            if rest == Rest::JustAfter {
                // Now there is nothing unfinished about it any more: but it is too late.
                let upload = upload.take().unwrap();
                let _ = upload.send(data("abcdef"));
            }
            let (second, seen) = soon(async {
                tokio::join!(
                    async { text(pool.send(get("/second")).await.unwrap()).await },
                    first_connection(&mut seen)
                )
            })
            .await;
            assert_eq!(second.unwrap(), "ok");
            assert!(!seen.contains("second"), "{rest:?}, length {known_length}: {seen:?}");
            drop(upload);
        }
    }
}

/// The body was read to its end, but the peer has not taken it from us.
#[tokio::test(start_paused = true)]
async fn nothing_follows_a_request_that_still_lies_in_a_buffer() {
    let (pool, mut servers) = in_memory(nowhere(), &patient());
    let asking = |request| {
        let pool = pool.clone();
        tokio::spawn(async move { text(pool.send(request).await.unwrap()).await.unwrap() })
    };
    let first = asking(post(Body::from(vec![b'x'; 1024 * 1024])));
    let mut one = soon(servers.recv()).await.unwrap();
    head(&mut one).await;
    // Long enough for all that goes into the pipe to be in it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    one.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(soon(first).await.unwrap(), "ok");
    let second = asking(get("/second"));
    let two = soon(servers.recv()).await.unwrap();
    tokio::spawn(answer(two, OK));
    assert_eq!(soon(second).await.unwrap(), "ok");
    let mut rest = Vec::new();
    soon(one.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.iter().all(|byte| *byte == b'x') && rest.len() < 1024 * 1024);
}

/// The whole of one request, as it is on the wire.
async fn written(request: Request<Body>) -> String {
    let (pool, mut servers) = in_memory(nowhere(), &PoolLimits::default());
    let task = tokio::spawn(async move { pool.send(request).await });
    let mut stream = soon(servers.recv()).await.unwrap();
    let mut bytes = Vec::new();
    // The request has been written when there is nothing more to do than to wait for the answer.
    while let Ok(Ok(read)) = tokio::time::timeout(Duration::from_secs(1), stream.read_buf(&mut bytes)).await {
        assert_ne!(read, 0);
    }
    stream.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(soon(task).await.unwrap().unwrap().status(), 200);
    String::from_utf8(bytes).unwrap()
}

/// hyper would send the head alone with GET and HEAD.
#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_is_sent_whatever_the_method_and_whatever_version_it_came_in() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PURGE"] {
        for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
            let (upload, body) = channel();
            upload.send(data("abc")).unwrap();
            drop(upload);
            let mut request = post(body);
            *request.method_mut() = method.parse().unwrap();
            *request.version_mut() = version;
            assert_eq!(
                written(request).await,
                format!(
                    "{method} /up HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                )
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_framing_is_that_of_the_body() {
    let streamed = || {
        let (upload, body) = channel();
        upload.send(data("abc")).unwrap();
        body
    };
    for (fields, body, expected) in [
        (vec![], Body::empty(), "\r\n\r\n"),
        (vec![("content-length", "0")], Body::empty(), "\r\ncontent-length: 0\r\n\r\n"),
        (vec![("transfer-encoding", "chunked")], Body::empty(), "\r\n\r\n"),
        (vec![("transfer-encoding", "gzip")], Body::from("abc"), "\r\ncontent-length: 3\r\n\r\nabc"),
        (
            vec![("content-length", "3"), ("transfer-encoding", "chunked")],
            streamed(),
            "\r\ncontent-length: 3\r\n\r\nabc",
        ),
    ] {
        let mut request = Request::get("/").header("host", "example.com").body(body).unwrap();
        for (name, value) in &fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let written = written(request).await;
        assert_eq!(written, format!("GET / HTTP/1.1\r\nhost: example.com{expected}"), "{fields:?}");
    }
}

#[tokio::test]
async fn a_length_that_is_not_the_bodys_is_refused_before_anything_is_sent() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (lengths, body) in [
            (&["5"][..], Body::empty()),
            (&["5"], Body::from("abc")),
            (&["3", "3"], Body::from("abc")),
            (&["3, 3"], Body::from("abc")),
            (&["+3"], Body::from("abc")),
            (&[""], channel().1),
            (&["99999999999999999999"], channel().1),
        ] {
            let mut target = nowhere();
            target.protocol = protocol;
            let (pool, mut servers) = in_memory(target, &PoolLimits::default());
            let mut request = post(body);
            for length in lengths {
                request.headers_mut().append("content-length", length.parse().unwrap());
            }
            let failed = soon(pool.send(request)).await.unwrap_err();
            assert_eq!(
                (failed.error.outcome(), failed.error.sent()),
                (Outcome::BadRequest, Sent::Nothing),
                "{lengths:?}"
            );
            assert!(failed.request.is_some());
            assert!(servers.try_recv().is_err(), "no connection is spent on it");
        }
    }
}
