//! Which classes of requests go elsewhere under other routes.

mod classes;
mod sample;
mod side;
#[cfg(test)]
mod tests;

pub use self::sample::PathClass;

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
};

use self::{classes::Classes, side::Side};
use super::TableError;
use crate::config::{Filter, Host, PathChange, Route, Rule, words::Does};

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
/// When one of the two is no table: see [`RouteTable::compile`](super::RouteTable::compile).
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

/// A label that none of the hosts has.
fn unlisted(hosts: &BTreeSet<Host>) -> String {
    let names = hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let labels: HashSet<&str> = names.iter().flat_map(|name| name.split('.')).collect();
    fresh(|label| labels.contains(label))
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
