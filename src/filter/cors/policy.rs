#[cfg(test)]
mod tests;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, SET_COOKIE, VARY,
    },
};

use super::origin::Origins;
use crate::{config, filter::InvalidFilter};

/// What a response says of a policy. A backend does not say it: the policy decides.
const GRANTS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

const ANY: HeaderValue = HeaderValue::from_static("*");

/// A checked [`config::Cors`].
#[derive(Debug)]
pub(super) struct Policy {
    origins: Origins,
    methods: Names,
    headers: Names,
    expose: Names,
    credentials: bool,
    max_age: HeaderValue,
}

/// Names that are allowed or exposed.
#[derive(Debug)]
enum Names {
    None,
    Any,
    /// As the field's value.
    Listed(HeaderValue),
}

/// What is done about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is a preflight: the answer's fields, and whether its origin may.
    Preflight { fields: HeaderMap, allowed: bool },
    /// It goes on, and its response is [shared](Policy::share) so.
    Share(Grant),
}

/// With whom a response is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Grant {
    /// With no other origin.
    Nobody,
    /// With all, whoever asks.
    Everybody,
    /// With the origin that asked.
    Origin(HeaderValue),
}

impl Policy {
    pub(super) fn new(cors: config::Cors) -> Result<Self, InvalidFilter> {
        let config::Cors { origins, methods, headers, expose, credentials, max_age } = cors;
        let is_method = |method: &str| Method::from_bytes(method.as_bytes()).is_ok();
        let is_field = |name: &str| HeaderName::from_bytes(name.as_bytes()).is_ok();
        let field = |name| InvalidFilter::FieldName { name };
        Ok(Self {
            origins: Origins::parse(origins)?,
            methods: Names::parse(methods, is_method, |method| InvalidFilter::Method { method })?,
            headers: Names::parse(headers, is_field, field)?,
            expose: Names::parse(expose, is_field, field)?,
            credentials,
            max_age: max_age.as_secs().into(),
        })
    }

    pub(super) fn decide(&self, method: &Method, request: &HeaderMap) -> Decision {
        let grant = self.grant(request);
        if *method != Method::OPTIONS || !request.contains_key(ORIGIN) {
            return Decision::Share(grant);
        }
        match request.get(ACCESS_CONTROL_REQUEST_METHOD) {
            Some(method) => self.preflight(&grant, method, request),
            None => Decision::Share(grant),
        }
    }

    fn grant(&self, request: &HeaderMap) -> Grant {
        if self.is_public() {
            return Grant::Everybody;
        }
        let mut origins = request.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) if !is_wild(origin) && self.origins.allow(origin.as_bytes()) => {
                Grant::Origin(origin.clone())
            }
            _ => Grant::Nobody,
        }
    }

    /// Whether the grant is the same whoever asks.
    fn is_public(&self) -> bool {
        self.origins == Origins::Any && !self.credentials
    }

    fn preflight(&self, grant: &Grant, method: &HeaderValue, request: &HeaderMap) -> Decision {
        let mut fields = HeaderMap::new();
        let allowed = self.allow_origin(grant, &mut fields);
        if allowed {
            match &self.methods {
                Names::None => {}
                Names::Any if self.credentials => {
                    fields.extend((!is_wild(method)).then(|| (ACCESS_CONTROL_ALLOW_METHODS, method.clone())));
                }
                Names::Any => {
                    fields.insert(ACCESS_CONTROL_ALLOW_METHODS, ANY);
                }
                Names::Listed(methods) => {
                    fields.insert(ACCESS_CONTROL_ALLOW_METHODS, methods.clone());
                }
            }
            match &self.headers {
                Names::None => {}
                // Never `*`, which leaves out `Authorization` (Fetch standard).
                Names::Any => {
                    for names in request.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter(|names| !is_wild(names))
                    {
                        fields.append(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
                    }
                }
                Names::Listed(names) => {
                    fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
                }
            }
            self.expose(&mut fields);
            fields.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
        const ASKED: HeaderValue =
            HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
        fields.insert(VARY, ASKED);
        Decision::Preflight { fields, allowed }
    }

    /// Makes a response say with whom it is shared, whatever it said before.
    pub(super) fn share(&self, grant: &Grant, response: &mut HeaderMap) {
        for name in &GRANTS {
            response.remove(name);
        }
        if self.allow_origin(grant, response) {
            self.expose(response);
        }
        if !self.is_public() && !varies_by_origin(response) {
            response.append(VARY, HeaderValue::from_static("Origin"));
        }
    }

    /// Whether any origin is allowed.
    fn allow_origin(&self, grant: &Grant, fields: &mut HeaderMap) -> bool {
        let origin = match grant {
            Grant::Nobody => return false,
            Grant::Everybody => ANY,
            Grant::Origin(origin) => origin.clone(),
        };
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }

    fn expose(&self, fields: &mut HeaderMap) {
        let value = match &self.expose {
            Names::None => return,
            Names::Listed(names) => Some(names.clone()),
            Names::Any if !self.credentials => Some(ANY),
            // With credentials `*` is the name of a field, so they are named one by one.
            Names::Any => {
                let names = fields.keys().filter(|name| !GRANTS.contains(name) && *name != SET_COOKIE);
                let names: Vec<_> = names.map(HeaderName::as_str).filter(|name| *name != "*").collect();
                if names.is_empty() { None } else { HeaderValue::try_from(names.join(", ")).ok() }
            }
        };
        if let Some(value) = value {
            fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, value);
        }
    }
}

impl Names {
    fn parse(
        names: Vec<String>,
        is_valid: impl Fn(&str) -> bool,
        invalid: impl Fn(String) -> InvalidFilter,
    ) -> Result<Self, InvalidFilter> {
        let joined = names.join(", ");
        if names.iter().any(|name| name == "*") {
            return Ok(Self::Any);
        }
        if let Some(name) = names.into_iter().find(|name| !is_valid(name)) {
            return Err(invalid(name));
        }
        match HeaderValue::try_from(joined) {
            Ok(value) if !value.is_empty() => Ok(Self::Listed(value)),
            _ => Ok(Self::None),
        }
    }
}

/// Whether sending this back could be read as a wildcard, which only the configuration may grant.
fn is_wild(value: &HeaderValue) -> bool {
    value.as_bytes().contains(&b'*')
}

fn varies_by_origin(response: &HeaderMap) -> bool {
    let mut members = response.get_all(VARY).iter().flat_map(|line| line.as_bytes().split(|&b| b == b','));
    members.any(|member| {
        let member = member.trim_ascii();
        member == b"*" || member.eq_ignore_ascii_case(b"origin")
    })
}
