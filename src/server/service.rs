//! Between hyper and a Tower service.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use pin_project::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use super::{
    body::{RequestBody, ResponseBody},
    state::{Connection, InFlight},
    wait::{BodyWait, Direction},
};
use crate::{Body, BoxError, Outcome, connection::ConnectionInfo};

/// A Tower service as hyper wants it, for one connection.
pub(super) struct Adapter<S> {
    /// hyper calls by shared reference, from one task at a time.
    service: RefCell<S>,
    connection: Arc<Connection>,
    info: ConnectionInfo,
}

impl<S> Adapter<S> {
    pub(super) fn new(service: S, connection: Arc<Connection>, info: ConnectionInfo) -> Self {
        Self { service: RefCell::new(service), connection, info }
    }

    /// What the server answers itself.
    fn refusal(&self, request: &Request<Incoming>) -> Option<(StatusCode, Outcome)> {
        let config = &self.connection.config;
        // hyper counts the fields of HTTP/1 only.
        if self.connection.http2 && request.headers().len() > config.max_fields {
            return Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Outcome::BadRequest));
        }
        if config.max_body_size.is_some_and(|max| request.body().size_hint().lower() > max) {
            return Some((Outcome::BodyTooLarge.status(), Outcome::BodyTooLarge));
        }
        None
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Adapter<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
{
    type Response = Response<ResponseBody<B>>;
    type Error = BoxError;
    type Future = Answer<S>;

    fn call(&self, request: Request<Incoming>) -> Answer<S> {
        let in_flight = self.connection.begin_request();
        if !self.connection.http2 {
            self.connection.interim.begin();
        }
        let mut upload = None;
        let connect = request.method() == Method::CONNECT;
        if request.version() == Version::HTTP_10 {
            self.connection.http10.store(true, Ordering::Relaxed);
        }
        let state = if let Some((status, outcome)) = self.refusal(&request) {
            if !request.body().is_end_stream() {
                self.connection.unread_body.store(true, Ordering::Relaxed);
            }
            State::Refused { status, outcome }
        } else {
            let mut request = request.map(|body| {
                if body.is_end_stream() {
                    Body::empty()
                } else {
                    let wait = upload.insert(self.connection.add_body(Direction::Request)).clone();
                    Body::new(RequestBody::new(body, self.connection.clone(), wait))
                }
            });
            request.extensions_mut().insert(self.info.clone());
            let mut service = self.service.borrow_mut();
            // Most services are always ready; asking first saves those a clone a request.
            match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(())) => State::Called { future: service.call(request) },
                Poll::Ready(Err(error)) => State::Failed { error: Some(error.into()) },
                // The one that was asked goes on: it may be in a queue already, in which a clone would stand behind it.
                Poll::Pending => {
                    let fresh = service.clone();
                    let asked = std::mem::replace(&mut *service, fresh);
                    State::Waiting { future: Box::pin(Oneshot::new(asked, request)) }
                }
            }
        };
        Answer { state, in_flight: Some(in_flight), upload, connect }
    }
}

/// The answer to one request.
#[pin_project]
pub(super) struct Answer<S: Service<Request<Body>>> {
    #[pin]
    state: State<S, S::Future>,
    in_flight: Option<InFlight>,
    upload: Option<Arc<BodyWait>>,
    connect: bool,
}

#[pin_project(project = StateProj)]
enum State<S: Service<Request<Body>>, F> {
    Called {
        #[pin]
        future: F,
    },
    Waiting {
        // Boxed: rare, and larger than the service's own future.
        future: Pin<Box<Oneshot<S, Request<Body>>>>,
    },
    Refused {
        status: StatusCode,
        outcome: Outcome,
    },
    Failed {
        error: Option<BoxError>,
    },
}

impl<S, B> Future for Answer<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = match this.state.project() {
            StateProj::Called { future } => future.poll(cx).map_err(Into::into),
            StateProj::Waiting { future } => future.as_mut().poll(cx).map_err(Into::into),
            StateProj::Refused { status, outcome } => {
                let (status, outcome) = (*status, *outcome);
                return Poll::Ready(finish(refused(status, outcome), this.in_flight.take(), true));
            }
            StateProj::Failed { error } => {
                Poll::Ready(Err(error.take().unwrap_or_else(|| "polled after its end".into())))
            }
        };
        if let Some(in_flight) = this.in_flight.as_ref().filter(|in_flight| !in_flight.connection().http2) {
            let interim = &in_flight.connection().interim;
            match &answered {
                Poll::Pending => interim.wake_for(cx),
                Poll::Ready(_) => interim.end(),
            }
        }
        let answered = ready!(answered);
        // Whatever the service made of a body that was cut short: the client is told what it did.
        let fault = this.upload.as_ref().and_then(|upload| upload.fault());
        let in_flight = this.in_flight.take();
        Poll::Ready(match (answered, fault) {
            (Ok(response), Some(fault))
                if response.status().is_client_error() || response.status().is_server_error() =>
            {
                finish(refused(fault.status(), fault), in_flight, true)
            }
            (Ok(response), fault) => {
                if let Some(in_flight) = &in_flight
                    && !in_flight.connection().http2
                    && (response.status() == StatusCode::SWITCHING_PROTOCOLS
                        || (*this.connect && response.status().is_success()))
                {
                    in_flight.connection().tunnel.store(true, Ordering::Relaxed);
                }
                finish(response.map(Some), in_flight, fault.is_some())
            }
            (Err(_), Some(fault)) => finish(refused(fault.status(), fault), in_flight, true),
            (Err(error), None) => {
                tracing::debug!(error = %crate::server::chain(&*error), "the service failed: the request is aborted");
                Err(error)
            }
        })
    }
}

fn refused<B>(status: StatusCode, outcome: Outcome) -> Response<Option<B>> {
    let mut response = Response::new(None);
    *response.status_mut() = status;
    response.extensions_mut().insert(outcome);
    response
}

/// Announces the connection's end where there is one, and keeps the request in flight until the body's end.
fn finish<B>(
    mut response: Response<Option<B>>,
    in_flight: Option<InFlight>,
    close: bool,
) -> Result<Response<ResponseBody<B>>, BoxError> {
    let Some(in_flight) = in_flight else {
        return Err("polled after its end".into());
    };
    let connection = in_flight.connection();
    if !connection.http2 && (close || connection.ending()) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| ResponseBody::new(body, in_flight)))
}
