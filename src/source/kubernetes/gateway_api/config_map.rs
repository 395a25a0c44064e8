//! `ConfigMap`, which holds certificate authorities here.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use crate::source::{error::Fault, kubernetes::object::Kind};

/// v1 ConfigMap.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConfigMap {
    #[serde(default)]
    data: BTreeMap<String, String>,
    /// In base64.
    #[serde(default)]
    binary_data: BTreeMap<String, String>,
}

/// The key of certificate authorities in ConfigMaps and Secrets.
pub(crate) const AUTHORITIES: &str = "ca.crt";

impl ConfigMap {
    /// The value of `key`, decoded.
    pub(crate) fn value(&self, key: &str) -> Option<Vec<u8>> {
        match self.data.get(key) {
            Some(text) => Some(text.clone().into_bytes()),
            None => BASE64_STANDARD.decode(self.binary_data.get(key)?).ok(),
        }
    }
}

impl Kind for ConfigMap {
    const API_VERSIONS: &'static [&'static str] = &["v1"];
    const KIND: &'static str = "ConfigMap";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        for (key, text) in &self.binary_data {
            if BASE64_STANDARD.decode(text).is_err() {
                let why = "the value is damaged or cut off".to_owned();
                found(format!("binaryData[{key}]"), Fault::Base64(why));
            }
        }
    }
}
