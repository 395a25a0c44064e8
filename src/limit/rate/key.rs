use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::IpAddr,
    sync::LazyLock,
};

use http::{HeaderName, request::Parts};

use crate::{connection::ConnectionInfo, forwarded::ClientAddr, identity::PeerIdentity, route::RouteMatch};

/// Whose budget a request uses: 128 bits made from anything that can be hashed, with seeds of this process.
///
/// Small and of one size, so that a flood of long keys needs no more memory than one of short keys. That two keys are
/// taken for one has a chance of 2⁻¹²⁸, which nobody can improve who does not know the seeds.
///
/// # Example
/// ```
/// use portcullis::limit::rate::Key;
///
/// assert_eq!(Key::of("tenant-7"), Key::of("tenant-7"));
/// assert_ne!(Key::of("tenant-7"), Key::of("tenant-8"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Key {
    /// The key of this value.
    pub fn of(value: impl Hash) -> Self {
        static SEEDS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);
        let [low, high] = &*SEEDS;
        Self { low: low.hash_one(&value), high: high.hash_one(&value) }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:016x}{:016x})", self.high, self.low)
    }
}

/// Tells whose budget a request uses. Closures `Fn(&Parts) -> Option<Key>` do.
pub trait KeyOf {
    /// The key. Requests without one share a budget of their own, so that leaving out what a key is made of frees nobody.
    fn key(&self, request: &Parts) -> Option<Key>;
}

impl<F: Fn(&Parts) -> Option<Key>> KeyOf for F {
    fn key(&self, request: &Parts) -> Option<Key> {
        self(request)
    }
}

/// One budget for all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Everyone;

impl KeyOf for Everyone {
    fn key(&self, _: &Parts) -> Option<Key> {
        None
    }
}

/// A budget for each client: the [`ClientAddr`] if there is one, else the connection's peer.
///
/// An IPv6 client is its /64, of which it has all 2⁶⁴ addresses (RFC 6177 and RFC 4291 section 2.5.4).
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientIp;

impl KeyOf for ClientIp {
    fn key(&self, request: &Parts) -> Option<Key> {
        let told = request.extensions.get::<ClientAddr>().map(|client| client.ip());
        let peer = || request.extensions.get::<ConnectionInfo>().map(|info| info.peer_addr().ip().to_canonical());
        Some(match told.or_else(peer)? {
            IpAddr::V4(ip) => Key::of(ip),
            IpAddr::V6(ip) => Key::of(ip.to_bits() >> 64),
        })
    }
}

/// A budget for each value of a header field; the first, where it comes more than once.
///
/// Only for values that were verified (an API key that is known, a field that a trusted proxy sets): a client that
/// chooses its value chooses a new budget.
#[derive(Debug, Clone)]
pub struct Header(pub HeaderName);

impl KeyOf for Header {
    fn key(&self, request: &Parts) -> Option<Key> {
        request.headers.get(&self.0).map(|value| Key::of(value.as_bytes()))
    }
}

/// A budget for each rule of a route, told by the [`RouteMatch`].
#[derive(Debug, Clone, Copy, Default)]
pub struct PerRoute;

impl KeyOf for PerRoute {
    fn key(&self, request: &Parts) -> Option<Key> {
        let matched = request.extensions.get::<RouteMatch>()?;
        Some(Key::of((&**matched.route(), matched.rule_index())))
    }
}

/// A budget for each peer, told by the names that its certificate proves; none of its own for a peer without.
#[derive(Debug, Clone, Copy, Default)]
pub struct PerIdentity;

impl KeyOf for PerIdentity {
    fn key(&self, request: &Parts) -> Option<Key> {
        struct Names<'a>(&'a PeerIdentity);
        impl Hash for Names<'_> {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.uris().for_each(|name| name.hash(state));
                self.0.dns_names().for_each(|name| name.hash(state));
            }
        }
        let peer = PeerIdentity::of(&request.extensions)?;
        (peer.uris().len() + peer.dns_names().len() > 0).then(|| Key::of(Names(peer)))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Request};

    use super::*;

    fn parts(client: Option<&str>, peer: Option<&str>) -> Parts {
        let mut request = Request::new(());
        if let Some(client) = client {
            request.extensions_mut().insert(ClientAddr::new(client.parse().unwrap()));
        }
        if let Some(peer) = peer {
            let info = ConnectionInfo::new(peer.parse().unwrap(), "127.0.0.1:80".parse().unwrap());
            request.extensions_mut().insert(info);
        }
        request.into_parts().0
    }

    #[test]
    fn a_client_is_its_address_or_its_network() {
        let key = |client, peer| ClientIp.key(&parts(client, peer));
        assert_eq!(key(None, None), None);
        assert_eq!(key(Some("192.0.2.1"), Some("10.0.0.1:1")), key(Some("192.0.2.1"), Some("10.0.0.2:2")));
        assert_ne!(key(Some("192.0.2.1"), None), key(Some("192.0.2.2"), None));
        assert_eq!(key(None, Some("192.0.2.1:1")), key(Some("192.0.2.1"), None));
        assert_eq!(key(None, Some("[::ffff:192.0.2.1]:1")), key(Some("192.0.2.1"), None));
        assert_eq!(key(Some("2001:db8:0:1::1"), None), key(Some("2001:db8:0:1:ffff::"), None));
        assert_ne!(key(Some("2001:db8:0:1::1"), None), key(Some("2001:db8:0:2::1"), None));
    }

    #[test]
    fn a_peer_is_its_names() {
        let key = |peer: PeerIdentity| {
            let tls = crate::connection::TlsInfo { peer_identity: Some(peer.into()), ..Default::default() };
            let info = ConnectionInfo::new("192.0.2.1:1".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
            let mut request = Request::new(());
            request.extensions_mut().insert(info.with_tls(tls));
            PerIdentity.key(&request.into_parts().0)
        };
        let cart = || PeerIdentity::new(["spiffe://a.example/cart"], []);
        assert!(key(cart()).is_some());
        assert_eq!(key(cart()), key(cart()));
        assert_ne!(key(cart()), key(PeerIdentity::new(["spiffe://a.example/shop"], [])));
        assert_ne!(key(PeerIdentity::new([], ["ab"])), key(PeerIdentity::new([], ["a", "b"])));
        assert_eq!(key(PeerIdentity::new([], [])), None);
        assert_eq!(PerIdentity.key(&parts(None, Some("192.0.2.1:1"))), None);
    }

    #[test]
    fn a_header_is_its_first_value() {
        let mut request = Request::new(()).into_parts().0;
        let tenant = Header(HeaderName::from_static("x-tenant"));
        assert_eq!(tenant.key(&request), None);
        request.headers = HeaderMap::from_iter([(tenant.0.clone(), "a".parse().unwrap())]);
        let before = tenant.key(&request);
        assert!(before.is_some());
        request.headers.append(tenant.0.clone(), "b".parse().unwrap());
        assert_eq!(tenant.key(&request), before);
    }

    #[test]
    fn a_route_is_its_name_and_the_place_of_the_rule() {
        use crate::{
            config::{Conflicts, Match, Route, Rule},
            route::RouteTable,
        };
        let rule = |path: &str| Rule { matches: vec![Match::prefix(path)], ..Rule::default() };
        let routes = [
            Route { rules: vec![rule("/cart"), rule("/pay")], ..Route::named("shop") },
            Route { rules: vec![rule("/posts")], ..Route::named("blog") },
        ];
        let table = RouteTable::compile(&routes, Conflicts::Refuse, |_, _| ()).unwrap();
        let key = |path: &str| {
            let mut request = Request::get(path).body(()).unwrap();
            if let Some(found) = table.lookup(&request) {
                request.extensions_mut().insert(found.route_match());
            }
            PerRoute.key(&request.into_parts().0)
        };
        assert!(key("/cart/7").is_some());
        assert_eq!(key("/cart/7"), key("/cart/8"));
        assert_ne!(key("/cart"), key("/pay"), "rules of one route");
        assert_ne!(key("/cart"), key("/posts"), "first rules of two routes");
        assert_eq!(key("/elsewhere"), None, "what was not routed shares the budget of those without a key");
    }
}
