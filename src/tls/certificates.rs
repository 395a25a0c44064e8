//! Certificates by the names they are shown for.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{SignatureScheme, crypto::CryptoProvider, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem, pem::PemObject};
use smallvec::{SmallVec, smallvec};
use thiserror::Error;

use super::{NoProvider, default_provider, expiry};
use crate::{
    BoxError,
    config::{Certificate, Host},
    identity::TrustDomain,
    pem::why,
};

/// Certificates with their keys, checked and sorted by name: what one handshake looks at.
///
/// 1. A certificate for exactly the name that the client asks for (SNI) comes first, then one for `*.` and the name
///    without its first label. A wildcard stands for one label, as certificates have it, however it is written.
/// 2. When none fits, or the client names no host, the default is shown: the certificate for [`Host::Any`], else the first.
/// 3. Of several for one name, the first whose kind of key the client understands is shown: an ECDSA and an RSA
///    certificate can stand side by side. Else the first.
pub struct CertificateSet {
    exact: HashMap<Box<str>, Keys, foldhash::fast::RandomState>,
    /// By the name behind `*.`.
    wildcard: HashMap<Box<str>, Keys, foldhash::fast::RandomState>,
    default: Keys,
}

type Keys = SmallVec<[Arc<CertifiedKey>; 1]>;

/// Where a server's certificates come from: asked anew for every handshake.
///
/// [`Certificates`] is one; so is anything that has a [`CertificateSet`] in a snapshot of its own.
pub trait CertificateSource: Send + Sync + 'static {
    /// The certificates as they are now.
    fn certificates(&self) -> Arc<CertificateSet>;
}

/// Certificates that can be replaced while they are used. A handle: its clones share them.
///
/// A replacement is complete or does not happen: when anything in the new set is wrong, the old one stays. Open
/// connections keep what they have.
///
/// # Example
/// ```
/// # let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["shop.example.com".into()]).unwrap();
/// # let (chain, key) = (cert.pem(), signing_key.serialize_pem());
/// use portcullis::config::Certificate;
/// use portcullis::tls::Certificates;
///
/// let shop = Certificate { origin: "Secret default/shop".into(), hosts: vec![], chain: chain.into(), key: key.into() };
/// let certificates = Certificates::new([&shop])?;
///
/// let broken = Certificate { key: b"no key".to_vec(), ..shop };
/// let error = certificates.replace([&broken]).unwrap_err();
/// assert!(error.to_string().starts_with("Secret default/shop: "));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Certificates(Arc<ArcSwap<CertificateSet>>);

/// Certificates that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// There is nothing to do cryptography with.
    #[error(transparent)]
    NoProvider(#[from] NoProvider),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The chain or the key is not PEM.
    #[error("{origin}: the {part} is not PEM: {source}")]
    Pem {
        /// The certificate's origin.
        origin: String,
        /// `certificate chain` or `private key`.
        part: &'static str,
        /// What is wrong with it.
        source: BoxError,
    },
    /// The chain has no certificate.
    #[error("{origin}: no certificate: the PEM text has no CERTIFICATE section")]
    NoCertificate {
        /// The certificate's origin.
        origin: String,
    },
    /// There is no private key.
    #[error("{origin}: no private key: the PEM text has no PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY section")]
    NoKey {
        /// The certificate's origin.
        origin: String,
    },
    /// The key is of a kind that cannot be used.
    #[error("{origin}: the private key cannot be used: {source}")]
    UnusableKey {
        /// The certificate's origin.
        origin: String,
        /// What is wrong with it.
        source: BoxError,
    },
    /// The certificate is not a certificate.
    #[error("{origin}: the certificate cannot be read: {source}")]
    InvalidCertificate {
        /// The certificate's origin.
        origin: String,
        /// What is wrong with it.
        source: BoxError,
    },
    /// The trusted authorities are neither PEM nor DER, or one of them is no certificate.
    #[error("{origin}: a certificate authority cannot be read: {source}")]
    Roots {
        /// The file, or what was given.
        origin: String,
        /// What is wrong with it.
        source: BoxError,
    },
    /// There is no trusted authority.
    #[error("{origin}: no certificate authority: expected at least one, as PEM blocks `CERTIFICATE` or as DER")]
    NoRoots {
        /// The file, or what was given.
        origin: String,
    },
    /// The system's certificate authorities could not be read.
    #[error("no certificate authorities of the system ({0}): install them, or give roots as PEM")]
    SystemRoots(String),
    /// A revocation list cannot be used.
    #[error("{origin}: a revocation list cannot be read: {source}")]
    RevocationList {
        /// The file, or what was given.
        origin: String,
        /// What is wrong with it.
        source: BoxError,
    },
    /// Authorities were given twice for one trust domain.
    #[error(
        "trust domain {domain}: its authorities are given twice: give all of them in one place, and of the Workload API's bundles only its own"
    )]
    TrustDomainTwice {
        /// Which.
        domain: TrustDomain,
    },
    /// Authorities by trust domain, beside such as are trusted for every name.
    #[error(
        "`trust` beside `roots` or `crls`, whose authorities would be trusted for every domain's names: give one of the two"
    )]
    TrustBesideRoots,
    /// An identity that the program did not give.
    #[error("{}", super::NoIdentity { name, known })]
    UnknownIdentity {
        /// The name that was not found.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// An identity, beside certificates of its own.
    #[error("`identity` beside `certificates`: give one of the two")]
    IdentityBesideCertificates,
    /// The key belongs to another certificate.
    #[error("{origin}: the private key does not fit the certificate: its public key is another one")]
    KeyMismatch {
        /// The certificate's origin.
        origin: String,
    },
}

impl CertificateSet {
    /// Checks and sorts certificates. None at all is a set, with which every handshake fails.
    ///
    /// # Errors
    /// When anything is wrong with one of them. One that has expired is usable, with a warning in the log.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> Result<Self, CertificateError> {
        let provider = default_provider()?;
        let mut set = Self { exact: HashMap::default(), wildcard: HashMap::default(), default: Keys::new() };
        let mut any = false;
        for certificate in certificates {
            let (key, names) = load(certificate, &provider)?;
            if set.default.is_empty() {
                set.default.push(key.clone());
            }
            for host in &certificate.hosts {
                match host {
                    Host::Any => {
                        if !std::mem::replace(&mut any, true) {
                            set.default.clear();
                        }
                        set.default.push(key.clone());
                    }
                    Host::Exact(name) => set.exact.entry(name.as_str().into()).or_default().push(key.clone()),
                    Host::Wildcard(name) | Host::OneLabelWildcard(name) => {
                        set.wildcard.entry(name.as_str().into()).or_default().push(key.clone());
                    }
                }
            }
            if certificate.hosts.is_empty() {
                if names.is_empty() {
                    tracing::warn!(
                        origin = certificate.origin,
                        "the certificate has no DNS name: it is shown as the default only"
                    );
                }
                for name in names {
                    match name.strip_prefix("*.") {
                        Some(suffix) => set.wildcard.entry(suffix.into()).or_default().push(key.clone()),
                        None => set.exact.entry(name.into()).or_default().push(key.clone()),
                    }
                }
            }
        }
        Ok(set)
    }

    /// One certificate, whatever name is asked for.
    pub(super) fn only(key: Arc<CertifiedKey>) -> Self {
        Self { exact: HashMap::default(), wildcard: HashMap::default(), default: smallvec![key] }
    }

    /// The names there are certificates for, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let wildcards = self.wildcard.keys().map(|suffix| format!("*.{suffix}"));
        self.exact.keys().map(|name| name.to_string()).chain(wildcards)
    }

    /// Whether there is a certificate for this name, other than the default one.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        self.by_name(name).is_some()
    }

    pub(crate) fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let keys = name.and_then(|name| self.by_name(name)).unwrap_or(&self.default);
        let understood = keys.iter().find(|key| keys.len() == 1 || key.key.choose_scheme(schemes).is_some());
        understood.or_else(|| keys.first()).cloned()
    }

    fn by_name(&self, name: &str) -> Option<&Keys> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let lower;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }
}

impl fmt::Debug for CertificateSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Certificates {
    /// These.
    ///
    /// # Errors
    /// When anything is wrong with one of them.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> Result<Self, CertificateError> {
        Ok(CertificateSet::new(certificates)?.into())
    }

    /// One, from a file with its chain and a file with its key. Read once: see [`reload_pem_files`](Self::reload_pem_files).
    ///
    /// # Errors
    /// When a file cannot be read, or what is in it cannot be used.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, CertificateError> {
        Self::new([&read(chain.as_ref(), key.as_ref())?])
    }

    /// Shows these from now on.
    ///
    /// # Errors
    /// When anything is wrong with one of them; then nothing changes.
    pub fn replace<'a>(&self, certificates: impl IntoIterator<Item = &'a Certificate>) -> Result<(), CertificateError> {
        self.store(CertificateSet::new(certificates)?);
        Ok(())
    }

    /// Shows what is in these files now.
    ///
    /// # Errors
    /// When a file cannot be read, or what is in it cannot be used; then nothing changes.
    pub fn reload_pem_files(&self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<(), CertificateError> {
        self.replace([&read(chain.as_ref(), key.as_ref())?])
    }

    /// Shows this set from now on.
    pub fn store(&self, set: impl Into<Arc<CertificateSet>>) {
        self.0.store(set.into());
    }
}

impl CertificateSource for Certificates {
    fn certificates(&self) -> Arc<CertificateSet> {
        self.0.load_full()
    }
}

impl From<CertificateSet> for Certificates {
    fn from(set: CertificateSet) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(set)))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&*self.0.load()).finish()
    }
}

pub(super) fn read(chain: &Path, key: &Path) -> Result<Certificate, CertificateError> {
    let contents = |path: &Path| fs::read(path).map_err(|source| CertificateError::File { path: path.into(), source });
    Ok(Certificate {
        origin: chain.display().to_string(),
        hosts: Vec::new(),
        chain: contents(chain)?,
        key: contents(key)?,
    })
}

/// One certificate, checked, and the DNS names in it.
pub(super) fn load(
    certificate: &Certificate,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Vec<String>), CertificateError> {
    let origin = || certificate.origin.clone();
    let chain =
        CertificateDer::pem_slice_iter(&certificate.chain).collect::<Result<Vec<_>, _>>().map_err(|source| {
            CertificateError::Pem { origin: origin(), part: "certificate chain", source: why(&source).into() }
        })?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate { origin: origin() });
    }
    let key = PrivateKeyDer::from_pem_slice(&certificate.key).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey { origin: origin() },
        source => CertificateError::Pem { origin: origin(), part: "private key", source: why(&source).into() },
    })?;
    certified(&certificate.origin, chain, key, provider)
}

/// The same, of what is not text any more.
pub(super) fn certified(
    origin: &str,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Vec<String>), CertificateError> {
    let named = origin;
    let origin = || named.to_owned();
    let end_entity = chain.first().ok_or_else(|| CertificateError::NoCertificate { origin: origin() })?;
    let parsed = webpki::EndEntityCert::try_from(end_entity)
        .map_err(|source| CertificateError::InvalidCertificate { origin: origin(), source: source.into() })?;
    if expiry::not_after(end_entity).is_some_and(|at| at < UnixTime::now().as_secs()) {
        // Refusing it would take down what might still work for clients that do not look.
        tracing::warn!(origin = named, "the certificate has expired");
    }
    let names: Vec<String> = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|source| CertificateError::UnusableKey { origin: origin(), source: source.into() })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key that does not tell its public half (a hardware token, say) is taken at its word.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => return Err(CertificateError::KeyMismatch { origin: origin() }),
        Err(source) => return Err(CertificateError::InvalidCertificate { origin: origin(), source: source.into() }),
    }
    Ok((Arc::new(certified), names))
}
