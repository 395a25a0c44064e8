use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::Kind;
use crate::{
    Body,
    config::{BackendRef, Config, Conflicts, Listener, ListenerProtocol, MeshParent, Route, Rule, StreamRoute},
    connection::{ConnectionInfo, TlsInfo},
    gateway::{BuildError, Gateway, ListenerError},
};

fn listener(name: &str, port: u16, host: &str) -> Listener {
    Listener { addresses: vec![[127, 0, 0, 1].into()], host: host.parse().unwrap(), ..Listener::http(name, port) }
}

/// A route to a service of its own name.
fn route(name: &str, listeners: &[&str], hosts: &[&str]) -> Route {
    Route {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        listeners: listeners.iter().map(ToString::to_string).collect(),
        rules: vec![Rule { backends: vec![BackendRef::new(name)], ..Rule::default() }],
        ..Route::named(name)
    }
}

fn config(
    listeners: impl IntoIterator<Item = Listener>,
    routes: impl IntoIterator<Item = Route>,
    conflicts: Conflicts,
) -> Config {
    let (listeners, routes) = (listeners.into_iter().collect(), routes.into_iter().collect());
    Config { listeners, routes, conflicts, ..Config::default() }
}

/// Every route's service says its name.
fn build(config: Config) -> Result<Gateway, BuildError> {
    let names: Vec<String> = config.routes.iter().map(|route| route.name.clone()).collect();
    let mut builder = Gateway::builder(config);
    for name in names {
        builder = builder.local(name.clone(), Router::new().fallback(move || async move { name }));
    }
    builder.build()
}

fn error_of(config: Config) -> ListenerError {
    match build(config) {
        Err(BuildError::Listeners(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn at(local: &str) -> ConnectionInfo {
    ConnectionInfo::new(SocketAddr::from(([192, 0, 2, 7], 4711)), local.parse().unwrap())
}

fn over_tls(local: &str, name: Option<&str>) -> ConnectionInfo {
    at(local).with_tls(TlsInfo { server_name: name.map(Into::into), ..TlsInfo::default() })
}

/// The status, or what the service said.
async fn ask(gateway: &Gateway, connection: Option<ConnectionInfo>, host: &str) -> String {
    let mut request = Request::get("/").header("host", host).body(Body::empty()).unwrap();
    request.extensions_mut().extend(
        connection
            .map(|connection| {
                let mut extensions = http::Extensions::new();
                extensions.insert(connection);
                extensions
            })
            .unwrap_or_default(),
    );
    let response = gateway.clone().oneshot(request).await.unwrap();
    if response.status() != StatusCode::OK {
        return response.status().as_u16().to_string();
    }
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test]
async fn the_most_specific_listener_owns_a_request_and_others_routes_do_not_see_it() {
    let listeners =
        [listener("any", 80, "*"), listener("wild", 80, "*.example.com"), listener("foo", 80, "foo.example.com")];
    let routes = [
        route("to-any", &["any"], &[]),
        route("to-wild", &["wild"], &["bar.example.com", "foo.example.com"]),
        route("elsewhere", &["wild"], &["bar.example.net"]),
        route("to-foo", &["foo"], &["*.example.com"]),
    ];
    let gateway = build(config(listeners, routes, Conflicts::Refuse)).unwrap();
    for (host, answer) in [
        ("foo.example.com", "to-foo"),
        ("FOO.example.com.:8080", "to-foo"),
        ("bar.example.com", "to-wild"),
        // The wildcard's listener owns it, and has no route for it.
        ("baz.example.com", "404"),
        ("example.com", "to-any"),
        ("bar.example.net", "to-any"),
    ] {
        assert_eq!(ask(&gateway, Some(at("127.0.0.1:80")), host).await, answer, "{host}");
    }
    assert_eq!(
        ask(&gateway, Some(at("127.0.0.1:81")), "foo.example.com").await,
        "404",
        "no listener, no routes for it"
    );
}

#[tokio::test]
async fn routes_belong_to_their_ports_and_unattached_ones_to_the_programs_own() {
    let listeners = [listener("one", 80, "*.example.com"), listener("two", 81, "*")];
    let mesh = Route {
        services: vec![MeshParent { service: "a/b".into(), ..MeshParent::default() }],
        ..route("mesh", &[], &[])
    };
    let routes = [route("both", &["one", "two"], &["a.example.com"]), route("free", &[], &[]), mesh];
    let gateway = build(config(listeners, routes, Conflicts::Refuse)).unwrap();
    let own = |local| Some(at(local).with_own_listener());
    for (connection, host, answer) in [
        (Some(at("127.0.0.1:80")), "a.example.com", "both"),
        (Some(at("127.0.0.1:81")), "a.example.com", "both"),
        (Some(at("127.0.0.1:81")), "b.example.com", "404"),
        (Some(at("127.0.0.1:80")), "b.test", "404"),
        // A port of the program's own.
        (own("127.0.0.1:8080"), "a.example.com", "free"),
        // One that is a listener's as well.
        (own("127.0.0.1:80"), "a.example.com", "both"),
        (own("127.0.0.1:80"), "b.example.com", "404"),
        (own("127.0.0.1:80"), "b.test", "free"),
        // Mounted somewhere: all of them.
        (None, "a.example.com", "both"),
        (None, "b.test", "free"),
    ] {
        assert_eq!(ask(&gateway, connection.clone(), host).await, answer, "{connection:?} {host}");
    }
}

#[tokio::test]
async fn a_request_for_another_listener_than_the_handshakes_is_misdirected() {
    let listeners = [listener("any", 443, "*"), listener("wild", 443, "*.a.test"), listener("foo", 443, "foo.a.test")];
    let names = ["any", "wild", "foo"];
    let routes = names.map(|name| route(&format!("to-{name}"), &[name], &[]));
    let gateway = build(config(listeners, routes, Conflicts::Refuse)).unwrap();
    for (name, host, answer) in [
        (Some("foo.a.test"), "foo.a.test", "to-foo"),
        (Some("foo.a.test"), "foo.a.test:443", "to-foo"),
        (Some("foo.a.test"), "bar.a.test", "421"),
        (Some("foo.a.test"), "other.test", "421"),
        (Some("bar.a.test"), "baz.a.test", "to-wild"),
        (Some("bar.a.test"), "foo.a.test", "421"),
        (Some("other.test"), "another.test", "to-any"),
        (Some("other.test"), "foo.a.test", "421"),
        (None, "other.test", "to-any"),
        (None, "foo.a.test", "421"),
    ] {
        let connection = over_tls("127.0.0.1:443", name);
        assert_eq!(ask(&gateway, Some(connection), host).await, answer, "{name:?} {host}");
    }
}

#[tokio::test]
async fn an_invalid_listener_answers_500_and_its_siblings_serve() {
    let broken = Listener { invalid: Some("no such Secret".into()), ..listener("broken", 80, "b.test") };
    let routes = [route("to-broken", &["broken"], &[]), route("to-any", &["any"], &[])];
    let gateway = build(config([broken, listener("any", 80, "*")], routes, Conflicts::Refuse)).unwrap();
    assert_eq!(ask(&gateway, Some(at("127.0.0.1:80")), "b.test").await, "500");
    assert_eq!(ask(&gateway, Some(at("127.0.0.1:80")), "a.test").await, "to-any");
}

#[tokio::test]
async fn what_one_author_asks_twice_is_refused_and_what_many_ask_is_joined() {
    let twice = || [listener("one", 80, "a.test"), listener("two", 80, "a.test")];
    let routes = || [route("first", &["one"], &[]), Route { created: Some(1), ..route("older", &["two"], &[]) }];
    let refused = error_of(config(twice(), routes(), Conflicts::Refuse)).to_string();
    assert_eq!(refused, "listeners `one` and `two` cannot share 127.0.0.1:80: they are for the same host");
    let gateway = build(config(twice(), routes(), Conflicts::Oldest)).unwrap();
    assert_eq!(ask(&gateway, Some(at("127.0.0.1:80")), "a.test").await, "older");

    let tcp = Listener { protocol: ListenerProtocol::Tcp, ..listener("tcp", 80, "*") };
    let mixed = || [listener("one", 80, "a.test"), tcp.clone()];
    let refused = error_of(config(mixed(), routes().into_iter().take(1), Conflicts::Refuse)).to_string();
    assert!(refused.contains("`one` and `tcp` cannot share 127.0.0.1:80"), "{refused}");
    let gateway = build(config(mixed(), routes().into_iter().take(1), Conflicts::Oldest)).unwrap();
    assert_eq!(ask(&gateway, Some(at("127.0.0.1:80")), "a.test").await, "first");
}

#[test]
fn mistakes_are_named() {
    let tcp = Listener { protocol: ListenerProtocol::Tcp, ..listener("tcp", 90, "*") };
    let stream = |listener: &str, backend: &str| StreamRoute {
        name: "s".into(),
        listeners: vec![listener.into()],
        backends: vec![BackendRef::new(backend)],
        ..StreamRoute::default()
    };
    let with_stream = |stream| Config {
        streams: vec![stream],
        ..config([tcp.clone(), listener("web", 80, "*")], [], Conflicts::Refuse)
    };
    for (config, expected) in [
        (config([listener("a", 1, "*"), listener("a", 2, "*")], [], Conflicts::Refuse), "two listeners named `a`"),
        (
            config([], [route("r", &["nowhere"], &[])], Conflicts::Refuse),
            "route `r`: there is no listener named `nowhere`",
        ),
        (config([tcp.clone()], [route("r", &["tcp"], &[])], Conflicts::Refuse), "`tcp` does not lead to routes"),
        (with_stream(stream("web", "up")), "`web` does not lead to streams"),
        (with_stream(stream("tcp", "up")), "stream `s`: there is no upstream named `up`"),
    ] {
        let error = error_of(config).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn bad_certificates_fail_one_author_and_only_one_listener_of_many() {
    use crate::config::{Certificate, Termination};
    let bad = Certificate { origin: "Secret x".into(), hosts: vec![], chain: vec![], key: vec![] };
    let protocol = ListenerProtocol::Https(Termination { certificates: vec![bad], client: None, identity: None });
    let https = Listener { protocol, ..listener("https", 443, "*") };
    let refused = error_of(config([https.clone()], [], Conflicts::Refuse)).to_string();
    assert!(refused.starts_with("listener `https`: Secret x: "), "{refused}");
    build(config([https], [], Conflicts::Oldest)).unwrap();
}

/// A partner's authority is trusted for the partner's IDs: with the flat `ca` it could issue ours.
#[cfg(feature = "tls-ring")]
#[tokio::test]
async fn a_partners_authority_issues_no_id_of_ours() {
    use crate::{
        config::{ClientValidation, ClientValidationMode, Termination, TrustBundle},
        tls::{
            CertificateError, RefusedReason,
            tests::{CART, PAY, ca, client, refused, shake},
        },
    };
    const PARTNER: &str = "spiffe://partner.example/shop/till";
    let (ours, theirs) = (ca(), ca());
    let bundle = |domain: &str, roots: &str| TrustBundle {
        domain: domain.parse().unwrap(),
        roots: roots.as_bytes().into(),
        crls: None,
        dns_names: false,
    };
    let validation = |trust| ClientValidation {
        roots: b"".as_slice().into(),
        crls: None,
        trust: Some(trust),
        mode: ClientValidationMode::Required,
    };
    let world = |client| {
        let termination = Termination { certificates: vec![ours.issue(&[PAY])], client: Some(client), identity: None };
        let public = Listener { protocol: ListenerProtocol::Https(termination), ..listener("public", 443, "*") };
        config([public], [], Conflicts::Refuse)
    };
    let both = || vec![bundle("mesh.example", &ours.pem), bundle("partner.example", &theirs.pem)];
    let gateway = build(world(validation(both()))).unwrap();
    let snapshot = gateway.shared.snapshot.load();
    let server = &snapshot.listeners.terminations["public"];
    let by = |ca: &crate::tls::tests::Ca, id| {
        client(&crate::tls::Identity::new(&ca.issue(&[id]), ours.trust()).unwrap(), PAY)
    };
    for (ca, id) in [(&ours, CART), (&theirs, PARTNER)] {
        let admitted = shake(server, &by(ca, id)).await.0.unwrap();
        assert_eq!(admitted.peer_identity.unwrap().to_string(), id);
    }
    let error = shake(server, &by(&theirs, CART)).await.0.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);
    assert!(refused(&error).to_string().contains(CART), "{error:?}");

    let told = |client| match error_of(world(client)) {
        ListenerError::Tls { listener, source } if listener == "public" => source,
        other => panic!("{other}"),
    };
    let beside = ClientValidation { roots: ours.pem.as_bytes().into(), ..validation(both()) };
    assert!(matches!(told(beside), CertificateError::TrustBesideRoots));
    let twice = vec![bundle("mesh.example", &ours.pem), bundle("mesh.example", &theirs.pem)];
    assert!(matches!(told(validation(twice)), CertificateError::TrustDomainTwice { .. }));
}

#[cfg(feature = "tls-ring")]
#[tokio::test]
async fn a_listener_shows_the_identity_it_names_and_trusts_whom_that_trusts() {
    use crate::{
        config::{ClientValidation, ClientValidationMode, Termination},
        tls::{
            CertificateError, RefusedReason,
            tests::{CART, PAY, ca, client, refused, shake},
        },
    };
    let (old, new) = (ca(), ca());
    let pay = old.identity(&[PAY]);
    let (roots, mode) = (b"".as_slice().into(), ClientValidationMode::Required);
    let validation = ClientValidation { roots, crls: None, trust: None, mode };
    let world = |name: &str, certificates| {
        let (identity, client) = (Some(name.to_owned()), Some(validation.clone()));
        let protocol = ListenerProtocol::Https(Termination { certificates, identity, client });
        config([Listener { protocol, ..listener("mesh", 443, "*") }], [], Conflicts::Refuse)
    };
    let builder = |config| Gateway::builder(config).identity("pay", pay.clone());
    let gateway = builder(world("pay", vec![])).build().unwrap();
    let snapshot = gateway.shared.snapshot.load();
    let server = &snapshot.listeners.terminations["mesh"];
    let cart = client(&old.identity(&[CART]), PAY);
    let admitted = shake(server, &cart).await.0.unwrap();
    assert_eq!(admitted.peer_identity.unwrap().to_string(), CART);
    pay.replace_all(&new.issue(&[PAY]), new.pem.as_bytes(), b"").unwrap();
    shake(server, &client(&new.identity(&[CART]), PAY)).await.0.unwrap();
    let late = crate::tls::Identity::new(&old.issue(&[CART]), new.trust()).unwrap();
    let error = shake(server, &client(&late, PAY)).await.0.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);

    let told = |config| match builder(config).build() {
        Err(BuildError::Listeners(ListenerError::Tls { listener, source })) if listener == "mesh" => source,
        other => panic!("{other:?}"),
    };
    let unknown = told(world("cart", vec![]));
    assert!(
        matches!(&unknown, CertificateError::UnknownIdentity { name, known } if name == "cart" && *known == ["pay"])
    );
    assert!(unknown.to_string().starts_with("there is no identity named `cart`"), "{unknown}");
    let beside = told(world("pay", vec![old.issue(&[PAY])]));
    assert!(matches!(beside, CertificateError::IdentityBesideCertificates), "{beside}");
}

#[test]
fn a_table_is_made_once_however_many_listeners_lead_to_it() {
    let listeners = [listener("a", 80, "*"), listener("b", 81, "*")];
    let gateway = build(config(listeners, [route("shop", &["a", "b"], &[])], Conflicts::Oldest)).unwrap();
    let snapshot = gateway.shared.snapshot.load();
    let listeners = &snapshot.listeners;
    assert_eq!(listeners.places.len(), 2);
    for place in listeners.places.values() {
        let domain = place.domains.find(Some("shop.example.com")).unwrap();
        let Kind::Http(table) = &domain.kind else { panic!("it speaks HTTP") };
        assert!(Arc::ptr_eq(table, &listeners.mounted));
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_listener_that_asks_clients_for_certificates_is_not_joined_with_one_that_does_not() {
    use crate::config::{ClientValidation, ClientValidationMode, Termination};
    let validation =
        |mode| Some(ClientValidation { roots: b"not looked at".as_slice().into(), crls: None, trust: None, mode });
    let https = |name: &str, client| {
        let protocol = ListenerProtocol::Https(Termination { certificates: vec![], client, identity: None });
        Listener { protocol, ..listener(name, 443, "x.example") }
    };
    let routes = [route("open", &["open"], &["x.example"]), route("safe", &["safe"], &["x.example"])];
    let listeners = [https("open", None), https("safe", validation(ClientValidationMode::Required))];
    let connection = Some(over_tls("127.0.0.1:443", Some("x.example")));
    let only_safe = config(listeners.clone(), routes[1..].to_vec(), Conflicts::Oldest);
    assert_eq!(ask(&build(only_safe).unwrap(), connection.clone(), "x.example").await, "404");
    let both = config(listeners, routes.clone(), Conflicts::Oldest);
    assert_eq!(ask(&build(both).unwrap(), connection.clone(), "x.example").await, "open");
    // Nor with one that asks the same of whom another identity trusts.
    let of = |name: &str, identity: &str| {
        let mut listener = https(name, validation(ClientValidationMode::Optional));
        let ListenerProtocol::Https(ends) = &mut listener.protocol else { panic!("{listener:?}") };
        ends.identity = Some(identity.to_owned());
        ends.client.as_mut().unwrap().roots = b"".as_slice().into();
        listener
    };
    let build = |config: Config| {
        let mut builder = Gateway::builder(config);
        for name in ["ours", "theirs"] {
            builder = builder.identity(name, crate::tls::tests::ca().identity(&["spiffe://mesh.example/gate"]));
        }
        for name in ["open", "safe"] {
            builder = builder.local(name, Router::new().fallback(move || async move { name }));
        }
        builder.build()
    };
    let strangers = config([of("open", "theirs"), of("safe", "ours")], routes.clone(), Conflicts::Oldest);
    assert_eq!(ask(&build(strangers).unwrap(), connection.clone(), "x.example").await, "open");
    let only_safe = config([of("open", "theirs"), of("safe", "ours")], routes[1..].to_vec(), Conflicts::Oldest);
    assert_eq!(ask(&build(only_safe).unwrap(), connection.clone(), "x.example").await, "404");
    // Those that ask the same are one.
    let twins = [https("open", None), https("safe", None)];
    let only_safe = config(twins, [route("safe", &["safe"], &["x.example"])], Conflicts::Oldest);
    assert_eq!(ask(&build(only_safe).unwrap(), connection, "x.example").await, "safe");
}
