//! Connections that are not HTTP: where they go, and how they are carried there.

use std::{cmp::Reverse, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::listeners::ListenerError;
use crate::{
    Error, Outcome,
    balance::WeightedChoice,
    config::{Host, StreamRoute},
    proxy::{Copied, Ended, join},
    route::HostMap,
    server::{Stream, StreamHandler},
    upstream::Upstream,
};

/// How long neither side of a stream may say anything, where nobody said otherwise: 1 h (Envoy's `idle_timeout` of TCP
/// proxying).
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// As good as none.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A compiled [`StreamRoute`]. All that lead to it share the turns of its backends.
pub(super) struct StreamRule {
    route: Arc<str>,
    choice: WeightedChoice,
    backends: Vec<Backend>,
}

struct Backend {
    name: Arc<str>,
    /// Or why it cannot be used.
    target: Result<Upstream, Arc<str>>,
}

impl StreamRule {
    pub(super) fn compile(
        route: &StreamRoute,
        upstream: &dyn Fn(&str) -> Option<Upstream>,
    ) -> Result<Arc<Self>, ListenerError> {
        let backends = route.backends.iter().map(|backend| {
            let target = match &backend.invalid {
                Some(why) => Err(why.as_str().into()),
                None => Ok(upstream(&backend.name).ok_or_else(|| ListenerError::UnknownBackend {
                    route: route.name.clone(),
                    backend: backend.name.clone(),
                })?),
            };
            Ok(Backend { name: backend.name.as_str().into(), target })
        });
        Ok(Arc::new(Self {
            route: route.name.as_str().into(),
            choice: WeightedChoice::new(route.backends.iter().map(|backend| backend.weight)),
            backends: backends.collect::<Result<_, ListenerError>>()?,
        }))
    }

    /// The route's name.
    pub(super) fn route(&self) -> &str {
        &self.route
    }

    /// What carries a connection to the backend whose turn it is; else why that cannot be.
    pub(super) fn handler(self: &Arc<Self>, idle: Duration) -> Result<StreamHandler, String> {
        let backend = self.choice.choose().and_then(|index| self.backends.get(index));
        let backend = backend.ok_or_else(|| format!("route {} has no backend with a weight", self.route))?;
        let upstream = match &backend.target {
            Ok(upstream) if upstream.is_deserted() => Err(format!("{} has no endpoint", backend.name)),
            Ok(upstream) => Ok(upstream.clone()),
            Err(why) => Err(format!("{}: {why}", backend.name)),
        }?;
        let ending = Ending {
            route: self.route.clone(),
            backend: backend.name.clone(),
            endpoint: None,
            client: None,
            server_name: None,
            began: Instant::now(),
            copied: Copied::default(),
            outcome: Outcome::Cancelled,
            detail: None,
        };
        let idle = if idle.is_zero() { FOREVER } else { idle };
        Ok(StreamHandler::new(move |stream| carry(stream, upstream, idle, ending)))
    }
}

/// For one listener's host: each route's names that are also its, the oldest route first where two have the same.
pub(super) fn by_name<'a>(
    host: &Host,
    routes: impl IntoIterator<Item = (usize, &'a StreamRoute)>,
    rules: &[Arc<StreamRule>],
) -> HostMap<Arc<StreamRule>> {
    let mut routes: Vec<_> = routes.into_iter().collect();
    // An age that is not known is younger than any.
    routes.sort_by_key(|(index, route)| (Reverse(route.created.map(Reverse)), route.name.as_str(), *index));
    let mut map = HostMap::default();
    for (index, route) in routes {
        let Some(rule) = rules.get(index) else { continue };
        for host in super::listeners::shared_hosts(host, &route.hosts) {
            map.entry(&host, || rule.clone());
        }
    }
    map
}

async fn carry(mut client: Stream, upstream: Upstream, idle: Duration, mut ending: Ending) {
    ending.client = Some(client.connection().peer_addr());
    ending.server_name = client.connection().tls().and_then(|tls| tls.server_name.clone());
    let mut backend = match upstream.connect_stream(client.connection()).await {
        Ok(backend) => backend,
        Err(error) => return ending.failed(&error),
    };
    ending.endpoint = Some(backend.endpoint());
    match join(&mut client, &mut backend, idle, &mut ending.copied).await {
        Ok(Ended::Idle) => ending.detail = Some("nothing was said for too long".to_owned()),
        Ok(Ended::Complete | Ended::Closed) => ending.outcome = Outcome::Completed,
        Err(error) => ending.detail = Some(error.to_string()),
    }
}

/// What is known of a stream; one event at its end, however that comes.
struct Ending {
    route: Arc<str>,
    backend: Arc<str>,
    endpoint: Option<SocketAddr>,
    client: Option<SocketAddr>,
    server_name: Option<Arc<str>>,
    began: Instant,
    copied: Copied,
    outcome: Outcome,
    detail: Option<String>,
}

impl Ending {
    fn failed(mut self, error: &Error) {
        self.outcome = error.outcome();
        self.detail = Some(error.to_string());
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        tracing::info!(
            target: "portcullis::stream",
            route = &*self.route,
            upstream = &*self.backend,
            endpoint = self.endpoint.map(tracing::field::display),
            client = self.client.map(|client| tracing::field::display(client.ip())),
            tls_server_name = self.server_name.as_deref(),
            outcome = self.outcome.as_str(),
            sent_bytes = self.copied.sent,
            received_bytes = self.copied.received,
            duration_ms = self.began.elapsed().as_micros() as f64 / 1e3,
            detail = self.detail.as_deref(),
        );
    }
}
