//! One copy's way: the task that sends it.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use http::{Request, Response};
use http_body::Body as _;
use tokio::time::{Duration, sleep};
use tower::ServiceExt;
use tower_service::Service;

use super::{
    feed::{Broken, Feed},
    layer::Tally,
};
use crate::{Body, BoxError, limit::concurrency::Permit};

/// A copy of a request, ready to be sent.
pub(super) struct Copy {
    pub(super) request: Request<Body>,
    /// How its body comes, if it has one.
    pub(super) feed: Option<Feed>,
    pub(super) timeout: Duration,
    pub(super) tally: Arc<Tally>,
    /// Given back when it is over.
    pub(super) permit: Permit,
}

/// Why nothing more came of a copy.
enum GivenUp {
    Broken(Broken),
    Late,
}

impl Copy {
    pub(super) async fn send<T>(self, target: T)
    where
        T: Service<Request<Body>, Response = Response<Body>>,
        T::Error: Into<BoxError>,
    {
        let Self { request, feed, timeout, tally, permit } = self;
        let result = tokio::select! {
            biased;
            result = answer(target, request) => Ok(result),
            given_up = give_up(feed.as_ref(), timeout) => Err(given_up),
        };
        // The error of a copy whose body broke off says nothing of the target.
        let result = match (result, feed.as_ref().and_then(Feed::broken)) {
            (Ok(Err(_)), Some(broken)) => Err(GivenUp::Broken(broken)),
            (result, _) => result,
        };
        let count = match result {
            Ok(Ok(())) => &tally.answered,
            Ok(Err(error)) => {
                tracing::debug!(%error, "mirrored request failed");
                &tally.failed
            }
            Err(GivenUp::Late) => {
                tracing::debug!("mirrored request was not answered in time");
                &tally.failed
            }
            Err(GivenUp::Broken(reason)) => {
                tracing::debug!(%reason, "mirrored request abandoned");
                &tally.abandoned
            }
        };
        count.fetch_add(1, Relaxed);
        drop(permit);
    }
}

/// Sends the copy and reads its answer to the end.
async fn answer<T>(target: T, request: Request<Body>) -> Result<(), BoxError>
where
    T: Service<Request<Body>, Response = Response<Body>>,
    T::Error: Into<BoxError>,
{
    let mut body = target.oneshot(request).await.map_err(Into::into)?.into_body();
    while !body.is_end_stream()
        && let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    {
        frame?;
    }
    Ok(())
}

/// When it is of no use to wait any longer.
async fn give_up(feed: Option<&Feed>, timeout: Duration) -> GivenUp {
    if let Some(feed) = feed
        && let Err(broken) = feed.over().await
    {
        return GivenUp::Broken(broken);
    }
    sleep(timeout).await;
    GivenUp::Late
}
