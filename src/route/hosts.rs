//! Values by host, found from the most specific on.

use std::{collections::HashMap, ops::ControlFlow};

use foldhash::fast::RandomState;

use crate::config::Host;

/// Keys come from the configuration and lookups from clients; foldhash is seeded at random.
type Map<T> = HashMap<Box<str>, T, RandomState>;

/// One value for each host. The name itself comes before wildcards, the longer wildcard before the shorter, of two of one
/// length the one for a single label, and any host last.
#[derive(Debug)]
pub(crate) struct HostMap<T> {
    exact: Map<T>,
    /// By what stands after `*.`.
    one_label: Map<T>,
    wildcards: Map<T>,
    /// Longer suffixes than this need not be looked up.
    longest_suffix: usize,
    any: Option<T>,
}

impl<T> HostMap<T> {
    /// The value for this host, made where there is none yet.
    pub(crate) fn entry(&mut self, host: &Host, make: impl FnOnce() -> T) -> &mut T {
        let (map, name) = match normal(host) {
            Host::Any => return self.any.get_or_insert_with(make),
            Host::Exact(name) => (&mut self.exact, name),
            Host::Wildcard(suffix) => {
                self.longest_suffix = self.longest_suffix.max(suffix.len());
                (&mut self.wildcards, suffix)
            }
            Host::OneLabelWildcard(suffix) => {
                self.longest_suffix = self.longest_suffix.max(suffix.len());
                (&mut self.one_label, suffix)
            }
        };
        map.entry(name.into()).or_insert_with(make)
    }

    /// The most specific value for a name, which is in its normal form.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&T> {
        self.walk(name, ControlFlow::Break).break_value()
    }

    /// Shows the values for a name, the most specific first, until `visit` breaks.
    pub(crate) fn walk<'t, R>(
        &'t self,
        name: Option<&str>,
        mut visit: impl FnMut(&'t T) -> ControlFlow<R>,
    ) -> ControlFlow<R> {
        if let Some(name) = name {
            if let Some(value) = self.exact.get(name) {
                visit(value)?;
            }
            if self.longest_suffix > 0 {
                self.walk_wildcards(name, &mut visit)?;
            }
        }
        self.any.as_ref().map_or(ControlFlow::Continue(()), visit)
    }

    fn walk_wildcards<'t, R>(&'t self, name: &str, visit: &mut impl FnMut(&'t T) -> ControlFlow<R>) -> ControlFlow<R> {
        let mut rest = name;
        let mut is_first_label = true;
        while let Some((label, suffix)) = rest.split_once('.') {
            // `.example.com` has no label in front.
            let is_label = !(is_first_label && label.is_empty());
            if is_label && suffix.len() <= self.longest_suffix {
                if let Some(value) = self.one_label.get(suffix).filter(|_| is_first_label) {
                    visit(value)?;
                }
                if let Some(value) = self.wildcards.get(suffix) {
                    visit(value)?;
                }
            }
            rest = suffix;
            is_first_label = false;
        }
        ControlFlow::Continue(())
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.one_label.values()).chain(self.wildcards.values()).chain(&self.any)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let named = self.exact.values_mut().chain(self.one_label.values_mut()).chain(self.wildcards.values_mut());
        named.chain(&mut self.any)
    }

    pub(crate) fn len(&self) -> usize {
        self.values().count()
    }
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self {
            exact: Map::default(),
            one_label: Map::default(),
            wildcards: Map::default(),
            longest_suffix: 0,
            any: None,
        }
    }
}

/// A host in the form that requests' hosts are brought into.
pub(crate) fn normal(host: &Host) -> Host {
    let normal = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    match host {
        Host::Any => Host::Any,
        Host::Exact(name) => Host::Exact(normal(name)),
        Host::Wildcard(suffix) => Host::Wildcard(normal(suffix)),
        Host::OneLabelWildcard(suffix) => Host::OneLabelWildcard(normal(suffix)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_most_specific_host_is_found() {
        let mut map = HostMap::default();
        let hosts = ["*", "*.com", "*.example.com", "Shop.Example.com", "*.shop.example.com"];
        for host in hosts {
            map.entry(&host.parse().unwrap(), || host);
        }
        map.entry(&Host::OneLabelWildcard("example.com".into()), || "1*.example.com");
        for (name, found) in [
            (Some("shop.example.com"), "Shop.Example.com"),
            (Some("a.shop.example.com"), "*.shop.example.com"),
            (Some("cart.example.com"), "1*.example.com"),
            (Some("a.cart.example.com"), "*.example.com"),
            (Some("example.com"), "*.com"),
            (Some(".com"), "*"),
            (Some("com"), "*"),
            (None, "*"),
        ] {
            assert_eq!(map.find(name), Some(&found), "{name:?}");
        }
        assert_eq!(map.len(), 6);
        assert_eq!(HostMap::<()>::default().find(Some("a")), None);
    }

    fn name() -> impl Strategy<Value = String> {
        proptest::collection::vec("[ab]", 1..5).prop_map(|labels| labels.join("."))
    }

    fn host() -> impl Strategy<Value = Host> {
        prop_oneof![
            1 => Just(Host::Any),
            3 => name().prop_map(Host::Exact),
            3 => name().prop_map(Host::Wildcard),
            3 => name().prop_map(Host::OneLabelWildcard),
        ]
    }

    /// The order of hosts, told by looking at every one.
    fn naive<'h>(hosts: &'h [Host], name: &str) -> Option<&'h Host> {
        let exact = Host::Exact(name.to_owned());
        let fitting = hosts.iter().filter(|host| host.intersection(&exact).is_some());
        fitting.max_by_key(|host| match host {
            Host::Any => (0, 0, 0),
            Host::Wildcard(suffix) => (1, suffix.len(), 0),
            Host::OneLabelWildcard(suffix) => (1, suffix.len(), 1),
            Host::Exact(_) => (2, 0, 0),
        })
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_look_at_every_host_finds(
            hosts in proptest::collection::vec(host(), 0..12),
            name in name(),
        ) {
            let mut map = HostMap::default();
            for host in &hosts {
                map.entry(host, || host.clone());
            }
            prop_assert_eq!(map.find(Some(&name)), naive(&hosts, &name));
        }

        #[test]
        fn a_name_fits_an_intersection_if_it_fits_both(one in host(), two in host(), name in name()) {
            let name = Host::Exact(name);
            let fits = |host: &Host| host.intersection(&name).is_some();
            let both = one.intersection(&two);
            prop_assert_eq!(both.as_ref().is_some_and(fits), fits(&one) && fits(&two));
            prop_assert_eq!(both, two.intersection(&one));
        }
    }
}
