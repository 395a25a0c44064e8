use std::{collections::VecDeque, convert::Infallible, future::pending};

use http::{Request, Response, StatusCode};
use proptest::prelude::*;
use tokio::time::{Duration, Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

use super::{aimd::AimdLimit, gradient::GradientLimit, policy::Algorithm, *};
use crate::{
    Body, Error, Outcome, Sent,
    limit::measured::Verdict,
    respond::{Dialect, refusal},
    timeout::TimeoutLayer,
};

const MS: Duration = Duration::from_millis(1);

/// A server of so many workers and this service time behind a limit that is always fully used: time runs in steps of 1 ms.
struct Simulation {
    algorithm: Algorithm,
    rng: fastrand::Rng,
    now: Instant,
    workers: usize,
    service: u32,
    /// When each began, and how many steps of work are left.
    in_flight: VecDeque<(Instant, u32)>,
    /// The most that are offered at once.
    offered: usize,
    answered: u64,
    lowest: usize,
    highest: usize,
}

impl Simulation {
    fn new(algorithm: impl FnOnce(Instant) -> Algorithm, workers: usize, service: u32) -> Self {
        let now = Instant::now();
        Self {
            algorithm: algorithm(now),
            rng: fastrand::Rng::with_seed(11),
            now,
            workers,
            service,
            in_flight: VecDeque::new(),
            offered: usize::MAX,
            answered: 0,
            lowest: usize::MAX,
            highest: 0,
        }
    }

    fn run(&mut self, time: Duration) -> &mut Self {
        (self.lowest, self.highest) = (usize::MAX, 0);
        for _ in 0..time.as_millis() {
            while self.in_flight.len() < self.algorithm.limit().min(self.offered) {
                // Service times vary by a fifth.
                let work = self.service * 4 / 5 + self.rng.u32(..=self.service * 2 / 5);
                self.in_flight.push_back((self.now, work));
            }
            self.now += MS;
            for (_, left) in self.in_flight.iter_mut().take(self.workers) {
                *left = left.saturating_sub(1);
            }
            let mut index = 0;
            while let Some((began, left)) = self.in_flight.get(index).copied() {
                if left > 0 {
                    index += 1;
                    continue;
                }
                let count = self.in_flight.len();
                self.algorithm.record(began, self.now, count, Verdict::Success, &mut self.rng);
                self.in_flight.remove(index);
                self.answered += 1;
            }
            self.lowest = self.lowest.min(self.algorithm.limit());
            self.highest = self.highest.max(self.algorithm.limit());
        }
        self
    }

    /// Requests a second.
    fn throughput(&mut self, time: Duration) -> f64 {
        let before = self.answered;
        self.run(time);
        (self.answered - before) as f64 / time.as_secs_f64()
    }
}

fn gradient(settings: Gradient) -> impl FnOnce(Instant) -> Algorithm {
    move |now| Algorithm::Gradient(GradientLimit::new(settings, now))
}

fn aimd(settings: Aimd) -> impl FnOnce(Instant) -> Algorithm {
    move |_| Algorithm::Aimd(AimdLimit::new(settings))
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_gradient_converges_near_the_knee() {
    for (workers, service) in [(10, 10), (50, 20), (4, 100)] {
        let mut simulation = Simulation::new(gradient(Gradient::default()), workers, service);
        assert_eq!(simulation.algorithm.limit(), 3);
        simulation.run(20 * SECOND).run(10 * SECOND);
        // At the knee all workers are busy and nothing waits. The algorithm allows a buffer and its root more.
        let most = workers * 5 / 4 + 3 * (workers as f64).sqrt() as usize + 2;
        let seen = (simulation.lowest, simulation.highest);
        assert!(seen.0 >= workers && seen.1 <= most, "{seen:?} for {workers} workers");
        let full = workers as f64 * 1000.0 / f64::from(service);
        assert!(simulation.throughput(10 * SECOND) > 0.95 * full);
    }
}

#[test]
fn the_gradient_recovers_after_latency_steps() {
    let mut simulation = Simulation::new(gradient(Gradient::default()), 10, 10);
    simulation.run(20 * SECOND);
    // Three times slower: the limit falls to its minimum, so that the ideal is learned anew well before its time.
    simulation.service = 30;
    simulation.run(10 * SECOND);
    assert_eq!(simulation.lowest, 3);
    simulation.run(10 * SECOND);
    assert!(simulation.lowest >= 10 && simulation.highest <= 24, "{} {}", simulation.lowest, simulation.highest);
    // And fast again: learned at the next regular time.
    simulation.service = 10;
    simulation.run(80 * SECOND);
    simulation.run(30 * SECOND);
    assert!(simulation.lowest >= 10 && simulation.highest <= 24, "{} {}", simulation.lowest, simulation.highest);
}

#[test]
fn the_ideal_is_learned_again_in_time_with_jitter_and_by_requests_that_began_since() {
    let settings = Gradient { min_rtt_requests: 3, ..Gradient::default() };
    let mut rng = fastrand::Rng::with_seed(1);
    let start = Instant::now();
    let mut gradient = GradientLimit::new(settings, start);
    let mut record = |gradient: &mut GradientLimit, began: u64, ended: u64, in_flight| {
        gradient.record(start + MS * began as u32, start + MS * ended as u32, in_flight, &mut rng);
        gradient.limit()
    };
    for _ in 0..3 {
        record(&mut gradient, 0, 10, 3);
    }
    // The window begins with the first answer. The limit is raised while at least half is in use: 3 * 1.25 + root.
    assert_eq!(record(&mut gradient, 110, 120, 2), 3);
    assert_eq!(record(&mut gradient, 209, 219, 2), 3);
    assert_eq!(record(&mut gradient, 210, 220, 1), 5);
    // What began before says nothing of this limit.
    assert_eq!(record(&mut gradient, 219, 230, 5), 5);
    // Not raised when it is not used.
    assert_eq!(record(&mut gradient, 230, 240, 1), 5);
    assert_eq!(record(&mut gradient, 330, 340, 2), 5);
    assert_eq!(record(&mut gradient, 350, 360, 3), 5);
    assert_eq!(record(&mut gradient, 450, 460, 1), 8);
    assert_eq!(record(&mut gradient, 59_990, 60_000, 3), 8);
    // From 60 s to 69 s after: the limit is at its minimum while the ideal is learned.
    assert_eq!(record(&mut gradient, 69_500, 69_510, 8), 3);
    for _ in 0..5 {
        assert_eq!(record(&mut gradient, 69_500, 69_520, 3), 3, "began before the learning");
    }
    for _ in 0..2 {
        assert_eq!(record(&mut gradient, 69_510, 69_530, 3), 3);
    }
    assert_eq!(record(&mut gradient, 69_510, 69_530, 3), 8);
}

#[test]
fn an_interval_may_be_as_long_as_it_likes() {
    let settings = Gradient { interval: Duration::MAX, fixed_min_rtt: Some(MS), ..Gradient::default() };
    let now = Instant::now();
    let mut algorithm = gradient(settings)(now);
    algorithm.record(now, now + MS, 1, Verdict::Success, &mut fastrand::Rng::with_seed(1));
    assert_eq!(algorithm.limit(), 3);
}

#[test]
fn a_fixed_ideal_is_never_learned() {
    let settings = Gradient { fixed_min_rtt: Some(MS * 10), ..Gradient::default() };
    let mut simulation = Simulation::new(gradient(settings), 10, 10);
    simulation.run(10 * SECOND);
    simulation.run(120 * SECOND);
    assert!(simulation.lowest >= 10 && simulation.highest <= 24, "{} {}", simulation.lowest, simulation.highest);
    // Far too slow for the ideal: it stays at the minimum.
    simulation.service = 100;
    simulation.run(10 * SECOND).run(30 * SECOND);
    assert_eq!((simulation.lowest, simulation.highest), (3, 3));
}

#[test]
fn aimd_swings_below_where_the_latency_is_reached_and_recovers() {
    let settings = Aimd { latency: MS * 40, ..Aimd::default() };
    let mut simulation = Simulation::new(aimd(settings), 10, 20);
    // Twice the time of service is reached with twice as many as there are workers.
    simulation.run(20 * SECOND).run(10 * SECOND);
    assert!(simulation.lowest >= 12 && simulation.highest <= 24, "{} {}", simulation.lowest, simulation.highest);
    assert!(simulation.throughput(10 * SECOND) > 480.0);
    simulation.service = 60;
    simulation.run(5 * SECOND);
    assert_eq!((simulation.lowest, simulation.algorithm.limit()), (3, 3));
    simulation.service = 20;
    simulation.run(20 * SECOND).run(10 * SECOND);
    assert!(simulation.lowest >= 12 && simulation.highest <= 24, "{} {}", simulation.lowest, simulation.highest);
}

#[test]
fn aimd_lowers_once_for_all_that_were_in_flight_together_and_only_for_what_tells() {
    let mut algorithm = aimd(Aimd { initial_limit: 100, latency: SECOND, ..Aimd::default() })(Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    let start = Instant::now();
    let mut record = |began: Duration, ended: Duration, in_flight, verdict| {
        algorithm.record(start + began, start + ended, in_flight, verdict, &mut rng);
        algorithm.limit()
    };
    assert_eq!(record(Duration::ZERO, SECOND, 100, Verdict::Cancelled), 100);
    assert_eq!(record(Duration::ZERO, SECOND, 49, Verdict::Success), 100);
    assert_eq!(record(Duration::ZERO, 2 * SECOND, 100, Verdict::Success), 90);
    for verdict in [Verdict::Success, Verdict::Failure, Verdict::Cancelled] {
        assert_eq!(record(SECOND, 3 * SECOND, 100, verdict), 90);
    }
    assert_eq!(record(3 * SECOND, 3 * SECOND, 1, Verdict::Failure), 81);
    assert_eq!(record(4 * SECOND, 6 * SECOND, 1, Verdict::Cancelled), 72);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn limits_stay_within_their_bounds_whatever_happens(
        gradient_or_aimd: bool,
        min_limit in 0..8usize,
        max_limit in 0..40usize,
        number in prop_oneof![Just(f64::NAN), Just(f64::INFINITY), -2.0..3.0f64],
        samples in prop::collection::vec((0..400u64, 0..300u64, 0..50usize, 0..3u8), 0..400),
    ) {
        let start = Instant::now();
        let mut algorithm = if gradient_or_aimd {
            let settings = Gradient {
                min_limit, max_limit, min_rtt_requests: 5, min_rtt_interval: SECOND,
                jitter: number, buffer: number, percentile: number, ..Gradient::default()
            };
            gradient(settings)(start)
        } else {
            aimd(Aimd { min_limit, max_limit, backoff: number, latency: MS * 100, ..Aimd::default() })(start)
        };
        let min = min_limit.max(1);
        let max = max_limit.max(min);
        let mut rng = fastrand::Rng::with_seed(3);
        let mut now = start;
        for (step, latency, in_flight, verdict) in samples {
            prop_assert!((min..=max).contains(&algorithm.limit()), "{} in {min}..={max}", algorithm.limit());
            now += Duration::from_millis(step);
            let began = now.checked_sub(Duration::from_millis(latency)).unwrap_or(now);
            let verdict = [Verdict::Success, Verdict::Failure, Verdict::Cancelled][usize::from(verdict)];
            algorithm.record(began, now, in_flight, verdict, &mut rng);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_layer_learns_to_the_head_and_holds_no_longer() {
    let layer = AdaptiveLayer::aimd(Aimd { initial_limit: 4, min_limit: 1, latency: SECOND, ..Aimd::default() });
    let handle = layer.handle();
    let slow = layer.layer(service_fn(|request: Request<u32>| async move {
        sleep(MS * *request.body()).await;
        let status = if *request.body() == 0 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
        Ok::<_, Infallible>(Response::builder().status(status).body(Body::from("hello")).unwrap())
    }));
    let call = |millis| slow.clone().oneshot(Request::new(millis));
    let mut called = task::spawn(call(900));
    assert_pending!(called.poll());
    assert_eq!(handle.in_flight(), 1);
    let response = called.await.unwrap();
    assert_eq!(handle.in_flight(), 0);
    advance(10 * SECOND).await;
    // Reading slowly is not the service's slowness.
    drop(response);
    assert_eq!((handle.limit(), handle.in_flight()), (4, 0));
    drop(call(1100).await.unwrap());
    assert_eq!(handle.limit(), 3);
    // A failure, and a cancellation after too long a time.
    drop(call(0).await.unwrap());
    assert_eq!(handle.limit(), 3);
    drop(call(0).await.unwrap());
    assert_eq!(handle.limit(), 2);
    let mut cancelled = task::spawn(call(5000));
    assert_pending!(cancelled.poll());
    advance(2 * SECOND).await;
    drop(cancelled);
    assert_eq!((handle.limit(), handle.in_flight()), (2, 0));

    let mut held = [task::spawn(call(5)), task::spawn(call(5))];
    held.iter_mut().for_each(|held| assert_pending!(held.poll()));
    let refused = call(1).await.unwrap();
    assert_eq!(refused.extensions().get(), Some(&Outcome::Overloaded));
    drop(held);
    assert_eq!(handle.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_failure_is_is_what_it_is_everywhere() {
    let layer = AdaptiveLayer::aimd(Aimd { initial_limit: 64, min_limit: 1, ..Aimd::default() });
    let handle = layer.handle();
    let answering = layer.layer(service_fn(async |request: Request<u32>| match request.into_body() {
        // A client that breaks off its upload, however late, and what nobody was asked.
        0 => {
            sleep(2 * SECOND).await;
            Err(Error::new(Outcome::Cancelled).with_sent(Sent::Possibly))
        }
        1 => Err(Error::new(Outcome::BreakerOpen)),
        2 => Ok(refusal(Outcome::NoEndpoint, Dialect::Http)),
        3 => Err(Error::new(Outcome::UpstreamReset)),
        4 => Ok(Response::builder().header("grpc-status", "14").body(Body::empty()).unwrap()),
        _ => pending().await,
    }));
    let call = |what| answering.clone().oneshot(Request::new(what));
    for _ in 0..50 {
        for what in 0..3 {
            let _ = call(what).await;
        }
    }
    assert_eq!(handle.limit(), 64);
    for what in [3, 4] {
        let before = handle.limit();
        let _ = call(what).await;
        assert!(handle.limit() < before, "{what}");
        advance(SECOND).await;
    }
    // A limit of ours that ends is a failure; a client that goes away at once says nothing.
    let before = handle.limit();
    let mut gone = task::spawn(call(5));
    assert_pending!(gone.poll());
    drop(gone);
    assert_eq!(handle.limit(), before);
    let limited = TimeoutLayer::new(MS).layer(answering.clone());
    assert_eq!(limited.oneshot(Request::new(5)).await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(handle.limit() < before);
}

#[tokio::test(start_paused = true)]
async fn streams_that_stay_open_do_not_keep_a_limit_from_being_learned() {
    for layer in [
        AdaptiveLayer::gradient(Gradient::default()),
        AdaptiveLayer::aimd(Aimd { initial_limit: 3, ..Aimd::default() }),
    ] {
        let handle = layer.handle();
        let service = layer.layer(service_fn(|_: Request<()>| async {
            sleep(10 * MS).await;
            Ok::<_, Infallible>(Response::new(Body::from("an event")))
        }));
        let call = || service.clone().oneshot(Request::new(()));
        assert_eq!(handle.limit(), 3);
        let open = futures_util::future::join_all([call(), call(), call()]).await;
        for _ in 0..500 {
            let (one, two) = tokio::join!(call(), call());
            assert!([one, two].iter().all(|answer| answer.as_ref().unwrap().status() == StatusCode::OK));
        }
        assert!(handle.limit() > 3, "{layer:?}");
        drop(open);
    }
}

#[tokio::test]
async fn the_inner_service_is_asked_whether_it_is_ready_and_its_error_passes() {
    let (mock, mut handle) = mock::pair::<Request<()>, Response<Body>>();
    let layer = AdaptiveLayer::new();
    let permits = layer.handle();
    let mut service = task::spawn(layer.layer(mock));
    handle.allow(0);
    assert_pending!(service.enter(|cx, mut service| service.poll_ready(cx)));
    handle.allow(1);
    assert_ready!(service.enter(|cx, mut service| service.poll_ready(cx))).unwrap();
    let mut call = task::spawn(service.enter(|_, mut service| service.call(Request::new(()))));
    assert_pending!(call.poll());
    handle.next_request().await.unwrap().1.send_error("broken");
    assert_eq!(assert_ready!(call.poll()).unwrap_err().to_string(), "broken");
    assert_eq!((permits.in_flight(), permits.limit()), (0, 3));
}
