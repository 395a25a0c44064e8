//! What becomes of a connection, decided before it is answered.

use std::{
    borrow::Cow,
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ClientHello;
use crate::connection::ConnectionInfo;
#[cfg(feature = "tls")]
use crate::tls::server::ServerTls;

/// Decides what becomes of each connection of a [`Server`](super::Server): see [`Server::decide`](super::Server::decide).
///
/// It is asked when a connection was accepted (and its PROXY protocol header read). Where it says
/// [`Decision::Hello`] it is asked once more, with the [`ClientHello`] that was read meanwhile. A closure is one.
pub trait Decide: Send + Sync + 'static {
    /// What becomes of this connection.
    fn decide(&self, arrival: &Arrival<'_>) -> Decision;
}

impl<F: Fn(&Arrival<'_>) -> Decision + Send + Sync + 'static> Decide for F {
    fn decide(&self, arrival: &Arrival<'_>) -> Decision {
        self(arrival)
    }
}

/// A connection to be decided on.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Arrival<'a> {
    /// What is known of it.
    pub connection: &'a ConnectionInfo,
    /// What its first bytes said, where they were asked for.
    pub hello: Option<&'a ClientHello>,
    /// Whether it came to a [`Listener`](super::Listener) of the server that has TLS.
    pub own_tls: bool,
}

/// What becomes of a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Decision {
    /// What the [`Listener`](super::Listener) it came to has for all: TLS where it has it, else HTTP without. A connection to
    /// one of the server's [other addresses](super::Listening) is closed.
    Own,
    /// Its ClientHello is read, within [`handshake_timeout`](super::ServerConfig::handshake_timeout) and
    /// [`max_head_size`](super::ServerConfig::max_head_size), and the question is asked again. Without one the connection is
    /// closed.
    Hello,
    /// HTTP without TLS.
    Http,
    /// HTTP over this TLS.
    #[cfg(feature = "tls")]
    Https(ServerTls),
    /// Passed on as it is, with all that was read of it.
    Stream(StreamHandler),
    /// Passed on after this TLS was ended here.
    #[cfg(feature = "tls")]
    TlsStream(ServerTls, StreamHandler),
    /// Closed without an answer, without so much as an alert of TLS; why is for the log.
    Close(Cow<'static, str>),
}

/// What is done with a connection that is not HTTP. Its future is the connection's life: the server counts it among its
/// connections and waits for it when it drains, and drops it at the deadline.
pub struct StreamHandler(Box<dyn FnOnce(Stream) -> Handling + Send>);

/// A connection's life.
pub(super) type Handling = Pin<Box<dyn Future<Output = ()> + Send>>;

impl StreamHandler {
    /// Calls `handle` once the connection is there.
    pub fn new<F>(handle: impl FnOnce(Stream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Box::new(move |stream| Box::pin(handle(stream))))
    }

    pub(super) fn run(self, stream: Stream) -> Handling {
        (self.0)(stream)
    }
}

impl fmt::Debug for StreamHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandler").finish_non_exhaustive()
    }
}

/// A connection that is not HTTP: its bytes, from the first on.
pub struct Stream {
    io: Box<dyn Io>,
    connection: ConnectionInfo,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Stream {
    pub(super) fn new(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, connection: ConnectionInfo) -> Self {
        Self { io: Box::new(io), connection }
    }

    /// What is known of it, TLS included where that was ended here.
    #[must_use]
    pub fn connection(&self) -> &ConnectionInfo {
        &self.connection
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("connection", &self.connection).finish_non_exhaustive()
    }
}
