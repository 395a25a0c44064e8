//! Which endpoint a request goes to: pure pickers over an immutable set.
//!
//! An [`EndpointSet`] is a snapshot of an upstream's endpoints; [`EndpointSet::pick`] chooses one and returns an
//! [`Attempt`], the guard that counts the request as in flight and reports how it went. Nothing here waits or does I/O:
//! the time and the source of chance are handed in.
//!
//! # Rules
//! 1. **Who may be chosen.** An endpoint with a weight, that this request has not tried, and that is available: marked
//!    healthy, not ejected as an [outlier](crate::outlier), not out because a connection to it failed, and its own
//!    [circuit breaker](Balancer::with_circuit_breakers), if it has one, not open. An endpoint that was out long enough is
//!    probed by one request that comes its way. Where less than the panic threshold of the endpoints are usable, all are
//!    used, but for those with an open breaker.
//! 2. **Who is chosen.** *Round robin*: in turn, exact to the weights. *Random*: by weight. *Least request*: two are
//!    drawn by weight, the one with fewer requests in flight for its weight is taken. *Peak EWMA*: two are drawn by
//!    weight, the one with less `latency × (1 + requests in flight / weight)` is taken; latencies within 25 % of each
//!    other count as equal. *Ring hash* and *Maglev*: the key's endpoint, or the next one that may be chosen and, with
//!    a balance factor, has room.
//! 3. **Latency** runs from the pick to the end of the response's body, as a moving average that follows peaks at once
//!    and forgets over 10 s. Reading never changes it.
//! 4. **Failures** cost a penalty of 5 s, so that failing fast attracts nothing. Failures in a row penalise an endpoint:
//!    the two-choice balancers pass it by, but for one request at a time, at most one a second and one in sixteen that
//!    meet it. Each success takes three quarters of the penalty away.
//! 5. **Newcomers** count as fast as whom they are compared with until something was measured, and warm up if slow start
//!    is on.
//! 6. **Every pick** takes constant time, or logarithmic in the ring's points, and allocates nothing. Only where draw
//!    after draw meets endpoints that may not be chosen are all looked at.
//!
//! # Caveats
//! Hashing balancers do not warm endpoints up. A hash is stable across processes and versions, not secret. Times are
//! compared per process: two gateways do not know of each other's requests in flight.
//!
//! # Example
//! See [`EndpointSet`].

mod affinity;
mod attempt;
mod availability;
mod choose;
mod endpoint;
mod hash;
mod load;
mod policy;
mod set;
mod table;
mod tried;
mod two_choices;
mod weighted;

#[cfg(test)]
mod tests;

pub(crate) use self::hash::{RequestKey, cookies};
pub use self::{
    affinity::Affinity,
    attempt::{Attempt, is_failure},
    availability::Availability,
    endpoint::Endpoint,
    hash::{InvalidHashKey, stable_hash},
    policy::Balancer,
    set::{EndpointSet, Pick},
    tried::Tried,
    weighted::WeightedChoice,
};
