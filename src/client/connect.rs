//! Making a connection: TCP, TLS, and the choice of protocol.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

#[cfg(feature = "tls")]
use std::sync::OnceLock;

use super::{Target, shared::Shared};
use crate::{BoxError, Error, Outcome, config::Protocol};

/// After this long without traffic the peer is probed, so that a connection whose peer is gone is found out. 60 s, then
/// every 20 s (nginx and Envoy leave it to the system, whose default is two hours).
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// The seam where tests put something else than the network.
pub(super) enum Connector {
    Tcp,
    #[cfg(test)]
    Test(Arc<TestConnect>),
}

#[cfg(test)]
pub(super) type TestConnect =
    dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<tokio::io::DuplexStream>> + Send>> + Send + Sync;

/// Why there is no connection. Cheap to clone, because many requests may have waited for it.
#[derive(Debug, Clone)]
pub(super) struct ConnectError {
    outcome: Outcome,
    source: Option<Arc<BoxError>>,
}

/// The cause that several errors share.
#[derive(Debug)]
struct Cause(Arc<BoxError>);

impl ConnectError {
    pub(super) fn new(outcome: Outcome) -> Self {
        Self { outcome, source: None }
    }

    pub(super) fn caused(outcome: Outcome, source: impl Into<BoxError>) -> Self {
        Self { outcome, source: Some(Arc::new(source.into())) }
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        match error.source {
            Some(source) => Self::new(error.outcome).with_source(Cause(source)),
            None => Self::new(error.outcome),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// A connection's place among the pool's `max_connections`, from the moment it is begun until its socket is closed.
pub(super) struct Slot(pub(super) Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.slot_freed();
    }
}

/// A connection's bytes, and its place in the pool.
pub(crate) struct Io {
    stream: Stream,
    slot: Arc<Slot>,
    blocked: Blocked,
    #[cfg(feature = "tls")]
    broken: TlsBroken,
}

/// What TLS itself ended a connection with, which HTTP/2 tells the text of alone.
#[cfg(feature = "tls")]
#[derive(Debug, Clone, Default)]
pub(super) struct TlsBroken(Arc<OnceLock<rustls::Error>>);

#[cfg(feature = "tls")]
impl TlsBroken {
    pub(super) fn get(&self) -> Option<&rustls::Error> {
        self.0.get()
    }

    fn note(&self, read: &Poll<io::Result<()>>) {
        if let Poll::Ready(Err(error)) = read
            && let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            let _ = self.0.set(error.clone());
        }
    }
}

/// Whether bytes wait to be written because the peer does not read.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocked(Arc<AtomicBool>);

impl Blocked {
    pub(super) fn get(&self) -> bool {
        self.0.load(SeqCst)
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        // Read first: it seldom changes.
        if self.get() != written.is_pending() {
            self.0.store(written.is_pending(), SeqCst);
        }
        written
    }
}

impl Io {
    pub(super) fn blocked(&self) -> &Blocked {
        &self.blocked
    }

    pub(super) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    #[cfg(feature = "tls")]
    pub(super) fn broken(&self) -> &TlsBroken {
        &self.broken
    }
}

enum Stream {
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    #[cfg(test)]
    Test(tokio::io::DuplexStream),
}

/// Which protocol to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Http {
    One,
    Two,
}

/// Connects within the time allowed.
pub(super) async fn connect(slot: Arc<Slot>) -> Result<(Io, Http), ConnectError> {
    let shared = Arc::clone(&slot.0);
    let (stream, http) = in_time(&shared.target, dial(&shared.target, &shared.connector)).await?;
    Ok((Io::new(stream, slot), http))
}

/// Connects for something else than HTTP, within the time allowed.
pub(super) async fn connect_stream(slot: Arc<Slot>) -> Result<Io, ConnectError> {
    let shared = Arc::clone(&slot.0);
    let stream = in_time(&shared.target, dial_stream(&shared.target, &shared.connector)).await?;
    Ok(Io::new(stream, slot))
}

async fn in_time<T>(
    target: &Target,
    attempt: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let limit = target.connect_timeout;
    if limit.is_zero() {
        return attempt.await;
    }
    tokio::time::timeout(limit, attempt).await.map_err(|_| ConnectError::new(Outcome::ConnectTimeout))?
}

async fn dial_stream(target: &Target, connector: &Connector) -> Result<Stream, ConnectError> {
    let stream = match connector {
        Connector::Tcp => tcp(target).await.map_err(|e| ConnectError::caused(Outcome::ConnectFailed, e))?,
        #[cfg(test)]
        Connector::Test(_) => return dial(target, connector).await.map(|(stream, _)| stream),
    };
    #[cfg(feature = "tls")]
    if let Some(tls) = &target.tls {
        let stream = tls.connect_stream(stream).await.map_err(|(outcome, e)| ConnectError::caused(outcome, e))?;
        return Ok(Stream::Tls(Box::new(stream)));
    }
    Ok(Stream::Tcp(stream))
}

async fn dial(target: &Target, connector: &Connector) -> Result<(Stream, Http), ConnectError> {
    let plain = if target.protocol == Protocol::Http2 { Http::Two } else { Http::One };
    let stream = match connector {
        Connector::Tcp => tcp(target).await.map_err(|e| ConnectError::caused(Outcome::ConnectFailed, e))?,
        #[cfg(test)]
        Connector::Test(connect) => {
            let stream = connect().await.map_err(|e| ConnectError::caused(Outcome::ConnectFailed, e))?;
            return Ok((Stream::Test(stream), plain));
        }
    };
    #[cfg(feature = "tls")]
    if let Some(tls) = &target.tls {
        let (stream, h2) =
            tls.connect(stream, target.protocol).await.map_err(|(outcome, e)| ConnectError::caused(outcome, e))?;
        return Ok((Stream::Tls(Box::new(stream)), if h2 { Http::Two } else { Http::One }));
    }
    Ok((Stream::Tcp(stream), plain))
}

async fn tcp(target: &Target) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target.address).await?;
    // Neither is worth a connection that otherwise works.
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    Ok(stream)
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $body:expr) => {
        match &mut $self.as_mut().get_mut().stream {
            Stream::Tcp($stream) => $body,
            #[cfg(feature = "tls")]
            Stream::Tls($stream) => $body,
            #[cfg(test)]
            Stream::Test($stream) => $body,
        }
    };
}

impl Io {
    fn new(stream: Stream, slot: Arc<Slot>) -> Self {
        Self {
            stream,
            slot,
            blocked: Blocked::default(),
            #[cfg(feature = "tls")]
            broken: TlsBroken::default(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = delegate!(self, stream => Pin::new(stream).poll_read(cx, buffer));
        #[cfg(feature = "tls")]
        self.broken.note(&read);
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = delegate!(self, stream => Pin::new(stream).poll_write(cx, bytes));
        self.blocked.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = delegate!(self, stream => Pin::new(stream).poll_flush(cx));
        self.blocked.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = delegate!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices));
        self.blocked.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.is_write_vectored(),
            #[cfg(test)]
            Stream::Test(stream) => stream.is_write_vectored(),
        }
    }
}
