//! Which of a rule's backends a request goes to, and what is done about that when it is answered.
//!
//! The gateway's use of [`split`](crate::split): a [`Choice`] is compiled from a rule, chooses for a request, and hands out
//! a [`Watch`] where the answer matters: sessions write their token to it, rollouts judge by it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use http::{HeaderValue, Response, request::Parts};
use pin_project::pin_project;

use crate::{
    Body, Error, Outcome,
    balance::{Affinity, RequestKey, WeightedChoice, stable_hash},
    config::{self, BackendRef, Split},
    connection::ConnectionInfo,
    exchange::Exchange,
    split::{
        Cohort, InvalidSplit, RolloutHandle, SessionToken, Sessions, StableChoice, key_of, member,
        rollout::{Observation, Side},
        tell,
    },
};

/// Which of a rule's backends requests go to.
pub(super) struct Choice {
    /// The only backend, where there is nothing to choose and nothing to tell.
    only: Option<usize>,
    by: By,
    arms: Box<[Arm]>,
    /// For each [stage](RolloutHandle::stage) of the rollout; one where there is none.
    shares: Box<[Shares]>,
    sessions: Option<Arc<Sessions>>,
    rollout: Option<RolloutHandle>,
}

/// A backend that was chosen.
pub(super) struct Chosen<'a> {
    /// Its place among the rule's.
    pub(super) index: usize,
    /// The cohort of its requests, for services of this process: as a request extension, and as what they are
    /// [called in](Watched::in_cohort).
    pub(super) cohort: Option<&'a Cohort>,
    /// Who waits for the answer.
    pub(super) watch: Option<Box<Watch>>,
}

/// Who waits for the answer to one request. Dropped unanswered, the request was cancelled.
pub(super) struct Watch {
    session: Option<Session>,
    observation: Option<Observation>,
}

/// A request of a rule that has sessions.
struct Session {
    sessions: Arc<Sessions>,
    /// What the client has said, if that still holds.
    known: Option<SessionToken>,
    backend: u64,
    affinity: Affinity,
    cookie: usize,
    secure: bool,
}

/// The future of a request to a backend, with who waits for its answer.
#[pin_project]
pub(super) struct Watched<F> {
    #[pin]
    inner: F,
    watch: Option<Box<Watch>>,
    cohort: Option<Cohort>,
}

enum By {
    Turns,
    Key(RequestKey),
    Cohort,
}

/// What is known of one backend.
struct Arm {
    cohort: Option<Cohort>,
    /// What tells other processes of the cohort.
    member: Option<HeaderValue>,
    /// The hash of its name, for sessions.
    id: u64,
    valid: bool,
    side: Side,
}

/// The shares of the backends.
struct Shares {
    weights: Box<[u32]>,
    turns: WeightedChoice,
    stable: Option<StableChoice>,
}

impl Choice {
    /// Of the rule at `index` of `route`. What `previous`, the same rule's before the configuration changed, has of state is
    /// taken over where it still fits: turns go on, and a rollout whose configuration stays is where it was.
    pub(super) fn new(
        rule: &config::Rule,
        route: &Arc<str>,
        index: usize,
        previous: Option<&Self>,
    ) -> Result<Self, InvalidSplit> {
        let by = match &rule.split {
            Split::Turns => By::Turns,
            Split::By(key) => By::Key(key_of(key)?),
            Split::Cohort => By::Cohort,
        };
        let sides = sides(rule)?;
        let several = rule.backends.len() > 1;
        let arms = rule.backends.iter().zip(&sides).map(|(backend, side)| {
            let named = backend.cohort.is_some();
            let cohort = (several || named).then(|| Cohort::new(route.clone(), cohort_of(backend)));
            Arm {
                member: cohort.as_ref().filter(|_| named).and_then(member),
                cohort,
                id: stable_hash(backend.name.as_bytes()),
                valid: backend.invalid.is_none(),
                side: *side,
            }
        });
        let arms: Box<[_]> = arms.collect();
        let rollout = match &rule.rollout {
            None => None,
            Some(config) => {
                let kept = previous.and_then(|previous| previous.rollout.as_ref());
                let kept = kept.filter(|kept| kept.config() == config).cloned();
                Some(kept.map_or_else(|| RolloutHandle::new(route.clone(), index, config.clone()), Ok)?)
            }
        };
        let shares = |weights: Box<[u32]>| {
            let same = |shares: &&Shares| shares.weights == weights;
            let kept = previous.and_then(|previous| previous.shares.iter().find(same));
            let names = rule.backends.iter().map(cohort_of);
            Shares {
                turns: kept.map_or_else(|| WeightedChoice::new(weights.iter().copied()), |kept| kept.turns.clone()),
                stable: matches!(by, By::Key(_)).then(|| StableChoice::new(names.zip(weights.iter().copied()))),
                weights,
            }
        };
        let weights: Box<[u32]> = rule.backends.iter().map(|backend| backend.weight).collect();
        let shares: Box<[_]> = match &rollout {
            None => [shares(weights)].into(),
            Some(rollout) => rollout.shares().map(|share| shares(shifted(&weights, &sides, share))).collect(),
        };
        let sessions = rule.session.as_ref().map(|config| Sessions::new(config, &rule.matches));
        let sessions = sessions.transpose()?.map(Arc::new);
        let only = match (&*rule.backends, &*arms) {
            ([backend], [Arm { cohort: None, .. }]) if backend.weight > 0 && sessions.is_none() => Some(0),
            _ => None,
        };
        Ok(Self { only, by, arms, shares, sessions, rollout })
    }

    /// The backend for this request; none if no backend has any weight. To be asked once a request, before its path is
    /// rewritten.
    pub(super) fn choose(&self, parts: &mut Parts) -> Option<Chosen<'_>> {
        if let Some(index) = self.only {
            return Some(Chosen { index, cohort: None, watch: None });
        }
        let known = self.sessions.as_ref().and_then(|sessions| self.session(sessions, parts));
        let index = match known {
            Some((index, _)) => index,
            None => self.shared_out(parts)?,
        };
        let arm = self.arms.get(index)?;
        if let Some(cohort) = &arm.cohort
            && let Some(exchange) = Exchange::of(&parts.extensions)
        {
            exchange.update(|record| record.cohort = Some(cohort.shared_name().clone()));
        }
        if let Some(member) = &arm.member {
            tell(&mut parts.headers, Some(member.clone()));
        }
        let session = self.sessions.as_ref().map(|sessions| {
            let known = known.map(|(_, token)| token);
            let affinity = Affinity::new(known.and_then(|token| token.endpoint));
            parts.extensions.insert(affinity.clone());
            Session {
                sessions: sessions.clone(),
                known,
                backend: arm.id,
                affinity,
                cookie: sessions.cookie(parts.uri.path()),
                secure: is_secure(parts),
            }
        });
        let observation = self.rollout.as_ref().map(|rollout| Observation::begin(rollout.clone(), arm.side));
        let watched = session.is_some() || observation.is_some();
        let watch = watched.then(|| Box::new(Watch { session, observation }));
        Some(Chosen { index, cohort: arm.cohort.as_ref(), watch })
    }

    /// The rule's rollout, to be watched and steered.
    pub(super) fn rollout(&self) -> Option<&RolloutHandle> {
        self.rollout.as_ref()
    }

    /// The backend of the request's session: one that may be used, and that was not taken back.
    fn session(&self, sessions: &Sessions, parts: &Parts) -> Option<(usize, SessionToken)> {
        let token = sessions.read(&parts.headers, wall())?;
        let index = self.arms.iter().position(|arm| arm.id == token.backend && arm.valid)?;
        let taken_back = self.arms.get(index)?.side == Side::Canary
            && self.rollout.as_ref().is_some_and(|rollout| rollout.share() == 0);
        (!taken_back).then_some((index, token))
    }

    fn shared_out(&self, parts: &Parts) -> Option<usize> {
        let shares = self.shares.get(self.rollout.as_ref().map_or(0, RolloutHandle::stage))?;
        let chosen = match &self.by {
            By::Turns => None,
            By::Key(key) => {
                shares.stable.as_ref().zip(key.of_parts(parts)).and_then(|(stable, hash)| stable.choose(hash))
            }
            By::Cohort => Cohort::in_force(&parts.extensions).and_then(|own| {
                let mut arms = self.arms.iter().zip(&shares.weights);
                arms.position(|(arm, weight)| {
                    *weight > 0 && arm.cohort.as_ref().is_some_and(|arm| arm.name() == own.name())
                })
            }),
        };
        chosen.or_else(|| shares.turns.choose())
    }
}

impl Watch {
    /// There is an answer: its head may be added to, and its body is watched to its end.
    pub(super) fn answered(self, response: &mut Response<Body>) {
        let Self { session, observation } = self;
        if let Some(session) = session {
            session.tell(response);
        }
        if let Some(observation) = observation {
            observation.answered(response);
        }
    }

    /// There is none.
    pub(super) fn failed(self, error: &Error) {
        if let Some(observation) = self.observation {
            observation.failed(Some(error.outcome()));
        }
    }
}

impl Session {
    fn tell(&self, response: &mut Response<Body>) {
        let endpoint = self.affinity.answerer();
        // What a layer of ours answers begins no session.
        let refused = response.extensions().get::<Outcome>().is_some_and(|told| *told != Outcome::Completed);
        if refused && endpoint.is_none() {
            return;
        }
        let wall = wall();
        if let Some(token) = self.sessions.next(self.known, self.backend, endpoint, wall) {
            self.sessions.write(&token, self.cookie, self.secure, wall, response.headers_mut());
        }
    }
}

impl<F> Watched<F> {
    /// `inner`, whose answer `watch` waits for.
    pub(super) fn new(inner: F, watch: Option<Box<Watch>>) -> Self {
        Self { inner, watch, cohort: None }
    }

    /// The same for a service of this process, which is called by `inner` and polled as of this cohort.
    pub(super) fn in_cohort(inner: impl FnOnce() -> F, cohort: Option<&Cohort>, watch: Option<Box<Watch>>) -> Self {
        let cohort = cohort.cloned();
        let inner = match &cohort {
            Some(cohort) => cohort.during(inner),
            None => inner(),
        };
        Self { inner, watch, cohort }
    }
}

impl<F> Future for Watched<F>
where
    F: Future<Output = Result<Response<Body>, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(match this.cohort {
            Some(cohort) => cohort.during(|| this.inner.poll(cx)),
            None => this.inner.poll(cx),
        });
        if let Some(watch) = this.watch.take() {
            match &mut answer {
                Ok(response) => watch.answered(response),
                Err(error) => watch.failed(error),
            }
        }
        Poll::Ready(answer)
    }
}

/// What a backend's requests are called, and what it is known by where users stay.
fn cohort_of(backend: &BackendRef) -> &str {
    backend.cohort.as_ref().unwrap_or(&backend.name)
}

/// Which backends are the canary's: those that have its name, else those of the cohort.
fn sides(rule: &config::Rule) -> Result<Vec<Side>, InvalidSplit> {
    let Some(rollout) = &rule.rollout else { return Ok(vec![Side::Stable; rule.backends.len()]) };
    let named = rule.backends.iter().any(|backend| backend.name == rollout.canary);
    let is_canary = |backend: &BackendRef| {
        if named { backend.name == rollout.canary } else { cohort_of(backend) == rollout.canary }
    };
    let side = |backend| if is_canary(backend) { Side::Canary } else { Side::Stable };
    let sides: Vec<_> = rule.backends.iter().map(side).collect();
    if !sides.contains(&Side::Canary) {
        return Err(InvalidSplit::UnknownCanary(rollout.canary.clone()));
    }
    if !rule.backends.iter().any(|backend| backend.weight > 0 && !is_canary(backend)) {
        return Err(InvalidSplit::NoStable(rollout.canary.clone()));
    }
    Ok(sides)
}

/// The weights with `share` percent of them for the canary. Several canaries share it by their weights, or evenly if
/// those are none.
fn shifted(weights: &[u32], sides: &[Side], share: u8) -> Box<[u32]> {
    let sum = |side| -> u128 {
        weights.iter().zip(sides).filter(|(_, one)| **one == side).map(|(weight, _)| u128::from(*weight)).sum()
    };
    let (stable, canary) = (sum(Side::Stable), sum(Side::Canary));
    let canaries = sides.iter().filter(|side| **side == Side::Canary).count() as u128;
    let share = u128::from(share.min(100));
    let wide = weights.iter().zip(sides).map(|(weight, side)| match (side, canary) {
        (Side::Stable, 0) => u128::from(*weight) * (100 - share) * canaries,
        (Side::Stable, _) => u128::from(*weight) * (100 - share) * canary,
        (Side::Canary, 0) => stable * share,
        (Side::Canary, _) => stable * share * u128::from(*weight),
    });
    let wide: Vec<u128> = wide.collect();
    let divisor = wide.iter().copied().fold(0, greatest_common_divisor).max(1);
    let greatest = wide.iter().copied().max().unwrap_or(0) / divisor;
    // What does not fit loses its last digits, but nobody all of his share.
    let scale = greatest.div_ceil(u32::MAX.into()).max(1);
    let narrow = |weight: u128| u32::try_from((weight / divisor).div_ceil(scale)).unwrap_or(u32::MAX);
    wide.into_iter().map(narrow).collect()
}

fn greatest_common_divisor(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Whether the client came by HTTPS, as far as is known: the field is ours, or a trusted peer's.
fn is_secure(parts: &Parts) -> bool {
    match parts.headers.get("x-forwarded-proto") {
        Some(proto) => proto.as_bytes().eq_ignore_ascii_case(b"https"),
        None => parts.extensions.get::<ConnectionInfo>().is_some_and(|info| info.scheme() == "https"),
    }
}

/// Seconds since 1970, for what other processes read.
fn wall() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
