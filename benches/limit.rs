//! What a limit costs a request, in time and allocations.
//!
//! `cargo bench --bench limit --no-default-features`

use std::{convert::Infallible, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use portcullis::{
    Body,
    fault::FaultLayer,
    forwarded::ClientAddr,
    limit::{
        adaptive::AdaptiveLayer,
        concurrency::{ConcurrencyLayer, Permits},
        rate::{ClientIp, Key, KeyOf, Limiter, Quota, RateLayer},
        shed::ShedLayer,
    },
};
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};

/// So high that nothing is refused, however fast the machine.
fn quota() -> Quota {
    Quota::per_second(1_000_000_000).expect("a valid quota")
}

fn assert_allocations(expected: u64, name: &str, mut one: impl FnMut()) {
    // The adaptive limit's window grows to 1,024 samples, once.
    (0..5_000).for_each(|_| one());
    let allocated = allocation_counter::measure(|| (0..1_000).for_each(|_| one())).count_total;
    assert_eq!(allocated, 1_000 * expected, "{name}: allocations of 1,000 calls");
}

/// A decision alone; the clock is read once per decision, as it is in the layer.
fn rate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rate_check");
    let limiter = Limiter::new(quota());
    let mut one = || {
        black_box(limiter.check(None, Instant::now()));
    };
    assert_allocations(0, "a check without a key", &mut one);
    group.bench_function("no_key", |bencher| bencher.iter(&mut one));
    for keys in [1, 10_000] {
        let limiter = Limiter::new(quota());
        let keyed: Vec<Key> = (0..keys).map(Key::of).collect();
        keyed.iter().for_each(|key| {
            limiter.check(Some(*key), Instant::now());
        });
        let mut all = keyed.iter().cycle().copied();
        let mut one = || {
            black_box(limiter.check(all.next(), Instant::now()));
        };
        assert_allocations(0, "a check of a known key", &mut one);
        group.bench_function(BenchmarkId::new("keys", keys), |bencher| bencher.iter(&mut one));
    }
    // Every key is new, and all places are taken.
    let limiter = Limiter::new(Quota::new(1, Duration::from_secs(3600)).expect("a valid quota"));
    let mut key = 0_u64;
    let mut one = || {
        key += 1;
        black_box(limiter.check(Some(Key::of(key)), Instant::now()));
    };
    (0..200_000).for_each(|_| one());
    assert_allocations(0, "a check of a new key when full", &mut one);
    group.bench_function("flood", |bencher| bencher.iter(&mut one));

    let (mut parts, ()) = Request::new(()).into_parts();
    parts.extensions.insert(ClientAddr::new([192, 0, 2, 1].into()));
    let mut one = || {
        black_box(ClientIp.key(black_box(&parts)));
    };
    assert_allocations(0, "the key of a client", &mut one);
    group.bench_function("key_of_client", |bencher| bencher.iter(&mut one));
    group.finish();
}

fn permit(criterion: &mut Criterion) {
    let permits = Permits::new(10, 10);
    let mut one = || drop(black_box(permits.try_acquire()));
    assert_allocations(0, "a permit", &mut one);
    criterion.bench_function("permit", |bencher| bencher.iter(&mut one));
}

/// Each layer around a service that answers at once, from the call to the end of the body.
fn layers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("layer");
    let app = service_fn(|_: Request<()>| std::future::ready(Ok::<_, Infallible>(Response::new(Body::from("hello")))));
    let mut bench = |name: &str, expected, one: &mut dyn FnMut()| {
        assert_allocations(expected, name, &mut *one);
        group.bench_function(name, |bencher| bencher.iter(&mut *one));
    };
    bench("none", 0, &mut serve(app));
    bench("rate", 0, &mut serve(RateLayer::new(quota()).layer(app)));
    bench("adaptive", 0, &mut serve(AdaptiveLayer::new().layer(app)));
    // The one allocation is the observer that holds the permit to the end of the body.
    bench("concurrency", 1, &mut serve(ConcurrencyLayer::new(10).layer(app)));
    bench("shed", 1, &mut serve(ShedLayer::new(10).layer(app)));
    bench("fault_of_none", 0, &mut serve(FaultLayer::new().layer(app)));
    group.finish();
}

fn serve<S>(mut service: S) -> impl FnMut()
where
    S: Service<Request<()>, Response = Response<Body>>,
{
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    move || {
        let mut future = std::pin::pin!(service.call(Request::new(())));
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(Ok(response)) => drop(black_box(response)),
            _ => unreachable!("it answers at once"),
        }
    }
}

criterion_group!(benches, rate, permit, layers);
criterion_main!(benches);
