//! A configuration becomes a snapshot that serves.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

use super::{
    identities::Identities,
    listeners::{CompileError, ListenerError, Listeners, Parts},
    local::Locals,
    mesh::{self, Services},
    rule::{Backends, Backing, KeptRate, Leaf, Rule, Scope},
    tables::Table,
    upstreams::{Standing, Upstreams},
};
#[cfg(feature = "tls")]
use crate::tls::{CertificateError, CertificateSet};
use crate::{
    BoxError,
    config::{self, BackendRef, Config, Conflicts, Endpoints},
    forwarded::ForwardedLayer,
    proxy::ForwardLayer,
    route::TableError,
    split::RolloutHandle,
    upstream::{self, Upstream},
};

/// Everything that serves one configuration; immutable, but for what is made at the first call.
pub(super) struct Snapshot {
    pub(super) config: Arc<Config>,
    pub(super) listeners: Listeners,
    pub(super) forwarded: Option<ForwardedLayer>,
    pub(super) services: Services,
    upstreams: Upstreams,
    /// The upstreams of services that no route leads to and that somebody has called.
    called: Mutex<Upstreams>,
    kept: Kept,
    #[cfg(feature = "tls")]
    pub(super) certificates: Arc<CertificateSet>,
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
    identities: Identities,
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
    pub(super) fn new(locals: Locals, identities: Identities, forward: ForwardLayer, bind: IpAddr) -> Self {
        Self { locals, identities, forward, bind }
    }

    fn standing(&self, config: &Arc<config::Upstream>, before: Option<&Standing>) -> Result<Standing, BuildError> {
        Standing::new(config, self.locals.find(&config.name), &self.identities, before)
    }

    /// Everything that can fail; what `previous` has and `config` keeps is taken over.
    pub(super) fn compile(&self, config: Config, previous: Option<&Snapshot>) -> Result<Snapshot, BuildError> {
        let upstreams = self.upstreams(&config, previous)?;
        let called = self.still_called(&config, &upstreams, previous);
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
                let rule = match self.rule(&upstreams, name, index, rule, before) {
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
        let known = |name: &str, backend: &BackendRef| self.leaf(&upstreams, name, 0, backend).map(drop);
        let services = Services::compile(&config, &rules, known)?;
        #[cfg(feature = "tls")]
        let certificates = Arc::new(CertificateSet::new(&config.certificates)?);
        let listeners = Listeners::compile(&Parts {
            config: &config,
            bind: self.bind,
            rules: &rules,
            upstream: &|name| upstreams.get(name)?.serving.as_ref().map(|serving| serving.upstream.clone()),
            #[cfg(feature = "tls")]
            certificates: &certificates,
            #[cfg(feature = "tls")]
            identities: &self.identities,
            previous: previous.map(|previous| (&previous.listeners, &*previous.config)),
        })?;
        Ok(Snapshot {
            listeners,
            forwarded: config.forwarded.clone().map(ForwardedLayer::configured),
            services,
            upstreams,
            called: Mutex::new(called),
            kept,
            #[cfg(feature = "tls")]
            certificates,
            config: Arc::new(config),
        })
    }

    fn upstreams(&self, config: &Config, previous: Option<&Snapshot>) -> Result<Upstreams, BuildError> {
        let mut upstreams = Upstreams::default();
        for upstream in &config.upstreams {
            let name = &upstream.name;
            if upstreams.get(name).is_some_and(|standing| standing.serving.is_some()) {
                return Err(BuildError::DuplicateUpstream { name: name.clone() });
            }
            let before = previous.and_then(|previous| previous.standing(name));
            let standing = self.standing(&Arc::new(upstream.clone()), before.as_ref())?;
            upstreams.insert(name, standing);
        }
        Ok(upstreams)
    }

    /// What goes on of the upstreams that services have for themselves. One that somebody calls for the first time while
    /// this is compiled is made again.
    fn still_called(&self, config: &Config, upstreams: &Upstreams, previous: Option<&Snapshot>) -> Upstreams {
        let mut called = Upstreams::default();
        let Some(previous) = previous else { return called };
        let ports = config.services.iter().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        for (service, port) in ports {
            let Some(upstream) = &port.upstream else { continue };
            let name = &upstream.name;
            let before = previous.called().get(name).cloned();
            // Not one that only requests from outside went to.
            let listed = || previous.upstreams.get(name).filter(|_| previous.services.serves(&service.name, port.port));
            let before = before.or_else(|| listed().cloned()).filter(|before| before.goes_on(upstream));
            let Some(before) = before.filter(|_| upstreams.get(name).is_none()) else { continue };
            // What cannot be made is for its next call to say.
            if let Ok(standing) = self.standing(upstream, Some(&before)) {
                called.insert(name, standing);
            }
        }
        called
    }

    /// The way to a service that no route governs, with what it needs.
    pub(super) fn alone(
        &self,
        snapshot: &Snapshot,
        service: &config::Service,
        port: &config::ServicePort,
    ) -> Result<Arc<Table>, BuildError> {
        let mut called = snapshot.called();
        let upstreams = match &port.upstream {
            Some(upstream) if snapshot.upstreams.get(&upstream.name).is_none() => {
                let name = &upstream.name;
                if called.get(name).is_none() {
                    called.insert(name, self.standing(upstream, None)?);
                }
                &*called
            }
            _ => &snapshot.upstreams,
        };
        self.table_alone(snapshot.config.conflicts, service, port, upstreams)
    }

    /// The same to be looked at: nothing is connected to or looked up.
    pub(super) fn alone_idle(
        &self,
        snapshot: &Snapshot,
        service: &config::Service,
        port: &config::ServicePort,
    ) -> Result<Arc<Table>, BuildError> {
        let own = port.upstream.as_ref().filter(|upstream| snapshot.upstreams.get(&upstream.name).is_none());
        let mut idle_ones = Upstreams::default();
        if let Some(upstream) = own {
            let idle = config::Upstream {
                endpoints: Endpoints::Static(Vec::new()),
                outlier_detection: None,
                health_check: None,
                ..config::Upstream::clone(upstream)
            };
            let standing = self.standing(&Arc::new(idle), None)?;
            idle_ones.insert(&upstream.name, standing);
        }
        let upstreams = if own.is_some() { &idle_ones } else { &snapshot.upstreams };
        self.table_alone(snapshot.config.conflicts, service, port, upstreams)
    }

    fn table_alone(
        &self,
        conflicts: Conflicts,
        service: &config::Service,
        port: &config::ServicePort,
        upstreams: &Upstreams,
    ) -> Result<Arc<Table>, BuildError> {
        let rule = |name: &str, rule: &config::Rule| self.rule(upstreams, &name.into(), 0, rule, None);
        mesh::table_alone(conflicts, service, port, rule)
    }

    fn rule(
        &self,
        upstreams: &Upstreams,
        route: &Arc<str>,
        index: usize,
        rule: &config::Rule,
        before: Option<&KeptRule>,
    ) -> Result<Rule, BuildError> {
        let find = |backend: &BackendRef| -> Result<_, BuildError> {
            let leaf = self.leaf(upstreams, route, index, backend)?;
            Ok(Backing { leaf, shared: upstreams.get(&backend.name).map(|standing| &*standing.policies) })
        };
        let rates = before.map_or(&[][..], |before| &before.rates);
        let choice = before.and_then(|before| before.backends.choice.as_ref());
        Scope { route, rule: index, find: &find, rates }.rule(rule, choice)
    }

    fn leaf(&self, upstreams: &Upstreams, route: &str, rule: usize, backend: &BackendRef) -> Result<Leaf, BuildError> {
        if let Some(local) = self.locals.find(&backend.name) {
            return Ok(Leaf::Local(local.clone()));
        }
        if let Some(why) = &backend.invalid {
            return Ok(Leaf::Invalid(why.as_str().into()));
        }
        let standing = upstreams.get(&backend.name).and_then(|standing| standing.serving.as_ref());
        let serving = standing.ok_or_else(|| {
            let mut known: Vec<_> = upstreams.serving().map(|serving| serving.config.name.clone()).collect();
            known.extend(self.locals.names().map(str::to_owned));
            known.sort();
            BuildError::UnknownBackend { route: route.to_owned(), rule, backend: backend.name.clone(), known }
        })?;
        let forward = self.forward.clone().tunnel_idle_timeout(serving.config.stream_idle_timeout);
        Ok(Leaf::Upstream(serving.upstream.clone(), forward))
    }
}

impl Snapshot {
    /// Moves the upstreams that were kept to the endpoints this snapshot has for them.
    pub(super) fn take_over(&self) {
        self.upstreams.take_over();
        self.called().take_over();
    }

    fn called(&self) -> MutexGuard<'_, Upstreams> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standing(&self, name: &str) -> Option<Standing> {
        self.upstreams.get(name).cloned().or_else(|| self.called().get(name).cloned())
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

    pub(super) fn upstreams(&self) -> Vec<Upstream> {
        let called = self.called();
        self.upstreams.serving().chain(called.serving()).map(|serving| serving.upstream.clone()).collect()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("rules", &self.listeners.len())
            .field("upstreams", &self.upstreams.serving().count())
            .finish_non_exhaustive()
    }
}
