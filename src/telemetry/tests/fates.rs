//! Whatever way requests go, and in whatever order.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use http_body::Body as HttpBody;
use proptest::prelude::*;

use super::*;

/// The ways in which a request can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    DroppedUnpolled,
    DroppedBeforeHead,
    Fails,
    Panics,
    DroppedAtHead,
    DroppedInBody,
    BodyFails,
    Empty,
    Completes,
}

impl Fate {
    const ALL: [Self; 9] = [
        Self::DroppedUnpolled,
        Self::DroppedBeforeHead,
        Self::Fails,
        Self::Panics,
        Self::DroppedAtHead,
        Self::DroppedInBody,
        Self::BodyFails,
        Self::Empty,
        Self::Completes,
    ];

    fn outcome(self) -> Outcome {
        match self {
            Self::DroppedUnpolled | Self::DroppedBeforeHead | Self::DroppedAtHead | Self::DroppedInBody => {
                Outcome::Cancelled
            }
            Self::Fails => Outcome::ConnectFailed,
            Self::Panics => Outcome::Internal,
            Self::BodyFails => Outcome::ResponseTruncated,
            Self::Empty | Self::Completes => Outcome::Completed,
        }
    }

    /// Pending once, then as it has to go.
    fn answer(self) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        let mut waited = false;
        std::future::poll_fn(move |_| {
            if !std::mem::replace(&mut waited, true) {
                return Poll::Pending;
            }
            Poll::Ready(match self {
                Self::Fails => Err(Error::new(Outcome::ConnectFailed)),
                Self::Panics => resume_unwind(Box::new("as planned")),
                Self::Empty => Ok(Response::new(Body::empty())),
                Self::BodyFails => Ok(Response::new(stream(vec![data("a"), Err("broken".into())]))),
                _ => Ok(Response::new(stream(vec![data("a")]))),
            })
        })
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

enum Stage {
    Waiting,
    Called(Answer, usize),
    Body(Body, usize),
    Over,
}

/// One step on a request's way.
fn step<S>(service: &mut S, fate: Fate, stage: Stage) -> Stage
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error>,
    S::Future: Send + 'static,
{
    let mut cx = Context::from_waker(Waker::noop());
    match (stage, fate) {
        (Stage::Waiting, _) => {
            let mut request = get();
            request.extensions_mut().insert(fate.outcome());
            request.extensions_mut().insert(Fate::ALL.iter().position(|other| *other == fate).unwrap());
            Stage::Called(Box::pin(service.call(request)), 0)
        }
        (Stage::Called(_, 0), Fate::DroppedUnpolled) | (Stage::Called(_, 1), Fate::DroppedBeforeHead) => Stage::Over,
        (Stage::Called(mut answer, polls), _) => {
            // Dropped inside, so that it is dropped by the unwinding as a server's task would be.
            match catch_unwind(AssertUnwindSafe(move || match answer.as_mut().poll(&mut cx) {
                Poll::Pending => Stage::Called(answer, polls + 1),
                Poll::Ready(Ok(response)) => Stage::Body(response.into_body(), 0),
                Poll::Ready(Err(_)) => Stage::Over,
            })) {
                Ok(stage) => stage,
                Err(_) => Stage::Over,
            }
        }
        (Stage::Body(_, 0), Fate::DroppedAtHead) | (Stage::Body(_, 1), Fate::DroppedInBody) => Stage::Over,
        (Stage::Body(mut body, frames), _) => match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(_))) => Stage::Body(body, frames + 1),
            _ => Stage::Over,
        },
        (Stage::Over, _) => Stage::Over,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_interleaving_leaves_one_record_each_and_none_in_flight(
        fates in prop::collection::vec(prop::sample::select(&Fate::ALL[..]), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let kept = Kept::default();
        let mut service = TelemetryLayer::new().recorder(kept.clone()).around(service_fn(|request: Request<Body>| {
            Fate::ALL[*request.extensions().get::<usize>().unwrap()].answer()
        }));
        let mut stages: Vec<_> = fates.iter().map(|_| Stage::Waiting).collect();
        // The order drawn, then whatever is left.
        let drawn = order.iter().map(|index| index.index(fates.len()));
        for at in drawn.chain((0..fates.len()).cycle().take(fates.len() * 6)) {
            let stage = std::mem::replace(&mut stages[at], Stage::Over);
            stages[at] = step(&mut service, fates[at], stage);
            let open = stages.iter().filter(|stage| matches!(stage, Stage::Called(..))).count() as i64;
            prop_assert!(kept.in_flight() >= open);
        }
        prop_assert!(stages.iter().all(|stage| matches!(stage, Stage::Over)));
        prop_assert_eq!(kept.in_flight(), 0);
        let sorted = |mut outcomes: Vec<&'static str>| { outcomes.sort_unstable(); outcomes };
        let records = kept.0.0.lock().unwrap();
        prop_assert_eq!(
            sorted(records.iter().map(|finished| finished.outcome.as_str()).collect()),
            sorted(fates.iter().map(|fate| fate.outcome().as_str()).collect())
        );
    }
}
