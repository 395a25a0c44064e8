//! Traffic over time: who receives how much of it.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::*;

/// How an endpoint answers: after how long, and whether well.
#[derive(Clone, Copy)]
struct Answer {
    after: Duration,
    well: bool,
}

const FINE: Answer = Answer { after: Duration::from_millis(20), well: true };
const BROKEN: Answer = Answer { after: Duration::from_micros(200), well: false };

/// Requests arriving at even intervals, endpoints that answer as told.
struct World {
    set: EndpointSet<usize>,
    now: Instant,
    rng: fastrand::Rng,
    under_way: Vec<Option<(Attempt<usize>, bool)>>,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl World {
    fn new(set: EndpointSet<usize>, now: Instant) -> Self {
        Self { set, now, rng: rng(), under_way: Vec::new(), due: BinaryHeap::new() }
    }

    /// How many of `requests`, `interval` apart, each endpoint received.
    fn run(
        &mut self,
        requests: usize,
        interval: Duration,
        mut answer: impl FnMut(usize, &mut fastrand::Rng) -> Answer,
    ) -> Vec<usize> {
        let mut seen = vec![0; self.set.len()];
        for _ in 0..requests {
            self.now += interval;
            self.settle(self.now);
            let hash = Some(self.rng.u64(..));
            let picked = self.set.pick(&mut Pick { hash, ..Pick::new(self.now, &mut self.rng) });
            let attempt = picked.expect("an endpoint");
            let n = *attempt.endpoint().payload();
            seen[n] += 1;
            let answer = answer(n, &mut self.rng);
            self.due.push(Reverse((self.now + answer.after, self.under_way.len())));
            self.under_way.push(Some((attempt, answer.well)));
        }
        seen
    }

    fn settle(&mut self, until: Instant) {
        while let Some(Reverse((at, index))) = self.due.pop() {
            if at > until {
                self.due.push(Reverse((at, index)));
                return;
            }
            if let Some((attempt, well)) = self.under_way[index].take() {
                if well { attempt.succeed(at) } else { attempt.fail(at) }
            }
        }
    }
}

fn share(seen: &[usize], of: usize) -> f64 {
    seen[of] as f64 / seen.iter().sum::<usize>() as f64
}

#[test]
fn failing_fast_attracts_no_traffic_and_healing_wins_it_back() {
    // Where tower's peak EWMA sends 67 % to the failing endpoint.
    for balancer in [config::Balancer::PeakEwma, config::Balancer::LeastRequest] {
        for (interval, least, count) in [(1, 10, 3), (10, 50, 3), (100, 100, 3), (5, 20, 2), (5, 20, 10)] {
            let now = Instant::now();
            let mut world = World::new(set(&balancer, &vec![1; count], now), now);
            let interval = Duration::from_millis(interval);
            let seen = world.run(20_000, interval, |n, _| if n == 0 { BROKEN } else { FINE });
            assert!(share(&seen, 0) < 0.05, "{balancer:?}, every {interval:?}: {seen:?}");
            assert!(seen[0] >= least, "{balancer:?}, every {interval:?}: not probed: {seen:?}");

            // Healed: within 20 s, or 500 requests where they are few, it has its share again.
            let settling = (20_000 / interval.as_millis() as usize).max(500);
            world.run(settling, interval, |_, _| FINE);
            let seen = world.run(3_000, interval, |_, _| FINE);
            let relative = share(&seen, 0) * count as f64;
            assert!((0.7..1.3).contains(&relative), "{balancer:?}, every {interval:?}: {seen:?}");
        }
    }
}

#[test]
fn a_few_failures_everywhere_do_not_herd_the_traffic() {
    for balancer in [config::Balancer::PeakEwma, config::Balancer::LeastRequest] {
        let now = Instant::now();
        let mut world = World::new(set(&balancer, &[1, 1, 1], now), now);
        let mut late = Vec::new();
        for _ in 0..10 {
            let one_of_100 = |_: usize, rng: &mut fastrand::Rng| if rng.u8(..100) == 0 { BROKEN } else { FINE };
            late.push(world.run(1_000, Duration::from_millis(10), one_of_100));
        }
        for seen in &late {
            assert!((0..3).all(|n| share(seen, n) < 0.6), "{balancer:?}: {late:?}");
        }
    }
}

#[test]
fn one_slow_answer_does_not_cost_an_idle_endpoint_its_place() {
    // The first answer has a connection to make and caches to fill; then all are equally fast, and never busy.
    for first in [3, 20, 50] {
        let now = Instant::now();
        let mut world = World::new(set(&config::Balancer::PeakEwma, &[1, 1, 1], now), now);
        let mut cold = true;
        let seen = world.run(600, Duration::from_millis(100), |n, _| {
            let slow = n == 0 && std::mem::take(&mut cold);
            Answer { after: if slow { Duration::from_millis(first) } else { Duration::from_micros(300) }, well: true }
        });
        assert!(share(&seen, 0) > 0.15, "after {first} ms: {seen:?}");
    }
}

#[test]
fn the_slow_one_receives_less_and_recovers() {
    let now = Instant::now();
    let mut world = World::new(set(&config::Balancer::PeakEwma, &[1, 1, 1], now), now);
    let slow = Answer { after: Duration::from_millis(400), well: true };
    let interval = Duration::from_millis(5);
    let seen = world.run(5_000, interval, |n, _| if n == 0 { slow } else { FINE });
    assert!(share(&seen, 0) < 0.1, "{seen:?}");
    world.run(12_000, interval, |_, _| FINE);
    let seen = world.run(3_000, interval, |_, _| FINE);
    assert!(share(&seen, 0) > 0.2, "{seen:?}");
}

#[test]
fn a_newcomer_is_neither_flooded_nor_starved() {
    for others in [2, 20, 500] {
        let answer = Answer { after: Duration::from_millis(others), well: true };
        let now = Instant::now();
        let mut world = World::new(set(&config::Balancer::PeakEwma, &[1, 1, 1], now), now);
        world.run(5_000, Duration::from_millis(5), |_, _| answer);
        world.set = world.set.next(&endpoints(&[1, 1, 1, 1]), world.now, number);
        // In its first seconds, long before anything could have aged.
        let seen = world.run(1_000, Duration::from_millis(5), |_, _| answer);
        assert!((0.2..0.3).contains(&share(&seen, 3)), "others need {others} ms: {seen:?}");
    }
}

#[test]
fn weights_are_kept_by_every_balancer() {
    for balancer in all() {
        let now = Instant::now();
        let mut world = World::new(set(&balancer, &[1, 3, 0, 4], now), now);
        let seen = world.run(16_000, Duration::from_micros(500), |_, _| FINE);
        assert_eq!(seen[2], 0);
        for (n, weight) in [(0, 1.0), (1, 3.0), (3, 4.0)] {
            let relative = share(&seen, n) * 8.0 / weight;
            assert!((0.75..1.35).contains(&relative), "{balancer:?}: {seen:?}");
        }
    }
}

#[test]
fn weights_count_also_where_requests_are_few() {
    let now = Instant::now();
    let mut world = World::new(set(&config::Balancer::PeakEwma, &[1, 1, 1, 1, 4], now), now);
    let noisy = |_: usize, rng: &mut fastrand::Rng| Answer {
        after: Duration::from_micros(rng.u64(19_000..21_000)),
        well: true,
    };
    let seen = world.run(4_000, Duration::from_millis(100), noisy);
    assert!((0.35..0.6).contains(&share(&seen, 4)), "{seen:?}");
}

#[test]
fn who_joins_a_serving_set_warms_up_and_who_founds_it_does_not() {
    for balancer in all().into_iter().take(4) {
        let now = Instant::now();
        let slow = Balancer::new(&balancer).unwrap().with_slow_start(Some(Duration::from_secs(60)));
        let founded = EndpointSet::new(slow, &endpoints(&[1, 1]), now, number);
        assert!(founded.warm_at().is_none());
        let mut world = World::new(founded.next(&endpoints(&[1, 1, 1]), now, number), now);
        let interval = Duration::from_millis(2);
        let mut after = |seconds: u64| {
            world.run(seconds as usize * 500, interval, |_, _| FINE);
            share(&world.run(2_000, interval, |_, _| FINE), 2)
        };
        let (cold, half, warm) = (after(0), after(24), after(30));
        assert!((0.02..0.1).contains(&cold), "{balancer:?}: {cold}");
        assert!((0.15..0.26).contains(&half), "{balancer:?}: {half}");
        assert!((0.3..0.37).contains(&warm), "{balancer:?}: {warm}");
    }
}
