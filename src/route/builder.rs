//! Routers written in code.

use std::fmt;

use thiserror::Error;

use super::{RouteTable, Router, TableError};
use crate::config::{Conflicts, Host, InvalidHost, Match, Route, Rule};

/// Builds a [`Router`] from routes written in code; begun by [`Router::builder`].
///
/// # Example
/// ```
/// use http::{Method, Request, Response};
/// use portcullis::{config::Match, route::Router};
/// use tower::{ServiceExt, service_fn};
///
/// # tokio_test::block_on(async {
/// let answers = |text| service_fn(move |_: Request<String>| async move { Ok::<_, &str>(Response::new(text)) });
/// let router = Router::builder()
///     .route("cart", ["shop.example.com", "*.shop.example.com"], Match::prefix("/cart"), answers("cart"))
///     .rule([Match { method: Some(Method::POST), ..Match::prefix("/cart") }], answers("new cart"))
///     .fallback(answers("home"))
///     .build()?;
///
/// let request = Request::post("http://shop.example.com/cart").body(String::new())?;
/// assert_eq!(router.oneshot(request).await?.into_body(), "new cart");
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct RouterBuilder<S> {
    routes: Vec<Route>,
    /// One for each rule, in the order in which the table asks for them.
    targets: Vec<S>,
    fallback: Option<S>,
    conflicts: Conflicts,
    error: Option<RouterError>,
}

/// Why a router cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RouterError {
    /// A route's host is none.
    #[error("route `{route}`: {source}")]
    Host {
        /// The route's name.
        route: String,
        /// What is wrong with it.
        source: InvalidHost,
    },
    /// A rule was added before any route.
    #[error("a rule belongs to a route: call `route` before `rule`")]
    RuleWithoutRoute,
    /// The routes cannot be compiled.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl<S> RouterBuilder<S> {
    pub(super) fn new() -> Self {
        Self { routes: Vec::new(), targets: Vec::new(), fallback: None, conflicts: Conflicts::Refuse, error: None }
    }

    /// Adds a route with one rule: requests for one of `hosts` that one of `matches` fits go to `target`.
    ///
    /// Hosts are written as in [`Host`]: `["shop.example.com", "*.example.com"]`, `["*"]` for any. `matches` is a
    /// [`Match`], or several; none at all means every request. The name is for logs and explanations, and is what
    /// [`RouteMatch`](super::RouteMatch) tells.
    pub fn route(
        mut self,
        name: impl Into<String>,
        hosts: impl IntoIterator<Item = impl AsRef<str>>,
        matches: impl Into<Vec<Match>>,
        target: S,
    ) -> Self {
        let mut route = Route::named(name);
        for host in hosts {
            match host.as_ref().parse::<Host>() {
                Ok(host) => route.hosts.push(host),
                Err(source) => {
                    let route = route.name.clone();
                    self.error.get_or_insert(RouterError::Host { route, source });
                }
            }
        }
        self.routes.push(route);
        self.rule(matches, target)
    }

    /// Adds a rule to the route that was added last.
    pub fn rule(mut self, matches: impl Into<Vec<Match>>, target: S) -> Self {
        match self.routes.last_mut() {
            Some(route) => {
                route.rules.push(Rule { matches: matches.into(), ..Rule::default() });
                self.targets.push(target);
            }
            None => {
                self.error.get_or_insert(RouterError::RuleWithoutRoute);
            }
        }
        self
    }

    /// Where requests of no rule go. Default: they are answered 404.
    pub fn fallback(mut self, target: S) -> Self {
        self.fallback = Some(target);
        self
    }

    /// What becomes of two matches that ask the same for the same host. Default: the router is not built.
    pub fn conflicts(mut self, conflicts: Conflicts) -> Self {
        self.conflicts = conflicts;
        self
    }

    /// The router.
    ///
    /// # Errors
    /// The first mistake that was made: a host that is none, a path without a normal form, two matches that ask the
    /// same.
    pub fn build(self) -> Result<Router<S>, RouterError> {
        let Self { routes, targets, fallback, conflicts, error } = self;
        if let Some(error) = error {
            return Err(error);
        }
        let table = RouteTable::compile(&routes, conflicts, |_, _| ())?.with_targets(targets);
        Ok(match fallback {
            Some(fallback) => Router::with_fallback(table, fallback),
            None => Router::new(table),
        })
    }
}

impl<S> fmt::Debug for RouterBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterBuilder")
            .field("routes", &self.routes)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl From<Match> for Vec<Match> {
    fn from(matching: Match) -> Self {
        vec![matching]
    }
}
