use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// Whether this process wants requests. Clones share it: one is kept by who knows, one by [`Admin`](super::Admin).
///
/// # Example
/// ```
/// use portcullis::admin::Readiness;
///
/// let readiness = Readiness::new();
/// assert!(!readiness.is_ready());
/// readiness.set_ready();
/// assert!(readiness.is_ready());
/// readiness.set_draining();
/// readiness.set_ready();
/// assert!(!readiness.is_ready(), "there is no way back from draining");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicU8>);

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    /// Not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything listens and a configuration is in force. Without effect while draining: a start that comes in late must
    /// not call requests to a process that is on its way out.
    pub fn set_ready(&self) {
        let _ = self.0.compare_exchange(STARTING, READY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Ready no more: the last requests are finished.
    pub fn set_draining(&self) {
        self.0.store(DRAINING, Ordering::Relaxed);
    }

    /// Whether requests are wanted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed) == READY
    }

    pub(super) fn text(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            READY => "ready\n",
            DRAINING => "draining\n",
            _ => "starting\n",
        }
    }
}
