//! One request and its answer.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, HOST, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::{body::Incoming, client::conn::TrySendError};

use super::{
    Failed,
    body::{Download, Upload},
    failure,
    lease::{Conn, Lease},
    shared::Shared,
};
use crate::{Body, Error, Outcome, Sent};

pub(super) async fn send(shared: &Arc<Shared>, request: Request<Body>) -> Result<Response<Body>, Failed> {
    if request.method() == Method::CONNECT {
        return Err(Failed { error: Error::new(Outcome::NotImplemented), request: Some(request) });
    }
    let mut request = request;
    let mut ticket = None;
    loop {
        let lease = match shared.acquire(&mut ticket).await {
            Ok(lease) => lease,
            Err(error) => return Err(Failed { error: error.into(), request: Some(request) }),
        };
        match exchange(lease, request).await {
            Ok(response) => return Ok(response),
            Err(Unanswered::Failed(failed)) => return Err(failed),
            Err(Unanswered::Stale(whole)) => request = whole,
        }
    }
}

enum Unanswered {
    /// The connection had been closed while it was idle; the request is whole.
    Stale(Request<Body>),
    Failed(Failed),
}

async fn exchange(mut lease: Lease, request: Request<Body>) -> Result<Response<Body>, Unanswered> {
    let reused = match lease.conn() {
        Some(Conn::One(conn)) => {
            if conn.reused && !conn.sender.is_ready() && conn.sender.ready().await.is_err() {
                return Err(Unanswered::Stale(request));
            }
            conn.reused
        }
        // A stream that is refused before it is begun finds a connection that has ended or is going to.
        _ => true,
    };
    let upgrade = request.headers().contains_key(UPGRADE);
    lease.begin();
    let (response, lease) = match attempt(lease, request).await {
        Ok(answered) => answered,
        Err(Unsent { error, request: Some(request) }) => {
            return Err(if reused {
                Unanswered::Stale(request)
            } else {
                let error = error.with_sent(Sent::Nothing);
                Unanswered::Failed(Failed { error, request: Some(request) })
            });
        }
        Err(Unsent { error, request: None }) => {
            return Err(Unanswered::Failed(Failed { error, request: None }));
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade || response.version() != Version::HTTP_11 {
            // RFC 9110 section 15.2.2: only what was asked for may be switched to.
            let error = Error::new(Outcome::UpstreamProtocol)
                .with_sent(Sent::Possibly)
                .with_source("101 without a request to upgrade");
            return Err(Unanswered::Failed(Failed { error, request: None }));
        }
        lease.upgraded();
        return Ok(response.map(|_| Body::empty()));
    }
    Ok(response.map(|incoming| Download::body(incoming, lease)))
}

struct Unsent {
    error: Error,
    request: Option<Request<Body>>,
}

/// Gives the request to the connection and waits for the head.
async fn attempt(mut lease: Lease, request: Request<Body>) -> Result<(Response<Incoming>, Lease), Unsent> {
    let internal = |request| Unsent { error: Error::new(Outcome::Internal), request: Some(request) };
    let shared = Arc::clone(lease.shared());
    let Some(watch) = lease.watch().map(Arc::clone) else { return Err(internal(request)) };
    let began = shared.clock.now();
    let result = match lease.conn() {
        Some(Conn::One(conn)) => {
            let request = match for_http1(request, &shared) {
                Ok(request) => request.map(|body| Upload::new(body, &watch, &shared)),
                Err(request) => return Err(internal(request)),
            };
            let answer = conn.sender.try_send_request(request);
            wait(answer, &watch, &shared).await
        }
        Some(Conn::Two(stream)) => {
            let request = match for_http2(request, &shared) {
                Ok(request) => request.map(|body| Upload::new(body, &watch, &shared)),
                Err(request) => return Err(internal(request)),
            };
            let answer = stream.session.sender.clone().try_send_request(request);
            let result = wait(answer, &watch, &shared).await;
            match &result {
                Ok(_) => stream.session.answered(shared.clock.now(), &shared),
                // Not a sign of life since: the connection may well be dead.
                Err(Missing::Late) if !stream.session.has_answered_since(began) => stream.session.retire(),
                Err(Missing::Error(error)) if error.message().is_some() => stream.session.retire(),
                Err(_) => {}
            }
            result
        }
        None => return Err(internal(request)),
    };
    match result {
        Ok(response) => {
            watch.respond();
            Ok((response, lease))
        }
        Err(Missing::Late) => {
            Err(Unsent { error: Error::new(Outcome::UpstreamTimeout).with_sent(Sent::Possibly), request: None })
        }
        Err(Missing::Error(mut error)) => {
            let request = error.take_message().map(|request| request.map(Upload::into_body));
            let error = match watch.take_failure() {
                Some(failure) => failure::of_upload(failure),
                None => failure::of_request(error.into_error()),
            };
            Err(Unsent { error, request })
        }
    }
}

enum Missing {
    Error(TrySendError<Request<Upload>>),
    Late,
}

async fn wait(
    answer: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>>,
    watch: &super::watch::Watch,
    shared: &Shared,
) -> Result<Response<Incoming>, Missing> {
    let mut answer = pin!(answer);
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result.map_err(Missing::Error)),
        Poll::Pending => watch.poll_expired(cx, &shared.clock).map(|()| Err(Missing::Late)),
    })
    .await
}

/// Origin form and a `Host` field (RFC 9112 section 3.2).
fn for_http1(mut request: Request<Body>, shared: &Shared) -> Result<Request<Body>, Request<Body>> {
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST) {
        let host = match request.uri().authority() {
            Some(authority) => HeaderValue::from_str(without_userinfo(authority)),
            None => HeaderValue::from_str(&shared.target.address.to_string()),
        };
        let Ok(host) = host else { return Err(request) };
        request.headers_mut().insert(HOST, host);
    }
    if request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    Ok(request)
}

/// Scheme, authority and path in the URI, and no `Host` field (RFC 9113 section 8.3.1).
fn for_http2(mut request: Request<Body>, shared: &Shared) -> Result<Request<Body>, Request<Body>> {
    *request.version_mut() = Version::HTTP_2;
    let authority = match request.headers().get(HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).ok(),
        None => match request.uri().authority() {
            Some(authority) => Some(authority.clone()),
            None => Authority::try_from(shared.target.address.to_string()).ok(),
        },
    };
    let Some(authority) = authority else { return Err(request) };
    #[cfg(feature = "tls")]
    let scheme = if shared.target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    #[cfg(not(feature = "tls"))]
    let scheme = Scheme::HTTP;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    parts.path_and_query =
        Some(request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    let Ok(uri) = Uri::from_parts(parts) else { return Err(request) };
    *request.uri_mut() = uri;
    request.headers_mut().remove(HOST);
    // An upgrade is a matter of HTTP/1.1; hyper would strip these too, with a warning.
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().remove(UPGRADE);
    Ok(request)
}

fn without_userinfo(authority: &Authority) -> &str {
    let whole = authority.as_str();
    whole.rsplit_once('@').map_or(whole, |(_, host)| host)
}
