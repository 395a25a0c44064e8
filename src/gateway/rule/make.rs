//! A rule and its backends made from their configuration.

use std::sync::Arc;

use tower::ServiceExt;
use tower_layer::Layer;

use super::{
    Backend, Backends, KeptRate, Rule, Shared, Target, Way,
    backend::Choosing,
    filters::Filters,
    retry::{self, used_up},
    time::{Time, limit},
};
use crate::{
    BoxError,
    config::{self, BackendRef, Filter},
    gateway::{BuildError, choice::Choice, local::Local},
    proxy::ForwardLayer,
    retry::Budget,
    timeout::TimeoutLayer,
    upstream::Upstream,
};

/// What a rule is made with.
pub(in crate::gateway) struct Scope<'a> {
    pub(in crate::gateway) route: &'a Arc<str>,
    pub(in crate::gateway) rule: usize,
    pub(in crate::gateway) find: &'a dyn Fn(&BackendRef) -> Result<Backing<'a>, BuildError>,
    /// The limiters that the same rule had under the configuration before.
    pub(in crate::gateway) rates: &'a [KeptRate],
}

/// What a reference to a backend leads to.
pub(in crate::gateway) struct Backing<'a> {
    pub(in crate::gateway) leaf: Leaf,
    pub(in crate::gateway) shared: Option<&'a Shared>,
}

pub(in crate::gateway) enum Leaf {
    Local(Local),
    Upstream(Upstream, ForwardLayer),
    Invalid(Arc<str>),
}

impl Scope<'_> {
    /// The rule. `choice` is that of the same rule under the configuration before.
    pub(in crate::gateway) fn rule(&self, rule: &config::Rule, choice: Option<&Choice>) -> Result<Rule, BuildError> {
        let mut filters = Filters::new(self);
        let backends = rule.backends.iter().enumerate();
        let list = backends.map(|(index, backend)| self.backend(rule, index, backend, &mut filters));
        let list = list.collect::<Result<_, _>>()?;
        let choice = Choice::new(rule, self.route, self.rule, choice).map_err(|error| self.error("split", error))?;
        let backends = Arc::new(Backends { choice: Some(choice), list });
        // Retries and load shedding keep to what the request itself says too.
        let sheds = |backend| Ok((self.find)(backend)?.shared.is_some_and(Shared::sheds));
        let sheds = rule.backends.iter().map(sheds).collect::<Result<Vec<_>, BuildError>>()?.contains(&true);
        let heeds = rule.retry.is_some() || sheds;
        let time = Time::of(&rule.timeouts, heeds).map_err(|error| self.error("timeouts", error))?;
        let way = match &rule.invalid {
            Some(why) => Way::Refused(why.as_str().into()),
            None if rule.filters.is_empty() && !time.is_limited() => Way::Direct,
            None => {
                let rewrites = rule.filters.iter().any(|filter| matches!(filter, Filter::Rewrite(_)));
                let innermost = Local::new(Choosing(Arc::clone(&backends)));
                Way::Stack(filters.around_rule(&rule.filters, innermost, &time, rewrites)?)
            }
        };
        Ok(Rule { backends, way, attempt: rule.timeouts.backend_request, rates: filters.into_rates() })
    }

    fn backend(
        &self,
        rule: &config::Rule,
        index: usize,
        backend: &BackendRef,
        filters: &mut Filters<'_, '_>,
    ) -> Result<Backend, BuildError> {
        let Backing { leaf, shared } = (self.find)(backend)?;
        let stack = shared.and_then(Shared::stack).cloned();
        let attempt = limit(rule.timeouts.backend_request);
        let budget = || shared.map_or_else(Budget::default, |shared| shared.budget().clone());
        let retry = |per_try| {
            let layer = rule.retry.as_ref().map(|retry| retry::layer(retry, budget(), per_try));
            layer.transpose().map_err(|error| self.error("retry", error))
        };
        let plain = stack.is_none() && backend.filters.is_empty() && rule.retry.is_none();
        let target = match leaf {
            Leaf::Invalid(why) => Target::Invalid(why),
            Leaf::Upstream(upstream, forward) if plain => Target::Upstream(forward.layer(upstream)),
            Leaf::Upstream(upstream, forward) => {
                let inner = stack.unwrap_or_else(|| Local::new(upstream));
                let inner = filters.faults(index, &backend.filters, inner)?;
                let inner = match retry(None)? {
                    Some(retry) => Local::new(forward.layer(retry.layer(inner)).map_err(used_up)),
                    None => Local::new(forward.layer(inner)),
                };
                Target::Stack(filters.around_backend(index, &backend.filters, inner)?)
            }
            Leaf::Local(local) if plain && attempt.is_none() => Target::Local(local),
            Leaf::Local(local) => {
                let inner = filters.faults(index, &backend.filters, stack.unwrap_or(local))?;
                let inner = match (retry(attempt)?, attempt) {
                    (Some(retry), _) => Local::new(retry.layer(inner).map_err(used_up)),
                    (None, Some(attempt)) => Local::new(TimeoutLayer::new(attempt).layer(inner)),
                    (None, None) => inner,
                };
                Target::Local(filters.around_backend(index, &backend.filters, inner)?)
            }
        };
        Ok(Backend { name: backend.name.as_str().into(), weight: backend.weight, target })
    }

    /// What gets copies of requests, or questions about them; or why nothing does.
    pub(super) fn aside(&self, backend: &BackendRef) -> Result<Result<Local, Arc<str>>, BuildError> {
        let Backing { leaf, shared } = (self.find)(backend)?;
        let stack = shared.and_then(Shared::stack).cloned();
        Ok(match leaf {
            Leaf::Invalid(why) => Err(why),
            Leaf::Local(local) => Ok(stack.unwrap_or(local)),
            Leaf::Upstream(upstream, forward) => Ok(match stack {
                Some(stack) => Local::new(forward.layer(stack)),
                None => Local::new(forward.layer(upstream)),
            }),
        })
    }

    /// What is wrong with a part of the rule.
    pub(super) fn error(&self, part: impl Into<String>, source: impl Into<BoxError>) -> BuildError {
        BuildError::Rule { route: self.route.to_string(), rule: self.rule, part: part.into(), source: source.into() }
    }
}
