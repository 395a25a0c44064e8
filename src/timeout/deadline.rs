//! When an answer is of no use any more, and how that travels: pure values, with the time passed in.

use std::{cmp::min, fmt::Write, time::Duration};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, request::Parts};
use tokio::time::Instant;

use crate::{Error, Outcome};

/// gRPC's header field for the time that is left.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// As far away as makes no difference: what is greater is taken for it, so that sums stay within the clock's range.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

tokio::task_local! {
    static CURRENT: Deadline;
}

/// The instant after which nobody waits for the answer to a request.
///
/// A request extension; and, for code that serves a request, a value of the task: calls made meanwhile find it with
/// [`current`](Self::current) and get what is left. A task that is spawned does not inherit it: give it on with
/// [`scope`](Self::scope).
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use portcullis::timeout::Deadline;
/// use tokio::time::{Duration, Instant};
///
/// let now = Instant::now();
/// let deadline = Deadline::after(now, Duration::from_secs(2));
/// assert_eq!(deadline.left(now + Duration::from_millis(500)), Duration::from_millis(1500));
/// assert!(deadline.has_passed(now + Duration::from_secs(2)));
///
/// assert_eq!(Deadline::current(), None);
/// assert_eq!(deadline.scope(async { Deadline::current() }).await, Some(deadline));
/// # });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline at this instant.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The deadline `limit` after `now`.
    #[must_use]
    pub fn after(now: Instant, limit: Duration) -> Self {
        Self(now + limit.min(FAR))
    }

    /// The one in a request's extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }

    /// That of the request which this task is serving.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|deadline| *deadline).ok()
    }

    /// The earlier one of a request's extensions and of the task.
    #[must_use]
    pub fn in_force(extensions: &Extensions) -> Option<Self> {
        Self::earlier(Self::of(extensions), Self::current())
    }

    /// The instant.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left at `now`.
    #[must_use]
    pub fn left(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether nothing is left at `now`.
    #[must_use]
    pub fn has_passed(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// `future` with this as the deadline of its task.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// The same for what happens in one call.
    pub(crate) fn during<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }

    pub(crate) fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(min(one, other)),
            (one, other) => one.or(other),
        }
    }
}

/// How long one attempt of a request may take until the response's head: a request extension that takes the place of an
/// upstream's [`response_timeout`](crate::config::Upstream::response_timeout). Zero: as long as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptTimeout(pub Duration);

/// Whether a request's deadline has passed: it is not begun then.
pub(crate) fn is_late<B>(request: &Request<B>) -> bool {
    Deadline::in_force(request.extensions()).is_some_and(|deadline| deadline.has_passed(Instant::now()))
}

/// What a request says and knows of its time: what one that is made again must have too.
#[derive(Debug, Clone)]
pub(crate) struct Told(Option<Deadline>, Option<ToldIn>, Option<AttemptTimeout>);

impl Told {
    /// Of a request.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        Self(Deadline::of(extensions), extensions.get().cloned(), extensions.get().copied())
    }

    /// Of another one too.
    pub(crate) fn give(&self, extensions: &mut Extensions) {
        if let Some(deadline) = self.0 {
            extensions.insert(deadline);
        }
        if let Some(told) = &self.1 {
            extensions.insert(told.clone());
        }
        if let Some(limit) = self.2 {
            extensions.insert(limit);
        }
    }
}

/// The time left that `grpc-timeout` tells. `None` where the field is absent or not of its grammar, which gRPC servers
/// take for no limit.
#[must_use]
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(GRPC_TIMEOUT)?.as_bytes())
}

/// One to eight digits and a unit: `H`, `M`, `S`, `m`, `u`, `n`.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) {
        return None;
    }
    let amount = digits
        .iter()
        .try_fold(0u64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// `left` as a value of `grpc-timeout`: in the finest unit that eight digits hold it in, rounded down, so that the next hop
/// never believes to have more time than there is.
#[must_use]
pub fn format_grpc_timeout(left: Duration) -> HeaderValue {
    const MAX: u128 = 99_999_999;
    let nanos = left.as_nanos();
    let units = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let fits = units.into_iter().map(|(size, unit)| (nanos / size, unit)).find(|(amount, _)| *amount <= MAX);
    let (amount, unit) = fits.unwrap_or((MAX, 'H'));
    let mut text = String::with_capacity(9);
    let _ = write!(text, "{amount}{unit}");
    // Digits and a letter are always a valid value.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

/// A request extension: the header field in which its time is told too.
#[derive(Debug, Clone)]
pub(super) struct ToldIn(pub(super) HeaderName);

/// `left` as whole milliseconds, rounded down.
pub(super) fn format_millis(left: Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

/// Whether this is a limit, and not what "none" has become.
pub(super) fn is_limited(left: Duration) -> bool {
    left < FAR / 2
}

/// Renews what a request says of its time, when it is sent some time after that was written.
pub(crate) fn tell_what_is_left(parts: &mut Parts, now: Instant) {
    if let Some(deadline) = Deadline::in_force(&parts.extensions) {
        renew(&mut parts.headers, &parts.extensions, deadline.left(now));
    }
}

/// The same where a request is written to its connection, which may have taken a while.
///
/// # Errors
/// When there is nothing left: it is not sent then.
pub(crate) fn tell_what_is_left_now<B>(request: &mut Request<B>) -> Result<(), Error> {
    let Some(deadline) = Deadline::in_force(request.extensions()) else { return Ok(()) };
    let now = Instant::now();
    if deadline.has_passed(now) {
        return Err(Error::new(Outcome::DeadlineExceeded));
    }
    // Not both at once through the request.
    let mut headers = std::mem::take(request.headers_mut());
    renew(&mut headers, request.extensions(), deadline.left(now));
    *request.headers_mut() = headers;
    Ok(())
}

fn renew(headers: &mut HeaderMap, extensions: &Extensions, left: Duration) {
    if let Some(told) = grpc_timeout(headers) {
        headers.insert(GRPC_TIMEOUT, format_grpc_timeout(told.min(left)));
    }
    if let Some(ToldIn(name)) = extensions.get() {
        headers.insert(name, format_millis(left));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_grammar_is_that_of_grpc() {
        for (value, duration) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0n", Some(Duration::ZERO)),
            ("00000001S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000n", None),
            ("000000001S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            (" 1S", None),
            ("1.5S", None),
            ("1S ", None),
        ] {
            assert_eq!(parse(value.as_bytes()), duration, "{value:?}");
        }
    }

    #[test]
    fn the_finest_unit_that_fits_is_written() {
        for (left, value) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(2), "2000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format_grpc_timeout(left), value);
        }
    }

    #[test]
    fn any_deadline_a_client_may_name_is_one() {
        let now = Instant::now();
        assert!(!Deadline::after(now, Duration::MAX).has_passed(now + Duration::from_secs(86_400)));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_no_more_and_hardly_less(nanos: u64) {
            let left = Duration::from_nanos(nanos);
            let value = format_grpc_timeout(left);
            let read = parse(value.as_bytes()).unwrap();
            prop_assert!(read <= left);
            prop_assert!((left - read).as_nanos() <= left.as_nanos() / 100_000);
        }

        #[test]
        fn nothing_makes_it_panic(value in prop::collection::vec(any::<u8>(), 0..12)) {
            parse(&value);
        }
    }
}
