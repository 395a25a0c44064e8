//! A cohort between processes: a member of W3C `baggage`.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::Cohort;

/// W3C Baggage.
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The member's key.
const KEY: &str = "portcullis-cohort";

/// What may not stand in a member's value as it is, and the colon, which parts the route from the name.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b',').add(b';').add(b'\\').add(b'%').add(b':');

/// The member that tells of a cohort.
pub(crate) fn member(cohort: &Cohort) -> Option<HeaderValue> {
    let mut text = format!("{KEY}=");
    let (route, name) = (utf8_percent_encode(cohort.route(), ENCODED), utf8_percent_encode(cohort.name(), ENCODED));
    // Writing to a string cannot fail.
    let _ = write!(text, "{route}:{name}");
    HeaderValue::try_from(text).ok()
}

/// The cohort that these fields tell of.
pub(crate) fn told(headers: &HeaderMap) -> Option<Cohort> {
    let mut members = headers.get_all(BAGGAGE).iter().filter_map(|line| line.to_str().ok()).flat_map(|l| l.split(','));
    let (route, name) = members.find_map(value)?.split_once(':')?;
    let decoded = |text| percent_decode_str(text).decode_utf8().ok();
    Some(Cohort::new(&*decoded(route)?, &*decoded(name)?))
}

/// Puts this member in the place of what the fields tell of a cohort, or removes that.
pub(crate) fn tell(headers: &mut HeaderMap, member: Option<HeaderValue>) {
    let tells = |line: &HeaderValue| match line.to_str() {
        Ok(line) => line.split(',').any(|member| value(member).is_some()),
        // No text, which others may read all the same: it goes as a whole.
        Err(_) => line.as_bytes().windows(KEY.len()).any(|part| part == KEY.as_bytes()),
    };
    if headers.get_all(BAGGAGE).iter().any(tells) {
        let lines: Vec<_> = headers.get_all(BAGGAGE).iter().cloned().collect();
        headers.remove(BAGGAGE);
        for line in lines {
            if let Some(line) = if tells(&line) { without(&line) } else { Some(line) } {
                headers.append(BAGGAGE, line);
            }
        }
    }
    if let Some(member) = member {
        headers.append(BAGGAGE, member);
    }
}

/// The value of a member of ours, without its properties.
fn value(member: &str) -> Option<&str> {
    let (key, value) = member.split_once('=')?;
    (key.trim() == KEY).then(|| value.split(';').next().unwrap_or_default().trim())
}

/// The other members of a line, if there are any.
fn without(line: &HeaderValue) -> Option<HeaderValue> {
    let others: Vec<_> = line.to_str().ok()?.split(',').filter(|member| value(member).is_none()).collect();
    let others = others.join(",");
    let others = others.trim();
    if others.is_empty() { None } else { HeaderValue::try_from(others).ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(headers: &HeaderMap) -> Vec<&str> {
        headers.get_all(BAGGAGE).iter().map(|line| line.to_str().unwrap()).collect()
    }

    #[test]
    fn a_cohort_is_a_member_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(BAGGAGE, "user=1;p=2, portcullis-cohort = other:stable;x=y ,k=v".parse().unwrap());
        assert_eq!(told(&headers), Some(Cohort::new("other", "stable")));
        tell(&mut headers, member(&Cohort::new("default/shop", "canary")));
        assert_eq!(lines(&headers), ["user=1;p=2,k=v", "portcullis-cohort=default/shop:canary"]);
        assert_eq!(told(&headers), Some(Cohort::new("default/shop", "canary")));
        tell(&mut headers, None);
        assert_eq!(lines(&headers), ["user=1;p=2,k=v"]);
    }

    #[test]
    fn what_tells_of_none_stays_as_it_is() {
        let mut headers = HeaderMap::new();
        for line in [b"user=1 , x".as_slice(), b"k=\xff", b"portcullis-cohorts=a:b"] {
            headers.append(BAGGAGE, HeaderValue::from_bytes(line).unwrap());
        }
        let before = headers.clone();
        tell(&mut headers, None);
        assert_eq!((told(&headers), headers), (None, before));
    }

    #[test]
    fn a_line_that_is_no_text_does_not_hide_a_cohort() {
        let mut headers = HeaderMap::new();
        headers.append(BAGGAGE, HeaderValue::from_bytes(b"portcullis-cohort=shop:canary,k=\xff").unwrap());
        tell(&mut headers, None);
        assert!(headers.is_empty());
    }

    #[test]
    fn nonsense_is_no_cohort() {
        for line in ["portcullis-cohort", "portcullis-cohort=x", "portcullis-cohort=%ff:x", ""] {
            let headers = HeaderMap::from_iter([(BAGGAGE, line.parse().unwrap())]);
            assert_eq!(told(&headers), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_name_travels(route in "\\PC{0,12}", name in "[ -~]{0,12}") {
            let cohort = Cohort::new(route, name);
            let mut headers = HeaderMap::new();
            tell(&mut headers, Some(member(&cohort).unwrap()));
            prop_assert_eq!(told(&headers), Some(cohort));
        }
    }
}
