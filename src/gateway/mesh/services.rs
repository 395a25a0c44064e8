//! From the configuration to the rules of each service.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, OnceLock},
};

use crate::{
    config::{self, BackendRef, Config, Conflicts, Host, ServicePort},
    gateway::{
        BuildError,
        rule::Rule,
        tables::{Table, Tables},
    },
};

type Map<V> = HashMap<Box<str>, V, foldhash::fast::RandomState>;

/// The services of one configuration: by namespace, then by name.
#[derive(Default)]
pub(in crate::gateway) struct Services(Map<Map<Frontend>>);

/// What calls to one service are governed by.
struct Frontend {
    /// In the order of their numbers.
    ports: Box<[(u16, Governed)]>,
    /// The other ports, of a service that the configuration does not describe.
    others: Option<Governed>,
}

/// What calls to one port are governed by.
#[derive(Default)]
struct Governed {
    /// The consumers' own routes, by their namespace.
    consumers: Map<Arc<Table>>,
    /// The producer's routes.
    everyone: Option<Arc<Table>>,
    /// Without any, the way to the service itself.
    alone: Option<Alone>,
}

/// The way to a service's port that no route governs, made at the first call.
pub(super) struct Alone {
    /// The service's place in the configuration, and the port's in the service.
    at: (usize, usize),
    table: OnceLock<Arc<Table>>,
}

/// The rules for calls.
#[derive(Clone, Copy)]
pub(super) enum Rules<'s> {
    Of(&'s Arc<Table>),
    Alone(&'s Alone),
}

/// The service that an authority names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Called<'a> {
    host: Cow<'a, str>,
    /// None where the authority has a port that there is not.
    port: Option<u16>,
}

/// The routes of a service, by number, with the port they are for.
type Attached = Vec<(usize, Option<u16>)>;

/// The routes of a service, apart for each group.
#[derive(Default)]
struct Groups<'c> {
    producer: Attached,
    consumers: HashMap<&'c str, Attached>,
}

impl Services {
    /// `rules` are those of each route; `known` refuses a backend, of this name for the way to a service alone, that leads
    /// nowhere.
    pub(in crate::gateway) fn compile(
        config: &Config,
        rules: &[Vec<Arc<Rule>>],
        known: impl Fn(&str, &BackendRef) -> Result<(), BuildError>,
    ) -> Result<Self, BuildError> {
        let mut groups = HashMap::<&str, Groups<'_>>::new();
        for (index, route) in config.routes.iter().enumerate() {
            for parent in &route.services {
                let groups = groups.entry(&parent.service).or_default();
                let group = match &parent.consumers {
                    Some(namespace) => groups.consumers.entry(namespace).or_default(),
                    None => &mut groups.producer,
                };
                group.push((index, parent.port));
            }
        }
        let mut this = Self::default();
        let mut tables = Tables::new(config, rules);
        let mut own = HashMap::new();
        for (index, service) in config.services.iter().enumerate() {
            names(&service.name)?;
            let groups = groups.remove(&*service.name).unwrap_or_default();
            let mut ports = Vec::with_capacity(service.ports.len());
            for (number, port) in service.ports.iter().enumerate() {
                check_upstream(service, port, &mut own)?;
                let mut governed = groups.at(Some(port.port), &mut tables)?;
                if governed.everyone.is_none() {
                    if port.upstream.is_none() {
                        known(&name_alone(service, port), &port.backend)?;
                    }
                    governed.alone = Some(Alone { at: (index, number), table: OnceLock::new() });
                }
                ports.push((port.port, governed));
            }
            this.insert(&service.name, ports, None)?;
        }
        for (name, groups) in groups {
            let mut ports: Vec<u16> = groups.all().filter_map(|(_, port)| *port).collect();
            ports.sort_unstable();
            ports.dedup();
            let ports = ports.into_iter().map(|port| Ok((port, groups.at(Some(port), &mut tables)?)));
            let ports = ports.collect::<Result<_, BuildError>>()?;
            let others = groups.at(None, &mut tables)?;
            this.insert(name, ports, Some(others))?;
        }
        Ok(this)
    }

    fn insert(
        &mut self,
        service: &str,
        mut ports: Vec<(u16, Governed)>,
        others: Option<Governed>,
    ) -> Result<(), BuildError> {
        let (namespace, name) = names(service)?;
        ports.sort_by_key(|(port, _)| *port);
        if let Some((port, _)) = ports.windows(2).find_map(|two| match two {
            [one, other] if one.0 == other.0 => Some(one),
            _ => None,
        }) {
            return Err(refused(service, format!("it has port {port} twice")));
        }
        let frontend = Frontend { ports: ports.into(), others };
        match self.0.entry(namespace.into()).or_default().insert(name.into(), frontend) {
            None => Ok(()),
            Some(_) => Err(refused(service, "there are two of that name")),
        }
    }

    /// Whether calls to this port have led somewhere, or may have, as a route governs them.
    pub(in crate::gateway) fn serves(&self, service: &str, port: u16) -> bool {
        let frontend = service.split_once('/').and_then(|(of, name)| self.0.get(of)?.get(name));
        frontend.and_then(|frontend| frontend.at(port)).is_some_and(|governed| {
            let is_made = governed.alone.as_ref().is_some_and(|alone| alone.made().is_some());
            is_made || governed.everyone.is_some() || !governed.consumers.is_empty()
        })
    }

    /// The rules for calls that callers of `namespace` make, or why there are none.
    pub(super) fn rules(&self, called: &Called<'_>, namespace: &str, domain: &str) -> Result<Rules<'_>, Unknown> {
        let Some((of, name)) = called.service(namespace, domain) else {
            return Err(Unknown::Host(called.host.to_string()));
        };
        let frontend = self.0.get(of).and_then(|services| services.get(name));
        let frontend = frontend.ok_or_else(|| Unknown::Service(format!("{of}/{name}")))?;
        let no_port = || match called.port {
            Some(port) => Unknown::Port(format!("{of}/{name}"), port),
            None => Unknown::NoPort,
        };
        let governed = called.port.and_then(|port| frontend.at(port)).ok_or_else(no_port)?;
        let routes = governed.consumers.get(namespace).or(governed.everyone.as_ref()).map(Rules::Of);
        routes.or_else(|| governed.alone.as_ref().map(Rules::Alone)).ok_or_else(no_port)
    }
}

impl Alone {
    pub(super) fn made(&self) -> Option<&Arc<Table>> {
        self.table.get()
    }

    pub(super) fn table(
        &self,
        config: &Config,
        make: impl FnOnce(&config::Service, &ServicePort) -> Result<Arc<Table>, BuildError>,
    ) -> Result<&Arc<Table>, BuildError> {
        if let Some(table) = self.made() {
            return Ok(table);
        }
        let (service, port) = self.of(config)?;
        let made = make(service, port)?;
        // Whoever was faster: both lead to the same upstream.
        Ok(self.table.get_or_init(|| made))
    }

    /// What it leads to, in the configuration that it was compiled from.
    pub(super) fn of<'c>(&self, config: &'c Config) -> Result<(&'c config::Service, &'c ServicePort), BuildError> {
        let service = config.services.get(self.at.0);
        let port = service.and_then(|service| Some((service, service.ports.get(self.at.1)?)));
        port.ok_or_else(|| refused(&format!("number {}", self.at.0), "the configuration has no such port"))
    }
}

/// The one rule for calls to a service's port that no route governs.
pub(in crate::gateway) fn table_alone(
    conflicts: Conflicts,
    service: &config::Service,
    port: &ServicePort,
    make: impl Fn(&str, &config::Rule) -> Result<Rule, BuildError>,
) -> Result<Arc<Table>, BuildError> {
    let name = name_alone(service, port);
    let rule = config::Rule { backends: vec![port.backend.clone()], ..Default::default() };
    let target = Arc::new(make(&name, &rule)?);
    let route = config::Route { rules: vec![rule], ..config::Route::named(name) };
    Ok(Arc::new(Table::compile(&[route], conflicts, |_, _| target.clone())?))
}

/// Refuses an upstream of a port that would not be the one its calls go to. `own` are those of the ports before.
fn check_upstream<'c>(
    service: &config::Service,
    port: &'c ServicePort,
    own: &mut HashMap<&'c str, &'c config::Upstream>,
) -> Result<(), BuildError> {
    let Some(upstream) = port.upstream.as_deref() else { return Ok(()) };
    if upstream.name != port.backend.name {
        let problem = format!("the upstream of port {} is not its backend `{}`", port.port, port.backend.name);
        return Err(refused(&service.name, problem));
    }
    match own.entry(&upstream.name) {
        Entry::Occupied(other) if *other.get() != upstream => {
            Err(BuildError::DuplicateUpstream { name: upstream.name.clone() })
        }
        entry => {
            entry.or_insert(upstream);
            Ok(())
        }
    }
}

/// What calls to a service are called that no route governs.
pub(in crate::gateway) fn name_alone(service: &config::Service, port: &ServicePort) -> String {
    format!("{}:{}", service.name, port.port)
}

/// Why a call has no rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unknown {
    #[error("`{0}` is not a service's name: write `service.namespace`")]
    Host(String),
    #[error("there is no service `{0}` in the configuration")]
    Service(String),
    #[error("service `{0}` has no port {1} that this caller's calls could be for")]
    Port(String, u16),
    #[error("the port is not a number from 0 to 65535")]
    NoPort,
}

impl Frontend {
    fn at(&self, port: u16) -> Option<&Governed> {
        let known = self.ports.binary_search_by_key(&port, |(port, _)| *port).ok();
        known.and_then(|index| self.ports.get(index)).map(|(_, governed)| governed).or(self.others.as_ref())
    }
}

impl Groups<'_> {
    fn all(&self) -> impl Iterator<Item = &(usize, Option<u16>)> {
        self.producer.iter().chain(self.consumers.values().flatten())
    }

    /// What governs the calls to a port; without one, to a port that no route names.
    fn at(&self, port: Option<u16>, tables: &mut Tables<'_>) -> Result<Governed, BuildError> {
        let mut governed = Governed { everyone: table(&self.producer, port, tables)?, ..Governed::default() };
        for (namespace, attached) in &self.consumers {
            if let Some(table) = table(attached, port, tables)? {
                governed.consumers.insert((*namespace).into(), table);
            }
        }
        Ok(governed)
    }
}

/// Namespace and name of `namespace/service`.
fn names(service: &str) -> Result<(&str, &str), BuildError> {
    let names = config::Service::split(service);
    names.ok_or_else(|| refused(service, "its name is not `namespace/service`, in small letters, digits and `-`"))
}

fn refused(service: &str, problem: impl Into<String>) -> BuildError {
    BuildError::Service { service: service.to_owned(), problem: problem.into() }
}

/// The table of those that are for this port, if any is.
fn table(
    attached: &[(usize, Option<u16>)],
    port: Option<u16>,
    tables: &mut Tables<'_>,
) -> Result<Option<Arc<Table>>, BuildError> {
    let fits = |(_, wanted): &&(usize, Option<u16>)| wanted.is_none() || *wanted == port;
    // In a mesh hosts mean nothing (GEP-1294).
    let mut selection: Vec<_> = attached.iter().filter(fits).map(|(route, _)| (*route, vec![Host::Any])).collect();
    // A route may name a service more than once.
    selection.dedup();
    let conflicts = tables.config.conflicts;
    Ok(if selection.is_empty() { None } else { Some(tables.make(selection, conflicts)?) })
}

impl<'a> Called<'a> {
    /// `authority` is a host with an optional port.
    pub(super) fn of(authority: &'a str, default_port: u16) -> Self {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, ""),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_lower = !host.bytes().any(|byte| byte.is_ascii_uppercase());
        Self {
            host: if is_lower { host.into() } else { host.to_ascii_lowercase().into() },
            port: if port.is_empty() { Some(default_port) } else { port.parse().ok() },
        }
    }

    /// Namespace and name, as callers of `namespace` mean it.
    fn service<'s>(&'s self, namespace: &'s str, domain: &str) -> Option<(&'s str, &'s str)> {
        let Some((name, rest)) = self.host.split_once('.') else { return Some((namespace, &self.host)) };
        let in_domain = rest.strip_suffix(domain).and_then(|rest| rest.strip_suffix(".svc."));
        let namespace = in_domain.or_else(|| rest.strip_suffix(".svc")).unwrap_or(rest);
        Some((namespace, name)).filter(|_| !namespace.contains('.'))
    }
}

impl fmt::Display for Called<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.iter().try_for_each(|port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().flat_map(|(ns, all)| all.keys().map(move |name| (ns, name)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_resolvers_in_the_cluster_do() {
        for (authority, port, service) in [
            ("cart", Some(80), Some(("web", "cart"))),
            ("Cart:8080", Some(8080), Some(("web", "cart"))),
            ("cart:", Some(80), Some(("web", "cart"))),
            ("cart.shop", Some(80), Some(("shop", "cart"))),
            ("cart.shop.svc", Some(80), Some(("shop", "cart"))),
            ("cart.shop.svc.cluster.local", Some(80), Some(("shop", "cart"))),
            ("cart.shop.svc.cluster.local.:81", Some(81), Some(("shop", "cart"))),
            ("cart.svc", Some(80), Some(("svc", "cart"))),
            ("cart.svc.svc", Some(80), Some(("svc", "cart"))),
            ("cart.shop.svc.other.example", Some(80), None),
            ("cart.shop.cluster.local", Some(80), None),
            ("cart.shopsvc.cluster.local", Some(80), None),
            ("pod.cart.shop.svc.cluster.local", Some(80), None),
            ("cart.shop:65536", None, Some(("shop", "cart"))),
            ("10.0.0.1:80", Some(80), None),
            ("[::1]:81", Some(81), Some(("web", "[::1]"))),
            ("[::1]", Some(80), Some(("web", "[::1]"))),
        ] {
            let called = Called::of(authority, 80);
            assert_eq!((called.port, called.service("web", "cluster.local")), (port, service), "{authority}");
        }
        let called = Called::of("cart.shop.svc.example.org", 80);
        assert_eq!(called.service("web", "example.org"), Some(("shop", "cart")));
    }
}
