//! What an authorization service says, and what that does to the request.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, Uri,
    request::Parts,
    uri::{InvalidUri, PathAndQuery},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{
    Body,
    forwarded::{names, nominated},
};

/// The answer to a question.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The request goes on, so changed.
    Allowed(Changes),
    /// It does not, and this is the answer to the client, if the service has one.
    Denied(Option<Box<Response<Body>>>),
}

/// What is changed in a request that goes on, and in its response.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) request: Vec<Change>,
    pub(super) query: Vec<QueryChange>,
    pub(super) response: Vec<Change>,
}

/// A change to header fields.
// By HTTP a service can say less.
#[cfg_attr(not(feature = "grpc-auth"), allow(dead_code))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue),
    Append(HeaderName, HeaderValue),
    AddIfAbsent(HeaderName, HeaderValue),
    SetIfPresent(HeaderName, HeaderValue),
}

/// A change to the query.
// By HTTP a service can say less.
#[cfg_attr(not(feature = "grpc-auth"), allow(dead_code))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum QueryChange {
    Remove(String),
    Set(String, String),
}

impl Changes {
    /// Changes the request.
    ///
    /// # Errors
    /// When the query would not be one.
    pub(super) fn make(&self, parts: &mut Parts) -> Result<(), InvalidUri> {
        if !self.request.is_empty() {
            // Else a client could have a field removed again by naming it in `Connection`, or put another beside it that
            // reads the same.
            nominated::settle(&mut parts.headers);
            names::remove_look_alikes(&mut parts.headers, &self.request.iter().map(Change::name));
        }
        for change in &self.request {
            change.make(&mut parts.headers);
        }
        if !self.query.is_empty() {
            let query = parts.uri.query().unwrap_or_default().to_owned();
            let query = self.query.iter().fold(query, |query, change| change.made(&query));
            let separator = if query.is_empty() { "" } else { "?" };
            let target: PathAndQuery = format!("{}{separator}{query}", parts.uri.path()).parse()?;
            let mut uri = parts.uri.clone().into_parts();
            uri.path_and_query = Some(target);
            // The rest was a URI before.
            parts.uri = Uri::from_parts(uri).unwrap_or_else(|_| parts.uri.clone());
        }
        Ok(())
    }

    /// Changes the response.
    pub(super) fn answer(&self, mut response: Response<Body>) -> Response<Body> {
        for change in &self.response {
            change.make(response.headers_mut());
        }
        response
    }
}

impl Change {
    fn name(&self) -> &HeaderName {
        match self {
            Self::Remove(name)
            | Self::Set(name, _)
            | Self::Append(name, _)
            | Self::AddIfAbsent(name, _)
            | Self::SetIfPresent(name, _) => name,
        }
    }

    fn make(&self, headers: &mut HeaderMap) {
        match self {
            Self::Remove(name) => {
                headers.remove(name);
            }
            Self::Set(name, value) => {
                headers.insert(name, value.clone());
            }
            Self::Append(name, value) => {
                headers.append(name, value.clone());
            }
            Self::AddIfAbsent(name, value) => {
                headers.entry(name).or_insert_with(|| value.clone());
            }
            Self::SetIfPresent(name, value) => {
                if headers.contains_key(name) {
                    headers.insert(name, value.clone());
                }
            }
        }
    }
}

impl QueryChange {
    /// The query after it. What it does not touch stays byte for byte.
    fn made(&self, query: &str) -> String {
        let (Self::Remove(name) | Self::Set(name, _)) = self;
        let is_other = |pair: &&str| {
            let name_of = pair.split('=').next().unwrap_or_default().replace('+', " ");
            percent_decode_str(&name_of).ne(name.bytes())
        };
        let mut query = query.split('&').filter(|pair| !pair.is_empty()).filter(is_other).collect::<Vec<_>>().join("&");
        if let Self::Set(name, value) = self {
            if !query.is_empty() {
                query.push('&');
            }
            query.extend(utf8_percent_encode(name, ESCAPED));
            query.push('=');
            query.extend(utf8_percent_encode(value, ESCAPED));
        }
        query
    }
}

/// All but what RFC 3986 calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn changed(uri: &str, query: Vec<QueryChange>) -> String {
        let mut parts = Request::get(uri).body(()).unwrap().into_parts().0;
        Changes { query, ..Changes::default() }.make(&mut parts).unwrap();
        parts.uri.to_string()
    }

    #[test]
    fn parameters_are_found_however_they_are_encoded_and_others_stay_as_they_are() {
        let remove = |name: &str| QueryChange::Remove(name.into());
        let set = |name: &str, value: &str| QueryChange::Set(name.into(), value.into());
        assert_eq!(changed("/x?admin=1&b=%2f&%61dmin&c", vec![remove("admin")]), "/x?b=%2f&c");
        assert_eq!(changed("/x?a+b=1", vec![remove("a b")]), "/x");
        assert_eq!(changed("/x?a=1&b=2", vec![set("a", "x&y=ü")]), "/x?b=2&a=x%26y%3D%C3%BC");
        assert_eq!(changed("http://a.example/x", vec![set("a", "1")]), "http://a.example/x?a=1");
        assert_eq!(changed("/x?a=1", vec![]), "/x?a=1");
    }

    #[test]
    fn a_client_says_nothing_beside_the_service_nor_has_its_fields_removed() {
        let mut parts = Request::get("/")
            .header("x-user", "forged")
            .header("X_User", "root")
            .header("x-u_er", "root")
            .header("x_other", "1")
            .header("connection", "x-user, x-role")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let (user, role) = (HeaderName::from_static("x-user"), HeaderName::from_static("x_role"));
        let value = HeaderValue::from_static("ada");
        parts.headers.insert("x-role", HeaderValue::from_static("admin"));
        let request = vec![Change::Remove(user.clone()), Change::Append(user, value.clone()), Change::Set(role, value)];
        Changes { request, ..Changes::default() }.make(&mut parts).unwrap();
        let mut left: Vec<_> =
            parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["x-u_er: root", "x-user: ada", "x_other: 1", "x_role: ada"]);
    }

    #[test]
    fn fields_are_changed_in_order() {
        let name = |name: &'static str| HeaderName::from_static(name);
        let value = |value: &'static str| HeaderValue::from_static(value);
        let mut headers = HeaderMap::from_iter([(name("x-user"), value("forged")), (name("x-old"), value("1"))]);
        for change in [
            Change::Remove(name("x-user")),
            Change::Append(name("x-user"), value("a")),
            Change::Append(name("x-user"), value("b")),
            Change::AddIfAbsent(name("x-old"), value("2")),
            Change::SetIfPresent(name("x-old"), value("3")),
            Change::SetIfPresent(name("x-none"), value("4")),
            Change::AddIfAbsent(name("x-new"), value("5")),
            Change::Set(name("x-new"), value("6")),
        ] {
            change.make(&mut headers);
        }
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join(",");
        assert_eq!([all("x-user"), all("x-old"), all("x-none"), all("x-new")], ["a,b", "3", "", "6"]);
    }
}
