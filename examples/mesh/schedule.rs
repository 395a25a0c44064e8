//! What breaks when.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::sleep;

use super::{pki::Mesh, services::World};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Well,
    Slow,
    Dead,
    Failing,
    Rotation,
    Nameless,
    WellAgain,
}

const PHASES: [Phase; 7] =
    [Phase::Well, Phase::Slow, Phase::Dead, Phase::Failing, Phase::Rotation, Phase::Nameless, Phase::WellAgain];

impl Phase {
    /// The phase after so long; `None` once all are over.
    pub(crate) fn at(elapsed: Duration, schedule: Duration) -> Option<Self> {
        let number = elapsed.as_secs_f64() / Self::length(schedule).as_secs_f64();
        PHASES.get(number as usize).copied()
    }

    pub(crate) fn length(schedule: Duration) -> Duration {
        schedule / PHASES.len() as u32
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Well => "all is well",
            Self::Slow => "orders-2 is slow",
            Self::Dead => "orders-3 is dead",
            Self::Failing => "orders-4 answers 500",
            Self::Rotation => "certificates rotate",
            Self::Nameless => "shop has no names",
            Self::WellAgain => "all is well again",
        }
    }

    /// Ends the faults of the phase before, and begins its own.
    pub(crate) fn begin(self, world: &World, mesh: &Arc<Mesh>, length: Duration) {
        let [_, two, three, four] = &*world.replicas else { return };
        two.slow.store(self == Self::Slow, Relaxed);
        four.failing.store(self == Self::Failing, Relaxed);
        world.shop.nameless.store(self == Self::Nameless, Relaxed);
        match self {
            Self::Dead => three.kill(),
            Self::Failing => {
                if let Err(error) = three.start() {
                    eprintln!("{} does not come back: {error}", three.name);
                }
            }
            Self::Rotation => {
                let mesh = mesh.clone();
                tokio::spawn(async move {
                    if let Err(error) = mesh.rotate(|| sleep(length / 3)).await {
                        eprintln!("certificates do not rotate: {error}");
                    }
                });
            }
            Self::Well | Self::Slow | Self::Nameless | Self::WellAgain => {}
        }
    }
}
