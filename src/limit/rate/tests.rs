use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{HeaderName, Request, Response, StatusCode};
use proptest::prelude::*;
use tokio::time::{Duration, Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

use super::*;
use crate::{Body, Outcome};

fn app() -> impl Service<
    Request<()>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>>,
> + Clone {
    service_fn(async |_: Request<()>| Ok(Response::new(Body::from("hello"))))
}

fn tenant(name: &str) -> Request<()> {
    Request::get("/").header("x-tenant", name).body(()).unwrap()
}

fn by_tenant() -> Header {
    Header(HeaderName::from_static("x-tenant"))
}

/// Whether no window holds more than the quota allows.
fn within(mut passed: Vec<u64>, interval: u64, burst: u64) -> Result<(), TestCaseError> {
    passed.sort_unstable();
    for (i, from) in passed.iter().enumerate() {
        for (j, to) in passed.iter().enumerate().skip(i) {
            let count = (j - i + 1) as u64;
            prop_assert!(count <= burst + (to - from) / interval, "{} from {} to {}", count, from, to);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Four threads, whose clocks are ahead of and behind each other, use three keys and no key.
    #[test]
    fn no_window_holds_more_than_the_quota(per_second in 1..2_000u32, burst in 1..12u32, seed: u64) {
        let quota = Quota::per_second(per_second).unwrap().burst(burst).unwrap();
        let limiter = Limiter::with_keys(quota, 3 * 1024, WhenFull::Evict);
        let start = Instant::now();
        let clock = AtomicU64::new(0);
        let passed: Vec<(u64, u64)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|thread| {
                let (limiter, clock) = (&limiter, &clock);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(thread));
                    let mut passed = Vec::new();
                    for _ in 0..150 {
                        let step = if rng.bool() { 0 } else { rng.u64(..20_000_000) };
                        let now = clock.fetch_add(step, Relaxed) + rng.u64(..1_000);
                        let key = rng.u64(..4);
                        let decision = limiter.check((key > 0).then(|| Key::of(key)), start + Duration::from_nanos(now));
                        if decision.is_allowed() {
                            passed.push((key, now));
                        }
                    }
                    passed
                })
            }).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let interval = 1_000_000_000u64.div_ceil(u64::from(per_second));
        for key in 0..4 {
            let times: Vec<u64> = passed.iter().filter(|(of, _)| *of == key).map(|(_, at)| *at).collect();
            prop_assert!(!times.is_empty());
            within(times, interval, u64::from(burst))?;
        }
    }

    /// A place less than there are keys: those who share one quota meanwhile exceed theirs no more.
    #[test]
    fn sharing_when_full_is_exact_for_every_key(seed: u64) {
        let quota = Quota::new(1, Duration::from_nanos(100)).unwrap().burst(3).unwrap();
        let limiter = Limiter::with_keys(quota, 4, WhenFull::Share);
        let start = Instant::now();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut passed = vec![Vec::new(); 12];
        let mut now = 1;
        for _ in 0..600 {
            now += rng.u64(..30);
            let key = rng.usize(..12);
            if limiter.check(Some(Key::of(key)), start + Duration::from_nanos(now)).is_allowed() {
                passed[key].push(now);
            }
        }
        prop_assert_eq!((limiter.keys(), limiter.evicted()), (4, 0));
        for times in passed {
            within(times, 100, 3)?;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_keys_neither_grows_memory_nor_frees_whoever_is_at_the_limit() {
    let limiter = Limiter::with_keys(Quota::per_minute(100).unwrap(), 2_000, WhenFull::Evict);
    let now = Instant::now();
    let busy = Some(Key::of("busy"));
    let mut passed = 0;
    for step in 0..50_000 {
        limiter.check(Some(Key::of(step)), now);
        passed += u32::from(limiter.check(busy, now).is_allowed());
    }
    assert_eq!(passed, 100);
    assert!(limiter.keys() <= 2_000, "{limiter:?}");
    assert!(limiter.evicted() >= 48_000, "{limiter:?}");
    // Idle cells are as good as none, and are taken without harm to anyone.
    advance(Duration::from_secs(60)).await;
    let before = limiter.evicted();
    for step in 0..500 {
        limiter.check(Some(Key::of(("new", step))), Instant::now());
    }
    assert_eq!(limiter.evicted(), before);
}

#[tokio::test(start_paused = true)]
async fn a_limiter_of_one_place_works() {
    for when_full in [WhenFull::Evict, WhenFull::Share] {
        let limiter = Limiter::with_keys(Quota::per_second(1).unwrap(), 0, when_full);
        let now = Instant::now();
        assert!(limiter.check(Some(Key::of(1)), now).is_allowed());
        assert!(!limiter.check(Some(Key::of(1)), now).is_allowed());
        assert!(limiter.check(Some(Key::of(2)), now).is_allowed());
        assert_eq!(limiter.check(Some(Key::of(3)), now).is_allowed(), when_full == WhenFull::Evict);
        assert_eq!(limiter.keys(), 1);
    }
}

/// What axum#2634 and tower#794 are about: each connection has its clone, and each clone had a limit of its own.
#[tokio::test(start_paused = true)]
async fn clones_and_services_of_one_layer_share_its_quota() {
    let layer = RateLayer::new(Quota::per_second(5).unwrap());
    let services = [layer.layer(app()), layer.clone().layer(app())];
    let mut passed = 0;
    for connection in 0..100 {
        let service = services[connection % 2].clone();
        for _ in 0..15 {
            let response = service.clone().oneshot(Request::new(())).await.unwrap();
            passed += u32::from(response.status() == StatusCode::OK);
        }
    }
    assert_eq!(passed, 5);
    advance(Duration::from_millis(399)).await;
    let mut service = services[0].clone();
    assert_eq!(service.ready().await.unwrap().call(Request::new(())).await.unwrap().status(), StatusCode::OK);
    assert_eq!(service.call(Request::new(())).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_to_come_again() {
    let layer = RateLayer::keyed(Quota::per_minute(40).unwrap().burst(1).unwrap(), by_tenant());
    let service = layer.layer(app());
    assert_eq!(service.clone().oneshot(tenant("a")).await.unwrap().status(), StatusCode::OK);
    let refused = service.clone().oneshot(tenant("a")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.extensions().get(), Some(&Outcome::RateLimited));
    assert_eq!(refused.headers()["retry-after"], "2");
    assert!(!refused.headers().contains_key("ratelimit"));

    let mut grpc = tenant("a");
    grpc.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let refused = service.clone().oneshot(grpc).await.unwrap();
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], "1500");

    // Nobody's budget is shared by all nobodies.
    assert_eq!(service.clone().oneshot(tenant("b")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(service.clone().oneshot(Request::new(())).await.unwrap().status(), StatusCode::OK);
    assert_eq!(service.clone().oneshot(Request::new(())).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    advance(Duration::from_millis(1500)).await;
    assert_eq!(service.oneshot(tenant("a")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn fields_say_what_is_left() {
    let layer = RateLayer::new(Quota::per_minute(2).unwrap()).fields(true);
    let service = layer.layer(app());
    let mut seen = Vec::new();
    for _ in 0..3 {
        let response = service.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(response.headers()["ratelimit-policy"], "\"default\";q=2;w=60");
        seen.push(response.headers()["ratelimit"].to_str().unwrap().to_owned());
    }
    assert_eq!(seen, ["\"default\";r=1;t=30", "\"default\";r=0;t=60", "\"default\";r=0;t=60"]);
    // The policy is that of the limiter.
    let layer = layer.limiter(Arc::new(Limiter::new(Quota::per_second(7).unwrap())));
    let response = layer.layer(app()).oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.headers()["ratelimit-policy"], "\"default\";q=7;w=1");
}

#[tokio::test]
async fn the_inner_service_is_asked_whether_it_is_ready_and_its_error_passes() {
    let (mock, mut handle) = mock::pair::<Request<()>, Response<Body>>();
    let mut service = task::spawn(RateLayer::new(Quota::per_minute(1).unwrap()).layer(mock));
    handle.allow(0);
    assert_pending!(service.enter(|cx, mut service| service.poll_ready(cx)));
    handle.allow(1);
    assert_ready!(service.enter(|cx, mut service| service.poll_ready(cx))).unwrap();
    let mut passes = task::spawn(service.enter(|_, mut service| service.call(Request::new(()))));
    // The mock panics when it is called unready, so the refusal does not call it.
    let mut refused = task::spawn(service.enter(|_, mut service| service.call(Request::new(()))));
    assert_eq!(assert_ready!(refused.poll()).unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    assert_pending!(passes.poll());
    handle.next_request().await.unwrap().1.send_error("broken");
    assert_eq!(assert_ready!(passes.poll()).unwrap_err().to_string(), "broken");
}
