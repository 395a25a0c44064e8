//! What `Connection` asks of the next hop (RFC 9110 section 7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, CONNECTION, Entry},
};
use smallvec::SmallVec;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Fields that are meant for everyone on the way, so that no nomination removes them: naming one is forbidden by RFC
/// 9110 section 7.6.1, and all it gains is a message that means something else further on.
fn is_end_to_end(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::COOKIE
            | header::DATE
            | header::FORWARDED
            | header::HOST
            | header::LOCATION
            | header::ORIGIN
            | header::SET_COOKIE
            | header::TRANSFER_ENCODING
            | header::VARY
            | header::VIA
    )
}

/// Removes `Connection` and the fields it nominates, except those for which `keep` is true; tells whether it asked for
/// an upgrade. `Upgrade`, `TE` and the framing fields are left to whoever handles them.
pub(crate) fn remove(headers: &mut HeaderMap, keep: impl Fn(&str) -> bool) -> bool {
    let Entry::Occupied(connection) = headers.entry(CONNECTION) else { return false };
    let mut upgrade = false;
    let mut nominated = SmallVec::<[HeaderName; 4]>::new();
    for value in connection.remove_entry_mult().1 {
        for option in value.as_bytes().split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") || option.is_empty() {
                continue;
            }
            if option.eq_ignore_ascii_case(b"upgrade") {
                upgrade = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                // By far the most usual.
                nominated.push(KEEP_ALIVE);
            } else if !option.eq_ignore_ascii_case(b"te") {
                nominated.extend(HeaderName::from_bytes(option));
            }
        }
    }
    for name in nominated {
        if !is_end_to_end(&name) && !keep(name.as_str()) {
            headers.remove(name);
        }
    }
    upgrade
}

/// The same, leaving `Connection: upgrade` in place if an upgrade was asked for.
pub(crate) fn settle(headers: &mut HeaderMap) {
    if remove(headers, super::is_protected) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}
