//! What is known of one endpoint: written by requests, read by the detector.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{classify::Class, config::OutlierDetection};

/// One endpoint's counts, and the gate that an ejection closes. Shared by requests and the detector; all atomic.
#[derive(Debug, Default)]
pub struct Host {
    errors_in_a_row: AtomicU32,
    gateway_errors_in_a_row: AtomicU32,
    requests: AtomicU32,
    failures: AtomicU32,
    slow: AtomicU32,
    /// `generation << 4 | reached << 3 | gate`; a generation for each change, so that a probe is never taken for another.
    gate: AtomicU64,
}

/// Whether requests go to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Gate {
    /// They do.
    In,
    /// It is ejected.
    Out,
    /// It was ejected for long enough: the next request that comes its way probes it.
    Due,
    /// One request is probing it.
    Probing,
    /// The probe failed, and the detector has not seen that yet.
    Failed,
}

/// The right to be an ejected endpoint's one probe.
#[derive(Debug, PartialEq, Eq)]
pub struct Probe(u64);

/// Wakes the detector when something happened that it should not wait for. Clones wake the same one.
#[derive(Debug, Clone)]
pub struct Alarm {
    errors: u32,
    gateway_errors: u32,
    slow_call: Option<Duration>,
    bell: Arc<Notify>,
}

/// What an endpoint did within an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) requests: u32,
    pub(super) failures: u32,
    pub(super) slow: u32,
}

const REACHED: u64 = 1 << 3;

impl Alarm {
    /// One that rings where `config` says that errors in a row eject.
    #[must_use]
    pub fn new(config: &OutlierDetection) -> Self {
        let (errors, gateway_errors) = (config.consecutive_5xx, config.consecutive_gateway_errors);
        Self { errors, gateway_errors, slow_call: config.slow_call, bell: Arc::new(Notify::new()) }
    }

    /// Waits until it rings, or returns at once if it has since the last time.
    pub async fn rang(&self) {
        self.bell.notified().await;
    }

    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }
}

impl Host {
    /// Counts a request that is over and took so long.
    pub fn record_timed(&self, class: Class, took: Duration, alarm: &Alarm) {
        if class != Class::Ignored && alarm.slow_call.is_some_and(|limit| took >= limit) {
            self.slow.fetch_add(1, Relaxed);
        }
        self.record(class, alarm);
    }

    /// Counts a request that is over.
    pub fn record(&self, class: Class, alarm: &Alarm) {
        if class == Class::Ignored {
            return;
        }
        self.requests.fetch_add(1, Relaxed);
        if class.is_failure() {
            self.failures.fetch_add(1, Relaxed);
        }
        match class {
            Class::Success => {
                // Read first: a healthy endpoint's requests then share the cache line.
                if self.errors_in_a_row.load(Relaxed) > 0 {
                    self.errors_in_a_row.store(0, Relaxed);
                }
                if self.gateway_errors_in_a_row.load(Relaxed) > 0 {
                    self.gateway_errors_in_a_row.store(0, Relaxed);
                }
            }
            Class::ServerError | Class::GatewayError => {
                let gateway = class == Class::GatewayError;
                let gateway_errors = if gateway { self.gateway_errors_in_a_row.fetch_add(1, Relaxed) + 1 } else { 0 };
                if !gateway {
                    self.gateway_errors_in_a_row.store(0, Relaxed);
                }
                let errors = self.errors_in_a_row.fetch_add(1, Relaxed) + 1;
                // Counts begin at one: a limit of zero is never met.
                if errors == alarm.errors || gateway && gateway_errors == alarm.gateway_errors {
                    alarm.ring();
                }
            }
            Class::Throttled | Class::Ignored => {}
        }
    }

    /// Whether requests go to it.
    #[must_use]
    pub fn gate(&self) -> Gate {
        Gate::of(self.gate.load(Acquire))
    }

    /// Makes the caller its probe, if it is due and nobody else is.
    #[must_use]
    pub fn try_probe(&self) -> Option<Probe> {
        let word = self.gate.load(Acquire);
        (Gate::of(word) == Gate::Due).then(|| self.swap(word, Gate::Probing)).flatten().map(Probe)
    }

    /// The probe's response has a good head; a body that then never ends holds nobody up.
    pub fn reached(&self, probe: &mut Probe) {
        let reached = probe.0 | REACHED;
        if self.gate.compare_exchange(probe.0, reached, AcqRel, Acquire).is_ok() {
            probe.0 = reached;
        }
    }

    /// What became of the probe. Returns whether the endpoint is in again.
    pub fn probed(&self, Probe(word): Probe, class: Class, alarm: Option<&Alarm>) -> bool {
        let gate = match class {
            Class::Ignored => Gate::Due,
            Class::Success => Gate::In,
            Class::Throttled | Class::ServerError | Class::GatewayError => Gate::Failed,
        };
        // A lost race means that the detector or a health check has decided otherwise meanwhile.
        let decided = self.swap(word, gate).is_some();
        if decided && let Some(alarm) = alarm {
            alarm.ring();
        }
        decided && gate == Gate::In
    }

    /// Ends an ejection at once, as an active health check that passes may. Returns whether there was one.
    pub fn restore(&self) -> bool {
        let word = self.gate.load(Acquire);
        Gate::of(word) != Gate::In && self.swap(word, Gate::In).is_some()
    }

    /// The gate, whether its probe was reached, and the word to [swap](Self::swap) it by.
    pub(super) fn read(&self) -> (Gate, bool, u64) {
        let word = self.gate.load(Acquire);
        (Gate::of(word), word & REACHED != 0, word)
    }

    pub(super) fn swap(&self, word: u64, gate: Gate) -> Option<u64> {
        let next = ((word >> 4) + 1) << 4 | gate as u64;
        self.gate.compare_exchange(word, next, AcqRel, Acquire).ok().map(|_| next)
    }

    pub(super) fn errors_in_a_row(&self) -> (u32, u32) {
        (self.errors_in_a_row.load(Relaxed), self.gateway_errors_in_a_row.load(Relaxed))
    }

    pub(super) fn take_tally(&self) -> Tally {
        // These first: a request that is counted in between must not make more failures than requests.
        let (failures, slow) = (self.failures.swap(0, Relaxed), self.slow.swap(0, Relaxed));
        let requests = self.requests.swap(0, Relaxed);
        Tally { requests, failures: failures.min(requests), slow: slow.min(requests) }
    }

    /// Forgets all that was counted.
    pub(super) fn forget(&self) {
        self.errors_in_a_row.store(0, Relaxed);
        self.gateway_errors_in_a_row.store(0, Relaxed);
        self.take_tally();
    }
}

impl Gate {
    fn of(word: u64) -> Self {
        match word & 7 {
            0 => Self::In,
            1 => Self::Out,
            2 => Self::Due,
            3 => Self::Probing,
            _ => Self::Failed,
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out | Self::Failed => "out",
            Self::Due => "due",
            Self::Probing => "probing",
        })
    }
}
