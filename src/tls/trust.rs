//! Whom to trust: certificate authorities and what they revoked, replaceable while used.

use std::{
    fmt, fs,
    path::Path,
    sync::{Arc, OnceLock},
};

use arc_swap::{ArcSwap, Guard};
use rustls::{CertificateError as Refused, RootCertStore, crypto::WebPkiSupportedAlgorithms};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder,
};

use super::{CertificateError, default_provider, expiry};
use crate::BoxError;

/// Certificate authorities, and the certificates that they revoked: what a peer's certificate is verified against. A
/// handle: its clones share it, and [`replace`](Self::replace) reaches all that use it.
///
/// 1. A certificate must chain to one of the roots, be valid now, and be meant for the side that shows it (extended key
///    usage), if it says what it is meant for.
/// 2. Where there are revocation lists (CRLs), they are asked about every certificate of the chain but the root. One that no
///    list speaks for is refused, and so is any for which the list has expired: as OpenSSL, and with it nginx and Envoy, does.
/// 3. A replacement is complete or does not happen. Handshakes that begin after it use it; open connections stay; sessions
///    that were verified before it are not resumed.
///
/// # Caveats
/// * All roots are trusted for all names. With SPIFFE federation, verify peers of different trust domains by different
///   `Trust`s.
/// * A revocation list is taken for its authority's by the authority's name. While an authority changes its key and keeps its
///   name, and there are lists, certificates of one of the two keys are refused.
///
/// # Example
/// ```
/// # let key = rcgen::KeyPair::generate().unwrap();
/// # let mut params = rcgen::CertificateParams::default();
/// # params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
/// # let ca = params.self_signed(&key).unwrap().pem();
/// use portcullis::tls::Trust;
///
/// let trust = Trust::new(ca.as_bytes(), b"")?;
/// let error = trust.replace(b"nothing", b"").unwrap_err();
/// assert!(error.to_string().contains("no certificate"));
/// # Ok::<_, portcullis::tls::CertificateError>(())
/// ```
#[derive(Clone)]
pub struct Trust(Arc<ArcSwap<Anchors>>);

/// What one handshake verifies by.
pub(super) struct Anchors {
    pub(super) roots: Arc<RootCertStore>,
    crls: Vec<CertRevocationList<'static>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// In memory there is no path to name.
const ROOTS: &str = "trust roots";
const CRLS: &str = "revocation lists";

impl Trust {
    /// These authorities, and these revocation lists, of which there may be none. Both as PEM, any number one after the
    /// other, or as DER.
    ///
    /// # Errors
    /// When one of them cannot be used, or there is no authority.
    pub fn new(roots: &[u8], crls: &[u8]) -> Result<Self, CertificateError> {
        Ok(Anchors::from_memory(roots, crls)?.into())
    }

    /// From a file with authorities and, if given, one with revocation lists; each PEM or DER. Read once: see
    /// [`reload_files`](Self::reload_files).
    ///
    /// # Errors
    /// When a file cannot be read, or what is in it cannot be used.
    pub fn from_files(roots: impl AsRef<Path>, crls: Option<&Path>) -> Result<Self, CertificateError> {
        Ok(Anchors::read(roots.as_ref(), crls)?.into())
    }

    /// The authorities that the operating system trusts, without revocation lists.
    ///
    /// # Errors
    /// When there are none.
    pub fn system() -> Result<Self, CertificateError> {
        Ok(Anchors::system(b"")?.into())
    }

    /// Trusts these from now on, and no others.
    ///
    /// # Errors
    /// When one of them cannot be used, or there is no authority; then nothing changes.
    pub fn replace(&self, roots: &[u8], crls: &[u8]) -> Result<(), CertificateError> {
        self.store(Anchors::from_memory(roots, crls)?);
        Ok(())
    }

    /// Trusts what is in these files now.
    ///
    /// # Errors
    /// When a file cannot be read, or what is in it cannot be used; then nothing changes.
    pub fn reload_files(&self, roots: impl AsRef<Path>, crls: Option<&Path>) -> Result<(), CertificateError> {
        self.store(Anchors::read(roots.as_ref(), crls)?);
        Ok(())
    }

    pub(super) fn store(&self, anchors: Anchors) {
        self.0.store(Arc::new(anchors));
    }

    pub(super) fn load(&self) -> Guard<Arc<Anchors>> {
        self.0.load()
    }
}

impl From<Anchors> for Trust {
    fn from(anchors: Anchors) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(anchors)))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("roots", &self.roots.len()).field("crls", &self.crls.len()).finish()
    }
}

impl Anchors {
    pub(super) fn from_memory(roots: &[u8], crls: &[u8]) -> Result<Self, CertificateError> {
        Self::new(ROOTS, roots, CRLS, crls)
    }

    fn new(roots_origin: &str, roots: &[u8], crls_origin: &str, crls: &[u8]) -> Result<Self, CertificateError> {
        let mut store = RootCertStore::empty();
        let broken = |source: BoxError| CertificateError::Roots { origin: roots_origin.to_owned(), source };
        for root in all::<CertificateDer<'static>>(roots).map_err(broken)? {
            store.add(root).map_err(|e| broken(e.into()))?;
        }
        if store.is_empty() {
            return Err(CertificateError::NoRoots { origin: roots_origin.to_owned() });
        }
        Self::of(store.into(), crls_origin, crls)
    }

    pub(super) fn read(roots: &Path, crls: Option<&Path>) -> Result<Self, CertificateError> {
        let contents =
            |path: &Path| fs::read(path).map_err(|source| CertificateError::File { path: path.into(), source });
        let crls_origin = crls.map_or_else(String::new, |path| path.display().to_string());
        let lists = crls.map(contents).transpose()?.unwrap_or_default();
        if crls.is_some() && lists.is_empty() {
            // Half-written, more likely than meant.
            return Err(CertificateError::RevocationList { origin: crls_origin, source: "the file is empty".into() });
        }
        Self::new(&roots.display().to_string(), &contents(roots)?, &crls_origin, &lists)
    }

    pub(super) fn system(crls: &[u8]) -> Result<Self, CertificateError> {
        Self::of(system_roots()?, CRLS, crls)
    }

    fn of(roots: Arc<RootCertStore>, crls_origin: &str, crls: &[u8]) -> Result<Self, CertificateError> {
        let broken = |source: BoxError| CertificateError::RevocationList { origin: crls_origin.to_owned(), source };
        let lists = all::<CertificateRevocationListDer<'static>>(crls)
            .map_err(broken)?
            .iter()
            .map(|list| OwnedCertRevocationList::from_der(list).map(CertRevocationList::from))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| broken(e.into()))?;
        if lists.is_empty() && !crls.is_empty() {
            return Err(broken("no X509 CRL section found".into()));
        }
        let algorithms = default_provider()?.signature_verification_algorithms;
        Ok(Self { roots, crls: lists, algorithms })
    }

    /// Verifies a chain for a side, but not whom it names.
    pub(super) fn verify<'a>(
        &self,
        end_entity: &'a CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<EndEntityCert<'a>, rustls::Error> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(refusal)?;
        let lists: Vec<_> = self.crls.iter().collect();
        // Fails for no lists alone, when there is nothing to ask. The default asks about the whole chain, and refuses what
        // is unknown.
        let revocation = RevocationOptionsBuilder::new(&lists)
            .ok()
            .map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        certificate
            .verify_for_usage(self.algorithms.all, &self.roots.roots, intermediates, now, usage, revocation, None)
            .map_err(refusal)?;
        Ok(certificate)
    }
}

/// As rustls names it, so that the peer gets the right alert.
pub(super) fn refusal(error: webpki::Error) -> rustls::Error {
    use webpki::Error;
    match error {
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => Refused::BadEncoding,
        Error::CertNotValidYet { time, not_before } => Refused::NotValidYetContext { time, not_before },
        Error::CertExpired { time, not_after } => Refused::ExpiredContext { time, not_after },
        Error::InvalidCertValidity => Refused::Expired,
        // Signed by another authority of the same name.
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => Refused::UnknownIssuer,
        Error::CertNotValidForName(names) => {
            Refused::NotValidForNameContext { expected: names.expected, presented: names.presented }
        }
        Error::CertRevoked => Refused::Revoked,
        Error::UnknownRevocationStatus | Error::InvalidCrlSignatureForPublicKey => Refused::UnknownRevocationStatus,
        Error::IssuerNotCrlSigner => return rustls::CertRevocationListError::IssuerInvalidForCrl.into(),
        Error::CrlExpired { time, next_update } => Refused::ExpiredRevocationListContext { time, next_update },
        Error::RequiredEkuNotFoundContext(_) => Refused::InvalidPurpose,
        other => Refused::Other(rustls::OtherError(Arc::new(other))),
    }
    .into()
}

/// All of a kind, from PEM text or from DER, one after the other.
fn all<T: PemObject + From<Vec<u8>>>(bytes: &[u8]) -> Result<Vec<T>, BoxError> {
    const SEQUENCE: u8 = 0x30;
    if bytes.first() != Some(&SEQUENCE) {
        return Ok(T::pem_slice_iter(bytes).collect::<Result<_, _>>()?);
    }
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let next = expiry::element(rest).ok_or("neither PEM nor whole DER")?.2;
        found.push(rest.strip_suffix(next).unwrap_or(rest).to_vec().into());
        rest = next;
    }
    Ok(found)
}

fn system_roots() -> Result<Arc<RootCertStore>, CertificateError> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let found = ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // A system's list may hold certificates that no verifier understands; they are no reason to trust nobody.
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string));
        }
        Ok(Arc::new(roots))
    });
    found.clone().map_err(CertificateError::SystemRoots)
}
