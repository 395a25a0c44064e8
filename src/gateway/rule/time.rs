//! A rule's limits of time, as layers.

use std::time::Duration;

use tower_layer::Layer;

use crate::{
    BoxError,
    config::{Timeouts, check::refuse},
    gateway::local::Local,
    timeout::{BodyTimeoutLayer, DeadlineLayer},
};

/// What limits a rule's requests as a whole, all attempts together.
pub(super) struct Time {
    deadline: Option<DeadlineLayer>,
    stream: Option<BodyTimeoutLayer>,
}

/// A time limit, unless it says "no limit".
pub(super) fn limit(timeout: Option<Duration>) -> Option<Duration> {
    timeout.filter(|timeout| !timeout.is_zero())
}

impl Time {
    /// The limits that `timeouts` ask for. `heeds` says whether what a request itself says of its time counts, whatever
    /// they ask for.
    pub(super) fn of(timeouts: &Timeouts, heeds: bool) -> Result<Self, BoxError> {
        refuse(timeouts.wrong())?;
        let heeds = heeds || timeouts.deadline_ends_body || timeouts.deadline_header.is_some();
        let deadline = limit(timeouts.request).or_else(|| heeds.then_some(Duration::MAX)).map(|limit| {
            let layer = DeadlineLayer::server(limit);
            let layer = if timeouts.deadline_ends_body { layer } else { layer.until_head() };
            match &timeouts.deadline_header {
                Some(name) => layer.header(name.clone()),
                None => layer,
            }
        });
        let (idle, duration) = (limit(timeouts.idle), limit(timeouts.max_stream_duration));
        // Zero is no limit there.
        let layer =
            || BodyTimeoutLayer::new().idle(idle.unwrap_or_default()).max_duration(duration.unwrap_or_default());
        Ok(Self { deadline, stream: (idle.is_some() || duration.is_some()).then(layer) })
    }

    pub(super) fn is_limited(&self) -> bool {
        self.deadline.is_some() || self.stream.is_some()
    }

    pub(super) fn around(&self, mut stack: Local) -> Local {
        if let Some(layer) = &self.deadline {
            stack = Local::new(layer.layer(stack));
        }
        if let Some(layer) = &self.stream {
            stack = Local::new(layer.layer(stack));
        }
        stack
    }
}
