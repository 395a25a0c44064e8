//! How long things may take.

use std::time::Duration;

use http::HeaderName;
#[cfg(feature = "yaml")]
use serde::Deserialize;

#[cfg(feature = "yaml")]
use super::duration::deserialize_option as duration;

/// How long a rule's requests may take. `None` takes the upstream's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Timeouts {
    /// From the request's head until the response's head, all attempts together. Zero means no limit. Expiry is
    /// answered 504. Default none (GEP-1742).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub request: Option<Duration>,
    /// The same for each attempt. Zero means no limit. Default: the upstream's
    /// [`response_timeout`](super::Upstream::response_timeout).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub backend_request: Option<Duration>,
    /// From the request's head until the end of the response's body, however lively: a head that has not come by then is
    /// answered 504, a body fails. A connection that was upgraded is not limited. Zero means no limit. Default none (as
    /// Envoy's `max_stream_duration`); silence has a limit of its own, [`idle`](Self::idle).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub max_stream_duration: Option<Duration>,
    /// How long the response's body may pause while its client waits for more, and the request's body does not move either;
    /// then it fails. A connection that was upgraded is not limited. Zero means no limit of the rule's own. Default none: an
    /// upstream's [`stream_idle_timeout`](super::Upstream::stream_idle_timeout) holds in any case, and a service of this
    /// process has no limit but this one.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub idle: Option<Duration>,
    /// The header field, beside `grpc-timeout`, in which a client may say how long it waits, in whole milliseconds, and in
    /// which every attempt tells its backend what is left of [`request`](Self::request) or of what the client said,
    /// whichever is less. None of the connection's own fields, `grpc-timeout`, `host` or `trailer`, nor a name that reads like
    /// one of them where `_` is taken for `-`. Default none; Envoy tells it in `x-envoy-expected-rq-timeout-ms`.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "super::yaml::name"))]
    pub deadline_header: Option<HeaderName>,
    /// Whether the deadline, that of [`request`](Self::request) or the client's own, ends the response's body too, and not
    /// the wait for its head alone. Default false.
    pub deadline_ends_body: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_a_header_of_its_own() {
        let wrong = |name: &str| {
            let timeouts = Timeouts { deadline_header: Some(name.parse().unwrap()), ..Timeouts::default() };
            timeouts.wrong().iter().map(ToString::to_string).collect::<String>()
        };
        for name in ["te", "http2-settings", "grpc-timeout", "host", "trailer"] {
            let why = format!(
                "deadline_header: `{name}` has a meaning of its own: use another, such as `x-request-timeout-ms`"
            );
            assert_eq!(wrong(name), why);
        }
        for name in ["transfer_encoding", "http2_settings", "grpc_timeout"] {
            let why = format!(
                "deadline_header: `{name}` reads like a field that has a meaning of its own: use another, such as `x-request-timeout-ms`"
            );
            assert_eq!(wrong(name), why);
        }
        assert_eq!(wrong("x-left") + &wrong("x_left"), "");
    }

    #[cfg(feature = "yaml")]
    #[test]
    fn all_limits_are_written_side_by_side() {
        let text = "{request: 10s, backend_request: 3s, max_stream_duration: 1h, idle: 1m, deadline_header: X-Left, \
                    deadline_ends_body: true}";
        let expected = Timeouts {
            request: Some(Duration::from_secs(10)),
            backend_request: Some(Duration::from_secs(3)),
            max_stream_duration: Some(Duration::from_secs(3600)),
            idle: Some(Duration::from_secs(60)),
            deadline_header: Some(HeaderName::from_static("x-left")),
            deadline_ends_body: true,
        };
        assert_eq!(serde_saphyr::from_str::<Timeouts>(text).unwrap(), expected);
        assert_eq!(serde_saphyr::from_str::<Timeouts>("{}").unwrap(), Timeouts::default());
        for wrong in ["deadline_header: a b", "deadline_header: ''", "max_stream_duration: 1"] {
            assert!(serde_saphyr::from_str::<Timeouts>(wrong).is_err(), "{wrong}");
        }
    }
}
