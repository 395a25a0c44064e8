//! Which listeners can be told apart (the API's "distinct").

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
};

use crate::config::Host;

/// What a client shows first on a connection: only listeners of one family can share a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Http,
    /// HTTPS and TLS, told apart by SNI.
    Tls,
    Tcp,
}

/// An address, `None` for the one that the program chooses, and a port.
pub(crate) type Place = (Option<IpAddr>, u16);

/// What a listener needs for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Claim<'a> {
    pub(crate) port: u16,
    pub(crate) family: Family,
    pub(crate) host: &'a Host,
}

/// What is taken, and by whom.
#[derive(Default)]
pub(crate) struct Claims(HashMap<Place, Taken>);

struct Taken {
    family: Family,
    first: String,
    hosts: HashMap<Host, String>,
}

impl Claims {
    /// Takes a host at a place for `owner`. An error says who has it already, or why it cannot be had.
    pub(crate) fn take(&mut self, address: Option<IpAddr>, claim: &Claim<'_>, owner: &str) -> Result<(), String> {
        let taken = match self.0.entry((address, claim.port)) {
            Entry::Occupied(taken) => taken.into_mut(),
            Entry::Vacant(place) => {
                place.insert(Taken { family: claim.family, first: owner.to_owned(), hosts: HashMap::new() })
            }
        };
        if taken.family != claim.family {
            return Err(format!("listener {} has port {} for another protocol", taken.first, claim.port));
        }
        match taken.hosts.entry(claim.host.clone()) {
            Entry::Occupied(other) => Err(match claim.family {
                Family::Tcp => format!("listener {} has port {} already", other.get(), claim.port),
                _ => format!("listener {} has port {} and host `{}` already", other.get(), claim.port, claim.host),
            }),
            Entry::Vacant(place) => {
                place.insert(owner.to_owned());
                Ok(())
            }
        }
    }

    /// The same without taking it.
    pub(crate) fn is_free(&self, address: Option<IpAddr>, claim: &Claim<'_>) -> bool {
        self.0
            .get(&(address, claim.port))
            .is_none_or(|taken| taken.family == claim.family && !taken.hosts.contains_key(claim.host))
    }
}

/// Which of one object's listeners cannot be told apart from another of it: all of those, as none of them is the first.
pub(crate) fn indistinct(claims: &[Claim<'_>]) -> Vec<bool> {
    let (mut families, mut counts) = (HashMap::new(), HashMap::new());
    for claim in claims {
        let (first, is_mixed) = families.entry(claim.port).or_insert((claim.family, false));
        *is_mixed |= *first != claim.family;
        *counts.entry(claim).or_insert(0_usize) += 1;
    }
    let is_mixed = |port| families.get(port).is_some_and(|(_, is_mixed)| *is_mixed);
    claims.iter().map(|claim| is_mixed(&claim.port) || counts.get(claim).is_some_and(|count| *count > 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_apart_is_found_by_port_family_and_host() {
        let [any, a, b] = [Host::Any, Host::Exact("a".into()), Host::Exact("b".into())];
        let claim = |port, family, host| Claim { port, family, host };
        let claims = [
            claim(1, Family::Http, &any),
            claim(1, Family::Http, &a),
            claim(1, Family::Http, &b),
            claim(2, Family::Tls, &a),
            claim(2, Family::Tls, &a),
            claim(2, Family::Tls, &b),
            claim(3, Family::Tcp, &any),
            claim(3, Family::Http, &a),
            claim(3, Family::Http, &b),
            claim(4, Family::Tcp, &any),
        ];
        let expected = [false, false, false, true, true, false, true, true, true, false];
        assert_eq!(indistinct(&claims), expected);
    }

    #[test]
    fn the_first_at_an_address_keeps_it() {
        let (any, a) = (Host::Any, Host::Exact("a".into()));
        let mut claims = Claims::default();
        let http = Claim { port: 80, family: Family::Http, host: &any };
        let here = Some([127, 0, 0, 1].into());
        assert_eq!(claims.take(here, &http, "first"), Ok(()));
        assert!(!claims.is_free(here, &http) && claims.is_free(None, &http));
        assert_eq!(claims.take(None, &http, "second"), Ok(()), "another address");
        assert!(claims.take(here, &http, "third").unwrap_err().contains("listener first has port 80 and host `*`"));
        assert_eq!(claims.take(here, &Claim { host: &a, ..http.clone() }, "third"), Ok(()), "another host");
        let tcp = Claim { family: Family::Tcp, ..http };
        assert!(claims.take(here, &tcp, "fourth").unwrap_err().contains("another protocol"));
    }
}
