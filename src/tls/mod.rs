//! TLS, both sides: certificates by name, verification, and the crypto provider.

pub mod client;
pub mod server;

mod provider;

pub use self::provider::{NoProvider, default_provider};
