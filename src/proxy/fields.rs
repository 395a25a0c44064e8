//! Fields that end here.

use http::{
    HeaderMap, HeaderName,
    header::{self, CONNECTION},
};
use smallvec::SmallVec;

use crate::forwarded::is_protected;

/// Whether a field is for one hop only (RFC 9110 section 7.6.1), or between a client and a proxy it knows of.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        CONNECTION
            | header::TE
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
    ) || matches!(
        name.as_str(),
        "keep-alive" | "proxy-connection" | "http2-settings" | "proxy-authentication-info" | "proxy"
    )
}

/// Whether a field must not be among trailers (RFC 9110 section 6.5.1): it frames, routes, authenticates, modifies the
/// request or says how to handle the content, all of which was decided when the head was read.
pub(super) fn is_forbidden_trailer(name: &HeaderName) -> bool {
    let listed = |name: &HeaderName| {
        matches!(
            *name,
            header::AGE
                | header::AUTHORIZATION
                | header::CACHE_CONTROL
                | header::CONTENT_ENCODING
                | header::CONTENT_LENGTH
                | header::CONTENT_RANGE
                | header::CONTENT_TYPE
                | header::COOKIE
                | header::EXPECT
                | header::EXPIRES
                | header::HOST
                | header::LOCATION
                | header::MAX_FORWARDS
                | header::PRAGMA
                | header::RANGE
                | header::RETRY_AFTER
                | header::SET_COOKIE
                | header::TRAILER
                | header::VARY
                | header::VIA
                | header::WWW_AUTHENTICATE
        ) || is_hop_by_hop(name)
            || is_protected(name.as_str())
    };
    if name.as_str().contains('_') {
        let dashed = name.as_str().replace('_', "-");
        return HeaderName::try_from(dashed).is_ok_and(|dashed| listed(&dashed));
    }
    listed(name)
}

/// Removes the fields for which `unwanted` is true.
pub(super) fn remove_if(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let mut names = SmallVec::<[HeaderName; 6]>::new();
    names.extend(headers.keys().filter(|name| unwanted(name)).cloned());
    for name in names {
        headers.remove(name);
    }
}

/// Whether a list field has this member; case does not matter.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, member: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&b| b == b','))
        .any(|entry| entry.trim_ascii().eq_ignore_ascii_case(member))
}

/// Removes what `Connection` nominates, and tells whether it asked for an upgrade.
pub(super) fn remove_nominated(headers: &mut HeaderMap) -> bool {
    crate::forwarded::nominated::remove(headers, is_protected)
}
