//! Connections that are not HTTP: where they go, and how they are carried there.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use super::listeners::ListenerError;
use crate::{
    Outcome,
    balance::WeightedChoice,
    config::{Host, StreamRoute},
    proxy::{Copied, Ended, join},
    route::HostMap,
    server::{Stream, StreamHandler},
    telemetry::{OpenStream, StreamFacts, TelemetryLayer},
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

    /// What carries a connection to the backend whose turn it is; else why that cannot be, which is recorded, too.
    pub(super) fn handler(
        self: &Arc<Self>,
        idle: Duration,
        telemetry: &TelemetryLayer,
        mut facts: StreamFacts,
    ) -> Result<StreamHandler, String> {
        let backend = self.choice.choose().and_then(|index| self.backends.get(index));
        facts.route = Some(self.route.clone());
        facts.upstream = backend.map(|backend| backend.name.clone());
        let stream = telemetry.stream(facts);
        let upstream = match backend.map(|backend| (&backend.name, &backend.target)) {
            None => Err((Outcome::InvalidBackend, format!("route {} has no backend with a weight", self.route))),
            Some((name, Ok(upstream))) if upstream.is_deserted() => {
                Err((Outcome::NoEndpoint, format!("{name} has no endpoint")))
            }
            Some((_, Ok(upstream))) => Ok(upstream.clone()),
            Some((name, Err(why))) => Err((Outcome::InvalidBackend, format!("{name}: {why}"))),
        };
        match upstream {
            Ok(upstream) => {
                let idle = if idle.is_zero() { FOREVER } else { idle };
                Ok(StreamHandler::new(move |client| carry(client, upstream, idle, stream)))
            }
            Err((outcome, why)) => {
                stream.end(outcome, Some(why.clone()));
                Err(why)
            }
        }
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

async fn carry(mut client: Stream, upstream: Upstream, idle: Duration, mut stream: OpenStream) {
    let mut backend = match upstream.connect_stream(client.connection()).await {
        Ok(backend) => backend,
        Err(error) => return stream.end(error.outcome(), Some(error.to_string())),
    };
    stream.connected(backend.endpoint());
    // What is sent to the upstream was received from the client.
    let copied = |copied: Copied| stream.copied(copied.sent, copied.received);
    let (outcome, detail) = match join(&mut client, &mut backend, idle, copied).await {
        Ok(Ended::Idle) => (Outcome::Cancelled, Some("nothing was said for too long".to_owned())),
        Ok(Ended::Complete | Ended::Closed) => (Outcome::Completed, None),
        Err(error) => (Outcome::Cancelled, Some(error.to_string())),
    };
    stream.end(outcome, detail);
}
