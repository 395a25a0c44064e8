//! Slow clients. The limits are the defaults (30 s for a head or a handshake), so these tests take that long, side by
//! side; none of them computes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::support::{Conn, Echo, Ingress, Raw, manifest::everything_to, until, wire::get};

/// Sends this piece every so often until that fails, for no longer than `limit`; says how long it went.
async fn dribble(conn: &mut Conn, piece: &str, pause: Duration, limit: Duration) -> Duration {
    let began = Instant::now();
    while began.elapsed() < limit {
        let mut byte = [0];
        let ended = match conn.stream.try_read(&mut byte) {
            // An answer in the middle of the request is the end of it, too.
            Ok(_) => true,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        };
        if ended || conn.send(piece).await.is_err() {
            break;
        }
        sleep(pause).await;
    }
    began.elapsed()
}

#[tokio::test]
async fn a_head_or_a_handshake_that_does_not_come_is_not_waited_for() {
    const DEFAULT: Duration = Duration::from_secs(30);
    const LIMIT: Duration = Duration::from_secs(40);
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;

    let head = async {
        let mut conn = Conn::open(ingress.http).await.unwrap();
        conn.send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await.unwrap();
        ("a byte a second of a head", dribble(&mut conn, "x", Duration::from_secs(1), LIMIT).await)
    };
    let silence = async {
        let mut conn = Conn::open(ingress.http).await.unwrap();
        let began = Instant::now();
        conn.closes_within(LIMIT).await;
        ("not a byte", began.elapsed())
    };
    let second = async {
        let mut conn = Conn::open(ingress.http).await.unwrap();
        assert_eq!(conn.get("a", "/").await.unwrap().status, 200);
        conn.send("GET / HTTP/1.1\r\nX: ").await.unwrap();
        ("a second head", dribble(&mut conn, "x", Duration::from_secs(1), LIMIT).await)
    };
    let handshake = async {
        let mut conn = Conn::open(ingress.https).await.unwrap();
        let began = Instant::now();
        // The begin of a ClientHello record of 512 bytes, and nothing more.
        conn.send([0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
        conn.closes_within(LIMIT).await;
        ("half a handshake", began.elapsed())
    };
    let preface = async {
        let mut conn = Conn::open(ingress.http).await.unwrap();
        let began = Instant::now();
        conn.send("PRI * HTTP/2.0\r\n\r\nSM").await.unwrap();
        conn.closes_within(LIMIT).await;
        ("half an HTTP/2 preface", began.elapsed())
    };
    let results = tokio::join!(head, silence, second, handshake, preface);
    for (what, took) in [results.0, results.1, results.2, results.3, results.4] {
        assert!(took < DEFAULT + Duration::from_secs(5), "{what} was waited for {took:?}");
    }
    assert_eq!(get(ingress.http, "a", "/").await.status, 200);
}

#[tokio::test]
async fn a_byte_a_second_of_a_body_is_cut_off_and_an_honest_slow_client_is_not() {
    const LIMIT: Duration = Duration::from_secs(40);
    let echo = Echo::start("a").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;

    let trickle = async {
        let mut conn = Conn::open(ingress.http).await.unwrap();
        conn.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        let took = dribble(&mut conn, "x", Duration::from_secs(1), LIMIT).await;
        assert!(took < LIMIT, "a byte a second was accepted for {took:?}");
    };
    let nothing = async {
        let mut conn = Conn::open(ingress.http).await.unwrap();
        conn.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let _ = tokio::time::timeout(LIMIT, conn.stream.readable()).await;
        assert!(began.elapsed() < LIMIT, "a body that never comes was waited for");
    };
    let honest = async {
        // 4 kB/s for 10 s: a bad mobile connection.
        let mut conn = Conn::open(ingress.http).await.unwrap();
        conn.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40960\r\n\r\n").await.unwrap();
        for _ in 0..20 {
            conn.send([b'x'; 2048]).await.unwrap();
            sleep(Duration::from_millis(500)).await;
        }
        let response = conn.response().await.unwrap();
        assert!(response.text().contains("body: 40960\n"), "{response:?}");
    };
    let patient = async {
        // The backend takes its time; the client has nothing to send and is not to blame.
        let response = get(ingress.http, "a", "/wait/8000").await;
        assert_eq!(response.status, 200);
    };
    tokio::join!(trickle, nothing, honest, patient);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off() {
    let cut = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cut);
    let raw = Raw::start(move |mut peer| {
        let flag = Arc::clone(&flag);
        async move {
            peer.request().await?;
            peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while peer.write(&chunk).await.is_ok() {}
            flag.store(true, Ordering::Relaxed);
            Ok(())
        }
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until("the backend is let go", Duration::from_secs(40), || cut.load(Ordering::Relaxed)).await;
    drop(conn);
}
