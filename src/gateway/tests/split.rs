//! Splits, sessions and rollouts as a gateway's clients see them.

use std::{collections::BTreeMap, convert::Infallible, sync::atomic::AtomicBool};

use http::{HeaderName, HeaderValue, header};
use tower::{ServiceBuilder, service_fn};

use super::*;
use crate::{
    config::{HashKey, OutlierDetection, Rollout, SessionCarrier, SessionPersistence, Split},
    split::{
        Cohort, CohortLayer,
        rollout::{Phase, Reason},
    },
};

fn weighted(name: &str, weight: u32) -> BackendRef {
    BackendRef { weight, ..BackendRef::new(name) }
}

/// A gateway of this rule, with local services of these names, each of which says its own.
fn local(rule: Rule, names: &[&'static str]) -> Gateway {
    let builder = Gateway::builder(config([rule], []));
    names.iter().fold(builder, |builder, name| builder.local(*name, says(name))).build().unwrap()
}

fn get_with(uri: &str, field: Option<(HeaderName, &str)>) -> Request<Body> {
    let mut request = Request::get(uri).header("host", "test.example").body(Body::empty()).unwrap();
    request.headers_mut().extend(field.map(|(name, value)| (name, HeaderValue::from_str(value).unwrap())));
    request
}

#[tokio::test]
async fn weights_are_exact_over_short_runs() {
    for (weights, run) in [([90, 10], 100), ([90, 10], 10), ([2, 1], 3), ([1, 99], 100), ([7, 0], 7)] {
        let gateway = local(rule("/", [weighted("a", weights[0]), weighted("b", weights[1])]), &["a", "b"]);
        for _ in 0..3 {
            let mut shares = BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), 0)]);
            for _ in 0..run {
                *shares.get_mut(&ask(&gateway, "/").await.2).unwrap() += 1;
            }
            let expected = weights.map(|weight| weight * run / weights.iter().sum::<u32>());
            assert_eq!(shares.into_values().collect::<Vec<_>>(), expected, "{weights:?} in {run}");
        }
    }
}

#[tokio::test]
async fn a_user_keeps_the_variant_in_every_instance_and_as_it_grows() {
    type Ask = fn(u32) -> Request<Body>;
    let cases: [(HashKey, Ask); 3] = [
        (HashKey::Cookie("user".into()), |user| get_with("/", Some((header::COOKIE, &format!("x=1; user={user}"))))),
        (HashKey::Header("x-user".into()), |user| {
            get_with("/", Some((HeaderName::from_static("x-user"), &user.to_string())))
        }),
        (HashKey::Query("user".into()), |user| get_with(&format!("/?a=b&user={user}"), None)),
    ];
    for (key, request) in cases {
        let split = |b| Rule { split: Split::By(key.clone()), ..rule("/", [weighted("a", 100 - b), weighted("b", b)]) };
        let instances = [20, 20, 40].map(|share| local(split(share), &["a", "b"]));
        let mut of_b = [0, 0];
        for user in 0..500 {
            let mut variants = Vec::new();
            for instance in [0, 1, 0, 2] {
                variants.push(send(&instances[instance], request(user)).await.2);
            }
            let ([first, others @ ..], grown) = (&variants[..3], &variants[3]) else { panic!() };
            assert!(others.iter().all(|other| other == first), "user {user} by {key:?}: {variants:?}");
            assert!(first == "a" || grown == "b", "user {user} left a variant that grew");
            of_b[0] += u32::from(first == "b");
            of_b[1] += u32::from(grown == "b");
        }
        assert!((60..140).contains(&of_b[0]) && (150..250).contains(&of_b[1]), "{of_b:?} of 500 by {key:?}");
    }
}

#[tokio::test]
async fn the_cohort_reaches_the_service_and_the_calls_it_makes() {
    // What another process would be told.
    let stock = service_fn(async |request: Request<Body>| {
        Ok::<_, Infallible>(format!("{:?}", request.headers().get("baggage").map(HeaderValue::as_bytes)))
    });
    let stock = ServiceBuilder::new().layer(CohortLayer::client()).service(stock);
    let cart = service_fn(move |request: Request<Body>| {
        let stock = stock.clone();
        async move {
            let own = Cohort::of(request.extensions()).map(ToString::to_string);
            // Where the service waits, another request is served in between.
            tokio::task::yield_now().await;
            let told = stock.oneshot(Request::new(Body::empty())).await?;
            Ok::<_, Infallible>(Response::new(Body::from(format!("{} {told}", own.unwrap_or_default()))))
        }
    });
    let backends = [BackendRef { cohort: Some("next".into()), ..BackendRef::new("v2") }, BackendRef::new("v1")];
    let gateway = Gateway::builder(config([rule("/", backends), rule("/one", [BackendRef::new("v1")])], []))
        .local("v1", cart.clone())
        .local("v2", cart)
        .build()
        .unwrap();
    let (one, other) = tokio::join!(ask(&gateway, "/"), ask(&gateway, "/"));
    let mut seen = [one.2, other.2];
    seen.sort();
    let told = |member: &str| format!("Some({:?})", member.as_bytes());
    assert_eq!(seen[0], format!("test:next {}", told("portcullis-cohort=test:next")));
    assert_eq!(seen[1], format!("test:v1 {}", told("portcullis-cohort=test:v1")));
    assert_eq!(ask(&gateway, "/one").await.2, " None", "nothing was split");
}

/// What carries a session in these tests.
#[derive(Debug, Clone, Copy)]
enum Carrier {
    Cookie,
    Header,
}

impl Carrier {
    fn rule(self) -> Rule {
        let carrier = match self {
            Self::Cookie => SessionCarrier::Cookie { name: "sid".into(), permanent: false },
            Self::Header => SessionCarrier::Header { name: "x-session".into() },
        };
        let session = Some(SessionPersistence { carrier, absolute_timeout: None, idle_timeout: None });
        Rule { session, ..rule("/", [BackendRef::new("up")]) }
    }

    /// Who answers a client that has this token, with which status, and the new token if there is one.
    async fn ask(self, gateway: &Gateway, path: &str, token: Option<&str>) -> (String, u16, Option<String>) {
        let (sent, told) = match self {
            Self::Cookie => (header::COOKIE, header::SET_COOKIE),
            Self::Header => (HeaderName::from_static("x-session"), HeaderName::from_static("x-session")),
        };
        let response = gateway.clone().oneshot(get_with(path, token.map(|token| (sent, token)))).await.unwrap();
        let told = response.headers().get(told).map(|value| value.to_str().unwrap().split(';').next().unwrap().into());
        let status = response.status().as_u16();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        (String::from_utf8(text.into()).unwrap(), status, told)
    }
}

#[tokio::test]
async fn a_session_stays_at_its_endpoint_and_moves_when_that_is_removed() {
    for carrier in [Carrier::Cookie, Carrier::Header] {
        let endpoints = [backend("first").await.0, backend("second").await.0];
        let up = |endpoints: &[SocketAddr]| config::Upstream {
            balancer: config::Balancer::RoundRobin,
            ..to("up", endpoints.iter().copied())
        };
        let gateway = Gateway::builder(config([carrier.rule()], [up(&endpoints)])).build().unwrap();
        let mut ended = BTreeMap::new();
        for _ in 0..3 {
            let (name, status, token) = carrier.ask(&gateway, "/", None).await;
            let token = token.unwrap();
            for _ in 0..4 {
                let again = carrier.ask(&gateway, "/", Some(&token)).await;
                assert_eq!(again, (name.clone(), status, None), "{carrier:?}");
            }
            ended.insert(name, token);
        }
        assert_eq!(ended.len(), 2, "new clients take turns");
        // A forged or damaged token is none.
        assert!(carrier.ask(&gateway, "/", Some("sid=garbage")).await.2.is_some());

        gateway.apply(config([carrier.rule()], [up(&endpoints[1..])])).unwrap();
        let (name, _, moved) = carrier.ask(&gateway, "/", Some(&ended["first"])).await;
        let moved = moved.unwrap();
        assert_eq!((&*name, &moved), ("second", &ended["second"]), "{carrier:?}");
        assert_eq!(carrier.ask(&gateway, "/", Some(&moved)).await.2, None);
    }
}

/// A backend on a socket that says `text`, and answers 503 to `/break`.
async fn fragile(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = says(text).route("/break", get(move || async move { (StatusCode::SERVICE_UNAVAILABLE, text) }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn a_session_leaves_an_endpoint_that_is_ejected() {
    for carrier in [Carrier::Cookie, Carrier::Header] {
        let outlier_detection = Some(OutlierDetection { consecutive_5xx: 1, ..OutlierDetection::default() });
        let up = config::Upstream { outlier_detection, ..to("up", [fragile("first").await, fragile("second").await]) };
        let gateway = Gateway::builder(config([carrier.rule()], [up])).build().unwrap();
        let (first, _, token) = carrier.ask(&gateway, "/", None).await;
        let token = token.unwrap();
        let broken = carrier.ask(&gateway, "/break", Some(&token)).await;
        assert_eq!(broken, (first.clone(), 503, None), "the session's endpoint was asked");
        // Ejecting is another task's.
        while !gateway.upstreams()[0].endpoints().iter().any(|(endpoint, _)| endpoint.is_ejected()) {
            tokio::task::yield_now().await;
        }
        let (second, status, moved) = carrier.ask(&gateway, "/", Some(&token)).await;
        assert!(second != first && status == 200, "{carrier:?}: {second} {status}");
        let moved = moved.unwrap();
        assert_ne!(moved, token);
        assert_eq!(carrier.ask(&gateway, "/", Some(&moved)).await, (second, 200, None));
    }
}

/// A rule whose canary is `v2`, a step a minute.
fn rollout(steps: &[u8]) -> Rule {
    let rollout = Some(Rollout { steps: steps.to_vec(), ..Rollout::of("v2") });
    Rule { rollout, ..rule("/", [BackendRef::new("v1"), BackendRef::new("v2")]) }
}

/// A gateway of that rule; the canary fails as soon as it is told to. Each answer takes 10 ms.
fn canary(rule: Rule) -> (Gateway, Arc<AtomicBool>) {
    let version = |name: &'static str, fails: Arc<AtomicBool>| {
        Router::new().fallback(move || async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let fails = fails.load(Ordering::SeqCst);
            (if fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }, name)
        })
    };
    let fails = Arc::new(AtomicBool::new(false));
    let builder = Gateway::builder(config([rule], [])).local("v1", version("v1", Arc::default()));
    (builder.local("v2", version("v2", fails.clone())).build().unwrap(), fails)
}

/// How many of so many requests the canary got.
async fn canaries(gateway: &Gateway, requests: usize) -> usize {
    let mut count = 0;
    for _ in 0..requests {
        count += usize::from(ask(gateway, "/").await.2 == "v2");
    }
    count
}

fn phase(gateway: &Gateway) -> Phase {
    let [(route, rollout)] = &gateway.rollouts()[..] else { panic!("one rollout") };
    assert_eq!(&**route, "test");
    rollout.status().phase
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_does_well_is_promoted_step_by_step() {
    let (gateway, _) = canary(rollout(&[10, 50]));
    assert_eq!(canaries(&gateway, 400).await, 40);
    assert_eq!(phase(&gateway), Phase::Step(0));
    tokio::time::advance(Duration::from_secs(60)).await;
    ask(&gateway, "/").await;
    assert_eq!(phase(&gateway), Phase::Step(1));
    assert_eq!(canaries(&gateway, 200).await, 100);
    tokio::time::advance(Duration::from_secs(60)).await;
    ask(&gateway, "/").await;
    assert_eq!(phase(&gateway), Phase::Promoted);
    assert_eq!(canaries(&gateway, 50).await, 50);
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_fails_is_taken_back_after_few_requests() {
    let (gateway, fails) = canary(rollout(&[10, 50]));
    assert_eq!(canaries(&gateway, 200).await, 20);
    fails.store(true, Ordering::SeqCst);
    let failed = canaries(&gateway, 200).await;
    assert!((1..=5).contains(&failed), "{failed} requests failed");
    assert_eq!(phase(&gateway), Phase::RolledBack(Reason::Errors));
    assert_eq!(canaries(&gateway, 100).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_a_rollout_knows_unless_it_is_another() {
    let (gateway, fails) = canary(rollout(&[10, 50]));
    canaries(&gateway, 400).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    ask(&gateway, "/").await;
    let status = gateway.rollouts()[0].1.status();
    assert_eq!(status.phase, Phase::Step(1));

    canaries(&gateway, 30).await;
    let before = gateway.rollouts()[0].1.status();
    gateway.apply(config([rollout(&[10, 50]), rule("/other", [BackendRef::new("v1")])], [])).unwrap();
    assert_eq!(gateway.rollouts()[0].1.status(), before, "another rule changes nothing");
    assert_eq!(canaries(&gateway, 100).await, 50);

    fails.store(true, Ordering::SeqCst);
    canaries(&gateway, 50).await;
    assert_eq!(phase(&gateway), Phase::RolledBack(Reason::Errors));
    gateway.apply(config([rollout(&[10, 50])], [])).unwrap();
    assert_eq!(canaries(&gateway, 50).await, 0, "a reload does not give it another chance");
    gateway.apply(config([rollout(&[20, 50])], [])).unwrap();
    assert_eq!(phase(&gateway), Phase::Step(0), "another rollout does");
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn metrics_show_rollouts_while_there_are_any() {
    let metrics = Metrics::new();
    let builder = Gateway::builder(config([rollout(&[10, 50])], [])).local("v1", says("v1")).local("v2", says("v2"));
    let gateway = builder.metrics(&metrics).build().unwrap();
    let shown = |share: &str, state: &str| {
        let text = metrics.encode_prometheus();
        let labels = r#"route="test",rule="0",canary="v2""#;
        assert!(text.contains(&format!("portcullis_rollout_share_ratio{{{labels}}} {share}\n")), "{text}");
        assert!(text.contains(&format!("portcullis_rollout_state{{{labels},state=\"{state}\"}} 1\n")), "{text}");
    };
    shown("0.1", "progressing");
    canaries(&gateway, 400).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    ask(&gateway, "/").await;
    shown("0.5", "progressing");
    let (_, handle) = gateway.rollouts().pop().unwrap();
    handle.hold();
    shown("0.5", "held");
    handle.promote();
    shown("1.0", "promoted");
    handle.abort();
    shown("0.0", "rolled_back");
    gateway.apply(config([rule("/", [BackendRef::new("v1")])], [])).unwrap();
    assert!(!metrics.encode().contains("rollout"));
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn metrics_tell_cohorts_apart_where_there_are_any() {
    let metrics = Metrics::new();
    let next = BackendRef { cohort: Some("next".into()), ..BackendRef::new("v2") };
    let split = |next: BackendRef| {
        config([rule("/", [BackendRef::new("v1"), next]), rule("/one", [BackendRef::new("v1")])], [])
    };
    let builder = Gateway::builder(split(next)).local("v1", says("v1")).local("v2", says("v2"));
    let gateway = builder.metrics(&metrics).build().unwrap();
    for path in ["/", "/", "/one"] {
        ask(&gateway, path).await;
    }
    let counted = |labels: &str| {
        metrics.encode_prometheus().contains(&format!("portcullis_upstream_attempts_total{{route=\"test\",{labels}}} "))
    };
    for labels in [r#"upstream="v1",cohort="v1""#, r#"upstream="v2",cohort="next""#, r#"upstream="v1""#] {
        assert!(counted(labels), "{labels} is not in {}", metrics.encode_prometheus());
    }
    gateway.apply(split(BackendRef::new("v2"))).unwrap();
    assert!(!counted(r#"upstream="v2",cohort="next""#) && counted(r#"upstream="v1",cohort="v1""#));
}
