//! The rollout as a state machine: no clock, no lock, no chance of its own.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::stats::{Sample, Samples, Side, SideStatus, ratio, score, sure, surely_above, wilson};
use crate::{config::Rollout, split::InvalidSplit};

/// The share of a canary's successes that may take longer than its bound.
const SLOW: f64 = 0.05;

/// How much longer than the stable one's a latency may be in any case: below it timers and schedulers make noise.
const SLACK: Duration = Duration::from_millis(1);

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// On its way, at this step, from 0.
    Step(usize),
    /// The canary gets everything.
    Promoted,
    /// The canary gets nothing.
    RolledBack(Reason),
}

/// Why a canary was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// It failed too often.
    Errors,
    /// It was too slow.
    Latency,
    /// Somebody said so.
    Aborted,
}

/// A change of a canary's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Where the rollout is now.
    pub phase: Phase,
    /// The canary's share from now on, in percent.
    pub share: u8,
    /// What was known of the canary as it was decided.
    pub canary: SideStatus,
    /// The same of the stable one.
    pub stable: SideStatus,
}

/// The pure state machine of a rollout; see the [module](super) for its rules.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use portcullis::{config::Rollout, split::rollout::{Machine, Phase, Sample, Side}};
/// use tokio::time::Instant;
///
/// let mut now = Instant::now();
/// let mut machine = Machine::new(Rollout { steps: vec![10, 50], ..Rollout::of("v2") }, now)?;
/// let well = Sample::Success(Duration::from_millis(20));
/// let answer = |machine: &mut Machine, sample, now| {
///     machine.record(Side::Stable, well, now);
///     machine.record(Side::Canary, sample, now);
/// };
///
/// (0..100).for_each(|_| answer(&mut machine, well, now));
/// assert_eq!(machine.share(), 10);
/// now += Duration::from_secs(60);
/// answer(&mut machine, well, now);
/// assert_eq!((machine.phase(), machine.share()), (Phase::Step(1), 50));
///
/// (0..100).for_each(|_| answer(&mut machine, Sample::Failure, now));
/// assert_eq!(machine.share(), 0);
/// # Ok::<_, portcullis::split::InvalidSplit>(())
/// ```
#[derive(Debug, Clone)]
pub struct Machine {
    config: Rollout,
    phase: Phase,
    held: bool,
    /// When the phase began.
    since: Instant,
    /// All that counts.
    seen: Pair,
    /// Of it, what will still count when the rest is forgotten.
    recent: Pair,
    /// When the recent samples began to be taken.
    sampled: Instant,
}

#[derive(Debug, Clone)]
struct Pair {
    stable: Samples,
    canary: Samples,
}

/// What the samples say of the canary.
enum Verdict {
    Within,
    /// Out of bounds, or not known, and neither for certain.
    Unsure,
    Broken(Reason),
}

impl Machine {
    /// A rollout that begins `now`.
    ///
    /// # Errors
    /// When the steps are none, or no growing shares.
    pub fn new(config: Rollout, now: Instant) -> Result<Self, InvalidSplit> {
        let growing = config.steps.windows(2).all(|pair| matches!(pair, [one, next] if one < next));
        if config.steps.is_empty() || !growing || config.steps.iter().any(|share| !(1..=99).contains(share)) {
            return Err(InvalidSplit::Steps);
        }
        let (seen, recent) = (Pair::new(), Pair::new());
        Ok(Self { config, phase: Phase::Step(0), held: false, since: now, seen, recent, sampled: now })
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &Rollout {
        &self.config
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The canary's share, in percent.
    #[must_use]
    pub fn share(&self) -> u8 {
        match self.phase {
            Phase::Step(step) => self.config.steps.get(step).copied().unwrap_or(0),
            Phase::Promoted => 100,
            Phase::RolledBack(_) => 0,
        }
    }

    /// Since when it is there.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether it is [held](Self::hold).
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// What is known of the stable side and of the canary.
    #[must_use]
    pub fn sides(&self) -> (SideStatus, SideStatus) {
        (self.seen.stable.status(), self.seen.canary.status())
    }

    /// One request was answered, or failed to be. What changes by that, if anything does.
    pub fn record(&mut self, side: Side, sample: Sample, now: Instant) -> Option<Change> {
        let Phase::Step(step) = self.phase else { return None };
        for pair in [&mut self.seen, &mut self.recent] {
            match side {
                Side::Stable => pair.stable.add(sample),
                Side::Canary => pair.canary.add(sample),
            }
        }
        // Only a canary's answer can break its bounds; only what is due may step.
        let lasted = now.saturating_duration_since(self.since) >= self.config.interval;
        if side == Side::Stable && !lasted {
            return None;
        }
        match self.judge() {
            Verdict::Broken(reason) => return Some(self.enter(Phase::RolledBack(reason), now)),
            Verdict::Within if lasted && !self.held => return Some(self.enter(self.after(step), now)),
            Verdict::Within => self.forget(now),
            // Until it is clear, all of it counts: who looks at few answers often enough sees them within for once.
            Verdict::Unsure => {}
        }
        None
    }

    /// Keeps the share as it is until [`resume`](Self::resume), but for taking the canary back.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Ends a [`hold`](Self::hold).
    pub fn resume(&mut self) {
        self.held = false;
    }

    /// Gives the canary everything, whatever is known of it.
    pub fn promote(&mut self, now: Instant) -> Option<Change> {
        (self.phase != Phase::Promoted).then(|| self.enter(Phase::Promoted, now))
    }

    /// Takes the canary back.
    pub fn abort(&mut self, now: Instant) -> Option<Change> {
        let there = matches!(self.phase, Phase::RolledBack(_));
        (!there).then(|| self.enter(Phase::RolledBack(Reason::Aborted), now))
    }

    /// Begins anew.
    pub fn restart(&mut self, now: Instant) -> Change {
        self.held = false;
        self.enter(Phase::Step(0), now)
    }

    fn after(&self, step: usize) -> Phase {
        if step + 1 < self.config.steps.len() { Phase::Step(step + 1) } else { Phase::Promoted }
    }

    fn enter(&mut self, phase: Phase, now: Instant) -> Change {
        let (stable, canary) = self.sides();
        self.phase = phase;
        self.since = now;
        self.sampled = now;
        self.seen = Pair::new();
        self.recent = Pair::new();
        Change { phase, share: self.share(), canary, stable }
    }

    /// What was seen before the recent samples is forgotten when those are old and enough.
    fn forget(&mut self, now: Instant) {
        let old = now.saturating_duration_since(self.sampled) >= self.config.interval;
        if old && self.is_enough(&self.recent.canary) && self.is_enough(&self.recent.stable) {
            self.seen = std::mem::replace(&mut self.recent, Pair::new());
            self.sampled = now;
        }
    }

    fn is_enough(&self, samples: &Samples) -> bool {
        samples.requests() >= self.config.min_requests.max(1).into()
    }

    fn judge(&self) -> Verdict {
        let Pair { stable, canary } = &self.seen;
        if !self.is_enough(canary) {
            return Verdict::Unsure;
        }
        let z = sure(canary.requests(), self.config.min_requests.into());
        match (self.errors(z, stable, canary), self.latency(stable, canary)) {
            (Verdict::Broken(reason), _) | (_, Verdict::Broken(reason)) => Verdict::Broken(reason),
            (Verdict::Within, Verdict::Within) if self.is_enough(stable) => Verdict::Within,
            _ => Verdict::Unsure,
        }
    }

    fn errors(&self, z: f64, stable: &Samples, canary: &Samples) -> Verdict {
        let bound = f64::from(self.config.max_error_rate) / 100.0;
        let counts = |samples: &Samples| (samples.failures, samples.requests());
        if surely_above(z, counts(canary), counts(stable)) > bound {
            Verdict::Broken(Reason::Errors)
        } else if canary.error_rate() - stable.error_rate() > bound {
            Verdict::Unsure
        } else {
            Verdict::Within
        }
    }

    /// Of successes: of few of them one says as little as one answer of few.
    fn latency(&self, stable: &Samples, canary: &Samples) -> Verdict {
        let enough = u64::from(self.config.min_requests.max(1));
        let z = sure(canary.successes, enough);
        if stable.successes < enough || canary.successes == 0 {
            return Verdict::Unsure;
        }
        let bound = |share: f64| {
            let latency = stable.percentile(share).unwrap_or_default();
            latency.mul_f64(f64::from(self.config.max_latency) / 100.0).max(latency + SLACK)
        };
        let surely = canary.slower_than(bound(score(z, 1.0 - SLOW, stable.successes as f64).1));
        if canary.successes >= enough && wilson(z, surely, canary.successes).0 > SLOW {
            Verdict::Broken(Reason::Latency)
        } else if ratio(canary.slower_than(bound(1.0 - SLOW)), canary.successes) > SLOW {
            Verdict::Unsure
        } else {
            Verdict::Within
        }
    }
}

impl Pair {
    fn new() -> Self {
        Self { stable: Samples::new(), canary: Samples::new() }
    }
}

impl Phase {
    /// The place of its share in the order of all shares: none, the steps', all.
    pub(crate) fn stage(self, steps: usize) -> usize {
        match self {
            Self::RolledBack(_) => 0,
            Self::Step(step) => step + 1,
            Self::Promoted => steps + 1,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => write!(f, "step {}", step + 1),
            Self::Promoted => f.write_str("promoted"),
            Self::RolledBack(reason) => write!(f, "rolled back: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Errors => "too many failures",
            Self::Latency => "too slow",
            Self::Aborted => "aborted",
        })
    }
}
