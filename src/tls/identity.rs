//! Who we are: a certificate with its key, and whom we trust, replaceable while used.

use std::{fmt, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;

use super::{
    CertificateError, CertificateSet, CertificateSource, Trust,
    certificates::{load, read},
    default_provider,
    trust::Anchors,
};
use crate::config::Certificate;

/// Who this program is to its peers, and whom it trusts: a certificate with its key, and a [`Trust`]. A handle: its clones
/// share it, and one is used by servers and clients at once.
///
/// 1. A server shows the certificate to whoever calls, whatever name it asks for: [`ServerTls::new`](super::ServerTls::new)
///    takes an `Identity`. A client shows it when asked: [`ClientTls::mtls`](super::client::ClientTls::mtls).
/// 2. A replacement is complete or does not happen: when anything in it is wrong, the old identity stays.
/// 3. Handshakes that begin after it use the new identity, a pool's next connections among them. Open connections keep the
///    old one for as long as they last, and sessions from before it are not resumed.
/// 4. A client's handshake that meets a replacement uses the old certificate and trust or the new ones, never one of each. A
///    server's takes the trust when it begins and the certificate when that is due: one that meets a replacement may show the
///    new certificate and verify the client by the old trust.
///
/// Certificates as Istio and SPIRE issue them, with a SPIFFE ID and neither subject nor DNS name, are what it is made for.
///
/// # Example
/// ```no_run
/// use portcullis::tls::{ClientCertificates, Identity, IdentityFiles, ServerTls};
///
/// let files = IdentityFiles::new("/var/run/secrets/svid.pem", "/var/run/secrets/key.pem", "/var/run/secrets/bundle.pem");
/// let identity = Identity::from_pem_files(&files)?;
/// let tls = ServerTls::new(identity.clone())?.client_certificates(ClientCertificates::required(identity.trust().clone()));
/// // Later, without touching open connections:
/// identity.reload_pem_files(&files)?;
/// # let _ = tls;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Identity(Arc<Shared>);

struct Shared {
    shown: ArcSwap<Shown>,
    trust: Trust,
}

struct Shown {
    key: Arc<CertifiedKey>,
    set: Arc<CertificateSet>,
}

/// Where an [`Identity`] is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdentityFiles {
    /// The certificate's chain in PEM, end entity first.
    pub chain: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
    /// The trusted authorities, in PEM or DER.
    pub roots: PathBuf,
    /// Their revocation lists, in PEM or DER. Default none.
    pub crls: Option<PathBuf>,
}

impl IdentityFiles {
    /// These, without revocation lists.
    #[must_use]
    pub fn new(chain: impl Into<PathBuf>, key: impl Into<PathBuf>, roots: impl Into<PathBuf>) -> Self {
        Self { chain: chain.into(), key: key.into(), roots: roots.into(), crls: None }
    }

    /// Revocation lists too.
    #[must_use]
    pub fn crls(mut self, crls: impl Into<PathBuf>) -> Self {
        self.crls = Some(crls.into());
        self
    }
}

impl Identity {
    /// This certificate, whose `hosts` do not matter, and this trust.
    ///
    /// # Errors
    /// When the certificate or its key cannot be used, or they do not belong together.
    pub fn new(certificate: &Certificate, trust: Trust) -> Result<Self, CertificateError> {
        let shown = ArcSwap::from_pointee(Shown::new(certificate)?);
        Ok(Self(Arc::new(Shared { shown, trust })))
    }

    /// What is in these files. Read once: see [`reload_pem_files`](Self::reload_pem_files).
    ///
    /// # Errors
    /// When a file cannot be read, or what is in it cannot be used.
    pub fn from_pem_files(files: &IdentityFiles) -> Result<Self, CertificateError> {
        let trust = Trust::from_files(&files.roots, files.crls.as_deref())?;
        Self::new(&read(&files.chain, &files.key)?, trust)
    }

    /// Shows this certificate from now on; the trust stays.
    ///
    /// # Errors
    /// When the certificate or its key cannot be used; then nothing changes.
    pub fn replace(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        self.0.shown.store(Arc::new(Shown::new(certificate)?));
        Ok(())
    }

    /// Shows this certificate and trusts these authorities from now on: all of it, or nothing. `roots` and `crls` are what
    /// [`Trust::new`] takes.
    ///
    /// # Errors
    /// When anything of it cannot be used; then nothing changes.
    pub fn replace_all(&self, certificate: &Certificate, roots: &[u8], crls: &[u8]) -> Result<(), CertificateError> {
        let anchors = Anchors::from_memory(roots, crls)?;
        let shown = Shown::new(certificate)?;
        self.change(anchors, shown);
        Ok(())
    }

    /// Becomes what is in these files now: all of it, or nothing.
    ///
    /// # Errors
    /// When a file cannot be read, or what is in it cannot be used; then nothing changes.
    pub fn reload_pem_files(&self, files: &IdentityFiles) -> Result<(), CertificateError> {
        let anchors = Anchors::read(&files.roots, files.crls.as_deref())?;
        let shown = Shown::new(&read(&files.chain, &files.key)?)?;
        self.change(anchors, shown);
        Ok(())
    }

    /// Whom it trusts: the same handle, so that what replaces it is seen here.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// One whose certificate was checked already.
    pub(super) fn of(key: Arc<CertifiedKey>, trust: Trust) -> Self {
        Self(Arc::new(Shared { shown: ArcSwap::from_pointee(Shown::of(key)), trust }))
    }

    /// Shows this from now on, which was checked already.
    pub(super) fn store(&self, key: Arc<CertifiedKey>) {
        self.0.shown.store(Arc::new(Shown::of(key)));
    }

    fn change(&self, anchors: Anchors, shown: Shown) {
        self.0.trust.together(|| {
            self.0.trust.store(anchors);
            self.0.shown.store(Arc::new(shown));
        });
    }

    /// What it shows, and whom `trust` trusts, which may be its own: as of one moment.
    pub(super) fn snapshot(&self, trust: &Trust) -> (Arc<CertifiedKey>, Arc<Anchors>) {
        self.0.trust.together(|| (self.key(), Arc::clone(&trust.load())))
    }

    pub(super) fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.shown.load().key)
    }
}

impl Shown {
    fn new(certificate: &Certificate) -> Result<Self, CertificateError> {
        let provider = default_provider()?;
        Ok(Self::of(load(certificate, &provider)?.0))
    }

    fn of(key: Arc<CertifiedKey>) -> Self {
        Self { set: Arc::new(CertificateSet::only(Arc::clone(&key))), key }
    }
}

impl CertificateSource for Identity {
    fn certificates(&self) -> Arc<CertificateSet> {
        Arc::clone(&self.0.shown.load().set)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("trust", &self.0.trust).finish_non_exhaustive()
    }
}

/// That there is no identity of this name, in words.
pub(super) struct NoIdentity<'a> {
    pub(super) name: &'a str,
    pub(super) known: &'a [String],
}

impl fmt::Display for NoIdentity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no identity named `{}`: give it with `GatewayBuilder::identity`", self.name)?;
        if self.known.is_empty() { Ok(()) } else { write!(f, "; there are: {}", self.known.join(", ")) }
    }
}
