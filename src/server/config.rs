//! The limits of a server.

use std::time::Duration;

/// Limits and timeouts of a [`Server`](super::Server), all of them on by default.
///
/// Plain data: write what differs and take the rest from [`ServerConfig::default`].
///
/// # Example
/// ```
/// use std::time::Duration;
/// use portcullis::server::ServerConfig;
///
/// let config = ServerConfig { max_body_size: Some(10 << 20), ..ServerConfig::default() };
/// assert_eq!(config.idle_timeout, Duration::from_secs(75));
/// assert_eq!(config.minimum_rate.unwrap().bytes_per_second, 240);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// How long a client may take over a request's head (HTTP/1), counted from the connection's beginning or from the
    /// head's first byte; also over a PROXY protocol header. Default: 30 s (hyper, Kestrel's RequestHeadersTimeout).
    pub head_timeout: Duration,
    /// How long a TLS handshake may take. Default: 30 s.
    pub handshake_timeout: Duration,
    /// How long a connection is kept without a request in flight. HTTP/2 PINGs do not prolong it. Default: 75 s
    /// (nginx's keepalive_timeout).
    pub idle_timeout: Duration,
    /// The slowest a client may send a request's body and take a response; `None`: as slow as it likes.
    pub minimum_rate: Option<MinimumRate>,
    /// The largest request head in bytes: HTTP/1 head, HTTP/2 header list. Beyond it the answer is 431 (HTTP/2: where
    /// the protocol lets it be answered). At least 8 KiB. Default: 64 KiB (Envoy: 60 KiB).
    pub max_head_size: u32,
    /// The most header fields of a request; beyond it the answer is 431. Default: 100 (Envoy, hyper); another number
    /// costs an allocation per HTTP/1 request.
    pub max_fields: usize,
    /// The largest request body in bytes; beyond it the answer is 413. Default: `None`, no limit, because bodies are
    /// streamed and what is right depends on the application.
    pub max_body_size: Option<u64>,
    /// The most connections at one time, on all listeners together, those that switched protocols included. At the limit
    /// nothing more is accepted until one ends; new clients wait in the kernel's backlog. Default: 10,000.
    pub max_connections: usize,
    /// After this many requests a connection is closed with notice (nginx's keepalive_requests). Default: `None`.
    pub max_requests_per_connection: Option<u64>,
    /// At this age a connection is closed with notice, its requests finished (Envoy's max_connection_duration, for
    /// clients that should see a new DNS answer now and then). Default: `None`.
    pub max_connection_age: Option<Duration>,
    /// HTTP/2: the most streams a client may have open at one time. Default: 200 (hyper; nginx: 128).
    pub max_concurrent_streams: u32,
    /// HTTP/2: how many bytes of one request's body a client may send ahead. Default: 1 MiB (hyper).
    pub stream_window: u32,
    /// HTTP/2: how many bytes of all requests' bodies of a connection a client may send ahead. Default: 1 MiB (hyper).
    pub connection_window: u32,
    /// HTTP/2: how many streams that the client reset may wait to be noticed before the connection is closed (rapid
    /// reset, CVE-2023-44487). Default: 20 (h2).
    pub max_pending_resets: usize,
    /// HTTP/2: how many streams may be reset because the client broke the protocol before the connection is closed.
    /// Default: 1024 (h2).
    pub max_error_resets: usize,
    /// How long requests in flight may take to finish once the server shuts down. Default: 30 s (Kubernetes'
    /// terminationGracePeriodSeconds).
    pub drain_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            minimum_rate: Some(MinimumRate::default()),
            max_head_size: 64 << 10,
            max_fields: 100,
            max_body_size: None,
            max_connections: 10_000,
            max_requests_per_connection: None,
            max_connection_age: None,
            max_concurrent_streams: 200,
            stream_window: 1 << 20,
            connection_window: 1 << 20,
            max_pending_resets: 20,
            max_error_resets: 1024,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// The slowest a client may send and receive.
///
/// A client begins with `grace`: the time it may be waited for. Waiting uses it up, every byte that arrives adds
/// `1 / bytes_per_second` seconds, and what is saved up this way never exceeds `longest_pause`. Who has none left is cut
/// off. Only time during which the server waits for the client counts: a slow service is never the client's fault.
///
/// A slow upload ends with an error of its body ([`Outcome::RequestTimeout`](crate::Outcome::RequestTimeout)) and is
/// answered 408; a client that does not take its response loses the connection. What an HTTP/2 connection takes counts
/// for all streams that wait for the client, in equal parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinimumRate {
    /// Bytes a second. Default: 240 (Kestrel's MinRequestBodyDataRate and MinResponseDataRate).
    pub bytes_per_second: u32,
    /// How long a client may be waited for before the rate counts. Default: 5 s (Kestrel).
    pub grace: Duration,
    /// How long a client may pause that was faster before. Default: 30 s (half of nginx's client_body_timeout and
    /// send_timeout, which start anew with every byte).
    pub longest_pause: Duration,
}

impl Default for MinimumRate {
    fn default() -> Self {
        Self { bytes_per_second: 240, grace: Duration::from_secs(5), longest_pause: Duration::from_secs(30) }
    }
}
