//! Two connections joined after an upgrade.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Duration, Instant, sleep_until},
};

/// The live tunnels: a handle to count them and to end them.
///
/// A connection that was upgraded is no longer its HTTP server's, so that a drain does not see it. The server asks here:
/// it waits with [`drained`](Self::drained) until its deadline, and then reports
/// those that are still [`live`](Self::live) as cut, and [`close`](Self::close)s them.
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use portcullis::proxy::{ForwardLayer, Tunnels};
///
/// let tunnels = Tunnels::new();
/// let layer = ForwardLayer::new().tunnels(tunnels.clone());
/// // ... serve, and when it is time to stop:
/// tunnels.drained().await;
/// assert_eq!(tunnels.live(), 0);
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Tunnels(Arc<watch::Sender<bool>>);

impl Tunnels {
    /// A registry without tunnels.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// How many tunnels there are.
    #[must_use]
    pub fn live(&self) -> usize {
        self.0.receiver_count()
    }

    /// Ends all tunnels, also those yet to come.
    pub fn close(&self) {
        self.0.send_replace(true);
    }

    /// Waits until there is no tunnel.
    pub async fn drained(&self) {
        self.0.closed().await;
    }
}

impl Default for Tunnels {
    fn default() -> Self {
        Self::new()
    }
}

/// Joins two connections, once both have switched.
pub(super) fn start(client: OnUpgrade, upstream: OnUpgrade, idle: Duration, tunnels: &Tunnels) {
    let closing = tunnels.0.subscribe();
    tokio::spawn(async move {
        let mut ending = closing;
        let switched = async {
            let upstream = upstream.await?;
            Ok::<_, hyper::Error>((client.await?, upstream))
        };
        let (mut client, mut upstream) = tokio::select! {
            biased;
            switched = switched => match switched {
                Ok((client, upstream)) => (TokioIo::new(client), TokioIo::new(upstream)),
                Err(error) => {
                    tracing::debug!(%error, "a connection was lost while it was switched");
                    return;
                }
            },
            // Fails when nobody is left who could close it, which is not to close it.
            Ok(_) = ending.wait_for(|closing| *closing) => return,
            () = tokio::time::sleep(idle) => return,
        };
        let mut copied = Copied::default();
        let end = tokio::select! {
            biased;
            end = join(&mut client, &mut upstream, idle, |now| copied = now) => end,
            Ok(_) = ending.wait_for(|closing| *closing) => Ok(Ended::Closed),
        };
        let Copied { sent, received } = copied;
        match end {
            Ok(end) => tracing::debug!(sent, received, ?end, "tunnel ended"),
            Err(error) => tracing::debug!(sent, received, %error, "tunnel failed"),
        }
    });
}

/// How many bytes went each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// From the client to the upstream.
    pub(crate) sent: u64,
    /// From the upstream to the client.
    pub(crate) received: u64,
}

/// Copies both ways until both sides have ended, one end of two left open for the other's rest, or neither has said
/// anything for `idle`. `copied` is told how much that is so far, every time there may be more.
pub(crate) async fn join<C, U>(
    client: &mut C,
    upstream: &mut U,
    idle: Duration,
    mut copied: impl FnMut(Copied),
) -> io::Result<Ended>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut tunnel = Tunnel::new(idle);
    poll_fn(|cx| {
        let polled = tunnel.poll(cx, client, upstream);
        copied(Copied { sent: tunnel.up.bytes, received: tunnel.down.bytes });
        polled
    })
    .await
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both sides said all they had to say.
    Complete,
    /// Neither side said anything for too long.
    Idle,
    /// It was ended from here.
    Closed,
}

/// Copies both ways, one direction independent of the other, until both have ended.
struct Tunnel {
    up: Direction,
    down: Direction,
    idle: Duration,
    active: Instant,
    /// Set for when the tunnel would be idle as of the last time it fired, not moved with every byte.
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl Tunnel {
    fn new(idle: Duration) -> Self {
        let active = Instant::now();
        let timer = Box::pin(sleep_until(active + idle));
        Self { up: Direction::new(), down: Direction::new(), idle, active, timer }
    }

    fn poll<C, U>(&mut self, cx: &mut Context<'_>, client: &mut C, upstream: &mut U) -> Poll<io::Result<Ended>>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let before = self.up.bytes + self.down.bytes;
        let up = self.up.poll(cx, client, upstream)?;
        let down = self.down.poll(cx, upstream, client)?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(Ended::Complete));
        }
        if self.up.bytes + self.down.bytes != before {
            self.active = Instant::now();
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let end = self.active + self.idle;
            if end <= Instant::now() {
                return Poll::Ready(Ok(Ended::Idle));
            }
            self.timer.as_mut().reset(end);
        }
        Poll::Pending
    }
}

/// One direction of a tunnel.
struct Direction {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    state: State,
    /// How many were passed on.
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    /// The reader is at its end; the writer is told.
    Ending,
    Ended,
}

/// As tokio's own copying has it; two of them are what an idle tunnel costs.
const BUFFER: usize = 8 * 1024;

impl Direction {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into(), start: 0, end: 0, state: State::Copying, bytes: 0 }
    }

    /// Reads only when everything read before was written: a slow reader slows the other side's writer.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while self.start < self.end {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.start..self.end]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += written;
                self.bytes += written as u64;
            }
            match self.state {
                State::Copying => {
                    let mut buffer = ReadBuf::new(&mut self.buffer);
                    let Poll::Ready(read) = Pin::new(&mut *from).poll_read(cx, &mut buffer) else {
                        // Nothing more for now: what was written should not lie about.
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        return Poll::Pending;
                    };
                    read?;
                    (self.start, self.end) = (0, buffer.filled().len());
                    if self.end == 0 {
                        self.state = State::Ending;
                    }
                }
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}
