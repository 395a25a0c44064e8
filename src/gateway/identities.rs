//! The identities that the program gives by name, for configurations to refer to.

#[cfg(feature = "tls")]
use std::collections::BTreeMap;

#[cfg(feature = "tls")]
use crate::tls::Identity;

/// Identities by name. Without TLS there are none.
#[derive(Debug, Default)]
pub(super) struct Identities {
    #[cfg(feature = "tls")]
    by_name: BTreeMap<String, Identity>,
}

#[cfg(feature = "tls")]
impl Identities {
    pub(super) fn insert(&mut self, name: String, identity: Identity) {
        self.by_name.insert(name, identity);
    }

    /// The identity of this name, or else the names there are.
    pub(super) fn find(&self, name: &str) -> Result<&Identity, Vec<String>> {
        self.by_name.get(name).ok_or_else(|| self.by_name.keys().cloned().collect())
    }
}
