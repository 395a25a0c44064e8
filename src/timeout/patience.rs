//! Whose doing it is that an answer did not come in time.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
};

use http::{
    Extensions, Request,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::Body as _;
use tokio::time::Instant;

use crate::{
    Body,
    body::{End, Observer},
};

/// In a request's extensions: how long a limit of ours lets the response's head be waited for.
///
/// Where it ends while an endpoint is still being waited for, that was too slow. Where a client has gone away, its own
/// deadline has passed, or it has not sent its whole request, nothing is known of the endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    began: Instant,
    ends: Instant,
    upload: Upload,
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
        request.extensions_mut().insert(Self { began, ends, upload });
    }

    /// That of a request.
    pub(crate) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().cloned()
    }

    /// Whether it ended with who was asked at `asked`, who had at least half of it since then, and since the whole request
    /// was there: what a request has waited before is not of their doing.
    pub(crate) fn ended_with(&self, asked: Instant, now: Instant) -> bool {
        let asked = match &self.upload {
            Upload::None => asked,
            Upload::Ended(at) => match at.get() {
                Some(at) => asked.max(*at),
                None => return false,
            },
            Upload::Unknown => return false,
        };
        let had = now.saturating_duration_since(asked);
        now >= self.ends && had >= self.ends.saturating_duration_since(self.began) / 2
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
