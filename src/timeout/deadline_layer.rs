use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Deadline, Patience, ResponseFuture,
    body::Limits,
    deadline::{GRPC_TIMEOUT, ToldIn, format_grpc_timeout, format_millis, grpc_timeout, is_limited},
};
use crate::{Body, BoxError, Outcome, exchange::Exchange, respond::Dialect};

/// Gives requests a deadline, keeps to it, and hands it on; see the [module](super).
///
/// # Example
/// ```
/// use portcullis::timeout::DeadlineLayer;
/// use std::time::Duration;
///
/// let inbound = DeadlineLayer::server(Duration::from_secs(15));
/// let outbound = DeadlineLayer::client(Duration::from_secs(2))
///     .header(http::HeaderName::from_static("x-request-timeout-ms"));
/// # let _ = (inbound, outbound);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct DeadlineLayer {
    settings: Settings,
}

#[derive(Debug, Clone)]
struct Settings {
    end: End,
    limit: Duration,
    header: Option<HeaderName>,
    body: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Server,
    Client,
}

/// The service of a [`DeadlineLayer`]: as ready as the inner one, whose errors pass untouched.
#[derive(Debug, Clone)]
pub struct WithDeadline<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl DeadlineLayer {
    /// For requests that come in: at most `limit` each, or less if they say so. Envoy allows 15 s.
    pub fn server(limit: Duration) -> Self {
        Self { settings: Settings { end: End::Server, limit, header: None, body: true } }
    }

    /// For requests that go out: at most `limit` each, or what is left of the request that is being served.
    pub fn client(limit: Duration) -> Self {
        Self { settings: Settings { end: End::Client, limit, header: None, body: true } }
    }

    /// Limits the time until the response's head alone; its body may take longer. Default: the body too.
    pub fn until_head(mut self) -> Self {
        self.settings.body = false;
        self
    }

    /// Writes the time left in this header field too, in whole milliseconds; [`server`](Self::server) reads it before.
    /// Default: none; Envoy calls its own `x-envoy-expected-rq-timeout-ms`. What is no number is no limit, and where there
    /// is no limit none is written.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.settings.header = Some(name);
        self
    }
}

impl Settings {
    /// From when on its time is counted.
    fn began(&self, extensions: &Extensions, now: Instant) -> Instant {
        match self.end {
            End::Server => Exchange::of(extensions).map_or(now, Exchange::began),
            End::Client => now,
        }
    }

    fn deadline(&self, headers: &HeaderMap, extensions: &Extensions, began: Instant) -> Deadline {
        let told = match self.end {
            End::Server => {
                let header = self.header.as_ref().and_then(|name| millis(headers.get(name)?));
                grpc_timeout(headers).into_iter().chain(header).min()
            }
            // What a caller allows by itself, as with tonic's `Request::set_timeout`.
            End::Client => grpc_timeout(headers),
        };
        let limit = told.map_or(self.limit, |told| told.min(self.limit));
        let own = Deadline::after(began, limit);
        // A request that comes in is not a call of whatever its task may be serving.
        let given = match self.end {
            End::Server => Deadline::of(extensions),
            End::Client => Deadline::in_force(extensions),
        };
        given.map_or(own, |given| given.min(own))
    }

    fn tell<B>(&self, request: &mut Request<B>, dialect: Dialect, left: Duration) {
        if self.end == End::Client && dialect != Dialect::Http {
            request.headers_mut().insert(GRPC_TIMEOUT, format_grpc_timeout(left));
        }
        if let Some(name) = self.header.as_ref().filter(|_| is_limited(left)) {
            request.headers_mut().insert(name, format_millis(left));
            request.extensions_mut().insert(ToldIn(name.clone()));
        }
    }
}

fn millis(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok().map(Duration::from_millis))?
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> WithDeadline<S> {
        WithDeadline { inner, settings: Arc::new(self.settings.clone()) }
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for WithDeadline<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ReqB: 'static,
    ResB: HttpBody<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let now = Instant::now();
        let dialect = Dialect::of(request.headers());
        let began = self.settings.began(request.extensions(), now);
        let deadline = self.settings.deadline(request.headers(), request.extensions(), began);
        if deadline.has_passed(now) {
            return ResponseFuture::refused(Outcome::DeadlineExceeded, dialect);
        }
        if is_limited(self.settings.limit) {
            Patience::note(&mut request, began, Deadline::after(began, self.settings.limit).instant());
        }
        self.settings.tell(&mut request, dialect, deadline.left(now));
        request.extensions_mut().insert(deadline);
        let until = deadline.instant();
        let future = deadline.during(|| self.inner.call(request));
        let limits = Limits { until: self.settings.body.then_some(until), scope: Some(deadline), ..Limits::default() };
        ResponseFuture::new(future, dialect, Some(until)).limited(limits)
    }
}
