use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use super::{Circuit, ResponseFuture, layer::Classify};
use crate::{
    Body, BoxError, Outcome,
    exchange::Exchange,
    respond::{Dialect, refusal_for_now},
    timeout::Patience,
};

/// The service of [`BreakerLayer`](super::BreakerLayer).
#[derive(Clone)]
pub struct Breaker<S> {
    inner: S,
    circuit: Circuit,
    classify: Option<Arc<Classify>>,
}

impl<S> Breaker<S> {
    pub(super) fn new(inner: S, circuit: Circuit, classify: Option<Arc<Classify>>) -> Self {
        Self { inner, circuit, classify }
    }

    /// The breaker's state, shared.
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Breaker<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: 'static,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        match self.circuit.begin() {
            Ok(call) => {
                let patience = Patience::of(request.extensions());
                let told = Patience::told(request.headers(), patience.as_ref());
                let call = call.within(patience, told);
                ResponseFuture::called(self.inner.call(request), call, self.classify.clone())
            }
            Err(refused) => {
                if let Some(exchange) = Exchange::of(request.extensions()) {
                    let detail = || format!("the circuit breaker `{}` is open", self.circuit.name());
                    exchange.update(|record| record.detail = Some(detail()));
                }
                let dialect = Dialect::of(request.headers());
                let wait = refused.retry_after;
                ResponseFuture::refused(refusal_for_now(Outcome::BreakerOpen, dialect, wait))
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Breaker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("inner", &self.inner).field("circuit", &self.circuit).finish_non_exhaustive()
    }
}
