//! A request's body on its way up, and a response's on its way down.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

use super::{failure, http2::Begun, lease::Lease, shared::Shared, watch::Watch};
use crate::{Body, BoxError, Error, Outcome, Sent};

/// A body of one piece that is no larger is kept until it is known whether the request was processed (the retry layer's
/// default).
const KEPT: usize = 64 * 1024;

/// A request's body. That it is dropped means that nothing more of it will be sent: then all of it was, or the
/// connection is of no use.
pub(super) struct Upload {
    body: Body,
    progress: Option<Progress>,
}

struct Progress {
    watch: Arc<Watch>,
    shared: Arc<Shared>,
    /// Where an HTTP/2 session wants to hear of it.
    begun: Option<Begun>,
    /// Of a body that is still where the watch offers it.
    offered: Option<SizeHint>,
}

/// Stands in for the error of a request's body, which waits in the watch.
#[derive(Debug, Error)]
#[error("the request's body ended early")]
struct Stopped;

impl Upload {
    /// Starts the watch with the request, `patient` as there. Over HTTP/2 (`begun`) the watch offers the body until it is sent.
    pub(super) fn new(
        mut body: Body,
        patient: bool,
        watch: &Arc<Watch>,
        shared: &Arc<Shared>,
        begun: Option<&Begun>,
    ) -> Self {
        let uploading = !body.is_end_stream();
        watch.begin(&shared.clock, uploading, patient);
        let progress = uploading.then(|| Progress {
            watch: Arc::clone(watch),
            shared: Arc::clone(shared),
            begun: begun.cloned(),
            offered: begun.map(|_| {
                let hint = body.size_hint();
                watch.offer(mem::take(&mut body));
                hint
            }),
        });
        Self { body, progress }
    }

    fn offered(&self) -> Option<&SizeHint> {
        self.progress.as_ref()?.offered.as_ref()
    }

    /// The body, of which nothing was sent.
    pub(super) fn into_body(mut self) -> Body {
        let offered = self.progress.as_ref().and_then(|progress| progress.watch.take_offered());
        offered.unwrap_or_else(|| mem::take(&mut self.body))
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(Progress { watch, shared, begun, offered }) = &mut this.progress else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        let is_first = offered.take().is_some();
        if is_first {
            if let Some(begun) = begun {
                begun.set(Arc::clone(watch));
            }
            match watch.take_offered() {
                Some(body) => this.body = body,
                None => watch.abort_upload(),
            }
        }
        if watch.is_aborted() {
            return Poll::Ready(Some(Err(Stopped.into())));
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => {
                watch.upload_waits();
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => {
                watch.upload_failed(error);
                Poll::Ready(Some(Err(Stopped.into())))
            }
            ready @ Poll::Ready(_) => {
                watch.uploaded(&shared.clock);
                if is_first
                    && let Poll::Ready(Some(Ok(frame))) = &ready
                    && let Some(data) = frame.data_ref().filter(|data| data.len() <= KEPT)
                    && this.body.is_end_stream()
                {
                    watch.offer_copy(data.clone().into());
                }
                ready
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.offered().is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.offered().copied().unwrap_or_else(|| self.body.size_hint())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(Progress { watch, shared, begun, .. }) = self.progress.take() {
            if let Some(begun) = begun {
                begun.clear(&watch);
            }
            watch.upload_done(&shared.clock);
        }
    }
}

/// A response's body, with what it holds of the pool.
pub(super) struct Download {
    // First, so that its stream has ended when the lease makes room for another.
    incoming: Incoming,
    lease: Option<Lease>,
}

impl Download {
    /// The body for a response that has just begun.
    pub(super) fn body(incoming: Incoming, lease: Lease) -> Body {
        if incoming.is_end_stream() {
            lease.done();
            return Body::empty();
        }
        Body::new(Self { incoming, lease: Some(lease) })
    }

    fn done(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.done();
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.lease = None;
        Poll::Ready(Some(Err(error.with_sent(Sent::Possibly).into())))
    }
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.incoming).poll_frame(cx);
        let Some(lease) = &this.lease else {
            // Ended, or failed: then what hyper says of it has been told already.
            return Poll::Ready(None);
        };
        if polled.is_pending() {
            if let Some(watch) = lease.watch() {
                let clock = &lease.shared().clock;
                watch.body_waits(clock);
                ready!(watch.poll_expired(cx, clock));
            }
            return this.fail(Error::new(Outcome::UpstreamTimeout));
        }
        if let Some(watch) = lease.watch() {
            watch.body_moved();
        }
        match ready!(polled) {
            Some(Ok(frame)) => {
                if this.incoming.is_end_stream() {
                    this.done();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => this.fail(failure::of_body(error)),
            None => {
                this.done();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
