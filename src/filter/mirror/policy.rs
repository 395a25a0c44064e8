//! Which requests are mirrored.

use http::{
    HeaderMap, Method, Request,
    header::{CONNECTION, UPGRADE},
};

use crate::config::Fraction;

/// Whether this one of all requests is meant. `draw` gives a number below its argument, by chance.
pub(super) fn is_drawn(share: Fraction, draw: impl FnOnce(u32) -> u32) -> bool {
    let Fraction { numerator, denominator } = share;
    // Nothing is drawn where there is no choice.
    numerator > 0 && (numerator >= denominator.max(1) || draw(denominator) < numerator)
}

/// Whether a request can be had twice: not one that takes over its connection.
pub(super) fn is_repeatable<B>(request: &Request<B>) -> bool {
    *request.method() != Method::CONNECT && !asks_for_upgrade(request.headers())
}

/// Whether a request asks for another protocol. HTTP/2 by upgrade, which some clients always ask for, is obsolete, and
/// requests are answered as if they did not.
fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let lists = |name, member: &[u8]| {
        let lines = headers.get_all(name).iter();
        lines
            .flat_map(|line| line.as_bytes().split(|&b| b == b','))
            .any(|one| one.trim_ascii().eq_ignore_ascii_case(member))
    };
    headers.contains_key(UPGRADE) && lists(CONNECTION, b"upgrade") && !lists(UPGRADE, b"h2c")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn none_and_all_leave_nothing_to_chance() {
        let never = |_| panic!("nothing is to be drawn");
        for (numerator, denominator, hits) in
            [(0, 100, false), (0, 0, false), (100, 100, true), (101, 100, true), (1, 0, true), (1, 1, true)]
        {
            assert_eq!(is_drawn(Fraction { numerator, denominator }, never), hits, "{numerator}/{denominator}");
        }
    }

    #[test]
    fn upgrades_are_not_repeatable() {
        let request = |method: &str, connection: &str, upgrade: &str| {
            let request = Request::builder().method(method).uri("/").header("connection", connection);
            is_repeatable(&request.header("upgrade", upgrade).body(()).unwrap())
        };
        assert!(!request("GET", "keep-alive, Upgrade", "websocket"));
        assert!(request("GET", "close", "websocket"), "Upgrade without Connection asks for nothing");
        assert!(request("GET", "upgrade, http2-settings", "h2c"));
        assert!(!is_repeatable(&Request::connect("a.example:443").body(()).unwrap()));
        assert!(is_repeatable(&Request::post("/").body(()).unwrap()));
    }

    proptest! {
        #[test]
        fn a_share_is_met(numerator in 1u32..20, more in 1u32..20, seed: u64) {
            let share = Fraction { numerator, denominator: numerator + more };
            let mut rng = fastrand::Rng::with_seed(seed);
            let hits = (0..10_000).filter(|_| is_drawn(share, |below| rng.u32(..below))).count() as f64;
            let expected = 10_000.0 * f64::from(numerator) / f64::from(numerator + more);
            // Six standard deviations.
            prop_assert!((hits - expected).abs() < 300.0, "{hits} of {expected}");
        }
    }
}
