//! Services in this process as backends.

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use tower::ServiceExt;
use tower_service::Service;

use crate::{Body, BoxError, Error, Outcome};

/// The future of a call to a service in this process.
pub(super) type LocalFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

/// A service in this process, its type given up; one box a call.
#[derive(Clone)]
pub(super) struct Local(Arc<dyn Call>);

trait Call: Send + Sync {
    fn call(&self, request: Request<Body>) -> LocalFuture;
}

/// The services in this process that backends may name.
#[derive(Clone, Default)]
pub(super) struct Locals(HashMap<String, Local>);

impl Local {
    pub(super) fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Arc::new(Target(service)))
    }

    pub(super) fn call(&self, request: Request<Body>) -> LocalFuture {
        self.0.call(request)
    }
}

struct Target<S>(S);

impl<S, B> Call for Target<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(&self, request: Request<Body>) -> LocalFuture {
        let answer = self.0.clone().oneshot(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(response.map(Body::new)),
                Err(error) => Err(Error::new(Outcome::Internal).with_source(error)),
            }
        })
    }
}

impl Locals {
    pub(super) fn insert(&mut self, name: String, local: Local) {
        self.0.insert(name, local);
    }

    /// The service for a backend: by its whole name, or, for `namespace/service:port`, by the name without the port.
    pub(super) fn find(&self, backend: &str) -> Option<&Local> {
        self.0.get(backend).or_else(|| self.0.get(backend.rsplit_once(':')?.0))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}

impl fmt::Debug for Locals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
