//! A rule compiled: what becomes of a request once its rule was found.
//!
//! A request goes through what its rule asks for in this order, and its response through the same in the opposite order:
//!
//! 1. CORS: a preflight is answered, whatever else the rule does.
//! 2. The time for the whole stream: `timeouts.max_stream_duration`. The deadline: `timeouts.request`, and what
//!    `grpc-timeout` or `timeouts.deadline_header` says, counted from the request's arrival.
//! 3. What may turn it away: `allow`, `external_auth`, `rate_limit`, `fault`.
//! 4. The other filters, as they are written: header fields, rewrites, redirects, mirrors, priority, the client's
//!    certificate.
//! 5. The choice of a backend: session, split.
//! 6. The backend's own filters, in the same order among themselves but for `fault`.
//! 7. What forwarding owes (hop-by-hop fields, `Via`); not for a service of this process.
//! 8. Retries; what each attempt may take.
//! 9. The backend's `fault`, where it looks like the backend's own failing.
//! 10. The upstream's policies, which all rules share: hedging, load shedding, limits of concurrency.
//! 11. The upstream: circuit breaker, balancer, pool; or the service of this process.
//!
//! A rule that asks for none of this is only its choice of a backend: nothing is boxed for it, and nothing cloned.

mod backend;
mod filters;
mod make;
mod retry;
mod shared;
#[cfg(test)]
mod tests;
mod time;

pub(super) use self::{
    backend::{Backend, Backends, Sending, Target},
    filters::KeptRate,
    make::{Backing, Leaf, Scope},
    shared::Shared,
};

use std::{sync::Arc, time::Duration};

use http::{Request, request::Parts};
use tower_service::Service;

use super::local::Local;
use crate::{Body, Error, Outcome, exchange::Exchange, route, timeout::AttemptTimeout};

/// A compiled rule.
pub(super) struct Rule {
    pub(super) backends: Arc<Backends>,
    way: Way,
    attempt: Option<Duration>,
    /// The limiters of its filters, for the next configuration to take over.
    pub(super) rates: Arc<[KeptRate]>,
}

enum Way {
    /// To a backend at once.
    Direct,
    /// Through filters and policies first.
    Stack(Local),
    Refused(Arc<str>),
}

impl Rule {
    /// A rule whose requests are all answered 500.
    pub(super) fn refused(why: impl Into<Arc<str>>) -> Self {
        Self { backends: Arc::default(), way: Way::Refused(why.into()), attempt: None, rates: Arc::default() }
    }

    /// A request that this rule was found for.
    pub(super) fn call(
        &self,
        mut parts: Parts,
        body: Body,
        found: route::Found<'_, Arc<Self>>,
    ) -> Result<Sending, Error> {
        if let Some(attempt) = self.attempt {
            parts.extensions.insert(AttemptTimeout(attempt));
        }
        let stack = match &self.way {
            Way::Direct => return self.backends.send(parts, body, None, Some(found)),
            Way::Stack(stack) => Ok(stack),
            Way::Refused(why) => Err(why),
        };
        if let Some(exchange) = Exchange::of(&parts.extensions) {
            exchange.update(|record| record.route = Some(found.route().clone()));
        }
        let stack = stack.map_err(|why| Error::new(Outcome::InvalidBackend).with_source(&**why))?;
        parts.extensions.insert(found.route_match());
        Ok(Sending::boxed(stack.clone().call(Request::from_parts(parts, body))))
    }

    /// Why it answers 500, if it does.
    pub(super) fn invalid(&self) -> Option<&Arc<str>> {
        match &self.way {
            Way::Refused(why) => Some(why),
            Way::Direct | Way::Stack(_) => None,
        }
    }
}
