use std::{
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use ipnet::IpNet;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Cohort, baggage};
use crate::connection::ConnectionInfo;

/// Carries [`Cohort`]s between processes: in a member of W3C `baggage`.
///
/// 1. [`server`](Self::server), around what serves requests: what a trusted peer tells becomes a request extension, and the
///    cohort of the task while the answer's head is made. What another peer tells is removed: nobody chooses for himself
///    to be in a cohort.
/// 2. [`client`](Self::client), around what sends requests: tells the cohort of the request's extensions, else of the task,
///    in the place of what the request tells itself.
///
/// A gateway tells what it sends in a cohort that its configuration [names](crate::config::BackendRef::cohort), and takes
/// one for a [split](crate::config::Split::Cohort) from the extension: put `server` around it where it shall believe peers.
///
/// # Caveats
/// Work of a spawned task, and what a response's body does while it is read, is of no cohort: use [`Cohort::scope`].
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use portcullis::split::{Cohort, CohortLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// // Another service, and what calls it while it serves a request.
/// let stock = service_fn(async |request: Request<()>| Ok::<_, Infallible>(Response::new(format!("{:?}", request.headers()))));
/// let stock = ServiceBuilder::new().layer(CohortLayer::client()).service(stock);
/// let cart = ServiceBuilder::new()
///     .layer(CohortLayer::server().trust_all())
///     .service_fn(move |_: Request<()>| stock.clone().oneshot(Request::new(())));
///
/// let request = Request::builder().header("baggage", "portcullis-cohort=shop:canary").body(()).unwrap();
/// let seen = cart.oneshot(request).await.unwrap().into_body();
/// assert_eq!(seen, r#"{"baggage": "portcullis-cohort=shop:canary"}"#);
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct CohortLayer {
    end: End,
}

#[derive(Debug, Clone)]
enum End {
    Server(Arc<Trust>),
    Client,
}

#[derive(Debug, Clone, Default)]
struct Trust {
    networks: Vec<IpNet>,
    all: bool,
}

/// The service of a [`CohortLayer`]: as ready as the inner one, whose answer and error pass untouched.
#[derive(Debug, Clone)]
pub struct WithCohort<S> {
    inner: S,
    end: End,
}

/// The future of a [`WithCohort`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    cohort: Option<Cohort>,
}

impl CohortLayer {
    /// For requests that come in. Trusts nobody, until it is told whom.
    pub fn server() -> Self {
        Self { end: End::Server(Arc::default()) }
    }

    /// For requests that go out.
    pub fn client() -> Self {
        Self { end: End::Client }
    }

    /// Believes peers in these networks, by [`ConnectionInfo`], which a [`Server`](crate::server::Server) gives. Default: none.
    pub fn trust(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        if let End::Server(trust) = &mut self.end {
            Arc::make_mut(trust).networks.extend(networks);
        }
        self
    }

    /// Believes every peer, also an unknown one: for a service that only those can reach who may be believed.
    pub fn trust_all(mut self) -> Self {
        if let End::Server(trust) = &mut self.end {
            Arc::make_mut(trust).all = true;
        }
        self
    }
}

impl Trust {
    fn trusts(&self, peer: Option<IpAddr>) -> bool {
        self.all || peer.is_some_and(|peer| self.networks.iter().any(|network| network.contains(&peer)))
    }
}

impl<S> Layer<S> for CohortLayer {
    type Service = WithCohort<S>;

    fn layer(&self, inner: S) -> WithCohort<S> {
        WithCohort { inner, end: self.end.clone() }
    }
}

impl<S, B> Service<Request<B>> for WithCohort<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let cohort = match &self.end {
            End::Server(trust) => {
                let info = request.extensions().get::<ConnectionInfo>();
                if trust.trusts(info.map(|info| info.peer_addr().ip().to_canonical())) {
                    baggage::told(request.headers())
                } else {
                    baggage::tell(request.headers_mut(), None);
                    None
                }
            }
            End::Client => {
                if let Some(cohort) = Cohort::in_force(request.extensions()) {
                    baggage::tell(request.headers_mut(), baggage::member(&cohort));
                }
                None
            }
        };
        match cohort {
            None => ResponseFuture { inner: self.inner.call(request), cohort: None },
            Some(cohort) => {
                request.extensions_mut().insert(cohort.clone());
                ResponseFuture { inner: cohort.during(|| self.inner.call(request)), cohort: Some(cohort) }
            }
        }
    }
}

impl<F: Future> Future for ResponseFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        match this.cohort {
            Some(cohort) => cohort.during(|| this.inner.poll(cx)),
            None => this.inner.poll(cx),
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("cohort", &self.cohort).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use tower::{ServiceBuilder, ServiceExt};

    use super::*;

    /// What a server behind `layer` gets to know: extension, task, whether the field is still there.
    async fn seen(layer: CohortLayer, peer: Option<&str>) -> (Option<String>, Option<String>, bool) {
        let service = ServiceBuilder::new().layer(layer).service_fn(async |request: Request<()>| {
            tokio::task::yield_now().await;
            let name = |cohort: Option<Cohort>| cohort.map(|cohort| cohort.to_string());
            let extension = name(Cohort::of(request.extensions()).cloned());
            Ok::<_, Infallible>((extension, name(Cohort::current()), request.headers().contains_key("baggage")))
        });
        let mut request = Request::builder().header("baggage", "portcullis-cohort=shop:canary").body(()).unwrap();
        if let Some(peer) = peer {
            let info = ConnectionInfo::new(peer.parse().unwrap(), "10.0.0.1:80".parse().unwrap());
            request.extensions_mut().insert(info);
        }
        service.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn only_trusted_peers_are_believed() {
        let layer = CohortLayer::server().trust(["10.0.0.0/8".parse().unwrap()]);
        let told = || Some("shop:canary".to_owned());
        for (layer, peer, told) in [
            (layer.clone(), Some("10.1.2.3:4"), told()),
            (layer.clone(), Some("[::ffff:10.1.2.3]:4"), told()),
            (layer.clone(), Some("192.0.2.1:4"), None),
            (layer, None, None),
            (CohortLayer::server().trust_all(), None, told()),
            (CohortLayer::server(), Some("127.0.0.1:4"), None),
        ] {
            let kept = told.is_some();
            assert_eq!(seen(layer, peer).await, (told.clone(), told, kept), "{peer:?}");
        }
    }

    #[tokio::test]
    async fn a_call_is_of_its_own_cohort_before_its_task_s_and_else_as_it_was() {
        let service = ServiceBuilder::new().layer(CohortLayer::client()).service_fn(async |request: Request<()>| {
            Ok::<_, Infallible>(Response::new(baggage::told(request.headers())))
        });
        let ask = async |own: Option<Cohort>| {
            let mut request = Request::builder().header("baggage", "portcullis-cohort=old:one").body(()).unwrap();
            if let Some(own) = own {
                request.extensions_mut().insert(own);
            }
            service.clone().oneshot(request).await.unwrap().into_body().unwrap().to_string()
        };
        assert_eq!(ask(None).await, "old:one");
        let task = Cohort::new("r", "task");
        assert_eq!(task.clone().scope(ask(None)).await, "r:task");
        assert_eq!(task.scope(ask(Some(Cohort::new("r", "own")))).await, "r:own");
    }
}
