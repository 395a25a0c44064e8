//! What requests may ask for themselves.

use std::str::FromStr;

use http::{HeaderMap, StatusCode};
use tokio::time::Duration;

use super::policy::{Abort, Share, Wish};

pub(super) const DELAY_MS: &str = "x-fault-delay-ms";
pub(super) const DELAY_PERCENT: &str = "x-fault-delay-percent";
pub(super) const ABORT_STATUS: &str = "x-fault-abort-status";
pub(super) const ABORT_GRPC: &str = "x-fault-abort-grpc";
pub(super) const ABORT_PERCENT: &str = "x-fault-abort-percent";

/// Takes the wishes out of a request, so that they act once. What cannot be understood is no wish.
pub(super) fn take(headers: &mut HeaderMap) -> Wish {
    let status = take_one::<u16>(headers, ABORT_STATUS)
        .filter(|status| (200..=599).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok());
    let grpc = take_one::<u8>(headers, ABORT_GRPC).filter(|code| (1..=16).contains(code));
    Wish {
        delay: take_one(headers, DELAY_MS).map(Duration::from_millis),
        delay_share: take_one(headers, DELAY_PERCENT).and_then(|percent| Share::percent(percent).ok()),
        abort: grpc.map(Abort::Grpc).or_else(|| status.map(Abort::Status)),
        abort_share: take_one(headers, ABORT_PERCENT).and_then(|percent| Share::percent(percent).ok()),
    }
}

fn take_one<T: FromStr>(headers: &mut HeaderMap, name: &str) -> Option<T> {
    headers.remove(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(fields: &[(&'static str, &str)]) -> Wish {
        let mut headers: HeaderMap =
            fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let wish = take(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
        wish
    }

    #[test]
    fn wishes_are_read_and_removed() {
        let all = wish(&[(DELAY_MS, "250"), (DELAY_PERCENT, "12.5"), (ABORT_STATUS, "503"), (ABORT_PERCENT, "5")]);
        assert_eq!(all.delay, Some(Duration::from_millis(250)));
        assert_eq!(all.delay_share, Share::percent(12.5).ok());
        assert_eq!(all.abort, Some(Abort::Status(StatusCode::SERVICE_UNAVAILABLE)));
        assert_eq!(all.abort_share, Share::percent(5.0).ok());
        assert_eq!(wish(&[(ABORT_GRPC, "14"), (ABORT_STATUS, "500")]).abort, Some(Abort::Grpc(14)));
    }

    #[test]
    fn nonsense_is_no_wish() {
        for (name, value) in [
            (DELAY_MS, "-1"),
            (DELAY_MS, "1s"),
            (DELAY_PERCENT, "101"),
            (DELAY_PERCENT, "NaN"),
            (ABORT_STATUS, "101"),
            (ABORT_STATUS, "99999"),
            (ABORT_GRPC, "0"),
            (ABORT_GRPC, "17"),
            (ABORT_PERCENT, ""),
        ] {
            assert_eq!(wish(&[(name, value)]), Wish::default(), "{name}: {value}");
        }
    }
}
