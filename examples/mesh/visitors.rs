//! Who asks `shop`: so many requests a second, whether those before were answered or not.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Method, Request};
use http_body_util::BodyExt;
use portcullis::{
    Body, BoxError,
    config::{self, Endpoints},
    upstream::Upstream,
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, interval},
};
use tower::ServiceExt;

use super::Options;

/// They reload nothing: what fails once has failed.
pub(crate) struct Visitors {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What they saw so far.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// How long each good answer took, in microseconds, from the moment that it was due to be asked for.
    pub(crate) latencies: Vec<u32>,
    pub(crate) failed: u64,
    /// Of those, orders to be placed.
    pub(crate) posts_failed: u64,
    pub(crate) posts: u64,
}

impl Visitors {
    pub(crate) fn start(shop: SocketAddr, options: Options) -> Result<Self, BoxError> {
        // Without any layer: this is what the outside sees.
        let shop = config::Upstream { max_attempts: 1, ..config::Upstream::new("shop", Endpoints::fixed([shop])) };
        let shop = Upstream::new(shop)?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (shared, mut rng) = (seen.clone(), fastrand::Rng::with_seed(options.seed));
        let task = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / options.rate);
            let mut visits = JoinSet::new();
            for id in 0.. {
                let due = ticks.tick().await;
                // One in ten places an order: a POST, without an `Idempotency-Key`.
                let method = if rng.u8(..10) == 0 { Method::POST } else { Method::GET };
                visits.spawn(visit(shop.clone(), method, id, due, shared.clone()));
                while visits.try_join_next().is_some() {}
            }
        });
        Ok(Self { seen, task })
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Those who still wait for an answer go, and count for nothing.
    pub(crate) async fn stop(&self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

async fn visit(shop: Upstream, method: Method, id: u32, due: Instant, seen: Arc<Mutex<Seen>>) {
    let post = method == Method::POST;
    let fine = async {
        let request = Request::builder().method(method).uri(format!("http://shop/orders/{id}")).body(Body::empty())?;
        let response = shop.oneshot(request).await?;
        let fine = response.status().is_success();
        response.into_body().collect().await?;
        Ok::<_, BoxError>(fine)
    };
    let fine = fine.await.unwrap_or(false);
    let mut seen = lock(&seen);
    seen.posts += u64::from(post);
    if fine {
        seen.latencies.push(due.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
    } else {
        seen.failed += 1;
        seen.posts_failed += u64::from(post);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
