//! What a match asks of a request beside host and path, and how a request answers.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName, Method, Uri, header};

use crate::config::{CookieMatch, HeaderMatch, Match, QueryMatch, ValueMatch};

/// The parts of a request that routing reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestView<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
}

/// What a match asks beside host and path.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) method: Option<Method>,
    pub(super) headers: Box<[HeaderMatch]>,
    pub(super) query: Box<[QueryMatch]>,
    pub(super) cookies: Box<[CookieMatch]>,
}

/// One thing that a match asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// The path.
    Path,
    /// The method.
    Method,
    /// This header field.
    Header(HeaderName),
    /// This query parameter.
    Query(String),
    /// This cookie.
    Cookie(String),
}

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    pub(super) condition: Condition,
    pub(super) expected: String,
    pub(super) found: Option<String>,
}

/// The same, without a copy of anything.
pub(super) enum UnmetRef<'a> {
    Method(&'a Method),
    Header(&'a HeaderMatch),
    Query(&'a QueryMatch),
    Cookie(&'a CookieMatch),
}

impl Unmet {
    /// What was asked of.
    #[must_use]
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// What the match asks for, in words.
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What the request has; `None` when it has nothing of the kind.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }
}

// === impl RequestView ===

impl<'a> RequestView<'a> {
    pub(super) fn of<B>(request: &'a http::Request<B>) -> Self {
        Self { method: request.method(), uri: request.uri(), headers: request.headers() }
    }

    pub(super) fn path(self) -> &'a str {
        self.uri.path()
    }

    /// The host the request is for, in lower case, without port and trailing dot.
    ///
    /// The URI's authority goes before the `Host` field (RFC 9112 section 3.2.2, RFC 9113 section 8.3.1).
    pub(super) fn host(self) -> Option<Cow<'a, str>> {
        let host = match self.uri.host() {
            Some(host) => host,
            None => without_port(self.headers.get(header::HOST)?.to_str().ok()?),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            None
        } else if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Some(Cow::Owned(host.to_ascii_lowercase()))
        } else {
            Some(Cow::Borrowed(host))
        }
    }

    /// A field's value; several lines of one field are one value, joined by `,`.
    fn header(self, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
        let mut lines = self.headers.get_all(name).iter();
        let Some(first) = lines.next() else {
            // In HTTP/2 the authority stands for the field, which a match should not have to know.
            let authority = self.uri.authority().filter(|_| name == header::HOST);
            return authority.map(|authority| Cow::Borrowed(authority.as_str().as_bytes()));
        };
        let mut value = Cow::Borrowed(first.as_bytes());
        // RFC 9113 section 8.2.3: a cookie that was cut up is joined in its own way.
        let separator = if name == header::COOKIE { b"; ".as_slice() } else { b"," };
        for line in lines {
            let joined = value.to_mut();
            joined.extend_from_slice(separator);
            joined.extend_from_slice(line.as_bytes());
        }
        Some(value)
    }

    /// A query parameter's first value, decoded as forms are: `+` is a space.
    fn query(self, name: &str) -> Option<Cow<'a, [u8]>> {
        self.uri.query()?.split('&').filter(|pair| !pair.is_empty()).find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (form_decoded(key).as_ref() == name.as_bytes()).then(|| form_decoded(value))
        })
    }

    /// A cookie's first value, as it was sent.
    fn cookie(self, name: &str) -> Option<Cow<'a, [u8]>> {
        let lines = self.headers.get_all(header::COOKIE).iter();
        lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b';')).find_map(|pair| {
            let at = pair.iter().position(|&byte| byte == b'=')?;
            let (key, value) = pair.split_at(at);
            (key.trim_ascii() == name.as_bytes()).then(|| Cow::Borrowed(value[1..].trim_ascii()))
        })
    }
}

fn without_port(host: &str) -> &str {
    // The colons of an IPv6 address stand in brackets.
    let end = if host.starts_with('[') { host.find(']').map(|end| end + 1) } else { host.find(':') };
    end.map_or(host, |end| &host[..end])
}

fn form_decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('+') {
        return percent_encoding::percent_decode_str(text).into();
    }
    let spaces = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaces).collect::<Vec<_>>().into()
}

// === impl Conditions ===

impl Conditions {
    pub(super) fn new(matching: &Match) -> Self {
        let mut headers: Vec<HeaderMatch> = Vec::with_capacity(matching.headers.len());
        for header in &matching.headers {
            if headers.iter().all(|first| first.name != header.name) {
                headers.push(header.clone());
            }
        }
        let mut query: Vec<QueryMatch> = Vec::with_capacity(matching.query.len());
        for parameter in &matching.query {
            if query.iter().all(|first| first.name != parameter.name) {
                query.push(parameter.clone());
            }
        }
        Self {
            method: matching.method.clone(),
            headers: headers.into(),
            query: query.into(),
            cookies: matching.cookies.clone().into(),
        }
    }

    /// The first condition that the request does not meet.
    pub(super) fn first_unmet(&self, request: RequestView<'_>) -> Option<UnmetRef<'_>> {
        if let Some(method) = self.method.as_ref().filter(|method| *method != request.method) {
            return Some(UnmetRef::Method(method));
        }
        let header = self.headers.iter().find(|header| !fits(&header.value, request.header(&header.name)));
        if let Some(header) = header {
            return Some(UnmetRef::Header(header));
        }
        if let Some(query) = self.query.iter().find(|query| !fits(&query.value, request.query(&query.name))) {
            return Some(UnmetRef::Query(query));
        }
        let cookie = self.cookies.iter().find(|cookie| !fits(&cookie.value, request.cookie(&cookie.name)));
        cookie.map(UnmetRef::Cookie)
    }
}

fn fits(expected: &ValueMatch, found: Option<Cow<'_, [u8]>>) -> bool {
    match (expected, found) {
        (ValueMatch::Exact(expected), Some(found)) => expected.as_bytes() == found.as_ref(),
        #[cfg(feature = "regex")]
        (ValueMatch::Regex(pattern), Some(found)) => {
            std::str::from_utf8(&found).is_ok_and(|found| pattern.is_match(found))
        }
        (ValueMatch::Present, found) => found.is_some(),
        (ValueMatch::Absent, found) => found.is_none(),
        (_, None) => false,
    }
}

impl UnmetRef<'_> {
    /// With what was expected and what was found.
    pub(super) fn explain(&self, request: RequestView<'_>) -> Unmet {
        let text = |found: Option<Cow<'_, [u8]>>| found.map(|found| String::from_utf8_lossy(&found).into_owned());
        let (condition, expected, found) = match self {
            Self::Method(method) => (Condition::Method, format!("`{method}`"), Some(request.method.to_string())),
            Self::Header(HeaderMatch { name, value }) => {
                (Condition::Header(name.clone()), Words(value).to_string(), text(request.header(name)))
            }
            Self::Query(QueryMatch { name, value }) => {
                (Condition::Query(name.clone()), Words(value).to_string(), text(request.query(name)))
            }
            Self::Cookie(CookieMatch { name, value }) => {
                (Condition::Cookie(name.clone()), Words(value).to_string(), text(request.cookie(name)))
            }
        };
        Unmet { condition, expected, found }
    }
}

/// What a value must be, in words.
pub(super) struct Words<'a>(pub(super) &'a ValueMatch);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ValueMatch::Exact(value) => write!(f, "`{value}`"),
            #[cfg(feature = "regex")]
            ValueMatch::Regex(pattern) => write!(f, "something like `{}`", pattern.as_str()),
            ValueMatch::Present => f.write_str("anything"),
            ValueMatch::Absent => f.write_str("nothing"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("path"),
            Self::Method => f.write_str("method"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "query parameter {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { condition, expected, found } = self;
        match found {
            Some(found) => write!(f, "{condition}: expected {expected}, found `{found}`"),
            None => write!(f, "{condition}: expected {expected}, found nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        request
    }

    #[test]
    fn a_host_is_read_in_one_form() {
        for (uri, field, host) in [
            ("/", Some("shop.example.com"), Some("shop.example.com")),
            ("/", Some("Shop.Example.COM:8080"), Some("shop.example.com")),
            ("/", Some("shop.example.com.:80"), Some("shop.example.com")),
            ("/", Some("[2001:DB8::1]:443"), Some("[2001:db8::1]")),
            ("/", Some("[::1]"), Some("[::1]")),
            ("/", Some("127.0.0.1:80"), Some("127.0.0.1")),
            ("/", Some(""), None),
            ("/", Some(":80"), None),
            ("/", Some("."), None),
            ("/", None, None),
            ("http://A.example.:81/", Some("b.example"), Some("a.example")),
            ("http://[::1]:81/", None, Some("[::1]")),
            ("a.example:443", None, Some("a.example")),
        ] {
            let headers: Vec<_> = field.map(|field| ("host", field)).into_iter().collect();
            let request = request(uri, &headers);
            let found = RequestView::of(&request).host();
            assert_eq!(found.as_deref(), host, "{uri} {field:?}");
        }
        let plain = request("/", &[("host", "shop.example.com:80")]);
        assert!(matches!(RequestView::of(&plain).host(), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn lines_of_one_field_are_one_value() {
        let request =
            request("http://a.example:81/", &[("x-a", "1"), ("x-a", "2"), ("cookie", "a=1"), ("cookie", "b=2")]);
        let view = RequestView::of(&request);
        let header = |name| view.header(&HeaderName::from_static(name)).map(|v| String::from_utf8(v.into()).unwrap());
        assert_eq!(header("x-a").as_deref(), Some("1,2"));
        assert_eq!(header("cookie").as_deref(), Some("a=1; b=2"));
        assert_eq!(header("host").as_deref(), Some("a.example:81"));
        assert_eq!(header("x-b"), None);
    }

    #[test]
    fn parameters_are_decoded_and_the_first_counts() {
        let request = request("/?a=1&a=2&&b&c=%41+b%2B&%64=x=y&e=%ff&=z", &[]);
        let view = RequestView::of(&request);
        for (name, value) in [
            ("a", Some("1".as_bytes())),
            ("b", Some(b"")),
            ("c", Some(b"A b+")),
            ("d", Some(b"x=y")),
            ("e", Some(b"\xff")),
            ("", Some(b"z")),
            ("f", None),
            ("A", None),
        ] {
            assert_eq!(view.query(name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn cookies_are_found_in_any_line() {
        let request = request("/", &[("cookie", "a=1; b=\"2\";a=3"), ("cookie", " c = x=y ;d")]);
        let view = RequestView::of(&request);
        for (name, value) in [("a", Some("1")), ("b", Some("\"2\"")), ("c", Some("x=y")), ("d", None), ("A", None)] {
            assert_eq!(view.cookie(name).as_deref(), value.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn absent_and_present_ask_only_whether_it_is_there() {
        let found = |value: &'static str| Some(Cow::Borrowed(value.as_bytes()));
        assert!(fits(&ValueMatch::Present, found("")));
        assert!(!fits(&ValueMatch::Present, None));
        assert!(fits(&ValueMatch::Absent, None));
        assert!(!fits(&ValueMatch::Absent, found("")));
        assert!(!fits(&ValueMatch::Exact(String::new()), None));
        #[cfg(feature = "regex")]
        {
            let pattern = ValueMatch::Regex("a|b.*".parse().unwrap());
            assert!(fits(&pattern, found("bc")));
            assert!(!fits(&pattern, found("ac")));
            assert!(!fits(&pattern, None));
            assert!(!fits(&ValueMatch::Regex(".*".parse().unwrap()), Some(Cow::Borrowed(b"\xff"))));
        }
    }
}
