use std::{
    net::SocketAddr,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use axum::{Router, routing::get};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use tokio::{net::TcpListener, sync::Notify};
use tower::ServiceExt;

use super::*;
use crate::{
    Outcome,
    config::{self, BackendRef, Endpoints, Forwarded, Match, Route, Rule, Timeouts},
    connection::{ClientAddr, ConnectionInfo},
    route::RouteMatch,
};

#[cfg(feature = "tls-ring")]
mod rotation;
mod split;
#[cfg(feature = "metrics")]
mod streams;

fn rule(path: &str, backends: impl IntoIterator<Item = BackendRef>) -> Rule {
    Rule { matches: vec![Match::prefix(path)], backends: backends.into_iter().collect(), ..Rule::default() }
}

fn config(rules: impl IntoIterator<Item = Rule>, upstreams: impl IntoIterator<Item = config::Upstream>) -> Config {
    Config {
        routes: vec![Route { rules: rules.into_iter().collect(), ..Route::named("test") }],
        upstreams: upstreams.into_iter().collect(),
        ..Config::default()
    }
}

fn to(name: &str, endpoints: impl IntoIterator<Item = SocketAddr>) -> config::Upstream {
    config::Upstream::new(name, Endpoints::fixed(endpoints))
}

fn says(text: &'static str) -> Router {
    Router::new().fallback(move || async move { text })
}

/// A backend on a socket that says `text`, and how many connections it has taken.
async fn backend(text: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = axum::serve::ListenerExt::tap_io(listener, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    tokio::spawn(async move { axum::serve(listener, says(text)).await });
    (address, connections)
}

async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn send(gateway: &Gateway, request: Request<Body>) -> (StatusCode, Option<Outcome>, String) {
    let response = gateway.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    (parts.status, parts.extensions.get().copied(), text)
}

async fn ask(gateway: &Gateway, path: &str) -> (StatusCode, Option<Outcome>, String) {
    send(gateway, Request::get(path).header("host", "test.example").body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_local_service_answers_for_its_service_whatever_the_port_and_whether_a_manifest_has_it() {
    let rules = [
        rule("/whole", [BackendRef::new("shop/cart:80")]),
        rule("/other-port", [BackendRef::new("shop/cart:8080")]),
        rule("/missing", [BackendRef::invalid("shop/cart:9", "there is no such Service")]),
        rule("/exact", [BackendRef::new("other:1")]),
    ];
    let upstreams = [to("shop/cart:80", [closed().await]), to("shop/cart:8080", [])];
    let gateway = Gateway::builder(config(rules, upstreams))
        .local("shop/cart", says("local"))
        .local("other:1", says("other"))
        .build()
        .unwrap();
    for path in ["/whole", "/other-port", "/missing"] {
        assert_eq!(ask(&gateway, path).await, (StatusCode::OK, None, "local".into()), "{path}");
    }
    assert_eq!(ask(&gateway, "/exact").await.2, "other");
    assert!(gateway.upstreams().is_empty(), "nothing connects to what is here");
}

#[tokio::test]
async fn every_way_to_have_no_answer_has_its_status_and_outcome() {
    let (alive, _) = backend("alive").await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rules = [
        rule("/invalid", [BackendRef::invalid("gone", "there is no Service `gone`")]),
        rule("/weightless", [BackendRef { weight: 0, ..BackendRef::new("alive") }]),
        rule("/none", []),
        rule("/empty", [BackendRef::new("empty")]),
        rule("/closed", [BackendRef::new("closed")]),
        Rule {
            timeouts: Timeouts { request: Some(Duration::from_millis(50)), ..Timeouts::default() },
            ..rule("/late", [BackendRef::new("silent")])
        },
        Rule {
            timeouts: Timeouts { backend_request: Some(Duration::from_millis(50)), ..Timeouts::default() },
            ..rule("/late-attempt", [BackendRef::new("silent")])
        },
        Rule {
            timeouts: Timeouts {
                request: Some(Duration::ZERO),
                backend_request: Some(Duration::ZERO),
                max_stream_duration: Some(Duration::ZERO),
                ..Timeouts::default()
            },
            ..rule("/unlimited", [BackendRef::new("alive")])
        },
    ];
    let upstreams = [
        to("alive", [alive]),
        to("empty", []),
        to("closed", [closed().await]),
        to("silent", [silent.local_addr().unwrap()]),
    ];
    let gateway = Gateway::builder(config(rules, upstreams)).build().unwrap();
    for (path, status, outcome) in [
        ("/nowhere", 404, Outcome::NoRoute),
        ("/invalid", 500, Outcome::InvalidBackend),
        ("/weightless", 500, Outcome::InvalidBackend),
        ("/none", 500, Outcome::InvalidBackend),
        ("/empty", 503, Outcome::NoEndpoint),
        ("/closed", 502, Outcome::ConnectFailed),
        ("/late", 504, Outcome::UpstreamTimeout),
        ("/late-attempt", 504, Outcome::UpstreamTimeout),
        ("/%zz", 400, Outcome::BadRequest),
        ("/a/%2e%2e/../../b", 400, Outcome::BadRequest),
    ] {
        let (found, told, _) = ask(&gateway, path).await;
        assert_eq!((found.as_u16(), told), (status, Some(outcome)), "{path}");
    }
    assert_eq!(ask(&gateway, "/unlimited").await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_is_ambiguous_reaches_no_local_service_either() {
    let config = config([rule("/", [BackendRef::new("here")])], []);
    let gateway = Gateway::builder(config).local("here", says("reached")).build().unwrap();
    let mut no_host = Request::new(Body::empty());
    *no_host.uri_mut() = "/".parse().unwrap();
    assert_eq!(send(&gateway, no_host).await.0, StatusCode::BAD_REQUEST);
    let connect = Request::builder()
        .method(Method::CONNECT)
        .uri("a.example:443")
        .header("host", "a.example:443")
        .body(Body::empty());
    assert_eq!(send(&gateway, connect.unwrap()).await.1, Some(Outcome::NotImplemented));
}

#[tokio::test]
async fn a_local_service_sees_the_normal_form_its_route_and_nothing_a_client_says_of_itself() {
    let app = Router::new().fallback(|request: axum::extract::Request| async move {
        let route = request.extensions().get::<RouteMatch>().unwrap().route().to_string();
        format!("{} {route} {:?}", request.uri(), request.headers().get("x-forwarded-for"))
    });
    let config = config([rule("/", [BackendRef::new("here")])], []);
    let gateway = Gateway::builder(config).local("here", app).build().unwrap();
    let request = Request::get("/a/./b//c?x=%2e")
        .header("host", "a.example")
        .header("x-forwarded-for", "6.6.6.6")
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(&gateway, request).await.2, "/a/b/c?x=%2e test None");
}

#[tokio::test]
async fn a_configuration_says_whom_to_trust_in_the_place_of_the_program_for_as_long_as_it_does() {
    let app = Router::new().fallback(|request: axum::extract::Request| async move {
        format!("{:?}", request.extensions().get::<ClientAddr>().map(|client| client.ip()))
    });
    let with = |network: Option<&str>| {
        let trusting = |network: &str| Forwarded { trust: vec![network.parse().unwrap()], ..Forwarded::default() };
        Config { forwarded: network.map(trusting), ..config([rule("/", [BackendRef::new("here")])], []) }
    };
    let gateway = Gateway::builder(with(None)).trust(["10.0.0.0/8".parse().unwrap()]).local("here", app);
    let gateway = gateway.build().unwrap();
    let client = async |peer: &str| {
        let info = ConnectionInfo::new(peer.parse().unwrap(), "127.0.0.1:80".parse().unwrap());
        let request = Request::get("/").header("host", "a.example").header("x-forwarded-for", "192.0.2.1");
        send(&gateway, request.extension(info).body(Body::empty()).unwrap()).await.2
    };
    let (told, ten, other) = ("Some(192.0.2.1)", "Some(10.0.0.1)", "Some(172.16.0.1)");
    for (network, expected) in [
        (None, [told, other]),
        (Some("172.16.0.0/12"), [ten, told]),
        (Some("::/128"), [ten, other]),
        (None, [told, other]),
    ] {
        gateway.apply(with(network)).unwrap();
        assert_eq!([client("10.0.0.1:1").await, client("172.16.0.1:1").await], expected, "{network:?}");
    }
}

#[tokio::test]
async fn weights_are_shares() {
    let backends = [BackendRef { weight: 3, ..BackendRef::new("a") }, BackendRef::new("b")];
    let gateway = Gateway::builder(config([rule("/", backends)], []))
        .local("a", says("a"))
        .local("b", says("b"))
        .build()
        .unwrap();
    let mut counts = [0; 2];
    for _ in 0..8 {
        counts[usize::from(ask(&gateway, "/").await.2 == "b")] += 1;
    }
    assert_eq!(counts, [6, 2]);
}

#[tokio::test]
async fn a_configuration_that_cannot_be_served_changes_nothing() {
    let gateway = Gateway::builder(config([rule("/", [BackendRef::new("here")])], []))
        .local("here", says("still"))
        .build()
        .unwrap();
    let unknown = config([rule("/", [BackendRef::new("heer")])], [to("there", [])]);
    let error = gateway.apply(unknown).unwrap_err().to_string();
    assert_eq!(
        error,
        "route `test`, rule 0: there is no upstream and no local service named `heer`; there are: here, there"
    );
    let twice = config([], [to("a", []), to("a", [])]);
    assert!(gateway.apply(twice).unwrap_err().to_string().contains("two upstreams named `a`"));
    let same = config([rule("/x", [BackendRef::new("here")]), rule("/x", [BackendRef::new("here")])], []);
    assert!(matches!(gateway.apply(same), Err(BuildError::Routes(_))));
    assert_eq!(ask(&gateway, "/").await.2, "still");
}

#[tokio::test]
async fn upstreams_that_stay_keep_their_connections_when_the_configuration_changes() {
    let (first, first_taken) = backend("first").await;
    let (second, _) = backend("second").await;
    let with = |endpoints: &[SocketAddr], path: &str| {
        config([rule(path, [BackendRef::new("up")])], [to("up", endpoints.iter().copied())])
    };
    let gateway = Gateway::builder(with(&[first], "/")).build().unwrap();
    assert_eq!(ask(&gateway, "/").await.2, "first");
    for _ in 0..5 {
        // Other routes; other endpoints; and back.
        gateway.apply(with(&[first], "/other")).unwrap();
        assert_eq!(ask(&gateway, "/other").await.2, "first");
        gateway.apply(with(&[first, second], "/")).unwrap();
        gateway.apply(with(&[first], "/")).unwrap();
        assert_eq!(ask(&gateway, "/").await.2, "first");
    }
    assert_eq!(first_taken.load(Ordering::SeqCst), 1);
    gateway.apply(with(&[second], "/")).unwrap();
    assert_eq!(ask(&gateway, "/").await.2, "second");
    // Other settings make another upstream.
    let changed = config::Upstream { max_attempts: 1, ..to("up", [first]) };
    gateway.apply(config([rule("/", [BackendRef::new("up")])], [changed])).unwrap();
    assert_eq!(ask(&gateway, "/").await.2, "first");
    assert_eq!(gateway.upstreams()[0].config().max_attempts, 1);
}

#[tokio::test]
async fn a_request_ends_under_the_configuration_it_began_with() {
    let (entered, proceed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = Router::new().fallback({
        let (entered, proceed) = (entered.clone(), proceed.clone());
        move || async move {
            entered.notify_one();
            proceed.notified().await;
            "old"
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let old = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, slow).await });
    let (new, _) = backend("new").await;

    let gateway = Gateway::builder(config([rule("/", [BackendRef::new("up")])], [to("up", [old])])).build().unwrap();
    let waiting = tokio::spawn({
        let gateway = gateway.clone();
        async move { ask(&gateway, "/").await }
    });
    entered.notified().await;
    gateway.apply(config([rule("/", [BackendRef::new("up")])], [to("up", [new])])).unwrap();
    assert_eq!(ask(&gateway, "/").await.2, "new");
    gateway.apply(config([], [])).unwrap();
    assert_eq!(ask(&gateway, "/").await.0, StatusCode::NOT_FOUND);
    proceed.notify_one();
    assert_eq!(waiting.await.unwrap(), (StatusCode::OK, None, "old".into()));
}

#[tokio::test]
async fn a_gateway_mounts_in_an_axum_app() {
    let gateway = Gateway::builder(config([rule("/shop", [BackendRef::new("here")])], []))
        .local("here", says("through the gateway"))
        .build()
        .unwrap();
    let app = Router::new().route("/own", get(|| async { "own" })).fallback_service(gateway);
    for (path, text) in [("/own", "own"), ("/shop/1", "through the gateway")] {
        let request = Request::get(path).header("host", "a.example").body(axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
    }
}

#[test]
fn an_explanation_names_the_backends_and_why_others_lost() {
    let mut config = config(
        [
            rule("/", [BackendRef::new("web")]),
            rule("/cart", [BackendRef::new("cart"), BackendRef::invalid("gone", "missing")]),
        ],
        [to("web", [])],
    );
    config.routes[0].hosts = vec!["shop.example".parse().unwrap()];
    let gateway = Gateway::builder(config).local("cart", says("")).build().unwrap();
    let request = Request::get("/cart/1").header("host", "shop.example").body(()).unwrap();
    let explanation = gateway.explain(&request).unwrap();
    let winner = explanation.winner().unwrap();
    assert_eq!((&*winner.route, winner.rule, winner.backend()), ("test", 1, None));
    let text = explanation.to_string();
    for line in ["backend cart, weight 1 of 2, in this process", "backend gone, weight 1 of 2, answers 500: missing"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(gateway.explain(&Request::get("/..").body(()).unwrap()).is_err());
    assert_eq!(
        gateway.routes().to_string(),
        "test rule 0: shop.example / -> web\ntest rule 1: shop.example /cart -> cart gone (500: missing)\n"
    );
}

#[cfg(feature = "tls")]
#[test]
fn certificates_change_with_the_configuration_or_not_at_all() {
    let certificate = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        config::Certificate {
            origin: format!("Secret {name}"),
            hosts: vec![],
            chain: made.cert.pem().into(),
            key: made.signing_key.serialize_pem().into(),
        }
    };
    let with = |certificates: Vec<config::Certificate>| Config { certificates, ..Config::default() };
    let gateway = Gateway::builder(with(vec![certificate("one.example")])).build().unwrap();
    let names = || crate::tls::CertificateSource::certificates(&gateway.certificates()).names().collect::<Vec<_>>();
    assert_eq!(names(), ["one.example"]);
    let mixed = config::Certificate { key: certificate("x.example").key, ..certificate("two.example") };
    let error = gateway.apply(with(vec![mixed])).unwrap_err().to_string();
    assert!(error.contains("Secret two.example"), "{error}");
    assert_eq!(names(), ["one.example"]);
    gateway.apply(with(vec![certificate("two.example")])).unwrap();
    assert_eq!(names(), ["two.example"]);
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn metrics_count_requests_show_upstreams_and_forget_what_is_gone() {
    let (alive, _) = backend("alive").await;
    let metrics = Metrics::new();
    let gateway = Gateway::builder(config([rule("/", [BackendRef::new("up")])], [to("up", [alive])]))
        .metrics(&metrics)
        .build()
        .unwrap();
    ask(&gateway, "/").await;
    let text = metrics.encode_prometheus();
    assert!(text.contains(r#"portcullis_requests_total{route="test",upstream="up",method="GET",code="2xx""#), "{text}");
    assert!(text.contains(r#"endpoints{upstream="up"} 1"#), "{text}");
    gateway.apply(config([], [])).unwrap();
    let text = metrics.encode_prometheus();
    assert!(!text.contains(r#""up""#), "{text}");
}

#[test]
fn what_was_replaced_is_freed_by_who_replaced_it() {
    struct Old(mpsc::Sender<thread::ThreadId>);
    impl Drop for Old {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }
    let (sender, freed) = mpsc::channel();
    let old = Arc::new(Old(sender));
    let routing = old.clone();
    let began = Arc::new(Barrier::new(2));
    let replacing = thread::spawn({
        let began = began.clone();
        move || {
            began.wait();
            free(old);
        }
    });
    let replaces = replacing.thread().id();
    began.wait();
    thread::yield_now();
    drop(routing);
    replacing.join().unwrap();
    assert_eq!(freed.recv(), Ok(replaces));
}
