//! Accepts connections and serves any Tower service.
//!
//! 1. HTTP/1.1 and HTTP/2 on every port: over TLS as ALPN says, else by the connection's first bytes.
//! 2. Everything a client can be waited for has a limit, on by default: see [`ServerConfig`].
//! 3. What a service answers is sent as it is. A service that fails has no answer: its HTTP/1 connection is closed, its
//!    HTTP/2 stream reset. One that panics takes its HTTP/1 connection or HTTP/2 stream with it and nothing else.
//! 4. Each request has a [`ConnectionInfo`](crate::connection::ConnectionInfo) in its extensions.
//! 5. A shutdown announces itself first (`Connection: close`, GOAWAY), accepts nothing more, closes idle connections,
//!    finishes requests in flight and what switched protocols, and at the deadline cuts what is left: see [`Drain`].
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use axum::{Router, routing::get};
//! use portcullis::server::Server;
//!
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let server = Server::default().http("127.0.0.1:0").bind()?;
//! println!("listening on {}", server.local_addrs()[0]);
//! # let shutdown = std::future::ready(());
//! // `shutdown` is any future; `serve_until_signal` waits for SIGTERM or SIGINT.
//! let report = server.serve_with_shutdown(app, shutdown).await;
//! assert_eq!(report.cut, 0);
//! # Ok::<_, std::io::Error>(())
//! # }).unwrap();
//! ```

mod accept;
mod body;
mod config;
mod connection;
mod decide;
mod drain;
mod hello;
mod io;
mod listener;
mod listening;
mod pace;
#[cfg(feature = "proxy-protocol")]
mod proxy_protocol;
mod service;
mod state;
#[cfg(test)]
mod tests;
mod wait;

pub(crate) use self::listening::Prepared;
#[cfg(feature = "proxy-protocol")]
pub use self::proxy_protocol::ProxyProtocol;
pub use self::{
    config::{MinimumRate, ServerConfig},
    decide::{Arrival, Decide, Decision, Stream, StreamHandler},
    drain::{Drain, DrainReport, Stage, Tracked},
    hello::ClientHello,
    listener::Listener,
    listening::Listening,
};

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    future::pending,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tower_service::Service;

use self::listening::Update;
#[cfg(feature = "tls")]
use crate::tls::server::ServerTls;
use crate::{Body, BoxError};

/// A server that does not listen yet: limits and listeners.
///
/// # Example
/// ```no_run
/// # async fn example(app: axum::Router, tls: portcullis::tls::server::ServerTls) -> std::io::Result<()> {
/// use portcullis::server::Server;
///
/// let report = Server::default().http("0.0.0.0:8080").https("0.0.0.0:8443", tls).serve_until_signal(app).await?;
/// println!("{} connections were cut", report.cut);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
#[must_use]
pub struct Server {
    config: ServerConfig,
    listeners: Vec<Listener>,
    drain: Drain,
    decide: Option<Arc<dyn Decide>>,
}

/// A server whose listeners are bound: clients that connect now wait until it serves.
#[must_use]
pub struct BoundServer {
    config: ServerConfig,
    listeners: Vec<(TcpListener, Listener)>,
    addresses: Vec<SocketAddr>,
    drain: Drain,
    decide: Option<Arc<dyn Decide>>,
    listening: Listening,
    updates: mpsc::UnboundedReceiver<Update>,
}

impl Server {
    /// With these limits, and no listener.
    pub fn new(config: ServerConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Listens on this address without TLS.
    pub fn http(self, address: impl ToSocketAddrs) -> Self {
        self.listen(Listener::new(address))
    }

    /// Listens on this address with TLS.
    #[cfg(feature = "tls")]
    pub fn https(self, address: impl ToSocketAddrs, tls: ServerTls) -> Self {
        self.listen(Listener::new(address).tls(tls))
    }

    /// Listens here as well.
    pub fn listen(mut self, listener: impl Into<Listener>) -> Self {
        self.listeners.push(listener.into());
        self
    }

    /// Shares a drain: what others track there is waited for as well, and whoever begins it shuts this server down.
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// Has `decide` say of each connection what becomes of it: HTTP, TLS with some certificates or others, a stream passed on as
    /// it is, or nothing. Default: what the [`Listener`]s say.
    ///
    /// ```
    /// use portcullis::server::{Arrival, Decision, Server, StreamHandler};
    ///
    /// let server = Server::default().decide(|arrival: &Arrival<'_>| match arrival.hello {
    ///     None => Decision::Hello,
    ///     Some(hello) if hello.server_name() == Some("db.example.com") => Decision::Stream(StreamHandler::new(
    ///         |mut client| async move {
    ///             if let Ok(mut backend) = tokio::net::TcpStream::connect("10.0.0.1:5432").await {
    ///                 let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
    ///             }
    ///         },
    ///     )),
    ///     Some(_) => Decision::Own,
    /// });
    /// # let _ = server;
    /// ```
    pub fn decide(mut self, decide: impl Decide) -> Self {
        self.decide = Some(Arc::new(decide));
        self
    }

    /// Binds all listeners. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When one cannot be bound, naming its address.
    pub fn bind(self) -> std::io::Result<BoundServer> {
        let mut listeners = Vec::with_capacity(self.listeners.len());
        let mut addresses = Vec::with_capacity(self.listeners.len());
        for mut listener in self.listeners {
            match listener.bind() {
                Ok(socket) => {
                    addresses.push(socket.local_addr()?);
                    listeners.push((socket, listener));
                }
                Err(error) if listener.optional => tracing::warn!(%error, "the server does without a listener"),
                Err(error) => return Err(error),
            }
        }
        let (listening, updates) = Listening::new(addresses.clone());
        let Self { config, drain, decide, .. } = self;
        Ok(BoundServer { config, listeners, addresses, drain, decide, listening, updates })
    }

    /// Binds and serves until its [`Drain`] is begun.
    ///
    /// # Errors
    /// When a listener cannot be bound.
    pub async fn serve<S, B>(self, service: S) -> std::io::Result<DrainReport>
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>,
        S: Clone + Send + 'static,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Ok(self.bind()?.serve(service).await)
    }

    /// Binds and serves until `shutdown` is ready, then drains.
    ///
    /// # Errors
    /// When a listener cannot be bound.
    pub async fn serve_with_shutdown<S, B>(
        self,
        service: S,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<DrainReport>
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>,
        S: Clone + Send + 'static,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Ok(self.bind()?.serve_with_shutdown(service, shutdown).await)
    }

    /// Binds and serves until SIGTERM or SIGINT (elsewhere: Ctrl-C), then drains.
    ///
    /// # Errors
    /// When a listener cannot be bound, or the signals cannot be listened for.
    pub async fn serve_until_signal<S, B>(self, service: S) -> std::io::Result<DrainReport>
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>,
        S: Clone + Send + 'static,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        self.bind()?.serve_until_signal(service).await
    }
}

impl BoundServer {
    /// The addresses of the listeners, in the order they were added; the real ports where 0 was asked for.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses it listens on beside those of its listeners, to replace them, also while it serves. At first none.
    #[must_use]
    pub fn listening(&self) -> Listening {
        self.listening.clone()
    }

    /// Its way down: to begin a shutdown from elsewhere, or to have it wait for more than connections.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Serves until its [`Drain`] is begun. Dropping the future closes the listeners and cuts all connections.
    pub async fn serve<S, B>(self, service: S) -> DrainReport
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>,
        S: Clone + Send + 'static,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        self.serve_with_shutdown(service, pending()).await
    }

    /// Serves until SIGTERM or SIGINT (elsewhere: Ctrl-C), or until its [`Drain`] is begun.
    ///
    /// # Errors
    /// When the signals cannot be listened for.
    pub async fn serve_until_signal<S, B>(self, service: S) -> std::io::Result<DrainReport>
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>,
        S: Clone + Send + 'static,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let signal = shutdown_signal()?;
        Ok(self.serve_with_shutdown(service, signal).await)
    }

    /// Serves until `shutdown` is ready, or its [`Drain`] is begun; then drains and reports.
    ///
    /// Works on the runtime that polls it; each connection is a task. Dropping the future closes the listeners and cuts
    /// all connections.
    pub async fn serve_with_shutdown<S, B>(self, service: S, shutdown: impl Future<Output = ()>) -> DrainReport
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>,
        S: Clone + Send + 'static,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let Self { config, listeners, drain, decide, listening, mut updates, .. } = self;
        // What keeps it open is that somebody may still replace addresses.
        drop(listening);
        let mut serving = Serving {
            service,
            slots: Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS))),
            config: Arc::new(config),
            drain: drain.clone(),
            decide,
            tasks: JoinSet::new(),
            added: HashMap::new(),
        };
        let _cut = CutOnDrop(drain.clone());
        for (socket, listener) in listeners {
            serving.own(socket, listener);
        }
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                () = drain.begun() => break,
                Some(update) = updates.recv() => serving.update(update),
            }
        }
        let Serving { config, tasks: mut accepting, service, .. } = serving;
        drop(service);
        // What is bound from here on would be accepted from by nobody.
        drop(updates);
        drain.begin();
        accepting.shutdown().await;
        tracing::info!(connections = drain.in_flight(), timeout = ?config.drain_timeout, "shutting down");
        let report = drain.run(config.drain_timeout).await;
        tracing::info!(finished = report.finished, cut = report.cut, took = ?report.took, "shut down");
        report
    }
}

/// Ready when the process is asked to end: SIGTERM or SIGINT, elsewhere Ctrl-C. From the call on, those signals no longer
/// end the process by themselves.
///
/// # Errors
/// When the signals cannot be listened for.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            pending::<()>().await;
        }
    })
}

/// What accepts.
struct Serving<S> {
    service: S,
    config: Arc<ServerConfig>,
    slots: Arc<Semaphore>,
    drain: Drain,
    decide: Option<Arc<dyn Decide>>,
    tasks: JoinSet<()>,
    /// Beside the server's own listeners.
    added: HashMap<SocketAddr, (AbortHandle, Drain)>,
}

impl<S: connection::Serve> Serving<S> {
    #[allow(unused_variables, clippy::needless_pass_by_value, reason = "without features there is only the socket")]
    fn own(&mut self, socket: TcpListener, listener: Listener) {
        let shared = connection::Shared {
            config: self.config.clone(),
            drain: self.drain.clone(),
            #[cfg(feature = "tls")]
            tls: listener.tls,
            #[cfg(feature = "proxy-protocol")]
            proxy: listener.proxy,
            own: true,
            decide: self.decide.clone(),
        };
        self.accept(Arc::new(socket), shared);
    }

    fn accept(&mut self, socket: Arc<TcpListener>, shared: connection::Shared) -> AbortHandle {
        self.tasks.spawn(accept::accept(socket, self.service.clone(), Arc::new(shared), self.slots.clone()))
    }

    fn update(&mut self, update: Update) {
        while self.tasks.try_join_next().is_some() {}
        for address in update.remove {
            let Some((accepting, drain)) = self.added.remove(&address) else { continue };
            accepting.abort();
            drain.begin();
            tracing::info!(%address, "no longer listening");
            let timeout = self.config.drain_timeout;
            self.tasks.spawn(async move {
                sleep(timeout).await;
                drain.cut();
            });
        }
        for (address, socket) in update.add {
            let drain = self.drain.branch();
            let shared = connection::Shared {
                config: self.config.clone(),
                drain: drain.clone(),
                #[cfg(feature = "tls")]
                tls: None,
                #[cfg(feature = "proxy-protocol")]
                proxy: None,
                own: false,
                decide: self.decide.clone(),
            };
            let accepting = self.accept(socket, shared);
            self.added.insert(address, (accepting, drain));
            tracing::info!(%address, "listening");
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.config)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer")
            .field("config", &self.config)
            .field("addresses", &self.addresses)
            .field("listening", &self.listening)
            .finish_non_exhaustive()
    }
}

struct CutOnDrop(Drain);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// An error and its causes on one line.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl fmt::Display + 'a {
    struct Chain<'a>(&'a (dyn StdError + 'static));
    impl fmt::Display for Chain<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(self.0, f)?;
            let mut cause = self.0.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
            Ok(())
        }
    }
    Chain(error)
}
