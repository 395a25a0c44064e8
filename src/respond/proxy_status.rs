//! The `Proxy-Status` field (RFC 9209), written as structured fields (RFC 9651).

use std::fmt::Write;

use http::{HeaderMap, HeaderValue, header::HeaderName};

use crate::Outcome;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// This hop's name as a list member of the field: a token where it can be one, else a string.
pub(super) fn member(name: &str) -> String {
    if is_token(name) { name.to_owned() } else { string(name) }
}

/// Says what `outcome` was, if it is an error and the field is not there already: then a nested instance, closer to the
/// cause, has told.
pub(super) fn write(headers: &mut HeaderMap, member: &str, outcome: Outcome) {
    let Some(error) = outcome.proxy_error() else { return };
    if headers.contains_key(PROXY_STATUS) {
        return;
    }
    if let Ok(value) = HeaderValue::try_from(format!("{member}; error={error}; details=\"{outcome}\"")) {
        headers.insert(PROXY_STATUS, value);
    }
}

/// `sf-token` of RFC 9651 section 3.3.4.
fn is_token(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c))
}

/// `sf-string` of RFC 9651 section 3.3.3, which holds printable ASCII only: `?` stands for anything else.
fn string(text: &str) -> String {
    let mut string = String::with_capacity(text.len() + 2);
    string.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(string, "\\{c}"),
            ' '..='~' => string.write_char(c),
            _ => string.write_char('?'),
        };
    }
    string.push('"');
    string
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_tokens_where_they_can_be() {
        assert_eq!(member("edge-1.example:8443"), "edge-1.example:8443");
        assert_eq!(member("*"), "*");
        assert_eq!(member("1st"), "\"1st\"");
        assert_eq!(member(""), "\"\"");
        assert_eq!(member("a \"b\" \\ c; error=x, d"), r#""a \"b\" \\ c; error=x, d""#);
        assert_eq!(member("tür\r\nx"), "\"t?r??x\"");
    }

    #[test]
    fn what_is_no_error_is_not_told() {
        let mut headers = HeaderMap::new();
        write(&mut headers, "x", Outcome::Completed);
        write(&mut headers, "x", Outcome::Cancelled);
        assert!(headers.is_empty());
    }

    proptest! {
        #[test]
        fn any_name_makes_a_valid_member(name in ".*") {
            let mut headers = HeaderMap::new();
            write(&mut headers, &member(&name), Outcome::NoRoute);
            let value = headers["proxy-status"].to_str().unwrap();
            let params = "; error=destination_not_found; details=\"no_route\"";
            let member = value.strip_suffix(params).unwrap();
            if let Some(quoted) = member.strip_prefix('"') {
                let inner = quoted.strip_suffix('"').unwrap();
                let unescaped = inner.replace("\\\\", "").replace("\\\"", "");
                prop_assert!(!unescaped.contains(['"', '\\']), "{}", value);
            } else {
                prop_assert!(is_token(member));
            }
        }
    }
}
