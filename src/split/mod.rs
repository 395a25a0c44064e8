//! Which of a rule's backends a request belongs to: turns, cohorts, sessions, canaries.
//!
//! A gateway decides so for each rule that has several backends ([`config::Rule`](crate::config::Rule), its `split`,
//! `session` and `rollout`); the parts are here for code.
//!
//! # Rules
//! 1. **A session** goes first: a request with a [token](SessionToken) goes to the backend and the endpoint that it names, also
//!    where the backend's weight is zero now (GEP-1619), but not to an invalid backend, nor to a canary that was taken back.
//!    An endpoint that is gone, out or ejected is left for another, and the answer carries a new token.
//! 2. **A cohort**, where the rule [asks for it](crate::config::Split::Cohort): the backend of the request's own.
//! 3. **A stable hash**, where the rule names a key and the request has it: see [`StableChoice`].
//! 4. **Turns**, for all others: exact over short runs, see [`WeightedChoice`](crate::balance::WeightedChoice).
//! 5. A [`rollout`] says how much of the weights is the canary's, for the hash and the turns.
//!
//! # The cohort
//! The backend's [`cohort`](crate::config::BackendRef::cohort), or its name, is the request's [`Cohort`]: a field of the access
//! log and a label of the metrics, a request extension for a service of this process, and a value of the task that
//! serves it. It is told to other processes where the configuration names it, and to others by [`CohortLayer`]. A rule with a
//! single backend has none, unless the configuration names it.
//!
//! # Sessions
//! The token is in a cookie or in a header field of the rule's choice. The cookie is `HttpOnly` and `SameSite=Strict`,
//! `Secure` where the request came by HTTPS, for the path that the rule matched, and has a `Max-Age` only if it is permanent.
//! Who makes up a token chooses where it goes among the rule's backends, those without weight included: where that must not
//! be, do not have sessions.

mod baggage;
mod cohort;
mod cohort_layer;
mod error;
pub mod rollout;
mod session;
mod stable;

use crate::{balance::RequestKey, config::HashKey};

pub(crate) use self::{
    baggage::{member, tell},
    session::Sessions,
};
pub use self::{
    cohort::Cohort,
    cohort_layer::{CohortLayer, ResponseFuture, WithCohort},
    error::InvalidSplit,
    rollout::{Canary, RolloutHandle, RolloutStatus},
    session::SessionToken,
    stable::StableChoice,
};

pub(crate) fn key_of(key: &HashKey) -> Result<RequestKey, InvalidSplit> {
    // Only a field's name can be wrong.
    RequestKey::new(key).map_err(|_| match key {
        HashKey::Header(name) => InvalidSplit::Header(name.clone()),
        _ => InvalidSplit::Header(String::new()),
    })
}
