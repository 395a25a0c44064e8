use std::convert::Infallible;

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST, LOCATION, SERVER},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_test::{assert_request_eq, mock};

use super::*;
use crate::{
    Body, BoxError, Error, Outcome,
    config::{self, Conflicts, HeaderChanges, Match, PathChange, Route, Rule, Scheme},
    connection::{ConnectionInfo, TlsInfo},
    respond::refusal,
    route::{RouteMatch, RouteTable},
};

/// A mock that panics when it is called unready, and hears targets and fields.
#[derive(Clone, Debug)]
struct Heard(mock::Mock<String, Response<Body>>);

impl Service<Request<()>> for Heard {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = <mock::Mock<String, Response<Body>> as Service<String>>::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let lines = request.headers().iter().map(|(name, value)| format!(" {name}={}", value.to_str().unwrap()));
        self.0.call(format!("{} {}{}", request.method(), request.uri(), lines.collect::<String>()))
    }
}

macro_rules! call {
    ($service:expr, $request:expr) => {{
        assert_ready!(task::spawn($service.ready()).poll()).unwrap();
        task::spawn($service.call($request))
    }};
}

fn changes(set: &'static str, add: &'static str, remove: &'static str) -> HeaderChanges {
    let field = |name: &'static str| (http::HeaderName::from_static(name), HeaderValue::from_static("new"));
    HeaderChanges { set: vec![field(set)], add: vec![field(add)], remove: vec![remove.parse().unwrap()] }
}

fn get(target: &str) -> http::request::Builder {
    Request::get(target)
}

/// With what a router leaves behind for a rule with this prefix.
fn routed(mut request: Request<()>, prefix: &str) -> Request<()> {
    let rules = vec![Rule { matches: vec![Match::prefix(prefix)], ..Rule::default() }];
    let table = RouteTable::compile(&[Route { rules, ..Route::named("r") }], Conflicts::Refuse, |_, _| ()).unwrap();
    let matched = table.lookup(&request).unwrap().route_match();
    request.extensions_mut().insert(matched);
    request
}

fn connection(port: u16, tls: bool) -> ConnectionInfo {
    let info = ConnectionInfo::new("192.0.2.1:1".parse().unwrap(), ([192, 0, 2, 2], port).into());
    if tls { info.with_tls(TlsInfo::default()) } else { info }
}

#[tokio::test]
async fn header_changes_reach_the_request_and_then_the_response() {
    let (mock, mut handle) = mock::pair();
    let layer = HeadersLayer::new()
        .request(changes("x-set", "x-add", "x-gone"))
        .unwrap()
        .response(changes("x-a", "x-b", "server"))
        .unwrap();
    let mut service = layer.layer(Heard(mock));
    let request = get("/").header("x-set", "1").header("x-add", "1").header("x-gone", "1").body(()).unwrap();
    let mut call = call!(service, request);
    assert_pending!(call.poll());
    let answer = Response::builder().header("server", "s").header("x-b", "1").body(Body::empty()).unwrap();
    assert_request_eq!(handle, "GET / x-set=new x-add=1 x-add=new").send_response(answer);
    let response = assert_ready!(call.poll()).unwrap();
    assert_eq!(response.headers()["x-a"], "new");
    assert_eq!(response.headers().get_all("x-b").iter().collect::<Vec<_>>(), ["1", "new"]);
    assert!(!response.headers().contains_key(SERVER));

    let mut call = call!(service, get("/").body(()).unwrap());
    assert_pending!(call.poll());
    assert_request_eq!(handle, "GET / x-set=new x-add=new").send_error("broken");
    assert_eq!(assert_ready!(call.poll()).unwrap_err().to_string(), "broken");
}

#[tokio::test]
async fn a_client_cannot_have_what_is_set_removed_again() {
    let service = HeadersLayer::new().request(changes("x-user", "x-b", "x-c")).unwrap().layer(service_fn(
        async |mut request: Request<()>| {
            // As a forwarding proxy further in does.
            crate::forwarded::nominated::settle(request.headers_mut());
            Ok::<_, Infallible>(Response::new(request.headers().contains_key("x-user")))
        },
    ));
    for connection in ["x-user", "close, X-User", "upgrade, x-user"] {
        let request = get("/").header("connection", connection).header("x-user", "forged").body(()).unwrap();
        assert!(service.clone().oneshot(request).await.unwrap().into_body(), "{connection}");
    }
}

#[tokio::test]
async fn what_layers_inside_answer_is_changed_too() {
    let (mock, _handle) = mock::pair();
    let mut service = ServiceBuilder::new()
        .layer(HeadersLayer::new().response(changes("x-a", "x-b", "x-c")).unwrap())
        .layer(RedirectLayer::new(config::Redirect::default()).unwrap())
        .service(Heard(mock));
    let response = assert_ready!(call!(service, get("/").header(HOST, "a").body(()).unwrap()).poll()).unwrap();
    assert_eq!((response.status(), &response.headers()["x-a"]), (StatusCode::FOUND, &HeaderValue::from_static("new")));
}

#[tokio::test]
async fn a_redirect_is_answered_without_the_inner_service() {
    let (mock, mut handle) = mock::pair::<String, Response<Body>>();
    // Not even ready: it is not asked.
    handle.allow(0);
    let answered = |redirect, request: Request<()>| {
        let mut service = RedirectLayer::new(redirect).unwrap().layer(Heard(mock.clone()));
        let exchange = Exchange::begin();
        let mut request = request;
        request.extensions_mut().insert(exchange.clone());
        (assert_ready!(call!(service, request).poll()).unwrap(), exchange.record())
    };
    for status in [301, 302, 303, 307, 308] {
        let request = get("/x?y").header(HOST, "a.test:99").body(()).unwrap();
        let (response, record) = answered(config::Redirect { status, ..Default::default() }, request);
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()[LOCATION], "http://a.test:99/x?y");
        assert!(http_body::Body::is_end_stream(response.body()));
        assert_eq!((record.outcome, record.detail.as_deref()), (None, Some("redirected")));
    }

    let prefix = || config::Redirect { path: Some(PathChange::Prefix("/new".into())), ..Default::default() };
    for (port, tls, location) in [
        (80, false, "http://a.test/new/b?q"),
        (8080, false, "http://a.test:8080/new/b?q"),
        (443, true, "https://a.test/new/b?q"),
        (8443, true, "https://a.test:8443/new/b?q"),
    ] {
        let request = get("/old/b?q").header(HOST, "a.test:99").header("x-forwarded-proto", "ftp").body(()).unwrap();
        let mut request = routed(request, "/old/");
        request.extensions_mut().insert(connection(port, tls));
        assert_eq!(answered(prefix(), request).0.headers()[LOCATION], location);
    }
    // HTTP/2 has no Host field, and need not have a connection that tells.
    let request = get("https://b.test/x").body(()).unwrap();
    assert_eq!(answered(prefix(), request).0.headers()[LOCATION], "https://b.test/new/x");

    for content_type in ["", "application/grpc"] {
        let to_https = config::Redirect { scheme: Some(Scheme::Https), ..Default::default() };
        let request = get("/").header(CONTENT_TYPE, content_type).body(()).unwrap();
        let (response, _) = answered(to_https, request);
        assert_eq!(response.extensions().get(), Some(&Outcome::BadRequest));
        assert!(!response.headers().contains_key(LOCATION));
    }
}

#[tokio::test]
async fn a_rewrite_changes_host_and_target_in_every_form() {
    let (mock, mut handle) = mock::pair();
    let layer = RewriteLayer::new(config::Rewrite {
        host: Some("in.test".to_owned()),
        path: Some(PathChange::Prefix("/new".to_owned())),
    })
    .unwrap();
    let mut service = layer.layer(Heard(mock));
    for (request, seen) in [
        (get("/old/x?a=%2f").header(HOST, "a:99"), "GET /new/x?a=%2f host=in.test"),
        (get("/old").header(HOST, "a").header(HOST, "b"), "GET /new host=in.test"),
        (get("http://a/old/?q").header(HOST, "a"), "GET http://in.test/new/?q host=in.test"),
        (get("https://a:8443/old//x"), "GET https://in.test/new/x host=in.test"),
        (get("/old/").header("x-forwarded-host", "a"), "GET /new/ x-forwarded-host=a host=in.test"),
    ] {
        let mut call = call!(service, routed(request.body(()).unwrap(), "/old"));
        assert_pending!(call.poll());
        assert_request_eq!(handle, seen).send_response(Response::new(Body::from("hello")));
        assert_eq!(assert_ready!(call.poll()).unwrap().status(), StatusCode::OK);
    }
    // Without a rule nothing was matched.
    let mut call = call!(service, get("/old").body(()).unwrap());
    assert_pending!(call.poll());
    assert_request_eq!(handle, "GET /new/old host=in.test").send_error("broken");
    assert_eq!(assert_ready!(call.poll()).unwrap_err().to_string(), "broken");
}

#[tokio::test]
async fn rewrites_of_a_rule_and_of_its_backend_go_together() {
    let prefix = |path: &str| {
        let path = Some(PathChange::Prefix(path.to_owned()));
        RewriteLayer::new(config::Rewrite { path, ..Default::default() }).unwrap()
    };
    let service = ServiceBuilder::new().layer(prefix("/of/the/rule")).layer(prefix("/b/")).service_fn(
        async |request: Request<()>| {
            let matched = request.extensions().get::<RouteMatch>().unwrap();
            assert_eq!(&request.uri().path()[matched.prefix_len()..], "/x");
            Ok::<_, Infallible>(Response::new(Body::from(request.uri().to_string())))
        },
    );
    let response = service.oneshot(routed(get("/old/x?q").body(()).unwrap(), "/old")).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, "/b/x?q");
}

#[tokio::test]
async fn a_target_that_gets_too_long_is_refused() {
    let (mock, _handle) = mock::pair();
    let path = Some(PathChange::Prefix("/x".repeat(500)));
    let mut service = RewriteLayer::new(config::Rewrite { path, ..Default::default() }).unwrap().layer(Heard(mock));
    let long = get(&format!("/{}", "a".repeat(65_000))).body(()).unwrap();
    let response = assert_ready!(call!(service, long).poll()).unwrap();
    assert_eq!(response.extensions().get(), Some(&Outcome::BadRequest));
}

fn cors() -> CorsLayer {
    let cors = config::Cors { origins: vec!["https://a.test".to_owned()], credentials: true, ..Default::default() };
    CorsLayer::new(cors).unwrap()
}

#[tokio::test]
async fn a_preflight_is_answered_here_whatever_its_origin() {
    let (mock, mut handle) = mock::pair();
    let mut service = cors().layer(Heard(mock));
    for (origin, detail) in
        [("https://a.test", "CORS preflight answered"), ("https://b.test", "CORS preflight: the origin is not allowed")]
    {
        let exchange = Exchange::begin();
        let request = Request::options("/").header("origin", origin).header("access-control-request-method", "PUT");
        let request = request.extension(exchange.clone()).body(()).unwrap();
        let response = assert_ready!(call!(service, request).poll()).unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert!(http_body::Body::is_end_stream(response.body()));
        let allowed = response.headers().get("access-control-allow-origin");
        assert_eq!(allowed.is_some_and(|allowed| allowed == origin), origin == "https://a.test");
        assert_eq!(exchange.record().detail.as_deref(), Some(detail));
    }
    drop(service);
    assert!(handle.next_request().await.is_none());
}

#[tokio::test]
async fn other_requests_go_on_and_what_is_shared_is_said_of_any_response() {
    let (mock, mut handle) = mock::pair();
    let mut service = cors().layer(Heard(mock));
    let origin = HeaderMap::from_iter([(http::header::ORIGIN, HeaderValue::from_static("https://a.test"))]);
    let foreign = Response::builder().header("access-control-allow-origin", "*").body(Body::empty()).unwrap();
    for (method, answer) in [(Method::OPTIONS, foreign), (Method::PUT, refusal(Outcome::NoEndpoint, &HeaderMap::new()))]
    {
        let mut request = Request::new(());
        (*request.method_mut(), *request.headers_mut()) = (method.clone(), origin.clone());
        let mut call = call!(service, request);
        assert_pending!(call.poll());
        assert_request_eq!(handle, format!("{method} / origin=https://a.test")).send_response(answer);
        let response = assert_ready!(call.poll()).unwrap();
        let allowed: Vec<_> = response.headers().get_all("access-control-allow-origin").iter().collect();
        assert_eq!(allowed, ["https://a.test"]);
        assert_eq!(response.headers()["vary"], "Origin");
    }
    let mut call = call!(service, get("/").body(()).unwrap());
    assert_pending!(call.poll());
    assert_request_eq!(handle, "GET /").send_error("broken");
    assert_eq!(assert_ready!(call.poll()).unwrap_err().to_string(), "broken");
}

#[tokio::test]
async fn they_stack_on_an_axum_router() {
    let rewrite = config::Rewrite { path: Some(PathChange::Full("/hello".into())), ..Default::default() };
    let app = axum::Router::new().route("/hello", axum::routing::get(|| async { "hello" }));
    let service = ServiceBuilder::new()
        .layer(cors())
        .layer(HeadersLayer::new().response(changes("x-a", "x-b", "x-c")).unwrap())
        .layer(RewriteLayer::new(rewrite).unwrap())
        .service(app);
    let response = service.oneshot(get("/x").body(axum::body::Body::empty()).unwrap()).await.unwrap();
    assert_eq!((response.status(), &response.headers()["x-a"]), (StatusCode::OK, &HeaderValue::from_static("new")));
}

#[test]
fn the_layers_ask_nothing_of_the_inner_error() {
    // A leaf's error comes out as it was.
    let service = ServiceBuilder::new()
        .layer(cors())
        .layer(RewriteLayer::new(config::Rewrite::default()).unwrap())
        .service(service_fn(async |_: Request<()>| Err::<Response<Body>, _>(Error::new(Outcome::ConnectFailed))));
    let error = assert_ready!(task::spawn(service.oneshot(get("/").body(()).unwrap())).poll()).unwrap_err();
    assert_eq!(error.outcome(), Outcome::ConnectFailed);
}
