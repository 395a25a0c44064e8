//! The CORS filter.

use std::time::Duration;

use serde::Deserialize;

use super::{Found, check_field_name, number};
use crate::{config, source::error::Fault};

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Cors {
    allow_origins: Vec<String>,
    allow_credentials: bool,
    /// Without them the methods that need no permission.
    allow_methods: Option<Vec<String>>,
    allow_headers: Vec<String>,
    expose_headers: Vec<String>,
    /// In seconds.
    max_age: Option<u32>,
}

impl Cors {
    pub(super) fn check(&self, field: &str, found: Found<'_>) {
        for (index, origin) in self.allow_origins.iter().enumerate().filter(|(_, origin)| !is_origin(origin)) {
            let why = format!(
                "`{origin}` is not an origin: write `*`, or `http://` or `https://` with a host, which may begin with \
                 `*.`, and perhaps a port"
            );
            found(format!("{field}.allowOrigins[{index}]"), Fault::Invalid(why));
        }
        let methods = self.allow_methods.as_deref().unwrap_or_default();
        for (index, method) in methods.iter().enumerate() {
            if method.parse::<http::Method>().is_err() {
                let why = format!("`{method}` is not an HTTP method");
                found(format!("{field}.allowMethods[{index}]"), Fault::Invalid(why));
            }
        }
        for (list, names) in [("allowHeaders", &self.allow_headers), ("exposeHeaders", &self.expose_headers)] {
            for (index, name) in names.iter().enumerate() {
                check_field_name(name, || format!("{field}.{list}[{index}]"), found);
            }
        }
        for (list, names) in
            [("allowOrigins", &*self.allow_origins), ("allowMethods", methods), ("allowHeaders", &*self.allow_headers)]
        {
            if names.len() > 1 && names.iter().any(|name| name == "*") {
                let why = "`*` stands for all: leave it out, or the others".to_owned();
                found(format!("{field}.{list}"), Fault::Invalid(why));
            }
        }
        if self.max_age == Some(0) {
            found(format!("{field}.maxAge"), number(0, "1 or more"));
        }
    }
}

impl From<&Cors> for config::Cors {
    fn from(cors: &Cors) -> Self {
        let default = Self::default();
        Self {
            origins: cors.allow_origins.clone(),
            methods: cors.allow_methods.clone().unwrap_or(default.methods),
            headers: cors.allow_headers.clone(),
            expose: cors.expose_headers.clone(),
            credentials: cors.allow_credentials,
            max_age: cors.max_age.map_or(default.max_age, |seconds| Duration::from_secs(seconds.into())),
        }
    }
}

/// `*`, or a scheme and a host with an optional port; the host may begin with `*.`, or be `*`.
fn is_origin(text: &str) -> bool {
    let Some(authority) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return text == "*";
    };
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (host == "*" || host.strip_prefix("*.").unwrap_or(host).split('.').all(is_label))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}
