//! The upstreams of a snapshot, each with what stands around it.

use std::{collections::HashMap, sync::Arc};

use super::{BuildError, local::Local, rule::Shared};
use crate::{
    config::{self, Endpoints, check::refuse},
    upstream::Upstream,
};

/// Upstreams by name.
#[derive(Default)]
pub(super) struct Upstreams(HashMap<String, Standing>);

/// An upstream, or the service of this process that stands in for it.
#[derive(Clone)]
pub(super) struct Standing {
    /// None where there is a service in its place: no connections, no lookups.
    pub(super) serving: Option<Serving>,
    pub(super) policies: Arc<Shared>,
}

/// An upstream with the configuration that this snapshot has of it, which may list other endpoints than the one it was
/// first made from.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) config: Arc<config::Upstream>,
    pub(super) upstream: Upstream,
    /// Whether the endpoints have to be replaced when the snapshot takes over.
    moved: bool,
}

impl Upstreams {
    pub(super) fn get(&self, name: &str) -> Option<&Standing> {
        self.0.get(name)
    }

    pub(super) fn insert(&mut self, name: &str, standing: Standing) {
        self.0.insert(name.to_owned(), standing);
    }

    pub(super) fn serving(&self) -> impl Iterator<Item = &Serving> {
        self.0.values().filter_map(|standing| standing.serving.as_ref())
    }

    /// Moves those that were kept to the endpoints that the snapshot has for them.
    pub(super) fn take_over(&self) {
        for serving in self.serving().filter(|serving| serving.moved) {
            if let Endpoints::Static(endpoints) = &serving.config.endpoints {
                serving.upstream.set_endpoints(endpoints);
            }
        }
    }
}

impl Standing {
    /// What `before` has and `config` keeps is taken over.
    pub(super) fn new(
        config: &Arc<config::Upstream>,
        local: Option<&Local>,
        before: Option<&Self>,
    ) -> Result<Self, BuildError> {
        refuse(config.wrong())
            .map_err(|wrong| BuildError::Policy { upstream: config.name.clone(), problem: wrong.to_string() })?;
        let serving_before = before.and_then(|before| before.serving.as_ref());
        let (serving, innermost) = match local {
            Some(local) => (None, local.clone()),
            None => {
                let serving = match serving_before.and_then(|before| before.kept(config)) {
                    Some(kept) => kept,
                    None => Serving {
                        config: config.clone(),
                        upstream: Upstream::new(config::Upstream::clone(config))?,
                        moved: false,
                    },
                };
                let innermost = Local::new(serving.upstream.clone());
                (Some(serving), innermost)
            }
        };
        let stays = match (&serving, serving_before) {
            (Some(now), Some(before)) => now.upstream.is_same(&before.upstream),
            (None, None) => true,
            _ => false,
        };
        let policies = before.map(|before| &*before.policies);
        let policies = Arc::new(Shared::new(config, || innermost, policies, stays));
        Ok(Self { serving, policies })
    }

    /// Whether it goes on under this configuration with the connections that it has.
    pub(super) fn goes_on(&self, next: &config::Upstream) -> bool {
        self.serving.as_ref().is_none_or(|serving| serving.kept(next).is_some())
    }
}

impl Serving {
    /// The same upstream under its next configuration, if that leaves it as it is but for listed endpoints and what stands
    /// around it.
    fn kept(&self, next: &config::Upstream) -> Option<Self> {
        if *self.config == *next {
            return Some(Self { moved: false, ..self.clone() });
        }
        let mut same = config::Upstream {
            retry_budget: next.retry_budget.clone(),
            hedge: next.hedge.clone(),
            concurrency: next.concurrency.clone(),
            adaptive_concurrency: next.adaptive_concurrency.clone(),
            shed: next.shed.clone(),
            ..config::Upstream::clone(&self.config)
        };
        let mut moved = false;
        if let (Endpoints::Static(before), Endpoints::Static(endpoints)) = (&mut same.endpoints, &next.endpoints) {
            moved = before != endpoints;
            before.clone_from(endpoints);
        }
        (same == *next).then(|| Self { config: Arc::new(same), upstream: self.upstream.clone(), moved })
    }
}
