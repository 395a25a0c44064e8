//! A first look at certificates and keys: whether they are there and of the right sort. That a key fits its certificate is
//! found where they are put to use.

use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use crate::pem::why;

pub(super) fn check_certificates(text: &[u8]) -> Result<(), String> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(text) {
        certificate.map_err(|error| format!("the certificate is not PEM: {}", why(&error)))?;
        count += 1;
    }
    if count == 0 { Err("has no certificate: put PEM with `BEGIN CERTIFICATE` there".to_owned()) } else { Ok(()) }
}

pub(super) fn check_crls(text: &[u8]) -> Result<(), String> {
    let mut count = 0;
    for list in CertificateRevocationListDer::pem_slice_iter(text) {
        list.map_err(|error| format!("the revocation list is not PEM: {}", why(&error)))?;
        count += 1;
    }
    if count == 0 { Err("has no revocation list: put PEM with `BEGIN X509 CRL` there".to_owned()) } else { Ok(()) }
}

pub(super) fn check_key(text: &[u8]) -> Result<(), String> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(_) => Ok(()),
        Err(pem::Error::NoItemsFound) => {
            Err("has no private key: put PEM with `BEGIN PRIVATE KEY` there (PKCS#8, PKCS#1 or SEC1)".to_owned())
        }
        Err(error) => Err(format!("the private key is not PEM: {}", why(&error))),
    }
}

/// Whether these certificates, which are PEM, can be authorities: a configuration is not made of what nobody can verify by.
#[cfg(feature = "kubernetes")]
pub(super) fn check_authorities(text: &[u8]) -> Result<(), String> {
    for certificate in CertificateDer::pem_slice_iter(text).flatten() {
        webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| format!("a certificate cannot be an authority: {error}"))?;
    }
    Ok(())
}
