//! One request and its answer.

use std::{
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    body::{Download, Upload},
    driven::Door,
    failure,
    http1::Http1,
    http2::Session,
    lease::{Conn, Lease, Stream},
    shared::Shared,
    watch::Watch,
};
use crate::{
    Body, BoxError, Error, Outcome, Sent,
    timeout::{AttemptTimeout, Patience, tell_what_is_left_now},
};

/// To how many HTTP/2 connections that end before it is written a request is given. More than one may say goodbye just
/// now; all of them do when the peer wants no requests.
const MAX_SESSIONS: u32 = 3;

/// Sends the request in `place`, which is still there afterwards, whole, if nothing of it was sent. So it moves once, to
/// where it is written, rather than from future to future.
pub(super) async fn send(shared: &Arc<Shared>, place: &mut Option<Request<Body>>) -> Result<Response<Body>, Error> {
    if place.as_ref().is_some_and(|request| request.method() == Method::CONNECT) {
        return Err(Error::new(Outcome::NotImplemented));
    }
    if let Some(Err(error)) = place.as_ref().map(check_length) {
        return Err(Error::new(Outcome::BadRequest).with_source(error));
    }
    let patience = place.as_ref().and_then(|request| Patience::of(request.extensions()));
    let asked = || patience.iter().for_each(Patience::ask);
    let mut ticket = None;
    let mut sessions = 0;
    loop {
        let lease = shared.acquire(&mut ticket, asked).await?;
        asked();
        match exchange(shared, lease, place, &mut sessions, patience.as_ref()).await {
            Ok(response) => return Ok(response),
            Err(Unanswered::Stale) => {}
            Err(Unanswered::Failed(error)) => return Err(error),
        }
    }
}

enum Unanswered {
    /// The connection had been closed while it was idle; the request is whole.
    Stale,
    Failed(Error),
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

async fn exchange(
    shared: &Arc<Shared>,
    mut lease: Lease,
    place: &mut Option<Request<Body>>,
    sessions: &mut u32,
    patience: Option<&Patience>,
) -> Result<Response<Body>, Unanswered> {
    let mut had_served = false;
    let reused = match lease.conn() {
        Some(Conn::One(conn)) => {
            had_served = conn.reused;
            if conn.reused && !conn.sender.is_ready() && conn.sender.ready().await.is_err() {
                return Err(Unanswered::Stale);
            }
            conn.reused
        }
        Some(Conn::Two(stream)) => {
            *sessions += 1;
            // A peer that has not said how many streams it allows may not speak HTTP/2 at all.
            stream.session.is_known()
        }
        None => false,
    };
    let upgrade = prepare(&mut lease, place, shared)?;
    lease.begin();
    let response = match attempt(shared, &mut lease, place, patience).await {
        Ok(response) => response,
        Err(error) if place.is_some() && (reused || error.sent() == Sent::GoAway) && *sessions < MAX_SESSIONS => {
            return Err(Unanswered::Stale);
        }
        Err(error) if place.is_some() => return Err(error.with_sent(Sent::Nothing).into()),
        Err(error) if had_served && error.outcome() == Outcome::UpstreamReset => {
            return Err(error.with_sent(Sent::Stale).into());
        }
        Err(error) => return Err(error.into()),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !upgrade || response.version() != Version::HTTP_11 {
            // RFC 9110 section 15.2.2: only what was asked for may be switched to.
            let error = Error::new(Outcome::UpstreamProtocol)
                .with_sent(Sent::Possibly)
                .with_source("101 without a request to upgrade");
            return Err(error.into());
        }
        lease.upgraded();
        return Ok(response.map(|_| Body::empty()));
    }
    Ok(response.map(|incoming| Download::body(incoming, lease)))
}

/// Gives the request the form that its connection asks for and what is left of its time, and tells whether it asks for an upgrade.
fn prepare(lease: &mut Lease, place: &mut Option<Request<Body>>, shared: &Shared) -> Result<bool, Error> {
    let request = place.as_mut().ok_or_else(|| Error::new(Outcome::Internal))?;
    tell_what_is_left_now(request)?;
    let upgrade = request.headers().contains_key(UPGRADE);
    match lease.conn() {
        Some(Conn::Two(_)) => for_http2(request, shared),
        _ => for_http1(request, shared),
    }
    .map_err(|error| Error::new(Outcome::BadRequest).with_source(error))?;
    Ok(upgrade)
}

/// Gives the request to the connection and waits for the head.
async fn attempt(
    shared: &Arc<Shared>,
    lease: &mut Lease,
    place: &mut Option<Request<Body>>,
    patience: Option<&Patience>,
) -> Result<Response<Incoming>, Error> {
    let began = shared.clock.now();
    let (Some(conn), Some(request)) = (lease.conn(), place.take()) else { return Err(Error::new(Outcome::Internal)) };
    let patient = request.extensions().get::<AttemptTimeout>().is_some();
    #[cfg(feature = "tls")]
    let mut broken = None;
    let mut spare = None;
    let (result, watch) = match conn {
        Conn::One(Http1 { sender, door, watch, .. }) => {
            let request = request.map(|body| Upload::new(body, patient, watch, shared, None));
            let answer = pin!(give(door, || sender.try_send_request(request)));
            (in_time(answer, watch, shared).await, watch)
        }
        Conn::Two(Stream { session, watch }) => {
            let (mut head, body) = request.into_parts();
            if !body.is_end_stream() {
                spare = Some(spare_of(&mut head));
            }
            let request = Request::from_parts(head, Upload::new(body, patient, watch, shared, Some(&session.begun)));
            let mut sender = session.sender.clone();
            let answer = pin!(give(&session.door, || sender.try_send_request(request)));
            let doubt =
                patience.map(|patience| Doubt { session, patience, since: began, at: Instant::now(), over: false });
            let result = in_time(answer, watch, shared).await;
            doubt.into_iter().for_each(Doubt::resolve);
            match &result {
                Some(Ok(_)) => session.answered(shared.clock.now(), shared),
                Some(Err(error)) if error.message().is_some() || failure::is_go_away(error.error()) => session.retire(),
                Some(Err(_)) => {}
                // Not a sign of life since: the connection may well be dead.
                None if !session.has_answered_since(began) => session.retire(),
                None => {}
            }
            #[cfg(feature = "tls")]
            {
                broken = session.broken.get();
            }
            (result, watch)
        }
    };
    match result {
        Some(Ok(response)) => {
            watch.respond();
            Ok(response)
        }
        Some(Err(mut error)) => {
            *place = match (error.take_message(), spare) {
                (Some(request), spare) => {
                    let (head, upload) = request.into_parts();
                    Some(Request::from_parts(spare.map_or(head, |spare| *spare), upload.into_body()))
                }
                (None, Some(spare)) if failure::is_go_away(error.error()) => {
                    watch.take_offered().map(|body| Request::from_parts(*spare, body))
                }
                _ => None,
            };
            #[cfg(feature = "tls")]
            if let Some(error) = broken {
                return Err(failure::of_tls(error));
            }
            Err(match watch.take_failure() {
                Some(failure) => failure::of_upload(failure),
                None => failure::of_request(error.into_error()),
            })
        }
        None => Err(Error::new(Outcome::UpstreamTimeout).with_sent(Sent::Possibly)),
    }
}

/// An HTTP/2 session that is waited for. Where a limit of others ends, they drop the wait: if the session was silent all the
/// while, its connection may well be dead, and must get no more requests.
struct Doubt<'a> {
    session: &'a Session,
    patience: &'a Patience,
    /// As the clock ticks.
    since: u64,
    at: Instant,
    over: bool,
}

impl Doubt<'_> {
    /// It ended otherwise.
    fn resolve(mut self) {
        self.over = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        let ended = !self.over && self.patience.ended_with(self.at, Instant::now());
        if ended && !self.session.has_answered_since(self.since) {
            self.session.retire();
        }
    }
}

/// The head of a request with a body once more, for when its connection turns out to be ending: what a request without one
/// is made of again is known above. The extensions are for this program alone and go along.
fn spare_of(head: &mut Parts) -> Box<Parts> {
    let extensions = mem::take(&mut head.extensions);
    let mut spare = Box::new(head.clone());
    spare.extensions = extensions;
    spare
}

/// Gives a request to its connection. The future that `send` makes has it given already.
fn give<F>(door: &Door, send: impl FnOnce() -> F) -> F {
    let _held = door.hold();
    send()
}

/// The answer, or `None` if it is late.
fn in_time<T>(
    mut answer: Pin<&mut impl Future<Output = T>>,
    watch: &Watch,
    shared: &Shared,
) -> impl Future<Output = Option<T>> {
    poll_fn(move |cx| match answer.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => watch.poll_expired(cx, &shared.clock).map(|()| None),
    })
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
