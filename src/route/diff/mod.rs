//! Which classes of requests go elsewhere under other routes.

mod sample;
#[cfg(test)]
mod tests;

pub use self::sample::PathClass;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use http::{Method, Request};

use self::sample::When;
use super::{RouteTable, TableError, path::normalize, table::normal_hosts};
use crate::config::{Conflicts, Filter, Host, Match, PathChange, PathMatch, Route, Rule, words::Does};

/// What becomes of requests when the routes `old` give way to `new`, class by class.
///
/// A class is a host, a part of its paths, and what some match asks for beside them. Each is tried with a request that
/// stands for it, in both tables as they are compiled for serving: the same code decides as for real requests.
///
/// 1. Two destinations are the same when their rules do the same: backends, weights, filters, timeouts and all else but the
///    names of route and rule and what they match. So routes that were only renamed, split up or put in another
///    order are no change.
/// 2. A class that goes the way of its host's or path's more general class is not told again.
/// 3. Of what matches ask for, every one is tried alone and together with any other one, as long as there are no more than
///    16 for a path. What depends on three at once, or on a regular expression for which no text is easily found
///    ([`Diff::unexamined`]), is not seen.
///
/// # Errors
/// When one of the two is no table: see [`RouteTable::compile`].
///
/// # Example
/// ```
/// use portcullis::{config::{BackendRef, HeaderMatch, Match, Route, Rule}, route::diff};
///
/// let rule = |matching, backend| Rule { matches: vec![matching], backends: vec![BackendRef::new(backend)], ..Rule::default() };
/// let route = |rules| Route { hosts: vec!["shop.example.com".parse().unwrap()], rules, ..Route::named("shop") };
/// let canary = Match { headers: vec![HeaderMatch::exact("x-user", "1")?], ..Match::prefix("/cart") };
///
/// let old = [route(vec![rule(Match::prefix("/"), "web")])];
/// let new = [route(vec![rule(Match::prefix("/"), "web"), rule(canary, "cart")])];
/// assert_eq!(
///     diff(&old, &new)?.to_string(),
///     "shop.example.com, /cart and below, header x-user: `1`\n  - route `shop`, rule 0: web\n  + route `shop`, rule 1: cart\n"
/// );
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn diff<'a>(old: &'a [Route], new: &'a [Route]) -> Result<Diff<'a>, TableError> {
    diff_domains(&[(Host::Any, old)], &[(Host::Any, new)])
}

/// The same for routes in domains, such as those of listeners that share a port: the domain with the most specific host that
/// fits owns a request, and no other's routes see it.
///
/// # Errors
/// As with [`diff()`].
pub fn diff_domains<'a>(old: &[(Host, &'a [Route])], new: &[(Host, &'a [Route])]) -> Result<Diff<'a>, TableError> {
    let (old, new) = (Side::new(old)?, Side::new(new)?);
    let mut diff = Diff::default();
    let mut unexamined = BTreeSet::new();
    let hosts: BTreeSet<Host> = old.hosts().chain(new.hosts()).chain([&Host::Any]).cloned().collect();
    let unlisted = unlisted(&hosts);
    // What changes for the hosts that stand for many, the most general first.
    let mut general: Vec<(Host, Vec<Change<'a>>)> = Vec::new();
    let mut ordered: Vec<&Host> = hosts.iter().collect();
    ordered.sort_by_key(|host| host.rank());
    for host in ordered {
        let name = match host {
            Host::Any => format!("{unlisted}.invalid"),
            Host::Exact(name) => name.clone(),
            Host::OneLabelWildcard(suffix) => format!("{unlisted}.{suffix}"),
            // One label more than a wildcard for one label takes.
            Host::Wildcard(suffix) => format!("{unlisted}.{unlisted}.{suffix}"),
        };
        let (before, after) = (old.routes_of(&name), new.routes_of(&name));
        if before == after {
            continue;
        }
        let changes = Classes { old: &old, new: &new, host, name: &name, before, after }.changes(&mut unexamined);
        let told: HashSet<_> = general
            .iter()
            .filter(|(other, _)| other.fits(&name))
            .flat_map(|(_, changes)| changes.iter().map(Change::key))
            .collect();
        diff.changes.extend(changes.iter().filter(|change| !told.contains(&change.key())).cloned());
        if !matches!(host, Host::Exact(_)) {
            general.push((host.clone(), changes));
        }
    }
    diff.unexamined = unexamined.into_iter().collect();
    Ok(diff)
}

/// What [`diff()`] found. Its `Display` is for people.
#[derive(Debug, Default)]
pub struct Diff<'a> {
    changes: Vec<Change<'a>>,
    unexamined: Vec<String>,
}

/// A class of requests that goes elsewhere.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    host: Host,
    path: PathClass,
    when: String,
    before: Option<Destination<'a>>,
    after: Option<Destination<'a>>,
}

/// The rule that a class of requests goes by.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    route: &'a Route,
    index: usize,
    rule: &'a Rule,
    prefix_len: usize,
}

/// One of the two sets of routes: its domains, the most specific first.
struct Side<'a>(Vec<Domain<'a>>);

struct Domain<'a> {
    host: Host,
    routes: &'a [Route],
    table: RouteTable<(usize, usize)>,
    by_host: HashMap<Host, Vec<&'a Route>>,
}

/// The classes of one host.
struct Classes<'s, 'a> {
    old: &'s Side<'a>,
    new: &'s Side<'a>,
    host: &'s Host,
    name: &'s str,
    before: Vec<&'a Route>,
    after: Vec<&'a Route>,
}

impl<'a> Diff<'a> {
    /// The classes that go elsewhere.
    #[must_use]
    pub fn changes(&self) -> &[Change<'a>] {
        &self.changes
    }

    /// What could not be looked at, in words.
    #[must_use]
    pub fn unexamined(&self) -> &[String] {
        &self.unexamined
    }
}

impl<'a> Change<'a> {
    /// The host, or the hosts that have no closer one.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The paths.
    #[must_use]
    pub fn path(&self) -> &PathClass {
        &self.path
    }

    /// What the requests have beside host and path, in words; empty for all that have nothing that matches ask for.
    #[must_use]
    pub fn when(&self) -> &str {
        &self.when
    }

    /// Where they went; `None` if they had no route.
    #[must_use]
    pub fn before(&self) -> Option<&Destination<'a>> {
        self.before.as_ref()
    }

    /// Where they go; `None` if they have no route.
    #[must_use]
    pub fn after(&self) -> Option<&Destination<'a>> {
        self.after.as_ref()
    }

    /// What makes two changes the same but for their hosts.
    fn key(&self) -> (PathClass, String, Option<*const Rule>, Option<*const Rule>) {
        let rule = |destination: Option<Destination<'a>>| destination.map(|one| std::ptr::from_ref(one.rule));
        (self.path.clone(), self.when.clone(), rule(self.before), rule(self.after))
    }
}

impl<'a> Destination<'a> {
    /// The route.
    #[must_use]
    pub fn route(&self) -> &'a Route {
        self.route
    }

    /// The rule.
    #[must_use]
    pub fn rule(&self) -> &'a Rule {
        self.rule
    }

    /// The rule's place in the route, from 0.
    #[must_use]
    pub fn rule_index(&self) -> usize {
        self.index
    }

    fn does_the_same_as(&self, other: &Self) -> bool {
        // Destructured, so that a new field cannot be forgotten here.
        let Rule { name: _, matches: _, backends, filters, timeouts, retry, split, session, rollout, invalid } =
            self.rule;
        let same = *backends == other.rule.backends
            && *filters == other.rule.filters
            && *timeouts == other.rule.timeouts
            && *retry == other.rule.retry
            && *split == other.rule.split
            && *session == other.rule.session
            && *rollout == other.rule.rollout
            && *invalid == other.rule.invalid;
        same && (self.prefix_len == other.prefix_len || !self.replaces_prefix())
    }

    fn replaces_prefix(&self) -> bool {
        let filters = self.rule.backends.iter().flat_map(|backend| &backend.filters).chain(&self.rule.filters);
        filters
            .filter_map(|filter| match filter {
                Filter::Redirect(redirect) => redirect.path.as_ref(),
                Filter::Rewrite(rewrite) => rewrite.path.as_ref(),
                _ => None,
            })
            .any(|path| matches!(path, PathChange::Prefix(_)))
    }
}

// === impl Side ===

impl<'a> Side<'a> {
    fn new(domains: &[(Host, &'a [Route])]) -> Result<Self, TableError> {
        let domains = domains.iter().map(|(host, routes)| Domain::new(host, routes));
        let mut domains = domains.collect::<Result<Vec<_>, _>>()?;
        domains.sort_by_key(|domain| Reverse(domain.host.rank()));
        Ok(Self(domains))
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.0.iter().flat_map(|domain| domain.by_host.keys().chain([&domain.host]))
    }

    fn owner(&self, name: &str) -> Option<&Domain<'a>> {
        self.0.iter().find(|domain| domain.host.fits(name))
    }

    /// The routes for hosts that `name` fits.
    fn routes_of(&self, name: &str) -> Vec<&'a Route> {
        let Some(domain) = self.owner(name) else { return Vec::new() };
        let suffixes = name.match_indices('.').map(|(at, _)| name[at + 1..].to_owned());
        let one_label = suffixes.clone().take(1).map(Host::OneLabelWildcard);
        let hosts = [Host::Exact(name.to_owned()), Host::Any].into_iter().chain(one_label);
        let hosts = hosts.chain(suffixes.map(Host::Wildcard));
        hosts.flat_map(|host| domain.by_host.get(&host).into_iter().flatten().copied()).collect()
    }

    fn destination(&self, request: &Request<()>) -> Option<Destination<'a>> {
        let domain = self.owner(request.uri().host()?)?;
        let found = domain.table.lookup(request)?;
        let (route, index) = *found.target();
        let route = domain.routes.get(route)?;
        Some(Destination { route, index, rule: route.rules.get(index)?, prefix_len: found.prefix_len() })
    }
}

impl<'a> Domain<'a> {
    fn new(host: &Host, routes: &'a [Route]) -> Result<Self, TableError> {
        let mut index = 0;
        let table = RouteTable::compile(routes, Conflicts::Oldest, |route, rule| {
            // The table asks route by route, rule by rule.
            while !std::ptr::eq(&routes[index], route) {
                index += 1;
            }
            (index, rule)
        })?;
        let mut by_host: HashMap<Host, Vec<&Route>> = HashMap::new();
        for route in routes {
            for host in normal_hosts(&route.hosts) {
                by_host.entry(host).or_default().push(route);
            }
        }
        Ok(Self { host: host.clone(), routes, table, by_host })
    }
}

// === impl Classes ===

impl<'a> Classes<'_, 'a> {
    fn changes(&self, unexamined: &mut BTreeSet<String>) -> Vec<Change<'a>> {
        let everything = Match::default();
        let matches = || {
            let rules = self.before.iter().chain(&self.after).flat_map(|route| &route.rules);
            rules.flat_map(|rule| &rule.matches)
        };
        let mut classes = Vec::new();
        for matching in matches().chain([&everything]) {
            if let Err(what) = PathClass::of(&matching.path, &mut classes) {
                unexamined.insert(format!("{}: {what}", self.host));
            }
        }
        classes.sort_unstable();
        classes.dedup();
        let segment = unlisted_segment(&classes);
        let method = unlisted_method(matches());

        let mut by_path: BTreeMap<PathClass, Vec<Change<'a>>> = BTreeMap::new();
        for class in classes {
            let path = class.sample(&segment);
            let changes = self.changes_of(&class, &path, matches(), &method, unexamined);
            by_path.insert(class, changes);
        }
        fold(by_path)
    }

    /// What changes for one class of paths, by what else the requests have.
    fn changes_of<'m>(
        &self,
        class: &PathClass,
        path: &str,
        matches: impl Iterator<Item = &'m Match>,
        method: &Method,
        unexamined: &mut BTreeSet<String>,
    ) -> Vec<Change<'a>> {
        let mut asking: Vec<&Match> = Vec::new();
        for matching in matches.filter(|matching| asks_more(matching) && path_fits(&matching.path, path)) {
            if !asking.iter().any(|other| asks_the_same(other, matching)) {
                asking.push(matching);
            }
        }
        let mut changed: Vec<(When<'m>, Change<'a>)> = Vec::new();
        for when in When::all(&asking) {
            let request = match when.request(self.name, path, method) {
                Ok(request) => request,
                Err(what) => {
                    unexamined.insert(format!("{}, {class}: {what}", self.host));
                    continue;
                }
            };
            let (before, after) = (self.old.destination(&request), self.new.destination(&request));
            let same = match (&before, &after) {
                (None, None) => true,
                (Some(before), Some(after)) => before.does_the_same_as(after),
                _ => false,
            };
            if same {
                continue;
            }
            let change = Change { host: self.host.clone(), path: class.clone(), when: when.to_string(), before, after };
            // What a more general class says already.
            let told = changed.iter().any(|(other, told)| {
                let (a, b) = (told.key(), change.key());
                when.includes(*other) && (a.2, a.3) == (b.2, b.3)
            });
            if !told {
                changed.push((when, change));
            }
        }
        changed.into_iter().map(|(_, change)| change).collect()
    }
}

/// Makes one of a path and what is below it where both go the same way.
fn fold(mut by_path: BTreeMap<PathClass, Vec<Change<'_>>>) -> Vec<Change<'_>> {
    let prefixes: Vec<String> = by_path
        .keys()
        .filter_map(|class| match class {
            PathClass::Below(path) => Some(path.clone()),
            _ => None,
        })
        .collect();
    for prefix in prefixes {
        let exact = PathClass::Exact(if prefix.is_empty() { "/".to_owned() } else { prefix.clone() });
        let below = PathClass::Below(prefix.clone());
        let ends = |class: &PathClass| -> Vec<_> {
            by_path
                .get(class)
                .into_iter()
                .flatten()
                .map(|change| (change.key().1, change.key().2, change.key().3))
                .collect()
        };
        if ends(&exact) == ends(&below) {
            by_path.remove(&exact);
            if let Some(mut changes) = by_path.remove(&below) {
                let path = PathClass::Prefix(prefix);
                changes.iter_mut().for_each(|change| change.path = path.clone());
                by_path.insert(path, changes);
            }
        }
    }
    by_path.into_values().flatten().collect()
}

fn asks_more(matching: &Match) -> bool {
    matching.method.is_some()
        || !(matching.headers.is_empty() && matching.query.is_empty() && matching.cookies.is_empty())
}

fn asks_the_same(one: &Match, other: &Match) -> bool {
    let Match { path: _, method, headers, query, cookies } = one;
    *method == other.method && *headers == other.headers && *query == other.query && *cookies == other.cookies
}

/// Whether a path in its normal form is among those that a match asks for.
fn path_fits(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => normalize(exact).is_ok_and(|exact| exact == path),
        PathMatch::GrpcMethod(method) => grpc_method(path).is_some_and(|asked| asked == method),
        PathMatch::Prefix(prefix) => normalize(prefix).is_ok_and(|prefix| {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
        #[cfg(feature = "regex")]
        PathMatch::Regex(pattern) => pattern.is_match(path),
    }
}

/// The method of a gRPC call: `/service/method`.
fn grpc_method(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.contains('/')).then_some(method)
}

/// A label that none of the hosts has.
fn unlisted(hosts: &BTreeSet<Host>) -> String {
    let names = hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let labels: HashSet<&str> = names.iter().flat_map(|name| name.split('.')).collect();
    fresh(|label| labels.contains(label))
}

/// A segment that none of the paths has.
fn unlisted_segment(classes: &[PathClass]) -> String {
    let segments: HashSet<&str> = classes
        .iter()
        .flat_map(|class| match class {
            PathClass::Exact(path) | PathClass::Prefix(path) | PathClass::Below(path) => path.split('/'),
            PathClass::GrpcMethod(method) => method.split('/'),
            PathClass::Regex { sample, .. } => sample.split('/'),
        })
        .collect();
    fresh(|segment| segments.contains(segment))
}

fn fresh(taken: impl Fn(&str) -> bool) -> String {
    let mut name = "unlisted".to_owned();
    let mut number = 1_u32;
    while taken(&name) {
        number += 1;
        name = format!("unlisted{number}");
    }
    name
}

/// A method that none of the matches asks for.
fn unlisted_method<'m>(matches: impl Iterator<Item = &'m Match>) -> Method {
    let listed: HashSet<&Method> = matches.filter_map(|matching| matching.method.as_ref()).collect();
    let common = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD, Method::OPTIONS];
    common.into_iter().find(|method| !listed.contains(method)).unwrap_or(Method::TRACE)
}

impl fmt::Display for Diff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        for what in &self.unexamined {
            writeln!(f, "not examined: {what}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, path, when, before, after } = self;
        match host {
            Host::Any => f.write_str("any other host")?,
            host => write!(f, "{host}")?,
        }
        write!(f, ", {path}")?;
        if !when.is_empty() {
            write!(f, ", {when}")?;
        }
        for (sign, destination) in [('-', before), ('+', after)] {
            match destination {
                Some(destination) => write!(f, "\n  {sign} {destination}")?,
                None => write!(f, "\n  {sign} no route (404)")?,
            }
        }
        match (before, after) {
            (Some(before), Some(after)) if Does(before.rule).to_string() == Does(after.rule).to_string() => {
                f.write_str("\n  (they differ in settings that have no words here)")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route `{}`, rule {}: {}", self.route.name, self.index, Does(self.rule))
    }
}
