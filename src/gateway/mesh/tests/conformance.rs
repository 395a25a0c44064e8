//! What the Gateway API asks of a mesh, by manifests: `green` and `black` are versions of `tea`, each with a socket.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use http::HeaderMap;
use tokio::net::TcpListener;
use tower::ServiceExt;

use super::{Echo, get, send};
use crate::{
    Body, Outcome,
    gateway::Gateway,
    source::{Loaded, parse},
};

/// A backend on a socket. It answers with its name and, one a line, with path, `host` and the fields that begin with `x-`.
async fn version(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(move |uri: http::Uri, headers: HeaderMap| async move {
        let mut text = format!("{name}\n{uri}\n{}\n", headers["host"].to_str().unwrap());
        let mut own: Vec<_> = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-")).collect();
        own.sort_by_key(|(name, _)| name.as_str());
        for (name, value) in own {
            writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
        text
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// The three Services, with ports for HTTP, another for HTTP and one for gRPC, beside `routes`.
async fn loaded(routes: &str) -> Loaded {
    let (green, black) = (version("green").await, version("black").await);
    let mut text = String::new();
    for (name, address) in [("tea", black), ("green", green), ("black", black)] {
        write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  ports: [{{name: http, port: 80}}, {{name: alt, port: 8080, appProtocol: http}}, {{name: grpc, port: 7070}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}, {{name: alt, port: {port}}}]
endpoints: [{{addresses: [{ip}]}}]
",
            port = address.port(),
            ip = address.ip()
        )
        .unwrap();
    }
    parse("mesh.yaml", &(text + routes)).unwrap()
}

async fn world(routes: &str) -> Gateway {
    let loaded = loaded(routes).await;
    assert_eq!(loaded.warnings.len(), 0, "{:?}", loaded.warnings);
    Gateway::builder(loaded.config).build().unwrap()
}

/// A route of this kind, in `namespace`, of a Service of `shop`: `parent` has more of the reference.
fn route(kind: &str, namespace: &str, service: &str, parent: &str, rules: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {service}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {service}, namespace: shop{parent}}}]
  rules: {rules}
"
    )
}

/// Status, fields and body of a call out of `namespace`.
async fn ask(gateway: &Gateway, namespace: &str, uri: &str) -> (u16, HeaderMap, String) {
    let response = gateway.client(namespace).oneshot(get(uri)).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = axum::body::to_bytes(axum::body::Body::new(body), 10_000).await.unwrap();
    (parts.status.as_u16(), parts.headers, String::from_utf8(text.into()).unwrap())
}

/// Which version answers.
async fn answers(gateway: &Gateway, uri: &str) -> String {
    ask(gateway, "shop", uri).await.2.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn traffic_is_split_by_path() {
    let rules = "[{matches: [{path: {type: Exact, value: /green}}], backendRefs: [{name: green, port: 80}]},
    {matches: [{path: {type: Exact, value: /black}}], backendRefs: [{name: black, port: 80}]}]";
    let gateway = world(&route("HTTPRoute", "shop", "tea", "", rules)).await;
    assert_eq!(answers(&gateway, "http://tea/green").await, "green");
    assert_eq!(answers(&gateway, "http://tea/black").await, "black");
    assert_eq!(ask(&gateway, "shop", "http://tea/white").await.0, 404);
    // Without a route a service is what it is.
    assert_eq!(answers(&gateway, "http://green/white").await, "green");
}

#[tokio::test]
async fn traffic_is_split_by_weight() {
    let backends = "backendRefs: [{name: green, port: 80, weight: 7}, {name: black, port: 80, weight: 3}]";
    let gateway = world(&route("HTTPRoute", "shop", "tea", "", &format!("[{{{backends}}}]"))).await;
    let mut counts = BTreeMap::new();
    for _ in 0..100 {
        *counts.entry(answers(&gateway, "http://tea/").await).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([("green".into(), 70), ("black".into(), 30)]));
}

#[tokio::test]
async fn redirects_name_the_service_as_it_was_called() {
    let redirect = |path: &str, spec: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{spec}}}}}]}}"
        )
    };
    let rules = [
        redirect("/host", "hostname: example.org"),
        redirect("/status", "statusCode: 301, hostname: example.org"),
        redirect("/port", "port: 8083"),
        redirect("/scheme", "scheme: https"),
        redirect("/path", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}"),
        redirect("/full", "path: {type: ReplaceFullPath, replaceFullPath: /all}, statusCode: 308"),
    ];
    let gateway = world(&route("HTTPRoute", "shop", "tea", "", &format!("[{}]", rules.join(", ")))).await;
    for (uri, status, location) in [
        ("http://tea/host", 302, "http://example.org/host"),
        ("http://tea/status", 301, "http://example.org/status"),
        ("http://tea/port", 302, "http://tea:8083/port"),
        ("http://tea.shop:8080/scheme", 302, "https://tea.shop/scheme"),
        ("http://tea/path/x?y", 302, "http://tea/new/x?y"),
        ("http://tea:8080/path/x", 302, "http://tea:8080/new/x"),
        ("http://tea/full/x", 308, "http://tea/all"),
    ] {
        let (found, headers, _) = ask(&gateway, "shop", uri).await;
        assert_eq!((found, headers["location"].to_str().unwrap()), (status, location), "{uri}");
    }
}

#[tokio::test]
async fn request_fields_are_changed_and_paths_rewritten() {
    let rules = "[{filters: [
      {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: new}], add: [{name: X-Add, value: more}], remove: [X-Remove]}},
      {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}],
      matches: [{path: {value: /strip}}], backendRefs: [{name: green, port: 8080}]}]";
    let gateway = world(&route("HTTPRoute", "shop", "tea", ", port: 80", rules)).await;
    let mut request = get("http://tea/strip/x");
    for (name, value) in [("x-set", "old"), ("x-add", "some"), ("x-remove", "gone"), ("x-stay", "here")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (_, _, text) = send(gateway.client("shop"), request).await;
    assert_eq!(text, "green\n/x\ntea\nx-add: some\nx-add: more\nx-set: new\nx-stay: here\n");
}

/// A rule that leads to `service` and marks the answer.
fn marked(service: &str) -> String {
    let mark = format!("{{set: [{{name: X-Mark, value: {service}}}]}}");
    format!(
        "[{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {mark}}}], \
         backendRefs: [{{name: {service}, namespace: shop, port: 80}}]}}]"
    )
}

#[tokio::test]
async fn a_route_is_for_the_port_it_names_or_for_all() {
    let routes = route("HTTPRoute", "shop", "green", ", port: 80", &marked("green"))
        + &route("HTTPRoute", "shop", "black", "", &marked("black"));
    let gateway = world(&routes).await;
    for (uri, version, mark) in [
        ("http://green/", "green", Some("green")),
        ("http://green:8080/", "green", None),
        ("http://black/", "black", Some("black")),
        ("http://black:8080/", "black", Some("black")),
    ] {
        let (_, headers, text) = ask(&gateway, "shop", uri).await;
        let found = headers.get("x-mark").map(|mark| mark.to_str().unwrap());
        assert_eq!((text.lines().next(), found), (Some(version), mark), "{uri}");
    }
}

#[tokio::test]
async fn a_route_of_another_namespace_is_for_its_callers() {
    let gateway = world(&route("HTTPRoute", "web", "green", "", &marked("green"))).await;
    for (namespace, is_marked) in [("web", true), ("shop", false), ("other", false)] {
        let (status, headers, text) = ask(&gateway, namespace, "http://green.shop/").await;
        assert_eq!((status, text.lines().next()), (200, Some("green")));
        assert_eq!(headers.contains_key("x-mark"), is_marked, "{namespace}");
    }
}

#[tokio::test]
async fn the_frontend_is_what_is_called_whatever_host_says() {
    let gateway = world(&route("HTTPRoute", "shop", "black", "", &marked("black"))).await;
    for (to, host, is_marked) in [("black", "green", true), ("green", "black", false)] {
        let mut request = get(&format!("http://{to}/"));
        request.headers_mut().insert("host", host.parse().unwrap());
        let response = gateway.client("shop").oneshot(request).await.unwrap();
        assert_eq!(response.headers().contains_key("x-mark"), is_marked, "{to}");
        let text = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 10_000).await.unwrap();
        assert!(text.starts_with(format!("{to}\n/\n{host}\n").as_bytes()), "{text:?}");
    }
}

#[tokio::test]
async fn grpc_is_shared_out_by_weight_and_matched_by_method() {
    let rules = "[{matches: [{method: {service: tea.Pot}}], backendRefs: [{name: green, port: 7070, weight: 7}, \
                 {name: black, port: 7070, weight: 3}, {name: tea, port: 7070, weight: 0}]}]";
    let loaded = {
        let config = world(&route("GRPCRoute", "shop", "tea", ", port: 7070", rules)).await;
        config.config()
    };
    let echoes = ["green", "black", "tea"].map(Echo::new);
    let builder = echoes.iter().fold(Gateway::builder((*loaded).clone()), |builder, echo| {
        builder.local(format!("shop/{}", echo.name), echo.service())
    });
    let gateway = builder.build().unwrap();
    let call = |uri: &str| {
        let request = http::Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
        send(gateway.client("shop"), request.body(Body::empty()).unwrap())
    };
    for _ in 0..100 {
        call("http://tea:7070/tea.Pot/Pour").await;
    }
    assert_eq!(echoes.each_ref().map(Echo::count), [70, 30, 0]);
    let (status, outcome, _) = call("http://tea:7070/tea.Cup/Drink").await;
    assert_eq!((status.as_u16(), outcome), (200, Some(Outcome::NoRoute)));
}

#[tokio::test]
async fn a_grpc_route_goes_before_http_routes_of_the_same_service_and_port() {
    let grpc = "[{backendRefs: [{name: black, port: 80}]}]";
    let http = |namespace: &str, parent: &str| route("HTTPRoute", namespace, "tea", parent, &marked("green"));
    for (routes, lost, calls) in [
        (
            http("shop", "") + &route("GRPCRoute", "shop", "tea", ", port: 8080", grpc),
            1,
            [("shop", 80, true), ("shop", 8080, false)],
        ),
        (
            http("shop", ", port: 80") + &route("GRPCRoute", "shop", "tea", "", grpc),
            1,
            [("shop", 80, false), ("shop", 8080, false)],
        ),
        (
            http("shop", "") + &route("GRPCRoute", "shop", "tea", "", grpc),
            3,
            [("shop", 80, false), ("shop", 8080, false)],
        ),
        (http("shop", "") + &route("GRPCRoute", "web", "tea", "", grpc), 0, [("shop", 80, true), ("web", 80, false)]),
        (
            http("shop", "") + &route("GRPCRoute", "shop", "green", "", grpc),
            0,
            [("shop", 80, true), ("shop", 8080, true)],
        ),
    ] {
        let loaded = loaded(&routes).await;
        let told = loaded
            .warnings
            .iter()
            .map(ToString::to_string)
            .filter(|told| told.contains("not attached to Service shop/tea"));
        assert_eq!(told.count(), lost, "{routes}{:?}", loaded.warnings);
        let gateway = Gateway::builder(loaded.config).build().unwrap();
        for (namespace, port, is_marked) in calls {
            let (_, headers, _) = ask(&gateway, namespace, &format!("http://tea.shop:{port}/")).await;
            assert_eq!(headers.contains_key("x-mark"), is_marked, "{routes}{namespace} {port}");
        }
    }
}
