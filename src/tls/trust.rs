//! Whom to trust: certificate authorities and what they revoked, replaceable while used.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use arc_swap::{ArcSwap, Guard};
use rustls::{
    CertificateError as Refused, DistinguishedName, OtherError, RootCertStore, crypto::WebPkiSupportedAlgorithms,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder,
};

use super::{
    CertificateError, TrustBundle, default_provider, expiry, peer,
    refused::{ForeignTrustDomain, WrongIdentity},
};
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
/// 4. Roots [by trust domain](Self::by_domain) are trusted for the SPIFFE IDs of their own domain only: a certificate is
///    verified against the roots, and the revocation lists, of the domain that its only URI is in. One without a SPIFFE ID,
///    or of a domain that is not listed, is refused, whatever name is expected of it.
/// 5. DNS names and IP addresses in a certificate of such a domain say nothing, unless its bundle
///    [vouches for them](TrustBundle::dns_names): a server that is expected by name is refused, and a client has none.
///
/// # Caveats
/// * Roots given without a trust domain are trusted for all names. With SPIFFE federation, give them by domain.
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
pub struct Trust(Arc<Shared>);

struct Shared {
    anchors: ArcSwap<Anchors>,
    /// Held while certificates change along with it, and while it is read along with one.
    together: Mutex<()>,
}

/// What one handshake verifies by.
pub(super) struct Anchors {
    scope: Scope,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Whose certificates authorities may sign.
enum Scope {
    Anyone(Authorities),
    /// By trust domain, and nobody else's.
    Domains(BTreeMap<Box<str>, Authorities>),
}

/// Roots, and the lists that speak for what they signed.
struct Authorities {
    roots: Arc<RootCertStore>,
    crls: Vec<CertRevocationList<'static>>,
    /// Whether they are believed about other names than SPIFFE IDs.
    dns_names: bool,
}

/// A certificate whose chain is good.
pub(super) struct Verified<'a> {
    pub(super) certificate: EndEntityCert<'a>,
    /// Whether its issuer is believed about other names than SPIFFE IDs.
    pub(super) dns_names: bool,
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

    /// Federation: each trust domain's authorities, trusted for the SPIFFE IDs of that domain and, unless a bundle
    /// [says otherwise](TrustBundle::dns_names), for nothing else.
    ///
    /// # Errors
    /// When one of them cannot be used, a bundle has no authority, or a domain is there twice: a bundle that a partner sent
    /// must not add to our own. None at all trusts nobody.
    ///
    /// # Example
    /// ```
    /// # let key = rcgen::KeyPair::generate().unwrap();
    /// # let mut params = rcgen::CertificateParams::default();
    /// # params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    /// # let ours = params.self_signed(&key).unwrap().pem();
    /// # let partners = ours.clone();
    /// use portcullis::tls::{Trust, TrustBundle};
    ///
    /// let (mesh, partner) = ("mesh.example".parse()?, "partner.example".parse()?);
    /// let ours = TrustBundle::new(&mesh, ours.as_bytes());
    /// Trust::by_domain([ours, TrustBundle::new(&partner, partners.as_bytes())])?;
    ///
    /// let error = Trust::by_domain([ours, TrustBundle::new(&mesh, partners.as_bytes())]).unwrap_err();
    /// assert!(error.to_string().contains("mesh.example"));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn by_domain<'a>(bundles: impl IntoIterator<Item = TrustBundle<'a>>) -> Result<Self, CertificateError> {
        Ok(Anchors::by_domain(bundles)?.into())
    }

    /// Trusts these from now on, each for its own trust domain, and no others.
    ///
    /// # Errors
    /// The same as for [`by_domain`](Self::by_domain); then nothing changes.
    pub fn replace_by_domain<'a>(
        &self,
        bundles: impl IntoIterator<Item = TrustBundle<'a>>,
    ) -> Result<(), CertificateError> {
        self.store(Anchors::by_domain(bundles)?);
        Ok(())
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

    pub(super) fn store(&self, anchors: impl Into<Arc<Anchors>>) {
        self.0.anchors.store(anchors.into());
    }

    /// Changes it along with certificates, or reads it along with one, while nobody else does: never half of a change.
    pub(super) fn together<T>(&self, work: impl FnOnce() -> T) -> T {
        let _held = self.0.together.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    pub(super) fn load(&self) -> Guard<Arc<Anchors>> {
        self.0.anchors.load()
    }
}

impl From<Anchors> for Trust {
    fn from(anchors: Anchors) -> Self {
        Arc::new(anchors).into()
    }
}

impl From<Arc<Anchors>> for Trust {
    fn from(anchors: Arc<Anchors>) -> Self {
        Self(Arc::new(Shared { anchors: ArcSwap::new(anchors), together: Mutex::default() }))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Trust");
        if let Scope::Domains(domains) = &self.scope {
            shown.field("domains", &domains.keys());
        }
        let roots: usize = self.authorities().map(|authorities| authorities.roots.len()).sum();
        let crls: usize = self.authorities().map(|authorities| authorities.crls.len()).sum();
        shown.field("roots", &roots).field("crls", &crls).finish()
    }
}

impl Anchors {
    pub(super) fn from_memory(roots: &[u8], crls: &[u8]) -> Result<Self, CertificateError> {
        Self::new(ROOTS, roots, CRLS, crls)
    }

    fn new(roots_origin: &str, roots: &[u8], crls_origin: &str, crls: &[u8]) -> Result<Self, CertificateError> {
        Self::of(Scope::Anyone(Authorities::new(roots_origin, roots, crls_origin, crls)?))
    }

    pub(super) fn by_domain<'a>(bundles: impl IntoIterator<Item = TrustBundle<'a>>) -> Result<Self, CertificateError> {
        let mut domains = BTreeMap::new();
        for TrustBundle { domain, roots, crls, dns_names } in bundles {
            let origin = |what: &str| format!("{what} of {domain}");
            let authorities = Authorities::new(&origin(ROOTS), roots, &origin(CRLS), crls)?;
            let authorities = Authorities { dns_names, ..authorities };
            if domains.insert(domain.as_str().into(), authorities).is_some() {
                return Err(CertificateError::TrustDomainTwice { domain: domain.clone() });
            }
        }
        Self::of(Scope::Domains(domains))
    }

    fn of(scope: Scope) -> Result<Self, CertificateError> {
        let algorithms = default_provider()?.signature_verification_algorithms;
        Ok(Self { scope, algorithms })
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
        Self::of(Scope::Anyone(Authorities {
            roots: system_roots()?,
            crls: revocation_lists(CRLS, crls)?,
            dns_names: true,
        }))
    }

    fn authorities(&self) -> impl Iterator<Item = &Authorities> {
        let (anyone, domains) = match &self.scope {
            Scope::Anyone(authorities) => (Some(authorities), None),
            Scope::Domains(domains) => (None, Some(domains.values())),
        };
        anyone.into_iter().chain(domains.into_iter().flatten())
    }

    /// The names of all authorities, for a server to tell a client whose certificates it takes.
    pub(super) fn subjects(&self) -> Vec<DistinguishedName> {
        self.authorities().flat_map(|authorities| authorities.roots.subjects()).collect()
    }

    /// Verifies a chain for a side, but not whom it names.
    pub(super) fn verify<'a>(
        &self,
        end_entity: &'a CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<Verified<'a>, rustls::Error> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(refusal)?;
        let authorities = self.for_names_in(&certificate)?;
        let lists: Vec<_> = authorities.crls.iter().collect();
        // Fails for no lists alone, when there is nothing to ask. The default asks about the whole chain, and refuses what
        // is unknown.
        let revocation = RevocationOptionsBuilder::new(&lists)
            .ok()
            .map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &authorities.roots.roots,
                intermediates,
                now,
                usage,
                revocation,
                None,
            )
            .map_err(refusal)?;
        Ok(Verified { certificate, dns_names: authorities.dns_names })
    }

    /// Whether the issuer of a certificate that was verified is believed about other names than SPIFFE IDs.
    pub(super) fn believes_dns_names(&self, end_entity: &CertificateDer<'_>) -> bool {
        let certificate = EndEntityCert::try_from(end_entity);
        certificate.is_ok_and(|certificate| self.for_names_in(&certificate).is_ok_and(|issuer| issuer.dns_names))
    }

    /// Who may have signed it. Read before anything is verified: the name says whom to verify it by, and no more.
    fn for_names_in(&self, certificate: &EndEntityCert<'_>) -> Result<&Authorities, rustls::Error> {
        let domains = match &self.scope {
            Scope::Anyone(authorities) => return Ok(authorities),
            Scope::Domains(domains) => domains,
        };
        let names = peer::names(certificate);
        let Some(id) = names.spiffe_id() else {
            let why = WrongIdentity { expected: "one SPIFFE ID".to_owned(), presented: names.to_string() };
            return Err(Refused::Other(OtherError(Arc::new(why))).into());
        };
        domains.get(id.trust_domain()).ok_or_else(|| {
            let why = ForeignTrustDomain { presented: id.clone() };
            Refused::Other(OtherError(Arc::new(why))).into()
        })
    }
}

impl Authorities {
    fn new(roots_origin: &str, roots: &[u8], crls_origin: &str, crls: &[u8]) -> Result<Self, CertificateError> {
        let mut store = RootCertStore::empty();
        let broken = |source: BoxError| CertificateError::Roots { origin: roots_origin.to_owned(), source };
        for root in all::<CertificateDer<'static>>(roots).map_err(broken)? {
            store.add(root).map_err(|e| broken(e.into()))?;
        }
        if store.is_empty() {
            return Err(CertificateError::NoRoots { origin: roots_origin.to_owned() });
        }
        Ok(Self { roots: store.into(), crls: revocation_lists(crls_origin, crls)?, dns_names: true })
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
        other => Refused::Other(OtherError(Arc::new(other))),
    }
    .into()
}

fn revocation_lists(origin: &str, crls: &[u8]) -> Result<Vec<CertRevocationList<'static>>, CertificateError> {
    let broken = |source: BoxError| CertificateError::RevocationList { origin: origin.to_owned(), source };
    let lists = all::<CertificateRevocationListDer<'static>>(crls)
        .map_err(broken)?
        .iter()
        .map(|list| OwnedCertRevocationList::from_der(list).map(CertRevocationList::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| broken(e.into()))?;
    if lists.is_empty() && !crls.is_empty() {
        return Err(broken("no X509 CRL section found".into()));
    }
    Ok(lists)
}

/// All of a kind, from PEM text or from DER, one after the other.
fn all<T: PemObject + From<Vec<u8>>>(bytes: &[u8]) -> Result<Vec<T>, BoxError> {
    const SEQUENCE: u8 = 0x30;
    if bytes.first() != Some(&SEQUENCE) {
        return Ok(T::pem_slice_iter(bytes).collect::<Result<_, _>>()?);
    }
    all_der(bytes)
}

/// All of what is DER, one after the other.
pub(super) fn all_der<T: From<Vec<u8>>>(bytes: &[u8]) -> Result<Vec<T>, BoxError> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let next = expiry::element(rest).ok_or("it is not whole DER")?.2;
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
