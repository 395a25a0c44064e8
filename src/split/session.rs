//! Sessions that stay where they began: the token, and what carries it (GEP-1619).

use std::{fmt::Write, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, header::SET_COOKIE};

use super::InvalidSplit;
use crate::{
    balance::{cookies, stable_hash},
    config::{self, Match, PathMatch, SessionCarrier},
};

/// The first byte of a token, which tells how to read the rest.
const VERSION: u8 = 1;

/// How far ahead the clock of another instance may be.
const SKEW: u64 = 300;

/// Where a session is: what its token says.
///
/// The token names the backend and the endpoint by hashes, and the times of the first and the last request, if the session
/// has timeouts: 17 or 25 bytes, in base64url. Every instance reads it without knowing of the session. It is neither a
/// secret nor signed: who knows an address finds out its hash, and who makes up a token chooses among the rule's backends
/// and their endpoints, or stretches a timeout, and no more than that. It says nothing of who the client is.
///
/// # Example
/// ```
/// use portcullis::split::SessionToken;
///
/// let token = SessionToken::new("shop-v2", Some(4711));
/// assert_eq!(SessionToken::parse(token.to_string().as_bytes()), Some(token));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionToken {
    /// The hash of the backend's name.
    pub(crate) backend: u64,
    /// The id of the endpoint, where the backend has such.
    pub(crate) endpoint: Option<u64>,
    /// When the session began and when it was last used, in seconds since 1970.
    pub(crate) times: Option<(u32, u32)>,
}

/// How a rule's sessions are kept.
#[derive(Debug)]
pub(crate) struct Sessions {
    carrier: Carrier,
    absolute: Option<u64>,
    idle: Option<u64>,
}

#[derive(Debug)]
enum Carrier {
    Header(HeaderName),
    Cookie {
        name: String,
        permanent: bool,
        /// The paths that the rule matches, as cookies have them, the longest first.
        paths: Box<[String]>,
    },
}

impl SessionToken {
    /// At this backend, and at the endpoint of this [id](crate::balance::Affinity::id).
    #[must_use]
    pub fn new(backend: &str, endpoint: Option<u64>) -> Self {
        Self { backend: stable_hash(backend.as_bytes()), endpoint, times: None }
    }

    /// The token that was written so; `None` for anything else.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (version, rest) = bytes.get(..length)?.split_first()?;
        let (backend, rest) = rest.split_first_chunk()?;
        let (endpoint, rest) = rest.split_first_chunk()?;
        let times = match rest.split_first_chunk() {
            None if rest.is_empty() => None,
            Some((began, used)) => Some((u32::from_be_bytes(*began), u32::from_be_bytes(used.try_into().ok()?))),
            None => return None,
        };
        let endpoint = Some(u64::from_be_bytes(*endpoint)).filter(|id| *id != 0);
        (*version == VERSION).then_some(Self { backend: u64::from_be_bytes(*backend), endpoint, times })
    }
}

impl std::fmt::Display for SessionToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = Vec::with_capacity(25);
        bytes.push(VERSION);
        bytes.extend(self.backend.to_be_bytes());
        bytes.extend(self.endpoint.unwrap_or(0).to_be_bytes());
        if let Some((began, used)) = self.times {
            bytes.extend(began.to_be_bytes());
            bytes.extend(used.to_be_bytes());
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl Sessions {
    /// Of a rule with these matches.
    pub(crate) fn new(config: &config::SessionPersistence, matches: &[Match]) -> Result<Self, InvalidSplit> {
        let carrier = match &config.carrier {
            SessionCarrier::Header { name } => {
                Carrier::Header(name.parse().map_err(|_| InvalidSplit::Header(name.clone()))?)
            }
            SessionCarrier::Cookie { name, permanent } => {
                // A cookie's name is a token, as a field's name is.
                if HeaderName::try_from(name.as_str()).is_err() {
                    return Err(InvalidSplit::Cookie(name.clone()));
                }
                if *permanent && config.absolute_timeout.is_none() {
                    return Err(InvalidSplit::Permanent(name.clone()));
                }
                let mut paths: Vec<_> = matches.iter().map(|one| cookie_path(&one.path)).collect();
                paths.sort_by_key(|path| std::cmp::Reverse(path.len()));
                Carrier::Cookie { name: name.clone(), permanent: *permanent, paths: paths.into() }
            }
        };
        let seconds = |timeout: Option<Duration>| timeout.map(|timeout| timeout.as_secs().max(1));
        Ok(Self { carrier, absolute: seconds(config.absolute_timeout), idle: seconds(config.idle_timeout) })
    }

    /// The session that a request belongs to, unless it is over at `wall`, in seconds since 1970.
    pub(crate) fn read(&self, headers: &HeaderMap, wall: u64) -> Option<SessionToken> {
        let live = |token: &SessionToken| self.is_live(token, wall);
        match &self.carrier {
            Carrier::Header(name) => SessionToken::parse(headers.get(name)?.as_bytes()).filter(live),
            Carrier::Cookie { name, .. } => {
                cookies(headers, name).filter_map(|value| SessionToken::parse(unquoted(value))).find(live)
            }
        }
    }

    fn is_live(&self, token: &SessionToken, wall: u64) -> bool {
        if self.absolute.is_none() && self.idle.is_none() {
            return true;
        }
        let Some((began, used)) = token.times else { return false };
        let within = |time: u32, limit: Option<u64>| {
            let time = u64::from(time);
            time <= wall + SKEW && limit.is_none_or(|limit| wall.saturating_sub(time) < limit)
        };
        within(began, self.absolute) && within(used, self.idle)
    }

    /// What has to be told after an answer from this backend and endpoint; `None` where `known`, the request's own token,
    /// still says it.
    pub(crate) fn next(
        &self,
        known: Option<SessionToken>,
        backend: u64,
        endpoint: Option<u64>,
        wall: u64,
    ) -> Option<SessionToken> {
        let now = u32::try_from(wall).unwrap_or(u32::MAX);
        let timed = self.absolute.is_some() || self.idle.is_some();
        // Whoever answered without an endpoint, a filter for one, does not end the session with the one it has.
        let stays =
            |known: &SessionToken| known.backend == backend && (endpoint.is_none() || known.endpoint == endpoint);
        match known.filter(stays) {
            None => Some(SessionToken { backend, endpoint, times: timed.then_some((now, now)) }),
            Some(known) => {
                let (began, used) = known.times?;
                (self.idle.is_some() && used < now).then_some(SessionToken { times: Some((began, now)), ..known })
            }
        }
    }

    /// Tells the client. `path` is the request's, before it was rewritten.
    pub(crate) fn write(&self, token: &SessionToken, cookie: usize, secure: bool, wall: u64, headers: &mut HeaderMap) {
        match &self.carrier {
            Carrier::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(token.to_string()) {
                    headers.insert(name, value);
                }
            }
            Carrier::Cookie { name, permanent, paths } => {
                let path = paths.get(cookie).map_or("/", String::as_str);
                let mut text = format!("{name}={token}; Path={path}; HttpOnly; SameSite=Strict");
                if secure {
                    text.push_str("; Secure");
                }
                if let (true, Some(absolute)) = (*permanent, self.absolute) {
                    let began = token.times.map_or(wall, |(began, _)| began.into());
                    // Writing to a string cannot fail.
                    let _ = write!(text, "; Max-Age={}", absolute.saturating_sub(wall.saturating_sub(began)));
                }
                if let Ok(value) = HeaderValue::try_from(text) {
                    headers.append(SET_COOKIE, value);
                }
            }
        }
    }

    /// Which of its cookie's paths a request's path is under.
    pub(crate) fn cookie(&self, path: &str) -> usize {
        match &self.carrier {
            Carrier::Header(_) => 0,
            Carrier::Cookie { paths, .. } => {
                paths.iter().position(|prefix| is_under(path, prefix)).unwrap_or(usize::MAX)
            }
        }
    }
}

/// The cookie's path for what matches so: the path, or what of an expression is literal, up to a slash.
fn cookie_path(path: &PathMatch) -> String {
    let literal = match path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.as_str(),
        PathMatch::GrpcMethod(_) => "/",
        #[cfg(feature = "regex")]
        PathMatch::Regex(pattern) => {
            let text = pattern.as_str().trim_start_matches('^');
            let special = |c: char| "\\.+*?()|[]{}^$".contains(c);
            let literal = text.split(special).next().unwrap_or_default();
            // A quantifier takes the last character with it; so does an alternative everything.
            if text.contains('|') { "/" } else { literal.rsplit_once('/').map_or("/", |(path, _)| path) }
        }
    };
    let path = literal.trim_end_matches('/');
    let writable = |byte: u8| byte.is_ascii_graphic() && byte != b';';
    if path.starts_with('/') && path.bytes().all(writable) { path.to_owned() } else { "/".to_owned() }
}

/// Whether a browser sends a cookie of this path with a request for `path` (RFC 6265 section 5.1.4).
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;
    use proptest::prelude::*;

    use super::*;

    const WALL: u64 = 1_800_000_000;

    fn cookie(permanent: bool, absolute: Option<u64>, idle: Option<u64>, paths: &[PathMatch]) -> Sessions {
        let config = config::SessionPersistence {
            carrier: SessionCarrier::Cookie { name: "sid".into(), permanent },
            absolute_timeout: absolute.map(Duration::from_secs),
            idle_timeout: idle.map(Duration::from_secs),
        };
        let matches: Vec<_> = paths.iter().map(|path| Match { path: path.clone(), ..Match::default() }).collect();
        Sessions::new(&config, &matches).unwrap()
    }

    fn set(sessions: &Sessions, token: &SessionToken, path: &str, secure: bool) -> String {
        let mut headers = HeaderMap::new();
        sessions.write(token, sessions.cookie(path), secure, WALL, &mut headers);
        headers[SET_COOKIE].to_str().unwrap().to_owned()
    }

    fn sent(token: &SessionToken) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, format!("a=b; sid={token}").parse().unwrap());
        headers
    }

    #[test]
    fn a_token_never_changes_its_form() {
        let token = SessionToken { backend: 1, endpoint: Some(2), times: None };
        assert_eq!(token.to_string(), "AQAAAAAAAAABAAAAAAAAAAI");
        let timed = SessionToken { times: Some((3, 4)), ..token };
        assert_eq!(timed.to_string(), "AQAAAAAAAAABAAAAAAAAAAIAAAADAAAABA");
    }

    #[test]
    fn a_cookie_says_what_browsers_have_to_know() {
        let token = SessionToken::new("v1", None);
        let plain = cookie(false, None, None, &[PathMatch::Prefix("/shop/".into())]);
        assert_eq!(
            set(&plain, &token, "/shop/cart", false),
            format!("sid={token}; Path=/shop; HttpOnly; SameSite=Strict")
        );
        let kept = cookie(true, Some(600), None, &[]);
        let began = SessionToken { times: Some((WALL as u32 - 100, WALL as u32)), ..token };
        assert_eq!(
            set(&kept, &began, "/", true),
            format!("sid={began}; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=500")
        );
    }

    #[test]
    fn the_path_is_that_of_the_match_that_fits() {
        let paths = ["/", "/shop", "/shop/admin", "/a;b"].map(|path| PathMatch::Prefix(path.into()));
        let sessions = cookie(false, None, None, &paths);
        let token = SessionToken::new("v1", None);
        for (path, expected) in [
            ("/shop/admin/x", "Path=/shop/admin;"),
            ("/shop", "Path=/shop;"),
            ("/shopping", "Path=/;"),
            ("/a;b", "Path=/;"),
        ] {
            assert!(set(&sessions, &token, path, false).contains(expected), "{path}");
        }
    }

    #[cfg(feature = "regex")]
    #[test]
    fn of_an_expression_the_literal_part_is_the_path() {
        for (pattern, path) in
            [("/p1/p2/.*/p3", "/p1/p2"), ("^/api/v[12]/x", "/api"), (".*", "/"), ("/a|/b", "/"), ("/ab?/c", "/")]
        {
            assert_eq!(cookie_path(&PathMatch::Regex(pattern.parse().unwrap())), path, "{pattern}");
        }
    }

    #[test]
    fn a_session_ends_by_its_timeouts() {
        let token = |began: u64, used: u64| {
            let times = Some(((WALL - began) as u32, (WALL - used) as u32));
            SessionToken { times, ..SessionToken::new("v1", Some(1)) }
        };
        let sessions = cookie(false, Some(100), Some(10), &[]);
        for (token, live) in [
            (token(99, 9), true),
            (token(100, 0), false),
            (token(50, 10), false),
            (SessionToken::new("v1", Some(1)), false),
            (SessionToken { times: Some((u32::MAX, u32::MAX)), ..token(0, 0) }, false),
        ] {
            assert_eq!(sessions.read(&sent(&token), WALL), live.then_some(token), "{token:?}");
        }
        // Without timeouts a session has no end, and a token with times is one all the same.
        assert!(cookie(false, None, None, &[]).read(&sent(&token(1_000_000, 1_000_000)), WALL).is_some());
    }

    #[test]
    fn a_token_is_written_when_it_says_something_new() {
        let sessions = cookie(false, Some(100), Some(10), &[]);
        let first = sessions.next(None, 7, Some(1), WALL).unwrap();
        assert_eq!(first, SessionToken { backend: 7, endpoint: Some(1), times: Some((WALL as u32, WALL as u32)) });
        assert_eq!(sessions.next(Some(first), 7, Some(1), WALL), None);
        assert_eq!(sessions.next(Some(first), 7, None, WALL), None, "a filter answered");
        let used = sessions.next(Some(first), 7, Some(1), WALL + 5).unwrap();
        assert_eq!(used.times, Some((WALL as u32, WALL as u32 + 5)));
        let moved = sessions.next(Some(used), 7, Some(2), WALL + 6).unwrap();
        assert_eq!(
            moved,
            SessionToken { backend: 7, endpoint: Some(2), times: Some((WALL as u32 + 6, WALL as u32 + 6)) }
        );
        let untimed = cookie(false, None, None, &[]);
        let first = untimed.next(None, 7, Some(1), WALL).unwrap();
        assert_eq!((first.times, untimed.next(Some(first), 7, Some(1), WALL + 5)), (None, None));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let with = |carrier| {
            let config = config::SessionPersistence { carrier, absolute_timeout: None, idle_timeout: None };
            Sessions::new(&config, &[]).unwrap_err()
        };
        assert_eq!(with(SessionCarrier::Header { name: "a b".into() }), InvalidSplit::Header("a b".into()));
        assert_eq!(
            with(SessionCarrier::Cookie { name: "a=b".into(), permanent: false }),
            InvalidSplit::Cookie("a=b".into())
        );
        assert_eq!(
            with(SessionCarrier::Cookie { name: "sid".into(), permanent: true }),
            InvalidSplit::Permanent("sid".into())
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(backend: u64, endpoint: Option<u64>, times: Option<(u32, u32)>) {
            let token = SessionToken { backend, endpoint: endpoint.filter(|id| *id != 0), times };
            prop_assert_eq!(SessionToken::parse(token.to_string().as_bytes()), Some(token));
        }

        #[test]
        fn nothing_else_is(text: Vec<u8>) {
            if let Some(token) = SessionToken::parse(&text) {
                prop_assert_eq!(token.to_string().into_bytes(), text);
            }
        }
    }
}
