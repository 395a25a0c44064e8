//! One connection, from its first byte to its end.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pin_project::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep_until, timeout_at},
};
use tower_service::Service;

#[cfg(feature = "proxy-protocol")]
use super::ProxyProtocol;
use super::{
    Arrival, ClientHello, Decide, Decision, ServerConfig, Stream, chain,
    decide::Handling,
    drain::{Drain, Stage, Tracked},
    io::{Abort, Rewind, Watched, read_ahead},
    service::Adapter,
    state::{Connection, Verdict},
};
#[cfg(feature = "tls")]
use crate::tls::server::ServerTls;
use crate::{Body, BoxError, connection::ConnectionInfo};

/// hyper's limit of its buffers, where none is set.
const HYPER_BUFFER: usize = 8192 + 4096 * 100;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the connections of one listener share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) config: Arc<ServerConfig>,
    pub(super) drain: Drain,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<ServerTls>,
    #[cfg(feature = "proxy-protocol")]
    pub(super) proxy: Option<ProxyProtocol>,
    /// Whether they came to one of the server's own listeners.
    pub(super) own: bool,
    /// Without it, all are HTTP, over TLS where there is some.
    pub(super) decide: Option<Arc<dyn Decide>>,
}

/// What a service must be to be served; the bounds in one place.
pub(super) trait Serve:
    Service<Request<Body>, Response = Response<Self::Body>, Error: Into<BoxError>, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
    type Body: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> Serve for S
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>,
    S: Clone + Send + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
}

/// Serves one connection to its end, with a reset by `abort` where an end would look like that of a whole answer. `guard` is
/// dropped when its I/O is.
pub(super) async fn serve<T, S, G>(io: T, abort: Abort, info: ConnectionInfo, service: S, shared: Arc<Shared>, guard: G)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Serve,
    G: Send + 'static,
{
    let tracked = shared.drain.track();
    let peer = info.socket_peer_addr();
    let open = |http2| {
        let (config, drain) = (shared.config.clone(), shared.drain.clone());
        Arc::new(Connection::new(config, drain, http2, abort.clone(), Instant::now()))
    };
    let ended = match Box::pin(prepare(io, info, &shared, &tracked)).await {
        Ok(None) => Ok(()),
        Ok(Some(Prepared::Plain(io, info, http2))) => http(io, open(http2), info, service, guard, &tracked).await,
        #[cfg(feature = "tls")]
        Ok(Some(Prepared::Tls(io, info, http2))) => http(io, open(http2), info, service, guard, &tracked).await,
        Ok(Some(Prepared::Stream(handling))) => stream(handling, &tracked).await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) => tracing::trace!(%peer, "connection closed"),
        Err(error) => tracing::debug!(%peer, error = %chain(&*error), "connection ended"),
    }
}

/// A connection that is ready for HTTP, and whether it is HTTP/2.
#[allow(clippy::large_enum_variant, reason = "moved once a connection")]
enum Prepared<T> {
    Plain(Rewind<T>, ConnectionInfo, bool),
    #[cfg(feature = "tls")]
    Tls(Rewind<tokio_rustls::server::TlsStream<Rewind<T>>>, ConnectionInfo, bool),
    /// Not HTTP: what becomes of it.
    Stream(Handling),
}

/// All that comes before HTTP: the PROXY protocol, what becomes of it, TLS, which HTTP it is. `None` when the client, or the drain, ended it:
/// nothing was asked on it yet.
async fn prepare<T>(
    io: T,
    info: ConnectionInfo,
    shared: &Shared,
    tracked: &Tracked,
) -> Result<Option<Prepared<T>>, BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshakes = async {
        let config = &shared.config;
        let head_until = Instant::now() + config.head_timeout;
        #[cfg(feature = "proxy-protocol")]
        let (io, info) = match &shared.proxy {
            Some(proxy) => timeout_at(head_until, proxy.accept(io, info))
                .await
                .map_err(|_| "the PROXY protocol header did not come in time")??,
            None => (Rewind::new(io, Bytes::new()), info),
        };
        #[cfg(not(feature = "proxy-protocol"))]
        let io = Rewind::new(io, Bytes::new());

        let mut io = io;
        let shake_until = Instant::now() + config.handshake_timeout;
        match decide(shared, &mut io, &info, shake_until).await? {
            Decision::Http => {}
            Decision::Stream(handler) => return Ok(Some(Prepared::Stream(handler.run(Stream::new(io, info))))),
            #[cfg(feature = "tls")]
            Decision::Https(tls) => {
                let (io, info) = shake(&tls, io, info, shake_until).await?;
                let http2 = info.tls().is_some_and(|tls| tls.alpn.as_deref() == Some(b"h2"));
                return Ok(Some(Prepared::Tls(Rewind::new(io, Bytes::new()), info, http2)));
            }
            #[cfg(feature = "tls")]
            Decision::TlsStream(tls, handler) => {
                let (io, info) = shake(&tls, io, info, shake_until).await?;
                return Ok(Some(Prepared::Stream(handler.run(Stream::new(io, info)))));
            }
            Decision::Close(why) => return Err(why.into()),
            Decision::Own | Decision::Hello => return Err("nothing is served there".into()),
        }

        let enough = |ahead: &[u8]| ahead.len() >= PREFACE.len() || !PREFACE.starts_with(ahead);
        let ahead = timeout_at(head_until, read_ahead(&mut io, 1024, enough))
            .await
            .map_err(|_| "the first request's head did not come in time")??;
        if ahead.is_empty() {
            return Ok(None);
        }
        let http2 = ahead.starts_with(PREFACE);
        io.unread(ahead.freeze());
        Ok(Some(Prepared::Plain(io, info, http2)))
    };
    tokio::select! {
        biased;
        prepared = handshakes => prepared,
        () = tracked.draining() => Ok(None),
    }
}

/// What becomes of a connection; its ClientHello is read if that is asked for.
async fn decide<T>(
    shared: &Shared,
    io: &mut Rewind<T>,
    info: &ConnectionInfo,
    until: Instant,
) -> Result<Decision, BoxError>
where
    T: AsyncRead + Unpin,
{
    #[cfg(feature = "tls")]
    let own_tls = shared.tls.is_some();
    #[cfg(not(feature = "tls"))]
    let own_tls = false;
    let mut decision = Decision::Own;
    if let Some(decide) = &shared.decide {
        decision = decide.decide(&Arrival { connection: info, hello: None, own_tls });
        if matches!(decision, Decision::Hello) {
            let hello = ClientHello::read(io, shared.config.max_head_size as usize);
            let hello = timeout_at(until, hello).await.map_err(|_| "the ClientHello did not come in time")??;
            decision = decide.decide(&Arrival { connection: info, hello: Some(&hello), own_tls });
        }
    }
    Ok(match decision {
        #[cfg(feature = "tls")]
        Decision::Own if own_tls => shared.tls.clone().map_or(Decision::Own, Decision::Https),
        Decision::Own if shared.own || shared.decide.is_none() => Decision::Http,
        decision => decision,
    })
}

#[cfg(feature = "tls")]
async fn shake<T>(
    tls: &ServerTls,
    io: Rewind<T>,
    info: ConnectionInfo,
    until: Instant,
) -> Result<(tokio_rustls::server::TlsStream<Rewind<T>>, ConnectionInfo), BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let shaken = timeout_at(until, tls.accept(io, info.socket_peer_addr())).await;
    let (io, facts) = shaken.map_err(|_| "the TLS handshake took too long")??;
    Ok((io, info.with_tls(facts)))
}

/// Waits for the end of what is not HTTP; cuts it when the drain's time is over.
async fn stream(handling: Handling, tracked: &Tracked) -> Result<(), BoxError> {
    tokio::select! {
        biased;
        () = handling => Ok(()),
        () = tracked.cut() => Err("cut by the shutdown".into()),
    }
}

/// Speaks HTTP on a connection, and waits for the tunnel that it may become.
async fn http<T, S, G>(
    io: T,
    connection: Arc<Connection>,
    info: ConnectionInfo,
    service: S,
    guard: G,
    tracked: &Tracked,
) -> Result<(), BoxError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Serve,
    G: Send + 'static,
{
    let (config, http2) = (connection.config.clone(), connection.http2);
    // The place for whatever is to see the bytes of HTTP/1 before hyper does.
    let io = TokioIo::new(Watched::new(io, connection.clone(), guard));
    let info = if http2 { info } else { info.with_interim(connection.interim.clone()) };
    let adapter = Adapter::new(service, connection.clone(), info);
    if http2 {
        let http = http2_builder(&config).serve_connection(io, adapter);
        return Drive::new(http, connection, tracked).await;
    }
    let http = http1_builder(&config).serve_connection(io, adapter).with_upgrades();
    Drive::new(http, connection.clone(), tracked).await?;
    tunnel(&connection, tracked).await
}

fn http1_builder(config: &ServerConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // hyper's own counts the time between requests as well; `Connection::look` keeps both times.
    let head = config.max_head_size as usize;
    builder.header_read_timeout(None).max_header_size(head);
    if head > HYPER_BUFFER {
        builder.max_buf_size(head);
    }
    if config.max_fields != ServerConfig::default().max_fields {
        builder.max_headers(config.max_fields);
    }
    builder
}

fn http2_builder(config: &ServerConfig) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .max_header_list_size(config.max_head_size)
        .max_concurrent_streams(config.max_concurrent_streams)
        .initial_stream_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window)
        .max_pending_accept_reset_streams(config.max_pending_resets)
        .max_local_error_reset_streams(config.max_error_resets);
    builder
}

/// Waits until the I/O is dropped, which after a protocol switch somebody else has; cuts it when the drain's time is
/// over.
async fn tunnel(connection: &Connection, tracked: &Tracked) -> Result<(), BoxError> {
    std::future::poll_fn(|cx| {
        if connection.poll_closed(cx) {
            return Poll::Ready(Ok(()));
        }
        if tracked.poll_stage(cx) == Stage::Cut {
            connection.cut_tunnel();
            return Poll::Ready(Err("cut by the shutdown".into()));
        }
        Poll::Pending
    })
    .await
}

/// hyper's connections, alike.
trait Http: Future<Output = hyper::Result<()>> {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<T, S, B> Http for http1::UpgradeableConnection<T, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: HttpBody + 'static,
    B::Error: Into<BoxError>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

impl<T, S, B> Http for http2::Connection<T, S, TokioExecutor>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    T: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: HttpBody<Data: Send> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

/// Drives a connection, with one timer for all its limits.
#[pin_project]
struct Drive<'a, H> {
    #[pin]
    http: H,
    connection: Arc<Connection>,
    tracked: &'a Tracked,
    #[pin]
    timer: Sleep,
    /// The timer looks often enough to notice waits that begin in other tasks.
    watchful: bool,
    /// Since when the client knows that the connection ends.
    closing: Option<Instant>,
}

impl<'a, H: Http> Drive<'a, H> {
    fn new(http: H, connection: Arc<Connection>, tracked: &'a Tracked) -> Self {
        let timer = sleep_until(Instant::now() + connection.config.idle_timeout);
        Self { http, connection, tracked, timer, watchful: false, closing: None }
    }
}

impl<H: Http> Future for Drive<'_, H> {
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let connection = &**this.connection;
        loop {
            if this.tracked.poll_stage(cx) == Stage::Cut {
                connection.cut();
                return Poll::Ready(Err("cut by the shutdown".into()));
            }
            // HTTP/1 answers in flight carry `Connection: close`; hyper must not be told before they are complete, because
            // it would put `close` in the place of `upgrade`.
            if connection.ending() && this.closing.is_none() && (connection.http2 || connection.in_flight() == 0) {
                *this.closing = Some(Instant::now());
                connection.dirty.store(true, Ordering::Relaxed);
                this.http.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(ended) = this.http.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(Into::into));
            }
            if connection.ending() && this.closing.is_none() && connection.in_flight() == 0 {
                continue;
            }
            connection.note_head();

            let elapsed = this.timer.as_mut().poll(cx).is_ready();
            let unwatched = !*this.watchful && connection.in_flight() > 0;
            if !elapsed && !unwatched && !connection.dirty.swap(false, Ordering::Relaxed) {
                return Poll::Pending;
            }
            *this.watchful = connection.in_flight() > 0;
            match connection.look(Instant::now(), *this.closing) {
                Verdict::Wait(at) => {
                    if elapsed || at < this.timer.deadline() {
                        this.timer.as_mut().reset(at);
                        if this.timer.as_mut().poll(cx).is_ready() {
                            connection.dirty.store(true, Ordering::Relaxed);
                            cx.waker().wake_by_ref();
                        }
                    }
                    return Poll::Pending;
                }
                Verdict::Close(why) => {
                    tracing::debug!(why, "closing the connection");
                    connection.retire();
                }
                Verdict::Cut(why) => {
                    connection.cut();
                    return Poll::Ready(Err(why.into()));
                }
            }
        }
    }
}
