//! Outlier detection: an endpoint that does worse than it should, or than its peers, is ejected for a while.
//!
//! Pure: requests write what became of them into each endpoint's [`Host`]; a [`Detector`], run by whoever owns the
//! endpoints, reads them and opens and closes their gates. [`Upstream`](crate::upstream::Upstream) does both where its
//! configuration has [`outlier_detection`](crate::config::Upstream::outlier_detection).
//!
//! # Rules
//! 1. **At once** ejected is an endpoint with `consecutive_5xx` errors in a row, or `consecutive_gateway_errors`. What an
//!    error is, [`classify`](crate::classify) says; 429 is none, and ends no row.
//! 2. **Every interval**, where at least `min_hosts` endpoints had enough requests: ejected is one whose success rate is
//!    more than `success_rate_stdev_factor` standard deviations below the mean, or whose share of failures reaches
//!    `failure_percentage`, or that of requests that took `slow_call` or longer `slow_call_rate`. Here 429 and `RESOURCE_EXHAUSTED` count as failures.
//! 3. **Never more** than `max_ejection_percent` of the endpoints are ejected at a time, rounded down, or one if
//!    `always_eject_one`. Where endpoints leave so that it would be more, the first to return return at once.
//! 4. **For how long**: `base_ejection` times how often it was ejected, up to `max_ejection`, and up to `ejection_jitter`
//!    longer by chance. Each interval in which an endpoint is not ejected takes one from how often.
//! 5. **Then one request probes it**, while it still counts as ejected. A success lets it in, a failure or a 429 ejects
//!    it again, for longer; a request that was cancelled says nothing, and the next one probes. A probe without end is
//!    judged by its head within two intervals.
//! 6. An active health check that passes lets it in at once, if `health_check_unejects`.
//! 7. What was counted before an ejection or a return says nothing of after.
//!
//! The panic threshold stands above all this: where too few endpoints are usable, the ejected ones are used too. Who wants
//! an endpoint that fails left alone whatever becomes of the rest gives it a [circuit breaker](crate::breaker) of its own.
//!
//! # Example
//! ```
//! use std::net::SocketAddr;
//! use portcullis::{classify::Class, config::OutlierDetection, outlier::{Alarm, Detector, Gate, Host}};
//! use tokio::time::Instant;
//!
//! let config = OutlierDetection { consecutive_5xx: 3, ..OutlierDetection::default() };
//! let (alarm, mut now, mut rng) = (Alarm::new(&config), Instant::now(), fastrand::Rng::with_seed(1));
//! let mut detector = Detector::new(config, now);
//! let hosts = [Host::default(), Host::default()];
//! let hosts = [80, 81].map(|port| SocketAddr::from(([10, 0, 0, 1], port))).into_iter().zip(&hosts).collect::<Vec<_>>();
//!
//! for _ in 0..3 {
//!     hosts[0].1.record(Class::ServerError, &alarm);
//! }
//! detector.run(&hosts, now, &mut rng);
//! assert_eq!(hosts[0].1.gate(), Gate::Out);
//!
//! now += std::time::Duration::from_secs(31);
//! detector.run(&hosts, now, &mut rng);
//! let probe = hosts[0].1.try_probe().expect("it is due");
//! assert!(hosts[0].1.try_probe().is_none(), "one at a time");
//! assert!(hosts[0].1.probed(probe, Class::Success, Some(&alarm)));
//! assert_eq!(hosts[0].1.gate(), Gate::In);
//! ```

mod detector;
mod host;
#[cfg(test)]
mod tests;

pub use self::{
    detector::{Detector, Event, Reason},
    host::{Alarm, Gate, Host, Probe},
};
