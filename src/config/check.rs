//! Numbers and names that a setting cannot have, whoever wrote it: a source adds the line, the gateway the upstream or rule.
//!
//! What is harmless is not looked at: a bound that is only ever kept to, a time that is only ever waited for.

use std::{fmt, ops::RangeInclusive, time::Duration};

use http::HeaderName;
use thiserror::Error;

use super::{
    AdaptiveConcurrency, Aimd, CircuitBreaker, Fault, FaultKind, Filter, Gradient, Hedge, OutlierDetection, RateKey,
    RateLimit, Retry, ShedShares, Timeouts, Upstream,
    field::{dashed, is_connections},
};
#[cfg(feature = "yaml")]
use super::{BackendRef, Rule};

const PERCENT: RangeInclusive<f64> = 0.0..=100.0;
const SHARE: RangeInclusive<f64> = 0.0..=1.0;

/// A setting that cannot be as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {why}")]
pub(crate) struct Wrong {
    /// Its path from where it was looked for, such as `fault.abort.percent`.
    pub(crate) field: String,
    /// What is wrong, and how to mend it.
    pub(crate) why: String,
}

/// What stops the gateway: the first that is wrong.
pub(crate) fn refuse(wrong: Vec<Wrong>) -> Result<(), Wrong> {
    wrong.into_iter().next().map_or(Ok(()), Err)
}

#[cfg(feature = "yaml")]
impl Rule {
    /// What is wrong with its numbers and names.
    pub(crate) fn wrong(&self) -> Vec<Wrong> {
        let filters = of_filters(&self.filters);
        let backends = self.backends.iter().enumerate();
        let backends = backends.flat_map(|(index, backend)| within(format!("backends[{index}]"), backend.wrong()));
        let timeouts = within("timeouts", self.timeouts.wrong());
        let retry = within("retry", self.retry.as_ref().map(Retry::wrong).unwrap_or_default());
        filters.chain(backends).chain(timeouts).chain(retry).collect()
    }
}

#[cfg(feature = "yaml")]
impl BackendRef {
    /// What is wrong with the numbers and names of its filters.
    pub(crate) fn wrong(&self) -> Vec<Wrong> {
        of_filters(&self.filters).collect()
    }
}

impl Filter {
    /// What is wrong with its numbers and names.
    pub(crate) fn wrong(&self) -> Vec<Wrong> {
        match self {
            Self::RateLimit(limit) => within("rate_limit", limit.wrong()).collect(),
            Self::Fault(fault) => within("fault", fault.wrong()).collect(),
            Self::RequestHeaders(_)
            | Self::ResponseHeaders(_)
            | Self::Redirect(_)
            | Self::Rewrite(_)
            | Self::Mirror(_)
            | Self::Cors(_)
            | Self::ExternalAuth(_)
            | Self::Allow(_)
            | Self::Priority(_)
            | Self::ClientCert(_) => Vec::new(),
        }
    }
}

impl RateLimit {
    fn wrong(&self) -> Vec<Wrong> {
        let name = match &self.key {
            RateKey::Header(name) if name.parse::<HeaderName>().is_err() => Some(name),
            _ => None,
        };
        let name = name.map(|name| wrong("key.header", format!("`{name}` is not the name of a header field")));
        let none = |field, count| (count == 0).then(|| wrong(field, "must be 1 or more"));
        let numbers =
            [none("requests", self.requests), none("burst", self.burst.unwrap_or(1)), not_zero("per", self.per)];
        numbers.into_iter().flatten().chain(name).collect()
    }
}

impl Fault {
    fn wrong(&self) -> Vec<Wrong> {
        let percent = |field, percent: f64| between(field, percent, PERCENT, "a percentage");
        let delay = self.delay.as_ref().and_then(|delay| percent("delay.percent", delay.percent));
        let share = self.abort.as_ref().and_then(|abort| percent("abort.percent", abort.percent));
        let with = self.abort.as_ref().and_then(|abort| match abort.with {
            FaultKind::Status(status) => between("abort.with.status", status, 200.0..=599.0, "a status to fail with"),
            FaultKind::Grpc(code) => between("abort.with.grpc", code, 1.0..=16.0, "a gRPC status to fail with"),
            FaultKind::Reset | FaultKind::ConnectFailure => None,
        });
        [delay, share, with].into_iter().flatten().collect()
    }
}

impl Timeouts {
    /// What is wrong with its names.
    pub(crate) fn wrong(&self) -> Vec<Wrong> {
        let is_taken =
            |name: &HeaderName| is_connections(name) || matches!(&*dashed(name), "grpc-timeout" | "host" | "trailer");
        let name = self.deadline_header.as_ref().filter(|name| is_taken(name));
        let why = |name: &HeaderName| {
            let meaning = if name.as_str().contains('_') { "reads like a field that has" } else { "has" };
            format!("`{name}` {meaning} a meaning of its own: use another, such as `x-request-timeout-ms`")
        };
        name.map(|name| wrong("deadline_header", why(name))).into_iter().collect()
    }
}

impl Retry {
    /// What is wrong with its numbers.
    pub(crate) fn wrong(&self) -> Vec<Wrong> {
        let statuses = self.statuses.iter().enumerate();
        let statuses =
            statuses.map(|(index, status)| between(format!("statuses[{index}]"), *status, 100.0..=599.0, "a status"));
        let codes = self.grpc.iter().enumerate();
        let codes = codes.map(|(index, code)| between(format!("grpc[{index}]"), *code, 1.0..=16.0, "a gRPC status"));
        statuses.chain(codes).flatten().collect()
    }
}

impl Upstream {
    /// What is wrong with its numbers.
    pub(crate) fn wrong(&self) -> Vec<Wrong> {
        let parts = [
            ("circuit_breaker", self.circuit_breaker.as_ref().map(CircuitBreaker::wrong)),
            ("endpoint_circuit_breaker", self.endpoint_circuit_breaker.as_ref().map(CircuitBreaker::wrong)),
            ("outlier_detection", self.outlier_detection.as_ref().map(OutlierDetection::wrong)),
            ("hedge", self.hedge.as_ref().map(Hedge::wrong)),
            ("adaptive_concurrency", self.adaptive_concurrency.as_ref().map(AdaptiveConcurrency::wrong)),
            ("shed.shares", self.shed.as_ref().map(|shed| shed.shares.wrong())),
        ];
        let parts = parts.into_iter().flat_map(|(part, wrong)| within(part, wrong.unwrap_or_default()));
        let panic_threshold = between("panic_threshold", self.panic_threshold, PERCENT, "a percentage");
        panic_threshold.into_iter().chain(parts).collect()
    }
}

impl CircuitBreaker {
    fn wrong(&self) -> Vec<Wrong> {
        percents([("failure_rate", self.failure_rate), ("slow_call_rate", self.slow_call_rate)]).collect()
    }
}

impl OutlierDetection {
    fn wrong(&self) -> Vec<Wrong> {
        let percents = percents([
            ("failure_percentage", self.failure_percentage),
            ("slow_call_rate", self.slow_call_rate),
            ("max_ejection_percent", self.max_ejection_percent),
        ]);
        let factor = "a number of standard deviations";
        percents.chain(not_negative("success_rate_stdev_factor", self.success_rate_stdev_factor, factor)).collect()
    }
}

impl Hedge {
    /// With a time given, the percentile is not used.
    fn wrong(&self) -> Vec<Wrong> {
        let percentile = between("percentile", self.percentile, PERCENT, "a percentile");
        percentile.filter(|_| self.after.is_none()).into_iter().collect()
    }
}

impl AdaptiveConcurrency {
    fn wrong(&self) -> Vec<Wrong> {
        match self {
            Self::Gradient(gradient) => within("gradient", gradient.wrong()).collect(),
            Self::Aimd(aimd) => within("aimd", aimd.wrong()).collect(),
        }
    }
}

impl Gradient {
    fn wrong(&self) -> Vec<Wrong> {
        let numbers = [
            bounds(self.min_limit, self.max_limit),
            not_zero("interval", self.interval),
            match self.fixed_min_rtt {
                Some(ideal) => not_zero("fixed_min_rtt", ideal),
                None => not_zero("min_rtt_interval", self.min_rtt_interval),
            },
            between("jitter", self.jitter, SHARE, "a share"),
            not_negative("buffer", self.buffer, "a share"),
            between("percentile", self.percentile, SHARE, "a share"),
        ];
        numbers.into_iter().flatten().collect()
    }
}

impl Aimd {
    fn wrong(&self) -> Vec<Wrong> {
        let numbers = [
            bounds(self.min_limit, self.max_limit),
            not_zero("latency", self.latency),
            between("backoff", self.backoff, 0.5..=1.0, "what a limit can be multiplied by"),
        ];
        numbers.into_iter().flatten().collect()
    }
}

impl ShedShares {
    fn wrong(&self) -> Vec<Wrong> {
        let shares = self.by_class().into_iter();
        shares.filter_map(|(_, field, share)| between(field, share, SHARE, "a share")).collect()
    }
}

#[cfg(feature = "yaml")]
fn of_filters(filters: &[Filter]) -> impl Iterator<Item = Wrong> {
    let filters = filters.iter().enumerate();
    filters.flat_map(|(index, filter)| within(format!("filters[{index}]"), filter.wrong()))
}

fn wrong(field: impl Into<String>, why: impl Into<String>) -> Wrong {
    Wrong { field: field.into(), why: why.into() }
}

fn within(outer: impl fmt::Display, wrong: Vec<Wrong>) -> impl Iterator<Item = Wrong> {
    wrong.into_iter().map(move |Wrong { field, why }| Wrong { field: format!("{outer}.{field}"), why })
}

/// NaN is in no range.
fn between(field: impl Into<String>, value: impl Into<f64>, range: RangeInclusive<f64>, what: &str) -> Option<Wrong> {
    let value = value.into();
    let why = || format!("{value} is not {what}: use {} to {}", range.start(), range.end());
    (!range.contains(&value)).then(|| wrong(field, why()))
}

fn not_negative(field: &str, value: f64, what: &str) -> Option<Wrong> {
    let is_one = value.is_finite() && value >= 0.0;
    (!is_one).then(|| wrong(field, format!("{value} is not {what}: use 0 or more")))
}

fn percents<const N: usize>(fields: [(&'static str, u8); N]) -> impl Iterator<Item = Wrong> {
    fields.into_iter().filter_map(|(field, percent)| between(field, percent, PERCENT, "a percentage"))
}

fn not_zero(field: &str, time: Duration) -> Option<Wrong> {
    time.is_zero().then(|| wrong(field, "must be more than zero"))
}

fn bounds(least: usize, most: usize) -> Option<Wrong> {
    let why = || format!("{least} is more than `max_limit`, {most}: lower it, or raise `max_limit`");
    (least > most).then(|| wrong("min_limit", why()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoints, FaultAbort, Shed};

    #[test]
    fn what_every_setting_has_by_default_is_right() {
        let upstream = Upstream {
            circuit_breaker: Some(CircuitBreaker::default()),
            outlier_detection: Some(OutlierDetection::default()),
            hedge: Some(Hedge::default()),
            shed: Some(Shed::new(0)),
            adaptive_concurrency: Some(AdaptiveConcurrency::Gradient(Gradient::default())),
            ..Upstream::new("u", Endpoints::fixed([]))
        };
        let aimd = AdaptiveConcurrency::Aimd(Aimd::default());
        assert_eq!((upstream.wrong(), aimd.wrong(), Retry::default().wrong()), (vec![], vec![], vec![]));
        let filters = [Filter::RateLimit(RateLimit::per_second(1)), Filter::Fault(Fault::default())];
        assert!(filters.iter().all(|filter| filter.wrong().is_empty()));
    }

    #[test]
    fn bounds_themselves_are_right_and_what_is_not_used_is_not_looked_at() {
        let gradient = Gradient {
            min_limit: 9,
            max_limit: 9,
            fixed_min_rtt: Some(Duration::from_millis(1)),
            min_rtt_interval: Duration::ZERO,
            jitter: 1.0,
            buffer: 0.0,
            percentile: 1.0,
            ..Gradient::default()
        };
        let outliers = OutlierDetection {
            success_rate_stdev_factor: 0.0,
            failure_percentage: 100,
            max_ejection_percent: 0,
            ..OutlierDetection::default()
        };
        let hedge = Hedge { after: Some(Duration::ZERO), percentile: f64::NAN, ..Hedge::default() };
        assert_eq!((gradient.wrong(), outliers.wrong(), hedge.wrong()), (vec![], vec![], vec![]));
        let retry = Retry { statuses: vec![100, 599], grpc: vec![1, 16], ..Retry::default() };
        assert_eq!(retry.wrong(), []);
    }

    #[test]
    fn what_is_no_number_is_in_no_range() {
        let said = |wrong: Vec<Wrong>| wrong.iter().map(ToString::to_string).collect::<Vec<_>>();
        let gradient = Gradient { jitter: f64::NAN, buffer: f64::NAN, percentile: f64::NAN, ..Gradient::default() };
        assert_eq!(
            said(gradient.wrong()),
            [
                "jitter: NaN is not a share: use 0 to 1",
                "buffer: NaN is not a share: use 0 or more",
                "percentile: NaN is not a share: use 0 to 1",
            ]
        );
        let aimd = Aimd { backoff: f64::NAN, ..Aimd::default() };
        assert_eq!(said(aimd.wrong()), ["backoff: NaN is not what a limit can be multiplied by: use 0.5 to 1"]);
        let outliers = OutlierDetection { success_rate_stdev_factor: f64::INFINITY, ..OutlierDetection::default() };
        assert_eq!(outliers.wrong().len(), 1);
        let abort = Some(FaultAbort { with: FaultKind::Reset, percent: f64::NAN });
        let fault = Filter::Fault(Fault { abort, ..Fault::default() });
        assert_eq!(said(fault.wrong()), ["fault.abort.percent: NaN is not a percentage: use 0 to 100"]);
    }
}
