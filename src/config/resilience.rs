//! When an upstream, or one of its endpoints, is left alone.

use std::time::Duration;

#[cfg(feature = "yaml")]
use serde::Deserialize;

#[cfg(feature = "yaml")]
use super::duration::{deserialize as duration, deserialize_option as duration_option};

/// When a circuit breaker opens, and for how long; see [`breaker`](crate::breaker).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct CircuitBreaker {
    /// How many failures in a row open it; 0 turns that off. Default 7 (Linkerd's
    /// `failure-accrual-consecutive-max-failures`).
    pub consecutive_failures: u32,
    /// The share of failures within the window that opens it, in percent; 0 turns that off. Default 50 (Hystrix,
    /// resilience4j).
    pub failure_rate: u8,
    /// The time the rates are taken over. Default 10 s (Hystrix, Linkerd).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub window: Duration,
    /// With fewer requests than this in the window no rate is taken. Default 20 (Hystrix).
    pub min_requests: u32,
    /// From this long on a request counts as slow, from its beginning to the end of the response's body. Default none:
    /// none is slow.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration_option"))]
    pub slow_call: Option<Duration>,
    /// The share of slow requests within the window that opens it, in percent; 0 turns that off. Default 50, as for
    /// failures (resilience4j has 100, where one quick answer hides all others).
    pub slow_call_rate: u8,
    /// How long it is open at first, before jitter. Default 1 s (Linkerd's `min-penalty`).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub open: Duration,
    /// The longest it is open, before jitter: each probe that fails doubles the time. Default 60 s (Linkerd's
    /// `max-penalty`).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub max_open: Duration,
    /// How long the probe may keep the others waiting. Default 10 s.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub probe_timeout: Duration,
}

/// When an endpoint that does worse than it should is ejected, and for how long; see [`outlier`](crate::outlier).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct OutlierDetection {
    /// How many errors in a row eject an endpoint (5xx but 501 and 505, no answer at all, gRPC's like); 0 turns that
    /// off. Default 5 (Envoy's `consecutive_5xx`).
    pub consecutive_5xx: u32,
    /// How many gateway errors in a row do (502, 503, 504, no answer at all, gRPC's like); 0 turns that off. Default 0
    /// (Envoy counts to 5 and by default enforces it for 0 %).
    pub consecutive_gateway_errors: u32,
    /// How often rates are compared. Default 10 s (Envoy).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub interval: Duration,
    /// By how many standard deviations an endpoint's success rate must be below the mean to be ejected; 0 turns that
    /// off. Default 1.9 (Envoy's `success_rate_stdev_factor` of 1900).
    pub success_rate_stdev_factor: f64,
    /// How many requests within an interval an endpoint's success rate needs. Default 100 (Envoy).
    pub success_rate_volume: u32,
    /// The share of failures within an interval that ejects an endpoint, in percent; 0 turns that off. Default 85 (gRPC
    /// A50; Envoy has the number and by default enforces it for 0 %).
    pub failure_percentage: u8,
    /// How many requests within an interval its failure percentage needs. Default 50 (Envoy).
    pub failure_percentage_volume: u32,
    /// From this long on a request counts as slow, from its beginning to the end of the response's body. Default none:
    /// none is slow (Envoy does not look at latencies here).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration_option"))]
    pub slow_call: Option<Duration>,
    /// The share of slow requests within an interval that ejects an endpoint, in percent, given as many requests as the
    /// failure percentage needs; 0 turns that off. Default 50, as for [`CircuitBreaker::slow_call_rate`].
    pub slow_call_rate: u8,
    /// How many endpoints with that many requests there must be for any of these. Default 5 (Envoy).
    pub min_hosts: u32,
    /// How long an endpoint is ejected for the first time; the n-th time n times as long. Default 30 s (Envoy).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub base_ejection: Duration,
    /// The longest, before jitter. Default 300 s (Envoy); less than the base counts as the base.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub max_ejection: Duration,
    /// Up to this much longer by chance, so that endpoints do not all come back at once. Default 1 s (Envoy's
    /// `max_ejection_time_jitter` is 0).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub ejection_jitter: Duration,
    /// The largest share of endpoints ejected at a time, in percent, rounded down. Default 10 (Envoy).
    pub max_ejection_percent: u8,
    /// Whether one endpoint may be ejected where that share is less than one. Default true (gRPC A50; Envoy's
    /// `always_eject_one_host` is off): otherwise nothing is ever ejected of fewer than ten.
    pub always_eject_one: bool,
    /// Whether an active health check that passes ends an ejection. Default true (Envoy's
    /// `successful_active_health_check_uneject_host`).
    pub health_check_unejects: bool,
}

/// How endpoints are asked whether they are well; see [`health`](crate::health).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct HealthCheck {
    /// What is asked.
    pub check: Check,
    /// How long from one check's end to the next check's beginning, up to a tenth longer by chance. Default 10 s
    /// (Kubernetes' `periodSeconds`).
    #[cfg_attr(feature = "yaml", serde(default = "ten_seconds", deserialize_with = "duration"))]
    pub interval: Duration,
    /// The same for an endpoint that is out. Default: `interval` (Envoy's `unhealthy_interval`).
    #[cfg_attr(feature = "yaml", serde(default, deserialize_with = "duration_option"))]
    pub unhealthy_interval: Option<Duration>,
    /// The same as long as no request has gone to the upstream, for endpoints that are well. Default 60 s (Envoy's
    /// `no_traffic_interval`); less than the interval counts as the interval.
    #[cfg_attr(feature = "yaml", serde(default = "one_minute", deserialize_with = "duration"))]
    pub no_traffic_interval: Duration,
    /// How long a check may take. Default 1 s (Kubernetes' `timeoutSeconds`).
    #[cfg_attr(feature = "yaml", serde(default = "one_second", deserialize_with = "duration"))]
    pub timeout: Duration,
    /// How many checks in a row must fail before an endpoint is out. Default 3 (Kubernetes' `failureThreshold`; HAProxy's
    /// `fall`).
    #[cfg_attr(feature = "yaml", serde(default = "three"))]
    pub unhealthy_threshold: u32,
    /// How many in a row must pass before it is in again. Default 2 (HAProxy's `rise`).
    #[cfg_attr(feature = "yaml", serde(default = "two"))]
    pub healthy_threshold: u32,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Check {
    /// `GET path`, over a connection like those of requests: same protocol, same TLS.
    Http {
        /// The path, and the query if any. Default `/`.
        #[cfg_attr(feature = "yaml", serde(default = "root"))]
        path: String,
        /// The `Host` asked for. Default: the upstream's name, where it can be one, else the endpoint's address.
        #[cfg_attr(feature = "yaml", serde(default))]
        host: Option<String>,
        /// The statuses that pass. Default 200 to 399 (Kubernetes' `httpGet`).
        #[cfg_attr(feature = "yaml", serde(default = "StatusRange::fine"))]
        expected: Vec<StatusRange>,
    },
    /// Whether a TCP connection can be made.
    Tcp,
    /// `grpc.health.v1.Health/Check` over HTTP/2.
    Grpc {
        /// The service asked for. Default the empty name: the server as a whole.
        #[cfg_attr(feature = "yaml", serde(default))]
        service: String,
    },
}

/// Statuses from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct StatusRange {
    /// The first.
    pub from: u16,
    /// The last.
    pub to: u16,
}

impl HealthCheck {
    /// This check with the default thresholds and times.
    #[must_use]
    pub fn new(check: Check) -> Self {
        Self {
            check,
            interval: ten_seconds(),
            unhealthy_interval: None,
            no_traffic_interval: one_minute(),
            timeout: one_second(),
            unhealthy_threshold: three(),
            healthy_threshold: two(),
        }
    }

    /// `GET path`, with the other defaults.
    #[must_use]
    pub fn http(path: impl Into<String>) -> Self {
        Self::new(Check::Http { path: path.into(), host: None, expected: StatusRange::fine() })
    }
}

impl StatusRange {
    /// Whether it holds this status.
    #[must_use]
    pub fn contains(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }

    fn fine() -> Vec<Self> {
        vec![Self { from: 200, to: 399 }]
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            consecutive_failures: 7,
            failure_rate: 50,
            window: Duration::from_secs(10),
            min_requests: 20,
            slow_call: None,
            slow_call_rate: 50,
            open: Duration::from_secs(1),
            max_open: Duration::from_secs(60),
            probe_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            interval: Duration::from_secs(10),
            success_rate_stdev_factor: 1.9,
            success_rate_volume: 100,
            failure_percentage: 85,
            failure_percentage_volume: 50,
            slow_call: None,
            slow_call_rate: 50,
            min_hosts: 5,
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            ejection_jitter: Duration::from_secs(1),
            max_ejection_percent: 10,
            always_eject_one: true,
            health_check_unejects: true,
        }
    }
}

#[cfg(feature = "yaml")]
fn root() -> String {
    "/".to_owned()
}

fn two() -> u32 {
    2
}

fn three() -> u32 {
    3
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}

#[cfg(all(test, feature = "yaml"))]
mod tests {
    use super::*;
    use crate::config::Upstream;

    #[test]
    fn they_are_written_as_their_neighbours_are() {
        let text = "
name: cart
endpoints:
  static: [127.0.0.1:9001]
circuit_breaker:
  slow_call: 2s
endpoint_circuit_breaker:
  consecutive_failures: 3
outlier_detection:
  consecutive_5xx: 3
  base_ejection: 10s
health_check:
  check:
    http: { path: /healthz, expected: [{ from: 200, to: 204 }] }
  interval: 5s
";
        let upstream: Upstream = serde_saphyr::from_str(text).unwrap();
        let outliers = OutlierDetection {
            consecutive_5xx: 3,
            base_ejection: Duration::from_secs(10),
            ..OutlierDetection::default()
        };
        assert_eq!(upstream.outlier_detection, Some(outliers));
        let breaker = CircuitBreaker { slow_call: Some(Duration::from_secs(2)), ..CircuitBreaker::default() };
        assert_eq!(upstream.circuit_breaker, Some(breaker));
        let each = CircuitBreaker { consecutive_failures: 3, ..CircuitBreaker::default() };
        assert_eq!(upstream.endpoint_circuit_breaker, Some(each));
        let expected = vec![StatusRange { from: 200, to: 204 }];
        let check = Check::Http { path: "/healthz".into(), host: None, expected };
        let health = HealthCheck { interval: Duration::from_secs(5), ..HealthCheck::new(check) };
        assert_eq!(upstream.health_check, Some(health));

        for (text, check) in
            [("check: tcp", Check::Tcp), ("check: { grpc: {} }", Check::Grpc { service: String::new() })]
        {
            assert_eq!(serde_saphyr::from_str::<HealthCheck>(text).unwrap(), HealthCheck::new(check), "{text}");
        }
        assert_eq!(serde_saphyr::from_str::<OutlierDetection>("{}").unwrap(), OutlierDetection::default());
        assert!(serde_saphyr::from_str::<OutlierDetection>("consecutive_5xxx: 3").is_err());
    }
}
