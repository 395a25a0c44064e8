//! Why a request goes where it goes, with the backends at the end of it.

use std::{collections::HashMap, fmt, sync::Arc};

use http::Request;

use super::{
    compile::Snapshot,
    listeners::{Domain, Family, Kind},
    rule::{Backend, Rule, Target},
    streams::StreamRule,
    tables::Table,
};
use crate::{
    Outcome,
    config::{
        self,
        words::{Does, Stands},
    },
    connection::ConnectionInfo,
    respond::{Dialect, told},
    route::{
        self, HostMap,
        path::{InvalidPath, normalize_uri},
    },
};

/// Where a request goes under a gateway's configuration, and why the other rules lost.
///
/// Its `Display` is for people: the listener, the request, every rule for its host with what became of it, and what the
/// winner does.
#[derive(Debug, Clone)]
pub struct Explanation {
    text: String,
    listener: Option<Arc<str>>,
    outcome: Option<Outcome>,
    winner: Option<Winner>,
    /// How the client is told what becomes of it.
    dialect: Dialect,
}

/// The rule that wins a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Winner {
    /// The route's name.
    pub route: Arc<str>,
    /// The rule's place in the route, from 0.
    pub rule: usize,
    /// What answers its requests.
    pub backends: Vec<ExplainedBackend>,
    /// What else it does, in words: its filters, split, retries and time-outs.
    pub policies: Vec<String>,
    /// Why it answers all its requests 500, if it does.
    pub invalid: Option<Arc<str>>,
}

/// One backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExplainedBackend {
    /// Its name.
    pub name: Arc<str>,
    /// Its share of the rule's requests, relative to the others'.
    pub weight: u32,
    /// Whether it is a service of this process.
    pub local: bool,
    /// Why it answers 500, if it does.
    pub invalid: Option<Arc<str>>,
    /// What is done for it alone, in words.
    pub filters: Vec<String>,
    /// The upstream of its name in words: endpoints, TLS, policies.
    pub upstream: Option<String>,
}

impl Explanation {
    pub(super) fn of<B>(snapshot: &Snapshot, request: &Request<B>) -> Result<Self, InvalidPath> {
        let mut plain = Request::new(());
        *plain.method_mut() = request.method().clone();
        *plain.uri_mut() = request.uri().clone();
        *plain.headers_mut() = request.headers().clone();
        normalize_uri(plain.uri_mut())?;
        let connection = request.extensions().get::<ConnectionInfo>();
        let (mut text, mut listener) = (String::new(), None);
        let dialect = Dialect::of(plain.headers());
        let nobody = |text: String, listener, outcome| Self { text, listener, outcome, winner: None, dialect };
        let asked = || {
            let host = route::host(plain.uri(), plain.headers());
            let host = host.as_deref().unwrap_or("(no host)");
            format!("{} {host} {}", plain.method(), plain.uri().path_and_query().map_or("", |path| path.as_str()))
        };
        if let Some(connection) = connection {
            let owner = match owner(snapshot, &plain, connection) {
                Ok(owner) => owner,
                Err(why) => return Ok(nobody(format!("{}\n   {why}", asked()), None, None)),
            };
            let at = connection.socket_local_addr();
            text = match owner {
                Some(owner) => format!("listener `{}` (host {}) at {at}\n", owner.name, owner.host),
                None if connection.is_of_own_listener() => format!("the program's own listener at {at}\n"),
                None => format!("no listener for the host at {at}\n"),
            };
            listener = owner.map(|owner| owner.name.clone());
        }
        let table = match snapshot.listeners.table(plain.uri(), plain.headers(), connection) {
            Ok(table) => table,
            Err(error) => {
                let outcome = error.outcome();
                text += &format!("{}\n   answered {}: {error}", asked(), told(outcome, dialect));
                return Ok(nobody(text, listener, Some(outcome)));
            }
        };
        Ok(Self::by(snapshot, table, &plain, text, listener))
    }

    /// What a table does with a request whose path is in its normal form. `text` says whose table it is.
    pub(super) fn by(
        snapshot: &Snapshot,
        table: &Table,
        request: &Request<()>,
        mut text: String,
        listener: Option<Arc<str>>,
    ) -> Self {
        text += &table.explain(request).to_string();
        let dialect = Dialect::of(request.headers());
        let Some(found) = table.lookup(request) else {
            let outcome = Outcome::NoRoute;
            text += &format!("\n   answered {}", told(outcome, dialect));
            return Self { text, listener, outcome: Some(outcome), winner: None, dialect };
        };
        let mut winner = Winner {
            route: found.route().clone(),
            rule: found.rule_index(),
            backends: found.target().explain(),
            policies: Vec::new(),
            invalid: found.target().invalid().cloned(),
        };
        if let Some(rule) = snapshot.rule(found.target()) {
            winner.describe(rule);
        }
        winner.describe_upstreams(&snapshot.config, dialect);
        Self { text, listener, outcome: None, winner: Some(winner), dialect }
    }

    /// A request that is answered before any rule is asked.
    pub(super) fn refused(asked: &str, outcome: Outcome, dialect: Dialect, why: &dyn fmt::Display) -> Self {
        let text = format!("{asked}\n   answered {}: {why}", told(outcome, dialect));
        Self { text, listener: None, outcome: Some(outcome), winner: None, dialect }
    }

    /// The listener that owns the request, where a connection was given.
    #[must_use]
    pub fn listener(&self) -> Option<&str> {
        self.listener.as_deref()
    }

    /// What becomes of a request that no rule wins; `None` if one does, or if there is no request, as its connection is
    /// closed or carried as a stream.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// The rule that wins; `None` where the request has no route.
    #[must_use]
    pub fn winner(&self) -> Option<&Winner> {
        self.winner.as_ref()
    }
}

impl Winner {
    /// The name of the backend, where there is only one with a weight.
    #[must_use]
    pub fn backend(&self) -> Option<&str> {
        let mut weighty = self.backends.iter().filter(|backend| backend.weight > 0);
        let only = weighty.next()?;
        weighty.next().is_none().then_some(&*only.name)
    }

    fn describe(&mut self, rule: &config::Rule) {
        let does = Does(rule);
        self.policies = does.policies();
        for (backend, words) in self.backends.iter_mut().zip(does.backends()) {
            backend.filters = words.filters();
        }
        if rule.backends.is_empty() && !does.redirects() && self.invalid.is_none() {
            self.invalid = Some("it has no backend".into());
        }
    }

    fn describe_upstreams(&mut self, config: &config::Config, dialect: Dialect) {
        let all: HashMap<_, _> = config.all_upstreams().collect();
        for backend in self.backends.iter_mut().filter(|backend| !backend.local) {
            let upstream = all.get(&*backend.name);
            let no_endpoint = told(Outcome::NoEndpoint, dialect);
            backend.upstream = upstream.map(|upstream| Stands { upstream, no_endpoint: &no_endpoint }.to_string());
        }
    }
}

impl Rule {
    fn explain(&self) -> Vec<ExplainedBackend> {
        let explain = |backend: &Backend| ExplainedBackend {
            name: backend.name.clone(),
            weight: backend.weight,
            local: matches!(backend.target, Target::Local(_)),
            invalid: match &backend.target {
                Target::Invalid(why) => Some(why.clone()),
                Target::Local(_) | Target::Upstream(_) | Target::Stack(_) => self.invalid().cloned(),
            },
            filters: Vec::new(),
            upstream: None,
        };
        self.backends.list.iter().map(explain).collect()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        let unusable = told(Outcome::InvalidBackend, self.dialect);
        let Some(winner) = &self.winner else { return Ok(()) };
        let total: u64 = winner.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        for backend in &winner.backends {
            write!(f, "\n   backend {}, weight {} of {total}", backend.name, backend.weight)?;
            if backend.local {
                f.write_str(", in this process")?;
            }
            if let Some(why) = &backend.invalid {
                write!(f, ", answers {unusable}: {why}")?;
            }
            if let Some(upstream) = &backend.upstream {
                write!(f, ": {upstream}")?;
            }
            backend.filters.iter().try_for_each(|filter| write!(f, "\n      {filter}"))?;
        }
        winner.policies.iter().try_for_each(|policy| write!(f, "\n   {policy}"))?;
        // Else the backends say it.
        let invalid = winner.invalid.iter().filter(|_| winner.backends.is_empty());
        invalid.into_iter().try_for_each(|why| write!(f, "\n   answers {unusable}: {why}"))
    }
}

/// The listener that owns a request on this connection; or why there is none, as the connection is closed or not for
/// requests. What admits connections decides so, too.
fn owner<'s, B>(
    snapshot: &'s Snapshot,
    request: &Request<B>,
    connection: &ConnectionInfo,
) -> Result<Option<&'s Domain>, String> {
    let Some(place) = snapshot.listeners.place(connection) else { return Ok(None) };
    let own = connection.is_of_own_listener() && snapshot.listeners.has_unattached();
    let closed = |why: &str| Err(format!("the connection is closed: {why}"));
    match (place.family, connection.tls()) {
        (Family::Http, None) if !own && place.domains.values().all(|domain| domain.invalid.is_some()) => {
            return closed(place.domains.values().find_map(|domain| domain.invalid.as_deref()).unwrap_or_default());
        }
        (Family::Http, None) => {}
        (Family::Http, Some(_)) => return closed("TLS is not spoken there"),
        (Family::Tcp, _) => return Err(stream(place.domains.find(None).map(|domain| &**domain), None)),
        (Family::Tls, None) => return closed("only TLS is spoken there"),
        (Family::Tls, Some(tls)) => {
            let name = tls.server_name.as_deref();
            match place.domains.find(name).map(|domain| (domain, &domain.kind)) {
                None if own => {}
                None => return closed(&format!("no listener is for the name `{}`", name.unwrap_or_default())),
                Some((_, Kind::Http(_))) => {}
                #[cfg(feature = "tls")]
                Some((_, Kind::Https(..))) => {}
                Some((domain, _)) => return Err(stream(Some(domain), name)),
            }
        }
    }
    let host = route::host(request.uri(), request.headers());
    Ok(place.domains.find(host.as_deref()).map(|domain| &**domain))
}

/// What becomes of a connection that is not for requests.
fn stream(domain: Option<&Domain>, name: Option<&str>) -> String {
    let by_name = |rules: &HostMap<Arc<StreamRule>>| rules.find(name).map(|rule| rule.route().to_owned());
    let listener = domain.map_or_else(String::new, |domain| domain.name.to_string());
    let route = domain.and_then(|domain| match &domain.kind {
        Kind::Tcp(rule) => rule.as_ref().map(|rule| rule.route().to_owned()),
        Kind::Passthrough(rules) => by_name(rules),
        #[cfg(feature = "tls")]
        Kind::Tls(_, rules) => by_name(rules),
        _ => None,
    });
    match (route, domain.and_then(|domain| domain.invalid.as_deref())) {
        (Some(route), _) => format!("listener `{listener}`: the connection is carried as a stream, by route `{route}`"),
        (None, Some(why)) => format!("listener `{listener}`: the connection is closed: {why}"),
        (None, None) => format!("listener `{listener}`: the connection is closed: no stream route is for it"),
    }
}
