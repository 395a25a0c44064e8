use http::Version;
use tokio::time::Duration;

use super::{Finished, FinishedStream, Interest, Recorder, StreamFacts, StreamRecorder};

/// One event a request through `tracing`: target `portcullis::access`, level `INFO`.
///
/// Costs one check while the target is disabled. Absent facts are absent fields:
///
/// | field | |
/// |---|---|
/// | `method`, `host`, `path` | of the request; `path` is the target's path as received |
/// | `query` | the target's query, only with [`AccessLog::query`] |
/// | `version` | `1.0`, `1.1`, `2` or `3` |
/// | `status`, `grpc_status` | of the response |
/// | `outcome` | [`Outcome`](crate::Outcome)'s name |
/// | `route`, `upstream`, `endpoint`, `attempts` | who was to answer, and how often that was tried |
/// | `cohort` | the [cohort](crate::split::Cohort) that a split put the request into |
/// | `request_bytes`, `response_bytes` | of the bodies |
/// | `duration_ms`, `head_ms` | milliseconds until the end, and until the response's head |
/// | `client` | address as trusted forwarding fields tell it, else the connection's peer |
/// | `tls_server_name` | the name asked for in the TLS handshake (SNI) |
/// | `detail` | the error's text, or which filter answered |
///
/// A connection that is forwarded as a stream is one event, too, as it ends: target `portcullis::access::stream`, level `INFO`,
/// with `outcome`, `route`, `upstream`, `endpoint`, `duration_ms`, `client`, `tls_server_name` and `detail` as above, and
/// `received_bytes` (of the client) and `sent_bytes` (to it), as they were passed on.
///
/// Values that a client or an upstream can choose are recorded as strings, which the formatters of
/// `tracing-subscriber` quote and escape: no value can begin a line or a field of its own. A subscriber that writes
/// strings raw has to escape them itself.
///
/// # Example
/// ```
/// use portcullis::telemetry::{AccessLog, TelemetryLayer};
///
/// let layer = TelemetryLayer::new().recorder(AccessLog::new().query(true));
/// # let _ = layer;
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct AccessLog {
    query: bool,
}

impl AccessLog {
    /// Without the query.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the target's query is logged. Default: no, queries hold tokens and personal data.
    pub fn query(mut self, query: bool) -> Self {
        self.query = query;
        self
    }
}

macro_rules! target {
    () => {
        "portcullis::access"
    };
}

/// Below the other, so that what turns on that one turns on this one.
macro_rules! stream_target {
    () => {
        "portcullis::access::stream"
    };
}

impl Recorder for AccessLog {
    fn interest(&self) -> Interest {
        if tracing::enabled!(target: target!(), tracing::Level::INFO) { Interest::Request } else { Interest::None }
    }

    fn finished(&self, finished: &Finished) {
        // Nobody listened as it began.
        let Some(request) = &finished.request else { return };
        let record = &finished.record;
        let connection = request.connection.as_ref();
        let client = record.client.or_else(|| connection.map(|connection| connection.peer_addr().ip()));
        tracing::info!(
            target: target!(),
            method = request.method.as_str(),
            host = request.authority().as_deref(),
            path = request.uri.path(),
            query = request.uri.query().filter(|_| self.query),
            version = version(request.version),
            status = finished.status.map(|status| status.as_u16()),
            grpc_status = finished.grpc_status,
            outcome = finished.outcome.as_str(),
            route = record.route.as_deref(),
            upstream = record.upstream.as_deref(),
            cohort = record.cohort.as_deref(),
            endpoint = record.endpoint.map(display),
            attempts = record.attempts,
            request_bytes = record.request_bytes,
            response_bytes = finished.response_bytes,
            duration_ms = milliseconds(finished.duration),
            head_ms = record.head_after.map(milliseconds),
            client = client.map(display),
            tls_server_name = connection.and_then(|connection| connection.tls()?.server_name.as_deref()),
            detail = record.detail.as_deref(),
        );
    }

    fn stream(&self, _: &StreamFacts) -> Option<Box<dyn StreamRecorder>> {
        tracing::enabled!(target: stream_target!(), tracing::Level::INFO).then(|| Box::new(StreamLog) as _)
    }
}

struct StreamLog;

impl StreamRecorder for StreamLog {
    fn finished(&mut self, finished: &FinishedStream) {
        let facts = &finished.facts;
        tracing::info!(
            target: stream_target!(),
            outcome = finished.outcome.as_str(),
            route = facts.route.as_deref(),
            upstream = facts.upstream.as_deref(),
            endpoint = finished.endpoint.map(display),
            received_bytes = finished.received_bytes,
            sent_bytes = finished.sent_bytes,
            duration_ms = milliseconds(finished.duration),
            client = display(facts.client),
            tls_server_name = facts.server_name.as_deref(),
            detail = finished.detail.as_deref(),
        );
    }
}

fn milliseconds(duration: Duration) -> f64 {
    // To the microsecond: more digits say nothing.
    duration.as_micros() as f64 / 1e3
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        io,
        sync::{Arc, Mutex},
    };

    use http::{Method, Request, Response};
    use tower::{Layer, ServiceExt, service_fn};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::{
        Body, Outcome,
        connection::{ConnectionInfo, TlsInfo},
        exchange::{Exchange, Record},
        telemetry::TelemetryLayer,
    };

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Self;
        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// The log's text after one request, which `note` writes to the exchange of.
    fn logged(log: AccessLog, request: Request<Body>, note: fn(&mut Record), level: &str, json: bool) -> String {
        let written = Written::default();
        let builder = tracing_subscriber::fmt().with_env_filter(level).without_time().with_writer(written.clone());
        let request_through = || {
            let service = TelemetryLayer::new().recorder(log).layer(service_fn(async |request: Request<Body>| {
                if let Some(exchange) = Exchange::of(request.extensions()) {
                    exchange.update(note);
                }
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }));
            tokio_test::block_on(service.oneshot(request)).unwrap();
        };
        if json {
            tracing::subscriber::with_default(builder.json().finish(), request_through);
        } else {
            tracing::subscriber::with_default(builder.with_ansi(false).finish(), request_through);
        }
        written.text()
    }

    fn request(uri: &str) -> Request<Body> {
        let info = ConnectionInfo::new("192.0.2.7:4711".parse().unwrap(), "127.0.0.1:8443".parse().unwrap())
            .with_tls(TlsInfo { server_name: Some("shop.example".into()), ..TlsInfo::default() });
        Request::get(uri).header("host", "shop.example").extension(info).body(Body::empty()).unwrap()
    }

    #[test]
    fn a_request_is_one_event_with_what_is_known() {
        let note = |record: &mut Record| {
            record.route = Some("default/shop".into());
            record.upstream = Some("default/cart".into());
            record.cohort = Some("canary".into());
            record.endpoint = Some("10.0.0.1:80".parse().unwrap());
            record.attempts = 2;
            record.client = Some("2001:db8::1".parse().unwrap());
            record.outcome = Some(Outcome::UpstreamReset);
            record.detail = Some("upstream_reset: gone".into());
        };
        let text = logged(AccessLog::new(), request("/cart?token=secret"), note, "portcullis::access=info", false);
        assert_eq!(text.lines().count(), 1, "{text}");
        for field in [
            "INFO portcullis::access: ",
            r#"method="GET" host="shop.example" path="/cart" version="1.1" status=200 outcome="upstream_reset""#,
            r#"route="default/shop" upstream="default/cart" cohort="canary" endpoint=10.0.0.1:80 attempts=2"#,
            "request_bytes=0 response_bytes=0 duration_ms=",
            "head_ms=",
            r#"client=2001:db8::1 tls_server_name="shop.example" detail="upstream_reset: gone""#,
        ] {
            assert!(text.contains(field), "{field} is not in {text}");
        }
        assert!(!text.contains("secret") && !text.contains("grpc_status"), "{text}");
    }

    #[test]
    fn a_stream_is_one_event_where_requests_are() {
        for (level, lines) in [("portcullis::access=info", 1), ("info,portcullis::access=warn", 0)] {
            let written = Written::default();
            let builder = tracing_subscriber::fmt().with_env_filter(level).without_time().with_writer(written.clone());
            tracing::subscriber::with_default(builder.with_ansi(false).finish(), || {
                let mut facts = StreamFacts::new([192, 0, 2, 7].into());
                facts.server_name = Some("db.example\nforged".into());
                facts.route = Some("default/db".into());
                let mut stream = TelemetryLayer::new().recorder(AccessLog::new()).stream(facts);
                stream.connected("10.0.0.1:5432".parse().unwrap());
                stream.copied(3, 1000);
                stream.end(Outcome::Cancelled, Some("nothing was said for too long".to_owned()));
            });
            let text = written.text();
            assert_eq!(text.lines().count(), lines, "{text}");
            for field in [
                r#"INFO portcullis::access::stream: outcome="cancelled" route="default/db" endpoint=10.0.0.1:5432"#,
                "received_bytes=3 sent_bytes=1000 duration_ms=",
                r#"client=192.0.2.7 tls_server_name="db.example\nforged" detail="nothing was said for too long""#,
            ] {
                assert!(text.contains(field) || lines == 0, "{field} is not in {text}");
            }
        }
    }

    #[test]
    fn the_query_is_logged_on_demand_and_the_peer_is_the_client() {
        let text = logged(AccessLog::new().query(true), request("/?a=b"), |_| {}, "info", false);
        assert!(text.contains(r#"path="/" query="a=b""#), "{text}");
        assert!(text.contains("client=192.0.2.7 ") && !text.contains("cohort"), "{text}");
    }

    #[test]
    fn nothing_is_logged_below_its_level() {
        assert_eq!(
            logged(AccessLog::new(), request("/"), |_| unreachable!(), "warn,portcullis::access=warn", false),
            ""
        );
    }

    #[test]
    fn no_value_begins_a_line_or_a_field() {
        let evil = "x\" y=1\r\nINFO forged\x1b[31m\u{85}\u{2028}";
        let note = |record: &mut Record| {
            let evil = "x\" y=1\r\nINFO forged\x1b[31m\u{85}\u{2028}";
            record.detail = Some(evil.into());
            record.route = Some(evil.into());
            record.upstream = Some(evil.into());
        };
        let mut request = request("/");
        *request.method_mut() = Method::from_bytes(b"A|B").unwrap();
        // Line breaks cannot be in a header value; what can be is not UTF-8, or begins an escape in another encoding.
        request
            .headers_mut()
            .insert("host", http::HeaderValue::from_bytes(b"h\" y=1 \xc2\x85\xe2\x80\xa8\xff").unwrap());
        let info = ConnectionInfo::new("192.0.2.7:4711".parse().unwrap(), "127.0.0.1:8443".parse().unwrap())
            .with_tls(TlsInfo { server_name: Some(evil.into()), ..TlsInfo::default() });
        request.extensions_mut().insert(info);
        for json in [false, true] {
            let request = {
                let mut copy = Request::new(Body::empty());
                *copy.method_mut() = request.method().clone();
                *copy.headers_mut() = request.headers().clone();
                *copy.extensions_mut() = request.extensions().clone();
                copy
            };
            let text = logged(AccessLog::new(), request, note, "info", json);
            let line = text.strip_suffix('\n').unwrap();
            let mut quotes = line.match_indices("\" y=1").map(|(at, _)| &line[..at]);
            assert!(quotes.all(|before| before.ends_with('\\')), "a quote is not escaped in {line}");
            let breaks = if json { &['\n', '\r', '\x1b'][..] } else { &['\n', '\r', '\x1b', '\u{85}', '\u{2028}'] };
            assert!(!line.contains(breaks), "{line:?}");
        }
    }
}
