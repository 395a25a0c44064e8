//! Where a server listens.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

#[cfg(feature = "proxy-protocol")]
use super::ProxyProtocol;
#[cfg(feature = "tls")]
use crate::tls::server::ServerTls;

/// An address a [`Server`](super::Server) listens on, and what is spoken there.
///
/// HTTP/1.1 and HTTP/2 are both served: over TLS as ALPN has it, without TLS by the first bytes (HTTP/2 with prior
/// knowledge).
///
/// # Example
/// ```
/// use portcullis::server::Listener;
///
/// let listener = Listener::new("127.0.0.1:8080").backlog(4096);
/// let bound: Listener = std::net::TcpListener::bind("127.0.0.1:0")?.into();
/// # let _ = (listener, bound);
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Listener {
    source: Source,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<ServerTls>,
    #[cfg(feature = "proxy-protocol")]
    pub(super) proxy: Option<ProxyProtocol>,
    backlog: u32,
    reuse_port: bool,
    pub(super) optional: bool,
}

#[derive(Debug)]
enum Source {
    Addresses(io::Result<Vec<SocketAddr>>),
    Std(std::net::TcpListener),
    Tokio(TcpListener),
}

impl Listener {
    /// On this address, such as `0.0.0.0:8080`; port 0 takes a free one. An address that is none is reported when the
    /// server binds. Of several addresses the first that can be bound is taken.
    pub fn new(address: impl ToSocketAddrs) -> Self {
        Source::Addresses(address.to_socket_addrs().map(Iterator::collect)).into()
    }

    /// With TLS.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Behind a load balancer that speaks the PROXY protocol. Default: none.
    #[cfg(feature = "proxy-protocol")]
    pub fn proxy_protocol(mut self, proxy: ProxyProtocol) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// How many connections may wait to be accepted (the kernel may allow less). Default: 1024. No effect on a listener
    /// that was bound before.
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog;
        self
    }

    /// Lets several listeners share the address (`SO_REUSEPORT`), the kernel spreading connections over them: one server
    /// per core, each on a runtime of its own. Default: false. Unix only; no effect elsewhere, and on a listener that was
    /// bound before.
    pub fn reuse_port(mut self, reuse_port: bool) -> Self {
        self.reuse_port = reuse_port;
        self
    }

    /// Where it cannot be bound, the server does without it: that is a warning in the log, and no error. Default: false.
    pub fn optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }

    /// Must be called within a tokio runtime.
    pub(super) fn bind(&mut self) -> io::Result<TcpListener> {
        match std::mem::replace(&mut self.source, Source::Addresses(Ok(Vec::new()))) {
            Source::Tokio(listener) => Ok(listener),
            Source::Std(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            }
            Source::Addresses(addresses) => {
                let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on");
                for address in addresses? {
                    match bind_to(address, self.backlog, self.reuse_port) {
                        Ok(listener) => return Ok(listener),
                        Err(error) => {
                            failure = io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
                        }
                    }
                }
                Err(failure)
            }
        }
    }
}

impl From<Source> for Listener {
    fn from(source: Source) -> Self {
        Self {
            source,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "proxy-protocol")]
            proxy: None,
            backlog: 1024,
            reuse_port: false,
            optional: false,
        }
    }
}

impl From<std::net::TcpListener> for Listener {
    fn from(listener: std::net::TcpListener) -> Self {
        Source::Std(listener).into()
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Source::Tokio(listener).into()
    }
}

/// Binds one address.
#[cfg_attr(not(unix), expect(unused_variables, reason = "only Unix shares ports"))]
pub(super) fn bind_to(address: SocketAddr, backlog: u32, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // On Windows it would let another process take the address over.
    #[cfg(unix)]
    {
        socket.set_reuse_address(true)?;
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}
