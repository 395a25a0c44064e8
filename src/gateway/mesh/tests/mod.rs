//! Calls by a client, with services of this process in the place of backends.

mod alone;
#[cfg(feature = "kubernetes")]
mod conformance;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;
use tower::{Service, ServiceExt, service_fn};

use crate::{
    Body, Outcome,
    config::{
        self, BackendRef, Config, Conflicts, Endpoints, Filter, Match, MeshParent, Redirect, Retry, Route, Rule,
        ServicePort, Upstream,
    },
    connection::{ConnectionInfo, TlsInfo},
    exchange::Exchange,
    gateway::{BuildError, Gateway, MeshClient},
    split::Cohort,
    telemetry::Finished,
    timeout::Deadline,
};

/// A service that says its name, and remembers what it was asked.
#[derive(Clone)]
struct Echo {
    name: &'static str,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl Echo {
    fn new(name: &'static str) -> Self {
        Self { name, seen: Arc::default() }
    }

    fn last(&self) -> (String, HeaderMap) {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + Sync + use<>
    {
        let this = self.clone();
        service_fn(move |request: Request<Body>| {
            let (parts, _) = request.into_parts();
            this.seen.lock().unwrap().push((parts.uri.to_string(), parts.headers));
            let response = Response::new(Body::from(this.name));
            async move { Ok(response) }
        })
    }
}

fn service(name: &str, ports: impl IntoIterator<Item = u16>) -> config::Service {
    let port = |port| ServicePort::new(port, BackendRef::new(format!("{name}:{port}")));
    config::Service { name: name.into(), ports: ports.into_iter().map(port).collect() }
}

fn rule(path: &str, backend: &str) -> Rule {
    Rule { matches: vec![Match::prefix(path)], backends: vec![BackendRef::new(backend)], ..Rule::default() }
}

/// A route of `service` at `port`, for `consumers`.
fn route(name: &str, service: &str, port: Option<u16>, consumers: Option<&str>, rules: Vec<Rule>) -> Route {
    let parent = MeshParent { service: service.into(), port, consumers: consumers.map(str::to_owned) };
    Route { services: vec![parent], rules, ..Route::named(name) }
}

/// A gateway whose backends `tea/black` and `tea/green` are here.
fn gateway(config: Config) -> (Gateway, Echo, Echo) {
    let (black, green) = (Echo::new("black"), Echo::new("green"));
    let builder = Gateway::builder(config).local("tea/black", black.service()).local("tea/green", green.service());
    (builder.build().unwrap(), black, green)
}

async fn send(client: MeshClient, request: Request<Body>) -> (StatusCode, Option<Outcome>, String) {
    let (parts, body) = client.oneshot(request).await.unwrap().into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    (parts.status, parts.extensions.get().copied(), text)
}

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

/// What answered, or the outcome.
async fn ask(gateway: &Gateway, namespace: &str, uri: &str) -> String {
    let (_, outcome, text) = send(gateway.client(namespace), get(uri)).await;
    outcome.map_or(text, |outcome| outcome.to_string())
}

#[tokio::test]
async fn the_routes_of_a_service_govern_the_calls_to_it_and_no_others() {
    let config = Config {
        services: vec![service("tea/black", [80, 81, 443]), service("tea/green", [80])],
        routes: vec![
            route("one", "tea/black", Some(80), None, vec![rule("/green", "tea/green:80"), rule("/b", "tea/black:80")]),
            route("two", "tea/black", Some(443), None, vec![rule("/", "tea/green:80")]),
        ],
        ..Config::default()
    };
    let (gateway, ..) = gateway(config);
    for (namespace, uri, answer) in [
        ("tea", "http://black/green", "green"),
        ("tea", "http://black:80/b", "black"),
        ("web", "http://black.tea/green", "green"),
        ("web", "http://BLACK.tea.svc/green", "green"),
        ("web", "http://black.tea.svc.cluster.local./green", "green"),
        ("tea", "http://black/other", "no_route"),
        ("tea", "http://black:81/green", "black"),
        ("tea", "https://black/", "green"),
        ("tea", "http://green/green", "green"),
        // No service, or no port, of the configuration.
        ("web", "http://black/green", "no_route"),
        ("tea", "http://white/", "no_route"),
        ("tea", "http://black:82/", "no_route"),
        ("tea", "http://black:65616/green", "no_route"),
        ("tea", "http://black.tea.svc.example.org/green", "no_route"),
        ("tea", "http://10.0.0.1/", "no_route"),
        // What means nothing.
        ("tea", "ftp://black/green", "bad_request"),
        ("tea", "http://u@black/green", "bad_request"),
        ("tea", "/green", "bad_request"),
        ("tea", "http://black/%zz", "bad_request"),
    ] {
        assert_eq!(ask(&gateway, namespace, uri).await, answer, "{uri} from {namespace}");
    }
    for (uri, knows) in [
        ("http://black/other", true),
        ("https://black/", true),
        ("http://black:82/", false),
        ("http://white/", false),
        ("/", false),
    ] {
        assert_eq!(gateway.client("tea").knows(&get(uri)), knows, "{uri}");
    }
    let client = gateway.client("web").cluster_domain("Example.org.");
    assert_eq!(send(client, get("http://black.tea.svc.example.org/green")).await.2, "green");
}

#[test]
fn a_call_is_explained_as_it_would_be_sent() {
    let config = Config {
        services: vec![service("tea/black", [80, 81])],
        routes: vec![
            route("producer", "tea/black", Some(80), None, vec![rule("/green", "tea/green:80")]),
            route("consumer", "tea/black", Some(80), Some("web"), vec![rule("/", "tea/black:80")]),
        ],
        ..Config::default()
    };
    let (gateway, black, green) = gateway(config);
    for (namespace, uri, won) in [
        ("tea", "http://black/green", Some(("producer", "tea/green:80"))),
        ("tea", "http://black/a/../green", Some(("producer", "tea/green:80"))),
        ("web", "http://black.tea/green", Some(("consumer", "tea/black:80"))),
        ("tea", "http://black:81/green", Some(("tea/black:81", "tea/black:81"))),
        ("tea", "http://black/other", None),
    ] {
        let explanation = gateway.client(namespace).explain(&get(uri)).unwrap();
        let winner = explanation.winner().map(|winner| (&*winner.route, winner.backend().unwrap()));
        assert_eq!(winner, won, "{explanation}");
        assert_eq!(explanation.outcome(), won.is_none().then_some(Outcome::NoRoute), "{explanation}");
        assert_eq!(explanation.listener(), None);
        let first = format!(" from namespace `{namespace}`");
        assert!(explanation.to_string().lines().next().unwrap().ends_with(&first), "{explanation}");
    }
    for (uri, outcome, why) in [
        ("http://white/", Outcome::NoRoute, "there is no service `tea/white` in the configuration"),
        ("http://black:82/", Outcome::NoRoute, "service `tea/black` has no port 82"),
        ("http://10.0.0.1/", Outcome::NoRoute, "`10.0.0.1` is not a service's name"),
        ("ftp://black/green", Outcome::BadRequest, "400: "),
        ("/green", Outcome::BadRequest, "400: "),
    ] {
        let explanation = gateway.client("tea").explain(&get(uri)).unwrap();
        assert_eq!(explanation.outcome(), Some(outcome), "{explanation}");
        assert!(explanation.winner().is_none() && explanation.to_string().contains(why), "{explanation}");
    }
    assert!(gateway.client("tea").explain(&get("http://black/%zz")).is_err());
    assert_eq!((black.count(), green.count()), (0, 0), "nothing is sent");
}

#[tokio::test]
async fn an_explanation_says_what_the_caller_would_be_told() {
    let mut broken = rule("/", "tea/white:80");
    broken.backends[0] = BackendRef::invalid("tea/white:80", "it is gone");
    let config = Config {
        services: vec![service("tea/black", [80])],
        routes: vec![
            route("r", "tea/black", None, None, vec![rule("/green", "tea/green:80")]),
            route("broken", "tea/broken", None, None, vec![broken]),
            route("empty", "tea/empty", None, None, vec![rule("/", "tea/empty:80")]),
        ],
        upstreams: vec![Upstream::new("tea/empty:80", Endpoints::fixed([]))],
        ..Config::default()
    };
    let (gateway, ..) = gateway(config);
    for (uri, http, grpc) in [
        ("http://black/other", "answered 404", "answered grpc-status 12 (UNIMPLEMENTED)"),
        ("http://white/", "answered 404: there", "answered grpc-status 12 (UNIMPLEMENTED): there"),
        ("ftp://black/green", "answered 400: ", "answered grpc-status 13 (INTERNAL): "),
        ("http://broken/", "answers 500: it is gone", "answers grpc-status 2 (UNKNOWN): it is gone"),
        ("http://empty/", "no endpoint (503)", "no endpoint (grpc-status 14 (UNAVAILABLE))"),
    ] {
        for (content_type, words) in [
            ("text/plain", http),
            ("application/grpc", grpc),
            ("application/grpc+proto", grpc),
            ("application/grpc-web", grpc),
        ] {
            let call = || Request::get(uri).header("content-type", content_type).body(Body::empty()).unwrap();
            let text = gateway.client("tea").explain(&call()).unwrap().to_string();
            assert!(text.contains(words), "{text}");
            let response = gateway.client("tea").oneshot(call()).await.unwrap();
            let told = match response.headers().get("grpc-status") {
                Some(code) => format!("grpc-status {} (", code.to_str().unwrap()),
                None => response.status().as_str().to_owned(),
            };
            assert!(words.contains(&told), "{uri}, {content_type}: {told}");
        }
    }
}

#[tokio::test]
async fn a_consumers_routes_replace_the_producers_for_it_alone_port_by_port() {
    let config = Config {
        services: vec![service("tea/black", [80, 81])],
        routes: vec![
            route("producer", "tea/black", None, None, vec![rule("/", "tea/green:80")]),
            route("consumer", "tea/black", Some(80), Some("web"), vec![rule("/only", "tea/black:80")]),
            route("another", "tea/black", None, Some("job"), vec![rule("/", "tea/black:81")]),
        ],
        ..Config::default()
    };
    let (gateway, ..) = gateway(config);
    for (namespace, uri, answer) in [
        ("web", "http://black.tea/only", "black"),
        ("web", "http://black.tea/", "no_route"),
        ("web", "http://black.tea:81/only", "green"),
        ("job", "http://black.tea/", "black"),
        ("tea", "http://black/only", "green"),
    ] {
        assert_eq!(ask(&gateway, namespace, uri).await, answer, "{uri} from {namespace}");
    }
}

#[tokio::test]
async fn a_route_alone_makes_a_service_and_one_that_names_it_twice_is_there_once() {
    let both = [Some(80), None].map(|port| MeshParent { service: "tea/any".into(), port, consumers: None });
    let consumer = route("c", "tea/mine", None, Some("web"), vec![rule("/", "tea/green:80")]);
    let routes = vec![
        Route { services: both.into(), rules: vec![rule("/", "tea/black:80")], ..Route::named("twice") },
        consumer,
    ];
    let (gateway, ..) = gateway(Config { routes, conflicts: Conflicts::Refuse, ..Config::default() });
    for (namespace, uri, answer) in [
        ("tea", "http://any/", "black"),
        ("tea", "http://any:9/", "black"),
        ("web", "http://mine.tea/", "green"),
        ("job", "http://mine.tea/", "no_route"),
    ] {
        assert_eq!(ask(&gateway, namespace, uri).await, answer, "{uri} from {namespace}");
    }
    // None of this is the ingress's.
    let inbound = Request::get("/").header("host", "any").body(Body::empty()).unwrap();
    let outside = gateway.clone().oneshot(inbound).await.unwrap();
    assert_eq!(outside.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_new_configuration_is_followed_and_a_bad_one_changes_nothing() {
    let config = |backend: &str| Config {
        services: vec![service("tea/black", [80])],
        routes: vec![route("r", "tea/black", None, None, vec![rule("/", backend)])],
        ..Config::default()
    };
    let (gateway, ..) = gateway(config("tea/black:80"));
    let client = gateway.client("tea");
    assert_eq!(send(client.clone(), get("http://black/")).await.2, "black");
    gateway.apply(config("tea/green:80")).unwrap();
    assert_eq!(send(client.clone(), get("http://black/")).await.2, "green");

    let black = || service("tea/black", [80]);
    let alike = || vec![rule("/", "tea/black:80")];
    for (bad, message) in [
        (vec![service("black", [80])], "service `black`: its name is not `namespace/service`"),
        (vec![service("tea/Black", [80])], "service `tea/Black`: its name is not"),
        (vec![service("tea/black", [80, 81, 80])], "service `tea/black`: it has port 80 twice"),
        (vec![black(), black()], "service `tea/black`: there are two of that name"),
        (vec![service("tea/white", [80])], "route `tea/white:80`, rule 0: there is no upstream"),
    ] {
        let error = gateway.apply(Config { services: bad, ..Config::default() }).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
    let twins = ["a", "b"].map(|name| route(name, "tea/black", None, None, alike())).into();
    let error = gateway.apply(Config { routes: twins, ..Config::default() }).unwrap_err();
    assert!(matches!(error, BuildError::Routes(_)), "{error}");
    assert_eq!(send(client, get("http://black/")).await.2, "green");
}

#[tokio::test]
async fn the_host_stays_as_it_was_written_and_the_uri_says_where_the_call_goes() {
    let config = Config { services: vec![service("tea/black", [80]), service("tea/green", [80])], ..Config::default() };
    let (gateway, black, _) = gateway(config);
    for (version, uri, host, seen) in [
        (Version::HTTP_11, "http://black/x?y", None, "black"),
        (Version::HTTP_11, "http://black:80/x?y", None, "black:80"),
        (Version::HTTP_11, "http://black/x?y", Some("green"), "green"),
        (Version::HTTP_2, "http://black/x?y", Some("green:81"), "green:81"),
        (Version::HTTP_2, "http://black/x?y", None, "black"),
        (Version::HTTP_11, "/x?y", Some("black.tea"), "black.tea"),
    ] {
        let mut request = get(uri);
        *request.version_mut() = version;
        if let Some(host) = host {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        assert_eq!(send(gateway.client("tea"), request).await.2, "black", "{uri} {host:?}");
        let (uri, headers) = black.last();
        assert_eq!((&*uri, headers["host"].to_str().unwrap()), ("/x?y", seen));
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_deadline_ends_a_call_and_travels() {
    let config = Config { services: vec![service("tea/slow", [80]), service("tea/black", [80])], ..Config::default() };
    let black = Echo::new("black");
    let slow = service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let gateway = Gateway::builder(config).local("tea/slow", slow).local("tea/black", black.service()).build().unwrap();
    let call = |uri: &str, told: Option<&str>| {
        let mut request = Request::get(uri);
        if let Some(told) = told {
            request = request.header("content-type", "application/grpc").header("grpc-timeout", told);
        }
        send(gateway.client("tea"), request.body(Body::empty()).unwrap())
    };
    let now = || tokio::time::Instant::now();
    let began = now();
    let second = |seconds| Deadline::after(began, Duration::from_secs(seconds));

    let (status, outcome, _) = second(2).scope(call("http://slow/", None)).await;
    assert_eq!((status.as_u16(), outcome, now()), (504, Some(Outcome::UpstreamTimeout), second(2).instant()));
    let (_, outcome, _) = second(2).scope(call("http://black/", None)).await;
    assert_eq!((outcome, black.count()), (Some(Outcome::DeadlineExceeded), 0));
    // What gRPC's own field says counts without anything else.
    let (_, outcome, _) = call("http://slow/", Some("1S")).await;
    assert_eq!((outcome, now()), (Some(Outcome::UpstreamTimeout), second(3).instant()));
    for (told, limit, seen) in [("9S", 4, "1000000u"), ("500m", 4, "500m")] {
        second(limit).scope(call("http://black/", Some(told))).await;
        assert_eq!(black.last().1["grpc-timeout"], seen);
    }
    call("http://black/", None).await;
    assert!(!black.last().1.contains_key("grpc-timeout"));
}

#[tokio::test]
async fn the_cohort_of_the_task_travels() {
    let config = Config { services: vec![service("tea/black", [80])], ..Config::default() };
    let (gateway, black, _) = gateway(config);
    let call = || send(gateway.client("tea"), get("http://black/"));
    Cohort::new("web/shop", "canary").scope(call()).await;
    assert_eq!(black.last().1["baggage"], "portcullis-cohort=web/shop:canary");
    call().await;
    assert!(!black.last().1.contains_key("baggage"));
}

#[tokio::test]
async fn a_request_that_came_in_is_a_call_of_this_process_when_it_is_given_on() {
    let redirect = Rule {
        filters: vec![Filter::Redirect(Redirect { path: None, ..Redirect::default() })],
        ..Rule { matches: vec![Match::prefix("/away")], ..Rule::default() }
    };
    let config = Config {
        services: vec![service("tea/black", [80, 443])],
        routes: vec![route("r", "tea/black", None, None, vec![redirect, rule("/", "tea/black:80")])],
        ..Config::default()
    };
    let finished = Arc::new(Mutex::new(Vec::new()));
    let record = finished.clone();
    let black = Echo::new("black");
    let gateway = Gateway::builder(config)
        .local("tea/black", black.service())
        .recorder(move |finished: &Finished| record.lock().unwrap().push(finished.record.route.clone()))
        .build()
        .unwrap();
    let inbound = Exchange::begin();
    let mut request = get("http://black/");
    request.headers_mut().insert("via", "1.1 edge".parse().unwrap());
    request.extensions_mut().insert(inbound.clone());
    assert_eq!(send(gateway.client("tea"), request).await.2, "black");
    assert_eq!(inbound.record().route, None, "the record of the other request");
    assert_eq!(finished.lock().unwrap().last().cloned().flatten().as_deref(), Some("r"));

    let connection = ConnectionInfo::new("192.0.2.1:1".parse().unwrap(), "192.0.2.2:8443".parse().unwrap());
    let connection = connection.with_tls(TlsInfo::default());
    for (uri, location) in [
        ("http://black/away", "http://black/away"),
        ("https://black/away", "https://black/away"),
        ("http://black:443/away", "http://black:443/away"),
    ] {
        let mut request = get(uri);
        request.extensions_mut().insert(connection.clone());
        let response = gateway.client("tea").oneshot(request).await.unwrap();
        assert_eq!(response.headers()["location"], location);
    }
}

#[tokio::test]
async fn a_tonic_client_calls_through_it() {
    let config = Config {
        services: vec![service("tea/black", [7070])],
        routes: vec![route("r", "tea/black", Some(7070), None, vec![rule("/tea.Pot/Pour", "tea/pot:7070")])],
        ..Config::default()
    };
    let pot = service_fn(|request: Request<Body>| async move {
        let said = request.into_body().collect().await.unwrap().to_bytes();
        let ok = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let body = Full::<Bytes>::new(said).with_trailers(std::future::ready(Some(Ok(ok))));
        let response = Response::builder().header("content-type", "application/grpc");
        Ok::<_, Infallible>(response.body(Body::new(body)).unwrap())
    });
    let gateway = Gateway::builder(config).local("tea/pot", pot).local("tea/black", Echo::new("black").service());
    let gateway = gateway.build().unwrap();
    let origin = http::Uri::from_static("http://black.tea:7070");
    let mut client = tonic::client::Grpc::with_origin(gateway.client("web"), origin);
    let mut call = async |method: &'static str| {
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<String, String>::default();
        let path = http::uri::PathAndQuery::from_static(method);
        client.unary(tonic::Request::new("Earl Grey".to_owned()), path, codec).await
    };
    assert_eq!(call("/tea.Pot/Pour").await.unwrap().into_inner(), "Earl Grey");
    assert_eq!(call("/tea.Pot/Break").await.unwrap_err().code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn an_upstream_is_called_with_the_rules_retries() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tries = Arc::new(Mutex::new(0));
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let try_ = {
            let mut tries = tries.lock().unwrap();
            *tries += 1;
            *tries
        };
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        async move { (if try_ < 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, host) }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    let retry = Retry { attempts: 2, statuses: vec![503], ..Retry::default() };
    let config = Config {
        services: vec![service("tea/white", [80])],
        routes: vec![route(
            "r",
            "tea/white",
            None,
            None,
            vec![Rule { retry: Some(retry), ..rule("/", "tea/white:80") }],
        )],
        upstreams: vec![Upstream::new("tea/white:80", Endpoints::fixed([address]))],
        ..Config::default()
    };
    let gateway = Gateway::builder(config).build().unwrap();
    let (status, _, text) = send(gateway.client("web"), get("http://white.tea/")).await;
    assert_eq!((status, &*text), (StatusCode::OK, "white.tea"));
}
