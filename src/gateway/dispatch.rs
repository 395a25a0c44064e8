//! One request: its rule, its backend, its time.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use arc_swap::ArcSwap;
use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::compile::{Snapshot, Target};
use crate::{
    Body, Error, Outcome, Sent,
    exchange::Exchange,
    proxy::{self, admit},
    route::{self, path::normalize_uri},
    upstream::{self, AttemptTimeout},
};

/// The innermost service of a gateway: the table and its targets.
#[derive(Clone)]
pub(super) struct Dispatch {
    snapshot: Arc<ArcSwap<Snapshot>>,
}

/// The future of a request on its way to its backend.
#[pin_project]
pub(super) struct Dispatching {
    #[pin]
    state: State,
    /// The rule's limit on the whole request. Boxed: few rules have one, and everybody's future would be the larger for it.
    limit: Option<Pin<Box<Sleep>>>,
}

#[pin_project(project = StateProj)]
enum State {
    Refused(Option<Error>),
    Local(#[pin] route::TargetFuture<Error>),
    Upstream(#[pin] proxy::ResponseFuture<upstream::ResponseFuture>),
}

impl Dispatch {
    pub(super) fn new(snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        Self { snapshot }
    }

    fn dispatch(&self, request: Request<Body>) -> Result<Dispatching, Error> {
        let (mut parts, body) = request.into_parts();
        admit(&mut parts)?;
        normalize_uri(&mut parts.uri).map_err(|invalid| Error::new(invalid.outcome()).with_source(invalid))?;

        let snapshot = self.snapshot.load();
        let table = snapshot.listeners.table(&parts.uri, &parts.headers, parts.extensions.get())?;
        let found = table.lookup_parts(&parts.method, &parts.uri, &parts.headers);
        let found = found.ok_or_else(|| Error::new(Outcome::NoRoute))?;
        let rule = found.target();
        let backend = rule.choose();
        if let Some(exchange) = Exchange::of(&parts.extensions) {
            exchange.update(|record| {
                record.route = Some(found.route().clone());
                record.upstream = backend.map(|backend| backend.name.clone());
            });
        }
        let Some(backend) = backend else {
            return Err(Error::new(Outcome::InvalidBackend).with_source("the rule has no backend with a weight"));
        };
        if let Some(attempt) = rule.timeouts.attempt {
            parts.extensions.insert(AttemptTimeout(attempt));
        }

        let state = match &backend.target {
            Target::Local(local) => {
                parts.extensions.insert(found.route_match());
                State::Local(local.clone().call(Request::from_parts(parts, body)))
            }
            Target::Upstream(forward) => State::Upstream(forward.clone().call_admitted(parts, body)),
            Target::Invalid(why) => return Err(Error::new(Outcome::InvalidBackend).with_source(&**why)),
        };
        Ok(Dispatching { state, limit: rule.timeouts.request.map(|limit| Box::pin(sleep(limit))) })
    }
}

impl Service<Request<Body>> for Dispatch {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Dispatching;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Dispatching {
        self.dispatch(request).unwrap_or_else(|error| Dispatching { state: State::Refused(Some(error)), limit: None })
    }
}

impl Future for Dispatching {
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = match this.state.project() {
            StateProj::Refused(error) => {
                Poll::Ready(Err(error.take().unwrap_or_else(|| Error::new(Outcome::Internal))))
            }
            StateProj::Local(answer) => answer.poll(cx),
            StateProj::Upstream(answer) => answer.poll(cx),
        };
        // An answer that is there in the instant its time runs out is an answer.
        let (Poll::Pending, Some(limit)) = (&polled, this.limit) else { return polled };
        ready!(limit.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(Outcome::UpstreamTimeout).with_sent(Sent::Possibly)))
    }
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch").finish_non_exhaustive()
    }
}

impl fmt::Debug for Dispatching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatching").finish_non_exhaustive()
    }
}
