//! Sets, their balancers and attempts, in virtual time.

mod breakers;
mod traffic;

use std::{net::SocketAddr, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{
    body::{End, Observer},
    classify::Class,
    config::{self, HashKey},
    outlier,
    timeout::Patience,
};

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (n / 250) as u8, (n % 250) as u8], 80))
}

fn endpoints(weights: &[u32]) -> Vec<config::Endpoint> {
    weights.iter().enumerate().map(|(n, &weight)| config::Endpoint { address: address(n), weight }).collect()
}

fn set(balancer: &config::Balancer, weights: &[u32], now: Instant) -> EndpointSet<usize> {
    EndpointSet::new(Balancer::new(balancer).unwrap(), &endpoints(weights), now, number)
}

/// The inverse of [`address`].
fn number(address: SocketAddr) -> usize {
    (0..20_000).find(|n| self::address(*n) == address).unwrap()
}

fn all() -> [config::Balancer; 6] {
    [
        config::Balancer::PeakEwma,
        config::Balancer::LeastRequest,
        config::Balancer::RoundRobin,
        config::Balancer::Random,
        config::Balancer::RingHash(HashKey::Path),
        config::Balancer::Maglev(HashKey::Path),
    ]
}

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

#[test]
fn round_robin_is_exact_and_continues_across_snapshots() {
    let now = Instant::now();
    let mut set = set(&config::Balancer::RoundRobin, &[1, 1, 1, 1], now);
    let mut turns = Vec::new();
    for turn in 0..12 {
        if turn % 5 == 4 {
            set = set.next(&endpoints(&[1, 1, 1, 1]), now, number);
        }
        let attempt = set.pick(&mut Pick::new(now, &mut rng())).unwrap();
        turns.push(*attempt.endpoint().payload());
    }
    assert_eq!(turns, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn round_robin_shares_out_the_turns_of_one_that_is_out() {
    let now = Instant::now();
    let set = set(&config::Balancer::RoundRobin, &[1, 1, 1, 1], now);
    set.iter().nth(1).unwrap().0.set_healthy(false);
    let turns = (0..9).map(|_| *set.pick(&mut Pick::new(now, &mut rng())).unwrap().endpoint().payload());
    assert_eq!(turns.collect::<Vec<_>>(), [0, 2, 3, 0, 2, 3, 0, 2, 3]);
}

#[test]
fn endpoints_that_stay_keep_their_state_and_requests_their_endpoint() {
    let now = Instant::now();
    let first = set(&config::Balancer::RoundRobin, &[1, 1], now);
    let attempt = first.pick(&mut Pick::new(now, &mut rng())).unwrap();
    let kept = attempt.endpoint().address();
    let mut made = 0;
    let list = [config::Endpoint { address: kept, weight: 5 }, config::Endpoint { address: address(9), weight: 1 }];
    let second = first.next(&list, now, |_| {
        made += 1;
        9
    });
    assert_eq!(made, 1);
    let (same, weight) = second.iter().find(|(endpoint, _)| endpoint.address() == kept).unwrap();
    assert_eq!((same.in_flight(), weight), (1, 5));
    // It leaves altogether while a request is on its way.
    let third = second.next(&list[1..], now, number);
    assert_eq!(third.len(), 1);
    assert_eq!(attempt.endpoint().address(), kept);
    attempt.succeed(now + Duration::from_millis(5));
    assert_eq!(same.in_flight(), 0);
    assert_eq!(same.latency(now + Duration::from_millis(5)), Some(Duration::from_millis(5)));
}

#[test]
fn an_empty_or_weightless_set_chooses_nothing() {
    for balancer in all() {
        for weights in [&[][..], &[0, 0]] {
            let now = Instant::now();
            assert!(set(&balancer, weights, now).pick(&mut Pick::new(now, &mut rng())).is_none(), "{balancer:?}");
        }
    }
}

#[test]
fn what_was_tried_is_not_tried_again() {
    for balancer in all() {
        let now = Instant::now();
        let set = set(&balancer, &[1, 1_000, 1, 0], now);
        let (mut tried, mut rng) = (Vec::new(), rng());
        while let Some(attempt) = set.pick(&mut Pick { tried: &tried, ..Pick::new(now, &mut rng) }) {
            assert!(!tried.contains(&attempt.endpoint().address()), "{balancer:?}");
            tried.push(attempt.endpoint().address());
        }
        tried.sort_unstable();
        assert_eq!(tried, [address(0), address(1), address(2)], "{balancer:?}");
    }
}

#[test]
fn an_endpoint_out_of_reach_is_left_out_then_probed_once_then_back() {
    for balancer in all() {
        let mut now = Instant::now();
        let set = set(&balancer, &[1, 1, 1], now);
        let mut rng = rng();
        let pick = |now, rng: &mut fastrand::Rng| {
            let hash = Some(rng.u64(..));
            set.pick(&mut Pick { hash, ..Pick::new(now, rng) }).unwrap()
        };
        let lost = loop {
            let attempt = pick(now, &mut rng);
            if *attempt.endpoint().payload() == 0 {
                break attempt;
            }
        };
        let endpoint = lost.endpoint().clone();
        lost.unreachable(now);
        for _ in 0..200 {
            assert_ne!(*pick(now, &mut rng).endpoint().payload(), 0, "{balancer:?}");
        }
        // Due after 1 s and up to half a second of jitter; one request probes, nobody else.
        now += Duration::from_millis(1_500);
        let attempts: Vec<_> = (0..200).map(|_| pick(now, &mut rng)).collect();
        let probes = attempts.iter().filter(|attempt| *attempt.endpoint().payload() == 0).count();
        assert_eq!(probes, 1, "{balancer:?}");
        assert_eq!(endpoint.availability(now), Availability::Probing);
        // A cancelled probe is given back.
        drop(attempts);
        assert_eq!(endpoint.availability(now), Availability::Due);
        let mut probe = loop {
            let attempt = pick(now, &mut rng);
            if *attempt.endpoint().payload() == 0 {
                break attempt;
            }
        };
        probe.reached();
        assert_eq!(endpoint.availability(now), Availability::Available);
        assert_eq!(endpoint.in_flight(), 1);
        assert!(!set.is_panicking());
    }
}

#[test]
fn most_being_out_all_are_used_unless_that_is_off() {
    for balancer in all() {
        let now = Instant::now();
        let set = set(&balancer, &[1, 1, 1], now);
        let calm = set.with_balancer(Balancer::new(&balancer).unwrap().with_panic_threshold(0));
        let (mut rng, mut seen) = (rng(), [0; 3]);
        for (endpoint, _) in set.iter().take(2) {
            endpoint.set_healthy(false);
        }
        assert!(set.is_panicking() && !calm.is_panicking());
        for _ in 0..300 {
            seen[*set.pick(&mut Pick::new(now, &mut rng)).unwrap().endpoint().payload()] += 1;
            assert_eq!(*calm.pick(&mut Pick::new(now, &mut rng)).unwrap().endpoint().payload(), 2);
        }
        assert!(seen.iter().all(|seen| *seen > 30), "{balancer:?}: {seen:?}");
        for (endpoint, _) in set.iter() {
            endpoint.set_healthy(false);
        }
        assert!(calm.pick(&mut Pick::new(now, &mut rng)).is_none());
        set.iter().next().unwrap().0.set_healthy(true);
        assert_eq!(*calm.pick(&mut Pick::new(now, &mut rng)).unwrap().endpoint().payload(), 0);
    }
}

#[test]
fn reaching_an_endpoint_in_panic_brings_it_back() {
    let now = Instant::now();
    let set = set(&config::Balancer::RoundRobin, &[1], now);
    set.pick(&mut Pick::new(now, &mut rng())).unwrap().unreachable(now);
    assert!(set.is_panicking());
    set.pick(&mut Pick::new(now, &mut rng())).unwrap().succeed(now);
    assert!(!set.is_panicking());
}

#[test]
fn a_key_stays_with_its_endpoint_until_that_has_too_much() {
    let now = Instant::now();
    for (balancer, bounded) in
        [(config::Balancer::Maglev(HashKey::Path), true), (config::Balancer::RingHash(HashKey::Path), false)]
    {
        let set = set(&balancer, &[1; 10], now);
        let mut rng = rng();
        let hot = stable_hash(b"hot");
        let attempts: Vec<_> =
            (0..300).map(|_| set.pick(&mut Pick { hash: Some(hot), ..Pick::new(now, &mut rng) }).unwrap()).collect();
        let home = attempts[0].endpoint().clone();
        assert!(attempts.iter().take(8).all(|attempt| attempt.endpoint().address() == home.address()));
        let most = set.iter().map(|(endpoint, _)| endpoint.in_flight()).max().unwrap();
        // 150 % of 300 requests among ten.
        assert_eq!(most, if bounded { 45 } else { 300 }, "{balancer:?}");
        drop(attempts);
        let again = set.pick(&mut Pick { hash: Some(hot), ..Pick::new(now, &mut rng) }).unwrap();
        assert_eq!(again.endpoint().address(), home.address());
    }
}

#[test]
fn a_request_without_the_key_goes_anywhere() {
    let now = Instant::now();
    let set = set(&config::Balancer::Maglev(HashKey::Path), &[1; 5], now);
    let (mut rng, mut seen) = (rng(), [0; 5]);
    for _ in 0..500 {
        seen[*set.pick(&mut Pick::new(now, &mut rng)).unwrap().endpoint().payload()] += 1;
    }
    assert!(seen.iter().all(|seen| *seen > 50), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_body_settles_the_attempt() {
    let now = Instant::now();
    let set = set(&config::Balancer::RoundRobin, &[1], now);
    let endpoint = set.iter().next().unwrap().0.clone();
    let begin = || set.pick(&mut Pick::new(Instant::now(), &mut rng())).unwrap();

    let mut cancelled = begin();
    cancelled.end(End::Dropped);
    drop(cancelled);
    assert_eq!((endpoint.in_flight(), endpoint.latency(Instant::now())), (0, None));

    let body = crate::Body::from("x").observed(begin());
    assert_eq!(endpoint.in_flight(), 1);
    tokio::time::advance(Duration::from_millis(70)).await;
    http_body_util::BodyExt::collect(body).await.unwrap();
    assert_eq!((endpoint.in_flight(), endpoint.latency(Instant::now())), (0, Some(Duration::from_millis(70))));

    // Its clock stopped at the head: the hour that follows does not count.
    let mut upgraded = begin();
    upgraded.stop_clock(Instant::now());
    tokio::time::advance(Duration::from_secs(3600)).await;
    upgraded.end(End::Complete);
    assert!(endpoint.latency(Instant::now()).unwrap() < Duration::from_millis(70));

    // Failures by status, by trailers, by a broken body: each twice in a row weighs in full.
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("14"));
    type Fail<'a> = &'a dyn Fn(&mut Attempt<usize>);
    let failures: [Fail<'_>; 3] = [
        &|attempt| {
            attempt.note(Class::ServerError);
            attempt.end(End::Complete);
        },
        &|attempt| {
            attempt.trailers(&trailers);
            attempt.end(End::Complete);
        },
        &|attempt| attempt.end(End::Failed(&"broken".into())),
    ];
    for fail in failures {
        let set = self::set(&config::Balancer::RoundRobin, &[1], Instant::now());
        for _ in 0..2 {
            fail(&mut set.pick(&mut Pick::new(Instant::now(), &mut rng())).unwrap());
        }
        let endpoint = set.iter().next().unwrap().0;
        assert_eq!((endpoint.in_flight(), endpoint.latency(Instant::now())), (0, Some(Duration::from_secs(5))));
    }
}

#[test]
fn a_long_success_costs_no_more_than_a_failure() {
    let now = Instant::now();
    let set = set(&config::Balancer::RoundRobin, &[1], now);
    set.pick(&mut Pick::new(now, &mut rng())).unwrap().succeed(now + Duration::from_secs(600));
    let endpoint = set.iter().next().unwrap().0;
    assert_eq!(endpoint.latency(now + Duration::from_secs(600)), Some(Duration::from_secs(5)));
}

#[test]
fn statuses_are_judged_by_whose_doing_they_are() {
    for (status, failure) in
        [(200, false), (404, false), (429, true), (500, true), (501, false), (502, true), (505, false)]
    {
        assert_eq!(is_failure(http::StatusCode::from_u16(status).unwrap()), failure, "{status}");
    }
}

#[test]
fn concurrent_picks_and_settlements_lose_nothing() {
    for balancer in all() {
        let now = Instant::now();
        let set = set(&balancer, &[1, 2, 3, 0, 1], now);
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let set = &set;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    for step in 0..2_000 {
                        let now = now + Duration::from_millis(step);
                        let Some(mut attempt) = set.pick(&mut Pick::new(now, &mut rng)) else { continue };
                        match rng.u8(..8) {
                            0 => attempt.unreachable(now),
                            1 => attempt.cancel(),
                            2 => attempt.fail(now),
                            3 => attempt.reached(),
                            _ => attempt.succeed(now + Duration::from_millis(1)),
                        }
                    }
                });
            }
        });
        for (endpoint, _) in set.iter() {
            assert_eq!(endpoint.in_flight(), 0, "{balancer:?}");
            let later = endpoint.availability(now + Duration::from_secs(60));
            assert!(matches!(later, Availability::Available | Availability::Due), "{balancer:?}: {later:?}");
        }
        let usable = set.iter().filter(|(endpoint, weight)| *weight > 0 && endpoint.is_usable()).count();
        assert_eq!(set.is_panicking(), usable < 2, "{balancer:?}: the count of usable endpoints is stale");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_dropped_as_a_limit_ends_has_failed_if_it_had_half_of_the_time() {
    // When it began, when it was dropped, and whether there was a head.
    for (asked, ended, head, failed) in
        [(0, 10, false, true), (5, 10, false, true), (6, 10, false, false), (0, 9, false, false), (0, 10, true, false)]
    {
        let began = Instant::now();
        let mut request = http::Request::new(());
        for limit in [60, 10, 30] {
            Patience::note(&mut request, began, began + Duration::from_secs(limit));
        }
        let set = set(&config::Balancer::RoundRobin, &[1], began);
        let mut attempt = set.pick(&mut Pick::new(began + Duration::from_secs(asked), &mut rng())).unwrap();
        attempt.within(Patience::of(request.extensions()).unwrap());
        if head {
            attempt.note(Class::Success);
        }
        tokio::time::advance(Duration::from_secs(ended)).await;
        drop(attempt);
        let endpoint = set.iter().next().unwrap().0;
        let now = began + Duration::from_secs(ended);
        // What failed counts as the penalty at least; what was cancelled is not measured.
        assert_eq!(endpoint.latency(now).is_some(), failed, "{asked} {ended} {head}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_every_pick_is_allowed_and_counted(
        kind in 0usize..6, weights in prop::collection::vec(0u32..4, 1..12), seed: u64, steps in 1u64..120,
    ) {
        let mut now = Instant::now();
        let mut set = set(&all()[kind], &weights, now);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut open = Vec::new();
        for _ in 0..steps {
            now += Duration::from_millis(rng.u64(..800));
            match rng.u8(..6) {
                0 => {
                    let weights: Vec<_> = weights.iter().map(|weight| weight * rng.u32(..2)).collect();
                    set = set.next(&endpoints(&weights), now, number);
                }
                1 => set.iter().for_each(|(endpoint, _)| endpoint.set_healthy(rng.bool())),
                2 | 3 if !open.is_empty() => {
                    let attempt: Attempt<usize> = open.swap_remove(rng.usize(..open.len()));
                    match rng.u8(..4) {
                        0 => attempt.unreachable(now),
                        1 => attempt.cancel(),
                        2 => attempt.fail(now),
                        _ => attempt.succeed(now),
                    }
                }
                _ => {
                    let tried = [address(rng.usize(..weights.len()))];
                    let panicking = set.is_panicking();
                    let states: Vec<_> =
                        set.iter().map(|(endpoint, weight)| (endpoint.address(), weight, endpoint.availability(now))).collect();
                    let allowed = |(address, weight, state): &(SocketAddr, u32, Availability)| {
                        let state = panicking || matches!(state, Availability::Available | Availability::Due);
                        *weight > 0 && state && !tried.contains(address)
                    };
                    let picked = set.pick(&mut Pick { tried: &tried, ..Pick::new(now, &mut rng) });
                    prop_assert_eq!(picked.is_some(), states.iter().any(allowed));
                    if let Some(attempt) = picked {
                        let chosen = states.iter().find(|state| state.0 == attempt.endpoint().address());
                        prop_assert!(chosen.is_some_and(allowed), "{chosen:?}");
                        open.push(attempt);
                    }
                }
            }
        }
        open.clear();
        prop_assert_eq!(set.iter().map(|(endpoint, _)| endpoint.in_flight()).sum::<u32>(), 0);
    }
}

/// One of two, or the only one: where too few are left all are used, and still the ejection ends by a probe.
#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_returns_by_one_probe_also_in_panic() {
    for count in [2, 1] {
        let set = set(&config::Balancer::RoundRobin, &[1, 1][..count], Instant::now());
        let outliers = config::OutlierDetection { ejection_jitter: Duration::ZERO, ..Default::default() };
        set.watch(outlier::Alarm::new(&outliers));
        let mut detector = outlier::Detector::new(outliers, Instant::now());
        let mut detect = || set.detect(&mut detector, Instant::now(), &mut rng());
        let pick = || set.pick(&mut Pick::new(Instant::now(), &mut rng()));
        let bad = set.iter().next().unwrap().0.clone();
        while detect().is_empty() {
            let mut attempt = pick().unwrap();
            if *attempt.endpoint().payload() == 0 {
                attempt.note(Class::ServerError);
            }
            attempt.succeed(Instant::now());
        }
        assert_eq!(bad.availability(Instant::now()), Availability::Ejected);
        assert_eq!(set.is_panicking(), count == 1);
        for _ in 0..4 {
            assert_eq!(
                *pick().unwrap().endpoint().payload(),
                usize::from(count == 2),
                "avoided, unless it is all there is"
            );
        }

        tokio::time::advance(Duration::from_secs(30)).await;
        detect();
        assert_eq!(bad.availability(Instant::now()), Availability::Due);
        let held: Vec<_> = (0..6).map(|_| pick().unwrap()).collect();
        assert_eq!(bad.availability(Instant::now()), Availability::Probing);
        assert_eq!(
            held.iter().filter(|attempt| attempt.endpoint().address() == bad.address()).count(),
            if count == 2 { 1 } else { 6 }
        );
        // All are cancelled: nothing is known.
        drop(held);
        assert_eq!(bad.availability(Instant::now()), Availability::Due);
        for _ in 0..2 {
            pick().unwrap().succeed(Instant::now());
        }
        assert_eq!(bad.availability(Instant::now()), Availability::Available);
        assert!(!set.is_panicking());
        assert_eq!(detect().len(), 1);
    }
}
