use super::{Finished, StreamFacts, StreamRecorder};

/// How much a [`Recorder`] wants to know of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Interest {
    /// Nothing at present: without another recorder's interest the request is not recorded.
    None,
    /// All but [`Finished::request`].
    Summary,
    /// All.
    Request,
}

/// Something that is handed the record of every request, and of every stream if it wants.
///
/// Called on the request's way, on whatever thread ends it, also while a dropped request is torn down: it should take
/// no longer than a few hundred nanoseconds, hand on what takes longer, and must not block. Any
/// `Fn(&Finished) + Send + Sync` is one.
pub trait Recorder: Send + Sync + 'static {
    /// How much of the next request it wants to know. Asked once a request, as it begins.
    fn interest(&self) -> Interest {
        Interest::Request
    }

    /// A request began. [`finished`](Self::finished) follows exactly once.
    fn begun(&self) {}

    /// A request ended.
    fn finished(&self, finished: &Finished);

    /// A connection that is not HTTP begins to be forwarded as a stream. What is returned here is told of its bytes and of
    /// its end. Default: nobody is.
    fn stream(&self, stream: &StreamFacts) -> Option<Box<dyn StreamRecorder>> {
        let _ = stream;
        None
    }
}

impl<F> Recorder for F
where
    F: Fn(&Finished) + Send + Sync + 'static,
{
    fn finished(&self, finished: &Finished) {
        self(finished);
    }
}
