//! What a service of this process has of the upstream that it stands in for, and what it asks of retries.

use super::*;
use crate::config::CircuitBreaker;

#[tokio::test(start_paused = true)]
async fn a_service_of_this_process_has_the_breaker_of_its_upstream_which_stays_over_reloads() {
    let double = Double::new([Act::Say(500)]);
    let circuit_breaker = Some(CircuitBreaker { consecutive_failures: 3, ..CircuitBreaker::default() });
    let here = config::Upstream { circuit_breaker, ..config::Upstream::new("here", Endpoints::Static(Vec::new())) };
    let config = |here: &config::Upstream| Config { upstreams: vec![here.clone()], ..rules([to("here")]) };
    let gateway = Gateway::builder(config(&here)).local("here", double.service()).build().unwrap();
    for _ in 0..3 {
        assert_eq!(answer(&gateway, get("/")).await, (500, None));
    }
    let refused = send(&gateway, get("/")).await;
    assert_eq!(refused.extensions().get(), Some(&Outcome::BreakerOpen));
    assert!(refused.headers().contains_key("retry-after"));

    // Other settings around it change nothing of its state, another breaker is a new one.
    let hedged = config::Upstream { hedge: Some(Hedge::default()), ..here.clone() };
    gateway.apply(config(&hedged)).unwrap();
    assert_eq!(answer(&gateway, get("/")).await, (503, Some(Outcome::BreakerOpen)));
    assert_eq!(double.count(), 3);
    let circuit_breaker = Some(CircuitBreaker { consecutive_failures: 4, ..CircuitBreaker::default() });
    gateway.apply(config(&config::Upstream { circuit_breaker, ..here.clone() })).unwrap();
    assert_eq!(answer(&gateway, get("/")).await, (500, None));
    gateway.apply(config(&config::Upstream { circuit_breaker: None, ..here })).unwrap();
    for _ in 0..9 {
        assert_eq!(answer(&gateway, get("/")).await, (500, None));
    }
}

#[tokio::test(start_paused = true)]
async fn no_client_is_held_for_longer_than_its_rule_allows_a_backend_to_ask_for() {
    for (longest_wait, waited, count) in [(None, 0, 1), (Some(10), 6, 2)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let seen = asked.clone();
        let service = service_fn(move |_: Request<Body>| {
            seen.fetch_add(1, SeqCst);
            let response = Response::builder().status(503).header("retry-after", "6").body(Body::empty());
            async { Ok::<_, std::convert::Infallible>(response.unwrap()) }
        });
        let default = Retry { statuses: vec![503], ..Retry::default() };
        let longest_wait = longest_wait.map_or(default.longest_wait, Duration::from_secs);
        let rule = Rule { retry: Some(Retry { longest_wait, ..default }), ..to("here") };
        let gateway = Gateway::builder(rules([rule])).local("here", service).build().unwrap();
        let began = Instant::now();
        assert_eq!(send(&gateway, get("/")).await.status(), 503);
        assert_eq!((began.elapsed().as_secs(), asked.load(SeqCst)), (waited, count));
    }
}

/// A gateway of one rule whose backend `here` is this double, behind a breaker that opens at two failures.
fn breaking(rule: Rule, double: &Double) -> Gateway {
    let circuit_breaker = Some(CircuitBreaker { consecutive_failures: 2, ..CircuitBreaker::default() });
    let here = config::Upstream { circuit_breaker, ..config::Upstream::new("here", Endpoints::Static(Vec::new())) };
    let config = Config { upstreams: vec![here], ..rules([rule]) };
    Gateway::builder(config).local("here", double.service()).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_a_service_here_does_not_answer_in_time_opens_its_breaker() {
    let timeouts = || Timeouts { backend_request: Some(100 * MS), ..Timeouts::default() };
    for (retry, asked) in [(None, 1), (retry(1, []), 2)] {
        let double = Double::new([Act::Hang]);
        let rule = Rule { timeouts: timeouts(), retry, ..to("here") };
        let gateway = breaking(rule, &double);
        let mut requests = 0;
        while double.count() < 2 {
            let late = tokio::time::timeout(60_000 * MS, send(&gateway, get("/"))).await.unwrap();
            assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
            requests += 1;
            assert_eq!(double.count(), requests * asked);
        }
        assert_eq!(answer(&gateway, get("/")).await, (503, Some(Outcome::BreakerOpen)));
        assert_eq!(double.count(), 2);
    }
}
