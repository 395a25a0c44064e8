use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;

use super::compile::Snapshot;
use crate::tls::{CertificateSet, CertificateSource};

/// The certificates of a [`Gateway`](super::Gateway)'s configuration, as it is at each handshake.
#[derive(Clone)]
pub struct GatewayCertificates(Arc<ArcSwap<Snapshot>>);

impl GatewayCertificates {
    pub(super) fn new(snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        Self(snapshot)
    }
}

impl CertificateSource for GatewayCertificates {
    fn certificates(&self) -> Arc<CertificateSet> {
        self.0.load().certificates.clone()
    }
}

impl fmt::Debug for GatewayCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GatewayCertificates").field(&self.certificates()).finish()
    }
}
