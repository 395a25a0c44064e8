//! What one configuration does otherwise than another.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use super::listeners::{Family, shared_hosts};
use crate::{
    config::{
        Certificate, Config, Endpoints, Forwarded, Host, Listener, ListenerProtocol, MeshParent, Route, Service,
        StreamRoute, Upstream,
        words::{Shares, Stands, TrustDomains},
    },
    route::{self, TableError, diff_domains},
};

/// What changes for requests and connections when the configuration `old` gives way to `new`.
///
/// 1. Requests are compared class by class, as [`route::diff`](crate::route::diff()) does it: for each address with the
///    listeners there, for the routes that are attached to nothing, and for each service that calls of this process name.
///    Addresses where the same changes are told together.
/// 2. Listeners, streams, the endpoints and settings of upstreams that both have, and certificates are compared by name.
///
/// # Errors
/// When the routes of one of the two make no table; see [`RouteTable::compile`](crate::route::RouteTable::compile).
/// Whether both can be served otherwise, is for [`Gateway::builder`](super::Gateway::builder) to say.
///
/// # Example
/// ```
/// use portcullis::{config::{BackendRef, Config, Listener, Match, Route, Rule}, gateway};
///
/// let config = |backend| Config {
///     listeners: vec![Listener::http("public", 80)],
///     routes: vec![Route {
///         listeners: vec!["public".into()],
///         rules: vec![Rule { matches: vec![Match::prefix("/")], backends: vec![BackendRef::new(backend)], ..Rule::default() }],
///         ..Route::named("shop")
///     }],
///     ..Config::default()
/// };
/// assert!(gateway::diff(&config("web"), &config("web"))?.is_empty());
/// assert_eq!(
///     gateway::diff(&config("web"), &config("web-2"))?.to_string(),
///     "HTTP at port 80:\n  any other host, any other path\n    - route `shop`, rule 0: web\n    + route `shop`, rule 0: web-2\n"
/// );
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn diff(old: &Config, new: &Config) -> Result<ConfigDiff, TableError> {
    let mut diff = ConfigDiff::default();
    diff.push("listeners".to_owned(), listeners(old, new));
    diff.requests_of_listeners(old, new)?;
    diff.requests("requests where no listener is".to_owned(), &unattached(old), &unattached(new))?;
    diff.requests_of_services(old, new)?;
    diff.push("streams".to_owned(), named(&old.streams, &new.streams, |one| &one.name, &streams));
    diff.push("services".to_owned(), named(&old.services, &new.services, |one| &one.name, &services));
    diff.push("upstreams".to_owned(), upstreams(old, new));
    if old.forwarded != new.forwarded {
        diff.push("forwarded".to_owned(), vec![format!("- {}\n+ {}", forwarded(old), forwarded(new))]);
    }
    diff.push("certificates".to_owned(), certificates(&old.certificates, &new.certificates));
    Ok(diff)
}

/// What [`diff()`] found, part by part. Its `Display` is for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigDiff {
    parts: Vec<DiffPart>,
}

/// What changes in one place, or for one kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffPart {
    title: String,
    changes: Vec<String>,
    unexamined: Vec<String>,
}

/// The routes of one place, by the hosts that have it apart.
type Domains = Vec<(Host, Vec<Route>)>;

impl ConfigDiff {
    /// Whether nothing changes, as far as was looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.changes.is_empty())
    }

    /// What changes, by place and kind; and what could not be looked at.
    #[must_use]
    pub fn parts(&self) -> &[DiffPart] {
        &self.parts
    }

    fn push(&mut self, title: String, changes: Vec<String>) {
        if !changes.is_empty() {
            self.parts.push(DiffPart { title, changes, unexamined: Vec::new() });
        }
    }

    fn requests(&mut self, title: String, old: &Domains, new: &Domains) -> Result<(), TableError> {
        let diff = diff_domains(&borrowed(old), &borrowed(new))?;
        let changes: Vec<_> = diff.changes().iter().map(ToString::to_string).collect();
        let unexamined = diff.unexamined().to_vec();
        if !(changes.is_empty() && unexamined.is_empty()) {
            self.parts.push(DiffPart { title, changes, unexamined });
        }
        Ok(())
    }

    fn requests_of_listeners(&mut self, old: &Config, new: &Config) -> Result<(), TableError> {
        let (before, after) = (Places::of(old), Places::of(new));
        // Addresses with the same listeners are one place.
        let mut places: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for address in before.0.keys().chain(after.0.keys()) {
            places.entry((before.0.get(address), after.0.get(address))).or_default().insert(address);
        }
        for ((before, after), addresses) in places {
            let spoken = match addresses.first().map(|address| address.2) {
                Some(true) => "HTTPS",
                _ => "HTTP",
            };
            let at = addresses.iter().map(|(ip, port, _)| match ip {
                Some(ip) => std::net::SocketAddr::new(*ip, *port).to_string(),
                None => format!("port {port}"),
            });
            let title = format!("{spoken} at {}", at.collect::<Vec<_>>().join(", "));
            let domains = |config, listeners: Option<&Vec<usize>>| {
                listeners.map(|listeners| domains(config, listeners)).unwrap_or_default()
            };
            self.requests(title, &domains(old, before), &domains(new, after))?;
        }
        Ok(())
    }

    fn requests_of_services(&mut self, old: &Config, new: &Config) -> Result<(), TableError> {
        let parents = |config: &Config| -> BTreeMap<_, MeshParent> {
            let parents = config.routes.iter().flat_map(|route| &route.services).cloned();
            parents.map(|one| ((one.service.clone(), one.port, one.consumers.clone()), one)).collect()
        };
        let mut all = parents(old);
        all.extend(parents(new));
        for parent in all.values() {
            let port = parent.port.map_or_else(String::new, |port| format!(":{port}"));
            let consumers = parent.consumers.as_ref().map_or_else(String::new, |of| format!(" from namespace {of}"));
            let title = format!("calls of service {}{port}{consumers}", parent.service);
            let of = |config: &Config| -> Domains {
                let routes = config.routes.iter().filter(|route| route.services.contains(parent));
                // The callers' name for the service says nothing of the route's hosts.
                vec![(Host::Any, routes.map(|route| Route { hosts: Vec::new(), ..route.clone() }).collect())]
            };
            self.requests(title, &of(old), &of(new))?;
        }
        Ok(())
    }
}

impl DiffPart {
    /// The place or kind, in words.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What changes: a class of requests or a thing in the first line, what was and what is in those that follow.
    #[must_use]
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// What could not be looked at.
    #[must_use]
    pub fn unexamined(&self) -> &[String] {
        &self.unexamined
    }
}

impl fmt::Display for ConfigDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| part.fmt(f))
    }
}

impl fmt::Display for DiffPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.title)?;
        let mut lines = self.changes.iter().flat_map(|change| change.lines());
        lines.try_for_each(|line| writeln!(f, "  {line}"))?;
        self.unexamined.iter().try_for_each(|what| writeln!(f, "  not examined: {what}"))
    }
}

/// The listeners that requests come to, by address, port and whether over TLS. The address is the program's own where a
/// listener has none.
struct Places(BTreeMap<(Option<IpAddr>, u16, bool), Vec<usize>>);

impl Places {
    fn of(config: &Config) -> Self {
        let mut places: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            let tls = match Family::of(&listener.protocol) {
                Family::Http => false,
                Family::Tls => true,
                Family::Tcp => continue,
            };
            for ip in addresses(listener) {
                let place = places.entry((ip, listener.port, tls)).or_default();
                if !place.contains(&index) {
                    place.push(index);
                }
            }
        }
        Self(places)
    }
}

fn addresses(listener: &Listener) -> Vec<Option<IpAddr>> {
    match &*listener.addresses {
        [] => vec![None],
        some => some.iter().map(|ip| Some(ip.to_canonical())).collect(),
    }
}

fn borrowed(domains: &Domains) -> Vec<(Host, &[Route])> {
    domains.iter().map(|(host, routes)| (host.clone(), routes.as_slice())).collect()
}

/// What belongs to the hosts of these listeners. Those that serve no requests keep their hosts from the others.
fn domains(config: &Config, listeners: &[usize]) -> Domains {
    let listeners = || listeners.iter().filter_map(|&index| config.listeners.get(index));
    let hosts: BTreeSet<Host> = listeners().map(|listener| route::normal(&listener.host)).collect();
    let domain = |host: Host| {
        let names: Vec<&String> = listeners()
            .filter(|listener| listener.invalid.is_none() && route::normal(&listener.host) == host)
            .map(|listener| &listener.name)
            .collect();
        let attached = config.routes.iter().filter(|route| route.listeners.iter().any(|name| names.contains(&name)));
        let routes = attached.filter_map(|route| {
            let hosts = shared_hosts(&host, &route.hosts);
            (!hosts.is_empty()).then(|| Route { hosts, ..route.clone() })
        });
        let routes = routes.collect();
        (host, routes)
    };
    hosts.into_iter().map(domain).collect()
}

fn unattached(config: &Config) -> Domains {
    let free = config.routes.iter().filter(|route| route.listeners.is_empty() && route.services.is_empty());
    vec![(Host::Any, free.cloned().collect())]
}

/// The lines of two lists that differ, by name. Things of one name are one.
fn named<'a, T>(old: &'a [T], new: &'a [T], name: fn(&T) -> &str, words: &dyn Fn(&T) -> String) -> Vec<String> {
    let by_name = |list: &'a [T]| -> BTreeMap<&'a str, Vec<String>> {
        let mut map: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        list.iter().for_each(|one| map.entry(name(one)).or_default().push(words(one)));
        map.values_mut().for_each(|lines| lines.sort());
        map
    };
    let (before, after) = (by_name(old), by_name(new));
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    let changed = names.into_iter().filter(|name| before.get(name) != after.get(name));
    let side = |sign: char, lines: Option<&Vec<String>>| {
        let lines = lines.into_iter().flatten().map(|line| format!("\n  {sign} {line}"));
        lines.collect::<String>()
    };
    changed.map(|name| format!("{name}{}{}", side('-', before.get(name)), side('+', after.get(name)))).collect()
}

fn listeners(old: &Config, new: &Config) -> Vec<String> {
    let words = |listener: &Listener| {
        let at: Vec<_> = listener.addresses.iter().map(ToString::to_string).collect();
        let at = if at.is_empty() { String::new() } else { format!(" of {}", at.join(", ")) };
        let (spoken, ends) = match &listener.protocol {
            ListenerProtocol::Http => ("HTTP", None),
            ListenerProtocol::Https(ends) => ("HTTPS", Some(ends)),
            ListenerProtocol::Tls(ends) => ("TLS", Some(ends)),
            ListenerProtocol::TlsPassthrough => ("TLS, passed on", None),
            ListenerProtocol::Tcp => ("TCP", None),
        };
        let shows = ends.and_then(|ends| ends.identity.as_ref()).map(|name| format!(", shows identity {name}"));
        let shows = shows.unwrap_or_default();
        let asks = match ends.and_then(|ends| ends.client.as_ref()) {
            Some(client) => {
                let of = client.trust.as_ref().map(|bundles| format!(" of trust domains {}", TrustDomains(bundles)));
                format!(", asks for clients' certificates{} ({:?})", of.unwrap_or_default(), client.mode)
            }
            None => String::new(),
        };
        let invalid = listener.invalid.as_ref().map_or_else(String::new, |why| format!(", invalid: {why}"));
        format!("{spoken} at port {}{at}, host {}{shows}{asks}{invalid}", listener.port, listener.host)
    };
    let mut changes = named(&old.listeners, &new.listeners, |one| &one.name, &words);
    // What has no words of its own.
    for before in &old.listeners {
        let Some(after) = new.listeners.iter().find(|after| after.name == before.name) else { continue };
        if before != after && words(before) == words(after) {
            let other = "other certificates, or other authorities of its clients";
            changes.push(format!("{}\n  + {other}", before.name));
        }
    }
    changes
}

fn streams(route: &StreamRoute) -> String {
    let hosts: Vec<_> = route.hosts.iter().map(ToString::to_string).collect();
    let hosts = if hosts.is_empty() { "any name".to_owned() } else { hosts.join(", ") };
    format!("{hosts} at {}: {}", route.listeners.join(", "), Shares(&route.backends))
}

fn services(service: &Service) -> String {
    let port = |port: &crate::config::ServicePort| {
        format!("port {}: {}", port.port, Shares(std::slice::from_ref(&port.backend)))
    };
    service.ports.iter().map(port).collect::<Vec<_>>().join("; ")
}

/// Those that both have. What leads to one that comes or goes is told by routes and streams.
fn upstreams(old: &Config, new: &Config) -> Vec<String> {
    let after: BTreeMap<&str, &Upstream> = new.all_upstreams().collect();
    let before: BTreeMap<&str, &Upstream> = old.all_upstreams().collect();
    let changed = before.into_iter().filter_map(|(name, before)| {
        let after = *after.get(name)?;
        if normal(before) == normal(after) {
            return None;
        }
        let words = |upstream| Stands { upstream, no_endpoint: "503" }.to_string();
        let (was, is) = (words(before), words(after));
        if was == is {
            let what = if before.tls == after.tls { "other settings" } else { "other settings of TLS" };
            return Some(format!("{name}\n  + {what}"));
        }
        Some(format!("{name}\n  - {was}\n  + {is}"))
    });
    changed.collect()
}

/// The order of endpoints means nothing.
fn normal(upstream: &Upstream) -> Upstream {
    let mut upstream = upstream.clone();
    if let Endpoints::Static(endpoints) = &mut upstream.endpoints {
        endpoints.sort_by_key(|endpoint| (endpoint.address, endpoint.weight));
    }
    upstream
}

fn forwarded(config: &Config) -> String {
    let Some(settings) = &config.forwarded else { return "as the program chose".to_owned() };
    let networks: Vec<_> = settings.trust.iter().map(ToString::to_string).collect();
    let trusted = if networks.is_empty() { "nobody".to_owned() } else { networks.join(", ") };
    let Forwarded { trust: _, rfc7239, drop_underscores, protect, client_cert } = settings;
    format!(
        "trusts {trusted}, rfc7239 {rfc7239}, drop_underscores {drop_underscores}, protects {protect:?}, client \
         certificates {client_cert:?}"
    )
}

fn certificates(old: &[Certificate], new: &[Certificate]) -> Vec<String> {
    let words = |certificate: &Certificate| {
        let hosts: Vec<_> = certificate.hosts.iter().map(ToString::to_string).collect();
        if hosts.is_empty() { "for its own names".to_owned() } else { format!("for {}", hosts.join(", ")) }
    };
    let mut changes = named(old, new, |one| &one.origin, &words);
    for before in old {
        let mut others = new.iter().filter(|after| after.origin == before.origin && after.hosts == before.hosts);
        if others.next().is_some_and(|after| after != before) {
            changes.push(format!("{}\n  + another certificate {}", before.origin, words(before)));
        }
    }
    changes
}
