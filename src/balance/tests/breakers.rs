//! Endpoints with circuit breakers of their own.

use http::HeaderMap;
use tokio::time::advance;

use super::*;
use crate::{breaker::State, config::CircuitBreaker};

/// Failures in a row open it, and nothing else.
fn in_a_row(failures: u32) -> CircuitBreaker {
    CircuitBreaker { consecutive_failures: failures, failure_rate: 0, ..CircuitBreaker::default() }
}

fn guarded(balancer: &config::Balancer, count: usize, breaker: CircuitBreaker) -> EndpointSet<usize> {
    let balancer = Balancer::new(balancer).unwrap().with_circuit_breakers("cart", breaker);
    EndpointSet::new(balancer, &endpoints(&vec![1; count]), Instant::now(), number)
}

fn pick(set: &EndpointSet<usize>, rng: &mut fastrand::Rng) -> Option<Attempt<usize>> {
    set.pick(&mut Pick::new(Instant::now(), rng))
}

fn end(mut attempt: Attempt<usize>, class: Class) {
    attempt.note(class);
    attempt.succeed(Instant::now());
}

/// An attempt at this endpoint.
fn at(set: &EndpointSet<usize>, number: usize) -> Option<Attempt<usize>> {
    let id = Affinity::id(address(number));
    set.pick_wanted(id, &mut Pick::new(Instant::now(), &mut rng()))
}

fn availability(set: &EndpointSet<usize>, number: usize) -> Availability {
    set.iter().nth(number).unwrap().0.availability(Instant::now())
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_breaker_is_open_is_passed_over_until_one_request_has_probed_it() {
    for balancer in all() {
        let (set, mut rng) = (guarded(&balancer, 3, in_a_row(3)), rng());
        while availability(&set, 1) != Availability::Open {
            let attempt = pick(&set, &mut rng).unwrap();
            let class = if *attempt.endpoint().payload() == 1 { Class::ServerError } else { Class::Success };
            end(attempt, class);
        }
        let breaker = set.iter().nth(1).unwrap().0.circuit().unwrap().clone();
        assert_eq!((breaker.name(), breaker.stats().opened), ("cart/10.0.0.1:80", 1));
        assert_eq!(set.opened(), 1);
        assert!(!set.is_panicking() && at(&set, 1).is_none());
        let passed = (0..300).map(|_| pick(&set, &mut rng).unwrap());
        assert!(passed.collect::<Vec<_>>().iter().all(|attempt| *attempt.endpoint().payload() != 1), "{balancer:?}");

        advance(set.retry_after(Instant::now()).unwrap()).await;
        assert_eq!(availability(&set, 1), Availability::Due);
        let held: Vec<_> = (0..300).map(|_| pick(&set, &mut rng).unwrap()).collect();
        assert_eq!((breaker.state(), availability(&set, 1)), (State::HalfOpen, Availability::Probing));
        let (probe, others): (Vec<_>, Vec<_>) = held.into_iter().partition(|held| *held.endpoint().payload() == 1);
        assert_eq!(probe.len(), 1, "{balancer:?}");
        others.into_iter().for_each(|other| end(other, Class::Success));
        assert_eq!(breaker.state(), State::HalfOpen, "what others say is not of it");
        probe.into_iter().for_each(|probe| end(probe, Class::Success));
        assert_eq!(availability(&set, 1), Availability::Available);
        assert!(at(&set, 1).is_some() && at(&set, 1).is_some(), "{balancer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn panic_does_not_set_open_breakers_aside() {
    for balancer in all() {
        let set = guarded(&balancer, 4, in_a_row(1));
        set.iter().nth(3).unwrap().0.set_healthy(false);
        for number in 0..2 {
            end(at(&set, number).unwrap(), Class::GatewayError);
        }
        assert!(set.is_panicking());
        let mut rng = rng();
        let mut seen: Vec<_> = (0..400).map(|_| *pick(&set, &mut rng).unwrap().endpoint().payload()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [2, 3], "the unhealthy one is used, the open ones are not: {balancer:?}");

        assert_eq!(set.retry_after(Instant::now()).map(|wait| wait.as_millis() <= 1_500), Some(true));
        for _ in 0..2 {
            end(pick(&set, &mut rng).unwrap(), Class::ServerError);
        }
        assert!(pick(&set, &mut rng).is_none(), "{balancer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_stay_where_they_are_while_most_breakers_are_open() {
    let set = guarded(&config::Balancer::Maglev(HashKey::Path), 10, in_a_row(1));
    for number in 0..8 {
        end(at(&set, number).unwrap(), Class::ServerError);
    }
    assert!(set.is_panicking());
    let mut rng = rng();
    let mut owner = |key: u64| {
        let hash = Some(stable_hash(&key.to_le_bytes()));
        let attempt = set.pick(&mut Pick { hash, ..Pick::new(Instant::now(), &mut rng) }).unwrap();
        *attempt.endpoint().payload()
    };
    let before: Vec<_> = (0..50).map(&mut owner).collect();
    assert!(before.contains(&8) && before.contains(&9));
    // One has more to do than the other, within what is fair for one of two, and far beyond what is for one of ten.
    let _held: Vec<_> = (0..40).map(|n| at(&set, 8 + usize::from(n % 5 < 2)).unwrap()).collect();
    assert_eq!((0..50).map(&mut owner).collect::<Vec<_>>(), before);
}

#[tokio::test(start_paused = true)]
async fn what_counts_is_what_counts_for_any_breaker() {
    let rate = CircuitBreaker { consecutive_failures: 0, min_requests: 4, ..CircuitBreaker::default() };
    let set = guarded(&config::Balancer::Random, 1, rate);
    let one = || at(&set, 0).unwrap();
    for _ in 0..50 {
        one().cancel();
        drop(one());
        let mut dropped = one();
        dropped.note(Class::Success);
        dropped.end(End::Dropped);
    }
    for class in [Class::Throttled, Class::Success, Class::Success] {
        end(one(), class);
    }
    // gRPC says it in trailers.
    let mut attempt = one();
    attempt.note(Class::Success);
    attempt.trailers(&HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "8".parse().unwrap())]));
    assert_eq!(availability(&set, 0), Availability::Available);
    attempt.end(End::Complete);
    assert_eq!(availability(&set, 0), Availability::Open);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_that_is_late_for_its_callers_own_time_says_nothing() {
    let late = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "4".parse().unwrap())]);
    for (told, state) in [(Some(1), State::Closed), (Some(3), State::Open), (None, State::Open)] {
        let set = guarded(&config::Balancer::Random, 1, in_a_row(1));
        let mut attempt = at(&set, 0).unwrap();
        attempt.told(told.map(|told| Instant::now() + Duration::from_secs(told)));
        attempt.note(Class::Success);
        advance(Duration::from_secs(2)).await;
        attempt.trailers(&late);
        attempt.end(End::Complete);
        assert_eq!(set.iter().next().unwrap().0.circuit().unwrap().state(), state, "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_head_tells_at_once_and_once() {
    let set = guarded(&config::Balancer::Random, 1, in_a_row(2));
    let mut endless = at(&set, 0).unwrap();
    endless.note(Class::ServerError);
    let mut second = at(&set, 0).unwrap();
    endless.end(End::Complete);
    assert_eq!(availability(&set, 0), Availability::Available, "counted once");
    second.note(Class::ServerError);
    assert_eq!(availability(&set, 0), Availability::Open);
    second.cancel();
    assert_eq!(set.opened(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_the_clock_was_stopped_nothing_is_slow_and_a_probe_is_over() {
    let slow = CircuitBreaker { slow_call: Some(Duration::from_secs(1)), min_requests: 1, ..in_a_row(1) };
    let set = guarded(&config::Balancer::Random, 1, slow);
    let mut stream = at(&set, 0).unwrap();
    stream.stop_clock(Instant::now());
    advance(Duration::from_secs(60)).await;
    stream.succeed(Instant::now());
    assert_eq!(availability(&set, 0), Availability::Available);

    let late = at(&set, 0).unwrap();
    advance(Duration::from_secs(1)).await;
    late.succeed(Instant::now());
    assert_eq!(availability(&set, 0), Availability::Open);
    advance(set.retry_after(Instant::now()).unwrap()).await;
    let mut stream = pick(&set, &mut rng()).unwrap();
    stream.note(Class::Success);
    assert!(pick(&set, &mut rng()).is_none());
    stream.stop_clock(Instant::now());
    assert!(pick(&set, &mut rng()).is_some());
}

/// The next request takes its place, also where two are drawn and the better one is taken.
#[tokio::test(start_paused = true)]
async fn a_probe_without_end_is_followed_by_another_one() {
    for balancer in all() {
        let (set, mut rng) = (guarded(&balancer, 3, in_a_row(1)), rng());
        end(at(&set, 1).unwrap(), Class::ServerError);
        advance(set.retry_after(Instant::now()).unwrap()).await;
        let mut held = Vec::new();
        for probes in 1..4 {
            held.extend((0..300).map(|_| pick(&set, &mut rng).unwrap()));
            let at_it = held.iter().filter(|held| *held.endpoint().payload() == 1).count();
            assert_eq!((at_it, set.opened()), (probes, probes as u64), "{balancer:?}");
            advance(Duration::from_secs(3600)).await;
        }
        drop(held);
        assert_eq!(availability(&set, 1), Availability::Due, "{balancer:?}");
    }
}

/// Whoever is out for two reasons returns by one request that is the probe of both.
#[tokio::test(start_paused = true)]
async fn one_request_probes_an_endpoint_that_is_out_and_open() {
    let set = guarded(&config::Balancer::RoundRobin, 1, in_a_row(1));
    at(&set, 0).unwrap().unreachable(Instant::now());
    assert_eq!(availability(&set, 0), Availability::Out);
    assert!(set.is_panicking());
    advance(Duration::from_secs(2)).await;
    assert_eq!(availability(&set, 0), Availability::Due);
    pick(&set, &mut rng()).unwrap().cancel();
    assert_eq!(availability(&set, 0), Availability::Due, "nothing is known");
    end(pick(&set, &mut rng()).unwrap(), Class::Success);
    assert_eq!((availability(&set, 0), set.is_panicking()), (Availability::Available, false));
}

#[tokio::test(start_paused = true)]
async fn a_probe_with_a_good_head_closes_it_however_long_its_body_is() {
    let set = guarded(&config::Balancer::RoundRobin, 2, in_a_row(1));
    end(at(&set, 0).unwrap(), Class::ServerError);
    advance(Duration::from_secs(2)).await;
    let mut download = at(&set, 0).unwrap();
    download.note(Class::Success);
    assert_eq!(availability(&set, 0), Availability::Probing);
    advance(Duration::from_secs(10)).await;
    assert!(at(&set, 0).is_some());
    assert_eq!((availability(&set, 0), set.opened()), (Availability::Available, 1));
    download.cancel();
}

/// Only as it lets a request in is a probe judged that has no end, and may refuse one that was to probe the endpoint.
#[tokio::test(start_paused = true)]
async fn a_request_that_its_breaker_refuses_at_the_last_moment_leaves_the_other_probe_to_the_next() {
    let set = guarded(&config::Balancer::RoundRobin, 1, in_a_row(1));
    let early = at(&set, 0).unwrap();
    end(at(&set, 0).unwrap(), Class::ServerError);
    advance(Duration::from_secs(2)).await;
    let endless = pick(&set, &mut rng()).unwrap();
    early.unreachable(Instant::now());
    advance(Duration::from_secs(10)).await;
    let calm = set.with_balancer(Balancer::new(&config::Balancer::RoundRobin).unwrap().with_panic_threshold(0));
    assert_eq!(availability(&set, 0), Availability::Due);
    assert!(pick(&calm, &mut rng()).is_none());
    assert_eq!(availability(&set, 0), Availability::Open);
    advance(set.retry_after(Instant::now()).unwrap()).await;
    assert_eq!(availability(&set, 0), Availability::Due);
    end(pick(&calm, &mut rng()).unwrap(), Class::Success);
    assert_eq!(availability(&set, 0), Availability::Available);
    drop(endless);
}

#[tokio::test(start_paused = true)]
async fn breakers_stay_with_their_endpoints_and_newcomers_have_their_own() {
    let first = guarded(&config::Balancer::Random, 2, in_a_row(1));
    end(at(&first, 0).unwrap(), Class::ServerError);
    let second = first.next(&endpoints(&[1, 1, 1]), Instant::now(), number);
    assert_eq!([0, 1, 2].map(|number| availability(&second, number) == Availability::Open), [true, false, false]);
    end(at(&second, 2).unwrap(), Class::ServerError);
    assert_eq!(availability(&second, 2), Availability::Open);
    let third = second.next(&endpoints(&[1]), Instant::now(), number);
    assert_eq!((availability(&third, 0), third.opened()), (Availability::Open, 2));
    // Who returns is a newcomer.
    let fourth = third.next(&endpoints(&[1, 1, 1]), Instant::now(), number);
    assert_eq!(availability(&fourth, 2), Availability::Available);
}

/// From several threads: the count of usable endpoints follows every change of a breaker, and nobody stays out.
#[test]
fn threads_leave_no_endpoint_stuck_and_no_count_stale() {
    let breaker = CircuitBreaker { open: Duration::from_nanos(1), max_open: Duration::from_nanos(1), ..in_a_row(1) };
    for balancer in all() {
        let set = guarded(&balancer, 4, breaker.clone());
        std::thread::scope(|threads| {
            for seed in 0..4 {
                let set = &set;
                threads.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    for _ in 0..3_000 {
                        let Some(attempt) = pick(set, &mut rng) else { continue };
                        match rng.u8(..4) {
                            0 => end(attempt, Class::ServerError),
                            1 => attempt.unreachable(Instant::now()),
                            2 => attempt.cancel(),
                            _ => end(attempt, Class::Success),
                        }
                    }
                });
            }
        });
        for (endpoint, _) in set.iter() {
            assert_eq!(endpoint.in_flight(), 0, "{balancer:?}");
            let later = endpoint.availability(Instant::now() + Duration::from_secs(60));
            assert!(matches!(later, Availability::Available | Availability::Due), "{balancer:?}: {later:?}");
        }
        let usable = set.iter().filter(|(endpoint, _)| endpoint.is_usable()).count();
        assert_eq!(set.is_panicking(), usable < 2, "{balancer:?}: the count of usable endpoints is stale");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No request ever goes where a breaker is open, one probes at a time, and whatever is left undone, all return.
    #[test]
    fn one_probe_for_each_endpoint_and_none_is_stuck(kind in 0usize..6, count in 1usize..6, seed: u64, steps in 1u64..150) {
        let mut now = Instant::now();
        let breaker = CircuitBreaker { min_requests: 4, consecutive_failures: 2, ..CircuitBreaker::default() };
        let (open, probing) = (breaker.max_open.mul_f64(1.5), breaker.probe_timeout);
        let balancer = Balancer::new(&all()[kind]).unwrap().with_circuit_breakers("cart", breaker);
        let set = EndpointSet::new(balancer, &endpoints(&vec![1; count]), now, number);
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut held, mut probes): (Vec<Attempt<usize>>, Vec<(usize, Instant)>) = (Vec::new(), Vec::new());
        for _ in 0..steps {
            now += Duration::from_millis(rng.u64(..1_500));
            if rng.bool() && !held.is_empty() {
                let mut attempt = held.swap_remove(rng.usize(..held.len()));
                let number = *attempt.endpoint().payload();
                let was = attempt.endpoint().circuit().unwrap().state();
                match rng.u8(..6) {
                    0 => attempt.unreachable(now),
                    1 => attempt.cancel(),
                    2 => { attempt.note(Class::Throttled); attempt.succeed(now) }
                    3 => attempt.fail(now),
                    _ => attempt.succeed(now),
                }
                if set.iter().nth(number).unwrap().0.circuit().unwrap().state() != was {
                    probes.retain(|probe| probe.0 != number);
                }
                continue;
            }
            let states: Vec<_> = set.iter().map(|(endpoint, _)| endpoint.availability(now)).collect();
            match set.pick(&mut Pick::new(now, &mut rng)) {
                Some(attempt) => {
                    let number = *attempt.endpoint().payload();
                    prop_assert!(states[number] != Availability::Open, "{states:?}");
                    if attempt.endpoint().circuit().unwrap().state() == State::HalfOpen {
                        let other = probes.iter().find(|probe| probe.0 == number);
                        prop_assert!(other.is_none_or(|other| now >= other.1 + probing), "two probes at once");
                        probes.retain(|probe| probe.0 != number);
                        probes.push((number, now));
                    }
                    held.push(attempt);
                }
                None => prop_assert!(set.retry_after(now).is_some(), "refused without a reason: {states:?}"),
            }
        }
        // Nothing is settled any more, and still a request passes.
        now += open + probing + Duration::from_secs(45);
        prop_assert!(set.pick(&mut Pick::new(now, &mut rng)).is_some());
        drop(held);
        for (endpoint, _) in set.iter() {
            let later = endpoint.availability(now + open + Duration::from_secs(45));
            prop_assert!(matches!(later, Availability::Available | Availability::Due), "stuck: {later:?}");
        }
    }
}
