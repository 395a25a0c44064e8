//! Whose doing it is that an answer did not come in time.

use std::{
    any::Any,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{
    Extensions, HeaderMap, Request,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::Body as _;
use tokio::time::Instant;

use super::{Deadline, grpc_timeout};
use crate::{
    Body,
    body::{End, Observer},
};

/// By how much less than there is may be told.
const ROUNDED: Duration = Duration::from_millis(10);

/// In a request's extensions: how long a limit of ours lets the response's head be waited for.
///
/// Where it ends while an endpoint is still being waited for, the endpoint was too slow. Nothing is known of it where the
/// client has gone away, where the client's own deadline has passed, where the whole request was not there yet, and where
/// that waited for a connection to be free.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    began: Instant,
    ends: Instant,
    upload: Upload,
    /// When the endpoint was asked, in nanoseconds from the beginning and one more, where an upstream tells.
    asked: Option<Arc<AtomicU64>>,
}

/// The request's body.
#[derive(Debug, Clone)]
enum Upload {
    None,
    /// There when it was read to its end.
    Ended(Arc<OnceLock<Instant>>),
    /// Of a type that cannot be watched.
    Unknown,
}

struct Watch(Arc<OnceLock<Instant>>);

impl Patience {
    /// Notes a limit, if none ends earlier.
    pub(crate) fn note<B: 'static>(request: &mut Request<B>, began: Instant, ends: Instant) {
        let upload = match request.extensions().get::<Self>() {
            Some(known) if known.ends <= ends => return,
            Some(known) => known.upload.clone(),
            None => Upload::of(request),
        };
        request.extensions_mut().insert(Self { began, ends, upload, asked: None });
    }

    /// That of a request for one call of an upstream, which [tells](Self::ask) when an endpoint is asked; `limit` is one for
    /// each attempt.
    pub(crate) fn of_call(request: &mut Request<Body>, limit: Option<Duration>) -> Option<Self> {
        if let Some(limit) = limit.filter(|limit| !limit.is_zero()) {
            let now = Instant::now();
            Self::note(request, now, Deadline::after(now, limit).instant());
        }
        let patience = request.extensions_mut().get_mut::<Self>()?;
        patience.asked = Some(Arc::default());
        Some(patience.clone())
    }

    /// Nobody has been asked yet, or not again.
    pub(crate) fn begin_attempt(&self) {
        if let Some(asked) = &self.asked {
            asked.store(0, Relaxed);
        }
    }

    /// The endpoint is asked: it has the request, or is to take a connection for it.
    pub(crate) fn ask(&self) {
        if let Some(asked) = &self.asked {
            let nanos = Instant::now().saturating_duration_since(self.began).as_nanos();
            let _ = asked.compare_exchange(0, u64::try_from(nanos).unwrap_or(u64::MAX - 1) + 1, Relaxed, Relaxed);
        }
    }

    /// That of a request.
    pub(crate) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().cloned()
    }

    /// Whether it ended with who was asked at `asked`, who had at least half of it since then, and since the whole request
    /// was there: what a request has waited before is not of their doing.
    pub(crate) fn ended_with(&self, asked: Instant, now: Instant) -> bool {
        now >= self.ends && self.was_used(self.ends.saturating_duration_since(self.began), asked, now)
    }

    /// The same of a limit that ends now.
    pub(crate) fn was_used(&self, limit: Duration, asked: Instant, now: Instant) -> bool {
        self.asked_at(asked).is_some_and(|asked| now.saturating_duration_since(asked) >= limit / 2)
    }

    /// Until when a caller has allowed time by `grpc-timeout`, where that is less than what is ours.
    pub(crate) fn told(headers: &HeaderMap, ours: Option<&Self>) -> Option<Instant> {
        let told = Deadline::after(Instant::now(), grpc_timeout(headers)?).instant();
        // Ours is told in the same field, rounded down.
        ours.is_none_or(|ours| told + ROUNDED < ours.ends).then_some(told)
    }

    /// Since when it is the endpoint's turn, no sooner than `asked`.
    fn asked_at(&self, asked: Instant) -> Option<Instant> {
        let whole = match &self.upload {
            Upload::None => asked,
            Upload::Ended(at) => asked.max(*at.get()?),
            Upload::Unknown => return None,
        };
        match self.asked.as_ref().map(|asked| asked.load(Relaxed)) {
            None => Some(whole),
            Some(0) => None,
            Some(nanos) => Some(whole.max(self.began + Duration::from_nanos(nanos - 1))),
        }
    }
}

impl Upload {
    fn of<B: 'static>(request: &mut Request<B>) -> Self {
        let body: &mut dyn Any = request.body_mut();
        match body.downcast_mut::<Body>() {
            Some(body) if body.is_end_stream() => return Self::None,
            Some(body) => {
                let ended = Arc::default();
                body.observe(Box::new(Watch(Arc::clone(&ended))));
                return Self::Ended(ended);
            }
            None => {}
        }
        let fields = request.headers();
        let has_none = request.method().is_safe()
            && ![CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| fields.contains_key(name));
        if has_none { Self::None } else { Self::Unknown }
    }
}

impl Observer for Watch {
    fn end(&mut self, end: End<'_>) {
        if matches!(end, End::Complete) {
            self.0.get_or_init(Instant::now);
        }
    }
}
