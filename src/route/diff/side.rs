//! One of two sets of routes, and where it sends a request.

use std::{cmp::Reverse, collections::HashMap};

use http::Request;

use super::Destination;
use crate::{
    config::{Conflicts, Host, Route},
    route::{RouteTable, TableError, table::normal_hosts},
};

/// One of the two sets of routes: its domains, the most specific first.
pub(super) struct Side<'a>(Vec<Domain<'a>>);

struct Domain<'a> {
    host: Host,
    routes: &'a [Route],
    table: RouteTable<(usize, usize)>,
    by_host: HashMap<Host, Vec<&'a Route>>,
}

// === impl Side ===

impl<'a> Side<'a> {
    pub(super) fn new(domains: &[(Host, &'a [Route])]) -> Result<Self, TableError> {
        let domains = domains.iter().map(|(host, routes)| Domain::new(host, routes));
        let mut domains = domains.collect::<Result<Vec<_>, _>>()?;
        domains.sort_by_key(|domain| Reverse(domain.host.rank()));
        Ok(Self(domains))
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.0.iter().flat_map(|domain| domain.by_host.keys().chain([&domain.host]))
    }

    fn owner(&self, name: &str) -> Option<&Domain<'a>> {
        self.0.iter().find(|domain| domain.host.fits(name))
    }

    /// The routes for hosts that `name` fits.
    pub(super) fn routes_of(&self, name: &str) -> Vec<&'a Route> {
        let Some(domain) = self.owner(name) else { return Vec::new() };
        let suffixes = name.match_indices('.').map(|(at, _)| name[at + 1..].to_owned());
        let one_label = suffixes.clone().take(1).map(Host::OneLabelWildcard);
        let hosts = [Host::Exact(name.to_owned()), Host::Any].into_iter().chain(one_label);
        let hosts = hosts.chain(suffixes.map(Host::Wildcard));
        hosts.flat_map(|host| domain.by_host.get(&host).into_iter().flatten().copied()).collect()
    }

    pub(super) fn destination(&self, request: &Request<()>) -> Option<Destination<'a>> {
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
