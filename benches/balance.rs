//! What a pick costs, in time and allocations, and what building a snapshot does.
//!
//! `cargo bench --bench balance --no-default-features`

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portcullis::{
    balance::{Balancer, EndpointSet, Pick, WeightedChoice},
    config::{self, Endpoint, HashKey},
};
use tokio::time::Instant;

fn balancers() -> [(&'static str, config::Balancer); 6] {
    [
        ("peak_ewma", config::Balancer::PeakEwma),
        ("least_request", config::Balancer::LeastRequest),
        ("round_robin", config::Balancer::RoundRobin),
        ("random", config::Balancer::Random),
        ("ring_hash", config::Balancer::RingHash(HashKey::Path)),
        ("maglev", config::Balancer::Maglev(HashKey::Path)),
    ]
}

/// Weights from 1 to 3, so that nothing profits from their being equal.
fn endpoints(count: usize) -> Vec<Endpoint> {
    let address = |n: usize| ([10, 0, (n / 250) as u8, (n % 250) as u8], 80).into();
    (0..count).map(|n| Endpoint { address: address(n), weight: n as u32 % 3 + 1 }).collect()
}

fn set(balancer: &config::Balancer, count: usize) -> EndpointSet<()> {
    let balancer = Balancer::new(balancer).expect("no header is hashed");
    EndpointSet::new(balancer, &endpoints(count), Instant::now(), |_| ())
}

/// A pick and the settlement of its attempt, on a set where every endpoint has history and load.
fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick_and_settle");
    for (name, balancer) in balancers() {
        for count in [3, 100, 10_000] {
            let set = set(&balancer, count);
            let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
            let mut step = 0;
            let mut one = || {
                step += 1;
                let now = now + Duration::from_micros(step);
                let hash = Some(rng.u64(..));
                let attempt = set.pick(&mut Pick { hash, ..Pick::new(now, &mut rng) });
                if let Some(attempt) = attempt {
                    attempt.succeed(now + Duration::from_micros(step % 20_000));
                }
            };
            (0..4 * count).for_each(|_| one());
            let allocated = allocation_counter::measure(|| (0..1_000).for_each(|_| one())).count_total;
            assert_eq!(allocated, 0, "{name} allocates on its hot path");
            group.bench_function(BenchmarkId::new(name, count), |bencher| bencher.iter(&mut one));
        }
    }
    group.finish();
}

/// The next snapshot, of which one endpoint is new.
fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("next_snapshot");
    group.sample_size(10);
    for (name, balancer) in balancers() {
        for count in [3, 100, 10_000] {
            let set = set(&balancer, count);
            let list = endpoints(count + 1);
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| set.next(black_box(&list), Instant::now(), |_| ()));
            });
        }
    }
    group.finish();
}

fn weighted_choice(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("weighted_choice");
    for (name, weights) in [("written", [90, 9, 1]), ("long", [1_000_003, 999_983, 17])] {
        let choice = WeightedChoice::new(weights);
        let allocated = allocation_counter::measure(|| {
            black_box(choice.choose());
        });
        assert_eq!(allocated.count_total, 0);
        group.bench_function(name, |bencher| bencher.iter(|| choice.choose()));
    }
    group.finish();
}

criterion_group!(benches, pick, build, weighted_choice);
criterion_main!(benches);
