use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use ipnet::IpNet;
use tower::{ServiceBuilder, ServiceExt};
use tower_service::Service;

use super::{
    BuildError, Gateway, Shared,
    compile::Compiler,
    dispatch::Dispatch,
    identities::Identities,
    local::{Local, Locals},
    streams::IDLE_TIMEOUT,
};
#[cfg(feature = "metrics")]
use crate::telemetry::metrics::Metrics;
#[cfg(feature = "tls")]
use crate::tls::Identity;
use crate::{
    Body, BoxError, Error, Outcome,
    config::Config,
    forwarded::ForwardedLayer,
    proxy::{ForwardLayer, Tunnels},
    respond::RespondLayer,
    telemetry::{Recorder, TelemetryLayer},
};

/// Completes a [`Gateway`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct GatewayBuilder {
    config: Config,
    locals: Locals,
    identities: Identities,
    forwarded: ForwardedLayer,
    forward: ForwardLayer,
    respond: RespondLayer,
    telemetry: TelemetryLayer,
    bind: IpAddr,
    stream_idle_timeout: Duration,
    #[cfg(feature = "metrics")]
    metrics: Option<Metrics>,
}

impl GatewayBuilder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            locals: Locals::default(),
            identities: Identities::default(),
            forwarded: ForwardedLayer::new(),
            forward: ForwardLayer::new(),
            respond: RespondLayer::new(),
            telemetry: TelemetryLayer::new(),
            bind: Ipv4Addr::UNSPECIFIED.into(),
            stream_idle_timeout: IDLE_TIMEOUT,
            #[cfg(feature = "metrics")]
            metrics: None,
        }
    }

    /// Lets a service of this process answer for a backend: nothing goes over a socket. `name` is a backend's whole
    /// name, or, for Kubernetes Services, `namespace/service`, whatever the port. It may name backends that only a later
    /// configuration has.
    ///
    /// The service gets the request as the client sent it, but for what an untrusted client said of itself; an upgrade
    /// (WebSocket) works, as the connection is the client's own. Of an upstream of that name in the configuration it has what
    /// stands around each request: `circuit_breaker`, `retry_budget`, `hedge` and the limits. What is about endpoints and
    /// connections to them, times included, has no meaning for it; the rule's [`Timeouts`](crate::config::Timeouts) hold.
    pub fn local<S, B>(mut self, name: impl Into<String>, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = service.map_err(|error| Error::new(Outcome::Internal).with_source(error));
        self.locals.insert(name.into(), Local::new(service));
        self
    }

    /// An identity of this program, which upstreams and listeners of the configuration show where they say
    /// [`identity: name`](crate::config::UpstreamTls::identity): one that rotates while it is used, as a
    /// `WorkloadIdentity` does, without another configuration. Of two of one name the last counts. It may be one that only a
    /// later configuration names.
    ///
    /// ```no_run
    /// use portcullis::{gateway::Gateway, tls::{Identity, IdentityFiles}};
    ///
    /// let files = IdentityFiles::new("svid.pem", "key.pem", "bundle.pem");
    /// let mesh = Identity::from_pem_files(&files)?;
    /// # let config = portcullis::config::Config::default();
    /// let gateway = Gateway::builder(config).identity("mesh", mesh.clone()).build()?;
    /// // Later, for all that show it:
    /// mesh.reload_pem_files(&files)?;
    /// # let _ = gateway;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls")]
    pub fn identity(mut self, name: impl Into<String>, identity: Identity) -> Self {
        self.identities.insert(name.into(), identity);
        self
    }

    /// The networks whose word on who the client is counts: load balancers and proxies in front of this one, for as long
    /// as the configuration has no [`forwarded`](Config::forwarded) of its own. Default none.
    pub fn trust(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.forwarded = self.forwarded.trust(networks);
        self
    }

    /// Replaces the layer that settles who the client is, for as long as the configuration has no
    /// [`forwarded`](Config::forwarded) of its own. Default: [`ForwardedLayer::new`].
    pub fn forwarded(mut self, layer: ForwardedLayer) -> Self {
        self.forwarded = layer;
        self
    }

    /// Replaces the layer that forwards to upstreams. Default: [`ForwardLayer::new`].
    pub fn forward(mut self, layer: ForwardLayer) -> Self {
        self.forward = layer;
        self
    }

    /// Replaces the layer that answers for errors. Default: [`RespondLayer::new`].
    pub fn respond(mut self, layer: RespondLayer) -> Self {
        self.respond = layer;
        self
    }

    /// Adds a recorder of every request and stream: metrics, an access log, the application's own. Default none.
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        self.telemetry = self.telemetry.recorder(recorder);
        self
    }

    /// Counts every request and stream in `metrics`, and shows the state of upstreams and rollouts there; what a new
    /// configuration no longer has is dropped from them. Default none.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, metrics: &Metrics) -> Self {
        self.metrics = Some(metrics.clone());
        self.recorder(metrics.clone())
    }

    /// Where those of the configuration's [listeners](crate::config::Listener) listen that have no address of their own.
    /// Default: `0.0.0.0`.
    pub fn bind(mut self, address: IpAddr) -> Self {
        self.bind = address;
        self
    }

    /// How long neither side of a connection that is not HTTP may say anything. Zero means no limit. Default: 1 h (Envoy's
    /// `idle_timeout` of TCP proxying).
    pub fn stream_idle_timeout(mut self, timeout: Duration) -> Self {
        self.stream_idle_timeout = timeout;
        self
    }

    /// Compiles the configuration.
    ///
    /// # Errors
    /// When the configuration cannot be served: what is wrong, and where.
    pub fn build(self) -> Result<Gateway, BuildError> {
        let tunnels = Tunnels::new();
        let compiler = Compiler::new(self.locals, self.identities, self.forward.tunnels(tunnels.clone()), self.bind);
        let snapshot = compiler.compile(self.config, None)?;
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let stack = ServiceBuilder::new()
            .layer(self.telemetry.clone())
            .layer(self.respond.clone())
            .service(Dispatch::new(snapshot.clone(), self.forwarded));
        let shared = Shared {
            snapshot,
            compiler,
            tunnels,
            applying: Mutex::default(),
            stream_idle_timeout: self.stream_idle_timeout,
            telemetry: self.telemetry,
            respond: self.respond,
            #[cfg(feature = "metrics")]
            metrics: self.metrics,
        };
        let gateway = Gateway { stack, shared: Arc::new(shared) };
        #[cfg(feature = "metrics")]
        if let Some(metrics) = &gateway.shared.metrics {
            // Weak: the gateway has the metrics, not they it.
            let shared = Arc::downgrade(&gateway.shared);
            metrics.upstreams(move || {
                let snapshot = shared.upgrade().map(|shared| shared.snapshot.load_full());
                snapshot.iter().flat_map(|snapshot| snapshot.upstreams()).map(|upstream| upstream.stats()).collect()
            });
            let shared = Arc::downgrade(&gateway.shared);
            metrics.rollouts(move || {
                let snapshot = shared.upgrade().map(|shared| shared.snapshot.load_full());
                let rollouts = snapshot.iter().flat_map(|snapshot| snapshot.rollouts());
                rollouts.map(|(_, rollout)| rollout.status()).collect()
            });
        }
        Ok(gateway)
    }
}
