//! The hash of keys and endpoints, and what of a request is hashed.

use std::net::{IpAddr, SocketAddr};

use http::{Extensions, HeaderMap, HeaderName, Request, Uri, header::COOKIE, request::Parts};
use percent_encoding::percent_decode;
use thiserror::Error;

use crate::{
    config::HashKey,
    connection::{ClientAddr, ConnectionInfo},
};

/// A 64-bit hash that is the same in every process, on every platform, and in every version of this crate: FNV-1a
/// followed by the finalizer of MurmurHash3, which spreads FNV's weak high bits.
///
/// Not for tables that an attacker may fill: it has no secret.
///
/// # Example
/// ```
/// use portcullis::balance::stable_hash;
///
/// assert_eq!(stable_hash(b"session-4711"), 0x54ff_d5e8_82ba_fefd);
/// ```
#[must_use]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hasher = StableHasher::default();
    hasher.write(bytes.iter().copied());
    hasher.finish()
}

/// [`stable_hash`], bit by bit.
#[derive(Debug, Clone, Copy)]
pub(super) struct StableHasher(u64);

impl Default for StableHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl StableHasher {
    pub(super) fn write(&mut self, bytes: impl IntoIterator<Item = u8>) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(super) fn write_address(&mut self, address: SocketAddr) {
        self.write_ip(address.ip());
        self.write(address.port().to_be_bytes());
    }

    /// An IPv4 address and the same one mapped into IPv6 are one.
    fn write_ip(&mut self, ip: IpAddr) {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.write(ip.octets()),
            IpAddr::V6(ip) => self.write(ip.octets()),
        }
    }

    pub(super) fn finish(self) -> u64 {
        let mut hash = self.0;
        hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ hash >> 33
    }
}

/// A [`HashKey`] that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the balancer hashes the header `{0}`, which is not a valid field name: use letters, digits and `-`")]
pub struct InvalidHashKey(String);

/// What of a request is hashed, ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestKey {
    ClientIp,
    Header(HeaderName),
    Cookie(String),
    Query(String),
    Path,
}

impl RequestKey {
    pub(crate) fn new(config: &HashKey) -> Result<Self, InvalidHashKey> {
        Ok(match config {
            HashKey::ClientIp => Self::ClientIp,
            HashKey::Header(name) => {
                Self::Header(HeaderName::try_from(name.as_str()).map_err(|_| InvalidHashKey(name.clone()))?)
            }
            HashKey::Cookie(name) => Self::Cookie(name.clone()),
            HashKey::Query(name) => Self::Query(name.clone()),
            HashKey::Path => Self::Path,
        })
    }

    pub(crate) fn of<B>(&self, request: &Request<B>) -> Option<u64> {
        self.hash(request.uri(), request.headers(), request.extensions())
    }

    pub(crate) fn of_parts(&self, parts: &Parts) -> Option<u64> {
        self.hash(&parts.uri, &parts.headers, &parts.extensions)
    }

    fn hash(&self, uri: &Uri, headers: &HeaderMap, extensions: &Extensions) -> Option<u64> {
        let mut hasher = StableHasher::default();
        match self {
            Self::ClientIp => hasher.write_ip(client(extensions)?),
            Self::Header(name) => hasher.write(headers.get(name)?.as_bytes().iter().copied()),
            Self::Cookie(name) => hasher.write(cookie(headers, name)?.iter().copied()),
            Self::Query(name) => hasher.write(query(uri.query()?, name)?),
            Self::Path => hasher.write(uri.path().bytes()),
        }
        Some(hasher.finish())
    }
}

/// The client as trusted peers tell it, else the peer.
fn client(extensions: &Extensions) -> Option<IpAddr> {
    match extensions.get::<ClientAddr>() {
        Some(client) => Some(client.ip()),
        None => extensions.get::<ConnectionInfo>().map(|connection| connection.peer_addr().ip()),
    }
}

/// The value of the first cookie of this name.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    cookies(headers, name).next()
}

/// The values of the cookies of this name.
pub(crate) fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|&byte| byte == b';'));
    pairs.filter_map(move |pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (key, value) = pair.split_at_checked(equals)?;
        (key.trim_ascii() == name.as_bytes()).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

/// The decoded value of the first parameter of this name.
fn query<'a>(query: &'a str, name: &str) -> Option<impl Iterator<Item = u8> + 'a> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(key).eq(name.bytes()).then(|| decoded(value))
    })
}

fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    // A `+` is a space, as forms write it; an encoded one is a plus.
    text.split('+').enumerate().flat_map(|(part, text)| {
        let space = (part > 0).then_some(b' ');
        space.into_iter().chain(percent_decode(text.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: &HashKey, request: &Request<()>) -> Option<u64> {
        RequestKey::new(key).unwrap().of(request)
    }

    #[test]
    fn the_hash_never_changes() {
        // Known answers of FNV-1a ("", "a", "foobar"), finalized.
        let finalized = |fnv| StableHasher(fnv).finish();
        assert_eq!(stable_hash(b""), finalized(0xcbf2_9ce4_8422_2325));
        assert_eq!(stable_hash(b"a"), finalized(0xaf63_dc4c_8601_ec8c));
        assert_eq!(stable_hash(b"foobar"), finalized(0x8594_4171_f739_67e8));
        // Known answer of MurmurHash3's fmix64.
        assert_eq!(finalized(1), 0xb456_bcfc_34c2_cb2c);
    }

    #[test]
    fn a_header_is_hashed_by_its_value_and_absent_is_none() {
        let request = Request::builder().header("X-User", "ann").body(()).unwrap();
        assert_eq!(hash(&HashKey::Header("x-user".into()), &request), Some(stable_hash(b"ann")));
        assert_eq!(hash(&HashKey::Header("x-other".into()), &request), None);
    }

    #[test]
    fn a_bad_header_name_is_refused_by_name() {
        let error = RequestKey::new(&HashKey::Header("x user".into())).unwrap_err();
        assert!(error.to_string().contains("`x user`"), "{error}");
    }

    #[test]
    fn cookies_are_found_in_every_field_and_by_their_whole_name() {
        let request =
            Request::builder().header(COOKIE, "asid=1; b").header(COOKIE, "c=d;sid=x=y ;sid=2").body(()).unwrap();
        assert_eq!(hash(&HashKey::Cookie("sid".into()), &request), Some(stable_hash(b"x=y")));
        assert_eq!(hash(&HashKey::Cookie("b".into()), &request), None);
    }

    #[test]
    fn query_parameters_are_hashed_decoded() {
        for (uri, value) in [
            ("/?user=a%20b", Some("a b")),
            ("/?x&user=a+b&user=c", Some("a b")),
            ("/?us%65r=%2B%25%zz%4", Some("+%%zz%4")),
            ("/?user", Some("")),
            ("/?users=1", None),
            ("/", None),
        ] {
            let request = Request::builder().uri(uri).body(()).unwrap();
            let expected = value.map(|value| stable_hash(value.as_bytes()));
            assert_eq!(hash(&HashKey::Query("user".into()), &request), expected, "{uri}");
        }
    }

    #[test]
    fn a_client_has_one_hash_whatever_its_port_and_notation() {
        let from = |peer: &str| {
            let mut request = Request::new(());
            request.extensions_mut().insert(ConnectionInfo::new(peer.parse().unwrap(), "10.0.0.1:80".parse().unwrap()));
            hash(&HashKey::ClientIp, &request)
        };
        assert_eq!(from("192.0.2.1:1000"), from("[::ffff:192.0.2.1]:2000"));
        assert_ne!(from("192.0.2.1:1000"), from("192.0.2.2:1000"));
        assert_eq!(hash(&HashKey::ClientIp, &Request::new(())), None);
    }

    #[test]
    fn the_path_is_hashed_without_the_query() {
        let request = Request::builder().uri("/a/b?c").body(()).unwrap();
        assert_eq!(hash(&HashKey::Path, &request), Some(stable_hash(b"/a/b")));
    }

    #[test]
    fn the_client_that_trusted_peers_tell_of_goes_before_the_peer() {
        let key = RequestKey::ClientIp;
        let with = |peer: &str, client: Option<&str>| {
            let mut request = Request::new(());
            request.extensions_mut().insert(ConnectionInfo::new(peer.parse().unwrap(), "10.0.0.1:80".parse().unwrap()));
            if let Some(client) = client {
                request.extensions_mut().insert(ClientAddr::new(client.parse().unwrap()));
            }
            key.of(&request)
        };
        let alone = with("192.0.2.1:7", None);
        assert_eq!(with("10.0.0.9:1", Some("192.0.2.1")), alone);
        assert_ne!(with("10.0.0.9:1", Some("192.0.2.2")), alone);
        assert_ne!(with("10.0.0.9:1", None), alone);
    }
}
