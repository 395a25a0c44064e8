//! `Via` (RFC 9110 section 7.6.3).

use http::{HeaderMap, HeaderValue, Version, header::VIA};
use thiserror::Error;

/// A text that is not a pseudonym for `Via`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a pseudonym for Via: use one or more letters, digits, `-`, `.` or `_`")]
pub struct InvalidPseudonym(String);

/// Our entry, ready for each version of HTTP it may have to name.
#[derive(Debug, Clone)]
pub(super) struct Via {
    pseudonym: Box<str>,
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

impl Via {
    pub(super) fn new(pseudonym: &str) -> Result<Self, InvalidPseudonym> {
        if pseudonym.is_empty() || !pseudonym.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
            return Err(InvalidPseudonym(pseudonym.to_owned()));
        }
        Ok(Self::of(pseudonym))
    }

    /// A pseudonym that no other hop has, as far as chance goes.
    pub(super) fn random() -> Self {
        Self::of(&format!("portcullis-{:08x}", fastrand::u32(..)))
    }

    /// `pseudonym` has been checked.
    fn of(pseudonym: &str) -> Self {
        let entry = |version| {
            HeaderValue::try_from(format!("{version} {pseudonym}"))
                .unwrap_or_else(|_| HeaderValue::from_static("1.1 portcullis"))
        };
        Self { pseudonym: pseudonym.into(), http_10: entry("1.0"), http_11: entry("1.1"), http_2: entry("2.0") }
    }

    /// Whether a message has been through here.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        headers.get_all(VIA).iter().flat_map(|line| line.as_bytes().split(|&b| b == b',')).any(|entry| {
            let mut words = entry.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.nth(1) == Some(self.pseudonym.as_bytes())
        })
    }

    /// Adds that a message received in `version` came through here.
    pub(super) fn append(&self, headers: &mut HeaderMap, version: Version) {
        let entry = match version {
            Version::HTTP_2 => &self.http_2,
            Version::HTTP_09 | Version::HTTP_10 => &self.http_10,
            _ => &self.http_11,
        };
        headers.append(VIA, entry.clone());
    }
}
