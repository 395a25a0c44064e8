//! Which of the two text formats a client of `/metrics` prefers (RFC 9110 section 12.5.1).

use http::{HeaderMap, header::ACCEPT};

/// Whether OpenMetrics is named, and weighs no less than plain text. Wildcards speak for plain text, which everyone reads.
pub(super) fn prefers_open_metrics(headers: &HeaderMap) -> bool {
    let (mut open_metrics, mut plain) = (0, 0);
    let ranges =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let weight = parts.find_map(weight).unwrap_or(1000);
        if media.eq_ignore_ascii_case("application/openmetrics-text") {
            open_metrics = open_metrics.max(weight);
        } else if ["text/plain", "text/*", "*/*"].iter().any(|plain| media.eq_ignore_ascii_case(plain)) {
            plain = plain.max(weight);
        }
    }
    open_metrics > 0 && open_metrics >= plain
}

/// The weight in thousandths, if this parameter is one; nonsense weighs nothing.
fn weight(parameter: &str) -> Option<u32> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let weight: f32 = value.trim().parse().unwrap_or(0.0);
    Some((weight.clamp(0.0, 1.0) * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_sent_to_who_prefers_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, preferred) in [
            (prometheus, true),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; Q=0.7, text/plain;q=0.7", true),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=0.1, text/plain", false),
            ("application/openmetrics-text;q=NaN", false),
            ("application/openmetrics-text;q=, */*;q=0.1", false),
            ("*/*", false),
            ("application/*", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            assert_eq!(prefers_open_metrics(&headers), preferred, "{accept}");
        }
        assert!(!prefers_open_metrics(&HeaderMap::new()));
    }
}
