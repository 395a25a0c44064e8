//! A configuration becomes a snapshot that serves.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tower_layer::Layer;

use super::{
    listeners::{CompileError, ListenerError, Listeners, Parts},
    local::{Local, Locals},
};
#[cfg(feature = "tls")]
use crate::tls::{CertificateError, CertificateSet};
use crate::{
    balance::WeightedChoice,
    config::{self, BackendRef, Config, Endpoints},
    proxy::{Forward, ForwardLayer},
    route::TableError,
    upstream::{self, Upstream},
};

/// Everything that serves one configuration; immutable.
pub(super) struct Snapshot {
    pub(super) config: Arc<Config>,
    pub(super) listeners: Listeners,
    upstreams: HashMap<String, Serving>,
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

/// A compiled rule.
pub(super) struct Rule {
    choice: WeightedChoice,
    pub(super) backends: Vec<Backend>,
    pub(super) timeouts: Timeouts,
}

/// A rule's timeouts, without those that say "no limit".
#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) request: Option<Duration>,
    pub(super) attempt: Option<Duration>,
}

/// What answers a share of a rule's requests.
pub(super) struct Backend {
    pub(super) name: Arc<str>,
    pub(super) weight: u32,
    pub(super) target: Target,
}

pub(super) enum Target {
    Local(Local),
    Upstream(Forward<Upstream>),
    Invalid(Arc<str>),
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
        let rules = config.routes.iter().map(|route| {
            let rules = route.rules.iter().enumerate();
            rules.map(|(index, rule)| Ok(Arc::new(self.rule(&upstreams, route, index, rule)?))).collect()
        });
        let rules: Vec<Vec<Arc<Rule>>> = rules.collect::<Result<_, BuildError>>()?;
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
            upstreams,
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

    fn rule(
        &self,
        upstreams: &HashMap<String, Serving>,
        route: &config::Route,
        index: usize,
        rule: &config::Rule,
    ) -> Result<Rule, BuildError> {
        let backend = |backend: &BackendRef| {
            let target = if let Some(local) = self.locals.find(&backend.name) {
                Target::Local(local.clone())
            } else if let Some(why) = &backend.invalid {
                Target::Invalid(why.as_str().into())
            } else if let Some(serving) = upstreams.get(&backend.name) {
                let forward = self.forward.clone().tunnel_idle_timeout(serving.config.stream_idle_timeout);
                Target::Upstream(forward.layer(serving.upstream.clone()))
            } else {
                let mut known: Vec<_> = upstreams.keys().cloned().collect();
                known.extend(self.locals.names().map(str::to_owned));
                known.sort();
                return Err(BuildError::UnknownBackend {
                    route: route.name.clone(),
                    rule: index,
                    backend: backend.name.clone(),
                    known,
                });
            };
            Ok(Backend { name: backend.name.as_str().into(), weight: backend.weight, target })
        };
        Ok(Rule {
            choice: WeightedChoice::new(rule.backends.iter().map(|backend| backend.weight)),
            backends: rule.backends.iter().map(backend).collect::<Result<_, _>>()?,
            timeouts: rule.timeouts.into(),
        })
    }
}

impl Rule {
    pub(super) fn empty() -> Self {
        Self { choice: WeightedChoice::new([]), backends: Vec::new(), timeouts: config::Timeouts::default().into() }
    }

    /// The backend whose turn it is; none if no backend has any weight.
    pub(super) fn choose(&self) -> Option<&Backend> {
        self.backends.get(self.choice.choose()?)
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

    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.upstreams.values().map(|serving| &serving.upstream)
    }
}

impl Serving {
    /// The same upstream under its next configuration, if that leaves it as it is but for listed endpoints.
    fn kept(&self, next: &config::Upstream) -> Option<Self> {
        if *self.config == *next {
            return Some(Self { moved: false, ..self.clone() });
        }
        let (Endpoints::Static(_), Endpoints::Static(endpoints)) = (&self.config.endpoints, &next.endpoints) else {
            return None;
        };
        let moved = config::Upstream {
            endpoints: Endpoints::Static(endpoints.clone()),
            ..config::Upstream::clone(&self.config)
        };
        (moved == *next).then(|| Self { config: Arc::new(moved), upstream: self.upstream.clone(), moved: true })
    }
}

impl From<config::Timeouts> for Timeouts {
    fn from(timeouts: config::Timeouts) -> Self {
        let limit = |timeout: Option<Duration>| timeout.filter(|timeout| !timeout.is_zero());
        Self { request: limit(timeouts.request), attempt: limit(timeouts.backend_request) }
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
