use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::time::{Duration, Instant};

use super::{
    machine::{Change, Machine, Phase},
    stats::{Sample, Side, SideStatus},
};
use crate::{config::Rollout, split::InvalidSplit};

/// A rollout: to be watched, and to be steered by hand. Clones share it.
///
/// # Example
/// ```
/// use portcullis::{config::Rollout, split::{RolloutHandle, rollout::{Phase, Reason}}};
///
/// let rollout = RolloutHandle::new("default/shop", 0, Rollout::of("shop-v2"))?;
/// assert_eq!(rollout.status().share, 1);
/// rollout.abort();
/// assert_eq!(rollout.status().phase, Phase::RolledBack(Reason::Aborted));
/// # Ok::<_, portcullis::split::InvalidSplit>(())
/// ```
#[derive(Clone)]
pub struct RolloutHandle(Arc<Shared>);

struct Shared {
    route: Arc<str>,
    rule: usize,
    config: Rollout,
    machine: Mutex<Machine>,
    /// What requests go by: see [`Phase::stage`].
    stage: AtomicUsize,
}

/// What is known of a rollout at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RolloutStatus {
    /// The route's name, or the service's.
    pub route: Arc<str>,
    /// The rule's place in the route, from 0.
    pub rule: usize,
    /// The canary's name.
    pub canary_name: String,
    /// Where it is.
    pub phase: Phase,
    /// The canary's share, in percent.
    pub share: u8,
    /// Whether it is held.
    pub held: bool,
    /// How long it has been there.
    pub lasted: Duration,
    /// What is known of the canary, of what still counts.
    pub canary: SideStatus,
    /// The same of the stable one.
    pub stable: SideStatus,
}

impl RolloutHandle {
    /// A rollout that begins now, of the rule at `rule` of `route`: names for logs and [`status`](Self::status).
    ///
    /// # Errors
    /// When the configuration's steps are none, or no growing shares.
    pub fn new(route: impl Into<Arc<str>>, rule: usize, config: Rollout) -> Result<Self, InvalidSplit> {
        let machine = Machine::new(config.clone(), Instant::now())?;
        let stage = AtomicUsize::new(machine.phase().stage(config.steps.len()));
        let handle = Self(Arc::new(Shared { route: route.into(), rule, config, machine: Mutex::new(machine), stage }));
        let RolloutStatus { phase, share, .. } = handle.status();
        handle.log(phase, share, None);
        Ok(handle)
    }

    /// What it does, and what it goes by.
    #[must_use]
    pub fn status(&self) -> RolloutStatus {
        let machine = self.lock();
        let (stable, canary) = machine.sides();
        RolloutStatus {
            route: self.0.route.clone(),
            rule: self.0.rule,
            canary_name: self.0.config.canary.clone(),
            phase: machine.phase(),
            share: machine.share(),
            held: machine.is_held(),
            lasted: Instant::now().saturating_duration_since(machine.since()),
            canary,
            stable,
        }
    }

    /// Keeps the share as it is until [`resume`](Self::resume). A canary that breaks its bounds is taken back all the same.
    pub fn hold(&self) {
        self.lock().hold();
    }

    /// Ends a [`hold`](Self::hold).
    pub fn resume(&self) {
        self.lock().resume();
    }

    /// Gives the canary everything now, whatever is known of it.
    pub fn promote(&self) {
        self.change(|machine, now| machine.promote(now));
    }

    /// Takes the canary back now.
    pub fn abort(&self) {
        self.change(Machine::abort);
    }

    /// Begins anew, at the first step.
    pub fn restart(&self) {
        self.change(|machine, now| Some(machine.restart(now)));
    }

    /// One request was answered, or failed to be: for code that splits by itself. A gateway and a
    /// [`Canary`](super::Canary) do it for all their requests.
    pub fn record(&self, side: Side, sample: Sample) {
        self.change(|machine, now| machine.record(side, sample, now));
    }

    /// The canary's share now, in percent.
    #[must_use]
    pub fn share(&self) -> u8 {
        match self.stage() {
            0 => 0,
            step => self.0.config.steps.get(step - 1).copied().unwrap_or(100),
        }
    }

    /// The place of the canary's share in [`shares`](Self::shares).
    pub(crate) fn stage(&self) -> usize {
        self.0.stage.load(Relaxed)
    }

    /// All shares there may be: none, the steps', all.
    pub(crate) fn shares(&self) -> impl Iterator<Item = u8> + '_ {
        [0].into_iter().chain(self.0.config.steps.iter().copied()).chain([100])
    }

    pub(crate) fn config(&self) -> &Rollout {
        &self.0.config
    }

    pub(crate) fn route(&self) -> &Arc<str> {
        &self.0.route
    }

    fn change(&self, act: impl FnOnce(&mut Machine, Instant) -> Option<Change>) {
        let change = {
            let mut machine = self.lock();
            let change = act(&mut machine, Instant::now());
            self.0.stage.store(machine.phase().stage(self.0.config.steps.len()), Relaxed);
            change
        };
        if let Some(change) = change {
            self.log(change.phase, change.share, Some(&change));
        }
    }

    fn log(&self, phase: Phase, share: u8, change: Option<&Change>) {
        let (route, rule, canary) = (&*self.0.route, self.0.rule, self.0.config.canary.as_str());
        let rate = |side: fn(&Change) -> SideStatus| change.map(|change| side(change).error_rate());
        let p95 = |side: fn(&Change) -> SideStatus| {
            let p95 = change.and_then(|change| side(change).p95);
            p95.map(|p95| p95.as_micros() as f64 / 1e3)
        };
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(
                    target: "portcullis::rollout",
                    route,
                    rule,
                    canary,
                    %phase,
                    share,
                    canary_error_rate = rate(|change| change.canary),
                    stable_error_rate = rate(|change| change.stable),
                    canary_p95_ms = p95(|change| change.canary),
                    stable_p95_ms = p95(|change| change.stable),
                )
            };
        }
        match phase {
            Phase::RolledBack(_) => event!(warn),
            Phase::Step(_) | Phase::Promoted => event!(info),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RolloutHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RolloutHandle").field(&self.status()).finish()
    }
}
