//! Durations as people write them.

use std::time::Duration;

use thiserror::Error;

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a duration: write numbers with units, such as `30s`, `1m30s` or `250ms` (units h, m, s, ms)")]
pub struct InvalidDuration(String);

/// Reads a duration in the Gateway API's format (GEP-2257): up to four numbers of up to five digits, each with its
/// unit `h`, `m`, `s` or `ms`.
///
/// # Errors
/// When the text has another form.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use portcullis::config::parse_duration;
///
/// assert_eq!(parse_duration("1m30s").unwrap(), Duration::from_secs(90));
/// assert_eq!(parse_duration("0s").unwrap(), Duration::ZERO);
/// assert!(parse_duration("1.5s").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_owned());
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        parts += 1;
        if !(1..=5).contains(&digits) || parts > 4 {
            return Err(invalid());
        }
        let number: u32 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let one = match &rest[..unit] {
            "h" => Duration::from_secs(3600),
            "m" => Duration::from_secs(60),
            "s" => Duration::from_secs(1),
            "ms" => Duration::from_millis(1),
            _ => return Err(invalid()),
        };
        rest = &rest[unit..];
        total += one * number;
    }
    if parts == 0 { Err(invalid()) } else { Ok(total) }
}

#[cfg(feature = "yaml")]
pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = <String as serde::Deserialize>::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(feature = "yaml")]
pub(super) fn deserialize_option<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_format_allows_is_read() {
        for (text, millis) in [("0s", 0), ("5ms", 5), ("10s", 10_000), ("1h30m", 5_400_000), ("1h1m1s1ms", 3_661_001)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "1", "s", "1.5s", "-1s", "1 s", "100000s", "1s1s1s1s1s", "1d", "1us", "١s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
