//! Which fields say who the client is, and which names read like another.

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::layer::Settings;

/// Whether a field, by its lower-case name, says who the client is or how it connected, and is therefore believed only
/// when a trusted peer sends it.
///
/// These are `Forwarded`, `X-Real-IP`, all of `X-Forwarded-*` (also `X-Forwarded-Client-Cert`), all of `SSL-Client-*` (the
/// client certificate as ingress-nginx tells it), `True-Client-IP`, `X-Client-IP`, `X-Cluster-Client-IP`,
/// `X-Original-Forwarded-For`, `X-Envoy-External-Address`, `CF-Connecting-IP`, `CF-Connecting-IPv6`, `Fastly-Client-IP`
/// and `Fly-Client-IP`. Those of a content delivery network come through where its addresses are trusted.
///
/// # Example
/// ```
/// use portcullis::forwarded::is_protected;
///
/// assert!(is_protected("x-forwarded-anything"));
/// assert!(!is_protected("x-request-id"));
/// ```
#[must_use]
pub fn is_protected(name: &str) -> bool {
    // The first byte settles it for most fields of most requests.
    match name.as_bytes().first() {
        Some(b'x') => {
            name.starts_with("x-forwarded-")
                || matches!(
                    name,
                    "x-real-ip"
                        | "x-client-ip"
                        | "x-cluster-client-ip"
                        | "x-original-forwarded-for"
                        | "x-envoy-external-address"
                )
        }
        Some(b'f') => matches!(name, "forwarded" | "fastly-client-ip" | "fly-client-ip"),
        Some(b'c') => matches!(name, "cf-connecting-ip" | "cf-connecting-ipv6"),
        Some(b's') => name.starts_with("ssl-client-"),
        Some(b't') => name == "true-client-ip",
        _ => false,
    }
}

/// Fields that matter to whoever reads a request even when this one does not have them, so that nothing may look like
/// them.
fn is_critical(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "connection"
            | "content-length"
            | "content-type"
            | "cookie"
            | "expect"
            | "host"
            | "proxy"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "via"
    )
}

/// Removes what a peer may not say.
pub(super) fn sanitize(headers: &mut HeaderMap, settings: &Settings, trusted: bool) {
    let mut unwanted = SmallVec::<[HeaderName; 8]>::new();
    for name in headers.keys() {
        let text = name.as_str();
        let drop = if text.as_bytes().contains(&b'_') {
            settings.drop_underscores || collides(headers, settings, text)
        } else {
            !trusted && settings.protects(text)
        };
        if drop {
            unwanted.push(name.clone());
        }
    }
    for name in unwanted {
        headers.remove(name);
    }
}

/// Removes what reads like one of `names` to a CGI, WSGI, PHP or Rack program, where `_` and `-` are the same, and is another
/// field: for whoever says what such a field is, as the client must not say it beside.
pub(crate) fn remove_look_alikes<'n>(headers: &mut HeaderMap, names: &(impl Iterator<Item = &'n HeaderName> + Clone)) {
    let has_underscore = |name: &HeaderName| name.as_str().contains('_');
    if !headers.keys().any(has_underscore) && !names.clone().any(has_underscore) {
        return;
    }
    let same = |(one, other): (u8, u8)| one == other || matches!((one, other), (b'_', b'-') | (b'-', b'_'));
    let alike = |one: &HeaderName, other: &HeaderName| {
        one != other
            && one.as_str().len() == other.as_str().len()
            && one.as_str().bytes().zip(other.as_str().bytes()).all(same)
    };
    let unwanted: SmallVec<[HeaderName; 8]> =
        headers.keys().filter(|key| names.clone().any(|name| alike(name, key))).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// Whether a name with an underscore reads like a protected one or like another field of the request.
fn collides(headers: &HeaderMap, settings: &Settings, name: &str) -> bool {
    let dashed = name.replace('_', "-");
    settings.protects(&dashed)
        || is_critical(&dashed)
        || headers.contains_key(&dashed)
        || headers.keys().any(|other| {
            let other = other.as_str();
            // The field with dashes alone was looked up above; here it is two with underscores in different places.
            other.len() == name.len() && other != name && other.contains('_') && other.replace('_', "-") == dashed
        })
}
