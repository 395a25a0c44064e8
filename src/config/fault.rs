//! What fails on purpose.

use std::time::Duration;

#[cfg(feature = "yaml")]
use serde::Deserialize;

#[cfg(feature = "yaml")]
use super::duration::deserialize as duration;

/// Faults on purpose, to see what comes of them; see [`fault`](crate::fault).
///
/// As a rule's filter, it is the rule's clients that meet them. As a backend's, it is the backend that seems to fail:
/// what a failure is answered with then goes through the rule's retries like a failure of its own. What stands around the
/// upstream itself, such as its circuit breaker, outlier detection, hedging and limits, hears nothing of it: others use it too.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Fault {
    /// Requests that are held up first. Default none.
    pub delay: Option<FaultDelay>,
    /// Requests that fail. Default none.
    pub abort: Option<FaultAbort>,
    /// Whether requests may ask for faults by `x-fault-` fields, within what is set here. Default false.
    pub headers: bool,
}

/// How long requests are held up, and how many.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct FaultDelay {
    /// How long.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub duration: Duration,
    /// Which share of the requests, in percent, by chance. Default 100.
    #[cfg_attr(feature = "yaml", serde(default = "hundred"))]
    pub percent: f64,
}

/// How requests fail, and how many.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct FaultAbort {
    /// How.
    pub with: FaultKind,
    /// Which share of the requests, in percent, by chance. Default 100.
    #[cfg_attr(feature = "yaml", serde(default = "hundred"))]
    pub percent: f64,
}

/// How a request fails on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum FaultKind {
    /// With a response of this status, 200 to 599. It is not tried again, as it is no answer of the backend's.
    Status(u16),
    /// With this `grpc-status`, 1 to 16. It is not tried again either.
    Grpc(u8),
    /// As if the connection broke before the response.
    Reset,
    /// As if no connection could be made.
    ConnectFailure,
}

#[cfg(feature = "yaml")]
fn hundred() -> f64 {
    100.0
}
