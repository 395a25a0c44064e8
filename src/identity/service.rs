use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, header::HOST, uri::Authority};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{AllowFuture, PeerIdentity, layer::Policy};
use crate::{Body, BoxError, Outcome, connection::ConnectionInfo, exchange::Exchange, respond::refusal};

/// The service of an [`AllowLayer`](super::AllowLayer): as ready as the inner one, whose error passes untouched.
#[derive(Debug, Clone)]
pub struct Allow<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S> Allow<S> {
    pub(super) fn new(inner: S, policy: Arc<Policy>) -> Self {
        Self { inner, policy }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Allow<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = AllowFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let Err((outcome, why)) = self.policy.judge(&request) else {
            return AllowFuture::admitted(self.inner.call(request));
        };
        if let Some(exchange) = Exchange::of(request.extensions()) {
            exchange.update(|record| record.detail = Some(why));
        }
        AllowFuture::refused(refusal(outcome, request.headers()))
    }
}

impl Policy {
    fn judge<B>(&self, request: &Request<B>) -> Result<(), (Outcome, String)> {
        let Some(peer) = PeerIdentity::of(request.extensions()) else {
            return Err((Outcome::Unauthenticated, "the connection has no peer identity".to_owned()));
        };
        if self.server_name {
            let info = request.extensions().get::<ConnectionInfo>();
            let shaken = info.and_then(ConnectionInfo::tls).and_then(|tls| tls.server_name.as_deref());
            let asked = host(request.uri(), request.headers());
            if !matches!((shaken, &asked), (Some(shaken), Some(asked)) if same(shaken, asked.host())) {
                let asked = asked.as_ref().map_or("no host", Authority::host);
                let shaken = shaken.unwrap_or("no name");
                return Err((Outcome::Misdirected, format!("asked for {asked} on a connection for {shaken}")));
            }
        }
        if self.rules.iter().any(|rule| rule.admits(peer)) {
            return Ok(());
        }
        Err((Outcome::Forbidden, format!("no rule admits the peer {peer}")))
    }
}

/// Whom a request is for, as the router takes it: the URI's authority, else `Host`.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    match uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => Authority::try_from(headers.get(HOST)?.as_bytes()).ok(),
    }
}

fn same(name: &str, host: &str) -> bool {
    let plain = |name: &str| name.strip_suffix('.').unwrap_or(name).len();
    let (name, host) = (name.get(..plain(name)), host.get(..plain(host)));
    matches!((name, host), (Some(name), Some(host)) if name.eq_ignore_ascii_case(host))
}
