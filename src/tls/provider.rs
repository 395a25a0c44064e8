use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use thiserror::Error;

/// The crate was built without a crypto provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no crypto provider: enable the feature `tls-ring` or `tls-aws-lc-rs`, or install one with rustls")]
#[non_exhaustive]
pub struct NoProvider;

/// The crypto provider TLS uses: the one the process installed with rustls, else ring where `tls-ring` is on, else
/// aws-lc-rs where `tls-aws-lc-rs` is on. Nothing is installed for the process.
///
/// # Errors
/// When there is none of them.
pub fn default_provider() -> Result<Arc<CryptoProvider>, NoProvider> {
    if let Some(installed) = CryptoProvider::get_default() {
        return Ok(installed.clone());
    }
    #[cfg(feature = "tls-ring")]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(all(feature = "tls-aws-lc-rs", not(feature = "tls-ring")))]
    return Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc-rs")))]
    Err(NoProvider)
}
