//! TLS, both sides: certificates by name, verification, and the crypto provider.

pub mod client;
pub mod server;

mod certificates;
mod expiry;
mod provider;

pub use self::{
    certificates::{CertificateError, CertificateSet, CertificateSource, Certificates},
    provider::{NoProvider, default_provider},
    server::ServerTls,
};
