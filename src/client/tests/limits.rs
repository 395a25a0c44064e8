//! How many connections, who waits, and who is served next.

use std::{collections::BTreeSet, pin::pin};

use futures_util::{FutureExt, future::join_all};

use super::*;

fn limits(max_connections: usize, max_pending: usize) -> PoolLimits {
    PoolLimits { max_connections, max_pending, ..PoolLimits::default() }
}

fn ask(pool: &Pool, path: &str) -> tokio::task::JoinHandle<Result<Response<Body>, Failed>> {
    let (pool, request) = (pool.clone(), get(path));
    tokio::spawn(async move { pool.send(request).await })
}

#[tokio::test(start_paused = true)]
async fn one_more_than_may_wait_fails_at_once_with_its_request() {
    let (pool, mut servers) = in_memory(nowhere(), &limits(2, 1));
    let waiting = [ask(&pool, "/1"), ask(&pool, "/2"), ask(&pool, "/3")];
    let _held = (servers.recv().await.unwrap(), servers.recv().await.unwrap());
    settled(&pool, 2, 2, 1).await;
    let failed = pool.send(post(Body::from("whole"))).now_or_never().expect("at once").unwrap_err();
    assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::PoolExhausted, Sent::Nothing));
    let body = failed.request.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "whole");
    for task in waiting {
        task.abort();
    }
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn with_no_queue_connections_are_still_made() {
    let (pool, mut servers) = in_memory(nowhere(), &limits(2, 0));
    let tasks = [ask(&pool, "/1"), ask(&pool, "/2")];
    for _ in 0..2 {
        tokio::spawn(answer(servers.recv().await.unwrap(), OK));
    }
    for task in tasks {
        assert_eq!(text(task.await.unwrap().unwrap()).await.unwrap(), "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_longest_is_served_first() {
    let (pool, mut servers) = in_memory(nowhere(), &limits(1, 10));
    let mut tasks = Vec::new();
    for number in 0..5 {
        tasks.push(ask(&pool, &format!("/{number}")));
        tokio::task::yield_now().await;
    }
    // One goes away in the middle, without a trace.
    settled(&pool, 1, 1, 4).await;
    tasks[2].abort();
    settled(&pool, 1, 1, 3).await;
    let mut server = servers.recv().await.unwrap();
    let mut order = Vec::new();
    for task in [0, 1, 3, 4] {
        order.push(head(&mut server).await.split(' ').nth(1).unwrap().to_owned());
        server.write_all(OK.as_bytes()).await.unwrap();
        text((&mut tasks[task]).await.unwrap().unwrap()).await.unwrap();
    }
    assert_eq!(order, ["/0", "/1", "/3", "/4"]);
    assert!(servers.try_recv().is_err(), "one connection");
}

/// A waiter whose connection turns out dead asks again, but does not go to the queue's end.
#[tokio::test(start_paused = true)]
async fn a_place_in_the_queue_is_kept_over_a_dead_connection() {
    let (pool, mut servers) = in_memory(nowhere(), &limits(1, 10));
    let first = ask(&pool, "/0");
    let mut server = servers.recv().await.unwrap();
    head(&mut server).await;
    let (one, two) = (ask(&pool, "/1"), ask(&pool, "/2"));
    settled(&pool, 1, 1, 2).await;
    server.write_all(OK.as_bytes()).await.unwrap();
    let response = first.await.unwrap().unwrap();
    drop(server);
    text(response).await.unwrap();
    let mut server = servers.recv().await.unwrap();
    assert!(head(&mut server).await.starts_with("GET /1 "));
    server.write_all(OK.as_bytes()).await.unwrap();
    text(one.await.unwrap().unwrap()).await.unwrap();
    assert!(head(&mut server).await.starts_with("GET /2 "));
    two.abort();
}

#[tokio::test(start_paused = true)]
async fn a_freed_connection_comes_before_a_slow_new_one_which_becomes_idle() {
    let (far, mut servers) = mpsc::unbounded_channel();
    let count = AtomicUsize::new(0);
    let connector = Connector::Test(Arc::new(move || {
        let (near, server) = tokio::io::duplex(1024);
        far.send(server).unwrap();
        let late = count.fetch_add(1, SeqCst) > 0;
        Box::pin(async move {
            if late {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(near)
        })
    }));
    let pool = Pool::with_connector(nowhere(), &limits(10, 10), connector);
    let first = ask(&pool, "/1");
    let mut server = servers.recv().await.unwrap();
    head(&mut server).await;
    let second = ask(&pool, "/2");
    let _slow = servers.recv().await.unwrap();
    settled(&pool, 2, 1, 1).await;
    server.write_all(OK.as_bytes()).await.unwrap();
    text(first.await.unwrap().unwrap()).await.unwrap();
    assert!(head(&mut server).await.starts_with("GET /2 "));
    server.write_all(OK.as_bytes()).await.unwrap();
    text(second.await.unwrap().unwrap()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pool.stats(), Stats { open: 2, in_flight: 0, pending: 0 }, "made, and kept");
}

#[tokio::test]
async fn a_refused_connection_gives_the_request_back() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pool = pool(address);
    let (upload, body) = channel();
    upload.send(data("whole")).unwrap();
    drop(upload);
    let failed = soon(pool.send(post(body))).await.unwrap_err();
    assert_eq!((failed.error.outcome(), failed.error.sent()), (Outcome::ConnectFailed, Sent::Nothing));
    assert!(failed.error.to_string().contains("refused"), "{}", failed.error);
    let request = failed.request.unwrap();
    assert_eq!(request.headers()["host"], "example.com");
    assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "whole");
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn when_nothing_else_is_left_all_who_wait_hear_of_a_failed_connection() {
    let connector = Connector::Test(Arc::new(|| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err(io::ErrorKind::ConnectionRefused.into())
        })
    }));
    let pool = Pool::with_connector(nowhere(), &limits(1, 100), connector);
    let start = tokio::time::Instant::now();
    let results = join_all((0..50).map(|_| pool.send(get("/")))).await;
    assert!(results.iter().all(|r| r.as_ref().unwrap_err().error.outcome() == Outcome::ConnectFailed));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_pool_ends_what_is_idle_and_finishes_what_is_not() {
    let (pool, mut servers) = in_memory(nowhere(), &limits(2, 10));
    let (a, b) = (ask(&pool, "/a"), ask(&pool, "/b"));
    let (mut first, mut second) = (servers.recv().await.unwrap(), servers.recv().await.unwrap());
    let c = ask(&pool, "/c");
    settled(&pool, 2, 2, 1).await;
    pool.close();
    assert_eq!(c.await.unwrap().unwrap_err().error.outcome(), Outcome::NoEndpoint);
    for server in [&mut first, &mut second] {
        head(server).await;
        server.write_all(OK.as_bytes()).await.unwrap();
    }
    for task in [a, b] {
        assert_eq!(text(task.await.unwrap().unwrap()).await.unwrap(), "ok");
    }
    assert_eq!(head(&mut first).await, "", "closed");
    let failed = pool.send(get("/d")).await.unwrap_err();
    assert_eq!(failed.error.outcome(), Outcome::NoEndpoint);
    assert!(failed.request.is_some());
    settled(&pool, 0, 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_clone_closes_the_pool_and_ends_its_tasks() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (pool, mut servers) = in_memory(nowhere(), &limits(2, 10));
    let clone = pool.clone();
    let task = ask(&pool, "/");
    let mut server = servers.recv().await.unwrap();
    head(&mut server).await;
    server.write_all(OK.as_bytes()).await.unwrap();
    text(task.await.unwrap().unwrap()).await.unwrap();
    drop(pool);
    assert_eq!(clone.stats().open, 1);
    drop(clone);
    assert_eq!(head(&mut server).await, "", "closed");
    soon(async {
        while tokio::runtime::Handle::current().metrics().num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// However long a request waits, and at whatever point it goes away, nothing is left of it.
#[tokio::test(start_paused = true)]
async fn a_request_can_be_dropped_at_every_point() {
    for polls in 0..40 {
        let connector = Connector::Test(Arc::new(|| {
            let (near, far) = tokio::io::duplex(1024);
            tokio::spawn(answer(far, OK));
            Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(near)
            })
        }));
        let pool = Pool::with_connector(nowhere(), &limits(1, 10), connector);
        let other = ask(&pool, "/other");
        {
            let mut dropped = pin!(async { text(pool.send(get("/")).await.unwrap()).await.unwrap() });
            for _ in 0..polls {
                if dropped.as_mut().now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(text(soon(other).await.unwrap().unwrap()).await.unwrap(), "ok");
        assert_eq!(text(soon(pool.send(get("/"))).await.unwrap()).await.unwrap(), "ok");
        assert_eq!((pool.stats().in_flight, pool.stats().pending), (0, 0), "after {polls} polls");
        pool.close();
        settled(&pool, 0, 0, 0).await;
    }
}

/// Random requests, cancelled at random, against servers that answer, stall or close at random.
#[test]
fn limits_hold_whatever_happens() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let max_connections = rng.usize(1..5);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let live = Arc::new(AtomicUsize::new(0));
            let most = Arc::new(AtomicUsize::new(0));
            let dice = Arc::new(Mutex::new(rng.fork()));
            let roll = move |sides: u64| dice.lock().unwrap().u64(0..sides);
            let connector = Connector::Test(Arc::new({
                let (live, most, roll) = (live.clone(), most.clone(), roll.clone());
                move || {
                    let (near, far) = tokio::io::duplex(64);
                    let (live, most, roll) = (live.clone(), most.clone(), roll.clone());
                    Box::pin(async move {
                        tokio::time::sleep(Duration::from_millis(roll(20))).await;
                        if roll(5) == 0 {
                            return Err(io::ErrorKind::ConnectionRefused.into());
                        }
                        tokio::spawn(async move {
                            most.fetch_max(live.fetch_add(1, SeqCst) + 1, SeqCst);
                            unreliable(far, &roll).await;
                            live.fetch_sub(1, SeqCst);
                        });
                        Ok(near)
                    })
                }
            }));
            let mut target = nowhere();
            target.response_timeout = Duration::from_secs(1);
            let pool = Pool::with_connector(target, &limits(max_connections, 10), connector);
            let mut outcomes = BTreeSet::new();
            let results = join_all((0..200).map(|number| {
                let (pool, roll) = (pool.clone(), roll.clone());
                async move {
                    tokio::time::sleep(Duration::from_millis(roll(2000))).await;
                    let limit = Duration::from_millis(if roll(4) == 0 { roll(50) } else { 100_000 });
                    let request = if number % 3 == 0 { post(Body::from("abc")) } else { get("/") };
                    tokio::time::timeout(limit, async {
                        let answered = pool.send(request).await;
                        let stats = pool.stats();
                        assert!(stats.open <= max_connections, "{stats:?}");
                        assert!(stats.pending <= 10 + max_connections, "{stats:?}");
                        match answered {
                            Ok(response) => drop(text(response).await),
                            Err(failed) => {
                                let whole = failed.request.is_some();
                                assert_eq!(whole, failed.error.sent() == Sent::Nothing, "{failed:?}");
                                return Some(failed.error.outcome().as_str());
                            }
                        }
                        None
                    })
                    .await
                }
            }))
            .await;
            outcomes.extend(results.into_iter().flatten().flatten());
            assert!(!outcomes.contains("internal"), "{outcomes:?}");
            assert!(most.load(SeqCst) <= max_connections, "seed {seed}: {most:?} of {max_connections}");
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert_eq!(pool.stats(), Stats::default(), "seed {seed}");
        });
    }
}

async fn unreliable(mut stream: DuplexStream, roll: &impl Fn(u64) -> u64) {
    loop {
        let request = head(&mut stream).await;
        if request.is_empty() {
            return;
        }
        if request.starts_with("POST") && stream.read_exact(&mut [0; 3]).await.is_err() {
            return;
        }
        // It notices at once when the pool closes the connection, so that open ones can be counted.
        tokio::select! {
            _ = stream.read_u8() => return,
            () = tokio::time::sleep(Duration::from_millis(roll(60))) => {}
        }
        let response = match roll(8) {
            0 => return,
            1 => {
                // Until the pool gives up.
                let _ = stream.read(&mut [0]).await;
                return;
            }
            2 => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",
            3 => "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            4 => "HTTP/1.1 200 OK\r\n\r\nok",
            _ => OK,
        };
        if stream.write_all(response.as_bytes()).await.is_err() || response != OK {
            return;
        }
    }
}

/// The same over real sockets and threads, where nothing may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_share_a_few_connections() {
    let (address, accepted) = server(|_, mut stream| async move {
        loop {
            let request = head(&mut stream).await;
            if request.is_empty() {
                return;
            }
            if request.starts_with("POST") {
                stream.read_exact(&mut [0; 3]).await.unwrap();
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let pool = Pool::new(Target::new(address), &limits(4, 100));
    let tasks: Vec<_> = (0..32)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..30 {
                    let request = if number % 2 == 0 { get("/") } else { post(Body::from("abc")) };
                    assert_eq!(text(soon(pool.send(request)).await.unwrap()).await.unwrap(), "ok");
                    assert!(pool.stats().open <= 4);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(accepted.load(SeqCst), 4, "none was lost and made again");
    assert_eq!(pool.stats(), Stats { open: 4, in_flight: 0, pending: 0 });
}
