use thiserror::Error;
use tokio::time::Duration;

/// So many requests in so much time, and how many of them at once: the generic cell rate algorithm (GCRA), pure.
///
/// 1. One request is earned every `per / count`, rounded up to a nanosecond, so that rounding never allows more.
/// 2. What is earned adds up to [`burst`](Self::burst), by default `count`; a client unknown so far has all of it.
/// 3. So in any window of time `w`, wherever it begins, at most `burst + w / (per / count)` requests pass.
///    With a burst of 1, requests are at least `per / count` apart.
///
/// All state of a client is one number, the time at which everything that it used is earned again, which is why one
/// atomic, or 24 bytes with its key, do for a client.
///
/// # Example
/// ```
/// use portcullis::limit::rate::{InvalidQuota, Quota};
///
/// let quota = Quota::per_second(5)?.burst(2)?;
/// // At time 0, two at once, then one every 200 ms.
/// let state = quota.check(0, 0).unwrap();
/// let state = quota.check(state, 0).unwrap();
/// assert_eq!(quota.check(state, 0), Err(200_000_000));
/// assert!(quota.check(state, 200_000_000).is_ok());
/// assert_eq!(Quota::per_second(0).unwrap_err(), InvalidQuota::Nothing);
/// # Ok::<_, InvalidQuota>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Nanoseconds in which one request is earned; not zero.
    interval: u64,
    burst: u32,
}

/// Why a number and a time are no [`Quota`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidQuota {
    /// The count, the burst or the time is zero.
    #[error("a quota of no requests, or in no time, allows nothing: remove the route, or give at least 1")]
    Nothing,
    /// More than one request a nanosecond.
    #[error("a quota of more than one request a nanosecond cannot be kept: lower the count, or leave the limit out")]
    TooFast,
    /// What is allowed at once takes more than a hundred years to earn.
    #[error("this burst takes more than 100 years to earn: lower the burst, or shorten the time")]
    TooSlow,
}

const CENTURY: u64 = 100 * 366 * 86_400 * 1_000_000_000;

impl Quota {
    /// `count` requests `per` so much time, as many of them at once.
    ///
    /// # Errors
    /// When one of them is zero, or the quota is faster than a request a nanosecond or slower than 100 years.
    pub fn new(count: u32, per: Duration) -> Result<Self, InvalidQuota> {
        if count == 0 || per.is_zero() {
            return Err(InvalidQuota::Nothing);
        }
        let per = per.as_nanos();
        if per < u128::from(count) {
            return Err(InvalidQuota::TooFast);
        }
        let interval = u64::try_from(per.div_ceil(u128::from(count))).map_err(|_| InvalidQuota::TooSlow)?;
        Self { interval, burst: 1 }.burst(count)
    }

    /// `count` requests a second.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn per_second(count: u32) -> Result<Self, InvalidQuota> {
        Self::new(count, Duration::from_secs(1))
    }

    /// `count` requests a minute.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn per_minute(count: u32) -> Result<Self, InvalidQuota> {
        Self::new(count, Duration::from_secs(60))
    }

    /// How many may come at once. Default: the count. nginx's `limit_req` without `burst` is a burst of 1.
    ///
    /// # Errors
    /// When it is zero, or takes more than 100 years to earn.
    pub fn burst(mut self, requests: u32) -> Result<Self, InvalidQuota> {
        if requests == 0 {
            return Err(InvalidQuota::Nothing);
        }
        match self.interval.checked_mul(u64::from(requests)) {
            Some(whole) if whole <= CENTURY => {
                self.burst = requests;
                Ok(self)
            }
            _ => Err(InvalidQuota::TooSlow),
        }
    }

    /// One request at `now`, by a client whose state is `state`; 0 is one unknown so far. Times are nanoseconds of any
    /// clock.
    ///
    /// # Errors
    /// When it exceeds the quota: the nanoseconds to wait. The state stays what it was: refusals cost nothing.
    pub fn check(&self, state: u64, now: u64) -> Result<u64, u64> {
        let busy_until = state.max(now);
        let wait = (busy_until - now).saturating_sub(self.tolerance());
        if wait == 0 { Ok(busy_until.saturating_add(self.interval)) } else { Err(wait) }
    }

    /// How many requests are allowed at once in this state, at `now`.
    #[must_use]
    pub fn remaining(&self, state: u64, now: u64) -> u32 {
        let free = self.window().saturating_sub(state.saturating_sub(now));
        u32::try_from(free / self.interval).unwrap_or(u32::MAX)
    }

    /// How many may come at once.
    #[must_use]
    pub fn burst_size(&self) -> u32 {
        self.burst
    }

    /// Nanoseconds in which a whole burst is earned.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.interval * u64::from(self.burst)
    }

    fn tolerance(&self) -> u64 {
        self.window() - self.interval
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_limits_of_a_quota_are_named() {
        assert_eq!(Quota::per_second(0), Err(InvalidQuota::Nothing));
        assert_eq!(Quota::new(1, Duration::ZERO), Err(InvalidQuota::Nothing));
        assert_eq!(Quota::per_minute(1).unwrap().burst(0), Err(InvalidQuota::Nothing));
        assert_eq!(Quota::new(2, Duration::from_nanos(1)), Err(InvalidQuota::TooFast));
        assert_eq!(Quota::new(1, Duration::MAX), Err(InvalidQuota::TooSlow));
        assert_eq!(Quota::new(1, Duration::from_secs(86_400)).unwrap().burst(u32::MAX), Err(InvalidQuota::TooSlow));
        // Rounded up: three in a second are not three in 999 999 999 ns.
        assert_eq!(Quota::per_second(3).unwrap().interval, 333_333_334);
        assert_eq!(Quota::per_second(1_000_000_000).unwrap().interval, 1);
    }

    #[test]
    fn remaining_is_what_may_still_come_at_once() {
        let quota = Quota::per_second(10).unwrap().burst(3).unwrap();
        let mut state = 0;
        for left in [2, 1, 0] {
            state = quota.check(state, 1_000).unwrap();
            assert_eq!(quota.remaining(state, 1_000), left);
        }
        assert_eq!(quota.check(state, 1_000), Err(100_000_000));
        assert_eq!(quota.remaining(state, 100_000_999), 0);
        assert_eq!(quota.remaining(state, 100_001_000), 1);
        assert_eq!(quota.remaining(state, u64::MAX), 3);
    }

    proptest! {
        /// A bucket of tokens, in exact arithmetic: every decision is its decision.
        #[test]
        fn decisions_are_those_of_a_token_bucket(
            interval in 1..1_000u64, burst in 1..20u32, steps in prop::collection::vec(0..2_000u64, 1..200),
        ) {
            let quota = Quota { interval, burst };
            let (mut now, mut state) = (1_000_000, 0);
            // In units of 1/interval of a token.
            let full = u64::from(burst) * interval;
            let mut bucket = full;
            for step in steps {
                // Half of the arrivals come at once.
                let step = step.saturating_sub(1_000);
                now += step;
                bucket = full.min(bucket + step);
                prop_assert_eq!(u64::from(quota.remaining(state, now)), bucket / interval);
                match quota.check(state, now) {
                    Ok(next) => {
                        prop_assert!(bucket >= interval);
                        bucket -= interval;
                        state = next;
                    }
                    Err(wait) => {
                        prop_assert_eq!(wait, interval - bucket);
                        prop_assert!(quota.check(state, now + wait - 1).is_err());
                        prop_assert!(quota.check(state, now + wait).is_ok());
                    }
                }
            }
        }
    }
}
