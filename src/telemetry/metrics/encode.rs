//! The metrics written down.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::{Core, UpstreamStats, series::Series};
use crate::{
    breaker::{self, State},
    split::{RolloutStatus, rollout::Phase},
};

/// Writes what the core has counted at every scrape.
pub(super) struct Collected(pub(super) Arc<Core>);

/// One series, and what names it.
struct Row {
    route: Arc<str>,
    upstream: Arc<str>,
    cohort: Arc<str>,
    series: Arc<Series>,
}

impl Row {
    /// Its labels and some `more`; a cohort only where there is one.
    fn labels<'a, const N: usize>(&'a self, more: [(&'static str, &'a str); N]) -> Vec<(&'static str, &'a str)> {
        let cohort = (!self.cohort.is_empty()).then_some(("cohort", &*self.cohort));
        [("route", &*self.route), ("upstream", &*self.upstream)].into_iter().chain(cohort).chain(more).collect()
    }
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut rows = Vec::new();
        for (route, upstreams) in self.0.routes.sorted() {
            for (upstream, cohorts) in upstreams.sorted() {
                let cohorts = cohorts.sorted().into_iter();
                rows.extend(cohorts.map(|(cohort, series)| Row {
                    route: Arc::clone(&route),
                    upstream: Arc::clone(&upstream),
                    cohort,
                    series,
                }));
            }
        }
        let in_flight = ConstGauge::new(self.0.in_flight.load(Relaxed));
        let help = "Requests that began and did not end";
        let gauge = encoder.encode_descriptor("portcullis_requests_in_flight", help, None, in_flight.metric_type())?;
        in_flight.encode(gauge)?;
        if !rows.is_empty() {
            encode_series(&rows, &mut encoder)?;
        }
        self.0.streams.encode(&mut encoder)?;
        let upstreams = self.upstreams();
        if !upstreams.is_empty() {
            encode_upstreams(&upstreams, &mut encoder)?;
        }
        let rollouts = self.rollouts();
        if !rollouts.is_empty() {
            encode_rollouts(&rollouts, &mut encoder)?;
        }
        Ok(())
    }
}

fn encode_series(rows: &[Row], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor("portcullis_requests", "Requests that ended", None, MetricType::Counter)?;
    for row in rows {
        for (method, code, outcome, count) in row.series.requests() {
            let labels = row.labels([("method", method), ("code", code), ("outcome", outcome)]);
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }

    let help = "Time from the beginning of a request to the end of its response";
    let mut family =
        encoder.encode_descriptor("portcullis_request_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for row in rows {
        let (sum, count, buckets) = row.series.duration.read();
        family.encode_family(&row.labels([]))?.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
    }

    type Counter = (&'static str, &'static str, Option<Unit>, fn(&Series) -> &AtomicU64);
    let counters: [Counter; 5] = [
        ("portcullis_request", "Bytes read of the bodies of requests", Some(Unit::Bytes), |s| &s.request_bytes),
        ("portcullis_response", "Bytes handed on of the bodies of responses", Some(Unit::Bytes), |s| &s.response_bytes),
        ("portcullis_upstream_attempts", "Times a request was sent to an endpoint", None, |s| &s.attempts),
        ("portcullis_upstream_retries", "Attempts after the first of a request", None, |s| &s.retries),
        ("portcullis_upstream_hedges", "Attempts beside one that was slow", None, |s| &s.hedges),
    ];
    for (name, help, unit, counter) in counters {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for row in rows {
            let count = counter(&row.series).load(Relaxed);
            ConstCounter::new(count).encode(family.encode_family(&row.labels([]))?)?;
        }
    }
    Ok(())
}

fn encode_upstreams(upstreams: &[UpstreamStats], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    type Gauge = (&'static str, &'static str, fn(&UpstreamStats) -> u64);
    let gauges: [Gauge; 4] = [
        ("portcullis_upstream_endpoints", "Endpoints known", |u| u.endpoints),
        ("portcullis_upstream_endpoints_available", "Endpoints that may be tried", |u| u.endpoints_available),
        ("portcullis_upstream_endpoints_ejected", "Endpoints ejected as outliers", |u| u.endpoints_ejected),
        ("portcullis_upstream_pending_requests", "Requests that wait for a connection", |u| u.pending_requests),
    ];
    for (name, help, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for stats in upstreams {
            let labels = [("upstream", &*stats.upstream)];
            ConstGauge::new(value(stats)).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Times an endpoint was ejected as an outlier";
    let mut family = encoder.encode_descriptor("portcullis_upstream_ejections", help, None, MetricType::Counter)?;
    for stats in upstreams {
        ConstCounter::new(stats.ejections).encode(family.encode_family(&[("upstream", &*stats.upstream)])?)?;
    }
    let breakers: Vec<_> =
        upstreams.iter().filter_map(|stats| Some((&*stats.upstream, stats.breaker.as_ref()?))).collect();
    if !breakers.is_empty() {
        encode_breakers(&breakers, encoder)?;
    }
    let each: Vec<_> = upstreams.iter().filter(|stats| stats.endpoint_breakers).collect();
    if !each.is_empty() {
        encode_endpoint_breakers(&each, encoder)?;
    }
    let mut family =
        encoder.encode_descriptor("portcullis_upstream_connections", "Connections open", None, MetricType::Gauge)?;
    for stats in upstreams {
        for (state, value) in [("active", stats.connections_active), ("idle", stats.connections_idle)] {
            let labels = [("upstream", &*stats.upstream), ("state", state)];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_breakers(breakers: &[(&str, &breaker::Stats)], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    const STATES: [(&str, State); 3] =
        [("closed", State::Closed), ("half_open", State::HalfOpen), ("open", State::Open)];
    let help = "Whether the circuit breaker is in this state";
    let mut family = encoder.encode_descriptor("portcullis_upstream_breaker", help, None, MetricType::Gauge)?;
    for (upstream, stats) in breakers {
        for (name, state) in STATES {
            let labels = [("upstream", *upstream), ("state", name)];
            ConstGauge::new(u64::from(stats.state == state)).encode(family.encode_family(&labels)?)?;
        }
    }
    type Counter = (&'static str, &'static str, fn(&breaker::Stats) -> u64);
    let counters: [Counter; 2] = [
        ("portcullis_upstream_breaker_opened", "Times the circuit breaker opened", |stats| stats.opened),
        ("portcullis_upstream_breaker_refused", "Requests that the circuit breaker refused", |stats| stats.refused),
    ];
    for (name, help, value) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (upstream, stats) in breakers {
            ConstCounter::new(value(stats)).encode(family.encode_family(&[("upstream", *upstream)])?)?;
        }
    }
    Ok(())
}

fn encode_endpoint_breakers(upstreams: &[&UpstreamStats], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let (name, help) =
        ("portcullis_upstream_endpoint_breakers_open", "Endpoints whose own circuit breaker is not closed");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for stats in upstreams {
        let labels = [("upstream", &*stats.upstream)];
        ConstGauge::new(stats.endpoint_breakers_open).encode(family.encode_family(&labels)?)?;
    }
    let (name, help) =
        ("portcullis_upstream_endpoint_breakers_opened", "Times an endpoint's own circuit breaker opened");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for stats in upstreams {
        let labels = [("upstream", &*stats.upstream)];
        ConstCounter::new(stats.endpoint_breakers_opened).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The states of a rollout, those of greater concern last.
const ROLLOUT_STATES: [&str; 4] = ["promoted", "progressing", "held", "rolled_back"];

/// The index of the state that it is in.
fn state_of(rollout: &RolloutStatus) -> usize {
    match rollout.phase {
        Phase::Promoted => 0,
        Phase::Step(_) => 1 + usize::from(rollout.held),
        Phase::RolledBack(_) => 3,
    }
}

fn encode_rollouts(rollouts: &[RolloutStatus], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let rules: Vec<_> = rollouts.iter().map(|rollout| rollout.rule.to_string()).collect();
    let rows: Vec<_> = rollouts
        .iter()
        .zip(&rules)
        .map(|(rollout, rule)| {
            let names = [("route", &*rollout.route), ("rule", rule.as_str()), ("canary", rollout.canary_name.as_str())];
            (rollout, names)
        })
        .collect();
    let (help, unit) = ("The canary's share of requests", Unit::Other("ratio".into()));
    let mut family = encoder.encode_descriptor("portcullis_rollout_share", help, Some(&unit), MetricType::Gauge)?;
    for (rollout, names) in &rows {
        ConstGauge::new(f64::from(rollout.share) / 100.0).encode(family.encode_family(names)?)?;
    }
    let help = "Whether the rollout is in this state";
    let mut family = encoder.encode_descriptor("portcullis_rollout_state", help, None, MetricType::Gauge)?;
    for (rollout, names) in &rows {
        for (index, state) in ROLLOUT_STATES.into_iter().enumerate() {
            let labels: Vec<_> = names.iter().copied().chain([("state", state)]).collect();
            ConstGauge::new(u64::from(state_of(rollout) == index)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Two breakers of one upstream's name, told of as one: the figures are added up, and the worse state is its state.
fn both(one: Option<breaker::Stats>, other: Option<breaker::Stats>) -> Option<breaker::Stats> {
    let (Some(one), Some(other)) = (one, other) else { return one.or(other) };
    let worse = |state| [State::Closed, State::HalfOpen, State::Open].iter().position(|known| *known == state);
    let state = if worse(other.state) > worse(one.state) { other.state } else { one.state };
    Some(breaker::Stats { state, opened: one.opened + other.opened, refused: one.refused + other.refused })
}

impl Collected {
    /// What all sources say, one entry an upstream: two samples of one series would make the whole text invalid.
    fn upstreams(&self) -> Vec<UpstreamStats> {
        // Sources are code of others: not called under the lock.
        let sources = self.0.upstreams.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = BTreeMap::<Arc<str>, UpstreamStats>::new();
        for stats in sources.iter().flat_map(|source| source()) {
            let sum = all.entry(Arc::clone(&stats.upstream)).or_default();
            sum.endpoints += stats.endpoints;
            sum.endpoints_available += stats.endpoints_available;
            sum.endpoints_ejected += stats.endpoints_ejected;
            sum.ejections += stats.ejections;
            sum.breaker = both(sum.breaker, stats.breaker);
            sum.endpoint_breakers |= stats.endpoint_breakers;
            sum.endpoint_breakers_open += stats.endpoint_breakers_open;
            sum.endpoint_breakers_opened += stats.endpoint_breakers_opened;
            sum.connections_active += stats.connections_active;
            sum.connections_idle += stats.connections_idle;
            sum.pending_requests += stats.pending_requests;
            sum.upstream = stats.upstream;
        }
        all.into_values().collect()
    }

    /// The same of rollouts: one entry for each set of labels.
    fn rollouts(&self) -> Vec<RolloutStatus> {
        let sources = self.0.rollouts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = BTreeMap::<_, RolloutStatus>::new();
        for status in sources.iter().flat_map(|source| source()) {
            let key = (Arc::clone(&status.route), status.rule, status.canary_name.clone());
            match all.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(status)),
                Entry::Occupied(mut entry) => {
                    let concern = |status: &RolloutStatus| (state_of(status), Reverse(status.share));
                    if concern(&status) > concern(entry.get()) {
                        entry.insert(status);
                    }
                }
            }
        }
        all.into_values().collect()
    }
}

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collected").finish_non_exhaustive()
    }
}
