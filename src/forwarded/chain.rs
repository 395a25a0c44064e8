//! The chain of hops that a request's fields tell of.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::layer::Settings;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The first hop, from the right, that is not trusted.
pub(super) fn client(headers: &HeaderMap, settings: &Settings, peer: IpAddr) -> IpAddr {
    let mut client = peer;
    let mut follow = |entry: Option<IpAddr>| match entry {
        Some(ip) if settings.trusts(client) => {
            client = ip.to_canonical();
            true
        }
        _ => false,
    };
    if headers.contains_key(X_FORWARDED_FOR) {
        for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
            if !line.as_bytes().rsplit(|&b| b == b',').all(|entry| follow(address(entry))) {
                break;
            }
        }
    } else {
        for line in headers.get_all(header::FORWARDED).iter().rev() {
            // One that cannot be taken apart ends the walk as one bad entry does.
            let elements = split(line.as_bytes(), b',').unwrap_or_default();
            if elements.is_empty() || !elements.iter().rev().all(|element| follow(forwarded_for(element))) {
                break;
            }
        }
    }
    client
}

/// An address with or without a port, IPv6 with or without brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(socket.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6)
}

/// Splits where `separator` stands outside quotes; `None` if a quoted string does not end.
fn split(line: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, &byte) in line.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(&line[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&line[start..]);
    (!quoted).then_some(parts)
}

/// The `for` of one element of `Forwarded`, if it is an address.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    for pair in split(element, b';')? {
        let mut halves = pair.trim_ascii().splitn(2, |&b| b == b'=');
        if halves.next()?.eq_ignore_ascii_case(b"for") {
            let value = halves.next()?;
            let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
            return address(unquoted);
        }
    }
    None
}

/// Appends `entry` to a field that is a list, making it one line.
pub(super) fn append(headers: &mut HeaderMap, name: HeaderName, entry: &HeaderValue) {
    let mut list = Vec::new();
    for line in headers.get_all(&name) {
        if !line.is_empty() {
            list.extend_from_slice(line.as_bytes());
            list.extend_from_slice(b", ");
        }
    }
    if list.is_empty() {
        headers.insert(name, entry.clone());
        return;
    }
    list.extend_from_slice(entry.as_bytes());
    // What was made of field values is one; if it were not, our own entry alone would be the safe thing to say.
    headers.insert(name, HeaderValue::from_maybe_shared(bytes::Bytes::from(list)).unwrap_or_else(|_| entry.clone()));
}

/// Takes back `entry` from a field that it was appended to.
pub(super) fn remove_last(headers: &mut HeaderMap, name: &HeaderName, entry: &HeaderValue) {
    let Some(list) = headers.get(name).map(HeaderValue::as_bytes) else { return };
    let Some(rest) = list.strip_suffix(entry.as_bytes()) else { return };
    if rest.is_empty() {
        headers.remove(name);
    } else if let Some(rest) = rest.strip_suffix(b", ").and_then(|rest| HeaderValue::from_bytes(rest).ok()) {
        headers.insert(name, rest);
    }
}

/// One element of `Forwarded` (RFC 7239 section 4).
pub(super) fn element(peer: Option<IpAddr>, scheme: &str, host: Option<&HeaderValue>) -> HeaderValue {
    let mut text = match peer {
        Some(IpAddr::V4(ip)) => format!("for={ip};proto={scheme}"),
        Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\";proto={scheme}"),
        None => format!("for=unknown;proto={scheme}"),
    };
    // What would end the quoted string is no host.
    if let Some(host) = host.and_then(|host| host.to_str().ok()).filter(|host| !host.contains(['"', '\\'])) {
        text.push_str(";host=\"");
        text.push_str(host);
        text.push('"');
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
}
