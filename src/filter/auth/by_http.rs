//! A question by HTTP: a request like the client's.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST},
    request::Parts,
    uri::InvalidUri,
};

use super::{
    check::Failure,
    fields,
    layer::HttpTerms,
    verdict::{Change, Changes, Verdict},
};
use crate::{Body, filter::aside};

/// The request that asks about `parts`, with as much of the body as is to be seen.
///
/// # Errors
/// When its target is not one with the prefix before it.
pub(super) fn question(terms: &HttpTerms, parts: &Parts, body: &Bytes) -> Result<Request<Body>, Failure> {
    let mut question = Request::new(Body::from(body.clone()));
    *question.method_mut() = parts.method.clone();
    *question.uri_mut() = target(&terms.prefix, &parts.uri).map_err(|_| Failure::Target)?;
    *question.extensions_mut() = aside::extensions(&parts.extensions);
    let headers = question.headers_mut();
    for name in [&HOST, &AUTHORIZATION].into_iter().chain(&terms.headers) {
        // One that is listed twice is shown once.
        headers.remove(name);
        for value in parts.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    if !headers.contains_key(HOST)
        && let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Ok(question)
}

fn target(prefix: &str, uri: &Uri) -> Result<Uri, InvalidUri> {
    let path = uri.path_and_query().map_or("/", |target| target.as_str());
    match (prefix, path) {
        ("", path) => path.parse(),
        // The server as a whole.
        (prefix, "*") => prefix.parse(),
        (prefix, path) => format!("{prefix}{path}").parse(),
    }
}

/// What the answer says.
///
/// # Errors
/// When it says neither yes nor no.
pub(super) fn verdict(terms: &HttpTerms, answer: Response<Body>) -> Result<Verdict, Failure> {
    let status = answer.status();
    if status == StatusCode::OK {
        let request = copied(terms, answer.headers());
        return Ok(Verdict::Allowed(Changes { request, ..Changes::default() }));
    }
    // Of no use to the client, which would take it for success, or cannot know what it is about.
    if status.is_informational() || status.is_success() || status.is_server_error() {
        return Err(Failure::Status(status));
    }
    let (mut parts, body) = answer.into_parts();
    fields::clean(&mut parts.headers);
    let mut denied = Response::new(body);
    *denied.status_mut() = status;
    *denied.headers_mut() = parts.headers;
    Ok(Verdict::Denied(Some(Box::new(denied))))
}

/// The changes that make the answer's fields the request's.
fn copied(terms: &HttpTerms, answer: &HeaderMap) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut copy = |name: &HeaderName| {
        // What the client says under such a name is never believed.
        changes.push(Change::Remove(name.clone()));
        changes.extend(answer.get_all(name).iter().map(|value| Change::Append(name.clone(), value.clone())));
    };
    if terms.response_headers.is_empty() {
        answer.keys().filter(|name| fields::is_copied_unasked(name)).for_each(&mut copy);
    } else {
        terms.response_headers.iter().for_each(&mut copy);
    }
    changes
}
