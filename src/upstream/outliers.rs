//! Runs the outlier detector of an upstream.

use std::sync::{Weak, atomic::Ordering::Relaxed};

use tokio::time::{Instant, sleep_until};

use super::Shared;
use crate::outlier::{Alarm, Detector, Event};

/// Until the upstream is gone; does not keep it.
pub(super) async fn detect(upstream: Weak<Shared>, mut detector: Detector, alarm: Alarm) {
    let mut rng = fastrand::Rng::new();
    loop {
        tokio::select! {
            biased;
            () = alarm.rang() => {}
            () = sleep_until(detector.wake_at()) => {}
        }
        let Some(upstream) = upstream.upgrade() else { return };
        let ejections = &upstream.ejections;
        for event in upstream.endpoints.load().detect(&mut detector, Instant::now(), &mut rng) {
            let upstream = &*upstream.name;
            match event {
                Event::Ejected { address, reason, time } => {
                    ejections.fetch_add(1, Relaxed);
                    tracing::info!(upstream, endpoint = %address, ?reason, ?time, "ejected an outlier");
                }
                Event::Returned { address } => tracing::info!(upstream, endpoint = %address, "an outlier returned"),
            }
        }
    }
}
