//! What one answer says of the side that gave it.

use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use tokio::time::{Duration, Instant};

use super::{RolloutHandle, Sample, Side};
use crate::{
    Body, Outcome,
    body::{End, Observer},
    classify::Class,
};

/// One request to one side of a rollout: until its head, then to the end of its body. Dropped before it tells of a failure,
/// it was cancelled, and says nothing.
pub(crate) struct Observation {
    /// `None` once it has told.
    rollout: Option<RolloutHandle>,
    side: Side,
    began: Instant,
    latency: Duration,
    class: Class,
}

impl Observation {
    pub(crate) fn begin(rollout: RolloutHandle, side: Side) -> Self {
        let (began, latency) = (Instant::now(), Duration::ZERO);
        Self { rollout: Some(rollout), side, began, latency, class: Class::Ignored }
    }

    /// There is a head; the body is watched from now on.
    pub(crate) fn answered(mut self, response: &mut Response<Body>) {
        self.latency = Instant::now().saturating_duration_since(self.began);
        self.class = match response.extensions().get::<Outcome>() {
            None | Some(Outcome::Completed) => Class::of_response(response),
            Some(outcome) => class_of(*outcome),
        };
        let done = self.class != Class::Success || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if done || response.body().is_end_stream() {
            self.tell();
        } else {
            response.body_mut().observe(Box::new(self));
        }
    }

    /// There was no answer, for this reason, if one is known.
    pub(crate) fn failed(mut self, outcome: Option<Outcome>) {
        self.class = outcome.map_or(Class::GatewayError, class_of);
        self.tell();
    }

    fn tell(&mut self) {
        let sample = match self.class {
            Class::Success => Sample::Success(self.latency),
            class if class.is_failure() => Sample::Failure,
            _ => return,
        };
        if let Some(rollout) = self.rollout.take() {
            rollout.record(self.side, sample);
        }
    }
}

impl Observer for Observation {
    fn trailers(&mut self, trailers: &HeaderMap) {
        self.class = self.class.and_trailers(trailers);
    }

    fn end(&mut self, end: End<'_>) {
        self.class = self.class.at_end(&end);
        self.tell();
    }
}

/// To a rollout it is a failure of the canary that nobody is there to be asked, while to a balancer that says nothing of an
/// endpoint.
fn class_of(outcome: Outcome) -> Class {
    match outcome {
        Outcome::NoEndpoint | Outcome::PoolExhausted | Outcome::BreakerOpen => Class::GatewayError,
        Outcome::InvalidBackend | Outcome::Internal => Class::ServerError,
        outcome => Class::of_outcome(outcome),
    }
}
