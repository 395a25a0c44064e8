use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, header::LOCATION, uri};
use tower_service::Service;

use super::{
    ResponseFuture,
    policy::{Asked, Policy},
};
use crate::{
    Body, Outcome,
    config::Scheme,
    connection::{CalledOverTls, ConnectionInfo},
    filter::{host, note},
    respond::refusal,
    route::RouteMatch,
};

/// The service of a [`RedirectLayer`](super::RedirectLayer): always ready, as the inner one is never called.
#[derive(Clone)]
pub struct Redirect<S> {
    pub(super) inner: S,
    pub(super) policy: Arc<Policy>,
}

impl<S, B> Service<Request<B>> for Redirect<S>
where
    S: Service<Request<B>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture::new(answer(&self.policy, &request))
    }
}

fn answer<B>(policy: &Policy, request: &Request<B>) -> Response<Body> {
    let uri = request.uri();
    let connection = request.extensions().get::<ConnectionInfo>();
    let is_https = match connection {
        Some(connection) => connection.tls().is_some(),
        None => {
            let called = request.extensions().get::<CalledOverTls>();
            called.is_some() || uri.scheme() == Some(&uri::Scheme::HTTPS)
        }
    };
    let asked = Asked {
        scheme: if is_https { Scheme::Https } else { Scheme::Http },
        authority: host::of(request),
        port: connection.map(|connection| connection.local_addr().port()),
        path: uri.path(),
        query: uri.query(),
        prefix_len: request.extensions().get().map_or(0, RouteMatch::prefix_len),
    };
    let Some(location) = policy.location(asked) else {
        note(request.extensions(), "a redirect needs a valid Host");
        return refusal(Outcome::BadRequest, request.headers());
    };
    note(request.extensions(), "redirected");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = policy.status;
    response.headers_mut().insert(LOCATION, location);
    response
}

impl<S: fmt::Debug> fmt::Debug for Redirect<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirect").field("inner", &self.inner).field("policy", &self.policy).finish()
    }
}
