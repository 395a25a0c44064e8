//! The server against raw bytes, hyper's clients and real sockets.

#[cfg(feature = "tls")]
mod decide;
mod drain;
mod http;
mod limits;
mod listening;
#[cfg(feature = "tls")]
mod tls;

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
};
use tower::{Service, service_fn};

use super::{
    Drain, ServerConfig,
    connection::{self, Serve, Shared},
    io::Abort,
};
use crate::{Body, BoxError, Outcome, connection::ConnectionInfo};

/// One connection over a pipe, served in a task.
struct Pipe {
    client: DuplexStream,
    drain: Drain,
    server: JoinHandle<()>,
}

fn info() -> ConnectionInfo {
    ConnectionInfo::new(SocketAddr::from(([192, 0, 2, 7], 4711)), SocketAddr::from(([127, 0, 0, 1], 80)))
}

fn shared(config: ServerConfig, drain: &Drain) -> Arc<Shared> {
    Arc::new(Shared {
        config: Arc::new(config),
        drain: drain.clone(),
        #[cfg(feature = "tls")]
        tls: None,
        #[cfg(feature = "proxy-protocol")]
        proxy: None,
        own: true,
        decide: None,
    })
}

/// Over a pipe that holds `size` bytes.
fn serve_sized<S: Serve>(config: ServerConfig, service: S, size: usize) -> Pipe {
    let (client, server) = duplex(size);
    let drain = Drain::new();
    let server = tokio::spawn(connection::serve(server, Abort::default(), info(), service, shared(config, &drain), ()));
    Pipe { client, drain, server }
}

fn serve<S: Serve>(service: S) -> Pipe {
    serve_sized(ServerConfig::default(), service, 64 << 10)
}

/// Answers with the body it was sent.
fn echo() -> impl Serve {
    service_fn(|request: Request<Body>| async move {
        let body = request.into_body().collect().await?.to_bytes();
        Ok::<_, BoxError>(Response::new(Body::from(body)))
    })
}

/// Answers once it is told to, and counts who waits and who was dropped.
#[derive(Clone, Default)]
struct Gate(Arc<GateInner>);

#[derive(Default)]
struct GateInner {
    open: tokio::sync::Notify,
    came: tokio::sync::Notify,
    waiting: AtomicUsize,
}

struct Waiting(Gate);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    fn service(&self) -> impl Serve {
        let gate = self.clone();
        service_fn(move |_: Request<Body>| {
            let gate = gate.clone();
            async move {
                gate.0.waiting.fetch_add(1, Ordering::SeqCst);
                let waiting = Waiting(gate.clone());
                gate.0.came.notify_one();
                gate.0.open.notified().await;
                drop(waiting);
                Ok::<_, Infallible>(Response::new(Body::from("done")))
            }
        })
    }

    async fn came(&self) {
        self.0.came.notified().await;
    }

    fn open(&self) {
        self.0.open.notify_one();
    }

    fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }
}

async fn read_to_end(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    // A cut may be an error or an end.
    let _ = io.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one response's head.
async fn read_head(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

type H2 = hyper::client::conn::http2::SendRequest<http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>>;

/// An HTTP/2 client, and the task that ends when its connection does.
async fn h2_client<T>(io: T) -> (H2, JoinHandle<hyper::Result<()>>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    h2_client_with_window(io, 1 << 20).await
}

/// One that takes this many bytes of each answer ahead.
async fn h2_client_with_window<T>(io: T, window: u32) -> (H2, JoinHandle<hyper::Result<()>>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window).initial_connection_window_size(1 << 20);
    let (client, connection) = builder.handshake(TokioIo::new(io)).await.unwrap();
    (client, tokio::spawn(connection))
}

type ClientBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

fn no_body() -> ClientBody {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body that is sent as the sender has it.
fn sent_body() -> (mpsc::Sender<Bytes>, ClientBody) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let stream = futures_util::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok::<_, BoxError>(Frame::data(bytes))))
    });
    (sender, StreamBody::new(stream).boxed_unsync())
}

fn get(path: &str) -> Request<ClientBody> {
    Request::get(format!("http://shop.example.com{path}")).body(no_body()).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
