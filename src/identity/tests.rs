//! The layer, poll by poll.

use http::{HeaderMap, Request, Response, StatusCode};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower_layer::Layer;
use tower_test::mock;

use super::*;
use crate::{
    Body, BoxError, Outcome,
    connection::{ConnectionInfo, TlsInfo},
    exchange::Exchange,
};

type Mock = mock::Mock<Request<()>, Response<Body>>;

type Handle = mock::Handle<Request<()>, Response<Body>>;

fn spawn(layer: &AllowLayer) -> (mock::Spawn<Allow<Mock>>, Handle) {
    let (service, handle) = mock::pair();
    (mock::Spawn::new(layer.layer(service)), handle)
}

fn on(server_name: Option<&str>, peer: Option<PeerIdentity>) -> ConnectionInfo {
    let tls =
        TlsInfo { server_name: server_name.map(Into::into), peer_identity: peer.map(Into::into), ..TlsInfo::default() };
    ConnectionInfo::new("192.0.2.7:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()).with_tls(tls)
}

fn peer() -> Option<PeerIdentity> {
    Some(PeerIdentity::new(["spiffe://a.example/cart"], []))
}

fn rule(id: &str) -> PeerRule {
    PeerRule::SpiffeId(id.parse().unwrap())
}

/// What `layer` answers by itself.
fn refused(layer: &AllowLayer, request: Request<()>) -> Response<Body> {
    let (mut service, mut handle) = spawn(layer);
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let mut answer = task::spawn(service.call(request));
    let response = assert_ready!(answer.poll()).unwrap();
    assert_pending!(task::spawn(handle.next_request()).poll(), "the request is not passed on");
    response
}

#[test]
fn a_peer_that_one_of_the_rules_admits_passes() {
    let layer = AllowLayer::new([rule("spiffe://a.example/other"), rule("spiffe://a.example/cart")]);
    let (mut service, mut handle) = spawn(&layer);
    handle.allow(0);
    assert_pending!(service.poll_ready(), "as ready as the inner service");
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let request = Request::get("/").extension(on(None, peer())).body(()).unwrap();
    let mut answer = task::spawn(service.call(request));
    assert_pending!(answer.poll());
    let (_, respond) = assert_ready!(task::spawn(handle.next_request()).poll()).unwrap();
    respond.send_response(Response::builder().status(204).body(Body::empty()).unwrap());
    let response = assert_ready!(answer.poll()).unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(response.extensions().get::<Outcome>(), None);
}

#[test]
fn the_inner_error_is_untouched() {
    let (mut service, mut handle) = spawn(&AllowLayer::new([PeerRule::Any]));
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let mut answer = task::spawn(service.call(Request::get("/").extension(on(None, peer())).body(()).unwrap()));
    let (_, respond) = assert_ready!(task::spawn(handle.next_request()).poll()).unwrap();
    respond.send_error("of its own");
    let error: BoxError = assert_ready!(answer.poll()).unwrap_err();
    assert_eq!(error.to_string(), "of its own");
}

#[test]
fn anyone_else_is_forbidden_and_named_in_the_record_alone() {
    for rules in [vec![], vec![rule("spiffe://a.example/other")]] {
        let exchange = Exchange::begin();
        let request = Request::get("/").extension(on(None, peer())).extension(exchange.clone()).body(()).unwrap();
        let response = refused(&AllowLayer::new(rules), request);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.extensions().get(), Some(&Outcome::Forbidden));
        assert_eq!(exchange.record().detail.as_deref(), Some("no rule admits the peer spiffe://a.example/cart"));
    }
}

#[test]
fn a_connection_without_an_identity_is_unauthenticated_even_where_any_is_admitted() {
    let plain = ConnectionInfo::new("192.0.2.7:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
    for info in [Some(on(None, None)), Some(plain), None] {
        let mut request = Request::get("/").body(()).unwrap();
        info.map(|info| request.extensions_mut().insert(info));
        let response = refused(&AllowLayer::new([PeerRule::Any]), request);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.extensions().get(), Some(&Outcome::Unauthenticated));
    }
}

#[test]
fn grpc_is_told_in_its_own_way() {
    let status = |info: ConnectionInfo| {
        let request = Request::post("/").header("content-type", "application/grpc").extension(info).body(()).unwrap();
        let response = refused(&AllowLayer::new([]), request);
        assert_eq!(response.status(), StatusCode::OK);
        response.headers()["grpc-status"].to_str().unwrap().to_owned()
    };
    assert_eq!(status(on(None, peer())), "7");
    assert_eq!(status(on(None, None)), "16");
}

#[test]
fn the_host_must_be_the_handshakes_where_that_is_asked_for() {
    let layer = AllowLayer::new([PeerRule::Any]).require_server_name(true);
    let asked = |uri: &str, host: Option<&str>, sni: Option<&str>| {
        let mut headers = HeaderMap::new();
        host.map(|host| headers.insert("host", host.parse().unwrap()));
        let mut request = Request::get(uri).extension(on(sni, peer())).body(()).unwrap();
        *request.headers_mut() = headers;
        request
    };
    for (uri, host, sni) in [
        ("/", Some("shop.example"), Some("blog.example")),
        ("https://shop.example/", Some("blog.example"), Some("blog.example")),
        ("/", Some("shop.example"), None),
        ("/", None, Some("shop.example")),
        ("/", Some("shop.example.evil"), Some("shop.example")),
        ("/", Some("not a host"), Some("shop.example")),
    ] {
        let response = refused(&layer, asked(uri, host, sni));
        assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST, "{uri} {host:?} {sni:?}");
    }
    for (uri, host) in
        [("/", Some("SHOP.example:8443")), ("/", Some("shop.example.")), ("https://shop.example:8443/", None)]
    {
        let (mut service, mut handle) = spawn(&layer);
        handle.allow(1);
        assert_ready_ok!(service.poll_ready());
        let _answer = task::spawn(service.call(asked(uri, host, Some("shop.example"))));
        assert_ready!(task::spawn(handle.next_request()).poll()).unwrap();
    }
}
