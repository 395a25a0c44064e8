//! Doubles for backends: one that echoes what it saw, and one that follows a script byte for byte.

use std::{
    convert::Infallible,
    fmt::Write as _,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use super::wire::{find, values};

/// A backend that answers with what it saw, a line each: `name`, `method`, `target`, `version`, `body` (its length),
/// and every field as `> name: value`.
///
/// Some paths do more, wherever they stand in the target: `/bytes/N` and `/chunked/N` answer with N bytes, `/status/N`
/// with that status, `/wait/MS` after that long, `/gate` once [`open`](Self::open) was called, and `/unread` reads the
/// request's body only then.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) addr: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    name: String,
    seen: AtomicUsize,
    sent: AtomicUsize,
    gate: Semaphore,
}

impl Echo {
    pub(crate) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(name, listener)
    }

    /// Starts where another one was killed.
    pub(crate) async fn start_at(name: &str, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        Self::serve(name, listener)
    }

    fn serve(name: &str, listener: TcpListener) -> Self {
        let addr = listener.local_addr().unwrap();
        let (seen, sent) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let state = Arc::new(State { name: name.to_owned(), seen, sent, gate: Semaphore::new(0) });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let state = Arc::clone(&shared);
                let service = hyper::service::service_fn(move |request| echo(Arc::clone(&state), request));
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .max_buf_size(64 * 1024)
                        .serve_connection(TokioIo::new(stream), service),
                );
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, state, task }
    }

    /// How many requests have arrived.
    pub(crate) fn seen(&self) -> usize {
        self.state.seen.load(Ordering::Relaxed)
    }

    /// How many bytes of `/bytes` and `/chunked` bodies the connection has taken.
    pub(crate) fn sent(&self) -> usize {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Lets all requests for `/gate` and `/unread` go on, those to come as well.
    pub(crate) fn open(&self) {
        self.state.gate.add_permits(1000);
    }

    /// Ends it at once: its port is closed and its connections are cut, whatever they were doing.
    pub(crate) async fn kill(mut self) -> SocketAddr {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.addr
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    state.seen.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let number = |name: &str| -> Option<usize> {
        let (_, rest) = path.split_once(name)?;
        rest.split('/').next()?.parse().ok()
    };
    if path.contains("/gate") || path.contains("/unread") {
        let _ = state.gate.acquire().await;
    }
    if let Some(wait) = number("/wait/") {
        tokio::time::sleep(Duration::from_millis(wait as u64)).await;
    }
    let length = match count(body).await {
        Ok(length) => length.to_string(),
        Err(error) => format!("broken off: {error}"),
    };
    let mut text = format!("name: {}\nmethod: {}\ntarget: {}\n", state.name, head.method, head.uri);
    let _ = writeln!(text, "version: {:?}\nbody: {length}", head.version);
    for (name, value) in &head.headers {
        let _ = writeln!(text, "> {name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    let pattern = |left, sized| Answer { text: None, left, sized, state: Some(Arc::clone(&state)) };
    let body = match (number("/bytes/"), number("/chunked/")) {
        (Some(count), _) => pattern(count, true),
        (_, Some(count)) => pattern(count, false),
        _ => Answer { left: text.len(), text: Some(text.into()), sized: true, state: None },
    };
    let mut response = Response::new(body);
    if let Some(status) = number("/status/").and_then(|status| u16::try_from(status).ok()) {
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
    }
    response.headers_mut().insert("x-backend", state.name.parse().unwrap());
    Ok(response)
}

/// The length of a body, read piece by piece.
async fn count(mut body: Incoming) -> Result<usize, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(length)
}

/// A text, or as many bytes as asked for.
struct Answer {
    text: Option<Bytes>,
    left: usize,
    sized: bool,
    state: Option<Arc<State>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const BLOCK: &[u8] = &[b'x'; 16 * 1024];
        let next = match self.text.take() {
            Some(text) => text,
            None => Bytes::from_static(&BLOCK[..self.left.min(BLOCK.len())]),
        };
        self.left -= next.len();
        if let Some(state) = &self.state {
            state.sent.fetch_add(next.len(), Ordering::Relaxed);
        }
        Poll::Ready((!next.is_empty()).then(|| Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.sized && self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized { SizeHint::with_exact(self.left as u64) } else { SizeHint::default() }
    }
}

/// A backend that follows a script on every connection and keeps what it received.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) addr: SocketAddr,
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Log {
    requests: Vec<String>,
    /// Every byte of every connection, in the order of arrival.
    received: Vec<u8>,
    connections: usize,
}

/// A connection to a [`Raw`] backend.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
    log: Arc<Mutex<Log>>,
}

impl Raw {
    /// Follows this script on every connection; the connection ends with it.
    pub(crate) async fn start<S, F>(script: S) -> Self
    where
        S: Fn(Peer) -> F + Send + 'static,
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Log::default()));
        let shared = Arc::clone(&log);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                shared.lock().unwrap().connections += 1;
                connections.spawn(script(Peer { stream, unread: Vec::new(), log: Arc::clone(&shared) }));
            }
        });
        Self { addr, log, task }
    }

    /// Answers every request with these bytes.
    pub(crate) async fn answers(bytes: &'static str) -> Self {
        Self::start(move |mut peer| async move {
            while peer.request().await?.is_some() {
                peer.write(bytes).await?;
            }
            Ok(())
        })
        .await
    }

    /// Answers every request with an empty 200.
    pub(crate) async fn ok() -> Self {
        Self::answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
    }

    /// The requests so far, head and body as they came.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.log.lock().unwrap().requests.clone()
    }

    /// The only request so far.
    pub(crate) fn request(&self) -> String {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "one request expected: {requests:#?}");
        requests.into_iter().next().unwrap_or_default()
    }

    /// Every byte so far.
    pub(crate) fn received(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap().received).into_owned()
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.log.lock().unwrap().connections
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// The head of the next request; `None` at the end of the connection.
    pub(crate) async fn head(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                let head = self.unread.drain(..at + 4).collect::<Vec<_>>();
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next request, head and body as they came; `None` at the end of the connection.
    pub(crate) async fn request(&mut self) -> io::Result<Option<String>> {
        let Some(mut request) = self.head().await? else { return Ok(None) };
        let length = if values(&request, "transfer-encoding").is_empty() {
            let length = values(&request, "content-length").first().and_then(|length| length.parse().ok());
            self.at_least(length.unwrap_or(0)).await?;
            length.unwrap_or(0)
        } else {
            self.chunked_length().await?
        };
        let body = self.unread.drain(..length).collect::<Vec<_>>();
        request.push_str(&String::from_utf8_lossy(&body));
        self.log.lock().unwrap().requests.push(request.clone());
        Ok(Some(request))
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Cuts the connection with a reset.
    pub(crate) fn reset(self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }

    /// Reads, and keeps in the log, everything until the other end closes.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        while self.fill().await? > 0 {}
        Ok(())
    }

    async fn at_least(&mut self, count: usize) -> io::Result<()> {
        while self.unread.len() < count {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The length of the chunked body that begins here, framing and trailers included.
    async fn chunked_length(&mut self) -> io::Result<usize> {
        let mut at = 0;
        let mut last = false;
        loop {
            let line = loop {
                match find(&self.unread[at..], b"\r\n") {
                    Some(length) => break length,
                    None => self.at_least(self.unread.len() + 1).await?,
                }
            };
            let text = String::from_utf8_lossy(&self.unread[at..at + line]).into_owned();
            at += line + 2;
            if last {
                if text.is_empty() {
                    return Ok(at);
                }
                continue;
            }
            let size = text.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| io::Error::other(format!("chunk size {text:?}")))?;
            last = size == 0;
            if !last {
                at += size + 2;
                self.at_least(at).await?;
            }
        }
    }

    /// What comes next of the body, as it comes; nothing at the end of the connection.
    pub(crate) async fn piece(&mut self) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            self.fill().await?;
        }
        Ok(self.unread.drain(..).collect())
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let before = self.unread.len();
        let read = self.stream.read_buf(&mut self.unread).await?;
        self.log.lock().unwrap().received.extend_from_slice(&self.unread[before..]);
        Ok(read)
    }
}
