//! What responses say of a limit.

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use tokio::time::Duration;

use super::{Decision, Quota};
use crate::respond::Dialect;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

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

/// Says when to come again: to HTTP in whole seconds (RFC 9110 section 10.2.3), to gRPC in milliseconds (gRFC A6).
pub(super) fn retry_after(headers: &mut HeaderMap, dialect: Dialect, wait: Duration) {
    if dialect == Dialect::Http {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds(wait)));
    } else {
        let millis = wait.as_nanos().div_ceil(1_000_000);
        // The value is a signed number of 32 bits.
        headers.insert(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from(i32::try_from(millis).unwrap_or(i32::MAX)));
    }
}

/// Rounded up: nobody who waits so long comes too early.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
