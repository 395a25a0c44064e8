//! `Secret`.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::object::Kind;
use crate::source::error::Fault;

/// v1 Secret.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Secret {
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    /// In base64.
    #[serde(default)]
    data: BTreeMap<String, String>,
    /// As it is; wins over `data`.
    #[serde(default)]
    string_data: BTreeMap<String, String>,
}

/// The type of a certificate with its key.
pub(super) const TLS: &str = "kubernetes.io/tls";
pub(super) const CERTIFICATE: &str = "tls.crt";
pub(super) const KEY: &str = "tls.key";

impl Secret {
    /// The value of `key`, decoded; `None` where there is none, or it is not base64.
    pub(super) fn value(&self, key: &str) -> Option<Vec<u8>> {
        match self.string_data.get(key) {
            Some(text) => Some(text.clone().into_bytes()),
            None => decode(self.data.get(key)?).ok(),
        }
    }

    /// The field that holds the value of `key`.
    pub(super) fn field(&self, key: &str) -> String {
        let map = if self.string_data.contains_key(key) { "stringData" } else { "data" };
        format!("{map}[{key}]")
    }
}

/// Line breaks within are left out, as the API server does.
fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    if text.contains(['\r', '\n']) {
        BASE64_STANDARD.decode(text.replace(['\r', '\n'], ""))
    } else {
        BASE64_STANDARD.decode(text)
    }
}

impl Kind for Secret {
    const API_VERSIONS: &'static [&'static str] = &["v1"];
    const KIND: &'static str = "Secret";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        for (key, text) in &self.data {
            if let Err(error) = decode(text) {
                // The text itself is a secret, and is not shown.
                let why = match error {
                    base64::DecodeError::InvalidByte(offset, _) => format!("the character at {offset} does not belong"),
                    _ => "it is cut off or has its end wrong".to_owned(),
                };
                found(format!("data[{key}]"), Fault::Base64(why));
            }
        }
        if self.kind == TLS {
            for key in [CERTIFICATE, KEY] {
                if !self.data.contains_key(key) && !self.string_data.contains_key(key) {
                    found(format!("data[{key}]"), Fault::Missing);
                }
            }
        }
    }
}
