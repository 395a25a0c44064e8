//! The details of a `CheckResponse`, as changes and as an answer.

use http::{HeaderName, HeaderValue, Response, StatusCode, header::HOST};

use super::message::{Allowed, Denied, HeaderPair, HeaderValueOption};
use crate::{
    Body,
    filter::auth::{
        check::Failure,
        fields,
        verdict::{Change, Changes, QueryChange, Verdict},
    },
};

/// What an answer that allows a request changes in it, and in its response.
///
/// # Errors
/// When a field or its value is none: what the service relies on must not be left out in silence.
pub(super) fn changes(details: Allowed) -> Result<Changes, Failure> {
    let Allowed {
        headers,
        headers_to_remove,
        response_headers_to_add,
        query_parameters_to_set: set,
        query_parameters_to_remove: remove,
    } = details;
    let mut request = Vec::with_capacity(headers.len() + headers_to_remove.len());
    for option in &headers {
        request.push(change(option, fields::is_copied, Action::Set)?);
    }
    for name in &headers_to_remove {
        // Pseudo-headers and the host stay, as the protocol has it.
        if name.starts_with(':') || name.eq_ignore_ascii_case(HOST.as_str()) {
            continue;
        }
        request.push(Change::Remove(self::name(name, fields::is_copied)?));
    }
    let response = response_headers_to_add.iter().map(|option| change(option, fields::is_passed, Action::Append));
    Ok(Changes {
        request,
        response: response.collect::<Result<_, _>>()?,
        query: remove
            .into_iter()
            .map(QueryChange::Remove)
            .chain(set.into_iter().map(|set| QueryChange::Set(set.key, set.value)))
            .collect(),
    })
}

/// The answer of a request that is denied.
///
/// # Errors
/// When a field or its value is none, or the status is not one that denies.
pub(super) fn denied(details: Denied) -> Result<Verdict, Failure> {
    let code = details.status.map_or(0, |status| status.code);
    let status = match code {
        0 => StatusCode::FORBIDDEN,
        code => u16::try_from(code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
            .filter(|status| !status.is_informational())
            .ok_or(Failure::Invalid("the status that it denies with is none"))?,
    };
    let mut response = Response::new(Body::from(details.body));
    *response.status_mut() = status;
    for option in &details.headers {
        // Several lines of one field, such as `Set-Cookie`, come as several of these.
        let (name, value) = pair(option, fields::is_passed)?;
        response.headers_mut().append(name, value);
    }
    Ok(Verdict::Denied(Some(Box::new(response))))
}

#[derive(Clone, Copy)]
enum Action {
    Set,
    Append,
}

fn change(
    option: &HeaderValueOption,
    allowed: impl Fn(&HeaderName) -> bool,
    default: Action,
) -> Result<Change, Failure> {
    let (name, value) = pair(option, allowed)?;
    let append = option.append.as_ref().map(|append| append.value);
    Ok(match (append, option.append_action, default) {
        (Some(true), ..) | (None, 0, Action::Append) => Change::Append(name, value),
        (Some(false), ..) | (None, 0, Action::Set) | (None, 2, _) => Change::Set(name, value),
        (None, 1, _) => Change::AddIfAbsent(name, value),
        (None, 3, _) => Change::SetIfPresent(name, value),
        (None, ..) => return Err(Failure::Invalid("it changes a field in an unknown way")),
    })
}

fn pair(
    option: &HeaderValueOption,
    allowed: impl Fn(&HeaderName) -> bool,
) -> Result<(HeaderName, HeaderValue), Failure> {
    let Some(HeaderPair { key, value, raw_value }) = &option.header else {
        return Err(Failure::Invalid("it changes a field without a name"));
    };
    let value = if raw_value.is_empty() { value.as_bytes() } else { raw_value };
    let value = HeaderValue::from_bytes(value).map_err(|_| Failure::Invalid("it has a field whose value is none"))?;
    Ok((name(key, allowed)?, value))
}

fn name(text: &str, allowed: impl Fn(&HeaderName) -> bool) -> Result<HeaderName, Failure> {
    let name = HeaderName::try_from(text).map_err(|_| Failure::Invalid("it has a field whose name is none"))?;
    if allowed(&name) { Ok(name) } else { Err(Failure::Invalid("it changes a field that is not its own to change")) }
}
