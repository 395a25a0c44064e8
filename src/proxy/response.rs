//! What becomes of a response before it is passed back.

use http::{
    HeaderValue, Response, StatusCode, Version,
    header::{ALT_SVC, CONNECTION, CONTENT_LENGTH, HeaderMap, UPGRADE},
};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;

use super::{
    body, fields,
    layer::Settings,
    request::{Pending, may_have_trailers, set_length},
    tunnel,
};
use crate::{Body, Error, Outcome, Sent};

pub(super) fn pass_back(
    response: Response<Body>,
    pending: Pending,
    settings: &Settings,
) -> Result<Response<Body>, Error> {
    let (mut parts, mut body) = response.into_parts();
    let received = std::mem::replace(&mut parts.version, Version::HTTP_11);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let upstream = parts.extensions.remove::<OnUpgrade>();
        let protocols = switch(&mut parts.headers, upstream, pending, settings)?;
        clean(&mut parts.headers, received, settings);
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocols);
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    if parts.status.is_informational() {
        return Err(Error::new(Outcome::UpstreamProtocol).with_sent(Sent::Possibly));
    }
    clean(&mut parts.headers, received, settings);
    if pending.head || parts.status == StatusCode::NOT_MODIFIED {
        keep_announced_length(&mut parts.headers);
    } else {
        set_length(&mut parts.headers, if body.is_end_stream() { Some(0) } else { body.size_hint().exact() });
        if !body.is_end_stream() && may_have_trailers(&body, received) {
            body = body::cleaned(body, received, Outcome::UpstreamProtocol);
        }
    }
    if let Some(gate) = pending.gate {
        body = gate.answered(body);
    }
    Ok(Response::from_parts(parts, body))
}

fn clean(headers: &mut HeaderMap, received: Version, settings: &Settings) {
    fields::remove_nominated(headers);
    // `Alt-Svc` names ports of the upstream, which are not ours.
    fields::remove_if(headers, |name| fields::is_hop_by_hop(name) || *name == ALT_SVC);
    if settings.response_via {
        settings.via.append(headers, received);
    }
}

/// Where there is no body its length says what `GET` would have got. It may be anything, but only one thing.
fn keep_announced_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return };
    let is_number = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
    if !is_number || lengths.any(|other| other != first) {
        headers.remove(CONTENT_LENGTH);
    } else {
        let first = first.clone();
        headers.insert(CONTENT_LENGTH, first);
    }
}

/// Checks that the upstream switched to what was asked for, and starts the tunnel.
fn switch(
    headers: &mut HeaderMap,
    upstream: Option<OnUpgrade>,
    pending: Pending,
    settings: &Settings,
) -> Result<HeaderValue, Error> {
    let failed = |why: &'static str| Error::new(Outcome::UpgradeFailed).with_sent(Sent::Possibly).with_source(why);
    let upgrade = pending.upgrade.ok_or_else(|| failed("the upstream switched protocols unasked"))?;
    let chosen =
        headers.remove(UPGRADE).ok_or_else(|| failed("the upstream switched to a protocol it did not name"))?;
    // More than one names layers of protocols; what was asked for was one of a list.
    let asked = upgrade.protocols.as_bytes().split(|&b| b == b',').map(<[u8]>::trim_ascii);
    if !asked.into_iter().any(|asked| !asked.is_empty() && asked.eq_ignore_ascii_case(chosen.as_bytes())) {
        return Err(failed("the upstream switched to a protocol that was not asked for"));
    }
    let upstream = upstream.ok_or_else(|| failed("the connection to the upstream cannot be switched"))?;
    tunnel::start(upgrade.client, upstream, settings.tunnel_idle_timeout, &settings.tunnels);
    Ok(chosen)
}

/// Whose fault a failure was: a request's body that failed is what fails the sending of it.
pub(super) fn blame(error: Error) -> Error {
    let mut cause = std::error::Error::source(&error);
    let mut outcome = None;
    while let Some(inner) = cause {
        if let Some(inner) = inner.downcast_ref::<Error>() {
            outcome = Some(inner.outcome());
        } else if inner.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user) {
            outcome = outcome.or(Some(Outcome::BadRequest));
        }
        cause = inner.source();
    }
    match outcome {
        Some(outcome) if outcome.side() == crate::Side::Downstream && error.side() == crate::Side::Upstream => {
            let sent = error.sent();
            Error::new(outcome).with_sent(sent).with_source(error)
        }
        _ => error,
    }
}
