//! The I/O of a connection: bytes read ahead, and the notes that limits are kept by.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use pin_project::{pin_project, pinned_drop};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::state::Connection;
use crate::interim::Interim;

/// How much of a rejected upload is read and thrown away at most.
const LINGER_BYTES: u64 = 16 << 20;

/// Makes a [`Socket`] end with a reset instead of a clean end.
#[derive(Debug, Clone, Default)]
pub(super) struct Abort(Arc<AtomicBool>);

impl Abort {
    pub(super) fn abort(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A socket whose end can be made to tell that something is missing.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
pub(super) struct Socket {
    #[pin]
    stream: TcpStream,
    abort: Abort,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, abort: Abort) -> Self {
        Self { stream, abort }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().stream.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(cx)
    }
}

#[pinned_drop]
impl PinnedDrop for Socket {
    fn drop(self: Pin<&mut Self>) {
        if self.abort.0.load(Ordering::Relaxed) {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// I/O of which some bytes were read ahead; they are read again first.
#[pin_project]
#[derive(Debug)]
pub(super) struct Rewind<T> {
    ahead: Bytes,
    #[pin]
    io: T,
}

impl<T> Rewind<T> {
    pub(super) fn new(io: T, ahead: Bytes) -> Self {
        Self { ahead, io }
    }

    /// Puts bytes back in front.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        self.ahead = if self.ahead.is_empty() { bytes } else { [bytes, self.ahead.split_off(0)].concat().into() };
    }
}

impl<T: AsyncRead> AsyncRead for Rewind<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.ahead.is_empty() {
            return this.io.poll_read(cx, buf);
        }
        let n = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite> AsyncWrite for Rewind<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().io.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().io.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
    }
}

/// The outermost I/O of a connection: notes who waits for whom, lingers at the end, and can be cut once it has become
/// a tunnel. `G` is held as long as the connection lives.
#[pin_project(PinnedDrop)]
#[derive(Debug)]
pub(super) struct Watched<T, G> {
    #[pin]
    io: T,
    connection: Arc<Connection>,
    /// Bytes written since a write was blocked the last time.
    written: usize,
    blocked: bool,
    /// The rest of an informational response that is being written.
    interim: Bytes,
    /// The last request that began before the last flush, if nothing was written since: hyper flushes once it has nothing
    /// left to write, and so what comes next belongs to the answer to that request.
    flushed: Option<u64>,
    shut: bool,
    lingered: u64,
    _guard: G,
}

impl<T, G> Watched<T, G> {
    pub(super) fn new(io: T, connection: Arc<Connection>, guard: G) -> Self {
        Self {
            io,
            connection,
            written: 0,
            blocked: false,
            interim: Bytes::new(),
            flushed: None,
            shut: false,
            lingered: 0,
            _guard: guard,
        }
    }

    fn wrote(self: Pin<&mut Self>, polled: &Poll<io::Result<usize>>) {
        let this = self.project();
        if let Poll::Ready(Ok(n)) = polled
            && this.connection.http2
        {
            this.connection.written.fetch_add(*n, Ordering::Relaxed);
        }
        match polled {
            Poll::Pending if !*this.blocked => {
                *this.blocked = true;
                this.connection.write_blocked(std::mem::take(this.written));
            }
            Poll::Ready(Ok(n)) if *this.blocked => {
                *this.blocked = false;
                this.connection.write_resumed(*n);
            }
            Poll::Ready(Ok(n)) => *this.written = this.written.saturating_add(*n),
            _ => {}
        }
    }

    fn interim(&self) -> &Interim {
        &self.connection.interim
    }
}

impl<T: AsyncWrite, G> Watched<T, G> {
    /// Writes the informational responses that wait, if this is the place for them.
    fn poll_interim(mut self: Pin<&mut Self>, flushing: bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim.is_empty() {
            if !self.interim().is_waiting() {
                return Poll::Ready(Ok(()));
            }
            let waiting = self.interim().take();
            if !flushing && self.flushed != Some(self.interim().request()) {
                return Poll::Ready(Ok(()));
            }
            *self.as_mut().project().interim = waiting;
        }
        loop {
            let this = self.as_mut().project();
            if this.interim.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let polled = this.io.poll_write(cx, this.interim);
            if let Poll::Ready(Ok(written)) = polled {
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                this.interim.advance(written);
            }
            self.as_mut().wrote(&polled);
            ready!(polled)?;
        }
    }
}

impl<T, G> Watched<T, G> {
    /// In a tunnel: an error once it is cut.
    fn uncut(&self, read: bool, cx: &Context<'_>) -> io::Result<()> {
        if self.connection.tunnel.load(Ordering::Relaxed) && self.connection.tunnel_waits(read, cx) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server shuts down"));
        }
        Ok(())
    }
}

impl<T: AsyncRead, G> AsyncRead for Watched<T, G> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.uncut(true, cx)?;
        let this = self.as_mut().project();
        let before = buf.filled().len();
        let polled = this.io.poll_read(cx, buf);
        if buf.filled().len() > before && !this.connection.http2 && this.connection.in_flight() == 0 {
            this.connection.head_bytes.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<T: AsyncRead + AsyncWrite, G> AsyncWrite for Watched<T, G> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.uncut(false, cx)?;
        ready!(self.as_mut().poll_interim(false, cx))?;
        let this = self.as_mut().project();
        *this.flushed = None;
        let polled = this.io.poll_write(cx, buf);
        self.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.uncut(false, cx)?;
        ready!(self.as_mut().poll_interim(false, cx))?;
        let this = self.as_mut().project();
        *this.flushed = None;
        let polled = this.io.poll_write_vectored(cx, bufs);
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.uncut(false, cx)?;
        ready!(self.as_mut().poll_interim(true, cx))?;
        // TLS writes into a buffer of its own and is blocked here.
        let polled = self.as_mut().project().io.poll_flush(cx);
        match &polled {
            Poll::Pending => self.wrote(&Poll::Pending),
            Poll::Ready(Ok(())) => {
                let request = self.interim().request();
                *self.as_mut().project().flushed = Some(request);
                self.wrote(&Poll::Ready(Ok(0)));
            }
            Poll::Ready(Err(_)) => {}
        }
        polled
    }

    /// A client that still sends would get a reset, and with it lose the answer, if the socket were closed now. So
    /// what it sends is thrown away for a while; [`Connection::look`] keeps the time.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if !*this.shut {
            ready!(this.io.as_mut().poll_shutdown(cx))?;
            *this.shut = true;
        }
        if !this.connection.lingers() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 8192];
        let before = *this.lingered;
        while *this.lingered < LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut scratch);
            match this.io.as_mut().poll_read(cx, &mut buf) {
                Poll::Pending => {
                    this.connection.linger(*this.lingered > before);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => *this.lingered += buf.filled().len() as u64,
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[pinned_drop]
impl<T, G> PinnedDrop for Watched<T, G> {
    fn drop(self: Pin<&mut Self>) {
        self.connection.closed();
    }
}

/// Reads until `enough` says so, and returns what was read. Also returns at the end of the input.
pub(super) async fn read_ahead<T>(
    io: &mut T,
    limit: usize,
    mut enough: impl FnMut(&[u8]) -> bool,
) -> io::Result<BytesMut>
where
    T: AsyncRead + Unpin,
{
    let mut ahead = BytesMut::with_capacity(1024);
    while !enough(&ahead) && ahead.len() < limit {
        let room = limit - ahead.len();
        if (&mut *io).take(room as u64).read_buf(&mut ahead).await? == 0 {
            break;
        }
    }
    Ok(ahead)
}
