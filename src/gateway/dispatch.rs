//! One request: its rule.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use http::{Request, Response};
use tower_service::Service;

use super::{compile::Snapshot, rule::Sending};
use crate::{Body, Error, Outcome, forwarded::ForwardedLayer, proxy::admit, route::path::normalize_uri};

/// The innermost service of a gateway: who the client is, the table and its targets.
#[derive(Clone)]
pub(super) struct Dispatch {
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where the configuration has no settings of its own.
    forwarded: ForwardedLayer,
}

impl Dispatch {
    pub(super) fn new(snapshot: Arc<ArcSwap<Snapshot>>, forwarded: ForwardedLayer) -> Self {
        Self { snapshot, forwarded }
    }

    fn dispatch(&self, mut request: Request<Body>) -> Result<Sending, Error> {
        let snapshot = self.snapshot.load();
        snapshot.forwarded.as_ref().unwrap_or(&self.forwarded).tell(&mut request);
        let (mut parts, body) = request.into_parts();
        admit(&mut parts)?;
        normalize_uri(&mut parts.uri).map_err(|invalid| Error::new(invalid.outcome()).with_source(invalid))?;

        let table = snapshot.listeners.table(&parts.uri, &parts.headers, parts.extensions.get())?;
        let found = table.lookup_parts(&parts.method, &parts.uri, &parts.headers);
        let found = found.ok_or_else(|| Error::new(Outcome::NoRoute))?;
        found.target().call(parts, body, found)
    }
}

impl Service<Request<Body>> for Dispatch {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Sending;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Sending {
        self.dispatch(request).unwrap_or_else(Sending::refused)
    }
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch").finish_non_exhaustive()
    }
}
