//! How a rule shares out its requests, and what it does about failures.

use std::time::Duration;

#[cfg(feature = "yaml")]
use serde::Deserialize;

use super::HashKey;
#[cfg(feature = "yaml")]
use super::duration::{deserialize as duration, deserialize_option as duration_option};

/// When and how a rule's requests are sent again.
///
/// What never reached an endpoint, and what an endpoint said it has not processed, is sent again in any case; so is
/// what ran out of [`backend_request`](super::Timeouts::backend_request). Requests that may have been processed are only
/// sent again if they are idempotent (RFC 9110 section 9.2.2) or carry an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Retry {
    /// How many times, after the first. Default 1 (Envoy, Linkerd).
    pub attempts: u32,
    /// The statuses that count as failures, 100 to 599. Default none.
    pub statuses: Vec<u16>,
    /// The gRPC status codes that count as failures, 1 to 16. Default none.
    pub grpc: Vec<u8>,
    /// Whether a connection that breaks before the response counts as one. Default true.
    pub reset: bool,
    /// How long the pause before each of them is at the least (GEP-1731); by chance it is up to a quarter longer at first,
    /// and up to twice as long later. Default: by chance between none and 25 ms at first, 50 ms later.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration_option"))]
    pub backoff: Option<Duration>,
    /// The longest pause that a backend may ask for by `Retry-After` or `grpc-retry-pushback-ms`: where it asks for longer,
    /// its answer is passed on. Default 5 s, as the client is held meanwhile (Envoy's `max_interval` is 300 s).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub longest_wait: Duration,
    /// The bytes of a body that are kept to be sent again. Default 64 KiB.
    pub body_cap: usize,
    /// Whether requests that are not idempotent are sent again too. Default false.
    pub non_idempotent: bool,
}

/// How many requests may be sent once more, by retries and hedges together, so that an upstream that fails is not asked
/// twice by everyone; see [`retry::Budget`](crate::retry::Budget).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct RetryBudget {
    /// How many for each hundred requests. Default 20 (finagle, Linkerd, GEP-3388).
    pub percent: u32,
    /// How many a second besides. Default 10 (the same).
    pub per_second: u32,
    /// The time that is counted over. Default 10 s (the same).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub window: Duration,
}

/// When a request that has had no answer is sent a second time; see [`hedge`](crate::hedge). Only requests that may be
/// processed twice are.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Hedge {
    /// After this long, in the place of the percentile. Default: the percentile.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration_option"))]
    pub after: Option<Duration>,
    /// After as long as so many of a hundred answers, from 0 to 100, of the last half minute took. Default 95 ("The Tail at Scale").
    pub percentile: f64,
    /// With a percentile: no sooner than after this long. Default 1 ms (finagle).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub least: Duration,
    /// Whether requests that are not idempotent are sent twice too, as every gRPC call is one. Default false.
    pub non_idempotent: bool,
}

/// How a rule's requests are shared out among its backends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Split {
    /// In turns: the shares are exact over short runs.
    #[default]
    Turns,
    /// By a stable hash of this: equal values go to one backend, in every process, and a backend whose weight grows keeps
    /// those it has. A request without the value takes its turn.
    By(HashKey),
    /// To the backend of the request's own [cohort](super::BackendRef::cohort), which an earlier split put it into: a call
    /// that a canary makes goes on to the canaries of what it calls. A request of no cohort, or of one that no backend here
    /// has, takes its turn.
    Cohort,
}

/// How requests of one session go on to where the first of them went (GEP-1619).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct SessionPersistence {
    /// What carries the session.
    pub carrier: SessionCarrier,
    /// How long it lasts from its first request. Default for ever.
    #[cfg_attr(feature = "yaml", serde(default, deserialize_with = "duration_option"))]
    pub absolute_timeout: Option<Duration>,
    /// How long it lasts from its last request. Default for ever.
    #[cfg_attr(feature = "yaml", serde(default, deserialize_with = "duration_option"))]
    pub idle_timeout: Option<Duration>,
}

/// What carries a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum SessionCarrier {
    /// A cookie of this name.
    Cookie {
        /// Its name.
        name: String,
        /// Whether a browser keeps it when it is closed, for as long as `absolute_timeout` says.
        #[cfg_attr(feature = "yaml", serde(default))]
        permanent: bool,
    },
    /// A header field of this name, which the client sends back.
    Header {
        /// Its name.
        name: String,
    },
}

/// A canary whose share grows by itself while it does well, and which is taken back when it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Rollout {
    /// The backend that is the canary; the rule's others are the stable ones.
    pub canary: String,
    /// Its share in percent, step by step, from 1 to 99. After the last it is promoted: it gets all. Default 1, 5, 25, 50.
    #[cfg_attr(feature = "yaml", serde(default = "steps"))]
    pub steps: Vec<u8>,
    /// How long each step lasts at least. Default 60 s.
    #[cfg_attr(feature = "yaml", serde(default = "one_minute", deserialize_with = "duration"))]
    pub interval: Duration,
    /// The requests that the canary has to have answered in a step before it is judged. Default 20.
    #[cfg_attr(feature = "yaml", serde(default = "twenty"))]
    pub min_requests: u32,
    /// How many percentage points its rate of failures may lie above the stable one's. Default 1.
    #[cfg_attr(feature = "yaml", serde(default = "one"))]
    pub max_error_rate: u8,
    /// How long its 95th percentile of durations may be, in percent of the stable one's. Default 150.
    #[cfg_attr(feature = "yaml", serde(default = "one_hundred_fifty"))]
    pub max_latency: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 1,
            statuses: Vec::new(),
            grpc: Vec::new(),
            reset: true,
            backoff: None,
            longest_wait: Duration::from_secs(5),
            body_cap: 64 * 1024,
            non_idempotent: false,
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, per_second: 10, window: Duration::from_secs(10) }
    }
}

impl Default for Hedge {
    fn default() -> Self {
        Self { after: None, percentile: 95.0, least: Duration::from_millis(1), non_idempotent: false }
    }
}

impl Rollout {
    /// The rollout of this backend, with the defaults of each field.
    #[must_use]
    pub fn of(canary: impl Into<String>) -> Self {
        Self {
            canary: canary.into(),
            steps: steps(),
            interval: one_minute(),
            min_requests: twenty(),
            max_error_rate: one(),
            max_latency: one_hundred_fifty(),
        }
    }
}

fn steps() -> Vec<u8> {
    vec![1, 5, 25, 50]
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}

fn twenty() -> u32 {
    20
}

fn one() -> u8 {
    1
}

fn one_hundred_fifty() -> u32 {
    150
}
