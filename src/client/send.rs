//! One request and its answer.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::TrySendError};

use super::{
    Failed,
    body::{Download, Upload},
    failure,
    http1::Http1,
    lease::{Conn, Lease, Stream},
    shared::Shared,
    watch::Watch,
};
use crate::{Body, BoxError, Error, Outcome, Sent};

/// To how many HTTP/2 connections that end before it is written a request is given. More than one may say goodbye just
/// now; all of them do when the peer wants no requests.
const MAX_SESSIONS: u32 = 3;

pub(super) async fn send(shared: &Arc<Shared>, request: Request<Body>) -> Result<Response<Body>, Failed> {
    if request.method() == Method::CONNECT {
        return Err(Failed { error: Error::new(Outcome::NotImplemented), request: Some(request) });
    }
    if let Err(error) = check_length(&request) {
        return Err(Failed { error: Error::new(Outcome::BadRequest).with_source(error), request: Some(request) });
    }
    let mut request = request;
    let mut ticket = None;
    let mut sessions = 0;
    loop {
        let lease = match shared.acquire(&mut ticket).await {
            Ok(lease) => lease,
            Err(error) => return Err(Failed { error: error.into(), request: Some(request) }),
        };
        match exchange(shared, lease, request, &mut sessions).await {
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

async fn exchange(
    shared: &Arc<Shared>,
    mut lease: Lease,
    request: Request<Body>,
    sessions: &mut u32,
) -> Result<Response<Body>, Unanswered> {
    let mut had_served = false;
    let reused = match lease.conn() {
        Some(Conn::One(conn)) => {
            had_served = conn.reused;
            if conn.reused && !conn.sender.is_ready() && conn.sender.ready().await.is_err() {
                return Err(Unanswered::Stale(request));
            }
            conn.reused
        }
        Some(Conn::Two(stream)) => {
            *sessions += 1;
            // A peer that has not said how many streams it allows may not speak HTTP/2 at all.
            *sessions < MAX_SESSIONS && stream.session.is_known()
        }
        None => false,
    };
    let upgrade = request.headers().contains_key(UPGRADE);
    lease.begin();
    let (response, lease) = match attempt(shared, lease, request).await {
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
            let is_stale = had_served && error.outcome() == Outcome::UpstreamReset;
            let error = if is_stale { error.with_sent(Sent::Stale) } else { error };
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
async fn attempt(
    shared: &Arc<Shared>,
    mut lease: Lease,
    mut request: Request<Body>,
) -> Result<(Response<Incoming>, Lease), Unsent> {
    let prepared = match lease.conn() {
        Some(Conn::Two(_)) => for_http2(&mut request, shared),
        _ => for_http1(&mut request, shared),
    };
    if let Err(error) = prepared {
        return Err(Unsent { error: Error::new(Outcome::BadRequest).with_source(error), request: Some(request) });
    }
    let began = shared.clock.now();
    let (result, watch) = match lease.conn() {
        Some(Conn::One(Http1 { sender, watch, .. })) => {
            let request = request.map(|body| Upload::new(body, watch, shared, None));
            (wait(sender.try_send_request(request), watch, shared).await, watch)
        }
        Some(Conn::Two(Stream { session, watch })) => {
            let request = request.map(|body| Upload::new(body, watch, shared, Some(&session.begun)));
            let result = wait(session.sender.clone().try_send_request(request), watch, shared).await;
            match &result {
                Some(Ok(_)) => session.answered(shared.clock.now(), shared),
                Some(Err(error)) if error.message().is_some() => session.retire(),
                Some(Err(_)) => {}
                // Not a sign of life since: the connection may well be dead.
                None if !session.has_answered_since(began) => session.retire(),
                None => {}
            }
            (result, watch)
        }
        None => return Err(Unsent { error: Error::new(Outcome::Internal), request: Some(request) }),
    };
    match result {
        Some(Ok(response)) => {
            watch.respond();
            Ok((response, lease))
        }
        Some(Err(mut error)) => {
            let request = error.take_message().map(|request| request.map(Upload::into_body));
            let error = match watch.take_failure() {
                Some(failure) => failure::of_upload(failure),
                None => failure::of_request(error.into_error()),
            };
            Err(Unsent { error, request })
        }
        None => Err(Unsent { error: Error::new(Outcome::UpstreamTimeout).with_sent(Sent::Possibly), request: None }),
    }
}

/// The answer, or `None` if it is late.
async fn wait(
    answer: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>>,
    watch: &Watch,
    shared: &Shared,
) -> Option<Result<Response<Incoming>, TrySendError<Request<Upload>>>> {
    let mut answer = pin!(answer);
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => watch.poll_expired(cx, &shared.clock).map(|()| None),
    })
    .await
}

/// Origin form and a `Host` field (RFC 9112 section 3.2), and the body's framing (section 6).
fn for_http1(request: &mut Request<Body>, shared: &Shared) -> Result<(), http::Error> {
    let has_length = request.body().size_hint().exact().is_some() || request.headers().contains_key(CONTENT_LENGTH);
    if !request.body().is_end_stream() && !has_length {
        // Said here because hyper sends none of it with GET and HEAD.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else {
        request.headers_mut().remove(TRANSFER_ENCODING);
    }
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST) {
        let host = match request.uri().authority() {
            Some(authority) => HeaderValue::from_str(without_userinfo(authority))?,
            None => HeaderValue::from_str(&shared.target.address.to_string())?,
        };
        request.headers_mut().insert(HOST, host);
    }
    if request.uri().authority().is_some() {
        *request.uri_mut() = Uri::from(path_and_query(request));
    }
    Ok(())
}

/// Scheme, authority and path in the URI, and no `Host` field (RFC 9113 section 8.3.1).
fn for_http2(request: &mut Request<Body>, shared: &Shared) -> Result<(), http::Error> {
    *request.version_mut() = Version::HTTP_2;
    let authority = match (request.headers().get(HOST), request.uri().authority()) {
        (Some(host), _) => Authority::try_from(host.as_bytes())?,
        (None, Some(authority)) => Authority::try_from(without_userinfo(authority))?,
        (None, None) => Authority::try_from(shared.target.address.to_string())?,
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if shared.target.has_tls() { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path_and_query(request));
    *request.uri_mut() = Uri::from_parts(parts)?;
    let headers = request.headers_mut();
    headers.remove(HOST);
    // Matters of HTTP/1.1, which hyper would strip too, with a warning.
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
    Ok(())
}

/// What follows a body that is shorter than its head says would be read as the rest of it.
fn check_length(request: &Request<Body>) -> Result<(), BoxError> {
    let mut told = request.headers().get_all(CONTENT_LENGTH).iter();
    let Some(length) = told.next() else { return Ok(()) };
    let body = request.body();
    let exact = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    // `parse` alone would take a sign.
    let is_plain = length.as_bytes().iter().all(u8::is_ascii_digit);
    let length: Option<u64> = length.to_str().ok().filter(|_| is_plain).and_then(|text| text.parse().ok());
    if told.next().is_some() || length.is_none() || exact.is_some_and(|exact| Some(exact) != length) {
        return Err("`Content-Length` is not the length of the body".into());
    }
    Ok(())
}

fn path_and_query(request: &Request<Body>) -> PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}

fn without_userinfo(authority: &Authority) -> &str {
    let whole = authority.as_str();
    whole.rsplit_once('@').map_or(whole, |(_, host)| host)
}
