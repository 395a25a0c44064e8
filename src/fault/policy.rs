use std::sync::{Mutex, PoisonError};

use thiserror::Error;
use tokio::time::Duration;

use crate::{Error, Outcome, Sent};

/// A share of requests, exact to a millionth.
///
/// # Example
/// ```
/// use portcullis::fault::Share;
///
/// assert!(Share::percent(12.5).is_ok());
/// assert!(Share::percent(101.0).is_err());
/// assert!(Share::NONE < Share::ALL);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share(u32);

/// A number that is no share.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[error("{0} is not a percentage: write a number from 0 to 100")]
pub struct InvalidShare(f64);

impl Share {
    /// No request. The default.
    pub const NONE: Self = Self(0);
    /// Every request.
    pub const ALL: Self = Self(1_000_000);

    /// So many of a hundred, rounded to a millionth of the whole.
    ///
    /// # Errors
    /// When it is not a number from 0 to 100.
    pub fn percent(percent: f64) -> Result<Self, InvalidShare> {
        if (0.0..=100.0).contains(&percent) {
            Ok(Self((percent * 10_000.0).round() as u32))
        } else {
            Err(InvalidShare(percent))
        }
    }

    /// Whether this one of all requests is meant.
    fn hits(self, rng: &mut fastrand::Rng) -> bool {
        // The common cases draw nothing, so that they do not change what others draw.
        match self {
            Self::NONE => false,
            Self::ALL => true,
            Self(millionths) => rng.u32(..1_000_000) < millionths,
        }
    }
}

/// How a request is failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Abort {
    /// With a response of this status; to a gRPC client as the refusals of [`respond`](crate::respond) are, under the code
    /// of this status in gRPC's table.
    Status(http::StatusCode),
    /// With a response of status 200 and this `grpc-status`, whoever asks.
    Grpc(u8),
    /// As if the connection broke before the response: an [`Error`](struct@Error) of which nobody knows what the upstream processed.
    Reset,
    /// As if no connection could be made: an [`Error`](struct@Error) after which the request may safely go elsewhere.
    ConnectFailed,
}

impl Abort {
    /// The error, of those that are one.
    pub(super) fn error(self) -> Option<Error> {
        let (outcome, sent) = match self {
            Self::Reset => (Outcome::UpstreamReset, Sent::Possibly),
            Self::ConnectFailed => (Outcome::ConnectFailed, Sent::Nothing),
            Self::Status(_) | Self::Grpc(_) => return None,
        };
        Some(Error::new(outcome).with_sent(sent).with_source("injected fault"))
    }
}

/// What is done to one request: delayed, failed, both (in this order), or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fault {
    /// How long it waits.
    pub(super) delay: Option<Duration>,
    /// How it fails then.
    pub(super) abort: Option<Abort>,
}

/// Which faults are injected, and how often: pure but for its own random source.
#[derive(Debug, Default)]
pub(super) struct Policy {
    pub(super) delay: Option<(Duration, Share)>,
    pub(super) abort: Option<(Abort, Share)>,
    pub(super) max_delay: Duration,
    pub(super) rng: Mutex<fastrand::Rng>,
}

impl Policy {
    /// What the settings, or a request's own wishes within them, do to one request.
    ///
    /// A wish takes the place of what is set, with the share that is set as its upper bound; with no fault of its kind set,
    /// it is granted in full.
    pub(super) fn decide(&self, wish: &Wish) -> Fault {
        let delay = choose(self.delay, wish.delay, wish.delay_share);
        let abort = choose(self.abort, wish.abort, wish.abort_share);
        if delay.is_none() && abort.is_none() {
            return Fault::default();
        }
        // Plain numbers; valid whatever happened.
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = delay.filter(|(_, share)| share.hits(&mut rng));
        let abort = abort.filter(|(_, share)| share.hits(&mut rng));
        Fault { delay: delay.map(|(delay, _)| delay.min(self.max_delay)), abort: abort.map(|(abort, _)| abort) }
    }
}

/// What a request asks for itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) delay: Option<Duration>,
    pub(super) delay_share: Option<Share>,
    pub(super) abort: Option<Abort>,
    pub(super) abort_share: Option<Share>,
}

fn choose<T>(set: Option<(T, Share)>, wish: Option<T>, wished: Option<Share>) -> Option<(T, Share)> {
    let most = set.as_ref().map_or(Share::ALL, |(_, share)| *share);
    let share = wished.map_or(most, |wished| wished.min(most));
    match wish {
        Some(value) => Some((value, share)),
        None => set.map(|(value, _)| (value, share)),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    const DELAY: Duration = Duration::from_millis(70);
    const ABORT: Abort = Abort::Status(StatusCode::IM_A_TEAPOT);

    fn policy(delay: Share, abort: Share, seed: u64) -> Policy {
        Policy {
            delay: Some((DELAY, delay)),
            abort: Some((ABORT, abort)),
            max_delay: Duration::from_secs(1),
            rng: fastrand::Rng::with_seed(seed).into(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Within five standard deviations of the share, for both, and for both at once.
        #[test]
        fn in_the_long_run_shares_are_exact(delay in 0..=1_000_000u32, abort in 0..=1_000_000u32, seed: u64) {
            let policy = policy(Share(delay), Share(abort), seed);
            let requests = 10_000;
            let (mut delayed, mut aborted, mut both) = (0, 0, 0);
            for _ in 0..requests {
                let fault = policy.decide(&Wish::default());
                delayed += u32::from(fault.delay.is_some());
                aborted += u32::from(fault.abort.is_some());
                both += u32::from(fault.delay.is_some() && fault.abort.is_some());
            }
            let (delay, abort) = (f64::from(delay) / 1e6, f64::from(abort) / 1e6);
            for (count, share) in [(delayed, delay), (aborted, abort), (both, delay * abort)] {
                let off = f64::from(count) - share * f64::from(requests);
                let deviation = (f64::from(requests) * share * (1.0 - share)).sqrt();
                prop_assert!(off.abs() <= 5.0 * deviation + 1.0, "{count} of {requests} for a share of {share}");
            }
        }
    }

    #[test]
    fn none_is_never_and_all_is_always() {
        let policy = policy(Share::NONE, Share::ALL, 1);
        for _ in 0..10_000 {
            assert_eq!(policy.decide(&Wish::default()), Fault { delay: None, abort: Some(ABORT) });
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let share = Share::percent(30.0).unwrap();
        let faults = |seed| {
            let policy = policy(share, share, seed);
            (0..64).map(|_| policy.decide(&Wish::default())).collect::<Vec<_>>()
        };
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
    }

    #[test]
    fn a_wish_is_granted_within_what_is_set() {
        let tenth = Share::percent(10.0).unwrap();
        assert_eq!(choose(Some((1, tenth)), Some(2), Some(Share::ALL)), Some((2, tenth)));
        assert_eq!(choose(Some((1, tenth)), None, Some(Share::NONE)), Some((1, Share::NONE)));
        assert_eq!(choose(Some((1, tenth)), Some(2), None), Some((2, tenth)));
        assert_eq!(choose(None, Some(2), None), Some((2, Share::ALL)));
        assert_eq!(choose(None, Some(2), Some(tenth)), Some((2, tenth)));
        assert_eq!(choose::<u32>(None, None, Some(Share::ALL)), None);
        let policy = policy(Share::ALL, Share::NONE, 1);
        let wish = Wish { delay: Some(Duration::from_secs(3600)), ..Wish::default() };
        assert_eq!(policy.decide(&wish), Fault { delay: Some(Duration::from_secs(1)), abort: None });
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(Share::percent(0.0001), Ok(Share(1)));
        assert_eq!(Share::percent(100.0), Ok(Share::ALL));
        for no in [-0.1, 100.01, f64::NAN, f64::INFINITY] {
            assert!(Share::percent(no).is_err(), "{no}");
        }
    }
}
