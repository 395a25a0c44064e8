//! A rule's backends: which is a request's, and how it gets there.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, Uri, request::Parts};
use pin_project::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::Rule;
use crate::{
    Body, Error, Outcome,
    exchange::Exchange,
    gateway::{
        choice::{Choice, Watched},
        local::Local,
    },
    proxy::{self, Forward},
    route::{self, Found},
    timeout::tell_what_is_left,
    upstream::{self, Upstream},
};

/// A rule's backends, and the choice among them.
#[derive(Default)]
pub(in crate::gateway) struct Backends {
    pub(in crate::gateway) choice: Option<Choice>,
    pub(in crate::gateway) list: Box<[Backend]>,
}

/// What answers a share of a rule's requests.
pub(in crate::gateway) struct Backend {
    pub(in crate::gateway) name: Arc<str>,
    pub(in crate::gateway) weight: u32,
    pub(in crate::gateway) target: Target,
}

pub(in crate::gateway) enum Target {
    /// A service of this process, behind what the rule asks for.
    Local(Local),
    Upstream(Forward<Upstream>),
    /// An upstream behind what the rule, or the upstream itself, asks for.
    Stack(Local),
    Invalid(Arc<str>),
}

/// The innermost service of a rule's stack.
#[derive(Clone)]
pub(super) struct Choosing(pub(super) Arc<Backends>);

/// A request extension: the URI as it was before the rule's filters.
#[derive(Clone)]
pub(super) struct Arrived(pub(super) Uri);

/// The future of a request on its way to a backend, or through its rule's stack.
#[pin_project]
pub(in crate::gateway) struct Sending(#[pin] State);

#[pin_project(project = StateProj)]
enum State {
    Refused(Option<Error>),
    Boxed(#[pin] Watched<route::TargetFuture<Error>>),
    Upstream(#[pin] Watched<proxy::ResponseFuture<upstream::ResponseFuture>>),
}

impl Backends {
    /// A request to one of them. `arrived` is the URI as it was, if a filter may have changed it; `found` is given where
    /// nobody has made it known yet.
    pub(super) fn send(
        &self,
        mut parts: Parts,
        body: Body,
        arrived: Option<Arrived>,
        found: Option<Found<'_, Arc<Rule>>>,
    ) -> Result<Sending, Error> {
        // By what the client asked for, whatever has been made of it.
        let rewritten = arrived.map(|Arrived(uri)| mem::replace(&mut parts.uri, uri));
        let chosen = self.choice.as_ref().and_then(|choice| choice.choose(&mut parts));
        if let Some(rewritten) = rewritten {
            parts.uri = rewritten;
        }
        let backend = chosen.as_ref().and_then(|chosen| self.list.get(chosen.index));
        if let Some(exchange) = Exchange::of(&parts.extensions) {
            exchange.update(|record| {
                if let Some(found) = found {
                    record.route = Some(found.route().clone());
                }
                record.upstream = backend.map(|backend| backend.name.clone());
            });
        }
        let (Some(chosen), Some(backend)) = (chosen, backend) else {
            return Err(Error::new(Outcome::InvalidBackend).with_source("the rule has no backend with a weight"));
        };
        let watch = chosen.watch;
        Ok(Sending(match &backend.target {
            Target::Local(local) => {
                if let Some(found) = found {
                    parts.extensions.insert(found.route_match());
                }
                if let Some(cohort) = chosen.cohort {
                    parts.extensions.insert(cohort.clone());
                }
                let call = || local.clone().call(Request::from_parts(parts, body));
                State::Boxed(Watched::in_cohort(call, chosen.cohort, watch))
            }
            Target::Upstream(forward) => {
                State::Upstream(Watched::new(forward.clone().call_admitted(parts, body), watch))
            }
            Target::Stack(stack) => {
                if let Some(found) = found {
                    parts.extensions.insert(found.route_match());
                }
                State::Boxed(Watched::new(stack.clone().call(Request::from_parts(parts, body)), watch))
            }
            Target::Invalid(why) => {
                let error = Error::new(Outcome::InvalidBackend).with_source(&**why);
                if let Some(watch) = watch {
                    watch.failed(&error);
                }
                return Err(error);
            }
        }))
    }
}

impl Sending {
    pub(super) fn boxed(future: route::TargetFuture<Error>) -> Self {
        Self(State::Boxed(Watched::new(future, None)))
    }

    pub(in crate::gateway) fn refused(error: Error) -> Self {
        Self(State::Refused(Some(error)))
    }
}

impl Service<Request<Body>> for Choosing {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Sending;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Sending {
        let (mut parts, body) = request.into_parts();
        tell_what_is_left(&mut parts, Instant::now());
        let arrived = parts.extensions.remove::<Arrived>();
        self.0.send(parts, body, arrived, None).unwrap_or_else(Sending::refused)
    }
}

impl Future for Sending {
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Refused(error) => {
                Poll::Ready(Err(error.take().unwrap_or_else(|| Error::new(Outcome::Internal))))
            }
            StateProj::Boxed(answer) => answer.poll(cx),
            StateProj::Upstream(answer) => answer.poll(cx),
        }
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}
