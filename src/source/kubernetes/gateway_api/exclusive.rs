//! HTTPRoutes and GRPCRoutes for the same hosts of one listener.

use std::collections::{HashMap, HashSet};

use super::attach::ParentListener;
use crate::config::Host;

/// A route that wants its hosts at some listeners for its kind alone.
pub(super) struct Claimant<'r> {
    pub(super) is_grpc: bool,
    pub(super) created: Option<i64>,
    /// Namespace and name.
    pub(super) name: (&'r str, &'r str),
    /// None means the listeners'.
    pub(super) hosts: &'r [Host],
    pub(super) listeners: &'r [&'r ParentListener<'r>],
}

/// Which routes lose which listeners, by place and name: there an older route of the other kind has one of their hosts.
pub(super) fn losses(claimants: &[Claimant<'_>]) -> Vec<(usize, String)> {
    let mut kinds: HashMap<&str, [bool; 2]> = HashMap::new();
    for claimant in claimants {
        for listener in claimant.listeners {
            kinds.entry(&listener.name).or_default()[usize::from(claimant.is_grpc)] = true;
        }
    }
    let is_shared = |listener: &str| kinds.get(listener) == Some(&[true, true]);
    let mut by_age: Vec<usize> = (0..claimants.len()).collect();
    // Stable: of equals the HTTPRoute, which comes first, goes before.
    by_age.sort_by_key(|index| {
        claimants.get(*index).map(|claimant| (claimant.created.unwrap_or(i64::MAX), claimant.name))
    });
    let mut taken: HashMap<&str, [Hosts; 2]> = HashMap::new();
    let mut losses = Vec::new();
    for index in by_age {
        let Some(claimant) = claimants.get(index) else {
            continue;
        };
        for listener in claimant.listeners.iter().filter(|listener| is_shared(&listener.name)) {
            let hosts: Vec<Host> = match claimant.hosts {
                [] => vec![listener.host.clone()],
                hosts => hosts.iter().filter_map(|host| host.intersection(&listener.host)).collect(),
            };
            let [http, grpc] = taken.entry(&listener.name).or_default();
            let (own, other) = if claimant.is_grpc { (grpc, http) } else { (http, grpc) };
            if hosts.iter().any(|host| other.meets(host)) {
                losses.push((index, listener.name.clone()));
            } else {
                hosts.iter().for_each(|host| own.insert(host));
            }
        }
    }
    losses
}

/// Hosts, so that it is quickly known whether another one has something in common with them.
#[derive(Default)]
struct Hosts {
    any: bool,
    exact: HashSet<String>,
    wildcards: HashSet<String>,
    /// The suffixes of all of these, and what stands behind the wildcards.
    above: HashSet<String>,
}

impl Hosts {
    fn insert(&mut self, host: &Host) {
        match host {
            Host::Any => self.any = true,
            Host::Exact(name) => {
                self.exact.insert(name.clone());
                self.above.extend(suffixes(name).map(str::to_owned));
            }
            Host::Wildcard(suffix) | Host::OneLabelWildcard(suffix) => {
                self.wildcards.insert(suffix.clone());
                self.above.insert(suffix.clone());
                self.above.extend(suffixes(suffix).map(str::to_owned));
            }
        }
    }

    fn meets(&self, host: &Host) -> bool {
        self.any
            || match host {
                Host::Any => !self.exact.is_empty() || !self.wildcards.is_empty(),
                Host::Exact(name) => self.exact.contains(name) || self.has_wildcard_for(name),
                Host::Wildcard(suffix) | Host::OneLabelWildcard(suffix) => {
                    self.above.contains(suffix) || self.has_wildcard_for(suffix)
                }
            }
    }

    fn has_wildcard_for(&self, name: &str) -> bool {
        suffixes(name).any(|suffix| self.wildcards.contains(suffix))
    }
}

/// What stands behind each of a name's dots.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').filter_map(|(at, _)| name.get(at + 1..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_meet_where_they_have_one_in_common() {
        let names =
            ["*", "a.com", "b.a.com", "c.b.a.com", "*.a.com", "*.b.a.com", "*.com", "ba.com", "*.ba.com", "x.org"];
        let hosts: Vec<Host> = names.map(|name| name.parse().unwrap()).into();
        for one in &hosts {
            let mut set = Hosts::default();
            assert!(!set.meets(one), "nothing is there yet");
            set.insert(one);
            for two in &hosts {
                assert_eq!(set.meets(two), one.intersection(two).is_some(), "{one} {two}");
            }
        }
    }
}
