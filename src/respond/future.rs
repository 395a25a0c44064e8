use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Response, Version, header::CONNECTION};
use http_body::Body as HttpBody;
use pin_project::pin_project;

use super::{Dialect, proxy_status, refusal, refusal_for_now};
use crate::{Body, BoxError, Error, Outcome, exchange::Exchange};

/// The future of [`Respond`](super::Respond).
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
    dialect: Dialect,
    version: Version,
    exchange: Option<Exchange>,
    member: Arc<str>,
}

#[pin_project(project = Project)]
enum State<F> {
    Called(#[pin] F),
    Unready(Option<Error>),
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(
        answer: Result<F, Error>,
        dialect: Dialect,
        version: Version,
        exchange: Option<Exchange>,
        member: Arc<str>,
    ) -> Self {
        let state = match answer {
            Ok(future) => State::Called(future),
            Err(error) => State::Unready(Some(error)),
        };
        Self { state, dialect, version, exchange, member }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: Into<Error>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = match this.state.project() {
            Project::Called(future) => ready!(future.poll(cx)).map_err(Into::into),
            Project::Unready(error) => Err(error.take().unwrap_or_else(|| Error::new(Outcome::Internal))),
        };
        let mut response = match answer {
            Ok(response) => response.map(Body::new),
            Err(error) => {
                if let Some(exchange) = this.exchange {
                    exchange.update(|record| record.detail = Some(error.to_string()));
                }
                match error.retry_after() {
                    Some(wait) => refusal_for_now(error.outcome(), *this.dialect, wait),
                    None => refusal(error.outcome(), *this.dialect),
                }
            }
        };
        if let Some(outcome) = response.extensions().get::<Outcome>().copied() {
            proxy_status::write(response.headers_mut(), this.member, outcome);
            if *this.version <= Version::HTTP_11 && leaves_doubt(outcome) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            if let Some(exchange) = this.exchange {
                exchange.update(|record| record.outcome = Some(outcome));
            }
        }
        Poll::Ready(Ok(response))
    }
}

/// Whether it is in doubt where the request ends and the next would begin.
fn leaves_doubt(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::BadRequest | Outcome::NotImplemented | Outcome::BodyTooLarge | Outcome::RequestTimeout)
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}
