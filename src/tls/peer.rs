//! A [`PeerIdentity`] from a certificate.

use bytes::Bytes;
use rustls::{
    SupportedCipherSuite,
    crypto::{CryptoProvider, hash::HashAlgorithm},
};
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::identity::PeerIdentity;

/// The names in a certificate, which nobody has verified yet.
pub(super) fn parse(certificate: &CertificateDer<'_>) -> Result<PeerIdentity, webpki::Error> {
    EndEntityCert::try_from(certificate).map(|parsed| names(&parsed))
}

pub(super) fn names(certificate: &EndEntityCert<'_>) -> PeerIdentity {
    PeerIdentity::new(certificate.valid_uri_names(), certificate.valid_dns_names())
}

/// Who a verified certificate names.
pub(super) fn identity(der: &Bytes, provider: &CryptoProvider) -> Option<PeerIdentity> {
    let peer = parse(&CertificateDer::from(&**der)).ok()?;
    Some(peer.with_certificate(der.clone(), sha256(der, provider)))
}

/// By whatever cipher suite of the provider uses this hash; one of TLS 1.3's every provider has.
fn sha256(bytes: &[u8], provider: &CryptoProvider) -> Option<[u8; 32]> {
    let hash = provider.cipher_suites.iter().find_map(|suite| {
        let hash = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
            SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
        };
        (hash.algorithm() == HashAlgorithm::SHA256).then_some(hash)
    })?;
    hash.hash(bytes).as_ref().try_into().ok()
}

#[cfg(all(test, feature = "tls-ring"))]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_sha_256() {
        let hash = sha256(b"abc", &rustls::crypto::ring::default_provider()).unwrap();
        assert_eq!(hash[..8], [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea]);
    }
}
