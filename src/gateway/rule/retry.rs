//! A rule's retries.

use std::time::Duration;

use http::StatusCode;

use crate::{
    BoxError, Error, Outcome,
    config::{self, check::refuse},
    grpc::Code,
    retry::{Budget, Conditions, RetryLayer},
};

/// The layer that `retry` asks for. `per_try` is for what cannot limit an attempt by itself.
pub(super) fn layer(retry: &config::Retry, budget: Budget, per_try: Option<Duration>) -> Result<RetryLayer, BoxError> {
    refuse(retry.wrong())?;
    let mut conditions = Conditions::none().connect_failure().refused().timeout();
    if retry.reset {
        conditions = conditions.reset();
    }
    for status in &retry.statuses {
        conditions = conditions.status(StatusCode::from_u16(*status)?);
    }
    for code in retry.grpc.iter().filter_map(|number| Code::numbered(*number)) {
        conditions = conditions.grpc(code);
    }
    let layer = RetryLayer::new()
        .conditions(conditions)
        .max_retries(retry.attempts)
        .longest_wait(retry.longest_wait)
        .body_cap(retry.body_cap)
        .budget(budget)
        .late_retries_time_out();
    let layer = match retry.backoff {
        // What is asked for is the least; by chance a little more, so that those who failed together come back apart.
        Some(least) => layer.least_wait(least).backoff(least / 4, least),
        None => layer.backoff(Duration::from_millis(25), Duration::from_millis(50)),
    };
    let layer = if retry.non_idempotent { layer.repeatable_if(|_| true) } else { layer };
    Ok(match per_try {
        Some(limit) => layer.per_try_timeout(limit),
        None => layer,
    })
}

/// What a rule with retries makes of the error that is left when they are used up: where connections failed or broke,
/// 503.
pub(super) fn used_up(error: Error) -> Error {
    match error.outcome() {
        Outcome::ConnectFailed | Outcome::TlsFailed | Outcome::CertificateRefused | Outcome::UpstreamReset => {
            let sent = error.sent();
            Error::new(Outcome::Unreachable).with_sent(sent).with_source(error)
        }
        _ => error,
    }
}
