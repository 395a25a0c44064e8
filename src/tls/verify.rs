//! rustls' verifiers over [`Anchors`]: the same chain building and revocation as its own, by webpki, and then the names that
//! are expected, SPIFFE IDs among them.

use std::{cell::RefCell, fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::KeyUsage;

use super::{
    peer,
    refused::WrongIdentity,
    trust::{Anchors, Verified, refusal},
};
use crate::{
    config::SubjectName,
    identity::{PeerIdentity, SpiffeId, TrustDomain},
};

tokio::task_local! {
    /// Whose certificate was refused in the handshake of this task: rustls' errors do not tell.
    pub(super) static REFUSED: RefCell<Option<String>>;
}

/// Whom a client expects.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    /// The server by the name that it is called by.
    Name,
    /// One that has at least one of these names, whatever it is called by.
    AnyOf(Arc<[SubjectName]>),
    SpiffeId(SpiffeId),
    TrustDomain(TrustDomain),
}

impl Expected {
    fn check(&self, peer: &PeerIdentity) -> Result<(), Error> {
        let (fits, expected): (bool, &dyn fmt::Display) = match self {
            Self::Name | Self::AnyOf(_) => return Ok(()),
            Self::SpiffeId(id) => (peer.spiffe_id() == Some(id), id),
            Self::TrustDomain(domain) => (peer.spiffe_id().is_some_and(|id| domain.has(id)), domain),
        };
        if fits { Ok(()) } else { Err(wrong(expected.to_string(), peer)) }
    }
}

fn wrong(expected: String, presented: &PeerIdentity) -> Error {
    let why = WrongIdentity { expected, presented: presented.to_string() };
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

/// That a certificate has the name that the server is called by.
fn check_name(name: &ServerName<'_>, verified: &Verified<'_>) -> Result<(), Error> {
    if verified.dns_names {
        return verified.certificate.verify_is_valid_for_subject_name(name).map_err(refusal);
    }
    let names = peer::names(&verified.certificate);
    Err(wrong(format!("{} by an authority that is believed about such names", name.to_str()), &names))
}

/// That a certificate has one of these names.
fn check_names(names: &[SubjectName], verified: &Verified<'_>) -> Result<(), Error> {
    if names.iter().any(|name| has_name(name, verified)) {
        return Ok(());
    }
    let expected: Vec<_> = names
        .iter()
        .map(|name| match name {
            SubjectName::Dns(name) => name.as_str(),
            SubjectName::Uri(uri) => uri.as_str(),
        })
        .collect();
    Err(wrong(expected.join(" or "), &peer::names(&verified.certificate)))
}

/// URIs are compared byte by byte. A DNS name's wildcard, in the certificate or in what is expected, stands for one label.
fn has_name(name: &SubjectName, verified: &Verified<'_>) -> bool {
    let certificate = &verified.certificate;
    match name {
        SubjectName::Uri(uri) => certificate.valid_uri_names().any(|found| found == uri),
        SubjectName::Dns(_) if !verified.dns_names => false,
        SubjectName::Dns(name) => match name.strip_prefix("*.") {
            None => ServerName::try_from(name.as_str())
                .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok()),
            Some(suffix) => certificate.valid_dns_names().any(|found| {
                found
                    .split_once('.')
                    .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
            }),
        },
    }
}

/// A client's, of servers.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) anchors: Arc<Anchors>,
    pub(super) expected: Expected,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.anchors.verify(end_entity, intermediates, now, KeyUsage::server_auth())?;
        match &self.expected {
            Expected::Name => check_name(server_name, &verified)?,
            Expected::AnyOf(names) => check_names(names, &verified)?,
            expected => expected.check(&peer::names(&verified.certificate))?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.anchors.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.anchors.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anchors.algorithms.supported_schemes()
    }
}

/// A server's, of clients.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    anchors: Arc<Anchors>,
    asks: Asks,
    hints: Vec<DistinguishedName>,
}

/// How strictly a server asks for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// A good one, or no connection.
    Required,
    /// A good one or none.
    Optional,
    /// For any or none; what is not good says nothing.
    Unverified,
}

impl ClientVerifier {
    pub(super) fn new(anchors: Arc<Anchors>, asks: Asks) -> Self {
        // Without names of authorities a client shows what it has.
        let hints = if asks == Asks::Unverified { Vec::new() } else { anchors.subjects() };
        Self { anchors, asks, hints }
    }

    /// Whether a certificate that was let in is a good one: whoever shows another is nobody.
    pub(super) fn vouches_for(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> bool {
        let verify = || self.anchors.verify(end_entity, intermediates, UnixTime::now(), KeyUsage::client_auth());
        self.asks != Asks::Unverified || verify().is_ok()
    }

    /// Whether the DNS names in a certificate that it vouches for are the client's.
    pub(super) fn believes_dns_names(&self, end_entity: &CertificateDer<'_>) -> bool {
        self.anchors.believes_dns_names(end_entity)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.asks == Asks::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.anchors.verify(end_entity, intermediates, now, KeyUsage::client_auth()) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(error) if self.asks == Asks::Unverified => {
                tracing::debug!(%error, "a client's certificate is not good, and is passed over");
                Ok(ClientCertVerified::assertion())
            }
            Err(error) => {
                let names = peer::parse(end_entity).ok().map(|peer| peer.to_string());
                // Outside a handshake of ours nobody wants to know.
                let _ = REFUSED.try_with(|refused| *refused.borrow_mut() = names);
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.anchors.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.anchors.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anchors.algorithms.supported_schemes()
    }
}
