//! Asks endpoints whether they are well: one task for each, made and ended by one for the upstream.

mod grpc;
mod probe;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use self::probe::Prober;
pub(super) use self::probe::Recipe;
use super::Shared;
use crate::{BoxError, balance::Endpoint, client::Pool, config::HealthCheck, health::Health};

/// How an endpoint's checks are done and what they decide.
#[derive(Debug, Clone)]
struct Terms {
    config: HealthCheck,
    /// Whether a check that passes ends an ejection.
    unejects: bool,
}

/// A task that ends with this.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps one task for each endpoint of the upstream, without keeping the upstream. `changed` says that there may be
/// other endpoints.
pub(super) async fn supervise(upstream: Weak<Shared>, config: HealthCheck, recipe: Recipe, changed: Arc<Notify>) {
    let mut tasks: HashMap<SocketAddr, (Weak<Endpoint<Pool>>, Task)> = HashMap::new();
    loop {
        {
            let Some(shared) = upstream.upgrade() else { return };
            let outliers = shared.config.outlier_detection.as_ref();
            let unejects = outliers.is_some_and(|outliers| outliers.health_check_unejects);
            let endpoints = shared.endpoints.load();
            // An endpoint that left and came back is another one.
            tasks.retain(|_, (watched, _)| endpoints.iter().any(|(there, _)| Arc::as_ptr(there) == watched.as_ptr()));
            for (endpoint, _) in endpoints.iter() {
                tasks.entry(endpoint.address()).or_insert_with(|| {
                    let endpoint = Arc::downgrade(endpoint);
                    let terms = Terms { config: config.clone(), unejects };
                    let task = tokio::spawn(of_one(upstream.clone(), endpoint.clone(), terms, recipe.clone()));
                    (endpoint, Task(task.abort_handle()))
                });
            }
        }
        changed.notified().await;
    }
}

async fn of_one(upstream: Weak<Shared>, endpoint: Weak<Endpoint<Pool>>, terms: Terms, recipe: Recipe) {
    let prober = {
        let (Some(shared), Some(endpoint)) = (upstream.upgrade(), endpoint.upgrade()) else { return };
        Prober::new(&recipe, &shared.dial, endpoint.address())
    };
    watch(&endpoint, &terms, || upstream.upgrade().is_some_and(|shared| shared.has_traffic()), || prober.check()).await;
}

/// Checks one endpoint until it is gone.
async fn watch<E, F>(endpoint: &Weak<Endpoint<E>>, terms: &Terms, traffic: impl Fn() -> bool, check: impl Fn() -> F)
where
    F: Future<Output = Result<(), BoxError>>,
{
    let mut health = Health::new(&terms.config);
    let mut rng = fastrand::Rng::new();
    loop {
        let result = match timeout(terms.config.timeout, check()).await {
            Ok(result) => result,
            Err(_) => Err("timed out".into()),
        };
        let Some(endpoint) = endpoint.upgrade() else { return };
        if let Some(healthy) = health.checked(result.is_ok()) {
            endpoint.set_healthy(healthy);
            let reason = result.as_ref().err().map(tracing::field::display);
            tracing::info!(endpoint = %endpoint.address(), healthy, reason, "health check");
        }
        if terms.unejects && result.is_ok() && health.is_healthy() {
            endpoint.uneject();
        }
        drop(endpoint);
        sleep(health.pause(traffic(), &mut rng)).await;
    }
}

impl Shared {
    /// Whether any request was ever sent to an endpoint there is.
    fn has_traffic(&self) -> bool {
        let now = Instant::now();
        self.endpoints.load().iter().any(|(endpoint, _)| endpoint.in_flight() > 0 || endpoint.latency(now).is_some())
    }
}
