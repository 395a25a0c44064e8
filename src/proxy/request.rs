//! What becomes of a request before it is sent.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HeaderName, MAX_FORWARDS, TE, UPGRADE, VIA},
    request::Parts,
};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;

use super::{
    Refusal,
    body::{self, Gate},
    fields,
    layer::Settings,
};
use crate::{Body, Error, Outcome, connection::ConnectionInfo};

/// A request ready to be sent, or its answer.
pub(super) enum Prepared {
    Forward(Request<Body>, Pending),
    Answer(Result<Response<Body>, Error>),
}

/// What has to be remembered of a request until its response.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) head: bool,
    pub(super) upgrade: Option<Box<Upgrade>>,
    pub(super) gate: Option<Arc<Gate>>,
}

/// An upgrade that was asked for.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// The protocols, as the client listed them.
    pub(super) protocols: HeaderValue,
    /// The client's side, once the response has switched it.
    pub(super) client: OnUpgrade,
}

/// `parts` are those of a request that was admitted.
pub(super) fn prepare(mut parts: Parts, mut body: Body, settings: &Settings) -> Prepared {
    if parts.headers.contains_key(VIA) && settings.via.is_in(&parts.headers) {
        return Prepared::Answer(Err(Error::new(Outcome::Loop).with_source("Via names this proxy already")));
    }
    if matches!(parts.method, Method::TRACE | Method::OPTIONS)
        && let Some(answer) = count_down(&mut parts)
    {
        return Prepared::Answer(answer);
    }
    let upgrade = match take_upgrade(&mut parts, &body, settings) {
        Ok(upgrade) => upgrade,
        Err(refusal) => return Prepared::Answer(Err(refusal.into())),
    };

    let headers = &mut parts.headers;
    let trailers = headers.contains_key(TE) && fields::lists(headers, &TE, b"trailers");
    fields::remove_if(headers, fields::is_hop_by_hop);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = &upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade.protocols.clone());
    }
    frame(headers, &parts.method, &body);
    join_cookies(headers);
    settings.via.append(headers, parts.version);

    if !body.is_end_stream() && may_have_trailers(&body, parts.version) {
        body = body::cleaned(body, parts.version, Outcome::BadRequest);
    }
    let gate = expect(&mut parts, &body);
    if let Some(gate) = &gate {
        body = body::gated(body, Arc::clone(gate), settings.continue_timeout);
    }
    let is_http11 = parts.version == Version::HTTP_11;
    let pending = Pending { head: parts.method == Method::HEAD, upgrade, gate };
    let mut request = Request::from_parts(parts, body);
    // HTTP/1.0 knows no informational responses.
    let interim = request.extensions().get().and_then(ConnectionInfo::interim).cloned();
    let interim = interim.filter(|_| is_http11).map(|interim| (interim.request(), interim));
    let gate = pending.gate.clone();
    if gate.is_some() || interim.is_some() {
        hyper::ext::on_informational(&mut request, move |response| match response.status() {
            StatusCode::CONTINUE => gate.iter().for_each(|gate| gate.open()),
            StatusCode::SWITCHING_PROTOCOLS => {}
            status => {
                if let Some((number, interim)) = &interim {
                    let mut headers = response.headers().clone();
                    fields::remove_nominated(&mut headers);
                    fields::remove_if(&mut headers, fields::is_hop_by_hop);
                    headers.remove(CONTENT_LENGTH);
                    interim.send(*number, status, &headers);
                }
            }
        });
    }
    Prepared::Forward(request, pending)
}

/// The gate for a body that waits to be asked for (RFC 9110 section 10.1.1).
fn expect(parts: &mut Parts, body: &Body) -> Option<Arc<Gate>> {
    let expected = parts.headers.get(EXPECT)?;
    if !expected.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        return None;
    }
    if body.is_end_stream() || parts.version < Version::HTTP_11 {
        // There is nothing to wait for, or nobody who waits.
        parts.headers.remove(EXPECT);
        return None;
    }
    Some(Gate::new())
}

/// `Max-Forwards` (RFC 9110 section 7.6.2): counts one down, or answers as the last recipient.
fn count_down(parts: &mut Parts) -> Option<Result<Response<Body>, Error>> {
    let left: u64 = parts.headers.get(MAX_FORWARDS)?.to_str().ok()?.parse().ok()?;
    match left.checked_sub(1) {
        Some(left) => {
            parts.headers.insert(MAX_FORWARDS, HeaderValue::from(left));
            None
        }
        None if parts.method == Method::OPTIONS => Some(Ok(Response::new(Body::empty()))),
        // To echo a request shows its credentials to whoever made a browser send it.
        None => Some(Err(Error::new(Outcome::NotImplemented).with_source("TRACE is not answered here"))),
    }
}

/// Takes what asks for an upgrade, with the other nominations, out of a request; returns the upgrade if it is to be
/// forwarded.
fn take_upgrade(parts: &mut Parts, body: &Body, settings: &Settings) -> Result<Option<Box<Upgrade>>, Refusal> {
    let nominated = fields::remove_nominated(&mut parts.headers);
    let mut asked = parts.headers.get_all(UPGRADE).iter();
    let Some(protocols) = asked.next() else { return Ok(None) };
    let single = asked.next().is_none();
    // `Upgrade` counts as asked for h2c whether `Connection` says so or not: someone behind may not look there.
    if fields::lists(&parts.headers, &UPGRADE, b"h2c") {
        return if settings.refuse_h2c { Err(Refusal::H2c) } else { Ok(None) };
    }
    // Bytes of a body that nobody reads must not be taken for the new protocol's.
    if !nominated || !single || parts.version != Version::HTTP_11 || !body.is_end_stream() {
        return Ok(None);
    }
    let protocols = protocols.clone();
    let client = parts.extensions.remove::<OnUpgrade>();
    Ok(client.map(|client| Box::new(Upgrade { protocols, client })))
}

/// Leaves a `Content-Length` only where it is the body's length.
fn frame(headers: &mut HeaderMap, method: &Method, body: &Body) {
    let exact = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    set_length(headers, exact);
    // A request that is expected to have content says that it has none (RFC 9110 section 8.6).
    if exact == Some(0)
        && matches!(*method, Method::POST | Method::PUT | Method::PATCH)
        && !headers.contains_key(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// Makes a `Content-Length` that is there say the truth, or go.
pub(super) fn set_length(headers: &mut HeaderMap, exact: Option<u64>) {
    let Some(said) = headers.get(CONTENT_LENGTH) else { return };
    match exact {
        None => {
            headers.remove(CONTENT_LENGTH);
        }
        Some(exact) => {
            // Neither sign nor leading zeros, which not everyone reads alike.
            let is_plain = said == "0" || matches!(said.as_bytes().first(), Some(b'1'..=b'9'));
            let is_true = said.to_str().is_ok_and(|text| text.parse() == Ok(exact));
            if !is_plain || !is_true || is_repeated(headers, &CONTENT_LENGTH) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(exact));
            }
        }
    }
}

fn is_repeated(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_some()
}

/// RFC 9113 section 8.2.3: HTTP/2 may have split it up, HTTP/1.1 must not.
fn join_cookies(headers: &mut HeaderMap) {
    if !is_repeated(headers, &COOKIE) {
        return;
    }
    let mut joined = Vec::new();
    for crumb in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

/// HTTP/1.1 has trailers only where the length is not known before.
pub(super) fn may_have_trailers(body: &Body, version: Version) -> bool {
    version > Version::HTTP_11 || body.size_hint().exact().is_none()
}
