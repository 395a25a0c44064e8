//! Connections for something else than HTTP.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use http::Request;
use smallvec::SmallVec;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    Upstream,
    send::{nobody, open_for, settle},
};
use crate::{
    Error,
    balance::{Attempt, Pick},
    breaker::Refused,
    classify::Class,
    client::{Io, Pool},
    connection::ConnectionInfo,
};

/// A connection to one endpoint of an [`Upstream`], for something else than HTTP. As long as it lives, it counts as in flight
/// there, and among the connections that the pool may have.
pub struct UpstreamStream {
    io: Io,
    /// `None` only in `drop`.
    attempt: Option<Attempt<Pool>>,
    endpoint: SocketAddr,
}

impl Upstream {
    /// Connects on behalf of a client, to be spoken over as the caller likes: TCP, or TLS where the configuration has it, then
    /// without ALPN.
    ///
    /// The balancer picks the endpoint; one that no connection can be made to is left out for a while and another tried, of
    /// [`max_attempts`](crate::config::Upstream::max_attempts) at the most. How quickly a connection was made is all that is
    /// learned of an endpoint.
    ///
    /// # Errors
    /// When no connection could be made, as of the last endpoint that was tried; `NoEndpoint` when there was none,
    /// `BreakerOpen` when a circuit breaker keeps it from all there are.
    pub async fn connect_stream(&self, client: &ConnectionInfo) -> Result<UpstreamStream, Error> {
        let Some(circuit) = &self.0.circuit else { return self.connect_to_any(client).await };
        let call = circuit.begin().map_err(|Refused { retry_after, .. }| open_for(retry_after))?;
        let connected = self.connect_to_any(client).await;
        call.settle(match &connected {
            Ok(_) => Class::Success,
            Err(error) => Class::of_error(error),
        });
        connected
    }

    async fn connect_to_any(&self, client: &ConnectionInfo) -> Result<UpstreamStream, Error> {
        let endpoints = self.discovered().await;
        // The client's address is all that there is to hash.
        let mut asking = Request::new(());
        asking.extensions_mut().insert(client.clone());
        let hash = endpoints.balancer().hash(&asking);
        let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
        let mut last = None;
        while tried.len() < self.config().max_attempts as usize {
            let pick = Pick { now: Instant::now(), rng: &mut fastrand::Rng::new(), hash, tried: &tried };
            let Some(mut attempt) = endpoints.pick(&mut { pick }) else { break };
            let endpoint = attempt.endpoint().address();
            tried.push(endpoint);
            match attempt.endpoint().payload().connect_stream().await {
                Ok(io) => {
                    attempt.reached();
                    attempt.note(Class::Success);
                    attempt.stop_clock(Instant::now());
                    return Ok(UpstreamStream { io, attempt: Some(attempt), endpoint });
                }
                Err(error) => {
                    tracing::debug!(upstream = self.name(), %endpoint, %error, "connection attempt failed");
                    settle(attempt, &error);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| nobody(&endpoints)))
    }
}

impl UpstreamStream {
    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }
}

impl Drop for UpstreamStream {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.succeed(Instant::now());
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl fmt::Debug for UpstreamStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamStream").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
