use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project::pin_project;

use super::{Call, layer::Classify};
use crate::{Body, BoxError, classify::Class};

/// The future of [`Breaker`](super::Breaker).
#[pin_project]
pub struct ResponseFuture<F>(#[pin] State<F>);

#[pin_project(project = Project)]
enum State<F> {
    Called {
        #[pin]
        inner: F,
        call: Option<Call>,
        classify: Option<Arc<Classify>>,
    },
    // boxed: a refusal is rare, and a response larger than most futures.
    Refused(Option<Box<Response<Body>>>),
}

impl<F> ResponseFuture<F> {
    pub(super) fn called(inner: F, call: Call, classify: Option<Arc<Classify>>) -> Self {
        Self(State::Called { inner, call: Some(call), classify })
    }

    pub(super) fn refused(response: Response<Body>) -> Self {
        Self(State::Refused(Some(Box::new(response))))
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: 'static,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            Project::Called { inner, call, classify } => {
                let answer = ready!(inner.poll(cx));
                let call = call.take();
                Poll::Ready(match answer {
                    Ok(response) => Ok(watched(response, call, classify.as_deref())),
                    Err(error) => {
                        if let Some(call) = call {
                            call.settle(Class::of_error(&error));
                        }
                        Err(error)
                    }
                })
            }
            Project::Refused(response) => {
                // Never pending: nobody may poll it again after it was ready.
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(*response)))
            }
        }
    }
}

/// The call rides on the body: it is over when that is.
pub(crate) fn watched<B>(response: Response<B>, call: Option<Call>, classify: Option<&Classify>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = response.into_parts();
    let mut body = Body::new(body);
    if let Some(mut call) = call {
        let class = classify.and_then(|classify| classify(&parts));
        let class = class.unwrap_or_else(|| {
            call.judge(Class::of_head(parts.status, &parts.headers, &parts.extensions), &parts.headers)
        });
        // What is no success at the head does not become one.
        let known = class != Class::Success || parts.status == StatusCode::SWITCHING_PROTOCOLS;
        if known || body.is_end_stream() {
            call.settle(class);
        } else {
            call.note(class);
            body.observe(Box::new(call));
        }
    }
    Response::from_parts(parts, body)
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
