//! A request as an authorization service gets to see it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, Version,
    header::{COOKIE, HOST},
    request::Parts,
};
use http_body::Body as _;

use super::message::{
    Address, AttributeContext, HttpRequest, Peer, RequestAttributes, SocketAddress, Timestamp, TlsSession,
};
use crate::{Body, connection::ConnectionInfo, identity::PeerIdentity};

pub(super) fn of(parts: &Parts, body: &Body, seen: &Bytes, listed: &[HeaderName]) -> AttributeContext {
    let info = parts.extensions.get::<ConnectionInfo>();
    let principal = info.and_then(ConnectionInfo::peer_identity).and_then(principal).unwrap_or_default();
    let peer = |address, principal: &str| Peer { address: Some(socket(address)), principal: principal.to_owned() };
    let sni = info.and_then(ConnectionInfo::tls).and_then(|tls| tls.server_name.as_deref());
    AttributeContext {
        source: info.map(|info| peer(info.peer_addr(), principal)),
        destination: info.map(|info| peer(info.local_addr(), "")),
        request: Some(RequestAttributes { time: now(), http: Some(http(parts, body, seen, listed)) }),
        tls_session: sni.map(|sni| TlsSession { sni: sni.to_owned() }),
    }
}

fn http(parts: &Parts, body: &Body, seen: &Bytes, listed: &[HeaderName]) -> HttpRequest {
    let scheme =
        parts.extensions.get().map(ConnectionInfo::scheme).or_else(|| parts.uri.scheme_str()).unwrap_or("http");
    let host = parts.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
    let authority = || parts.uri.authority().map_or("", |authority| authority.as_str()).into();
    let (text, raw_body) = match str::from_utf8(seen) {
        Ok(text) => (text.to_owned(), Bytes::new()),
        Err(_) => (String::new(), seen.clone()),
    };
    HttpRequest {
        id: joined(&parts.headers, &HeaderName::from_static("x-request-id")).unwrap_or_default(),
        method: parts.method.as_str().to_owned(),
        headers: headers(&parts.headers, listed),
        path: parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        host: host.unwrap_or_else(authority).into_owned(),
        scheme: scheme.to_owned(),
        size: body.size_hint().exact().and_then(|size| i64::try_from(size).ok()).unwrap_or(-1),
        protocol: protocol(parts.version).to_owned(),
        body: text,
        raw_body,
    }
}

/// Those that are listed; all if none is.
fn headers(headers: &HeaderMap, listed: &[HeaderName]) -> BTreeMap<String, String> {
    headers
        .keys()
        .filter(|name| listed.is_empty() || listed.contains(name))
        .filter_map(|name| Some((name.as_str().to_owned(), joined(headers, name)?)))
        .collect()
}

/// The lines of a field as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let separator = if *name == COOKIE { "; " } else { "," };
    let lines: Vec<_> = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.join(separator))
}

/// Envoy's order: a URI, else a DNS name.
fn principal(peer: &PeerIdentity) -> Option<&str> {
    peer.uris().next().or_else(|| peer.dns_names().next())
}

fn socket(address: SocketAddr) -> Address {
    let ip = address.ip().to_canonical().to_string();
    Address { socket_address: Some(SocketAddress { address: ip, port: Some(address.port().into()) }) }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

fn now() -> Option<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let nanos = i32::try_from(since.subsec_nanos()).ok()?;
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos })
}
