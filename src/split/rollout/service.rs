use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use super::{Observation, RolloutHandle, Side};
use crate::{
    Body, BoxError,
    balance::{RequestKey, WeightedChoice},
    classify::outcome_in,
    config::{HashKey, Rollout},
    exchange::Exchange,
    split::{Cohort, InvalidSplit, StableChoice, key_of},
};

/// A service that is two: a stable one, and a canary whose share of the requests grows while it does well; see the
/// [module](super) for how that is judged.
///
/// Shares are exact over short runs, or, with [`by`](Self::by), users stay where they are. Requests carry their
/// [`Cohort`], `stable` or the canary's name. It is always ready: a service that is not makes the one request wait.
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use portcullis::{Body, config::Rollout, split::rollout::Canary};
/// use tower::{ServiceExt, service_fn};
///
/// let version = |name: &'static str| {
///     service_fn(move |_: Request<Body>| async move { Ok::<_, Infallible>(Response::new(Body::from(name))) })
/// };
/// let shop = Canary::new("shop", Rollout::of("v2"), version("v1"), version("v2"))?;
///
/// let watch = shop.rollout().clone();
/// shop.oneshot(Request::new(Body::empty())).await.unwrap();
/// assert_eq!(watch.status().share, 1);
/// # Ok::<_, portcullis::split::InvalidSplit>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Canary<A, B> {
    stable: A,
    canary: B,
    rollout: RolloutHandle,
    key: Option<RequestKey>,
    cohorts: [Cohort; 2],
    /// For each share that there may be.
    turns: Box<[WeightedChoice]>,
    hashed: Box<[StableChoice]>,
}

/// The future of a [`Canary`].
#[pin_project]
pub struct ResponseFuture<A, B, ReqB>
where
    A: Service<Request<ReqB>>,
    B: Service<Request<ReqB>>,
{
    #[pin]
    state: State<A, B, ReqB>,
    cohort: Cohort,
    observation: Option<Observation>,
}

#[pin_project(project = Project)]
enum State<A, B, ReqB>
where
    A: Service<Request<ReqB>>,
    B: Service<Request<ReqB>>,
{
    Stable(#[pin] Oneshot<A, Request<ReqB>>),
    Canary(#[pin] Oneshot<B, Request<ReqB>>),
}

impl<A, B> Canary<A, B> {
    /// Between `stable` and `canary`; `name` is for logs.
    ///
    /// # Errors
    /// When the rollout's steps are none, or no growing shares.
    pub fn new(name: &str, config: Rollout, stable: A, canary: B) -> Result<Self, InvalidSplit> {
        let rollout = RolloutHandle::new(name, 0, config)?;
        let cohorts =
            ["stable", rollout.config().canary.as_str()].map(|cohort| Cohort::new(rollout.route().clone(), cohort));
        let weights = |share: u8| [100 - u32::from(share.min(100)), share.into()];
        let turns = rollout.shares().map(|share| WeightedChoice::new(weights(share))).collect();
        let hashed =
            rollout.shares().map(|share| StableChoice::new(cohorts.iter().map(Cohort::name).zip(weights(share))));
        let hashed = hashed.collect();
        Ok(Self { stable, canary, rollout, key: None, cohorts, turns, hashed })
    }

    /// Splits by a stable hash of this: who got the canary once keeps it while its share grows. Default: in turns.
    ///
    /// # Errors
    /// When a header to be hashed has an invalid name.
    pub fn by(mut self, key: &HashKey) -> Result<Self, InvalidSplit> {
        self.key = Some(key_of(key)?);
        Ok(self)
    }

    /// The rollout, to be watched and steered.
    pub fn rollout(&self) -> &RolloutHandle {
        &self.rollout
    }

    fn side<ReqB>(&self, request: &Request<ReqB>) -> Side {
        let stage = self.rollout.stage();
        let hashed = || self.hashed.get(stage)?.choose(self.key.as_ref()?.of(request)?);
        match hashed().or_else(|| self.turns.get(stage)?.choose()) {
            Some(1) => Side::Canary,
            _ => Side::Stable,
        }
    }
}

impl<A, B, ReqB, ResB> Service<Request<ReqB>> for Canary<A, B>
where
    A: Service<Request<ReqB>, Response = Response<ResB>> + Clone,
    B: Service<Request<ReqB>, Response = Response<ResB>, Error = A::Error> + Clone,
    A::Error: 'static,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = A::Error;
    type Future = ResponseFuture<A, B, ReqB>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let side = self.side(&request);
        let [stable, canary] = &self.cohorts;
        let cohort = if side == Side::Canary { canary } else { stable }.clone();
        if let Some(exchange) = Exchange::of(request.extensions()) {
            exchange.update(|record| record.cohort = Some(cohort.shared_name().clone()));
        }
        request.extensions_mut().insert(cohort.clone());
        let state = match side {
            Side::Stable => State::Stable(Oneshot::new(self.stable.clone(), request)),
            Side::Canary => State::Canary(Oneshot::new(self.canary.clone(), request)),
        };
        ResponseFuture { state, cohort, observation: Some(Observation::begin(self.rollout.clone(), side)) }
    }
}

impl<A, B, ReqB, ResB> Future for ResponseFuture<A, B, ReqB>
where
    A: Service<Request<ReqB>, Response = Response<ResB>>,
    B: Service<Request<ReqB>, Response = Response<ResB>, Error = A::Error>,
    A::Error: 'static,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.cohort.during(|| match this.state.project() {
            Project::Stable(answer) => answer.poll(cx),
            Project::Canary(answer) => answer.poll(cx),
        }));
        let mut answer = answer.map(|response| response.map(Body::new));
        if let Some(observation) = this.observation.take() {
            match &mut answer {
                Ok(response) => observation.answered(response),
                Err(error) => observation.failed(outcome_in(error)),
            }
        }
        Poll::Ready(answer)
    }
}

impl<A: fmt::Debug, B: fmt::Debug> fmt::Debug for Canary<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canary")
            .field("stable", &self.stable)
            .field("canary", &self.canary)
            .field("rollout", &self.rollout)
            .finish_non_exhaustive()
    }
}

impl<A, B, ReqB> fmt::Debug for ResponseFuture<A, B, ReqB>
where
    A: Service<Request<ReqB>>,
    B: Service<Request<ReqB>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("cohort", &self.cohort).finish_non_exhaustive()
    }
}
