//! How long a client may still be waited for.

use std::time::Duration;

use tokio::time::Instant;

use super::MinimumRate;

/// The time a client has left, one direction of one message. Pure: the time is passed in.
#[derive(Debug)]
pub(super) struct Pace {
    left: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(rate: &MinimumRate) -> Self {
        Self { left: rate.grace, waiting_since: None }
    }

    /// From now on the client is waited for.
    pub(super) fn wait(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// The client sent, or took, `bytes`; it is not waited for any more.
    pub(super) fn progress(&mut self, bytes: usize, rate: &MinimumRate, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.left = self.left.saturating_sub(now.saturating_duration_since(since));
        }
        let seconds = bytes as f64 / f64::from(rate.bytes_per_second.max(1));
        let earned = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.left = self.left.saturating_add(earned).min(rate.longest_pause.max(rate.grace));
    }

    /// When the client is out of time, should it go on as it does; `None` while it is not waited for.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + self.left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A client that sends `bytes` every `interval`: when it is cut off, at most `horizon` seconds on.
    fn cut_after(bytes: usize, interval: Duration, horizon: u64) -> Option<Duration> {
        let rate = MinimumRate::default();
        let begin = Instant::now();
        let mut now = begin;
        let mut pace = Pace::new(&rate);
        while now < begin + Duration::from_secs(horizon) {
            pace.wait(now);
            let deadline = pace.deadline().unwrap();
            now += interval;
            if deadline < now {
                return Some(deadline - begin);
            }
            pace.progress(bytes, &rate, now);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_is_cut_off_after_the_grace_period() {
        let cut = cut_after(1, Duration::from_secs(1), 60).unwrap();
        assert!((5..=6).contains(&cut.as_secs()), "{cut:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_at_the_rate_is_never_cut_off() {
        assert_eq!(cut_after(240, Duration::from_secs(1), 100_000), None);
        assert_eq!(cut_after(1000, Duration::from_secs(4), 100_000), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_buys_a_pause_but_not_an_endless_one() {
        let rate = MinimumRate::default();
        let now = Instant::now();
        let mut pace = Pace::new(&rate);
        pace.progress(1 << 30, &rate, now);
        pace.wait(now);
        assert_eq!(pace.deadline(), Some(now + rate.longest_pause));
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_the_client_is_not_waited_for_is_free() {
        let rate = MinimumRate::default();
        let mut now = Instant::now();
        let mut pace = Pace::new(&rate);
        pace.wait(now);
        pace.progress(0, &rate, now);
        now += Duration::from_secs(3600);
        assert_eq!(pace.deadline(), None);
        pace.wait(now);
        assert_eq!(pace.deadline(), Some(now + rate.grace));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn who_is_faster_than_the_rate_in_every_interval_passes(bytes in 1_usize..100_000, spare in 1_u32..50) {
            let interval = Duration::from_secs_f64(bytes as f64 / 240.0) / (1 + spare);
            prop_assume!(interval < Duration::from_secs(5));
            prop_assert_eq!(cut_after(bytes, interval, 200), None);
        }

        #[test]
        fn who_is_at_half_the_rate_is_cut_off(bytes in 1_usize..1_000) {
            let interval = Duration::from_secs_f64(bytes as f64 / 120.0);
            prop_assert!(cut_after(bytes, interval, 3600).is_some());
        }
    }
}
