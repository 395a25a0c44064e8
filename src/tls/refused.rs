//! Why a certificate was refused, on either side of a connection.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error};

use crate::identity::SpiffeId;

/// Why a handshake failed over a certificate: among the causes of the [`Error`](crate::Error) that a request fails with, and
/// of what a server logs. [`Display`](fmt::Display) says whose and why in one line; the source is what verification itself
/// said, with times and names.
///
/// # Example
/// ```
/// use std::error::Error;
/// use portcullis::tls::{CertificateRefused, RefusedReason};
///
/// /// Whether the upstream's certificate, or ours, wants renewing.
/// fn expired(error: &portcullis::Error) -> bool {
///     let causes = std::iter::successors(error.source(), |&cause| cause.source());
///     let mut refusals = causes.filter_map(|cause| cause.downcast_ref::<CertificateRefused>());
///     refusals.any(|refused| refused.reason() == RefusedReason::Expired)
/// }
/// assert!(!expired(&portcullis::Error::new(portcullis::Outcome::ConnectFailed)));
/// ```
#[derive(Debug, Clone)]
pub struct CertificateRefused {
    ours: bool,
    reason: RefusedReason,
    presented: Option<String>,
    source: Error,
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedReason {
    /// No trusted authority has signed it: the wrong CA, or an intermediate certificate is missing from the chain.
    UnknownAuthority,
    /// Its SPIFFE ID is of a trust domain whose authorities are not known here: see [`Trust::by_domain`](super::Trust::by_domain).
    UnknownTrustDomain,
    /// It is no longer valid.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// Its subject alternative names are not those expected.
    WrongName,
    /// Its authority has revoked it.
    Revoked,
    /// There are revocation lists, and none that is current speaks for it.
    RevocationUnknown,
    /// None was presented, where one is required.
    Missing,
    /// It is not meant for this side of a connection (extended key usage).
    WrongPurpose,
    /// Something else, which the source names.
    Other,
}

/// The certificate has a URI, and not the one expected.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}, presented {presented}")]
pub(super) struct WrongIdentity {
    pub(super) expected: String,
    pub(super) presented: String,
}

/// The certificate's trust domain is none of those that there are authorities for.
#[derive(Debug, thiserror::Error)]
#[error("trust domain {} of {presented}: no authorities are known for it", .presented.trust_domain())]
pub(super) struct ForeignTrustDomain {
    pub(super) presented: SpiffeId,
}

/// Around the refusal in an [`io::Error`], whose own source is not what it holds but the source of that.
#[derive(Debug, thiserror::Error)]
#[error("TLS handshake")]
struct Handshake(#[source] CertificateRefused);

impl CertificateRefused {
    /// What `error` says of a certificate; `None` when it is about something else.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        let (ours, reason) = match error {
            Error::InvalidCertificate(why) => (false, of_certificate(why)),
            Error::InvalidCertRevocationList(_) => (false, RefusedReason::RevocationUnknown),
            Error::NoCertificatesPresented => (false, RefusedReason::Missing),
            Error::UnsupportedNameType => (false, RefusedReason::WrongName),
            Error::AlertReceived(alert) => (true, of_alert(*alert)?),
            _ => return None,
        };
        Some(Self { ours, reason, presented: None, source: error.clone() })
    }

    /// The refusal that a failed handshake, or reading from a connection, ended with.
    pub(crate) fn find(error: &io::Error) -> Option<Self> {
        Self::of(error.get_ref()?.downcast_ref()?)
    }

    pub(super) fn presented(mut self, names: Option<String>) -> Self {
        self.presented = names;
        self
    }

    pub(super) fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Handshake(self))
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> RefusedReason {
        self.reason
    }

    /// Whether it is our certificate, refused by the peer. The peer says why in one word of TLS's own, or lies.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.ours
    }
}

fn of_certificate(error: &CertificateError) -> RefusedReason {
    use CertificateError as E;
    match error {
        E::UnknownIssuer | E::BadSignature => RefusedReason::UnknownAuthority,
        E::Expired | E::ExpiredContext { .. } => RefusedReason::Expired,
        E::NotValidYet | E::NotValidYetContext { .. } => RefusedReason::NotYetValid,
        E::NotValidForName | E::NotValidForNameContext { .. } => RefusedReason::WrongName,
        E::Revoked => RefusedReason::Revoked,
        E::UnknownRevocationStatus | E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
            RefusedReason::RevocationUnknown
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => RefusedReason::WrongPurpose,
        E::Other(other) if other.0.is::<WrongIdentity>() => RefusedReason::WrongName,
        E::Other(other) if other.0.is::<ForeignTrustDomain>() => RefusedReason::UnknownTrustDomain,
        _ => RefusedReason::Other,
    }
}

/// RFC 8446 section 6.2. What is missing here says nothing of certificates.
fn of_alert(alert: AlertDescription) -> Option<RefusedReason> {
    use AlertDescription as A;
    Some(match alert {
        A::CertificateRequired | A::NoCertificate => RefusedReason::Missing,
        A::UnknownCA => RefusedReason::UnknownAuthority,
        A::CertificateExpired => RefusedReason::Expired,
        A::CertificateRevoked => RefusedReason::Revoked,
        A::UnsupportedCertificate => RefusedReason::WrongPurpose,
        A::BadCertificate | A::CertificateUnknown | A::AccessDenied => RefusedReason::Other,
        _ => return None,
    })
}

impl RefusedReason {
    fn text(self) -> &'static str {
        match self {
            Self::UnknownAuthority => "no trusted authority has signed it",
            Self::UnknownTrustDomain => "no authorities are known for its trust domain",
            Self::Expired => "it has expired",
            Self::NotYetValid => "it is not valid yet",
            Self::WrongName => "it is for another name",
            Self::Revoked => "it was revoked",
            Self::RevocationUnknown => "whether it was revoked is unknown",
            Self::Missing => "there is none",
            Self::WrongPurpose => "it is not meant for this side of a connection",
            Self::Other => "it cannot be used",
        }
    }
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Display for CertificateRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ours { "the peer refuses our certificate" } else { "the peer's certificate is refused" })?;
        if let Some(names) = &self.presented {
            write!(f, " ({names})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for CertificateRefused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.source {
            // rustls would show it as Rust does for debugging.
            Error::InvalidCertificate(CertificateError::Other(other)) => Some(&*other.0),
            error => Some(error),
        }
    }
}
