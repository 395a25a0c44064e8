//! Authorities by trust domain, and whom a configuration trusts.

use super::{CertificateError, Identity, Trust, trust::Anchors};
use crate::{
    config::{self, ClientValidation},
    identity::TrustDomain,
};

/// The authorities of one trust domain, and what they revoked.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct TrustBundle<'a> {
    /// Whose SPIFFE IDs they issue.
    pub domain: &'a TrustDomain,
    /// The authorities, in PEM or DER. At least one.
    pub roots: &'a [u8],
    /// Their revocation lists, in PEM or DER. Default none.
    pub crls: &'a [u8],
    /// Whether they are believed about DNS names and IP addresses too. Default no.
    pub dns_names: bool,
}

impl<'a> TrustBundle<'a> {
    /// These authorities, without revocation lists.
    #[must_use]
    pub fn new(domain: &'a TrustDomain, roots: &'a [u8]) -> Self {
        Self { domain, roots, crls: b"", dns_names: false }
    }

    /// Revocation lists too.
    #[must_use]
    pub fn crls(mut self, crls: &'a [u8]) -> Self {
        self.crls = crls;
        self
    }

    /// Believes them about DNS names and IP addresses too, beside the SPIFFE ID that a certificate must have. For one's own
    /// domain: SPIFFE says nothing of who may issue a name, so that any other could issue ours.
    #[must_use]
    pub fn dns_names(mut self) -> Self {
        self.dns_names = true;
        self
    }
}

impl<'a> From<&'a config::TrustBundle> for TrustBundle<'a> {
    fn from(bundle: &'a config::TrustBundle) -> Self {
        let config::TrustBundle { domain, roots, crls, dns_names } = bundle;
        Self { domain, roots, crls: crls.as_deref().unwrap_or_default(), dns_names: *dns_names }
    }
}

impl Trust {
    /// Whose clients a listener takes for good ones, which may show an identity.
    pub(crate) fn of_clients(
        validation: &ClientValidation,
        identity: Option<&Identity>,
    ) -> Result<Self, CertificateError> {
        let ClientValidation { roots, crls, trust, mode: _ } = validation;
        if let (Some(identity), [], None, None) = (identity, &**roots, crls, trust) {
            return Ok(identity.trust().clone());
        }
        match trust {
            None => Self::new(roots, crls.as_deref().unwrap_or_default()),
            Some(_) if !roots.is_empty() || crls.is_some() => Err(CertificateError::TrustBesideRoots),
            Some(bundles) => Ok(Anchors::of_bundles(bundles)?.into()),
        }
    }
}

impl Anchors {
    /// Whom a configuration trusts by domain.
    pub(super) fn of_bundles(bundles: &[config::TrustBundle]) -> Result<Self, CertificateError> {
        Self::by_domain(bundles.iter().map(TrustBundle::from))
    }
}
