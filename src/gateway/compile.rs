//! A configuration becomes a snapshot that serves.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use thiserror::Error;

use super::{
    listeners::{CompileError, ListenerError, Listeners, Parts},
    local::{Local, Locals},
    mesh::Services,
    rule::{self, Backends, Backing, KeptRate, Leaf, Rule, Scope, Shared},
};
#[cfg(feature = "tls")]
use crate::tls::{CertificateError, CertificateSet};
use crate::{
    BoxError,
    config::{self, BackendRef, Config, Conflicts, Endpoints},
    proxy::ForwardLayer,
    route::TableError,
    split::RolloutHandle,
    upstream::{self, Upstream},
};

/// Everything that serves one configuration; immutable.
pub(super) struct Snapshot {
    pub(super) config: Arc<Config>,
    pub(super) listeners: Listeners,
    pub(super) services: Services,
    upstreams: HashMap<String, Serving>,
    /// The policies of the upstreams, those that services of this process stand in for included.
    policies: HashMap<String, Shared>,
    kept: Kept,
    #[cfg(feature = "tls")]
    pub(super) certificates: Arc<CertificateSet>,
}

/// An upstream with the configuration that this snapshot has of it, which may list other endpoints than the one it was
/// first made from.
#[derive(Clone)]
struct Serving {
    config: Arc<config::Upstream>,
    upstream: Upstream,
    /// Whether the endpoints have to be replaced when the snapshot takes over.
    moved: bool,
}

/// What a rule keeps when the configuration changes around it: by the route's name, its place among those of that name, and
/// the rule's place in it.
type Kept = HashMap<(Arc<str>, usize, usize), KeptRule>;

struct KeptRule {
    backends: Arc<Backends>,
    rates: Arc<[KeptRate]>,
}

/// What every snapshot of a gateway is made with.
pub(super) struct Compiler {
    locals: Locals,
    forward: ForwardLayer,
    /// Where listeners without an address of their own listen.
    bind: IpAddr,
}

/// Why a configuration cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Its routes do not make a table.
    #[error(transparent)]
    Routes(#[from] TableError),
    /// Its listeners cannot be served.
    #[error(transparent)]
    Listeners(#[from] ListenerError),
    /// Two upstreams have one name.
    #[error("there are two upstreams named `{name}`: give each a name of its own")]
    DuplicateUpstream {
        /// The name.
        name: String,
    },
    /// A backend names nothing.
    #[error(
        "route `{route}`, rule {rule}: there is no upstream and no local service named `{backend}`{}",
        list(.known)
    )]
    UnknownBackend {
        /// The route's name.
        route: String,
        /// The rule's place in the route, from 0.
        rule: usize,
        /// The name that was not found.
        backend: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A service, or a route that governs calls to it, says what cannot be.
    #[error("service `{service}`: {problem}")]
    Service {
        /// The service's name.
        service: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A part of a rule is not usable.
    #[error("route `{route}`, rule {rule}, {part}: {source}")]
    Rule {
        /// The route's name.
        route: String,
        /// The rule's place in the route, from 0.
        rule: usize,
        /// The part: `filter 2`, `backend 0, filter 1`, `retry`, `split`.
        part: String,
        /// What is wrong, and how to mend it.
        source: BoxError,
    },
    /// What stands around an upstream is not usable.
    #[error("upstream `{upstream}`, {problem}")]
    Policy {
        /// The upstream's name.
        upstream: String,
        /// The field, and what is wrong with it.
        problem: String,
    },
    /// An upstream is not usable.
    #[error(transparent)]
    Upstream(#[from] upstream::BuildError),
    /// A certificate is not usable.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl From<CompileError> for BuildError {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Listener(error) => error.into(),
            CompileError::Table(error) => error.into(),
        }
    }
}

fn list(known: &[String]) -> String {
    match known {
        [] => String::new(),
        known => format!("; there are: {}", known.join(", ")),
    }
}

impl Compiler {
    pub(super) fn new(locals: Locals, forward: ForwardLayer, bind: IpAddr) -> Self {
        Self { locals, forward, bind }
    }

    /// Everything that can fail; what `previous` has and `config` keeps is taken over.
    pub(super) fn compile(&self, config: Config, previous: Option<&Snapshot>) -> Result<Snapshot, BuildError> {
        let upstreams = self.upstreams(&config, previous)?;
        let policies = self.policies(&config, &upstreams, previous)?;
        let mut rules: Vec<Vec<Arc<Rule>>> = Vec::with_capacity(config.routes.len());
        let mut kept = Kept::new();
        let mut names = HashMap::<&str, (Arc<str>, usize)>::new();
        for route in &config.routes {
            let (name, count) = names.entry(&route.name).or_insert_with(|| (route.name.as_str().into(), 0));
            *count += 1;
            let mut compiled = Vec::with_capacity(route.rules.len());
            for (index, rule) in route.rules.iter().enumerate() {
                let key = (name.clone(), *count, index);
                let before = previous.and_then(|previous| previous.kept.get(&key));
                let rule = match self.rule(&upstreams, &policies, name, index, rule, before) {
                    // Where many write one table, nobody's mistake is everyone's.
                    Err(error @ BuildError::Rule { .. }) if config.conflicts == Conflicts::Oldest => {
                        tracing::warn!(%error, "the rule is answered 500");
                        Rule::refused(error.to_string())
                    }
                    rule => rule?,
                };
                kept.insert(key, KeptRule { backends: rule.backends.clone(), rates: rule.rates.clone() });
                compiled.push(Arc::new(rule));
            }
            rules.push(compiled);
        }
        let services = Services::compile(&config, &rules, |name, rule| {
            self.rule(&upstreams, &policies, &name.into(), 0, rule, None)
        })?;
        #[cfg(feature = "tls")]
        let certificates = Arc::new(CertificateSet::new(&config.certificates)?);
        let listeners = Listeners::compile(&Parts {
            config: &config,
            bind: self.bind,
            rules: &rules,
            upstream: &|name| upstreams.get(name).map(|serving| serving.upstream.clone()),
            #[cfg(feature = "tls")]
            certificates: &certificates,
            previous: previous.map(|previous| (&previous.listeners, &*previous.config)),
        })?;
        Ok(Snapshot {
            listeners,
            services,
            upstreams,
            policies,
            kept,
            #[cfg(feature = "tls")]
            certificates,
            config: Arc::new(config),
        })
    }

    fn upstreams(&self, config: &Config, previous: Option<&Snapshot>) -> Result<HashMap<String, Serving>, BuildError> {
        let mut upstreams = HashMap::with_capacity(config.upstreams.len());
        for upstream in &config.upstreams {
            // A local service stands in for it: no connections, no lookups.
            if self.locals.find(&upstream.name).is_some() {
                continue;
            }
            let Entry::Vacant(entry) = upstreams.entry(upstream.name.clone()) else {
                return Err(BuildError::DuplicateUpstream { name: upstream.name.clone() });
            };
            let kept = previous.and_then(|previous| previous.upstreams.get(&upstream.name)?.kept(upstream));
            entry.insert(match kept {
                Some(kept) => kept,
                None => Serving {
                    config: Arc::new(upstream.clone()),
                    upstream: Upstream::new(upstream.clone())?,
                    moved: false,
                },
            });
        }
        Ok(upstreams)
    }

    fn policies(
        &self,
        config: &Config,
        upstreams: &HashMap<String, Serving>,
        previous: Option<&Snapshot>,
    ) -> Result<HashMap<String, Shared>, BuildError> {
        let policies = config.upstreams.iter().map(|upstream| {
            let name = &upstream.name;
            let before = previous.and_then(|previous| previous.policies.get(name));
            let serving = upstreams.get(name);
            let stays = previous.is_some_and(|previous| match (serving, previous.upstreams.get(name)) {
                (Some(now), Some(before)) => now.upstream.is_same(&before.upstream),
                (None, None) => true,
                _ => false,
            });
            let innermost = || match (serving, self.locals.find(name)) {
                (Some(serving), _) => Local::new(serving.upstream.clone()),
                (None, Some(local)) => local.clone(),
                (None, None) => rule::refusing("the upstream is gone".into()),
            };
            Ok((name.clone(), Shared::new(upstream, innermost, before, stays)?))
        });
        policies.collect()
    }

    fn rule(
        &self,
        upstreams: &HashMap<String, Serving>,
        policies: &HashMap<String, Shared>,
        route: &Arc<str>,
        index: usize,
        rule: &config::Rule,
        before: Option<&KeptRule>,
    ) -> Result<Rule, BuildError> {
        let unknown = |backend: &BackendRef| {
            let mut known: Vec<_> = upstreams.keys().cloned().collect();
            known.extend(self.locals.names().map(str::to_owned));
            known.sort();
            BuildError::UnknownBackend { route: route.to_string(), rule: index, backend: backend.name.clone(), known }
        };
        let find = |backend: &BackendRef| -> Result<_, BuildError> {
            if let Some(local) = self.locals.find(&backend.name) {
                return Ok(Leaf::Local(local.clone()));
            }
            if let Some(why) = &backend.invalid {
                return Ok(Leaf::Invalid(why.as_str().into()));
            }
            let serving = upstreams.get(&backend.name).ok_or_else(|| unknown(backend))?;
            let forward = self.forward.clone().tunnel_idle_timeout(serving.config.stream_idle_timeout);
            Ok(Leaf::Upstream(serving.upstream.clone(), forward))
        };
        let find = |backend: &BackendRef| -> Result<_, BuildError> {
            let leaf = find(backend)?;
            Ok(Backing { leaf, shared: policies.get(&backend.name) })
        };
        let rates = before.map_or(&[][..], |before| &before.rates);
        let choice = before.and_then(|before| before.backends.choice.as_ref());
        Scope { route, rule: index, find: &find, rates }.rule(rule, choice)
    }
}

impl Snapshot {
    /// Moves the upstreams that were kept to the endpoints this snapshot has for them.
    pub(super) fn take_over(&self) {
        for serving in self.upstreams.values().filter(|serving| serving.moved) {
            if let Endpoints::Static(endpoints) = &serving.config.endpoints {
                serving.upstream.set_endpoints(endpoints);
            }
        }
    }

    /// What a rule of its tables was compiled from.
    pub(super) fn rule(&self, rule: &Rule) -> Option<&config::Rule> {
        let mut kept = self.kept.iter();
        let ((name, number, index), _) = kept.find(|(_, kept)| Arc::ptr_eq(&kept.backends, &rule.backends))?;
        let mut routes = self.config.routes.iter().filter(|route| *route.name == **name);
        routes.nth(number.checked_sub(1)?)?.rules.get(*index)
    }

    /// The rollouts of its rules, with their routes' names.
    pub(super) fn rollouts(&self) -> impl Iterator<Item = (&Arc<str>, &RolloutHandle)> {
        self.kept.iter().filter_map(|((route, ..), rule)| Some((route, rule.backends.choice.as_ref()?.rollout()?)))
    }

    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.upstreams.values().map(|serving| &serving.upstream)
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

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("rules", &self.listeners.len())
            .field("upstreams", &self.upstreams.len())
            .finish_non_exhaustive()
    }
}
