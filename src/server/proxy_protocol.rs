//! The PROXY protocol: what a load balancer in front says about the client.

use std::{io, net::IpAddr};

use bytes::Bytes;
use ipnet::IpNet;
use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use thiserror::Error;
use tokio::io::AsyncRead;

use super::io::{Rewind, read_ahead};
use crate::connection::ConnectionInfo;

/// The longest header that is read. Version 1 has at most 107 bytes, version 2 is rarely above a few hundred; it could
/// have 64 KiB.
const LIMIT: usize = 4096;

/// Takes the client's address from a PROXY protocol header (version 1 and 2), sent by peers that are trusted to tell it.
///
/// 1. From a trusted peer the header is required: without one, or with a malformed one, the connection is closed.
/// 2. Any other peer is served as it is. What it sends is not looked at for a header, so nobody can claim an address.
/// 3. `LOCAL` (a load balancer's health check), `UNKNOWN` and families other than TCP keep the socket's addresses.
///
/// It comes before TLS, must come within [`head_timeout`](super::ServerConfig::head_timeout), and may have 4 KiB.
///
/// # Example
/// ```
/// use portcullis::server::ProxyProtocol;
///
/// let proxy = ProxyProtocol::required_from(["10.0.0.0/8".parse()?]);
/// assert!(proxy.trusts("10.1.2.3".parse()?));
/// assert!(!proxy.trusts("192.0.2.1".parse()?));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ProxyProtocol {
    trusted: Vec<IpNet>,
}

#[derive(Debug, Error)]
pub(super) enum ProxyProtocolError {
    #[error("the PROXY protocol header could not be read")]
    Io(#[from] io::Error),
    #[error("the connection ended before its PROXY protocol header was complete, or the header is larger than 4 KiB")]
    Incomplete,
    #[error("the PROXY protocol header is missing or malformed")]
    Malformed,
}

impl ProxyProtocol {
    /// Required from peers in these networks, ignored from all others.
    #[must_use]
    pub fn required_from(trusted: impl IntoIterator<Item = IpNet>) -> Self {
        Self { trusted: trusted.into_iter().collect() }
    }

    /// Whether a peer must send a header.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        // A dual-stack socket shows IPv4 peers as IPv6.
        let peer = peer.to_canonical();
        self.trusted.iter().any(|network| network.contains(&peer))
    }

    pub(super) async fn accept<T>(
        &self,
        mut io: T,
        info: ConnectionInfo,
    ) -> Result<(Rewind<T>, ConnectionInfo), ProxyProtocolError>
    where
        T: AsyncRead + Unpin,
    {
        if !self.trusts(info.peer_addr().ip()) {
            return Ok((Rewind::new(io, Bytes::new()), info));
        }
        let enough = |ahead: &[u8]| !matches!(parse(ahead), Err(proxy_header::Error::BufferTooShort));
        let mut ahead = read_ahead(&mut io, LIMIT, enough).await?;
        let (info, length) = match parse(&ahead) {
            Ok((header, length)) => (apply(&header, info), length),
            Err(proxy_header::Error::BufferTooShort) => return Err(ProxyProtocolError::Incomplete),
            Err(_) => {
                tracing::warn!(peer = %info.peer_addr(), "no valid PROXY protocol header from a peer that must send one");
                return Err(ProxyProtocolError::Malformed);
            }
        };
        let rest = ahead.split_off(length).freeze();
        Ok((Rewind::new(io, rest), info))
    }
}

fn parse(bytes: &[u8]) -> Result<(ProxyHeader<'_>, usize), proxy_header::Error> {
    ProxyHeader::parse(bytes, ParseConfig { include_tlvs: false, ..ParseConfig::default() })
}

fn apply(header: &ProxyHeader<'_>, info: ConnectionInfo) -> ConnectionInfo {
    match header.proxied_address() {
        Some(address) if address.protocol == Protocol::Stream => info.with_proxied(address.source, address.destination),
        _ => info,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn accept(bytes: &[u8], peer: &str) -> Result<(String, Vec<u8>), ProxyProtocolError> {
        let (mut client, server) = duplex(1 << 17);
        client.write_all(bytes).await.unwrap();
        drop(client);
        let info = ConnectionInfo::new(peer.parse().unwrap(), "127.0.0.1:80".parse().unwrap());
        let proxy = ProxyProtocol::required_from(["10.0.0.0/8".parse().unwrap()]);
        let (mut io, info) = proxy.accept(server, info).await?;
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        Ok((format!("{} {}", info.peer_addr(), info.local_addr()), rest))
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[tokio::test]
    async fn version_1_names_the_client_and_the_rest_is_kept() {
        let (info, rest) = accept(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET /", "10.0.0.1:5").await.unwrap();
        assert_eq!(info, "192.0.2.7:4711 198.51.100.1:443");
        assert_eq!(rest, b"GET /");
        let (info, _) = accept(b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n", "10.0.0.1:5").await.unwrap();
        assert_eq!(info, "10.0.0.1:5 127.0.0.1:80");
    }

    #[tokio::test]
    async fn version_2_names_the_client_and_local_does_not() {
        let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 0xbb];
        let mut bytes = v2(1, 0x11, &[&addresses[..], &[4, 0, 1, 0]].concat());
        bytes.extend(b"hello");
        let (info, rest) = accept(&bytes, "10.0.0.1:5").await.unwrap();
        assert_eq!(info, "192.0.2.7:4711 198.51.100.1:443");
        assert_eq!(rest, b"hello");
        let (info, _) = accept(&v2(0, 0x11, &addresses), "10.0.0.1:5").await.unwrap();
        assert_eq!(info, "10.0.0.1:5 127.0.0.1:80");
    }

    #[tokio::test]
    async fn a_missing_malformed_or_endless_header_is_refused() {
        for bytes in [
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 nowhere 1 2\r\n".to_vec(),
            [b"PROXY TCP4 ".as_slice(), &[b'1'; 5000]].concat(),
            v2(1, 0x11, &[1, 2, 3]),
            v2(1, 0x11, &[0; 60_000]),
            b"PROXY".to_vec(),
        ] {
            accept(&bytes, "10.0.0.1:5").await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn who_is_not_trusted_cannot_claim_an_address() {
        let claim = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
        let (info, rest) = accept(claim, "192.0.2.99:5").await.unwrap();
        assert_eq!(info, "192.0.2.99:5 127.0.0.1:80");
        assert_eq!(rest, claim);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), greeting in 0..3) {
            let bytes = match greeting {
                0 => bytes,
                1 => [b"PROXY ".as_slice(), &bytes].concat(),
                _ => [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &bytes].concat(),
            };
            if let Ok((_, length)) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
