use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::{self, Write},
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
};
use tower_service::Service;

use super::{Page, Readiness};
use crate::Body;

/// The service of the [module](super)'s table.
#[derive(Clone)]
#[must_use]
pub struct Admin {
    // By path. Behind an Arc, as servers clone a service for each connection.
    entries: Arc<BTreeMap<String, Entry>>,
}

#[derive(Clone)]
struct Entry {
    about: String,
    show: Show,
}

/// What is answered to a request with these header fields.
type Show = Arc<dyn Fn(&HeaderMap) -> (StatusCode, Page) + Send + Sync>;

impl Admin {
    /// With `/live`, and the index.
    pub fn new() -> Self {
        Self { entries: Arc::default() }
            .entry("/live", "answers while the process can", |_| (StatusCode::OK, Page::text("live\n")))
    }

    /// With `/ready`.
    pub fn readiness(self, readiness: &Readiness) -> Self {
        let readiness = readiness.clone();
        self.entry("/ready", "200 while requests are wanted, else 503", move |_| {
            let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, Page::text(readiness.text()))
        })
    }

    /// With `/metrics`.
    #[cfg(feature = "metrics")]
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn metrics(self, metrics: &crate::telemetry::metrics::Metrics) -> Self {
        let metrics = metrics.clone();
        self.entry("/metrics", "metrics for Prometheus", move |headers| {
            let page = if super::accept::prefers_open_metrics(headers) {
                let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Page { content_type, content: metrics.encode().into() }
            } else {
                let content_type = "text/plain; version=0.0.4; charset=utf-8";
                Page { content_type, content: metrics.encode_prometheus().into() }
            };
            (StatusCode::OK, page)
        })
    }

    /// With a page at `path` that is made anew for every request; `about` is its line in the index. A page replaces an
    /// earlier one of the same path. A missing `/` at the beginning of the path is added.
    pub fn page(
        self,
        path: impl Into<String>,
        about: impl Into<String>,
        page: impl Fn() -> Page + Send + Sync + 'static,
    ) -> Self {
        self.entry(path, about, move |_| (StatusCode::OK, page()))
    }

    fn entry(
        mut self,
        path: impl Into<String>,
        about: impl Into<String>,
        show: impl Fn(&HeaderMap) -> (StatusCode, Page) + Send + Sync + 'static,
    ) -> Self {
        let mut path = path.into();
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        let entry = Entry { about: about.into(), show: Arc::new(show) };
        Arc::make_mut(&mut self.entries).insert(path, entry);
        self
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let path = request.uri().path();
        let entry = self.entries.get(path);
        if entry.is_none() && path != "/" {
            return respond(request.method(), StatusCode::NOT_FOUND, Page::text("no such page, see /\n"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response =
                respond(request.method(), StatusCode::METHOD_NOT_ALLOWED, Page::text("only GET and HEAD\n"));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let (status, page) = match entry {
            Some(entry) => (entry.show)(request.headers()),
            None => (StatusCode::OK, self.index()),
        };
        respond(request.method(), status, page)
    }

    fn index(&self) -> Page {
        let width = self.entries.keys().map(String::len).max().unwrap_or(0);
        let mut text = String::new();
        for (path, entry) in self.entries.iter() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{path:width$}  {}", entry.about);
        }
        Page::text(text)
    }
}

fn respond(method: &Method, status: StatusCode, page: Page) -> Response<Body> {
    let length = page.content.len();
    let body = if *method == Method::HEAD { Body::empty() } else { Body::from(page.content) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(page.content_type) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl<B> Service<Request<B>> for Admin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("paths", &self.entries.keys()).finish()
    }
}
