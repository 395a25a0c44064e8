//! How much is let through.

use std::time::Duration;

#[cfg(feature = "yaml")]
use serde::Deserialize;

#[cfg(feature = "yaml")]
use super::duration::{deserialize as duration, deserialize_option as duration_option};

/// How often requests of a rule may come; see [`limit::rate`](crate::limit::rate).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct RateLimit {
    /// How many requests, for each key.
    pub requests: u32,
    /// In how much time. Default 1 s.
    #[cfg_attr(feature = "yaml", serde(default = "one_second", deserialize_with = "duration"))]
    pub per: Duration,
    /// How many of them at once. Default: all (nginx's `limit_req` without `burst` is 1).
    #[cfg_attr(feature = "yaml", serde(default))]
    pub burst: Option<u32>,
    /// Who has a quota of their own. Default: the rule as a whole has one.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub key: RateKey,
    /// How many keys are kept at the most, at about 60 bytes each. A new one then takes the place of the one, of a sample of
    /// eight, that has used the least. Default 100,000.
    #[cfg_attr(feature = "yaml", serde(default = "hundred_thousand"))]
    pub max_keys: usize,
    /// Whether responses say what is left, in `RateLimit` and `RateLimit-Policy`. Default false.
    #[cfg_attr(feature = "yaml", serde(default))]
    pub headers: bool,
}

/// Whose quota a request uses. Requests that lack what the key is made of share one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RateKey {
    /// The rule's: all its requests together.
    #[default]
    Rule,
    /// The client's, by IP address, as far as trusted peers vouch for it, else by the connection's peer; an IPv6 client is
    /// its /64.
    ClientIp,
    /// That of this header field's value. Only for values that somebody verified: who chooses the value chooses a quota.
    Header(String),
    /// That of the peer's identity: its SPIFFE ID, else the names in its certificate.
    Identity,
}

/// How many requests may be with an upstream at once, and how many may wait for that; see
/// [`limit::concurrency`](crate::limit::concurrency).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields))]
pub struct Concurrency {
    /// How many at once; 0 refuses all. Envoy's default for a cluster is 1024.
    pub limit: usize,
    /// How many may wait for one in flight to end; 0 refuses at once. Default 100 (Linkerd's queue capacity).
    #[cfg_attr(feature = "yaml", serde(default = "hundred"))]
    pub queue: usize,
    /// How long one may wait. Default 3 s (Linkerd's failfast time-out).
    #[cfg_attr(feature = "yaml", serde(default = "three_seconds", deserialize_with = "duration"))]
    pub max_wait: Duration,
}

/// The same learned from an upstream's latencies; see [`limit::adaptive`](crate::limit::adaptive).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum AdaptiveConcurrency {
    /// By comparing the latency with that of the upstream without load.
    Gradient(Gradient),
    /// By comparing the latency with a number.
    Aimd(Aimd),
}

/// The settings of the gradient algorithm, after Envoy's `adaptive_concurrency` filter.
///
/// 1. To learn the latency without load, the limit is held at [`min_limit`](Self::min_limit) until
///    [`min_rtt_requests`](Self::min_rtt_requests) that began since are answered; their percentile is the ideal latency.
///    So it begins, and again every [`min_rtt_interval`](Self::min_rtt_interval), and when the limit has been at its
///    minimum for five intervals in a row, because then the ideal has likely changed.
/// 2. In the first [`interval`](Self::interval) in which requests that began under the present limit are answered, and in
///    each after it, their percentile is compared: `gradient = ideal * (1 + buffer) / latency`, at least ½ and at most 2.
///    Envoy looks at all requests; where they take longer than the interval, it then changes a limit several times for
///    what happened under one, and swings.
/// 3. `limit = gradient * limit + √(gradient * limit)`: the root is room to grow, and a short queue.
/// 4. Unlike in Envoy, a limit of which not even half was used is not raised: it would say nothing.
/// 5. Failed and cancelled requests say nothing.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Gradient {
    /// The lowest limit, and that of a learning phase. Default 3 (Envoy's `min_concurrency`).
    pub min_limit: usize,
    /// The highest limit. Default 1000 (Envoy's `max_concurrency_limit`).
    pub max_limit: usize,
    /// How long answers are collected before the limit is reconsidered. Default 100 ms (the example of Envoy's documentation; it has no default).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub interval: Duration,
    /// How often the ideal latency is learned anew. Default 60 s (the same).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub min_rtt_interval: Duration,
    /// How many requests it is learned from. Default 50 (Envoy's `request_count`).
    pub min_rtt_requests: usize,
    /// The ideal latency, where it is known: it is never learned then. Default none (Envoy's `fixed_value`).
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration_option"))]
    pub fixed_min_rtt: Option<Duration>,
    /// By which share of itself, from 0 to 1, the interval of learning is prolonged at the most, by chance, so that not all
    /// instances do it at once. Default 0.15 (Envoy's `jitter`).
    pub jitter: f64,
    /// Which share of the ideal latency may be added before the limit falls. Default 0.25 (Envoy's `buffer`).
    pub buffer: f64,
    /// Which percentile of latencies counts, from 0 to 1. Default 0.5 (Envoy's `sample_aggregate_percentile`).
    pub percentile: f64,
}

/// The settings of additive increase, multiplicative decrease, as TCP does it and Netflix's concurrency-limits after it.
///
/// 1. A request answered within [`latency`](Self::latency) while at least half of the limit is in use raises the limit by
///    `1 / limit`: by one for a limit's worth of requests.
/// 2. A request that fails, or takes longer, whether it is answered or cancelled after that time, lowers the limit to
///    [`backoff`](Self::backoff) of itself; but only one for all those that were in flight together.
/// 3. One cancelled sooner says nothing.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Aimd {
    /// The lowest limit. Default 3, as [`Gradient`]'s.
    pub min_limit: usize,
    /// The highest limit. Default 1000, as [`Gradient`]'s.
    pub max_limit: usize,
    /// The limit to begin with. Default 20 (concurrency-limits).
    pub initial_limit: usize,
    /// From which latency a request counts as one too many. Default 5 s (concurrency-limits), which few services want.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "duration"))]
    pub latency: Duration,
    /// By what the limit is multiplied then, from 0.5 to 1. Default 0.9 (concurrency-limits).
    pub backoff: f64,
}

/// How many requests may be with an upstream at once, by how much each matters; see [`limit::shed`](crate::limit::shed).
///
/// A request whose deadline has passed, or is nearer than the upstream takes at present, is not begun. Where the upstream has
/// [`adaptive_concurrency`](super::Upstream::adaptive_concurrency) too, each class may also use no more than its share of the
/// limit that is learned.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Shed {
    /// How many at once; 0 refuses all. Default none: the shares are those of the limit that is learned, and without one only
    /// deadlines count.
    pub limit: Option<usize>,
    /// How much of that each class may use.
    pub shares: ShedShares,
}

/// Up to which share of the limit, from 0 to 1, each class of requests is let in. The defaults are our own.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct ShedShares {
    /// Of [`Priority::Sheddable`]. Default 0.6.
    pub sheddable: f64,
    /// Of [`Priority::SheddablePlus`]. Default 0.8.
    pub sheddable_plus: f64,
    /// Of [`Priority::Critical`]. Default 0.95.
    pub critical: f64,
    /// Of [`Priority::CriticalPlus`]. Default 1.
    pub critical_plus: f64,
}

/// How much it matters that a request is answered: a request extension, by which load is shed lowest first, and a filter of
/// rules ([`Filter::Priority`](super::Filter::Priority)).
///
/// The classes are those of Google's "Site Reliability Engineering", chapter 21.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Priority {
    /// It may fail often, and even altogether for a while.
    Sheddable,
    /// It may fail at times: batch work that tries again.
    SheddablePlus,
    /// Users notice when it fails. The default.
    #[default]
    Critical,
    /// The last to be refused.
    CriticalPlus,
}

impl RateLimit {
    /// `requests` in a second for the rule as a whole.
    #[must_use]
    pub fn per_second(requests: u32) -> Self {
        Self {
            requests,
            per: one_second(),
            burst: None,
            key: RateKey::default(),
            max_keys: hundred_thousand(),
            headers: false,
        }
    }
}

impl Concurrency {
    /// `limit` at once, with the defaults of the queue.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, queue: hundred(), max_wait: three_seconds() }
    }
}

impl Shed {
    /// `limit` at once, with the default shares.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit: Some(limit), shares: ShedShares::default() }
    }
}

impl ShedShares {
    /// The classes and their shares, with the names that they have in a configuration.
    pub(crate) fn by_class(&self) -> [(Priority, &'static str, f64); 4] {
        let Self { sheddable, sheddable_plus, critical, critical_plus } = *self;
        [
            (Priority::Sheddable, "sheddable", sheddable),
            (Priority::SheddablePlus, "sheddable_plus", sheddable_plus),
            (Priority::Critical, "critical", critical),
            (Priority::CriticalPlus, "critical_plus", critical_plus),
        ]
    }
}

impl Default for ShedShares {
    fn default() -> Self {
        Self { sheddable: 0.6, sheddable_plus: 0.8, critical: 0.95, critical_plus: 1.0 }
    }
}

impl Default for Gradient {
    fn default() -> Self {
        Self {
            min_limit: 3,
            max_limit: 1000,
            interval: Duration::from_millis(100),
            min_rtt_interval: Duration::from_secs(60),
            min_rtt_requests: 50,
            fixed_min_rtt: None,
            jitter: 0.15,
            buffer: 0.25,
            percentile: 0.5,
        }
    }
}

impl Default for Aimd {
    fn default() -> Self {
        Self { min_limit: 3, max_limit: 1000, initial_limit: 20, latency: Duration::from_secs(5), backoff: 0.9 }
    }
}

fn hundred() -> usize {
    100
}

fn hundred_thousand() -> usize {
    100_000
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn three_seconds() -> Duration {
    Duration::from_secs(3)
}

#[cfg(all(test, feature = "yaml"))]
mod tests {
    use super::*;
    use crate::{
        config::{
            Allow, ClientCert, ClientCertFilter, Fault, FaultAbort, FaultDelay, FaultKind, Filter, Hedge, RetryBudget,
            Upstream,
        },
        identity::PeerRule,
    };

    #[test]
    fn an_upstreams_policies_are_written_as_its_other_fields_are() {
        let text = "
name: cart
endpoints: { static: [] }
retry_budget: { percent: 10, per_second: 1, window: 5s }
hedge: { percentile: 99.5, least: 5ms, non_idempotent: true }
concurrency: { limit: 8, queue: 2 }
shed: { limit: 9, shares: { sheddable: 0.25 } }
adaptive_concurrency: { gradient: { min_limit: 4, interval: 200ms, fixed_min_rtt: 10ms } }
";
        let upstream: Upstream = serde_saphyr::from_str(text).unwrap();
        let budget = RetryBudget { percent: 10, per_second: 1, window: Duration::from_secs(5) };
        assert_eq!(upstream.retry_budget, budget);
        let hedge =
            Hedge { percentile: 99.5, least: Duration::from_millis(5), non_idempotent: true, ..Hedge::default() };
        assert_eq!(upstream.hedge, Some(hedge));
        assert_eq!(upstream.concurrency, Some(Concurrency { queue: 2, ..Concurrency::new(8) }));
        let shares = ShedShares { sheddable: 0.25, ..ShedShares::default() };
        assert_eq!(upstream.shed, Some(Shed { limit: Some(9), shares }));
        assert_eq!(serde_saphyr::from_str::<Shed>("{}").unwrap(), Shed::default());
        let gradient = Gradient {
            min_limit: 4,
            interval: Duration::from_millis(200),
            fixed_min_rtt: Some(Duration::from_millis(10)),
            ..Gradient::default()
        };
        assert_eq!(upstream.adaptive_concurrency, Some(AdaptiveConcurrency::Gradient(gradient)));
        let aimd = AdaptiveConcurrency::Aimd(Aimd { latency: Duration::from_millis(250), ..Aimd::default() });
        assert_eq!(serde_saphyr::from_str::<AdaptiveConcurrency>("aimd: { latency: 250ms }").unwrap(), aimd);
        let hedge = Hedge { after: Some(Duration::from_millis(50)), ..Hedge::default() };
        assert_eq!(serde_saphyr::from_str::<Hedge>("after: 50ms").unwrap(), hedge);
        for wrong in ["percent: 10\nwindw: 1s", "percent: -1"] {
            assert!(serde_saphyr::from_str::<RetryBudget>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rules_policies_are_filters() {
        let text = "
- rate_limit: { requests: 10 }
- rate_limit: { requests: 10, per: 1m, burst: 3, key: { header: x-tenant }, max_keys: 5, headers: true }
- rate_limit: { requests: 1, key: client_ip }
- fault:
    delay: { duration: 200ms, percent: 2.5 }
    abort: { with: { status: 503 } }
- fault: { abort: { with: reset, percent: 1 }, headers: true }
- priority: sheddable_plus
- client_cert: { by: 'spiffe://a.example/gate' }
- client_cert: { tell: append }
- allow: { peers: [{ spiffe_id: 'spiffe://a.example/b' }, { below: 'spiffe://a.example/c' }, { trust_domain: b.example }, { dns_name: c.example }, any] }
";
        let filters: Vec<Filter> = serde_saphyr::from_str(text).unwrap();
        let keyed = RateLimit {
            per: Duration::from_secs(60),
            burst: Some(3),
            key: RateKey::Header("x-tenant".into()),
            max_keys: 5,
            headers: true,
            ..RateLimit::per_second(10)
        };
        let delay = FaultDelay { duration: Duration::from_millis(200), percent: 2.5 };
        let abort = FaultAbort { with: FaultKind::Status(503), percent: 100.0 };
        let reset = FaultAbort { with: FaultKind::Reset, percent: 1.0 };
        let peers = vec![
            PeerRule::SpiffeId("spiffe://a.example/b".parse().unwrap()),
            PeerRule::Below("spiffe://a.example/c".parse().unwrap()),
            PeerRule::TrustDomain("b.example".parse().unwrap()),
            PeerRule::DnsName("c.example".into()),
            PeerRule::Any,
        ];
        let told = ClientCertFilter::default();
        assert_eq!(
            filters,
            [
                Filter::RateLimit(RateLimit::per_second(10)),
                Filter::RateLimit(keyed),
                Filter::RateLimit(RateLimit { key: RateKey::ClientIp, ..RateLimit::per_second(1) }),
                Filter::Fault(Fault { delay: Some(delay), abort: Some(abort), headers: false }),
                Filter::Fault(Fault { delay: None, abort: Some(reset), headers: true }),
                Filter::Priority(Priority::SheddablePlus),
                Filter::ClientCert(ClientCertFilter { by: Some("spiffe://a.example/gate".parse().unwrap()), ..told }),
                Filter::ClientCert(ClientCertFilter { tell: ClientCert::Append, by: None }),
                Filter::Allow(Allow { peers, require_server_name: false }),
            ]
        );
        for wrong in ["rate_limit: { per: 1s }", "fault: { abort: { with: { teapot: 1 } } }", "allow: { peer: [any] }"]
        {
            assert!(serde_saphyr::from_str::<Filter>(wrong).is_err(), "{wrong}");
        }
    }
}
