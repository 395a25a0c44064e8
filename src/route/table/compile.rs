//! From the configuration to the table.

use std::{cmp::Reverse, collections::HashMap, fmt, sync::Arc};

use foldhash::fast::RandomState;
use http::Method;
use thiserror::Error;

use super::{CompiledRule, Entry, RouteTable, RuleFacts, index::HostIndex};
use crate::{
    config::{Conflicts, Host, Match, PathMatch, Route, ValueMatch},
    route::{
        HostRank, PathRank, Specificity,
        hosts::{HostMap, normal},
        path::{InvalidPath, normalize},
        request::Conditions,
    },
};

/// Why routes cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TableError {
    /// The path of a match is none that a request could have.
    #[error("{place}: no request has the path `{path}`: {source}")]
    Path {
        /// Where it stands.
        place: Place,
        /// The path.
        path: String,
        /// What is wrong with it.
        source: InvalidPath,
    },
    /// Two matches ask exactly the same for the same host.
    #[error("{second} asks the same as {first}, for host `{host}`, and would never be reached: change or remove one")]
    Conflict {
        /// The host both are for.
        host: Host,
        /// The match that would win.
        first: Place,
        /// The match that would never be reached.
        second: Place,
    },
}

/// Where in the configuration a match stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The route's name.
    pub route: String,
    /// The rule's index in the route, from 0.
    pub rule: usize,
    /// The match's index in the rule, from 0.
    pub matching: usize,
}

impl Place {
    pub(super) fn of(specificity: &Specificity) -> Self {
        let [_, rule, matching] = specificity.position.0;
        Self { route: specificity.name.0.as_ref().to_owned(), rule, matching }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, rule, matching } = self;
        write!(f, "route `{route}`, rules[{rule}].matches[{matching}]")
    }
}

pub(super) fn compile<T>(
    routes: &[(&Route, Vec<Host>)],
    conflicts: Conflicts,
    target: impl FnMut(&Route, usize) -> T,
) -> Result<RouteTable<T>, TableError> {
    let (entries, rules) = collect(routes, target)?;
    let hosts: Vec<Vec<Host>> = routes.iter().map(|(_, hosts)| normal_hosts(hosts)).collect();
    if conflicts == Conflicts::Refuse {
        refuse_conflicts(&entries, &hosts)?;
    }
    let mut indexes = HostMap::default();
    for (id, entry) in entries.iter().enumerate() {
        for host in entry.hosts(&hosts) {
            indexes.entry(host, || HostIndex::new(host.clone())).insert(&entry.path, id);
        }
    }
    indexes.values_mut().for_each(HostIndex::finish);
    Ok(RouteTable { hosts: indexes, entries, rules })
}

/// Every match, the most specific first: an entry's place is its number. And every rule, as it is written.
fn collect<T>(
    routes: &[(&Route, Vec<Host>)],
    mut target: impl FnMut(&Route, usize) -> T,
) -> Result<(Vec<Entry>, Vec<CompiledRule<T>>), TableError> {
    let mut rules = Vec::new();
    let mut entries = Vec::new();
    // A rule without matches takes every request.
    let everything = [Match::default()];
    for (route_index, (route, _)) in routes.iter().enumerate() {
        let name: Arc<str> = route.name.as_str().into();
        for (rule_index, rule) in route.rules.iter().enumerate() {
            let matches = if rule.matches.is_empty() { everything.as_slice() } else { &rule.matches };
            for (match_index, matching) in matches.iter().enumerate() {
                let position = [route_index, rule_index, match_index];
                entries.push(entry(route, &name, position, rules.len(), matching)?);
            }
            let rule_name = rule.name.as_deref().map(Into::into);
            let facts = RuleFacts { route: Arc::clone(&name), rule: rule_name, index: rule_index };
            rules.push(CompiledRule { facts: Arc::new(facts), target: target(route, rule_index) });
        }
    }
    entries.sort_by(|a, b| b.specificity.cmp(&a.specificity));
    Ok((entries, rules))
}

/// Refuses two rules that ask the same for the same host. Twice the same in one rule leads to the same place.
fn refuse_conflicts(entries: &[Entry], hosts: &[Vec<Host>]) -> Result<(), TableError> {
    // By host, what is asked for, and who asked first.
    let mut seen: HashMap<&Host, HashMap<Asked, &Entry, RandomState>, RandomState> = HashMap::default();
    for entry in entries {
        for host in entry.hosts(hosts) {
            let first = *seen.entry(host).or_default().entry(Asked::by(entry)).or_insert(entry);
            if first.rule != entry.rule {
                let [first, second] = [first, entry].map(|entry| Place::of(&entry.specificity));
                return Err(TableError::Conflict { host: host.clone(), first, second });
            }
        }
    }
    Ok(())
}

impl Entry {
    /// Its route's hosts, of every route's.
    fn hosts<'h>(&self, hosts: &'h [Vec<Host>]) -> &'h [Host] {
        let [route, ..] = self.specificity.position.0;
        hosts.get(route).map_or(&[], Vec::as_slice)
    }
}

/// Hosts, each once, in the form that requests' hosts are brought into.
pub(in crate::route) fn normal_hosts(hosts: &[Host]) -> Vec<Host> {
    let mut hosts: Vec<Host> = hosts.iter().map(normal).collect();
    if hosts.is_empty() {
        hosts.push(Host::Any);
    }
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

fn entry(
    route: &Route,
    name: &Arc<str>,
    position: [usize; 3],
    rule: usize,
    matching: &Match,
) -> Result<Entry, TableError> {
    let conditions = Conditions::new(matching);
    let [_, rule_index, match_index] = position;
    let normal = |path: &str| match normalize(path) {
        Ok(normal) => Ok(normal.into_owned()),
        Err(source) => {
            let place = Place { route: route.name.clone(), rule: rule_index, matching: match_index };
            Err(TableError::Path { place, path: path.to_owned(), source })
        }
    };
    let (path, path_rank) = match &matching.path {
        PathMatch::Exact(path) => (PathMatch::Exact(normal(path)?), PathRank::Exact),
        PathMatch::Prefix(prefix) => {
            let mut prefix = normal(prefix)?;
            if prefix.ends_with('/') {
                prefix.pop();
            }
            let rank = if prefix.is_empty() { PathRank::Any } else { PathRank::Prefix(prefix.len()) };
            (PathMatch::Prefix(prefix), rank)
        }
        PathMatch::GrpcMethod(method) => (PathMatch::GrpcMethod(method.clone()), PathRank::GrpcMethod(method.len())),
        #[cfg(feature = "regex")]
        PathMatch::Regex(pattern) => (PathMatch::Regex(pattern.clone()), PathRank::Regex(pattern.as_str().len())),
    };
    let specificity = Specificity {
        host: HostRank::Any,
        path: path_rank,
        method: conditions.method.is_some(),
        headers: conditions.headers.len() + conditions.cookies.len(),
        query: conditions.query.len(),
        created: route.created.map(Reverse),
        name: Reverse(Arc::clone(name)),
        position: Reverse(position),
    };
    Ok(Entry { rule, path, conditions, specificity })
}

/// What a match asks for, in a form in which equal demands are equal.
#[derive(PartialEq, Eq, Hash)]
struct Asked<'a> {
    path: (PathRank, &'a str),
    method: Option<&'a Method>,
    headers: Vec<(&'a str, Value<'a>)>,
    query: Vec<(&'a str, Value<'a>)>,
    cookies: Vec<(&'a str, Value<'a>)>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value<'a> {
    Exact(&'a str),
    #[cfg(feature = "regex")]
    Regex(&'a str),
    Present,
    Absent,
}

impl<'a> Asked<'a> {
    fn by(entry: &'a Entry) -> Self {
        let text = match &entry.path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::GrpcMethod(path) => path,
            #[cfg(feature = "regex")]
            PathMatch::Regex(pattern) => pattern.as_str(),
        };
        let conditions = &entry.conditions;
        let sorted = |mut values: Vec<(&'a str, Value<'a>)>| {
            values.sort_unstable();
            values
        };
        Self {
            path: (entry.specificity.path, text),
            method: conditions.method.as_ref(),
            headers: sorted(conditions.headers.iter().map(|h| (h.name.as_str(), (&h.value).into())).collect()),
            query: sorted(conditions.query.iter().map(|q| (q.name.as_str(), (&q.value).into())).collect()),
            cookies: sorted(conditions.cookies.iter().map(|c| (c.name.as_str(), (&c.value).into())).collect()),
        }
    }
}

impl<'a> From<&'a ValueMatch> for Value<'a> {
    fn from(value: &'a ValueMatch) -> Self {
        match value {
            ValueMatch::Exact(value) => Self::Exact(value),
            #[cfg(feature = "regex")]
            ValueMatch::Regex(pattern) => Self::Regex(pattern.as_str()),
            ValueMatch::Present => Self::Present,
            ValueMatch::Absent => Self::Absent,
        }
    }
}
