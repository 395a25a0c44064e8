//! When a request is sent again, and after how long: pure, with time and chance passed in.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap,
    header::{DATE, RETRY_AFTER},
};
use tokio::time::Instant;

/// How long to wait between attempts: exponential, fully jittered.
///
/// Before retry `n`, counted from 1, a time by chance between nothing and `(2^n - 1) x base`, at most `max`; Envoy's rule,
/// and its defaults: 25 ms and 250 ms. `least` comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) base: Duration,
    pub(crate) max: Duration,
    pub(crate) least: Duration,
}

impl Backoff {
    pub(crate) fn delay(self, retry: u32, rng: &mut fastrand::Rng) -> Duration {
        let factor = 2u32.saturating_pow(retry).saturating_sub(1);
        let highest = self.base.saturating_mul(factor).min(self.max);
        self.least.saturating_add(highest.mul_f64(rng.f64()))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250), least: Duration::ZERO }
    }
}

/// What the server says of trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Asked {
    #[default]
    Nothing,
    /// Not before this long (`Retry-After`).
    NotBefore(Duration),
    /// After exactly this long (`grpc-retry-pushback-ms`).
    After(Duration),
    /// Not at all.
    Never,
}

impl Asked {
    /// What `fields`, a response's head or trailers, say. `wall` stands in for a missing `Date`.
    pub(crate) fn of(fields: &HeaderMap, wall: SystemTime) -> Self {
        if let Some(pushback) = fields.get("grpc-retry-pushback-ms") {
            // gRPC's retry design: what is negative or no number means "do not".
            let millis = pushback.to_str().ok().and_then(|text| text.parse::<u32>().ok());
            return millis.map_or(Self::Never, |millis| Self::After(Duration::from_millis(millis.into())));
        }
        retry_after(fields, wall).map_or(Self::Nothing, Self::NotBefore)
    }
}

/// RFC 9110 section 10.2.3: seconds, or a date; nothing if it is neither.
fn retry_after(fields: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    let text = fields.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    // By the server's own clock, where it tells: the two may be apart.
    let date = fields.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    Some(until.duration_since(date.unwrap_or(wall)).unwrap_or_default())
}

/// The rules of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) max_retries: u32,
    pub(crate) backoff: Backoff,
    /// What is asked for beyond this is not waited for.
    pub(crate) longest_wait: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { max_retries: 1, backoff: Backoff::default(), longest_wait: Duration::from_secs(300) }
    }
}

/// An attempt that failed in a way that a retry may be for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    /// Retries so far.
    pub(crate) retries: u32,
    /// Those since the server last set the pace, which back-off counts by.
    pub(crate) since_pushback: u32,
    /// The request was not processed, for certain.
    pub(crate) unprocessed: bool,
    /// The request may be processed twice.
    pub(crate) repeatable: bool,
    /// The request can be had again from its beginning.
    pub(crate) whole: bool,
    pub(crate) asked: Asked,
    pub(crate) now: Instant,
    pub(crate) deadline: Option<Instant>,
}

/// Why a request is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    MayBeProcessed,
    BodyGone,
    Exhausted,
    ToldNotTo,
    TooLong,
    PastDeadline,
    OverBudget,
}

impl Rules {
    /// How long to wait before the request is sent again, or why it is not. The budget is asked last, by `grant`, so that
    /// nothing is taken from it in vain.
    pub(crate) fn decide(
        &self,
        failure: &Failure,
        rng: &mut fastrand::Rng,
        grant: impl FnOnce() -> bool,
    ) -> Result<Duration, Refused> {
        if !failure.unprocessed && !failure.repeatable {
            return Err(Refused::MayBeProcessed);
        }
        if !failure.whole {
            return Err(Refused::BodyGone);
        }
        if failure.retries >= self.max_retries {
            return Err(Refused::Exhausted);
        }
        let backoff = self.backoff.delay(failure.since_pushback + 1, rng);
        let delay = match failure.asked {
            Asked::Nothing => backoff,
            Asked::Never => return Err(Refused::ToldNotTo),
            Asked::NotBefore(wait) | Asked::After(wait) if wait > self.longest_wait => return Err(Refused::TooLong),
            Asked::After(wait) => wait,
            // Those who were sent away together shall not come back together.
            Asked::NotBefore(wait) => wait.saturating_add(backoff),
        };
        let at = failure.now.checked_add(delay);
        if failure.deadline.is_some_and(|deadline| at.is_none_or(|at| at >= deadline)) {
            return Err(Refused::PastDeadline);
        }
        if grant() { Ok(delay) } else { Err(Refused::OverBudget) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failure(now: Instant) -> Failure {
        Failure {
            retries: 0,
            since_pushback: 0,
            unprocessed: false,
            repeatable: true,
            whole: true,
            asked: Asked::Nothing,
            now,
            deadline: None,
        }
    }

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_server_is_understood() {
        let wall = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |seconds| Asked::NotBefore(Duration::from_secs(seconds));
        for (given, asked) in [
            (&[][..], Asked::Nothing),
            (&[("retry-after", "120")], seconds(120)),
            (&[("retry-after", "0")], seconds(0)),
            (&[("retry-after", "99999999999999999999999")], seconds(u64::MAX)),
            (&[("retry-after", "-1")], Asked::Nothing),
            (&[("retry-after", "")], Asked::Nothing),
            (&[("retry-after", "soon")], Asked::Nothing),
            (&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")], seconds(30)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], seconds(0)),
            (
                &[("retry-after", "Mon, 07 Nov 1994 00:00:10 GMT"), ("date", "Mon, 07 Nov 1994 00:00:00 GMT")],
                seconds(10),
            ),
            (&[("grpc-retry-pushback-ms", "40"), ("retry-after", "9")], Asked::After(Duration::from_millis(40))),
            (&[("grpc-retry-pushback-ms", "0")], Asked::After(Duration::ZERO)),
            (&[("grpc-retry-pushback-ms", "-1")], Asked::Never),
            (&[("grpc-retry-pushback-ms", "x")], Asked::Never),
        ] {
            assert_eq!(Asked::of(&fields(given), wall), asked, "{given:?}");
        }
    }

    #[test]
    fn each_reason_not_to() {
        let (rules, now) = (Rules::default(), Instant::now());
        let second = Duration::from_secs(1);
        let decide = |change: &dyn Fn(&mut Failure), budget: bool| {
            let mut failure = failure(now);
            change(&mut failure);
            rules.decide(&failure, &mut fastrand::Rng::with_seed(1), || budget).map(drop)
        };
        assert_eq!(decide(&|_| {}, true), Ok(()));
        assert_eq!(decide(&|_| {}, false), Err(Refused::OverBudget));
        assert_eq!(decide(&|f| f.repeatable = false, true), Err(Refused::MayBeProcessed));
        assert_eq!(decide(&|f| (f.repeatable, f.unprocessed) = (false, true), true), Ok(()));
        assert_eq!(decide(&|f| (f.whole, f.unprocessed) = (false, true), true), Err(Refused::BodyGone));
        assert_eq!(decide(&|f| f.retries = 1, true), Err(Refused::Exhausted));
        assert_eq!(decide(&|f| f.asked = Asked::Never, true), Err(Refused::ToldNotTo));
        assert_eq!(decide(&|f| f.asked = Asked::NotBefore(301 * second), true), Err(Refused::TooLong));
        assert_eq!(decide(&|f| f.asked = Asked::NotBefore(300 * second), true), Ok(()));
        assert_eq!(decide(&|f| f.deadline = Some(f.now), true), Err(Refused::PastDeadline));
        let late = |f: &mut Failure| (f.asked, f.deadline) = (Asked::After(second), Some(f.now + second));
        assert_eq!(decide(&late, true), Err(Refused::PastDeadline));
    }

    #[test]
    fn no_wait_is_too_long_to_be_counted() {
        let rules = Rules { longest_wait: Duration::MAX, ..Rules::default() };
        let mut failure = failure(Instant::now());
        failure.asked = Asked::NotBefore(Duration::MAX);
        failure.deadline = Some(failure.now + Duration::from_secs(1));
        let decided = rules.decide(&failure, &mut fastrand::Rng::with_seed(1), || true);
        assert_eq!(decided, Err(Refused::PastDeadline));
        failure.deadline = None;
        assert_eq!(rules.decide(&failure, &mut fastrand::Rng::with_seed(1), || true), Ok(Duration::MAX));
    }

    #[test]
    fn a_refusal_takes_nothing_from_the_budget() {
        let mut failure = failure(Instant::now());
        failure.deadline = Some(failure.now);
        let asked = Rules::default().decide(&failure, &mut fastrand::Rng::new(), || unreachable!());
        assert_eq!(asked, Err(Refused::PastDeadline));
    }

    #[test]
    fn pushback_is_followed_to_the_millisecond() {
        let mut failure = failure(Instant::now());
        failure.asked = Asked::After(Duration::from_millis(7));
        let delay = Rules::default().decide(&failure, &mut fastrand::Rng::new(), || true);
        assert_eq!(delay, Ok(Duration::from_millis(7)));
    }

    proptest! {
        #[test]
        fn back_off_fills_its_range_and_stays_in_it(seed: u64, retry in 1u32..100) {
            let backoff = Backoff::default();
            let highest = Duration::from_millis(match retry { 1 => 25, 2 => 75, 3 => 175, _ => 250 });
            let rng = &mut fastrand::Rng::with_seed(seed);
            let delays: Vec<_> = (0..100).map(|_| backoff.delay(retry, rng)).collect();
            prop_assert!(delays.iter().all(|delay| *delay <= highest));
            prop_assert!(delays.iter().any(|delay| *delay < highest / 4));
            prop_assert!(delays.iter().any(|delay| *delay > highest / 4 * 3));
            let least = Duration::from_millis(100);
            let after = Backoff { least, ..backoff }.delay(retry, rng);
            prop_assert!((least..=least + highest).contains(&after));
        }
    }
}
