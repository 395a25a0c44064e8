//! Deadlines and idle connections, in paused time.

use tokio::time::{Instant, sleep};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn target(response: Duration, idle: Duration) -> Target {
    Target { response_timeout: response, stream_idle_timeout: idle, ..nowhere() }
}

/// Limits under which the tick does not depend on idle connections.
fn limits() -> PoolLimits {
    PoolLimits { idle_timeout: Duration::from_secs(100), ..PoolLimits::default() }
}

#[tokio::test(start_paused = true)]
async fn a_connection_not_made_in_time() {
    let connector = Connector::Test(Arc::new(|| Box::pin(std::future::pending())));
    // The address is never asked: the test connector stands for it.
    let pool = Pool::with_connector(nowhere(), &limits(), connector);
    let start = Instant::now();
    let failed = pool.send(get("/")).await.unwrap_err();
    assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::ConnectTimeout, Sent::Nothing));
    assert!(failed.request.is_some());
    assert!(start.elapsed() >= 5 * SECOND && start.elapsed() < 6 * SECOND);
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_not_sent_in_time_closes_the_connection() {
    for limit in [Duration::from_millis(100), SECOND, 60 * SECOND] {
        let (pool, mut servers) = in_memory(target(limit, Duration::ZERO), &limits());
        let start = Instant::now();
        let failed = pool.send(get("/")).await.unwrap_err();
        assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::UpstreamTimeout, Sent::Possibly));
        let took = start.elapsed();
        let tick = (limit / 8).min(SECOND);
        assert!(took >= limit && took <= limit + 2 * tick + Duration::from_millis(10), "{took:?} for {limit:?}");
        let mut server = servers.recv().await.unwrap();
        head(&mut server).await;
        assert_eq!(head(&mut server).await, "", "closed");
        settled(&pool, 0, 0, 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_for_the_head_begins_when_the_request_is_sent() {
    let (pool, mut servers) = in_memory(target(SECOND, 10 * SECOND), &limits());
    let (upload, body) = channel();
    let start = Instant::now();
    let task = tokio::spawn({
        let pool = pool.clone();
        async move { pool.send(post(body)).await }
    });
    let mut server = servers.recv().await.unwrap();
    tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = server.read_to_end(&mut all).await;
    });
    // A client that takes its time is not the endpoint's fault.
    sleep(60 * SECOND).await;
    upload.send(data("one")).unwrap();
    sleep(60 * SECOND).await;
    drop(upload);
    let failed = task.await.unwrap().unwrap_err();
    assert_eq!(failed.error.outcome(), Outcome::UpstreamTimeout);
    assert!(start.elapsed() >= 121 * SECOND && start.elapsed() < 122 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_does_not_read_the_request_is_late() {
    let (pool, mut servers) = in_memory(target(SECOND, 10 * SECOND), &limits());
    let start = Instant::now();
    let (upload, body) = channel();
    let big: &'static str = "x".repeat(1 << 20).leak();
    for _ in 0..4 {
        upload.send(data(big)).unwrap();
    }
    let failed = pool.send(post(body)).await.unwrap_err();
    assert_eq!(failed.error.outcome(), Outcome::UpstreamTimeout);
    assert!(start.elapsed() >= 10 * SECOND && start.elapsed() < 13 * SECOND, "{:?}", start.elapsed());
    assert!(servers.recv().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_fails_and_closes_the_connection() {
    let (pool, mut servers) = in_memory(target(SECOND, 2 * SECOND), &limits());
    let serving = tokio::spawn(async move {
        let mut server = servers.recv().await.unwrap();
        head(&mut server).await;
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await.unwrap();
        for _ in 0..3 {
            sleep(SECOND).await;
            server.write_all(b".").await.unwrap();
        }
        head(&mut server).await
    });
    let start = Instant::now();
    let mut body = pool.send(get("/")).await.unwrap().into_body();
    for _ in 0..2 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ".");
    }
    // A slow reader is not the endpoint's fault.
    sleep(60 * SECOND).await;
    let late = Instant::now();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ".");
    let error = body.frame().await.unwrap().unwrap_err().downcast::<Error>().unwrap();
    assert_eq!((error.outcome(), error.sent()), (Outcome::UpstreamTimeout, Sent::Possibly));
    assert!(late.elapsed() >= 2 * SECOND && late.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    assert!(body.frame().await.is_none());
    assert_eq!(serving.await.unwrap(), "", "closed");
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn zero_waits_for_ever() {
    let (pool, mut servers) = in_memory(target(Duration::ZERO, Duration::ZERO), &limits());
    let task = tokio::spawn({
        let pool = pool.clone();
        async move { text(pool.send(get("/")).await.unwrap()).await.unwrap() }
    });
    let mut server = servers.recv().await.unwrap();
    sleep(100_000 * SECOND).await;
    server.write_all(&OK.as_bytes()[..OK.len() - 1]).await.unwrap();
    sleep(100_000 * SECOND).await;
    server.write_all(b"k").await.unwrap();
    assert_eq!(task.await.unwrap(), "ok");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_in_time_and_the_task_ends() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (pool, mut servers) = in_memory(nowhere(), &PoolLimits::default());
    for pause in [0, 100, 437, 999] {
        sleep(Duration::from_millis(pause)).await;
        let serving = tokio::spawn({
            let mut server = {
                let task = tokio::spawn({
                    let pool = pool.clone();
                    async move { text(pool.send(get("/")).await.unwrap()).await.unwrap() }
                });
                let mut server = servers.recv().await.unwrap();
                head(&mut server).await;
                server.write_all(OK.as_bytes()).await.unwrap();
                task.await.unwrap();
                server
            };
            let start = Instant::now();
            async move {
                head(&mut server).await;
                start.elapsed()
            }
        });
        let kept = serving.await.unwrap();
        assert!(kept > 3 * SECOND - Duration::from_millis(5) && kept <= 4 * SECOND, "{kept:?}");
        settled(&pool, 0, 0, 0).await;
        sleep(SECOND).await;
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before, "nothing is left running");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_used_again_and_again_is_not_idle() {
    let (pool, mut servers) = in_memory(nowhere(), &PoolLimits::default());
    let serving = tokio::spawn(async move {
        answer(servers.recv().await.unwrap(), OK).await;
        servers
    });
    for _ in 0..20 {
        text(pool.send(get("/")).await.unwrap()).await.unwrap();
        sleep(Duration::from_millis(2900)).await;
    }
    sleep(5 * SECOND).await;
    let mut servers = serving.await.unwrap();
    assert!(servers.try_recv().is_err(), "one connection");
}

#[tokio::test(start_paused = true)]
async fn an_idle_timeout_of_zero_keeps_nothing() {
    let limits = PoolLimits { idle_timeout: Duration::ZERO, ..PoolLimits::default() };
    let (pool, mut servers) = in_memory(nowhere(), &limits);
    for _ in 0..3 {
        let task = tokio::spawn({
            let pool = pool.clone();
            async move { text(pool.send(get("/")).await.unwrap()).await.unwrap() }
        });
        answer(servers.recv().await.unwrap(), OK).await;
        assert_eq!(task.await.unwrap(), "ok");
        settled(&pool, 0, 0, 0).await;
    }
}
