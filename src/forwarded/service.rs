use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{
    HeaderName, HeaderValue, Request,
    header::{self, Entry},
    uri::Authority,
};
use tower_service::Service;

use super::{
    ClientAddr,
    chain::{self, X_FORWARDED_FOR},
    client_cert,
    layer::Settings,
    names, nominated,
};
use crate::{
    connection::{ConnectionInfo, address_value},
    exchange::Exchange,
    split::{self, Cohort},
};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The service of a [`ForwardedLayer`](super::ForwardedLayer): as ready as the inner one, whose answer and error pass
/// untouched.
#[derive(Debug, Clone)]
pub struct Forwarded<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> Forwarded<S> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<S, B> Service<Request<B>> for Forwarded<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        tell(&mut request, &self.settings);
        self.inner.call(request)
    }
}

/// Drops what the peer may not say, and says what we know.
pub(super) fn tell<B>(request: &mut Request<B>, settings: &Settings) {
    let info = request.extensions().get::<ConnectionInfo>();
    let peer = info.map(|info| info.peer_addr().ip().to_canonical());
    let values = info.map(ConnectionInfo::field_values).cloned();
    let scheme = info.map_or("http", ConnectionInfo::scheme);
    let trusted = peer.is_some_and(|peer| settings.trusts(peer));

    // One in the extensions was given by a layer above.
    let cohort = Cohort::of(request.extensions()).filter(|_| !trusted).and_then(split::member);
    let authority = request.uri().authority().map(Authority::as_str).map(HeaderValue::from_str);
    let headers = request.headers_mut();
    nominated::settle(headers);
    names::sanitize(headers, settings, trusted);
    if !trusted {
        split::tell(headers, cohort);
    }
    client_cert::tell(request, settings.client_cert, settings.by.as_ref());
    let headers = request.headers_mut();
    let host = authority.and_then(Result::ok).or_else(|| headers.get(header::HOST).cloned());

    let client = peer.map(|peer| if trusted { chain::client(headers, settings, peer) } else { peer });
    if let (Some(values), Some(client)) = (&values, client) {
        chain::append(headers, X_FORWARDED_FOR, &values.peer);
        let real = if Some(client) == peer { values.peer.clone() } else { address_value(client) };
        headers.insert(X_REAL_IP, real);
    }
    if settings.forwarded || headers.contains_key(header::FORWARDED) {
        chain::append(headers, header::FORWARDED, &chain::element(peer, scheme, host.as_ref()));
    }
    // Of these a trusted peer's stand; anyone else's are gone.
    let told = match headers.entry(X_FORWARDED_PROTO) {
        Entry::Occupied(_) => true,
        Entry::Vacant(entry) => {
            entry.insert(HeaderValue::from_static(scheme));
            false
        }
    };
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    // The port of our connection does not go with the scheme of another one.
    if let Some(values) = values
        && !told
    {
        headers.entry(X_FORWARDED_PORT).or_insert(values.local_port);
    }
    if let Some(client) = client {
        // The record takes the client to be the peer, unless it is told better.
        if client != peer.unwrap_or(client)
            && let Some(exchange) = Exchange::of(request.extensions())
        {
            exchange.update(|record| record.client = Some(client));
        }
        request.extensions_mut().insert(ClientAddr::new(client));
    }
}
