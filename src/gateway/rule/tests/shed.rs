//! What an upstream sheds, and the priorities of rules.

use super::*;
use crate::config::{AdaptiveConcurrency, Aimd, Priority, Shed, ShedShares};

#[tokio::test(start_paused = true)]
async fn load_is_shed_by_the_priority_of_rules_and_by_deadline_and_what_is_learned_stays_over_reloads() {
    let config = |limit| {
        let upstream = config::Upstream {
            shed: Some(Shed::new(limit)),
            ..config::Upstream::new("here", Endpoints::Static(vec![]))
        };
        let least = Rule { filters: vec![Filter::Priority(Priority::Sheddable)], ..to("here") };
        Config { upstreams: vec![upstream], ..rules([at("/suggest", least), at("/pay", to("here"))]) }
    };
    let double = Double::new([Act::SayAfter(100 * MS, 200), Act::Hang]);
    let gateway = Gateway::builder(config(2)).local("here", double.service()).build().unwrap();
    assert_eq!(status(&gateway, get("/pay")).await, 200);
    let within = |limit| {
        let mut request = get("/pay");
        request.extensions_mut().insert(Deadline::after(Instant::now(), limit));
        request
    };
    assert_eq!(answer(&gateway, within(50 * MS)).await, (504, Some(Outcome::DeadlineExceeded)));
    gateway.apply(config(2)).unwrap();
    assert_eq!(answer(&gateway, within(50 * MS)).await, (504, Some(Outcome::DeadlineExceeded)), "it is still slow");
    let mut told = get("/pay");
    told.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    told.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let response = tokio::time::timeout(Duration::from_secs(1), send(&gateway, told)).await.unwrap();
    assert_eq!(response.extensions().get(), Some(&Outcome::DeadlineExceeded), "what the client says counts");
    assert_eq!(double.count(), 1, "nothing is begun in vain");

    // Of two places 0.6 are for what is sheddable, rounded up.
    let hold = |path: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { status(&gateway, get(path)).await })
    };
    let held = [hold("/suggest"), hold("/pay")];
    sleep(MS).await;
    assert!(held.iter().all(|held| !held.is_finished()));
    for path in ["/suggest", "/pay"] {
        assert_eq!(answer(&gateway, get(path)).await, (503, Some(Outcome::Overloaded)), "{path}");
    }
    gateway.apply(config(3)).unwrap();
    let first = hold("/suggest");
    sleep(MS).await;
    let second = hold("/suggest");
    sleep(MS).await;
    assert!(!first.is_finished() && !second.is_finished(), "another limit counts from nothing");
    assert_eq!(answer(&gateway, get("/suggest")).await, (503, Some(Outcome::Overloaded)));
    let pays = hold("/pay");
    sleep(MS).await;
    assert!(!pays.is_finished(), "what is shed leaves room for what matters");
}

#[test]
fn a_share_that_is_none_is_refused_by_name() {
    for share in [-0.1, 1.5, f64::NAN] {
        let shed = Shed { shares: ShedShares { critical: share, ..ShedShares::default() }, ..Shed::new(1) };
        let upstream = config::Upstream { shed: Some(shed), ..config::Upstream::new("up", Endpoints::Static(vec![])) };
        let error = Gateway::builder(Config { upstreams: vec![upstream], ..Config::default() }).build().unwrap_err();
        let told = error.to_string();
        assert!(told.contains("up") && told.contains("critical") && told.contains("use 0 to 1"), "{told}");
    }
}

#[tokio::test]
async fn a_priority_that_code_gives_a_request_comes_before_that_of_its_rule_and_a_backends_before_its_rules() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let service = service_fn(move |request: Request<Body>| {
        seen.lock().unwrap().push(request.extensions().get::<Priority>().copied());
        async { Ok::<_, std::convert::Infallible>(Response::new(Body::empty())) }
    });
    let with = |priority| vec![Filter::Priority(priority)];
    let backend = BackendRef { filters: with(Priority::SheddablePlus), ..BackendRef::new("here") };
    let config = rules([
        at("/rule", Rule { filters: with(Priority::Sheddable), ..to("here") }),
        at("/backend", Rule { filters: with(Priority::Sheddable), backends: vec![backend], ..Rule::default() }),
        to("here"),
    ]);
    let gateway = Gateway::builder(config).local("here", service).build().unwrap();
    for path in ["/rule", "/backend", "/"] {
        for given in [None, Some(Priority::CriticalPlus)] {
            let mut request = get(path);
            if let Some(priority) = given {
                request.extensions_mut().insert(priority);
            }
            assert_eq!(status(&gateway, request).await, 200);
        }
    }
    let given = Some(Priority::CriticalPlus);
    let expected = [Some(Priority::Sheddable), given, Some(Priority::SheddablePlus), given, None, given];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn shares_are_those_of_an_adaptive_limit_too() {
    let config = |limit| {
        let aimd = Aimd { min_limit: limit, max_limit: limit, initial_limit: limit, ..Aimd::default() };
        let upstream = config::Upstream {
            shed: Some(Shed::default()),
            adaptive_concurrency: Some(AdaptiveConcurrency::Aimd(aimd)),
            ..config::Upstream::new("here", Endpoints::Static(vec![]))
        };
        let least = Rule { filters: vec![Filter::Priority(Priority::Sheddable)], ..to("here") };
        Config { upstreams: vec![upstream], ..rules([at("/suggest", least), at("/pay", to("here"))]) }
    };
    let gateway = Gateway::builder(config(10)).local("here", Double::new([Act::Hang]).service()).build().unwrap();
    let hold = |path: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { status(&gateway, get(path)).await })
    };
    let mut held: Vec<_> = (0..7).map(|_| hold("/suggest")).collect();
    sleep(MS).await;
    held.retain(|held| !held.is_finished());
    assert_eq!(held.len(), 6, "0.6 of ten");
    held.extend([hold("/pay"), hold("/pay")]);
    sleep(MS).await;
    assert!(held.iter().all(|held| !held.is_finished()));
    assert_eq!(answer(&gateway, get("/suggest")).await, (503, Some(Outcome::Overloaded)));
    gateway.apply(config(20)).unwrap();
    let more = hold("/suggest");
    sleep(MS).await;
    assert!(!more.is_finished(), "another limit counts from nothing");
}
