//! Limits, in paused time.

use std::sync::Mutex;

use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::server::MinimumRate;

/// Waits for the server to end the connection; after how many seconds it did.
async fn ended(server: JoinHandle<()>) -> u64 {
    let began = Instant::now();
    timeout(seconds(100_000), server).await.expect("the connection never ended").unwrap();
    began.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_closed_after_the_head_timeout() {
    let pipe = serve(echo());
    assert_eq!(ended(pipe.server).await, 30);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_in_is_cut_off() {
    for first in ["G", "GET / HTTP/1.1\r\nhost: a\r\n"] {
        let pipe = serve(echo());
        let (_answers, mut client) = tokio::io::split(pipe.client);
        client.write_all(first.as_bytes()).await.unwrap();
        let trickle = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                sleep(seconds(1)).await;
            }
        });
        let after = ended(pipe.server).await;
        assert!((29..=31).contains(&after), "{after}");
        trickle.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_head_has_the_same_time_from_its_first_byte() {
    let mut pipe = serve(echo());
    pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_head(&mut pipe.client).await;
    sleep(seconds(60)).await;
    pipe.client.write_all(b"GET").await.unwrap();
    assert_eq!(ended(pipe.server).await, 30);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_the_idle_timeout_and_a_busy_one_is_not() {
    let mut pipe = serve(echo());
    for _ in 0..5 {
        sleep(seconds(20)).await;
        pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_head(&mut pipe.client).await;
    }
    assert_eq!(ended(pipe.server).await, 75);

    let gate = Gate::default();
    let mut pipe = serve(gate.service());
    pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    sleep(seconds(3600)).await;
    gate.open();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn after_an_upload_a_connection_is_idle_and_not_at_its_next_head() {
    let mut pipe = serve(echo());
    pipe.client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n").await.unwrap();
    for _ in 0..4 {
        sleep(seconds(1)).await;
        pipe.client.write_all(b"x").await.unwrap();
    }
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 200"));
    assert_eq!(ended(pipe.server).await, 75);
}

/// Answers with this many bytes in one piece.
fn piece(bytes: usize) -> impl Serve {
    service_fn(move |_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Body::from(vec![0; bytes])))))
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_in_one_piece_may_take_a_slow_client_long() {
    // hyper lets go of the body at once; the client takes 400 seconds for it.
    let mut pipe = serve_sized(ServerConfig::default(), piece(400_000), 1000);
    pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    read_head(&mut pipe.client).await;
    let mut buffer = [0; 1000];
    for second in 0..400 {
        assert!(pipe.client.read_exact(&mut buffer).await.is_ok(), "cut after {second} s");
        sleep(seconds(1)).await;
    }

    for rate in [10_000, 1000] {
        let pipe = serve(piece(1_000_000));
        let (mut client, _connection) = h2_client_with_window(pipe.client, 32 << 10).await;
        let mut answer = client.send_request(get("/")).await.unwrap().into_body();
        let mut taken = 0;
        let began = Instant::now();
        while let Some(frame) = answer.frame().await {
            let bytes =
                frame.unwrap_or_else(|e| panic!("{e} at {rate} after {:?}", began.elapsed())).into_data().unwrap();
            taken += bytes.len();
            sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(rate))).await;
        }
        assert_eq!(taken, 1_000_000);
    }

    // In pieces, the second of which has to wait for all of the first.
    let pieces = service_fn(|_: Request<Body>| {
        let pieces = (0..3).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![0; 200_000]))));
        ready(Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(futures_util::stream::iter(pieces))))))
    });
    let pipe = serve(pieces);
    let (mut client, _connection) = h2_client_with_window(pipe.client, 32 << 10).await;
    let mut answer = client.send_request(get("/")).await.unwrap().into_body();
    let mut taken = 0;
    while let Some(frame) = answer.frame().await {
        let bytes = frame.unwrap().into_data().unwrap().len();
        taken += bytes;
        sleep(Duration::from_secs_f64(bytes as f64 / 1000.0)).await;
    }
    assert_eq!(taken, 600_000);
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_closed_and_a_busy_one_is_not() {
    let gate = Gate::default();
    let pipe = serve(gate.service());
    let (mut client, connection) = h2_client(pipe.client).await;
    let answer = tokio::spawn(client.send_request(get("/")));
    sleep(seconds(3600)).await;
    gate.open();
    answer.await.unwrap().unwrap().into_body().collect().await.unwrap();
    assert_eq!(ended(pipe.server).await, 75);
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_keep_a_connection() {
    let pipe = serve(echo());
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(hyper_util::rt::TokioTimer::new()).keep_alive_interval(seconds(10)).keep_alive_while_idle(true);
    let (client, connection) = builder.handshake::<_, ClientBody>(TokioIo::new(pipe.client)).await.unwrap();
    tokio::spawn(connection);
    let after = ended(pipe.server).await;
    assert!((75..=80).contains(&after), "{after}");
    drop(client);
}

#[tokio::test]
async fn a_head_that_is_refused_is_drained_so_that_the_answer_arrives() {
    let mut pipe = serve_sized(ServerConfig::default(), echo(), 4096);
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(1_000_000));
    pipe.client.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 431"));
}

const UPLOAD: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n";

/// Uploads `bytes` every `interval` until the server has had enough: its answer, and after how many seconds.
async fn upload(bytes: usize, interval: Duration) -> (String, u64) {
    let pipe = serve(echo());
    let (mut answers, mut client) = tokio::io::split(pipe.client);
    let began = Instant::now();
    client.write_all(UPLOAD).await.unwrap();
    let uploading = tokio::spawn(async move {
        let mut left = 100_000_usize;
        while left > 0 {
            let n = bytes.min(left);
            if client.write_all(&vec![b'x'; n]).await.is_err() {
                return;
            }
            left -= n;
            sleep(interval).await;
        }
        std::future::pending::<()>().await;
    });
    let answer = read_head(&mut answers).await;
    let after = began.elapsed().as_secs();
    uploading.abort();
    (answer, after)
}

#[tokio::test(start_paused = true)]
async fn a_byte_a_second_is_answered_408_and_an_honest_slow_client_is_not() {
    let (answer, after) = upload(1, seconds(1)).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("connection: close"), "{answer}");
    assert!((5..=7).contains(&after), "{after}");

    let (answer, _) = upload(300, seconds(1)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (answer, _) = upload(1400, seconds(4)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_service_is_not_the_clients_fault() {
    let service = service_fn(|request: Request<Body>| async move {
        sleep(seconds(600)).await;
        let body = request.into_body().collect().await?.to_bytes();
        sleep(seconds(600)).await;
        Ok::<_, BoxError>(Response::new(Body::from(format!("{}", body.len()))))
    });
    let mut pipe = serve_sized(ServerConfig::default(), service, 1 << 20);
    pipe.client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n").await.unwrap();
    pipe.client.write_all(&vec![b'x'; 300_000]).await.unwrap();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn an_http2_upload_that_stalls_is_answered_408() {
    let pipe = serve(echo());
    let (mut client, _connection) = h2_client(pipe.client).await;
    let (sender, body) = sent_body();
    let began = Instant::now();
    let answer = tokio::spawn(client.send_request(Request::post("http://a/").body(body).unwrap()));
    sender.send("hello".into()).await.unwrap();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.status(), 408);
    assert!((5..=11).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    // The connection serves on.
    let (sender, body) = sent_body();
    drop(sender);
    assert_eq!(client.send_request(Request::post("http://a/").body(body).unwrap()).await.unwrap().status(), 200);
}

/// A body without end, and how much of it was taken.
fn endless() -> (Arc<Mutex<u64>>, impl Serve) {
    let taken = Arc::new(Mutex::new(0));
    let counter = taken.clone();
    let service = service_fn(move |_: Request<Body>| {
        let counter = counter.clone();
        let stream = futures_util::stream::repeat_with(move || {
            *counter.lock().unwrap() += 8192;
            Ok::<_, BoxError>(Frame::data(Bytes::from(vec![0; 8192])))
        });
        ready(Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(stream)))))
    });
    (taken, service)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let (_, service) = endless();
    let mut pipe = serve(service);
    pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    // What the pipe holds was taken, at first sight, so a pause of a minute is allowed.
    let after = ended(pipe.server).await;
    assert!((5..=66).contains(&after), "{after}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_a_byte_a_second_is_cut_off_and_a_slow_one_is_not() {
    for (bytes, interval, cut) in [(1, 1, true), (500, 2, false)] {
        let (_, service) = endless();
        let mut pipe = serve_sized(ServerConfig::default(), service, 1024);
        pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let reading = async {
            let mut buffer = vec![0; bytes];
            while pipe.client.read_exact(&mut buffer).await.is_ok() {
                sleep(seconds(interval)).await;
            }
        };
        assert_eq!(timeout(seconds(1800), reading).await.is_ok(), cut, "{bytes} bytes every {interval} s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_opens_no_window_is_cut_off() {
    let (taken, service) = endless();
    let pipe = serve(service);
    let (mut client, _connection) = h2_client(pipe.client).await;
    let answer = client.send_request(get("/")).await.unwrap();
    // Not reading the body leaves the stream's window closed; the connection itself is read on.
    let after = ended(pipe.server).await;
    assert!(after <= 70, "{after}");
    assert!(*taken.lock().unwrap() > 0);
    drop(answer);
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_nothing_to_say_is_nobodys_fault() {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let service = service_fn(move |_: Request<Body>| {
        let mut receiver = receiver.lock().unwrap().take().unwrap();
        let stream = futures_util::stream::poll_fn(move |cx| {
            receiver.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok::<_, BoxError>(Frame::data(bytes))))
        });
        ready(Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(stream)))))
    });
    let mut pipe = serve(service);
    pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_head(&mut pipe.client).await;
    for _ in 0..3 {
        sleep(seconds(3600)).await;
        sender.send("event".into()).await.unwrap();
        let mut event = [0; 10];
        pipe.client.read_exact(&mut event).await.unwrap();
        assert_eq!(&event, b"5\r\nevent\r\n");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_minimum_rate_a_client_may_take_forever() {
    let config = ServerConfig { minimum_rate: None, ..ServerConfig::default() };
    let mut pipe = serve_sized(config, echo(), 1024);
    pipe.client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na").await.unwrap();
    sleep(seconds(3600)).await;
    pipe.client.write_all(b"b").await.unwrap();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_413() {
    let config = ServerConfig { max_body_size: Some(10), ..ServerConfig::default() };
    for body in
        ["content-length: 11\r\n\r\n", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"]
    {
        let mut pipe = serve_sized(config.clone(), echo(), 64 << 10);
        pipe.client.write_all(format!("POST / HTTP/1.1\r\nhost: a\r\n{body}").as_bytes()).await.unwrap();
        let answer = read_head(&mut pipe.client).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("connection: close"), "{answer}");
    }
    let mut pipe = serve_sized(config, echo(), 64 << 10);
    pipe.client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n0123456789").await.unwrap();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_service_learns_that_a_body_is_too_large() {
    let seen = Arc::new(Mutex::new(None));
    let log = seen.clone();
    let service = service_fn(move |request: Request<Body>| {
        let log = log.clone();
        async move {
            let error = request.into_body().collect().await.unwrap_err();
            *log.lock().unwrap() = error.downcast_ref::<crate::Error>().map(crate::Error::outcome);
            let answer = Response::builder().status(500).body(Body::empty());
            Ok::<_, Infallible>(answer.unwrap())
        }
    });
    let config = ServerConfig { max_body_size: Some(3), ..ServerConfig::default() };
    let mut pipe = serve_sized(config, service, 64 << 10);
    let request = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    pipe.client.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 413"));
    assert_eq!(*seen.lock().unwrap(), Some(Outcome::BodyTooLarge));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431() {
    let many = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let long = format!("x: {}\r\n", "a".repeat(70_000));
    for fields in [&many, &long] {
        let mut pipe = serve_sized(ServerConfig::default(), echo(), 1 << 20);
        pipe.client.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes()).await.unwrap();
        assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 431"));
    }
    let fits = format!("x: {}\r\n", "a".repeat(60_000));
    let mut pipe = serve_sized(ServerConfig::default(), echo(), 1 << 20);
    pipe.client.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n{fits}\r\n").as_bytes()).await.unwrap();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 200"));

    let pipe = serve_sized(ServerConfig::default(), echo(), 1 << 20);
    let (mut client, _connection) = h2_client(pipe.client).await;
    let mut request = get("/");
    for n in 0..101 {
        request.headers_mut().append(::http::HeaderName::try_from(format!("x-{n}")).unwrap(), "1".parse().unwrap());
    }
    assert_eq!(client.send_request(request).await.unwrap().status(), 431);
    assert_eq!(client.send_request(get("/")).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_refused_early_is_drained_so_that_the_answer_arrives() {
    let service = service_fn(|_: Request<Body>| {
        ready(Ok::<_, Infallible>(Response::builder().status(401).body(Body::empty()).unwrap()))
    });
    let mut pipe = serve_sized(ServerConfig::default(), service, 4096);
    pipe.client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
    // A client that reads only when it has sent everything.
    pipe.client.write_all(&vec![b'x'; 1_000_000]).await.unwrap();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 401"));

    // One that sends for ever is not listened to for ever.
    let mut pipe = serve_sized(ServerConfig::default(), service, 4096);
    pipe.client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
    let began = Instant::now();
    while pipe.client.write_all(b"x").await.is_ok() {
        sleep(seconds(1)).await;
    }
    assert!(began.elapsed() <= seconds(32), "{:?}", began.elapsed());
    // One that stops sending, less.
    let mut pipe = serve_sized(ServerConfig::default(), service, 4096);
    pipe.client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nx").await.unwrap();
    assert!(ended(pipe.server).await <= 6);
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_after_its_requests_or_at_its_age() {
    let config = ServerConfig { max_requests_per_connection: Some(2), ..ServerConfig::default() };
    let mut pipe = serve_sized(config, echo(), 4096);
    for end in [false, true] {
        pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert_eq!(read_head(&mut pipe.client).await.contains("connection: close"), end);
    }
    assert_eq!(read_to_end(&mut pipe.client).await, "");

    let config = ServerConfig { max_connection_age: Some(seconds(60)), ..ServerConfig::default() };
    let gate = Gate::default();
    let mut pipe = serve_sized(config, gate.service(), 4096);
    pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    sleep(seconds(100)).await;
    gate.open();
    assert!(read_head(&mut pipe.client).await.contains("connection: close"));
}

#[tokio::test(start_paused = true)]
async fn settings_are_followed() {
    let config = ServerConfig {
        head_timeout: seconds(3),
        idle_timeout: seconds(7),
        minimum_rate: Some(MinimumRate { grace: seconds(1), ..MinimumRate::default() }),
        ..ServerConfig::default()
    };
    let pipe = serve_sized(config.clone(), echo(), 4096);
    assert_eq!(ended(pipe.server).await, 3);
    let mut pipe = serve_sized(config.clone(), echo(), 4096);
    pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_head(&mut pipe.client).await;
    assert_eq!(ended(pipe.server).await, 7);
    let mut pipe = serve_sized(config, echo(), 4096);
    pipe.client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n").await.unwrap();
    let began = Instant::now();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 408"));
    assert!(began.elapsed() <= seconds(2));
}
