//! HTTP/2: streams, and how they and their connections end.

use h2::{
    Reason, RecvStream,
    server::{Connection, SendResponse},
};
use tokio::time::{Instant, sleep};

use super::*;

type Action = fn(&mut Connection<DuplexStream, Bytes>);
type Asked = (Request<RecvStream>, SendResponse<Bytes>);

fn target() -> Target {
    Target { protocol: Protocol::Http2, ..nowhere() }
}

fn limits(max_connections: usize, max_streams: usize) -> PoolLimits {
    PoolLimits { max_connections, max_streams, ..PoolLimits::default() }
}

/// The server's side of the next connection, which allows so many streams.
async fn accept(servers: &mut mpsc::UnboundedReceiver<DuplexStream>, streams: u32) -> Connection<DuplexStream, Bytes> {
    let stream = soon(servers.recv()).await.unwrap();
    soon(h2::server::Builder::new().max_concurrent_streams(streams).handshake(stream)).await.unwrap()
}

/// Drives a connection on its own; its requests come out of the receiver, and what is done to it goes in.
fn drive(
    mut connection: Connection<DuplexStream, Bytes>,
) -> (mpsc::UnboundedReceiver<Asked>, mpsc::UnboundedSender<Action>) {
    let (asked, requests) = mpsc::unbounded_channel();
    let (sender, mut actions) = mpsc::unbounded_channel::<Action>();
    tokio::spawn(async move {
        let mut listening = true;
        loop {
            tokio::select! {
                next = connection.accept() => match next {
                    Some(Ok(next)) => drop(asked.send(next)),
                    _ => break,
                },
                action = actions.recv(), if listening => match action {
                    Some(action) => action(&mut connection),
                    None => listening = false,
                },
            }
        }
    });
    (requests, sender)
}

fn ok(mut respond: SendResponse<Bytes>) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
}

fn ask(pool: &Pool) -> tokio::task::JoinHandle<Result<Response<Body>, Failed>> {
    let pool = pool.clone();
    tokio::spawn(async move { pool.send(get("/")).await })
}

#[tokio::test(start_paused = true)]
async fn many_requests_share_a_connection() {
    let (pool, mut servers) = in_memory(target(), &limits(10, 100));
    let tasks: Vec<_> = (0..50).map(|_| ask(&pool)).collect();
    let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
    let mut held = Vec::new();
    for _ in 0..50 {
        let (request, respond) = soon(requests.recv()).await.unwrap();
        assert_eq!(request.uri(), "http://example.com/");
        assert!(!request.headers().contains_key("host"));
        held.push(respond);
    }
    assert_eq!(pool.stats(), Stats { open: 1, in_flight: 50, pending: 0 });
    held.into_iter().for_each(ok);
    for task in tasks {
        assert_eq!(text(soon(task).await.unwrap().unwrap()).await.unwrap(), "ok");
    }
    assert_eq!(pool.stats(), Stats { open: 1, in_flight: 0, pending: 0 });
    assert!(servers.try_recv().is_err());
}

/// The peer's limit and our own; then the limit of connections, and the queue.
#[tokio::test(start_paused = true)]
async fn another_connection_is_made_when_all_are_full_and_then_requests_wait() {
    for (theirs, ours) in [(1, 100), (100, 1)] {
        let (pool, mut servers) = in_memory(target(), &limits(2, ours));
        let mut tasks: Vec<_> = (0..3).map(|_| ask(&pool)).collect();
        let (mut first, _one) = drive(accept(&mut servers, theirs).await);
        let (mut second, _two) = drive(accept(&mut servers, theirs).await);
        let (a, b) = (soon(first.recv()).await.unwrap(), soon(second.recv()).await.unwrap());
        settled(&pool, 2, 2, 1).await;
        ok(b.1);
        text(soon(tasks.remove(1)).await.unwrap().unwrap()).await.unwrap();
        let c = soon(second.recv()).await.unwrap();
        ok(a.1);
        ok(c.1);
        for task in tasks {
            text(soon(task).await.unwrap().unwrap()).await.unwrap();
        }
        settled(&pool, 2, 0, 0).await;
        assert!(servers.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_said_to_be_refused_and_spares_the_others() {
    let (pool, mut servers) = in_memory(target(), &limits(1, 100));
    let (good, bad, reset) = (ask(&pool), ask(&pool), ask(&pool));
    let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
    let one = soon(requests.recv()).await.unwrap();
    soon(requests.recv()).await.unwrap().1.send_reset(Reason::REFUSED_STREAM);
    soon(requests.recv()).await.unwrap().1.send_reset(Reason::INTERNAL_ERROR);
    let failed = soon(bad).await.unwrap().unwrap_err();
    assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::UpstreamReset, Sent::Refused));
    let failed = soon(reset).await.unwrap().unwrap_err();
    assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::UpstreamReset, Sent::Possibly));
    ok(one.1);
    assert_eq!(text(soon(good).await.unwrap().unwrap()).await.unwrap(), "ok");
    assert_eq!(pool.stats(), Stats { open: 1, in_flight: 0, pending: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_goodbye_gets_no_more_requests_and_finishes_what_it_has() {
    let (pool, mut servers) = in_memory(target(), &limits(10, 100));
    let old = ask(&pool);
    let (mut requests, actions) = drive(accept(&mut servers, 100).await);
    let held = soon(requests.recv()).await.unwrap();
    actions.send(Connection::graceful_shutdown).unwrap();
    sleep(Duration::from_millis(1)).await;
    for _ in 0..3 {
        let new = ask(&pool);
        let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
        ok(soon(requests.recv()).await.unwrap().1);
        assert_eq!(text(soon(new).await.unwrap().unwrap()).await.unwrap(), "ok");
        _actions.send(Connection::graceful_shutdown).unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    ok(held.1);
    assert_eq!(text(soon(old).await.unwrap().unwrap()).await.unwrap(), "ok");
    settled(&pool, 0, 0, 0).await;
}

/// A server by hand that ends its connection when so many requests have come, of which it has processed those up to the
/// stream `last`: no server library leaves streams out on purpose.
async fn says_goodbye(mut server: DuplexStream, requests: usize, last: u8, code: u8) -> DuplexStream {
    let mut preface = [0; 24];
    server.read_exact(&mut preface).await.unwrap();
    server.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut headers = 0;
    while headers < requests {
        let mut frame = [0; 9];
        soon(server.read_exact(&mut frame)).await.unwrap();
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
        server.read_exact(&mut vec![0; length]).await.unwrap();
        headers += usize::from(frame[3] == 1);
    }
    server.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, /* last */ 0, 0, 0, last, /* code */ 0, 0, 0, code]).await.unwrap();
    server
}

#[tokio::test(start_paused = true)]
async fn streams_beyond_the_last_of_a_goodbye_are_refused_and_the_rest_reset() {
    for (code, sent) in [(0, Sent::GoAway), (2, Sent::Refused)] {
        let (pool, mut servers) = in_memory(target(), &limits(1, 100));
        let (one, two) = (ask(&pool), ask(&pool));
        let server = says_goodbye(soon(servers.recv()).await.unwrap(), 2, 1, code).await;
        let failed = soon(two).await.unwrap().unwrap_err();
        assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::UpstreamReset, sent));
        assert!(failed.request.is_none());
        drop(server);
        let failed = soon(one).await.unwrap().unwrap_err();
        assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::UpstreamReset, Sent::Possibly));
        settled(&pool, 0, 0, 0).await;
    }
}

/// Not even its own caller hears that a connection was just ending, as long as the body is at hand.
#[tokio::test(start_paused = true)]
async fn a_request_with_a_body_that_a_goodbye_left_out_goes_to_another_connection() {
    for (size, again) in [(1, true), (64 * 1024, true), (64 * 1024 + 1, false)] {
        let (pool, mut servers) = in_memory(target(), &limits(1, 100));
        let one = ask(&pool);
        let server = soon(servers.recv()).await.unwrap();
        let goodbye = tokio::spawn(says_goodbye(server, 2, 1, 0));
        let body = vec![b'x'; size];
        let two = tokio::spawn({
            let (pool, request) = (pool.clone(), post(body.clone().into()));
            async move { pool.send(request).await }
        });
        let server = soon(goodbye).await.unwrap();
        if again {
            let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
            let (request, respond) = soon(requests.recv()).await.unwrap();
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/up"));
            assert_eq!(request.headers()["content-length"], *size.to_string());
            let mut request = request.into_body();
            let mut received = Vec::new();
            while let Some(data) = soon(request.data()).await {
                let data = data.unwrap();
                request.flow_control().release_capacity(data.len()).unwrap();
                received.extend(data);
            }
            assert!(received == body);
            ok(respond);
            assert_eq!(text(soon(two).await.unwrap().unwrap()).await.unwrap(), "ok");
        } else {
            let failed = soon(two).await.unwrap().unwrap_err();
            assert_eq!((failed.error.sent(), failed.request.is_some()), (Sent::GoAway, false));
        }
        drop(server);
        soon(one).await.unwrap().unwrap_err();
    }
}

/// A peer that wants no requests is not asked without end.
#[tokio::test(start_paused = true)]
async fn a_request_that_every_connection_leaves_out_comes_back_whole() {
    #[derive(Debug, Clone, PartialEq)]
    struct Mark;
    let (pool, mut servers) = in_memory(target(), &limits(10, 100));
    let mut request = post(Body::from("body"));
    request.extensions_mut().insert(Mark);
    let task = tokio::spawn({
        let pool = pool.clone();
        async move { pool.send(request).await }
    });
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(says_goodbye(soon(servers.recv()).await.unwrap(), 1, 0, 0).await);
    }
    let failed = soon(task).await.unwrap().unwrap_err();
    assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::UpstreamReset, Sent::Nothing));
    let request = failed.request.unwrap();
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/up"));
    assert_eq!(request.extensions().get(), Some(&Mark));
    assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "body");
    assert!(servers.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_not_used_again() {
    let (pool, mut servers) = in_memory(target(), &limits(1, 100));
    for _ in 0..3 {
        let task = ask(&pool);
        let (mut requests, actions) = drive(accept(&mut servers, 100).await);
        ok(soon(requests.recv()).await.unwrap().1);
        text(soon(task).await.unwrap().unwrap()).await.unwrap();
        actions.send(|connection| connection.abrupt_shutdown(Reason::INTERNAL_ERROR)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_fails_its_requests_and_their_bodies() {
    let (pool, mut servers) = in_memory(target(), &limits(1, 100));
    let (waiting, reading) = (ask(&pool), ask(&pool));
    let mut connection = accept(&mut servers, 100).await;
    let _first = connection.accept().await.unwrap().unwrap();
    let mut respond = connection.accept().await.unwrap().unwrap().1;
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"part"), false).unwrap();
    let task = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let response = soon(reading).await.unwrap().unwrap();
    task.abort();
    let failed = soon(waiting).await.unwrap().unwrap_err();
    assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::UpstreamReset, Sent::Possibly));
    assert_eq!(soon(body_error(response)).await, Outcome::ResponseTruncated);
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_reset_is_an_error() {
    let (pool, mut servers) = in_memory(target(), &limits(1, 100));
    let task = ask(&pool);
    let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
    let mut body = soon(requests.recv()).await.unwrap().1.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"part"), false).unwrap();
    let response = soon(task).await.unwrap().unwrap();
    body.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(soon(body_error(response)).await, Outcome::UpstreamReset);
    assert_eq!(pool.stats(), Stats { open: 1, in_flight: 0, pending: 0 });
}

#[tokio::test(start_paused = true)]
async fn dropping_the_request_or_the_body_resets_its_stream_alone() {
    let (pool, mut servers) = in_memory(target(), &limits(1, 100));
    let other = ask(&pool);
    let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
    let kept = soon(requests.recv()).await.unwrap();

    let task = ask(&pool);
    let mut respond = soon(requests.recv()).await.unwrap().1;
    task.abort();
    assert_eq!(soon(std::future::poll_fn(|cx| respond.poll_reset(cx))).await.unwrap(), Reason::CANCEL);

    let task = ask(&pool);
    let mut body = soon(requests.recv()).await.unwrap().1.send_response(Response::new(()), false).unwrap();
    drop(soon(task).await.unwrap().unwrap());
    assert_eq!(soon(std::future::poll_fn(|cx| body.poll_reset(cx))).await.unwrap(), Reason::CANCEL);

    settled(&pool, 1, 1, 0).await;
    ok(kept.1);
    assert_eq!(text(soon(other).await.unwrap().unwrap()).await.unwrap(), "ok");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_request_is_not_sent_when_the_answer_is_over() {
    for dropped in [false, true] {
        let (pool, mut servers) = in_memory(target(), &limits(1, 100));
        let (upload, body) = channel();
        upload.send(data("one")).unwrap();
        let task = tokio::spawn({
            let pool = pool.clone();
            async move { pool.send(post(body)).await }
        });
        let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
        let (_request, mut respond) = soon(requests.recv()).await.unwrap();
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        let response = soon(task).await.unwrap().unwrap();
        if dropped {
            drop(response);
        } else {
            answer.send_data(Bytes::from_static(b"ok"), true).unwrap();
            assert_eq!(text(response).await.unwrap(), "ok");
        }
        soon(upload.closed()).await;
        settled(&pool, 1, 0, 0).await;
    }
}

/// An upload that waits for the peer to make room is not looked at by hyper, nor does it look at its body.
#[tokio::test(start_paused = true)]
async fn an_upload_that_the_peer_does_not_read_is_reset_with_its_response() {
    // The peer may not even take the first byte.
    for (ended, window) in [(false, 65_535), (true, 65_535), (false, 0), (true, 0)] {
        let (pool, mut servers) = in_memory(target(), &limits(1, 100));
        let asking = |request| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.send(request).await })
        };
        // The first frame is more than the peer takes, so that the second waits.
        let (upload, body) = channel();
        for _ in 0..2 {
            upload.send(Ok(Frame::data(vec![b'x'; 100_000].into()))).unwrap();
        }
        let first = asking(get("/"));
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(100).initial_window_size(window);
        let stream = soon(servers.recv()).await.unwrap();
        let (mut requests, _actions) = drive(soon(builder.handshake(stream)).await.unwrap());
        ok(soon(requests.recv()).await.unwrap().1);
        assert_eq!(text(soon(first).await.unwrap().unwrap()).await.unwrap(), "ok");

        let large = asking(post(body));
        let (large_request, mut respond) = soon(requests.recv()).await.unwrap();
        // The same connection's window still has room for others.
        let other = asking(get("/"));
        let (_, kept) = soon(requests.recv()).await.unwrap();

        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        let response = soon(large).await.unwrap().unwrap();
        sleep(Duration::from_secs(1)).await;
        if ended {
            answer.send_data(Bytes::from_static(b"ok"), true).unwrap();
            assert_eq!(text(response).await.unwrap(), "ok");
        } else {
            drop(response);
        }
        let mut received = large_request.into_body();
        let end = soon(async {
            loop {
                match received.data().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error.reason(),
                    None => break None,
                }
            }
        })
        .await;
        assert_eq!(end, Some(Reason::CANCEL));
        assert!(upload.is_closed());
        ok(kept);
        assert_eq!(text(soon(other).await.unwrap().unwrap()).await.unwrap(), "ok");
        settled(&pool, 1, 0, 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_finish_their_streams_do_not_hold_up_new_ones_up_to_as_many_again() {
    let (pool, mut servers) = in_memory(target(), &limits(1, 100));
    let mut held = Vec::new();
    for _ in 0..2 {
        let task = ask(&pool);
        let (mut requests, actions) = drive(accept(&mut servers, 100).await);
        held.push((task, soon(requests.recv()).await.unwrap()));
        actions.send(Connection::graceful_shutdown).unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    let third = ask(&pool);
    settled(&pool, 2, 2, 1).await;
    assert!(servers.try_recv().is_err(), "not without end");
    let (task, (_, respond)) = held.remove(0);
    ok(respond);
    assert_eq!(text(soon(task).await.unwrap().unwrap()).await.unwrap(), "ok");
    let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
    ok(soon(requests.recv()).await.unwrap().1);
    assert_eq!(text(soon(third).await.unwrap().unwrap()).await.unwrap(), "ok");
    let (task, (_, respond)) = held.remove(0);
    ok(respond);
    assert_eq!(text(soon(task).await.unwrap().unwrap()).await.unwrap(), "ok");
    settled(&pool, 1, 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_late_head_resets_its_stream_and_a_silent_connection_is_left() {
    let mut target = target();
    target.response_timeout = Duration::from_secs(1);
    let (pool, mut servers) = in_memory(target, &limits(10, 100));
    let start = Instant::now();
    let task = ask(&pool);
    let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
    let mut respond = soon(requests.recv()).await.unwrap().1;
    let failed = soon(task).await.unwrap().unwrap_err();
    assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::UpstreamTimeout, Sent::Possibly));
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_millis(1300));
    assert_eq!(soon(std::future::poll_fn(|cx| respond.poll_reset(cx))).await.unwrap(), Reason::CANCEL);
    // Nothing has been heard of it since: the next request goes elsewhere.
    let next = ask(&pool);
    let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
    ok(soon(requests.recv()).await.unwrap().1);
    text(soon(next).await.unwrap().unwrap()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_in_time_and_the_task_ends() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (pool, mut servers) = in_memory(target(), &limits(10, 100));
    let task = ask(&pool);
    let (mut requests, actions) = drive(accept(&mut servers, 100).await);
    ok(soon(requests.recv()).await.unwrap().1);
    text(soon(task).await.unwrap().unwrap()).await.unwrap();
    sleep(Duration::from_millis(2900)).await;
    assert_eq!(pool.stats().open, 1);
    sleep(Duration::from_millis(1200)).await;
    settled(&pool, 0, 0, 0).await;
    drop(actions);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before, "nothing is left running");
}

#[tokio::test(start_paused = true)]
async fn a_closed_pool_finishes_its_streams() {
    let (pool, mut servers) = in_memory(target(), &limits(10, 100));
    let task = ask(&pool);
    let (mut requests, _actions) = drive(accept(&mut servers, 100).await);
    let held = soon(requests.recv()).await.unwrap();
    pool.close();
    ok(held.1);
    assert_eq!(text(soon(task).await.unwrap().unwrap()).await.unwrap(), "ok");
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test]
async fn what_is_not_http2_is_an_error() {
    let (address, _) =
        server(|_, stream| answer(stream, "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")).await;
    let mut target = target();
    target.address = address;
    let pool = Pool::new(target, &PoolLimits::default());
    let failed = soon(pool.send(get("/"))).await.unwrap_err();
    // Which of them depends on whether the request had been written when the answer came.
    match failed.error.sent() {
        Sent::Nothing => assert_eq!(failed.error.outcome(), Outcome::UpstreamReset, "{}", failed.error),
        _ => assert_eq!(failed.error.outcome(), Outcome::UpstreamProtocol, "{}", failed.error),
    }
    settled(&pool, 0, 0, 0).await;
}
