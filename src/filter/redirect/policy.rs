use std::fmt::Write as _;

use http::{HeaderValue, StatusCode, uri::Authority};
use percent_encoding::{CONTROLS, utf8_percent_encode};

use crate::{
    config,
    config::Scheme,
    filter::{InvalidFilter, host, path::Replacement},
};

/// Where requests are redirected to.
#[derive(Debug)]
pub(super) struct Policy {
    scheme: Option<Scheme>,
    host: Option<Authority>,
    path: Option<Replacement>,
    port: Option<u16>,
    pub(super) status: StatusCode,
}

/// What a redirect takes from a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) scheme: Scheme,
    /// As the client named it, perhaps with a port.
    pub(super) authority: Option<&'a str>,
    /// The port the client connected to, where that is known.
    pub(super) port: Option<u16>,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) prefix_len: usize,
}

impl Policy {
    pub(super) fn new(redirect: config::Redirect) -> Result<Self, InvalidFilter> {
        let config::Redirect { scheme, host, path, port, status } = redirect;
        if port == Some(0) {
            return Err(InvalidFilter::Port);
        }
        let (301 | 302 | 303 | 307 | 308, Ok(status)) = (status, StatusCode::from_u16(status)) else {
            return Err(InvalidFilter::Status { status });
        };
        Ok(Self {
            scheme,
            host: host.map(host::parse).transpose()?,
            path: path.map(Replacement::new).transpose()?,
            port,
            status,
        })
    }

    /// An absolute URI, or nothing if the request does not say which host it is for.
    pub(super) fn location(&self, asked: Asked<'_>) -> Option<HeaderValue> {
        let named = asked.authority.and_then(host::split);
        let scheme = self.scheme.unwrap_or(asked.scheme);
        let (name, well_known) = match scheme {
            Scheme::Http => ("http", 80),
            Scheme::Https => ("https", 443),
        };
        let port = match (self.port, self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => asked.port.or_else(|| named?.1),
        };
        let host = match &self.host {
            Some(host) => host.as_str(),
            None => named?.0,
        };
        let path = match &self.path {
            Some(replacement) => replacement.apply(asked.path, asked.prefix_len).0,
            None => asked.path.into(),
        };
        let mut location = format!("{name}://{host}");
        // To a string nothing fails.
        if let Some(port) = port.filter(|port| *port != well_known) {
            let _ = write!(location, ":{port}");
        }
        // `*` and nothing are targets, not paths.
        let path = if path.starts_with('/') { &*path } else { "/" };
        let _ = write!(location, "{}", utf8_percent_encode(path, CONTROLS));
        if let Some(query) = asked.query {
            let _ = write!(location, "?{}", utf8_percent_encode(query, CONTROLS));
        }
        HeaderValue::try_from(location).ok()
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use proptest::prelude::*;

    use super::*;
    use crate::config::{PathChange, Redirect};

    const ASKED: Asked<'_> = Asked {
        scheme: Scheme::Http,
        authority: Some("example.org"),
        port: Some(80),
        path: "/foo/bar",
        query: Some("a=1&b=%2f?"),
        prefix_len: 4,
    };

    fn location(redirect: Redirect, asked: Asked<'_>) -> Option<String> {
        let location = Policy::new(redirect).unwrap().location(asked)?;
        Some(location.to_str().unwrap().strip_suffix("/foo/bar?a=1&b=%2f?").unwrap().to_owned())
    }

    #[test]
    fn ports_are_those_of_the_gateway_api() {
        use Scheme::{Http, Https};
        for (on, port, to_scheme, to_port, result) in [
            (Http, 80, None, None, "http://example.org"),
            (Http, 80, None, Some(80), "http://example.org"),
            (Http, 80, None, Some(8080), "http://example.org:8080"),
            (Http, 80, Some(Https), None, "https://example.org"),
            (Http, 80, Some(Https), Some(443), "https://example.org"),
            (Http, 80, Some(Https), Some(8443), "https://example.org:8443"),
            (Http, 80, Some(Https), Some(80), "https://example.org:80"),
            (Http, 8080, None, None, "http://example.org:8080"),
            (Http, 8080, None, Some(80), "http://example.org"),
            (Http, 8080, Some(Https), None, "https://example.org"),
            (Http, 8080, Some(Http), None, "http://example.org"),
            (Https, 443, None, None, "https://example.org"),
            (Https, 8443, None, None, "https://example.org:8443"),
            (Https, 443, None, Some(8443), "https://example.org:8443"),
            (Https, 443, Some(Http), None, "http://example.org"),
            (Https, 443, Some(Http), Some(8080), "http://example.org:8080"),
            (Https, 80, None, None, "https://example.org:80"),
        ] {
            let redirect = Redirect { scheme: to_scheme, port: to_port, ..Redirect::default() };
            let asked = Asked { scheme: on, port: Some(port), ..ASKED };
            assert_eq!(location(redirect, asked).as_deref(), Some(result), "{on:?} {port} {to_scheme:?} {to_port:?}");
        }
    }

    #[test]
    fn the_host_is_the_requests_without_its_port_which_counts_only_where_no_listener_tells() {
        let to = Redirect::default;
        let asked = |authority, port| Asked { authority, port, ..ASKED };
        for (authority, port, result) in [
            (Some("a.test:99"), Some(80), Some("http://a.test")),
            (Some("a.test:99"), Some(8080), Some("http://a.test:8080")),
            (Some("a.test:99"), None, Some("http://a.test:99")),
            (Some("a.test"), None, Some("http://a.test")),
            (Some("[::1]:99"), Some(8080), Some("http://[::1]:8080")),
            (Some("a.test/evil"), None, None),
            (Some("u@a.test"), None, None),
            (Some(""), None, None),
            (None, Some(80), None),
        ] {
            assert_eq!(location(to(), asked(authority, port)).as_deref(), result, "{authority:?}");
        }
        let named = || Redirect { host: Some("b.test".to_owned()), ..to() };
        for authority in [None, Some("?"), Some("a.test:99")] {
            assert_eq!(location(named(), asked(authority, Some(8080))).unwrap(), "http://b.test:8080");
        }
        assert_eq!(location(named(), asked(Some("a.test:99"), None)).unwrap(), "http://b.test:99");
    }

    #[test]
    fn the_path_is_replaced_and_what_is_no_path_becomes_the_root() {
        let to = |path, asked| {
            let policy = Policy::new(Redirect { path, ..Redirect::default() }).unwrap();
            policy.location(asked).unwrap().to_str().unwrap().to_owned()
        };
        let full = || Some(PathChange::Full("/x/".to_owned()));
        let prefix = || Some(PathChange::Prefix("/x/".to_owned()));
        assert_eq!(to(full(), ASKED), "http://example.org/x/?a=1&b=%2f?");
        assert_eq!(to(prefix(), ASKED), "http://example.org/x/bar?a=1&b=%2f?");
        assert_eq!(to(prefix(), Asked { path: "/foo", query: Some(""), ..ASKED }), "http://example.org/x?");
        for path in ["", "*"] {
            assert_eq!(to(prefix(), Asked { path, query: None, ..ASKED }), "http://example.org/");
        }
        assert_eq!(
            to(None, Asked { path: "/\u{e9}", query: Some("\u{e9}"), ..ASKED }),
            "http://example.org/%C3%A9?%C3%A9"
        );
    }

    #[test]
    fn what_makes_no_redirect_is_refused() {
        for status in [0, 200, 300, 304, 305, 306, 309, 399, 1000] {
            let refused = Policy::new(Redirect { status, ..Redirect::default() }).unwrap_err();
            assert_eq!(refused, InvalidFilter::Status { status });
        }
        let refused = Policy::new(Redirect { port: Some(0), ..Redirect::default() }).unwrap_err();
        assert_eq!(refused, InvalidFilter::Port);
        let host = "a.test:80".to_owned();
        let refused = Policy::new(Redirect { host: Some(host.clone()), ..Redirect::default() }).unwrap_err();
        assert_eq!(refused, InvalidFilter::Host { host });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_location_is_an_absolute_uri_with_the_query_as_it_was(
            authority in prop::option::of("[ab.:0-9\\[\\]@,/ -]{0,6}"),
            port in prop::option::of(any::<u16>()),
            target in "/[ -~\u{e9}]{0,8}",
            prefix_len in 0_usize..10,
            host in prop::option::of("[ab]\\.test"),
            change in prop::option::of("/?[a/]{0,4}"),
        ) {
            // What cannot be a target does not arrive.
            let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
            let path = change.map(|path| if port.is_some() { PathChange::Full(path) } else { PathChange::Prefix(path) });
            let Ok(policy) = Policy::new(Redirect { host: host.clone(), path, ..Redirect::default() }) else { return Ok(()) };
            let asked = Asked {
                scheme: Scheme::Http,
                authority: authority.as_deref(),
                port,
                path: uri.path(),
                query: uri.query(),
                prefix_len,
            };
            let Some(location) = policy.location(asked) else {
                prop_assert!(host.is_none());
                return Ok(());
            };
            let location = location.to_str().unwrap();
            prop_assert!(location.is_ascii());
            let to: Uri = location.parse().unwrap();
            prop_assert_eq!(to.scheme_str(), Some("http"));
            let named = authority.as_deref().and_then(|authority| authority.split(':').next());
            if let Some(host) = host.as_deref().or_else(|| named.filter(|host| !host.starts_with('['))) {
                prop_assert_eq!(to.host(), Some(host));
            }
            prop_assert!(to.path().starts_with('/'));
            let query = uri.query().map(|query| query.replace('\u{e9}', "%C3%A9"));
            prop_assert_eq!(to.query(), query.as_deref());
        }
    }
}
