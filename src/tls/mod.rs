//! TLS, both sides: who we are ([`Identity`], [`Certificates`]), whom we trust ([`Trust`]), and how a server
//! ([`ServerTls`]) and a client ([`ClientTls`](client::ClientTls)) speak it.
//!
//! | you want | take |
//! |---|---|
//! | a server with certificates by name | [`Certificates`], or a gateway's; [`ServerTls::new`] |
//! | mutual TLS in a mesh, both sides | [`Identity`]; [`ServerTls::client_certificates`], [`client::ClientTls::mtls`] |
//! | the same in a gateway's settings, by name | `GatewayBuilder::identity`, then `identity` of an upstream's or a listener's TLS |
//! | client certificates for some names only | [`ServerTls::client_certificates_for`] with a [`Trust`] for each |
//! | SPIFFE federation | [`Trust::by_domain`], or `trust` in the settings: each trust domain's authorities for its own IDs only |
//! | revocation | the CRLs of a [`Trust`] |
//! | to know why a handshake failed | [`CertificateRefused`] |
//!
//! 1. Everything rotates: [`Certificates`], [`Identity`] and [`Trust`] are handles whose contents are replaced while they are
//!    used. What cannot be used is refused and changes nothing. New handshakes use the new contents, open connections go on.
//! 2. A session is resumed only under the trust it was verified by: when roots or revocation lists change, or on a client the
//!    certificate shown, sessions from before it are forgotten, and a handshake verifies anew.
//! 3. A server verifies the client of a resumed session again, so that a session does not outlive the certificate it was made
//!    with.

pub mod client;
pub mod server;

mod bundle;
mod certificates;
mod expiry;
mod identity;
mod peer;
mod provider;
mod refused;
mod trust;
mod verify;
#[cfg(feature = "spiffe")]
mod workload;

use self::identity::NoIdentity;
#[cfg(feature = "spiffe")]
pub use self::workload::{WorkloadApi, WorkloadError, WorkloadIdentity};
pub use self::{
    bundle::TrustBundle,
    certificates::{CertificateError, CertificateSet, CertificateSource, Certificates},
    identity::{Identity, IdentityFiles},
    provider::{NoProvider, default_provider},
    refused::{CertificateRefused, RefusedReason},
    server::{ClientCertificates, ServerTls},
    trust::Trust,
};

#[cfg(all(test, feature = "tls-ring"))]
pub(crate) mod tests;
