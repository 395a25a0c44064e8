use std::{convert::Infallible, time::Duration};

use http::{Request, Response, StatusCode};
use proptest::prelude::*;
use tokio::time::{Instant, advance};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{Body, Error, Outcome, config::Rollout, split::Cohort};

const MINUTE: Duration = Duration::from_secs(60);

fn well() -> Sample {
    Sample::Success(Duration::from_millis(20))
}

fn both(machine: &mut Machine, times: usize, canary: Sample, now: Instant) {
    for _ in 0..times {
        machine.record(Side::Stable, well(), now);
        machine.record(Side::Canary, canary, now);
    }
}

#[test]
fn steps_follow_the_schedule_to_the_promotion() {
    let mut now = Instant::now();
    let mut machine = Machine::new(Rollout::of("v2"), now).unwrap();
    for share in [1, 5, 25, 50] {
        assert_eq!(machine.share(), share);
        both(&mut machine, 100, well(), now + MINUTE / 2);
        assert_eq!(machine.share(), share, "too early");
        now += MINUTE;
        both(&mut machine, 1, well(), now);
    }
    assert_eq!(machine.phase(), Phase::Promoted);
    both(&mut machine, 100, Sample::Failure, now);
    assert_eq!(machine.share(), 100);
}

#[test]
fn without_enough_requests_of_both_there_is_no_step() {
    let start = Instant::now();
    let mut machine = Machine::new(Rollout::of("v2"), start).unwrap();
    for _ in 0..19 {
        machine.record(Side::Canary, well(), start + MINUTE);
    }
    for _ in 0..50 {
        machine.record(Side::Stable, well(), start + MINUTE);
    }
    assert_eq!(machine.share(), 1);
    machine.record(Side::Canary, well(), start + MINUTE);
    assert_eq!(machine.share(), 5);
    for _ in 0..50 {
        machine.record(Side::Canary, well(), start + 2 * MINUTE);
    }
    assert_eq!(machine.share(), 5, "nothing to compare with");
}

#[test]
fn failures_wait_until_they_are_bad_luck_no_more() {
    let start = Instant::now();
    let mut machine = Machine::new(Rollout::of("v2"), start).unwrap();
    both(&mut machine, 19, well(), start);
    both(&mut machine, 1, Sample::Failure, start + MINUTE);
    assert_eq!(machine.phase(), Phase::Step(0), "out of bounds, and not surely so");
    both(&mut machine, 79, well(), start + MINUTE);
    assert_eq!(machine.phase(), Phase::Step(0));
    both(&mut machine, 1, well(), start + MINUTE);
    assert_eq!(machine.phase(), Phase::Step(1), "one of a hundred is within");
    for _ in 0..2000 {
        machine.record(Side::Stable, well(), start + MINUTE);
    }
    both(&mut machine, 17, well(), start + MINUTE);
    both(&mut machine, 1, Sample::Failure, start + MINUTE);
    let (mut two, mut three) = (machine.clone(), machine);
    both(&mut two, 1, well(), start + MINUTE);
    both(&mut two, 1, Sample::Failure, start + MINUTE);
    assert_eq!(two.phase(), Phase::Step(1));
    both(&mut three, 2, Sample::Failure, start + MINUTE);
    assert_eq!(three.phase(), Phase::RolledBack(Reason::Errors));
    let mut machine = three;
    both(&mut machine, 1000, well(), start + 100 * MINUTE);
    assert_eq!(machine.share(), 0);
}

#[test]
fn failures_that_the_stable_one_has_too_are_nobody_s() {
    let start = Instant::now();
    let mut machine = Machine::new(Rollout::of("v2"), start).unwrap();
    for n in 0..200 {
        let sample = if n % 5 == 0 { Sample::Failure } else { well() };
        machine.record(Side::Stable, sample, start);
        machine.record(Side::Canary, sample, start);
    }
    machine.record(Side::Canary, well(), start + MINUTE);
    assert_eq!(machine.phase(), Phase::Step(1));
}

#[test]
fn a_canary_that_is_slow_is_taken_back_and_noise_is_not() {
    let start = Instant::now();
    let slow = |millis: f64, expected| {
        let mut machine = Machine::new(Rollout::of("v2"), start).unwrap();
        both(&mut machine, 100, Sample::Success(Duration::from_secs_f64(millis / 1e3)), start);
        assert_eq!(machine.phase(), expected, "{millis} ms");
    };
    slow(28.0, Phase::Step(0));
    slow(40.0, Phase::RolledBack(Reason::Latency));
    let mut machine = Machine::new(Rollout::of("v2"), start).unwrap();
    for _ in 0..100 {
        machine.record(Side::Stable, Sample::Success(Duration::from_micros(50)), start);
        machine.record(Side::Canary, Sample::Success(Duration::from_micros(500)), start);
    }
    assert_eq!(machine.phase(), Phase::Step(0));
}

#[test]
fn long_steps_forget_so_that_what_breaks_late_is_seen() {
    let mut now = Instant::now();
    let mut machine = Machine::new(Rollout::of("v2"), now).unwrap();
    machine.hold();
    for _ in 0..10 {
        both(&mut machine, 1000, well(), now);
        now += MINUTE;
    }
    assert!(machine.sides().1.requests <= 2001, "{:?}", machine.sides());
    assert_eq!(machine.share(), 1, "held");
    both(&mut machine, 200, Sample::Failure, now);
    assert_eq!(machine.phase(), Phase::RolledBack(Reason::Errors), "a held one is guarded too");
}

#[test]
fn what_is_out_of_bounds_is_not_forgotten_before_it_is_clear() {
    let mut now = Instant::now();
    let mut machine = Machine::new(Rollout::of("v2"), now).unwrap();
    for minute in 0..60 {
        both(&mut machine, 1, Sample::Failure, now);
        both(&mut machine, 32, well(), now);
        now += MINUTE;
        let taken_back = machine.phase() == Phase::RolledBack(Reason::Errors);
        assert!(taken_back || machine.phase() == Phase::Step(0), "{minute}: {:?}", machine.phase());
    }
    assert_eq!(machine.phase(), Phase::RolledBack(Reason::Errors), "{:?}", machine.sides());
}

#[test]
fn by_hand() {
    let now = Instant::now();
    let mut machine = Machine::new(Rollout::of("v2"), now).unwrap();
    assert_eq!(machine.promote(now).unwrap().share, 100);
    assert_eq!(machine.promote(now), None);
    assert_eq!(machine.abort(now).unwrap().phase, Phase::RolledBack(Reason::Aborted));
    assert_eq!(machine.abort(now), None);
    assert_eq!(machine.restart(now).share, 1);
}

/// Where all fails on both sides, the few answers there are say little of how slow a canary is.
#[test]
fn one_slow_answer_among_failures_takes_no_canary_back() {
    let now = Instant::now();
    let mut machine = Machine::new(Rollout::of("v2"), now).unwrap();
    let ms = |ms| Sample::Success(Duration::from_millis(ms));
    for _ in 0..380 {
        machine.record(Side::Stable, Sample::Failure, now);
    }
    for _ in 0..20 {
        machine.record(Side::Stable, ms(20), now);
    }
    for _ in 0..19 {
        assert_eq!(machine.record(Side::Canary, Sample::Failure, now), None);
    }
    assert_eq!(machine.record(Side::Canary, ms(60), now), None);
}

#[test]
fn steps_have_to_grow() {
    for steps in [vec![], vec![0, 5], vec![5, 5], vec![50, 25], vec![50, 100]] {
        assert!(
            Machine::new(Rollout { steps: steps.clone(), ..Rollout::of("v2") }, Instant::now()).is_err(),
            "{steps:?}"
        );
    }
}

/// How a rollout ends, and after how many answers of the canary: of requests at this pace, of which the canary gets a tenth
/// at least. `slower` is how many times as long its answers take.
fn outcome(seed: u64, pace: Duration, stable_errors: f64, canary_errors: f64, slower: f64) -> (Phase, u32) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut now = Instant::now();
    let end = now + 17 * MINUTE;
    let mut machine = Machine::new(Rollout::of("v2"), now).unwrap();
    let mut answers = 0;
    while now < end && matches!(machine.phase(), Phase::Step(_)) {
        now += pace;
        let canary = rng.u8(..100) < machine.share().max(10);
        answers += u32::from(canary);
        let (errors, factor) = if canary { (canary_errors, slower) } else { (stable_errors, 1.0) };
        let latency = Duration::from_secs_f64(-0.02 * rng.f64().max(1e-9).ln() * factor);
        let sample = if rng.f64() < errors { Sample::Failure } else { Sample::Success(latency) };
        machine.record(if canary { Side::Canary } else { Side::Stable }, sample, now);
    }
    (machine.phase(), answers)
}

const PACE: Duration = Duration::from_millis(50);

/// A canary that is as good as the stable one is not taken back, but for bad luck, also where much fails on both sides. There
/// it may have to wait.
#[test]
fn good_ones_are_not_taken_back_but_for_bad_luck() {
    for errors in [0.005, 0.3] {
        let ends: Vec<_> = (0..60).map(|seed| outcome(seed, PACE, errors, errors, 1.0).0).collect();
        let count = |is: fn(&Phase) -> bool| ends.iter().filter(|end| is(end)).count();
        let taken_back = count(|end| matches!(end, Phase::RolledBack(_)));
        assert!(taken_back <= 1, "{taken_back} of 60 good ones were taken back where {errors} fail");
        let promoted = count(|end| *end == Phase::Promoted);
        assert!(promoted >= 54, "only {promoted} of 60 good ones were promoted where {errors} fail");
    }
}

/// One that is clearly worse never does, and is taken back after no more answers than the documentation says.
#[test]
fn bad_ones_are_taken_back_soon() {
    let (errors, latency) = (Reason::Errors, Reason::Latency);
    for (canary, slower, reason, most) in [(1.0, 1.0, errors, 20), (0.1, 1.0, errors, 450), (0.01, 3.0, latency, 450)] {
        for seed in 0..60 {
            let (phase, answers) = outcome(seed, PACE, 0.01, canary, slower);
            assert_eq!(phase, Phase::RolledBack(reason), "seed {seed}");
            assert!(
                answers <= most,
                "{answers} answers of one where {canary} fail, {slower} times slower; seed {seed}"
            );
        }
    }
}

/// `cargo test --lib the_odds_of_rollouts -- --ignored --nocapture`
#[test]
#[ignore = "prints odds; by hand"]
fn the_odds_of_rollouts() {
    for more in [0.0, 0.01] {
        for errors in [0.0, 0.001, 0.005, 0.02, 0.1, 0.3] {
            let ends: Vec<_> = (0..500).map(|seed| outcome(seed, PACE, errors, errors + more, 1.0).0).collect();
            let taken_back = ends.iter().filter(|end| matches!(end, Phase::RolledBack(_))).count();
            let promoted = ends.iter().filter(|end| **end == Phase::Promoted).count();
            println!(
                "{errors} failures, {more} more of the canary's: {taken_back} taken back, {promoted} promoted of 500"
            );
        }
    }
    for (stable, canary, slower) in [
        (0.0, 1.0, 1.0),
        (0.0, 0.5, 1.0),
        (0.01, 0.1, 1.0),
        (0.1, 0.2, 1.0),
        (0.005, 0.03, 1.0),
        (0.0, 0.0, 2.0),
        (0.0, 0.0, 3.0),
    ] {
        let ends = (0..200).map(|seed| outcome(seed, PACE, stable, canary, slower));
        let mut answers: Vec<_> = ends.filter(|end| matches!(end.0, Phase::RolledBack(_))).map(|end| end.1).collect();
        answers.sort_unstable();
        let (median, most) = (answers.get(answers.len() / 2), answers.get(answers.len() * 99 / 100));
        println!(
            "{stable} failures to {canary}, {slower} times slower: {} of 200 taken back, after {median:?}, {most:?} at p99",
            answers.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_share_never_grows_out_of_bounds_nor_beyond_the_schedule(
        events in prop::collection::vec((any::<bool>(), 0u8..100, 1u64..100, 0u64..8_000), 1..400), failing in 0u8..8,
    ) {
        let config = Rollout { min_requests: 5, ..Rollout::of("v2") };
        let start = Instant::now();
        let mut now = start;
        let mut machine = Machine::new(config.clone(), now).unwrap();
        // What was seen since the last change of the share, kept naively.
        let (mut stable, mut canary) = ((0u64, 0u64), (0u64, 0u64));
        let (mut earliest, mut began) = (0u32, now);
        for (is_canary, failure, latency, pause) in events {
            now += Duration::from_millis(pause);
            let failed = failure < failing;
            let sample = if failed { Sample::Failure } else { Sample::Success(Duration::from_millis(latency)) };
            let side = if is_canary { &mut canary } else { &mut stable };
            *side = (side.0 + u64::from(failed), side.1 + 1);
            let before = machine.share();
            let change = machine.record(if is_canary { Side::Canary } else { Side::Stable }, sample, now);
            if let Some(change) = change {
                if change.share > before {
                    let rate = |side: SideStatus| side.error_rate();
                    prop_assert!(rate(change.canary) - rate(change.stable) <= 0.01 + 1e-9, "{change:?}");
                    prop_assert!(change.canary.requests >= 5 && change.stable.requests >= 5);
                    prop_assert!(change.canary.requests <= canary.1 && change.canary.failures <= canary.0);
                    prop_assert!(now - began >= config.interval);
                    earliest += 1;
                    prop_assert!(now - start >= config.interval * earliest);
                } else {
                    prop_assert_eq!(change.share, 0);
                }
                (stable, canary, began) = ((0, 0), (0, 0), now);
            } else {
                prop_assert_eq!(machine.share(), before);
            }
            let allowed = config.steps.get(earliest as usize).copied().unwrap_or(100);
            prop_assert!(machine.share() <= allowed);
        }
    }
}

/// Answers with this status, after 10 ms.
#[derive(Clone, Copy)]
enum Does {
    Answer(u16),
    Break(Outcome),
    Trail,
    Hang,
}

async fn asked(does: Does) -> SideStatus {
    let stable = service_fn(async |_: Request<Body>| Ok::<_, Error>(Response::new(Body::empty())));
    let canary = service_fn(move |request: Request<Body>| async move {
        assert_eq!(Cohort::of(request.extensions()), Cohort::current().as_ref());
        assert_eq!(Cohort::current().unwrap().name(), "v2");
        tokio::time::sleep(Duration::from_millis(10)).await;
        match does {
            Does::Answer(status) => {
                let mut response = Response::new(Body::from("x"));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            }
            Does::Break(outcome) => Err(Error::new(outcome)),
            Does::Trail => Ok(Response::builder().header("grpc-status", "14").body(Body::empty()).unwrap()),
            Does::Hang => std::future::pending().await,
        }
    });
    let split = Canary::new("shop", Rollout { steps: vec![99], ..Rollout::of("v2") }, stable, canary).unwrap();
    let rollout = split.rollout().clone();
    let answer = split.oneshot(Request::new(Body::empty()));
    let answer = tokio::time::timeout(Duration::from_secs(1), answer).await;
    if let Ok(Ok(response)) = answer {
        let _ = http_body_util::BodyExt::collect(response.into_body()).await;
    }
    rollout.status().canary
}

#[tokio::test(start_paused = true)]
async fn what_counts_as_what() {
    for (does, requests, failures) in [
        (Does::Answer(200), 1, 0),
        (Does::Answer(404), 1, 0),
        (Does::Answer(500), 1, 1),
        (Does::Answer(503), 1, 1),
        (Does::Trail, 1, 1),
        (Does::Break(Outcome::ConnectFailed), 1, 1),
        (Does::Break(Outcome::NoEndpoint), 1, 1),
        (Does::Break(Outcome::Cancelled), 0, 0),
        (Does::Break(Outcome::RequestTimeout), 0, 0),
        (Does::Hang, 0, 0),
    ] {
        let status = asked(does).await;
        assert_eq!((status.requests, status.failures), (requests, failures));
        if failures == 0 && requests == 1 {
            let p95 = status.p95.unwrap();
            assert!(p95 >= Duration::from_millis(10) && p95 < Duration::from_millis(12), "{p95:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_s_rollout_runs_by_itself_and_can_be_steered() {
    let version = |name: &'static str| {
        service_fn(move |_: Request<Body>| async move { Ok::<_, Infallible>(Response::new(name.to_owned())) })
    };
    let config = Rollout { steps: vec![50], ..Rollout::of("v2") };
    let split = Canary::new("shop", config, version("v1"), version("v2")).unwrap();
    let ask = async || {
        let response = split.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes()
    };
    let mut canaries = 0;
    for _ in 0..100 {
        canaries += usize::from(ask().await == "v2");
    }
    assert_eq!(canaries, 50);
    split.rollout().hold();
    advance(MINUTE).await;
    ask().await;
    ask().await;
    assert_eq!(split.rollout().share(), 50);
    split.rollout().resume();
    ask().await;
    ask().await;
    assert_eq!(split.rollout().status().phase, Phase::Promoted);
    assert_eq!((ask().await, ask().await), ("v2".into(), "v2".into()));
    split.rollout().abort();
    assert_eq!((ask().await, ask().await), ("v1".into(), "v1".into()));
}
