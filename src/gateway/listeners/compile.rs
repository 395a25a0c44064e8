//! From the configuration to its listeners.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Asked, Domain, Family, Kind, ListenerError, Listeners, Place};
#[cfg(feature = "tls")]
use crate::{
    config::{ClientValidationMode, Listener, Termination},
    gateway::identities::Identities,
    tls::{CertificateError, CertificateSet, CertificateSource, ClientCertificates, Identity, ServerTls, Trust},
};
use crate::{
    config::{Config, Conflicts, Host, ListenerProtocol, Route},
    gateway::{
        rule::Rule,
        streams::{self, StreamRule},
        tables::{Selection, Table, Tables},
    },
    route::{self, HostMap, TableError},
    upstream::Upstream,
};

/// What listeners are compiled from.
pub(in crate::gateway) struct Parts<'a> {
    pub(in crate::gateway) config: &'a Config,
    /// Where those without an address of their own listen.
    pub(in crate::gateway) bind: IpAddr,
    /// Of each route.
    pub(in crate::gateway) rules: &'a [Vec<Arc<Rule>>],
    pub(in crate::gateway) upstream: &'a dyn Fn(&str) -> Option<Upstream>,
    #[cfg(feature = "tls")]
    pub(in crate::gateway) certificates: &'a Arc<CertificateSet>,
    #[cfg(feature = "tls")]
    pub(in crate::gateway) identities: &'a Identities,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "what is kept is TLS"))]
    pub(in crate::gateway) previous: Option<(&'a Listeners, &'a Config)>,
}

/// Why listeners, or the tables behind them, cannot be compiled.
#[derive(Debug)]
pub(in crate::gateway) enum CompileError {
    Listener(ListenerError),
    Table(TableError),
}

impl From<ListenerError> for CompileError {
    fn from(error: ListenerError) -> Self {
        Self::Listener(error)
    }
}

impl From<TableError> for CompileError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

impl Listeners {
    pub(in crate::gateway) fn compile(parts: &Parts<'_>) -> Result<Self, CompileError> {
        let config = parts.config;
        let attached = Attached::of(config)?;
        let mut tables = Tables::new(config, parts.rules);
        let (mounted, unattached) = tables.elsewhere(&attached)?;
        let mut this = Self {
            places: HashMap::default(),
            asked: BTreeMap::new(),
            mounted,
            unattached,
            #[cfg(feature = "tls")]
            terminations: HashMap::new(),
        };
        let rules = config.streams.iter().map(|route| StreamRule::compile(route, parts.upstream));
        let rules: Vec<_> = rules.collect::<Result<_, _>>()?;
        let mut made: HashMap<Vec<usize>, Arc<Domain>> = HashMap::new();
        for (address, hosts) in places(parts)? {
            let mut place = Place { family: Family::Http, domains: HostMap::default() };
            let mut there = hosts.values().flatten().filter_map(|&index| config.listeners.get(index));
            if let Some(first) = there.clone().next() {
                let optional = there.all(|listener| listener.optional);
                this.asked.insert(address, Asked { listener: first.name.clone(), optional });
            }
            for (host, listeners) in hosts {
                let Some(first) = listeners.first().and_then(|&index| config.listeners.get(index)) else { continue };
                place.family = Family::of(&first.protocol);
                let domain = match made.entry(listeners) {
                    Entry::Occupied(made) => made.get().clone(),
                    Entry::Vacant(entry) => {
                        let domain = this.domain(parts, &attached, &mut tables, &rules, &host, entry.key())?;
                        entry.insert(Arc::new(domain)).clone()
                    }
                };
                place.domains.entry(&host, || domain);
            }
            this.places.insert(address, place);
        }
        Ok(this)
    }

    /// What the listeners of one host come to. There is more than one only where many authors share an address.
    #[cfg_attr(not(feature = "tls"), allow(clippy::unused_self, clippy::needless_pass_by_ref_mut))] // It keeps what ends TLS.
    fn domain(
        &mut self,
        parts: &Parts<'_>,
        attached: &Attached<'_>,
        tables: &mut Tables<'_>,
        rules: &[Arc<StreamRule>],
        host: &Host,
        listeners: &[usize],
    ) -> Result<Domain, CompileError> {
        let config = parts.config;
        let Some(listener) = listeners.first().and_then(|&index| config.listeners.get(index)) else {
            return Ok(Domain { name: "".into(), host: host.clone(), kind: Kind::Nothing, invalid: None });
        };
        let domain = |kind, invalid| Domain { name: listener.name.as_str().into(), host: host.clone(), kind, invalid };
        if let Some(why) = &listener.invalid {
            return Ok(domain(Kind::Nothing, Some(why.as_str().into())));
        }
        let streams = || {
            let attached = merged(listeners, &attached.streams).filter_map(|i| Some((i, config.streams.get(i)?)));
            streams::by_name(host, attached, rules)
        };
        let mut table = || tables.of(host, merged(listeners, &attached.routes));
        let kind = match &listener.protocol {
            ListenerProtocol::Http => Kind::Http(table()?),
            ListenerProtocol::TlsPassthrough => Kind::Passthrough(streams()),
            ListenerProtocol::Tcp => Kind::Tcp(streams().find(None).cloned()),
            #[cfg(feature = "tls")]
            ListenerProtocol::Https(ends) | ListenerProtocol::Tls(ends) => {
                let is_https = matches!(listener.protocol, ListenerProtocol::Https(_));
                match self.termination(parts, listener, ends, is_https) {
                    Ok(tls) if is_https => Kind::Https(tls, table()?),
                    Ok(tls) => Kind::Tls(tls, streams()),
                    // One of many authors must not take the others down.
                    Err(error) if config.conflicts == Conflicts::Oldest => {
                        tracing::warn!(listener = listener.name, %error, "a listener cannot be served");
                        return Ok(domain(Kind::Nothing, Some(error.to_string().into())));
                    }
                    Err(source) => return Err(ListenerError::Tls { listener: listener.name.clone(), source }.into()),
                }
            }
            #[cfg(not(feature = "tls"))]
            ListenerProtocol::Https(_) | ListenerProtocol::Tls(_) => {
                return Err(ListenerError::NoTls { listener: listener.name.clone() }.into());
            }
        };
        Ok(domain(kind, None))
    }

    /// The TLS of a listener; the same as before, with its sessions, where that would be no other.
    #[cfg(feature = "tls")]
    fn termination(
        &mut self,
        parts: &Parts<'_>,
        listener: &Listener,
        ends: &Termination,
        is_https: bool,
    ) -> Result<ServerTls, CertificateError> {
        let kept = parts.previous.and_then(|(previous, config)| {
            let before = config.listeners.iter().find(|before| before.name == listener.name)?;
            let same = before.protocol == listener.protocol
                && (!ends.certificates.is_empty()
                    || ends.identity.is_some()
                    || config.certificates == parts.config.certificates);
            previous.terminations.get(&listener.name).filter(|_| same).cloned()
        });
        let tls = match kept {
            Some(kept) => kept,
            None => {
                let identity = identity(parts, ends)?;
                let tls = match identity {
                    Some(identity) => server(identity.clone(), is_https)?,
                    None if ends.certificates.is_empty() => server(Fixed(parts.certificates.clone()), is_https)?,
                    None => server(Fixed(Arc::new(CertificateSet::new(&ends.certificates)?)), is_https)?,
                };
                match &ends.client {
                    None => tls,
                    Some(client) => {
                        let trust = Trust::of_clients(client, identity)?;
                        tls.client_certificates(match client.mode {
                            ClientValidationMode::Required => ClientCertificates::required(trust),
                            ClientValidationMode::Optional => ClientCertificates::optional(trust),
                            ClientValidationMode::Unverified => ClientCertificates::unverified(trust),
                        })
                    }
                }
            }
        };
        self.terminations.insert(listener.name.clone(), tls.clone());
        Ok(tls)
    }
}

/// The identity that a listener shows, if it names one.
#[cfg(feature = "tls")]
fn identity<'a>(parts: &Parts<'a>, ends: &Termination) -> Result<Option<&'a Identity>, CertificateError> {
    let Some(name) = &ends.identity else { return Ok(None) };
    if !ends.certificates.is_empty() {
        return Err(CertificateError::IdentityBesideCertificates);
    }
    let found = parts.identities.find(name);
    found.map(Some).map_err(|known| CertificateError::UnknownIdentity { name: name.clone(), known })
}

#[cfg(feature = "tls")]
fn server(source: impl CertificateSource, is_https: bool) -> Result<ServerTls, CertificateError> {
    let tls = if is_https { ServerTls::new(source) } else { ServerTls::for_streams(source) };
    tls.map_err(CertificateError::NoProvider)
}

/// Which routes are attached to which listeners, by number.
struct Attached<'a> {
    listeners: HashMap<&'a str, usize>,
    routes: Vec<Vec<usize>>,
    streams: Vec<Vec<usize>>,
}

impl<'a> Attached<'a> {
    fn of(config: &'a Config) -> Result<Self, ListenerError> {
        let mut this = Self {
            listeners: HashMap::with_capacity(config.listeners.len()),
            routes: vec![Vec::new(); config.listeners.len()],
            streams: vec![Vec::new(); config.listeners.len()],
        };
        for (index, listener) in config.listeners.iter().enumerate() {
            if this.listeners.insert(&listener.name, index).is_some() {
                return Err(ListenerError::Duplicate { name: listener.name.clone() });
            }
        }
        let names = &this.listeners;
        let attach = |lists: &mut Vec<Vec<usize>>, route: usize, name: &str, listener: &str, http: bool| {
            let found =
                names.get(listener).and_then(|&index| Some((config.listeners.get(index)?, lists.get_mut(index)?)));
            let Some((found, list)) = found else {
                return Err(ListenerError::Unknown { route: name.to_owned(), listener: listener.to_owned() });
            };
            if http != matches!(found.protocol, ListenerProtocol::Http | ListenerProtocol::Https(_)) {
                let kind = if http { "routes" } else { "streams" };
                let (route, listener) = (name.to_owned(), listener.to_owned());
                return Err(ListenerError::WrongKind { route, listener, kind });
            }
            list.push(route);
            Ok(())
        };
        for (index, route) in config.routes.iter().enumerate() {
            for listener in &route.listeners {
                attach(&mut this.routes, index, &route.name, listener, true)?;
            }
        }
        for (index, route) in config.streams.iter().enumerate() {
            for listener in &route.listeners {
                attach(&mut this.streams, index, &route.name, listener, false)?;
            }
        }
        Ok(this)
    }
}

/// What is attached to any of these listeners, each once, in the order in which it is written.
fn merged(listeners: &[usize], attached: &[Vec<usize>]) -> impl Iterator<Item = usize> {
    let lists = listeners.iter().filter_map(|&listener| attached.get(listener)).flatten();
    let mut all: Vec<usize> = lists.copied().collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
}

/// The hosts that are both a listener's and a route's, which may be for all of the listener's.
pub(in crate::gateway) fn shared_hosts(listener: &Host, route: &[Host]) -> Vec<Host> {
    if route.is_empty() {
        return vec![listener.clone()];
    }
    route.iter().filter_map(|host| listener.intersection(host)).collect()
}

type Places = BTreeMap<SocketAddr, BTreeMap<Host, Vec<usize>>>;

/// The listeners by address and host, by number. Those that serve come before those that do not.
fn places(parts: &Parts<'_>) -> Result<Places, ListenerError> {
    let listeners = &parts.config.listeners;
    let (valid, invalid): (Vec<_>, Vec<_>) =
        listeners.iter().enumerate().partition(|(_, listener)| listener.invalid.is_none());
    let mut places = Places::new();
    let mut families: HashMap<SocketAddr, usize> = HashMap::new();
    for (index, listener) in valid.into_iter().chain(invalid) {
        let own = listener.addresses.iter().copied();
        for ip in own.chain(listener.addresses.is_empty().then_some(parts.bind)) {
            let address = SocketAddr::new(ip.to_canonical(), listener.port);
            let first = *families.entry(address).or_insert(index);
            let hosts = places.entry(address).or_default();
            let place = hosts.entry(route::normal(&listener.host)).or_default();
            if place.contains(&index) {
                continue;
            }
            let of = |index: usize| listeners.get(index).unwrap_or(listener);
            let clash = if Family::of(&of(first).protocol) != Family::of(&listener.protocol) {
                Some((first, "they do not speak the same family of protocols"))
            } else {
                let host = place.first().copied();
                host.filter(|&host| {
                    let kinds = [of(host), listener].map(|one| std::mem::discriminant(&one.protocol));
                    // What one asks of clients, the other does not: joined, its routes would be open to them.
                    let asked = [of(host), listener]
                        .map(|one| one.protocol.client().map(|client| (client, one.protocol.identity())));
                    parts.config.conflicts == Conflicts::Refuse || kinds[0] != kinds[1] || asked[0] != asked[1]
                })
                .map(|host| (host, "they are for the same host"))
            };
            match clash {
                None => place.push(index),
                Some((with, why)) if parts.config.conflicts == Conflicts::Refuse => {
                    let (first, second) = (of(with).name.clone(), listener.name.clone());
                    return Err(ListenerError::Conflict { first, second, address, why });
                }
                Some((with, why)) => {
                    tracing::warn!(listener = listener.name, with = of(with).name, %address, why, "not served");
                    if place.is_empty() {
                        hosts.remove(&route::normal(&listener.host));
                    }
                }
            }
        }
    }
    Ok(places)
}

impl Tables<'_> {
    /// The table of a listener's host.
    fn of(&mut self, host: &Host, attached: impl Iterator<Item = usize>) -> Result<Arc<Table>, TableError> {
        let routes = &self.config.routes;
        let hosts = |index: usize| Some((index, shared_hosts(host, &routes.get(index)?.hosts)));
        let selection = attached.filter_map(hosts).filter(|(_, hosts)| !hosts.is_empty()).collect();
        self.make(selection, self.config.conflicts)
    }

    /// The tables of every route, and of those attached to nothing.
    fn elsewhere(&mut self, attached: &Attached<'_>) -> Result<(Arc<Table>, Option<Arc<Table>>), TableError> {
        let config = self.config;
        let free = |route: &Route| route.listeners.is_empty() && route.services.is_empty();
        let hosts = |route: &Route| {
            if route.listeners.is_empty() {
                return if route.hosts.is_empty() { vec![Host::Any] } else { route.hosts.clone() };
            }
            let found = |name: &String| config.listeners.get(*attached.listeners.get(name.as_str())?);
            let listeners = route.listeners.iter().filter_map(found);
            // Each once, as the listeners themselves ask for it: then a table they all lead to is the same.
            let mut seen = HashSet::new();
            let hosts = listeners.flat_map(|listener| shared_hosts(&listener.host, &route.hosts));
            hosts.filter(|host| seen.insert(host.clone())).collect()
        };
        let select = |wanted: &dyn Fn(&Route) -> bool| -> Selection {
            let routes = config.routes.iter().enumerate().filter(|(_, route)| wanted(route));
            routes.map(|(index, route)| (index, hosts(route))).filter(|(_, hosts)| !hosts.is_empty()).collect()
        };
        let unattached = select(&free);
        let unattached = if unattached.is_empty() { None } else { Some(self.make(unattached, config.conflicts)?) };
        // What different listeners have apart may ask the same.
        let conflicts = if config.listeners.is_empty() { config.conflicts } else { Conflicts::Oldest };
        let mounted = self.make(select(&|route| free(route) || !route.listeners.is_empty()), conflicts)?;
        Ok((mounted, unattached))
    }
}

#[cfg(feature = "tls")]
struct Fixed(Arc<CertificateSet>);

#[cfg(feature = "tls")]
impl CertificateSource for Fixed {
    fn certificates(&self) -> Arc<CertificateSet> {
        self.0.clone()
    }
}
