//! Active health checks: when an endpoint is asked, and what its answers mean. Pure; what asks is in
//! [`upstream`](crate::upstream), where its configuration has
//! [`health_check`](crate::config::Upstream::health_check).
//!
//! # Rules
//! 1. A new endpoint is taken for healthy and checked at once. **The first check decides alone**, whatever the
//!    thresholds, so that an endpoint that was never well is out at once (as in Envoy, where it is not even in until then).
//! 2. Then `unhealthy_threshold` failed checks in a row take it out, and `healthy_threshold` passed ones let it in again.
//! 3. From a check's end to the next one: `interval`; `unhealthy_interval` while it is out; `no_traffic_interval` while
//!    no request has gone to the upstream and the endpoint is in, with its last check passed. Each up to a tenth longer
//!    by chance.
//! 4. A check passes when it has its answer within `timeout`: an expected status, a connection, `SERVING`.
//!
//! Health checks and [outlier detection](crate::outlier) are two reasons to be out: either suffices. A check that passes
//! ends an ejection, unless [`health_check_unejects`](crate::config::OutlierDetection::health_check_unejects) is off.
//!
//! # Example
//! ```
//! use portcullis::{config::{Check, HealthCheck}, health::Health};
//!
//! let mut health = Health::new(&HealthCheck::new(Check::Tcp));
//! assert!(health.is_healthy());
//! assert_eq!(health.checked(false), Some(false), "the first check decides alone");
//! assert_eq!(health.checked(true), None);
//! assert_eq!(health.checked(true), Some(true));
//! ```

use std::time::Duration;

use crate::config::HealthCheck;

/// By how much longer than it must be, at most, the time between two checks is.
const JITTER: f64 = 0.1;

/// The longest pause, before jitter.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// One endpoint's health as its checks tell it.
#[derive(Debug, Clone)]
pub struct Health {
    times: Times,
    unhealthy_threshold: u32,
    healthy_threshold: u32,
    healthy: bool,
    /// How many checks in a row spoke against the state.
    against: u32,
    checked: bool,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    healthy: Duration,
    unhealthy: Duration,
    no_traffic: Duration,
}

impl Health {
    /// Of an endpoint that was never checked: taken for healthy.
    #[must_use]
    pub fn new(config: &HealthCheck) -> Self {
        let times = Times {
            healthy: config.interval,
            unhealthy: config.unhealthy_interval.unwrap_or(config.interval),
            no_traffic: config.no_traffic_interval.max(config.interval),
        };
        Self {
            times,
            unhealthy_threshold: config.unhealthy_threshold,
            healthy_threshold: config.healthy_threshold,
            healthy: true,
            against: 0,
            checked: false,
        }
    }

    /// Whether it is in.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// Takes a check's result in. Returns the new state, if it is another.
    pub fn checked(&mut self, passed: bool) -> Option<bool> {
        let first = !std::mem::replace(&mut self.checked, true);
        if passed == self.healthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let threshold = if self.healthy { self.unhealthy_threshold } else { self.healthy_threshold };
        if !first && self.against < threshold {
            return None;
        }
        self.healthy = passed;
        self.against = 0;
        Some(passed)
    }

    /// How long to wait before the next check. `traffic`: whether requests have gone to the upstream.
    #[must_use]
    pub fn pause(&self, traffic: bool, rng: &mut fastrand::Rng) -> Duration {
        let pause = match (self.healthy, traffic) {
            (false, _) => self.times.unhealthy,
            (true, false) if self.against == 0 => self.times.no_traffic,
            (true, _) => self.times.healthy,
        };
        // At least a millisecond, so that a pause of zero does not make the check a loop.
        pause.clamp(Duration::from_millis(1), LONGEST).mul_f64(1.0 + JITTER * rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Check;

    fn health(unhealthy: u32, healthy: u32) -> Health {
        let config = HealthCheck {
            unhealthy_threshold: unhealthy,
            healthy_threshold: healthy,
            unhealthy_interval: Some(Duration::from_secs(2)),
            ..HealthCheck::new(Check::Tcp)
        };
        Health::new(&config)
    }

    #[test]
    fn thresholds_count_checks_in_a_row() {
        let mut health = health(3, 2);
        let changes =
            [true, false, false, true, false, false, false, true, false, true, true].map(|p| health.checked(p));
        let mut expected = [None; 11];
        (expected[6], expected[10]) = (Some(false), Some(true));
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_threshold_of_zero_is_one() {
        let mut health = health(0, 0);
        assert_eq!([true, false, true].map(|p| health.checked(p)), [None, Some(false), Some(true)]);
    }

    #[test]
    fn the_pause_depends_on_state_and_traffic() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut health = health(2, 1);
        let mut seconds = |health: &Health, traffic| {
            let pause = health.pause(traffic, &mut rng).as_secs_f64();
            [2.0, 10.0, 60.0].into_iter().find(|least| (*least..=least * 1.1).contains(&pause)).unwrap()
        };
        assert_eq!((seconds(&health, false), seconds(&health, true)), (60.0, 10.0));
        health.checked(true);
        health.checked(false);
        assert_eq!(seconds(&health, false), 10.0, "in doubt");
        health.checked(false);
        assert_eq!((seconds(&health, false), seconds(&health, true)), (2.0, 2.0));
    }

    proptest! {
        /// After the first check, a state ends exactly when so many checks in a row spoke against it.
        #[test]
        fn it_changes_only_after_enough_in_a_row(results in prop::collection::vec(any::<bool>(), 1..60), u in 1u32..5, h in 1u32..5) {
            let mut health = health(u, h);
            for (n, passed) in results.iter().enumerate() {
                let before = health.is_healthy();
                let changed = health.checked(*passed).is_some();
                let run = results[..=n].iter().rev().take_while(|other| *other == passed).count() as u32;
                let threshold = if before { u } else { h };
                if changed {
                    prop_assert!(*passed != before && (n == 0 || run >= threshold));
                } else if *passed != before {
                    prop_assert!(run < threshold);
                }
            }
        }
    }
}
