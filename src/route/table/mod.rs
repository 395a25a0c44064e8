//! The compiled table: which rule is a request's.

mod compile;
mod explain;
mod index;
#[cfg(test)]
mod tests;

pub(super) use self::compile::normal_hosts;
pub use self::{
    compile::{Place, TableError},
    explain::{Candidate, Explanation, Verdict},
};

use std::{fmt, ops::ControlFlow, sync::Arc};

use http::{HeaderMap, Method, Request, Uri};

use self::index::{EntryId, HostIndex};
use super::{
    Specificity,
    hosts::HostMap,
    request::{Conditions, RequestView},
};
use crate::config::{Conflicts, Host, PathMatch, Route};

/// Routes, compiled: finds a request's rule without looking at every one.
///
/// `T` is what a rule leads to, such as a service; the table does nothing with it. It is immutable; to change routes,
/// compile another.
///
/// # How a rule is chosen
/// 1. The host comes from the URI's authority, else from the `Host` field; case, port and a dot at the end do not count.
/// 2. The hosts that fit are tried from the most specific to the least: the host itself, wildcards from the longest, any
///    host. Where no match of one host fits, the next is tried.
/// 3. Of one host's matches that fit the greatest [`Specificity`] wins.
///
/// The path is compared as it stands: bring it into its normal form first
/// ([`path::normalize_uri`](super::path::normalize_uri)), as [`Router`](super::Router) does.
///
/// A lookup takes a hash of the host, one of the path and one for each of the path's elements that the table knows,
/// besides one regular expression after the other where the host has some. It does not allocate, unless the
/// host is not in lower case, a field that is asked for has several lines, a query that is asked for is percent-encoded,
/// or a regular expression needs room to work in (which it keeps).
///
/// # Example
/// ```
/// use portcullis::{
///     config::{Conflicts, HeaderMatch, Match, Route, Rule},
///     route::RouteTable,
/// };
///
/// let cart = Rule { matches: vec![Match::prefix("/cart")], ..Rule::default() };
/// let canary = Rule {
///     matches: vec![Match { headers: vec![HeaderMatch::exact("x-canary", "1")?], ..Match::prefix("/cart") }],
///     ..Rule::default()
/// };
/// let shop = Route { hosts: vec!["shop.example.com".parse()?], rules: vec![cart, canary], ..Route::named("shop") };
/// let table = RouteTable::compile(&[shop], Conflicts::Refuse, |_, rule| ["v1", "v2"][rule])?;
///
/// let request = http::Request::get("http://shop.example.com/cart/7").header("x-canary", "1").body(())?;
/// assert_eq!(table.lookup(&request).unwrap().target(), &"v2");
///
/// let explanation = table.explain(&request);
/// assert_eq!(explanation.winner().unwrap().target(), &"v2");
/// assert_eq!(explanation.candidates()[1].verdict().to_string(), "fits, but the winner asks for more headers");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct RouteTable<T> {
    hosts: HostMap<HostIndex>,
    entries: Vec<Entry>,
    rules: Vec<CompiledRule<T>>,
}

/// One match of one rule.
#[derive(Debug)]
struct Entry {
    rule: usize,
    /// In its normal form; a prefix without a slash at its end, so that the root is empty.
    path: PathMatch,
    conditions: Conditions,
    /// With no particular host.
    specificity: Specificity,
}

struct CompiledRule<T> {
    facts: Arc<RuleFacts>,
    target: T,
}

#[derive(Debug)]
struct RuleFacts {
    route: Arc<str>,
    rule: Option<Arc<str>>,
    index: usize,
}

/// The rule that was found for a request.
pub struct Found<'t, T> {
    rule: &'t CompiledRule<T>,
    prefix_len: usize,
}

/// Which rule a request was routed by: an extension of routed requests.
///
/// # Example
/// ```
/// use portcullis::{config::{Conflicts, Match, Route, Rule}, route::{RouteMatch, RouteTable}};
///
/// let rules = vec![Rule { matches: vec![Match::prefix("/cart/")], ..Rule::default() }];
/// let table = RouteTable::compile(&[Route { rules, ..Route::named("shop") }], Conflicts::Refuse, |_, _| ())?;
/// let matched: RouteMatch = table.lookup(&http::Request::get("/cart/7").body(())?).unwrap().route_match();
/// assert_eq!((&**matched.route(), matched.rule_index()), ("shop", 0));
/// assert_eq!(&"/cart/7"[matched.prefix_len()..], "/7");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct RouteMatch {
    facts: Arc<RuleFacts>,
    prefix_len: usize,
}

// === impl RouteTable ===

impl<T> RouteTable<T> {
    /// Compiles routes. `target` is called once for each rule, with its route and its index there.
    ///
    /// # Errors
    /// When a path has no normal form, or two matches ask exactly the same for the same host and `conflicts` does not
    /// let the older one win.
    pub fn compile(
        routes: &[Route],
        conflicts: Conflicts,
        target: impl FnMut(&Route, usize) -> T,
    ) -> Result<Self, TableError> {
        let routes: Vec<_> = routes.iter().map(|route| (route, route.hosts.clone())).collect();
        compile::compile(&routes, conflicts, target)
    }

    /// Compiles routes, each for these hosts in the place of its own. `target` is called as in [`compile`](Self::compile).
    pub(crate) fn compile_for(
        routes: &[(&Route, Vec<Host>)],
        conflicts: Conflicts,
        target: impl FnMut(&Route, usize) -> T,
    ) -> Result<Self, TableError> {
        compile::compile(routes, conflicts, target)
    }

    /// The rule for a request.
    pub fn lookup<B>(&self, request: &Request<B>) -> Option<Found<'_, T>> {
        self.find(RequestView::of(request))
    }

    /// The rule for a request of these parts.
    pub fn lookup_parts(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Found<'_, T>> {
        self.find(RequestView { method, uri, headers })
    }

    /// What a lookup of this request comes to, and why.
    pub fn explain<B>(&self, request: &Request<B>) -> Explanation<'_, T> {
        explain::explain(self, RequestView::of(request))
    }

    /// How many matches there are, over all rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no request is routed anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The same table, its rules leading elsewhere: one target for each rule, in the order in which they were compiled.
    pub(super) fn with_targets<U>(self, targets: Vec<U>) -> RouteTable<U> {
        let Self { hosts, entries, rules } = self;
        let rules = rules.into_iter().zip(targets).map(|(rule, target)| CompiledRule { facts: rule.facts, target });
        RouteTable { hosts, entries, rules: rules.collect() }
    }

    fn find(&self, request: RequestView<'_>) -> Option<Found<'_, T>> {
        let (_, id) = self.best(request)?;
        let entry = self.entries.get(id)?;
        let prefix_len = match &entry.path {
            PathMatch::Prefix(prefix) => prefix.len(),
            _ => request.path().len(),
        };
        Some(Found { rule: self.rules.get(entry.rule)?, prefix_len })
    }

    /// The entry that wins, and the host it wins for.
    fn best(&self, request: RequestView<'_>) -> Option<(&HostIndex, EntryId)> {
        let path = request.path();
        let walk = self.hosts.walk(request.host().as_deref(), |host| {
            host.walk(path, |id| match self.entries.get(id) {
                Some(entry) if entry.conditions.first_unmet(request).is_none() => ControlFlow::Break((host, id)),
                _ => ControlFlow::Continue(()),
            })
        });
        walk.break_value()
    }
}

impl<T> fmt::Debug for RouteTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable")
            .field("hosts", &self.hosts.len())
            .field("rules", &self.rules.len())
            .field("matches", &self.entries.len())
            .finish()
    }
}

// === impl Found ===

impl<'t, T> Found<'t, T> {
    /// What the rule leads to.
    #[must_use]
    pub fn target(&self) -> &'t T {
        &self.rule.target
    }

    /// The route's name.
    #[must_use]
    pub fn route(&self) -> &'t Arc<str> {
        &self.rule.facts.route
    }

    /// The rule's name, if it has one.
    #[must_use]
    pub fn rule_name(&self) -> Option<&'t Arc<str>> {
        self.rule.facts.rule.as_ref()
    }

    /// The rule's place in its route, from 0.
    #[must_use]
    pub fn rule_index(&self) -> usize {
        self.rule.facts.index
    }

    /// How many bytes of the path the rule's path takes up: a prefix' own length, without a slash at its end; all of
    /// the path where it is matched exactly or by a regular expression.
    #[must_use]
    pub fn prefix_len(&self) -> usize {
        self.prefix_len
    }

    /// The same facts as a request extension.
    #[must_use]
    pub fn route_match(&self) -> RouteMatch {
        RouteMatch { facts: Arc::clone(&self.rule.facts), prefix_len: self.prefix_len }
    }
}

impl<T> Clone for Found<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Found<'_, T> {}

impl<T> fmt::Debug for Found<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.route_match().fmt(f)
    }
}

// === impl RouteMatch ===

impl RouteMatch {
    /// The route's name.
    #[must_use]
    pub fn route(&self) -> &Arc<str> {
        &self.facts.route
    }

    /// The rule's name, if it has one.
    #[must_use]
    pub fn rule_name(&self) -> Option<&Arc<str>> {
        self.facts.rule.as_ref()
    }

    /// The rule's place in its route, from 0.
    #[must_use]
    pub fn rule_index(&self) -> usize {
        self.facts.index
    }

    /// How many bytes of the path the rule's path takes up; see [`Found::prefix_len`].
    #[must_use]
    pub fn prefix_len(&self) -> usize {
        self.prefix_len
    }

    /// For who replaces the path: how many bytes of the new one stand for the rule's.
    pub(crate) fn set_prefix_len(&mut self, len: usize) {
        self.prefix_len = len;
    }
}
