//! A rule's filters, and those of its backends, as layers.

use std::{fmt, sync::Arc, time::Duration};

use http::{Extensions, HeaderName, Request, StatusCode, request::Parts};
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

use super::{Scope, backend::Arrived, time::Time};
use crate::{
    Body, BoxError, Error, Outcome,
    config::{self, FaultKind, Filter, Priority, RateKey, RateLimit, check},
    fault::{Abort, FaultLayer, Share},
    filter::{AuthLayer, CorsLayer, HeadersLayer, MirrorLayer, RedirectLayer, RewriteLayer},
    forwarded::client_cert,
    gateway::{BuildError, local::Local},
    identity::AllowLayer,
    limit::rate::{ClientIp, Header, Key, KeyOf, Limiter, PerIdentity, Quota, RateLayer, WhenFull},
};

/// Makes the filters of one rule, and of its backends.
pub(super) struct Filters<'a, 'b> {
    scope: &'a Scope<'b>,
    rates: Vec<KeptRate>,
}

/// A limiter with what it was made from, which outlives the configuration if the next has the same in its place.
pub(in crate::gateway) struct KeptRate {
    place: Place,
    config: RateLimit,
    limiter: Arc<Limiter>,
}

/// Where a filter stands within its rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Among the rule's; none for the rule's own filters.
    backend: Option<usize>,
    filter: usize,
}

/// Whose quota a request uses, as configured.
enum RuleKey {
    Rule,
    ClientIp,
    Header(Header),
    Identity,
}

impl<'a, 'b> Filters<'a, 'b> {
    pub(super) fn new(scope: &'a Scope<'b>) -> Self {
        Self { scope, rates: Vec::new() }
    }

    /// The limiters that were made, or kept.
    pub(super) fn into_rates(self) -> Arc<[KeptRate]> {
        self.rates.into()
    }

    /// A rule's filters and its limits of time around its backends. `rewrites` says whether a filter may change the URI.
    pub(super) fn around_rule(
        &mut self,
        filters: &[Filter],
        backends: Local,
        time: &Time,
        rewrites: bool,
    ) -> Result<Local, BuildError> {
        let cors = |filter: &Filter| matches!(filter, Filter::Cors(_));
        let mut stack = self.around(None, filters, backends, |filter| !cors(filter))?;
        stack = time.around(stack);
        if rewrites {
            stack = Local::new(stack.map_request(|mut request: Request<Body>| {
                let arrived = Arrived(request.uri().clone());
                request.extensions_mut().insert(arrived);
                request
            }));
        }
        self.around(None, filters, stack, cors)
    }

    /// A backend's filters around it, but for its faults.
    pub(super) fn around_backend(
        &mut self,
        backend: usize,
        filters: &[Filter],
        inner: Local,
    ) -> Result<Local, BuildError> {
        self.around(Some(backend), filters, inner, |filter| !matches!(filter, Filter::Fault(_)))
    }

    /// A backend's faults around what sends to it.
    pub(super) fn faults(&mut self, backend: usize, filters: &[Filter], inner: Local) -> Result<Local, BuildError> {
        self.around(Some(backend), filters, inner, |filter| matches!(filter, Filter::Fault(_)))
    }

    fn around(
        &mut self,
        backend: Option<usize>,
        filters: &[Filter],
        inner: Local,
        wanted: impl Fn(&Filter) -> bool,
    ) -> Result<Local, BuildError> {
        let mut places: Vec<_> = filters.iter().enumerate().filter(|(_, filter)| wanted(filter)).collect();
        places.sort_by_key(|(_, filter)| stage(filter));
        places
            .into_iter()
            .rev()
            .try_fold(inner, |inner, (index, filter)| self.layered(Place { backend, filter: index }, filter, inner))
    }

    fn layered(&mut self, place: Place, filter: &Filter, inner: Local) -> Result<Local, BuildError> {
        let scope = self.scope;
        let refuse = |source: BoxError| scope.error(place.to_string(), source);
        check::refuse(filter.wrong()).map_err(|wrong| refuse(wrong.into()))?;
        Ok(match filter {
            Filter::RequestHeaders(changes) => {
                let layer = HeadersLayer::new().request(changes.clone()).map_err(|error| refuse(error.into()))?;
                Local::new(layer.layer(inner))
            }
            Filter::ResponseHeaders(changes) => {
                let layer = HeadersLayer::new().response(changes.clone()).map_err(|error| refuse(error.into()))?;
                Local::new(layer.layer(inner))
            }
            Filter::Redirect(redirect) => {
                let layer = RedirectLayer::new(redirect.clone()).map_err(|error| refuse(error.into()))?;
                Local::new(layer.layer(inner))
            }
            Filter::Rewrite(rewrite) => {
                let layer = RewriteLayer::new(rewrite.clone()).map_err(|error| refuse(error.into()))?;
                Local::new(layer.layer(inner))
            }
            Filter::Cors(cors) => {
                let layer = CorsLayer::new(cors.clone()).map_err(|error| refuse(error.into()))?;
                Local::new(layer.layer(inner))
            }
            Filter::Mirror(mirror) => match scope.aside(&mirror.backend)? {
                Ok(target) => Local::new(MirrorLayer::new(target, mirror.share).layer(inner)),
                Err(why) => {
                    tracing::warn!(route = &**scope.route, rule = scope.rule, %place, %why, "nothing is mirrored");
                    inner
                }
            },
            Filter::ExternalAuth(auth) => match scope.aside(&auth.backend)? {
                Ok(target) => {
                    let layer = AuthLayer::new(auth, target).map_err(|error| refuse(error.into()))?;
                    Local::new(layer.layer(inner))
                }
                // Nobody can be asked, so nobody may go on.
                Err(why) => refusing(why),
            },
            Filter::Allow(allow) => {
                let layer = AllowLayer::new(allow.peers.clone()).require_server_name(allow.require_server_name);
                Local::new(layer.layer(inner))
            }
            Filter::RateLimit(limit) => {
                let layer = rate_layer(limit).map_err(refuse)?;
                let kept = scope.rates.iter().find(|kept| kept.place == place && kept.config == *limit);
                let layer = match kept {
                    Some(kept) => layer.limiter(Arc::clone(&kept.limiter)),
                    None => layer,
                };
                self.rates.push(KeptRate { place, config: limit.clone(), limiter: layer.handle() });
                Local::new(layer.layer(inner))
            }
            Filter::Priority(priority) => {
                let priority = *priority;
                Local::new(inner.map_request(move |mut request: Request<Body>| {
                    prioritize(request.extensions_mut(), priority);
                    request
                }))
            }
            Filter::ClientCert(told) => {
                let told = told.clone();
                Local::new(inner.map_request(move |mut request: Request<Body>| {
                    client_cert::tell(&mut request, told.tell, told.by.as_ref());
                    request
                }))
            }
            Filter::Fault(fault) => Local::new(fault_layer(fault).map_err(refuse)?.layer(inner)),
        })
    }
}

/// Gives a request the priority of a filter, unless code knew better of this very request. Of two filters the inner one,
/// which is the backend's, has the last word.
fn prioritize(extensions: &mut Extensions, priority: Priority) {
    #[derive(Clone)]
    struct ByFilter;
    if extensions.get::<Priority>().is_none() || extensions.get::<ByFilter>().is_some() {
        extensions.insert(priority);
        extensions.insert(ByFilter);
    }
}

/// The place of filters in the order of the [module above](super); those of one stage stay as they are written.
fn stage(filter: &Filter) -> u8 {
    match filter {
        Filter::Cors(_) => 0,
        Filter::Allow(_) => 1,
        Filter::ExternalAuth(_) => 2,
        Filter::RateLimit(_) => 3,
        Filter::Fault(_) => 4,
        Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Redirect(_)
        | Filter::Rewrite(_)
        | Filter::Mirror(_)
        | Filter::Priority(_)
        | Filter::ClientCert(_) => 5,
    }
}

/// Answers every request with 500.
pub(in crate::gateway) fn refusing(why: Arc<str>) -> Local {
    Local::new(service_fn(move |_: Request<Body>| {
        let error = Error::new(Outcome::InvalidBackend).with_source(&*why);
        async move { Err::<http::Response<Body>, _>(error) }
    }))
}

fn rate_layer(limit: &RateLimit) -> Result<RateLayer<RuleKey>, BoxError> {
    let quota = Quota::new(limit.requests, limit.per)?;
    let quota = limit.burst.map_or(Ok(quota), |burst| quota.burst(burst))?;
    let key = match &limit.key {
        RateKey::Rule => RuleKey::Rule,
        RateKey::ClientIp => RuleKey::ClientIp,
        RateKey::Header(name) => RuleKey::Header(Header(name.parse::<HeaderName>()?)),
        RateKey::Identity => RuleKey::Identity,
    };
    Ok(RateLayer::keyed(quota, key).max_keys(limit.max_keys, WhenFull::Evict).fields(limit.headers))
}

fn fault_layer(fault: &config::Fault) -> Result<FaultLayer, BoxError> {
    let mut layer = FaultLayer::new().headers(fault.headers);
    if let Some(delay) = &fault.delay {
        layer = layer.max_delay(delay.duration.max(Duration::from_secs(60)));
        layer = layer.delay(delay.duration, Share::percent(delay.percent)?);
    }
    if let Some(abort) = &fault.abort {
        let with = match abort.with {
            FaultKind::Status(status) => Abort::Status(StatusCode::from_u16(status)?),
            FaultKind::Grpc(number) => Abort::Grpc(number),
            FaultKind::Reset => Abort::Reset,
            FaultKind::ConnectFailure => Abort::ConnectFailed,
        };
        layer = layer.abort(with, Share::percent(abort.percent)?);
    }
    Ok(layer)
}

impl KeyOf for RuleKey {
    fn key(&self, request: &Parts) -> Option<Key> {
        match self {
            Self::Rule => None,
            Self::ClientIp => ClientIp.key(request),
            Self::Header(header) => header.key(request),
            Self::Identity => PerIdentity.key(request),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(backend) = self.backend {
            write!(f, "backend {backend}, ")?;
        }
        write!(f, "filter {}", self.filter)
    }
}
