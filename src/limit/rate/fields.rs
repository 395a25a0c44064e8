//! What responses say of a limit.

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Duration;

use super::{Decision, Quota};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The value of `RateLimit-Policy`: what may come at once, and the seconds in which it is earned again.
pub(super) fn policy(quota: Quota) -> HeaderValue {
    // Less what rounding up to a nanosecond a request added.
    let window = Duration::from_nanos(quota.window() - u64::from(quota.burst_size()) + 1);
    value(&format!("\"default\";q={};w={}", quota.burst_size(), seconds(window)))
}

/// Says what is left.
pub(super) fn tell(headers: &mut HeaderMap, policy: &HeaderValue, decision: &Decision) {
    // Appended: both are lists, and another limit may stand inside.
    headers.append(RATE_LIMIT_POLICY, policy.clone());
    let left = format!("\"default\";r={};t={}", decision.remaining(), seconds(decision.reset()));
    headers.append(RATE_LIMIT, value(&left));
}

/// Rounded up: nobody who waits so long comes too early.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
