//! Who is ejected, and for how long.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::host::{Gate, Host, Tally};
use crate::config::OutlierDetection;

/// No time is longer, so that no sum of times is beyond what an `Instant` can hold.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The detector of one upstream: looks at all its endpoints and opens and closes their gates.
///
/// To be [run](Self::run) when the [`Alarm`](super::Alarm) rings, and at [`wake_at`](Self::wake_at) at the latest.
#[derive(Debug)]
pub struct Detector {
    config: OutlierDetection,
    ledger: BTreeMap<SocketAddr, Entry>,
    sweep_at: Instant,
}

/// What happened to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It was ejected, or once more after a probe failed.
    Ejected {
        /// Who.
        address: SocketAddr,
        /// Why.
        reason: Reason,
        /// For how long.
        time: Duration,
    },
    /// It is in again.
    Returned {
        /// Who.
        address: SocketAddr,
    },
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Errors in a row.
    Consecutive5xx,
    /// Gateway errors in a row.
    ConsecutiveGatewayErrors,
    /// A success rate far below the others'.
    SuccessRate,
    /// Too large a share of failures.
    FailurePercentage,
    /// Too large a share of slow requests.
    SlowCalls,
    /// After an ejection, the probe failed or had no answer.
    Probe,
}

#[derive(Debug, Default)]
struct Entry {
    /// How often it was ejected, less one for each interval in which it was not.
    times: u32,
    ejected: Option<Ejection>,
}

#[derive(Debug, Clone, Copy)]
struct Ejection {
    until: Instant,
    /// Whether that is over and it waits for its probe.
    due: bool,
    /// Since when a probe is known to be under way, and which.
    probing: Option<(Instant, u64)>,
}

impl Detector {
    /// One that knows nothing yet. Times beyond a year count as a year.
    #[must_use]
    pub fn new(mut config: OutlierDetection, now: Instant) -> Self {
        let OutlierDetection { interval, base_ejection, max_ejection, ejection_jitter, .. } = &mut config;
        for time in [interval, base_ejection, max_ejection, ejection_jitter] {
            *time = (*time).min(LONGEST);
        }
        let sweep_at = now + config.interval;
        Self { config, ledger: BTreeMap::new(), sweep_at }
    }

    /// When it has to run again at the latest.
    #[must_use]
    pub fn wake_at(&self) -> Instant {
        let ejections = self.ledger.values().filter_map(|entry| entry.ejected);
        let until = ejections.filter(|ejection| !ejection.due).map(|ejection| ejection.until).min();
        until.map_or(self.sweep_at, |until| until.min(self.sweep_at))
    }

    /// Looks at `hosts`, all that take requests, and decides.
    pub fn run(&mut self, hosts: &[(SocketAddr, &Host)], now: Instant, rng: &mut fastrand::Rng) -> Vec<Event> {
        let mut round = Round { hosts, now, rng, events: Vec::new() };
        self.ledger.retain(|address, _| hosts.iter().any(|host| host.0 == *address));
        for &(address, host) in hosts {
            self.follow(address, host, &mut round);
        }
        self.keep_cap(&mut round);
        for &(address, host) in hosts {
            let (errors, gateway_errors) = host.errors_in_a_row();
            let met = |count: u32, limit: u32| limit > 0 && count >= limit;
            if met(errors, self.config.consecutive_5xx) {
                self.eject(address, host, Reason::Consecutive5xx, &mut round);
            } else if met(gateway_errors, self.config.consecutive_gateway_errors) {
                self.eject(address, host, Reason::ConsecutiveGatewayErrors, &mut round);
            }
        }
        if now >= self.sweep_at {
            self.sweep(&mut round);
            self.sweep_at = now + self.config.interval.max(Duration::from_millis(1));
        }
        round.events
    }

    /// How many are ejected, those being probed included.
    #[must_use]
    pub fn ejected(&self) -> usize {
        self.ledger.values().filter(|entry| entry.ejected.is_some()).count()
    }

    /// How many may be, of so many.
    fn cap(&self, hosts: usize) -> usize {
        let share = hosts * usize::from(self.config.max_ejection_percent.min(100)) / 100;
        share.max(usize::from(self.config.always_eject_one && hosts > 0))
    }

    /// Follows what requests and health checks did to one gate, and opens it for a probe when it is time.
    fn follow(&mut self, address: SocketAddr, host: &Host, round: &mut Round<'_>) {
        let entry = self.ledger.entry(address).or_default();
        let (gate, reached, word) = host.read();
        match (gate, &mut entry.ejected) {
            (Gate::In, None) => {}
            (Gate::In, Some(_)) => {
                entry.ejected = None;
                host.forget();
                round.events.push(Event::Returned { address });
            }
            (Gate::Failed, Some(_)) => self.eject_again(address, host, word, round),
            (Gate::Out, Some(ejection)) if round.now >= ejection.until => {
                ejection.due = host.swap(word, Gate::Due).is_some();
            }
            (Gate::Probing, Some(ejection)) => match ejection.probing {
                Some((since, same)) if same >> 4 == word >> 4 => {
                    let overdue = round.now >= since + self.config.interval;
                    if overdue && !reached {
                        self.eject_again(address, host, word, round);
                    } else if overdue && host.swap(word, Gate::In).is_some() {
                        entry.ejected = None;
                        host.forget();
                        round.events.push(Event::Returned { address });
                    }
                }
                _ => ejection.probing = Some((round.now, word)),
            },
            (Gate::Out | Gate::Due, Some(_)) => {}
            // Nobody else ejects: an endpoint that is not in the ledger belongs in.
            (_, None) => {
                host.swap(word, Gate::In);
            }
        }
    }

    /// Lets in again whom the cap does not allow to be ejected any more, since there are fewer: the first to return first.
    fn keep_cap(&mut self, round: &mut Round<'_>) {
        let cap = self.cap(round.hosts.len());
        let mut over = self.ejected().saturating_sub(cap);
        if over == 0 {
            return;
        }
        let mut ejected: Vec<_> = self
            .ledger
            .iter_mut()
            .filter_map(|(address, entry)| Some((entry.ejected?.until, *address, entry)))
            .collect();
        ejected.sort_by_key(|(until, address, _)| (*until, *address));
        for (_, address, entry) in ejected {
            if over == 0 {
                return;
            }
            if let Some((_, host)) = round.hosts.iter().find(|host| host.0 == address) {
                host.restore();
                host.forget();
                entry.ejected = None;
                round.events.push(Event::Returned { address });
                over -= 1;
            }
        }
    }

    fn sweep(&mut self, round: &mut Round<'_>) {
        let tallies: Vec<_> = round.hosts.iter().map(|&(address, host)| (address, host, host.take_tally())).collect();
        let tallies: Vec<_> = tallies.into_iter().filter(|(_, host, _)| host.gate() == Gate::In).collect();
        let enough = |volume: u32| tallies.iter().filter(move |(.., tally)| tally.requests >= volume.max(1));
        let comparable = |volume: u32| {
            let some: Vec<_> = enough(volume).copied().collect();
            if some.len() < self.config.min_hosts as usize { Vec::new() } else { some }
        };

        let factor = self.config.success_rate_stdev_factor;
        let rated = if factor > 0.0 { comparable(self.config.success_rate_volume) } else { Vec::new() };
        let threshold = threshold(rated.iter().map(|(.., tally)| tally.success_rate()), factor);
        let percent = u64::from(self.config.failure_percentage);
        let slow_percent = if self.config.slow_call.is_some() { u64::from(self.config.slow_call_rate) } else { 0 };
        let looked_at = percent > 0 || slow_percent > 0;
        let counted = if looked_at { comparable(self.config.failure_percentage_volume) } else { Vec::new() };
        let reaches = |count: u32, requests: u32, percent: u64| {
            percent > 0 && u64::from(count) * 100 >= u64::from(requests) * percent
        };

        for (address, host, tally) in rated {
            if tally.success_rate() < threshold {
                self.eject(address, host, Reason::SuccessRate, round);
            }
        }
        for (address, host, tally) in counted {
            if reaches(tally.failures, tally.requests, percent) {
                self.eject(address, host, Reason::FailurePercentage, round);
            } else if reaches(tally.slow, tally.requests, slow_percent) {
                self.eject(address, host, Reason::SlowCalls, round);
            }
        }
        for entry in self.ledger.values_mut().filter(|entry| entry.ejected.is_none()) {
            entry.times = entry.times.saturating_sub(1);
        }
    }

    /// Ejects an endpoint that is in, if the cap allows one more.
    fn eject(&mut self, address: SocketAddr, host: &Host, reason: Reason, round: &mut Round<'_>) {
        let (gate, _, word) = host.read();
        if gate == Gate::In && self.ejected() < self.cap(round.hosts.len()) {
            self.close(address, host, word, reason, round);
        }
    }

    fn eject_again(&mut self, address: SocketAddr, host: &Host, word: u64, round: &mut Round<'_>) {
        self.close(address, host, word, Reason::Probe, round);
    }

    fn close(&mut self, address: SocketAddr, host: &Host, word: u64, reason: Reason, round: &mut Round<'_>) {
        if host.swap(word, Gate::Out).is_none() {
            return;
        }
        let entry = self.ledger.entry(address).or_default();
        entry.times = entry.times.saturating_add(1);
        let OutlierDetection { base_ejection, max_ejection, ejection_jitter, .. } = self.config;
        let time = base_ejection.saturating_mul(entry.times).min(max_ejection.max(base_ejection));
        let time = time + ejection_jitter.mul_f64(round.rng.f64());
        entry.ejected = Some(Ejection { until: round.now + time, due: false, probing: None });
        host.forget();
        round.events.push(Event::Ejected { address, reason, time });
    }
}

/// One run.
struct Round<'a> {
    hosts: &'a [(SocketAddr, &'a Host)],
    now: Instant,
    rng: &'a mut fastrand::Rng,
    events: Vec<Event>,
}

impl Tally {
    fn success_rate(self) -> f64 {
        1.0 - f64::from(self.failures) / f64::from(self.requests.max(1))
    }
}

/// `mean - factor * standard deviation`; a little less, so that equal rates are never below it by rounding.
fn threshold(rates: impl Iterator<Item = f64> + Clone, factor: f64) -> f64 {
    let count = rates.clone().count().max(1) as f64;
    let mean = rates.clone().sum::<f64>() / count;
    let variance = rates.map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    mean - factor * variance.sqrt() - 1e-9
}
