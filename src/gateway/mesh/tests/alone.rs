//! Services that no route governs.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;

use super::*;
use crate::{
    config::{Balancer, HashKey},
    gateway::Explanation,
};

/// A backend on a socket that answers with its own address and its peer's: the same peer is the same connection.
async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { format!("{address} {peer}") };
    let app = axum::Router::new().fallback(answer).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn upstream(name: &str, endpoints: &[SocketAddr]) -> Upstream {
    Upstream::new(name, Endpoints::fixed(endpoints.iter().copied()))
}

/// `tea/black` with port 80, that has this upstream for itself.
fn black(upstream: Upstream) -> config::Service {
    let backend = BackendRef::new(&*upstream.name);
    let port = ServicePort { upstream: Some(Arc::new(upstream)), ..ServicePort::new(80, backend) };
    config::Service { name: "tea/black".into(), ports: vec![port] }
}

/// The same, at this endpoint, with nothing else.
fn black_at(endpoints: &[SocketAddr]) -> Config {
    Config { services: vec![black(upstream("tea/black:80", endpoints))], ..Config::default() }
}

fn explain(gateway: &Gateway) -> Explanation {
    gateway.client("tea").explain(&get("http://black/")).unwrap()
}

#[tokio::test]
async fn it_is_made_at_the_first_call_and_never_again() {
    let gateway = Gateway::builder(black_at(&[backend().await])).build().unwrap();
    let names = || gateway.upstreams().iter().map(|one| one.name().to_owned()).collect::<Vec<_>>();
    let explanation = explain(&gateway);
    let backend = &explanation.winner().unwrap().backends[0];
    assert!(backend.upstream.as_ref().unwrap().starts_with("127.0.0.1:") && backend.invalid.is_none(), "{explanation}");
    assert!(gateway.client("tea").knows(&get("http://black/")));
    assert_eq!(names(), [""; 0], "to be asked about is not to be called");

    let first = ask(&gateway, "tea", "http://black/").await;
    for (namespace, uri) in [
        ("tea", "http://black:80/"),
        ("web", "http://black.tea/"),
        ("web", "http://black.tea.svc/"),
        ("web", "http://black.tea.svc.cluster.local/"),
    ] {
        assert_eq!(ask(&gateway, namespace, uri).await, first, "over the same connection: {uri}");
    }
    assert_eq!(names(), ["tea/black:80"]);
    assert_eq!(explain(&gateway).to_string(), explanation.to_string());
    for uri in ["http://white/", "http://black:81/"] {
        assert_eq!(ask(&gateway, "tea", uri).await, "no_route", "{uri}");
    }
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn it_is_measured_from_its_first_call() {
    let metrics = crate::telemetry::metrics::Metrics::new();
    let config = black_at(&[backend().await]);
    let gateway = Gateway::builder(config.clone()).metrics(&metrics).build().unwrap();
    let endpoints = r#"endpoints{upstream="tea/black:80"} 1"#;
    assert!(!metrics.encode_prometheus().contains(endpoints));
    ask(&gateway, "tea", "http://black/").await;
    gateway.apply(config).unwrap();
    let text = metrics.encode_prometheus();
    let requests = r#"portcullis_requests_total{route="tea/black:80",upstream="tea/black:80""#;
    assert!(text.contains(endpoints) && text.contains(requests), "{text}");
}

#[tokio::test]
async fn without_an_endpoint_calls_are_answered_503() {
    let gateway = Gateway::builder(black_at(&[])).build().unwrap();
    let (status, outcome, _) = send(gateway.client("tea"), get("http://black/")).await;
    assert_eq!((status.as_u16(), outcome), (503, Some(Outcome::NoEndpoint)));
}

#[tokio::test]
async fn its_connections_stay_whatever_leads_to_it() {
    let (one, other) = (backend().await, backend().await);
    let listed = || vec![upstream("tea/black:80", &[one])];
    let attached = || vec![route("r", "tea/black", None, None, vec![rule("/", "tea/black:80")])];
    let inbound = || vec![Route { rules: vec![rule("/", "tea/black:80")], ..Route::named("in") }];
    let bare = || vec![ServicePort::new(80, BackendRef::new("tea/black:80"))];
    let governed = || Config {
        services: vec![config::Service { name: "tea/black".into(), ports: bare() }],
        routes: attached(),
        upstreams: listed(),
        ..Config::default()
    };
    let gateway = Gateway::builder(black_at(&[one])).build().unwrap();
    let first = ask(&gateway, "tea", "http://black/").await;
    for (config, what) in [
        (black_at(&[one]), "nothing changes"),
        (governed(), "a route governs its calls"),
        (black_at(&[one]), "the route is gone"),
        (Config { routes: inbound(), upstreams: listed(), ..black_at(&[one]) }, "requests from outside go there"),
        (black_at(&[one]), "they do no longer"),
    ] {
        gateway.apply(config).unwrap();
        assert_eq!(gateway.upstreams().len(), 1, "{what}");
        assert_eq!(ask(&gateway, "tea", "http://black/").await, first, "{what}");
    }
    gateway.apply(black_at(&[other])).unwrap();
    assert!(ask(&gateway, "tea", "http://black/").await.starts_with(&other.to_string()), "its endpoints move");
    gateway.apply(black_at(&[one, other])).unwrap();
    assert_eq!(gateway.upstreams()[0].endpoints().len(), 2);

    let patient = Upstream { response_timeout: Duration::from_secs(1), ..upstream("tea/black:80", &[one]) };
    gateway.apply(Config { services: vec![black(patient)], ..Config::default() }).unwrap();
    assert!(gateway.upstreams().is_empty(), "with other settings it is another");
    ask(&gateway, "tea", "http://black/").await;
    assert_eq!(gateway.upstreams()[0].config().response_timeout, Duration::from_secs(1));
    gateway.apply(Config::default()).unwrap();
    assert!(gateway.upstreams().is_empty() && ask(&gateway, "tea", "http://black/").await == "no_route");
}

#[tokio::test]
async fn what_only_requests_from_outside_went_to_ends_with_its_route() {
    let one = backend().await;
    let routes = vec![Route { rules: vec![rule("/", "tea/black:80")], ..Route::named("in") }];
    let from_outside = Config { routes, upstreams: vec![upstream("tea/black:80", &[one])], ..black_at(&[one]) };
    let gateway = Gateway::builder(from_outside).build().unwrap();
    gateway.apply(black_at(&[one])).unwrap();
    assert!(gateway.upstreams().is_empty());
}

#[tokio::test]
async fn what_cannot_be_made_is_answered_500_by_itself() {
    let broken = || Upstream {
        balancer: Balancer::RingHash(HashKey::Header("no name".into())),
        ..upstream("tea/black:80", &[backend_nobody()])
    };
    let config = || Config { services: vec![black(broken())], ..Config::default() };
    let gateway = Gateway::builder(config()).build().unwrap();
    for _ in 0..2 {
        let (status, outcome, _) = send(gateway.client("tea"), get("http://black/")).await;
        assert_eq!((status.as_u16(), outcome), (500, Some(Outcome::InvalidBackend)));
        gateway.apply(config()).unwrap();
    }
    let explanation = explain(&gateway);
    assert_eq!(explanation.outcome(), Some(Outcome::InvalidBackend));
    assert!(explanation.to_string().contains("answered 500: upstream `tea/black:80`: "), "{explanation}");
}

fn backend_nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

#[tokio::test]
async fn a_service_of_this_process_stands_in_for_it() {
    let echo = Echo::new("here");
    let gateway = Gateway::builder(black_at(&[backend_nobody()])).local("tea/black", echo.service()).build().unwrap();
    assert_eq!(ask(&gateway, "tea", "http://black/").await, "here");
    assert!(gateway.upstreams().is_empty() && explain(&gateway).winner().unwrap().backends[0].local);
}

#[test]
fn an_upstream_that_would_not_be_the_one_is_refused() {
    let mut misnamed = black(upstream("tea/black:80", &[]));
    misnamed.ports[0].backend = BackendRef::new("tea/green:80");
    let one = black(upstream("shared", &[]));
    let another = config::Service { name: "tea/green".into(), ..black(upstream("shared", &[backend_nobody()])) };
    let same = config::Service { name: "tea/white".into(), ..one.clone() };
    for (services, message) in [
        (vec![misnamed], "service `tea/black`: the upstream of port 80 is not its backend `tea/green:80`"),
        (vec![one.clone(), another], "there are two upstreams named `shared`"),
    ] {
        let error = Gateway::builder(Config { services, ..Config::default() }).build().unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
    Gateway::builder(Config { services: vec![one, same], ..Config::default() }).build().unwrap();
}
