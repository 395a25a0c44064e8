//! A canary whose share grows while it does as well as what it replaces, and which is taken back when it does not.
//!
//! [`Machine`] is the decision, pure. [`RolloutHandle`] shares one between the requests that it judges and whoever watches
//! or steers it. A gateway makes one of [`config::Rule::rollout`](crate::config::Rule::rollout); in code, [`Canary`] is a
//! service over two others.
//!
//! # Rules
//! 1. The canary gets the share of the first [step](crate::config::Rollout::steps), and of the next one when the step has
//!    lasted for the interval, both sides have answered
//!    [`min_requests`](crate::config::Rollout::min_requests), and the canary is *within its bounds*. After the last step it
//!    is promoted: it gets everything, and is not judged any more.
//! 2. **Bounds.** Its rate of failures is at most [`max_error_rate`](crate::config::Rollout::max_error_rate) points above the
//!    stable one's. Of its successes at most 5 % take longer than [`max_latency`](crate::config::Rollout::max_latency) percent
//!    of the stable one's 95th percentile, that is, its own 95th percentile is within them; less than a millisecond more
//!    never counts. Latency is the time until the response's head, told apart to a twelfth.
//! 3. **Taken back** it is as soon as it is *clearly* out of bounds, at any time of a step: after `min_requests`, where the
//!    lower end of its confidence interval lies beyond the bound. For the difference of two rates that is Newcombe's
//!    interval of Wilson scores; for the share of slow answers Wilson's own, against a 95th percentile that gives
//!    the stable one's the same benefit of doubt. As every answer is a look, and who looks often sees bad luck sooner or
//!    later, the interval is `sqrt(16 + ln(n / min_requests))` standard errors to each side after `n` answers of the canary, or `n`
//!    successes where latencies are judged, of which there must be `min_requests` too.
//!    A walk without a drift crosses this boundary (of Robbins, 1970) ever with a chance of 1 in 1700, however long it is
//!    watched.
//! 4. **In between**, out of bounds but not clearly, it stays at its share until more requests have told: a short trouble
//!    that is over has to be outweighed by good answers.
//! 5. **A failure** is a 5xx, a 429, a gRPC status of that kind, an error of the leaf, and a canary that has no endpoint to
//!    ask or is refused by its own limits. What the client is the cause of, cancellation above all, counts for neither side.
//! 6. What is counted is of this step; while it is held, of one to two intervals at most, longer while that is less than
//!    `min_requests`. While the canary is out of bounds and not clearly so, nothing is forgotten: no lucky interval makes a step.
//! 7. Taken back, it stays at no share until its configuration changes, or [`restart`](RolloutHandle::restart) is called.
//!
//! # Caveats
//! - Nothing happens without traffic: it is answers that are judged, and it is an answer that makes the next step.
//! - A canary that never answers is judged by its time-outs: it needs one, and clients who are more patient.
//! - **How soon.** A canary that fails every request is gone after `min_requests` of them, 20 by default, once the stable one
//!   has answered a few. Of 20 answers 3
//!   failures are enough, and 2 are not, where the stable one has none in 2000 and the bound is one point; after 120 good
//!   answers it takes 7 failures in a row, after 1000 good ones 30. In simulations with the defaults (20 requests a second, a
//!   tenth of them or more the canary's) one that fails 10 % beside 1 % was taken back after 73 answers in the median and 248
//!   in 99 of 100 cases, one that is three times slower after 75 and 238. One that is little worse than its bound is held
//!   where it is for long: of those that fail 3 % beside 0.5 %, 14 of 100 for more than 17 minutes.
//! - **How often in error.** Of 5000 such rollouts of canaries as good as the stable one, 1 was taken back where no request
//!   failed, 5 where 2 % did, 11 where 10 % did, 8 where 30 % did; in 17 minutes 4999, 4990, 4831 and 4589 were promoted.
//!   Of those exactly on the bound up to 34 were taken back, and two thirds promoted. Where failures are common, raise
//!   `max_error_rate` and `min_requests`. `cargo test --lib the_odds_of_rollouts -- --ignored --nocapture` prints such figures.
//! - Each process judges by what it sees itself.
//!
//! # Logs
//! Every change is an event of target `portcullis::rollout`: `INFO`, and `WARN` where the canary is taken back.

mod handle;
mod machine;
mod observe;
mod service;
mod stats;
#[cfg(test)]
mod tests;

pub(crate) use self::observe::Observation;
pub use self::{
    handle::{RolloutHandle, RolloutStatus},
    machine::{Change, Machine, Phase, Reason},
    service::{Canary, ResponseFuture},
    stats::{Sample, Side, SideStatus},
};
