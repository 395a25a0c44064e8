use std::{collections::HashMap, net::SocketAddr, time::Duration};

use http::{Request, header::SET_COOKIE};
use tokio::net::TcpListener;
use tower::ServiceExt;

use super::*;
use crate::{
    config::{Endpoints, HashKey, Match, Rollout, Rule, SessionCarrier, SessionPersistence},
    upstream::Upstream,
};

fn weighted(name: &str, weight: u32) -> BackendRef {
    BackendRef { weight, ..BackendRef::new(name) }
}

fn rule(backends: impl IntoIterator<Item = BackendRef>) -> Rule {
    Rule { backends: backends.into_iter().collect(), ..Rule::default() }
}

fn choice(rule: &Rule, previous: Option<&Choice>) -> Choice {
    Choice::new(rule, &"shop".into(), 0, previous).unwrap()
}

fn parts(fields: &[(&'static str, &str)]) -> Parts {
    let mut request = Request::get("/cart/7").body(()).unwrap();
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request.into_parts().0
}

fn turns(choice: &Choice, count: usize) -> HashMap<usize, usize> {
    let mut counts = HashMap::new();
    for _ in 0..count {
        *counts.entry(choice.choose(&mut parts(&[])).unwrap().index).or_default() += 1;
    }
    counts
}

fn by_session(backends: impl IntoIterator<Item = BackendRef>) -> Rule {
    let carrier = SessionCarrier::Cookie { name: "sid".into(), permanent: false };
    let session = Some(SessionPersistence { carrier, absolute_timeout: None, idle_timeout: None });
    Rule { session, matches: vec![Match::prefix("/cart")], ..rule(backends) }
}

/// The cookie of an answer, as the client sends it back.
fn cookie(response: &Response<Body>) -> Option<String> {
    let set = response.headers().get(SET_COOKIE)?.to_str().unwrap();
    Some(set.split(';').next().unwrap().to_owned())
}

#[test]
fn one_backend_is_chosen_for_nothing() {
    let choice = choice(&rule([BackendRef::new("a")]), None);
    let mut parts = parts(&[]);
    let count = allocation_counter::measure(|| {
        let chosen = choice.choose(&mut parts).unwrap();
        assert!(chosen.index == 0 && chosen.cohort.is_none() && chosen.watch.is_none());
    });
    assert_eq!(count.count_total, 0);
}

#[test]
fn turns_are_exact_allocate_nothing_and_go_on_after_a_reload() {
    let rule = rule([weighted("a", 3), weighted("b", 1)]);
    let first = choice(&rule, None);
    let mut request = parts(&[]);
    let count = allocation_counter::measure(|| drop(first.choose(&mut request)));
    assert_eq!(count.count_total, 0);
    let next = choice(&rule, Some(&first));
    assert_eq!(turns(&next, 3).values().sum::<usize>() + 1, 4);
    assert_eq!(turns(&next, 4), HashMap::from([(0, 3), (1, 1)]));
    assert!(choice(&self::rule([weighted("a", 0)]), None).choose(&mut request).is_none());
}

#[test]
fn a_key_decides_and_without_it_turns_do() {
    let split = Split::By(HashKey::Header("x-user".into()));
    let rule = Rule { split, ..rule([BackendRef::new("a"), BackendRef::new("b")]) };
    let one = choice(&rule, None);
    let other = choice(&Rule { backends: rule.backends.iter().rev().cloned().collect(), ..rule.clone() }, None);
    let mut seen = [0; 2];
    for user in 0..50 {
        let user = user.to_string();
        let index = one.choose(&mut parts(&[("x-user", &user)])).unwrap().index;
        assert_eq!(one.choose(&mut parts(&[("x-user", &user)])).unwrap().index, index);
        assert_eq!(other.choose(&mut parts(&[("x-user", &user)])).unwrap().index, 1 - index);
        seen[index] += 1;
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
    assert_eq!(turns(&one, 10), HashMap::from([(0, 5), (1, 5)]));
}

#[test]
fn a_cohort_is_told_and_followed() {
    let named = |name: &str| BackendRef { cohort: Some(name.into()), ..BackendRef::new(format!("cart-{name}")) };
    let rule = Rule { split: Split::Cohort, ..rule([named("stable"), named("canary")]) };
    let choice = choice(&rule, None);
    for _ in 0..4 {
        let mut parts = parts(&[("baggage", "portcullis-cohort=x:stable,k=v")]);
        let exchange = Exchange::begin();
        parts.extensions.insert(exchange.clone());
        parts.extensions.insert(Cohort::new("web", "canary"));
        let chosen = choice.choose(&mut parts).unwrap();
        assert_eq!((chosen.index, chosen.cohort.unwrap().to_string()), (1, "shop:canary".into()));
        assert_eq!(exchange.record().cohort.as_deref(), Some("canary"));
        let told: Vec<_> = parts.headers.get_all("baggage").iter().collect();
        assert_eq!(told, ["k=v", "portcullis-cohort=shop:canary"]);
    }
    assert_eq!(turns(&choice, 4), HashMap::from([(0, 2), (1, 2)]));
}

#[test]
fn a_rollout_moves_the_weights_and_survives_a_reload_that_leaves_it() {
    let rollout = Some(Rollout { steps: vec![10, 50], ..Rollout::of("v2") });
    let rule = Rule { rollout, ..rule([weighted("a", 3), weighted("b", 1), weighted("v2", 0)]) };
    let first = choice(&rule, None);
    assert_eq!(turns(&first, 200)[&2], 20);
    first.rollout().unwrap().promote();
    assert_eq!(turns(&first, 8), HashMap::from([(2, 8)]));
    let kept = choice(&rule, Some(&first));
    assert_eq!(turns(&kept, 8), HashMap::from([(2, 8)]));
    kept.rollout().unwrap().abort();
    assert_eq!(turns(&kept, 8), HashMap::from([(0, 6), (1, 2)]));
    let changed = Rule { rollout: Some(Rollout { steps: vec![20], ..Rollout::of("v2") }), ..rule.clone() };
    assert_eq!(turns(&choice(&changed, Some(&kept)), 100)[&2], 20);
    let refused = |rule: &Rule| Choice::new(rule, &"shop".into(), 0, None).err().unwrap();
    assert_eq!(refused(&Rule { rollout: Some(Rollout::of("v3")), ..rule }), InvalidSplit::UnknownCanary("v3".into()));
    let alone = Rule { rollout: Some(Rollout::of("v2")), ..self::rule([BackendRef::new("v2")]) };
    assert_eq!(refused(&alone), InvalidSplit::NoStable("v2".into()));
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_judged_by_the_answers() {
    let rollout = Some(Rollout { steps: vec![50], min_requests: 5, ..Rollout::of("v2") });
    let choice = choice(&Rule { rollout, ..rule([BackendRef::new("v1"), BackendRef::new("v2")]) }, None);
    for _ in 0..40 {
        let chosen = choice.choose(&mut parts(&[])).unwrap();
        let answer = match chosen.index {
            0 => Ok(Response::new(Body::empty())),
            _ => Err(Error::new(Outcome::ConnectFailed)),
        };
        let _ = Watched::new(std::future::ready(answer), chosen.watch).await;
    }
    assert_eq!(choice.rollout().unwrap().share(), 0);
}

#[tokio::test]
async fn a_session_stays_at_its_backend_whatever_its_weight() {
    let rule = by_session([BackendRef::new("a"), BackendRef::new("b")]);
    let first = choice(&rule, None);
    let chosen = first.choose(&mut parts(&[])).unwrap();
    let mut answer = Response::new(Body::empty());
    chosen.watch.unwrap().answered(&mut answer);
    let sid = cookie(&answer).unwrap();
    let weightless = by_session([weighted("b", 1), weighted("a", 0)]);
    let next = choice(&weightless, Some(&first));
    for _ in 0..4 {
        let chosen = next.choose(&mut parts(&[("cookie", &sid)])).unwrap();
        assert_eq!(chosen.index, 1);
        let mut answer = Response::new(Body::empty());
        chosen.watch.unwrap().answered(&mut answer);
        assert_eq!(cookie(&answer), None, "nothing new");
    }
    let gone = choice(&by_session([BackendRef::new("b")]), None);
    let chosen = gone.choose(&mut parts(&[("cookie", &sid)])).unwrap();
    let mut answer = Response::new(Body::empty());
    chosen.watch.unwrap().answered(&mut answer);
    assert_ne!(cookie(&answer).unwrap(), sid);
    let mut refused = Response::new(Body::empty());
    refused.extensions_mut().insert(Outcome::Overloaded);
    gone.choose(&mut parts(&[])).unwrap().watch.unwrap().answered(&mut refused);
    assert_eq!(cookie(&refused), None);
}

async fn backend() -> (SocketAddr, tokio::task::AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(move || async move { address.to_string() });
    (address, tokio::spawn(async move { axum::serve(listener, app).await }).abort_handle())
}

#[tokio::test]
async fn a_session_stays_at_its_endpoint_until_that_is_gone() {
    let endpoints = [backend().await, backend().await, backend().await];
    let addresses = || Endpoints::fixed(endpoints.iter().map(|(address, _)| *address));
    let upstream = Upstream::new(config::Upstream {
        balancer: config::Balancer::RoundRobin,
        connect_timeout: Duration::from_secs(5),
        ..config::Upstream::new("up", addresses())
    });
    let upstream = upstream.unwrap();
    let choice = choice(&by_session([BackendRef::new("up")]), None);
    let ask = async |sid: Option<&str>| {
        let mut parts = parts(&sid.map(|sid| ("cookie", sid)).into_iter().collect::<Vec<_>>());
        parts.headers.insert("host", "shop.example".parse().unwrap());
        let chosen = choice.choose(&mut parts).unwrap();
        let future = upstream.clone().oneshot(Request::from_parts(parts, Body::empty()));
        let response = Watched::new(future, chosen.watch).await.unwrap();
        let sid = cookie(&response);
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (String::from_utf8(body.into()).unwrap(), sid)
    };
    let (first, sid) = ask(None).await;
    let sid = sid.unwrap();
    for _ in 0..6 {
        assert_eq!(ask(Some(&sid)).await, (first.clone(), None));
    }
    // Its endpoint is taken from the upstream: another one, and a new token that holds from then on.
    let left = endpoints.iter().map(|(address, _)| *address).filter(|address| address.to_string() != first);
    upstream.set_endpoints(&left.map(config::Endpoint::from).collect::<Vec<_>>());
    let (second, moved) = ask(Some(&sid)).await;
    assert_ne!(second, first);
    let moved = moved.unwrap();
    for _ in 0..4 {
        assert_eq!(ask(Some(&moved)).await, (second.clone(), None));
    }
}
