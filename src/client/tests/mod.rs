//! What the tests share: requests, and endpoints that do exactly what they are told.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{connect::Connector, *};
use crate::{
    BoxError, Outcome, Sent,
    config::{PoolLimits, Protocol},
};

mod http1;
mod http2;
mod limits;
mod time;
#[cfg(feature = "tls-ring")]
mod tls;
mod uploads;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A hang is a failure.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("timed out")
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "example.com").body(Body::empty()).unwrap()
}

fn post(body: Body) -> Request<Body> {
    Request::post("/up").header("host", "example.com").body(body).unwrap()
}

/// A body fed by hand.
fn channel() -> (mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>, Body) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    struct Frames<F>(F);
    impl<T, F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin> futures_core::Stream
        for Frames<F>
    {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            (self.0)(cx)
        }
    }
    (sender, Body::new(StreamBody::new(Frames(move |cx: &mut std::task::Context<'_>| receiver.poll_recv(cx)))))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

async fn text(response: Response<Body>) -> Result<String, BoxError> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// The error of a response's body, as this crate's.
async fn body_error(response: Response<Body>) -> Outcome {
    let error = text(response).await.expect_err("the body ended as if it were whole");
    let error = error.downcast::<Error>().expect("an error of this crate");
    assert_eq!(error.sent(), Sent::Possibly);
    error.outcome()
}

fn pool(address: SocketAddr) -> Pool {
    Pool::new(Target::new(address), &PoolLimits::default())
}

/// Waits, without a clock, until the pool's numbers are these.
async fn settled(pool: &Pool, open: usize, in_flight: usize, pending: usize) {
    let expected = Stats { open, in_flight, pending };
    soon(async {
        while pool.stats() != expected {
            tokio::task::yield_now().await;
            if tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .await;
}

/// A server on a socket; each connection is handled by `script`, which is given its number.
async fn server<F, Fut>(script: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(usize, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = accepted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(script(counter.fetch_add(1, SeqCst), stream));
        }
    });
    (address, accepted)
}

/// Reads one request head; empty at the connection's end.
async fn head<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Answers every request alike, until the connection ends.
async fn answer<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut stream: S, response: &str) {
    while !head(&mut stream).await.is_empty() {
        if stream.write_all(response.as_bytes()).await.is_err() {
            break;
        }
    }
}

/// A pool whose connections are made in memory; the other ends come out of the receiver.
fn in_memory(target: Target, limits: &PoolLimits) -> (Pool, mpsc::UnboundedReceiver<DuplexStream>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let connector = Connector::Test(Arc::new(move || {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let sent = sender.send(far);
        Box::pin(async move { sent.map(|()| near).map_err(|_| io::ErrorKind::ConnectionRefused.into()) })
    }));
    (Pool::with_connector(target, limits, connector), receiver)
}

fn nowhere() -> Target {
    Target::new("127.0.0.1:1".parse().unwrap())
}

#[test]
fn what_send_returns_can_go_to_another_thread() {
    fn is_send<T: Send>(_: &T) {}
    let pool = pool("127.0.0.1:1".parse().unwrap());
    let future = pool.send(get("/"));
    is_send(&future);
    assert!(size_of_val(&future) < 4096, "{}", size_of_val(&future));
}
