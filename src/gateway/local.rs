//! Services in this process as backends.

use std::{collections::HashMap, fmt};

use crate::{Body, Error, route};

/// A service in this process.
pub(super) type Local = route::Target<Body, Error>;

/// The services in this process that backends may name.
#[derive(Clone, Default)]
pub(super) struct Locals(HashMap<String, Local>);

impl Locals {
    pub(super) fn insert(&mut self, name: String, local: Local) {
        self.0.insert(name, local);
    }

    /// The service for a backend: by its whole name, or, for `namespace/service:port`, by the name without the port. Which way
    /// the port is spoken to (`+grpc`, `@namespace/gateway`) does not matter.
    pub(super) fn find(&self, backend: &str) -> Option<&Local> {
        let port = || backend.split(['+', '@']).next();
        let service = || backend.rsplit_once(':').map(|(service, _)| service);
        self.0.get(backend).or_else(|| self.0.get(port()?)).or_else(|| self.0.get(service()?))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl fmt::Debug for Locals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
