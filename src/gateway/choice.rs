//! Which of a rule's backends a request goes to, and what is done about that when it is answered.
//!
//! The gateway's use of [`split`](crate::split): a [`Choice`] is compiled from a rule, chooses for a request, and hands out
//! a [`Watch`] where the answer matters: sessions write their token to it, rollouts judge by it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Response, request::Parts};
use pin_project::pin_project;
use thiserror::Error;

use crate::{
    Body, Error,
    balance::{RequestKey, WeightedChoice},
    config::{self, HashKey, Split},
    exchange::Exchange,
    split::{Cohort, StableChoice},
};

/// Which of a rule's backends requests go to.
pub(super) struct Choice {
    /// The only backend, where there is nothing to choose and nothing to tell.
    only: Option<usize>,
    by: By,
    arms: Box<[Arm]>,
    shares: Box<[Shares]>,
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
pub(super) struct Watch {}

/// The future of a request to a backend, with who waits for its answer.
#[pin_project]
pub(super) struct Watched<F> {
    #[pin]
    inner: F,
    watch: Option<Box<Watch>>,
    cohort: Option<Cohort>,
}

/// Why a rule's split cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidSplit {
    /// A header field's name is none.
    #[error("`{0}` is not a valid header field name: use letters, digits and `-`")]
    Header(String),
}

enum By {
    Turns,
    Key(RequestKey),
    Cohort,
}

/// What is known of one backend.
struct Arm {
    cohort: Option<Cohort>,
}

/// The shares of the backends.
struct Shares {
    weights: Box<[u32]>,
    turns: WeightedChoice,
    stable: Option<StableChoice>,
}

impl Choice {
    /// Of the rule at `index` of `route`. What `previous`, the same rule's before the configuration changed, has of state is
    /// taken over where it still fits.
    pub(super) fn new(
        rule: &config::Rule,
        route: &Arc<str>,
        _index: usize,
        previous: Option<&Self>,
    ) -> Result<Self, InvalidSplit> {
        let by = match &rule.split {
            Split::Turns => By::Turns,
            Split::By(key) => By::Key(key_of(key)?),
            Split::Cohort => By::Cohort,
        };
        let several = rule.backends.len() > 1;
        let names = || rule.backends.iter().map(|backend| backend.cohort.as_ref().unwrap_or(&backend.name).as_str());
        let arms = rule.backends.iter().zip(names()).map(|(backend, name)| Arm {
            cohort: (several || backend.cohort.is_some()).then(|| Cohort::new(route.clone(), name)),
        });
        let arms: Box<[_]> = arms.collect();
        let weights: Box<[u32]> = rule.backends.iter().map(|backend| backend.weight).collect();
        let kept = previous.and_then(|previous| previous.shares.iter().find(|shares| shares.weights == weights));
        let shares = Shares {
            turns: kept.map_or_else(|| WeightedChoice::new(weights.iter().copied()), |kept| kept.turns.clone()),
            stable: matches!(by, By::Key(_)).then(|| StableChoice::new(names().zip(weights.iter().copied()))),
            weights,
        };
        let only = match (&*arms, &*shares.weights) {
            ([Arm { cohort: None }], [weight]) if *weight > 0 => Some(0),
            _ => None,
        };
        Ok(Self { only, by, arms, shares: Box::new([shares]) })
    }

    /// The backend for this request; none if no backend has any weight. To be asked once a request, before its path is
    /// rewritten.
    pub(super) fn choose(&self, parts: &mut Parts) -> Option<Chosen<'_>> {
        if let Some(index) = self.only {
            return Some(Chosen { index, cohort: None, watch: None });
        }
        let index = self.shared_out(parts)?;
        let cohort = self.arms.get(index)?.cohort.as_ref();
        if let Some(cohort) = cohort
            && let Some(exchange) = Exchange::of(&parts.extensions)
        {
            exchange.update(|record| record.cohort = Some(cohort.shared_name().clone()));
        }
        Some(Chosen { index, cohort, watch: None })
    }

    fn shared_out(&self, parts: &Parts) -> Option<usize> {
        let shares = self.shares.first()?;
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
    pub(super) fn answered(self: Box<Self>, _response: &mut Response<Body>) {}

    /// There is none.
    pub(super) fn failed(self: Box<Self>, _error: &Error) {}
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

fn key_of(key: &HashKey) -> Result<RequestKey, InvalidSplit> {
    RequestKey::new(key).map_err(|_| match key {
        HashKey::Header(name) => InvalidSplit::Header(name.clone()),
        _ => InvalidSplit::Header(String::new()),
    })
}
