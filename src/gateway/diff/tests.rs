use super::*;
use crate::config::{BackendRef, Match, Rule};

fn route(name: &str, listeners: &[&str], hosts: &[&str], backend: &str) -> Route {
    let rule = Rule { matches: vec![Match::prefix("/")], backends: vec![BackendRef::new(backend)], ..Rule::default() };
    Route {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        listeners: listeners.iter().map(ToString::to_string).collect(),
        rules: vec![rule],
        ..Route::named(name)
    }
}

fn listener(name: &str, addresses: &[&str], port: u16, host: &str) -> Listener {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Listener { addresses, host: host.parse().unwrap(), ..Listener::http(name, port) }
}

fn config(listeners: &[Listener], routes: &[Route]) -> Config {
    Config { listeners: listeners.to_vec(), routes: routes.to_vec(), ..Config::default() }
}

fn told(old: &Config, new: &Config) -> Vec<String> {
    diff(old, new).unwrap().to_string().lines().map(str::to_owned).collect()
}

#[test]
fn a_listener_keeps_its_hosts_from_the_others_and_shows_only_what_routes_share_with_it() {
    let any = listener("any", &["10.0.0.1"], 80, "*");
    let shop = listener("shop", &["10.0.0.1"], 80, "*.shop.example");
    let routes = [
        route("all", &["any"], &[], "web"),
        // `other.example` is not the listener's.
        route("shop", &["shop"], &["a.shop.example", "other.example"], "shop"),
    ];
    let old = config(std::slice::from_ref(&any), &routes[..1]);
    let new = config(&[any, shop], &routes);
    let expected = [
        "listeners:",
        "  shop",
        "    + HTTP at port 80 of 10.0.0.1, host *.shop.example",
        "HTTP at 10.0.0.1:80:",
        "  *.shop.example, any other path",
        "    - route `all`, rule 0: web",
        "    + no route (404)",
        "  a.shop.example, any other path",
        "    - route `all`, rule 0: web",
        "    + route `shop`, rule 0: shop",
    ];
    assert_eq!(told(&old, &new), expected);
    assert!(diff(&old, &old).unwrap().is_empty());
}

#[test]
fn addresses_with_the_same_listeners_are_told_together_and_ports_apart() {
    let listeners = [listener("a", &["10.0.0.1", "10.0.0.2"], 80, "*"), listener("b", &[], 81, "*")];
    let old = config(&listeners, &[route("r", &["a", "b"], &[], "web")]);
    let new = config(&listeners, &[route("r", &["a"], &[], "web-2"), route("s", &["b"], &[], "web")]);
    let told = told(&old, &new);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[0], "HTTP at 10.0.0.1:80, 10.0.0.2:80:");
}

#[test]
fn whose_clients_a_listener_trusts_is_told() {
    use crate::config::{ClientValidation, ClientValidationMode, Termination, TrustBundle};
    let bundle = |domain: &str| TrustBundle {
        domain: domain.parse().unwrap(),
        roots: b"a".as_slice().into(),
        crls: None,
        dns_names: false,
    };
    let world = |trust| {
        let mode = ClientValidationMode::Required;
        let client = Some(ClientValidation { roots: b"".as_slice().into(), crls: None, trust: Some(trust), mode });
        let protocol =
            ListenerProtocol::Https(Termination { certificates: vec![], client, identity: Some("mesh".into()) });
        config(&[Listener { protocol, ..listener("a", &[], 443, "*") }], &[])
    };
    let told = told(&world(vec![bundle("a.example")]), &world(vec![bundle("a.example"), bundle("b.example")]));
    let asks = "HTTPS at port 443, host *, shows identity mesh, asks for clients' certificates of trust domains";
    assert_eq!(
        told[2..],
        [format!("    - {asks} a.example (Required)"), format!("    + {asks} a.example, b.example (Required)")]
    );
}

#[test]
fn what_is_attached_to_nothing_and_what_governs_calls_are_told_apart() {
    let free = |backend| route("free", &[], &[], backend);
    let mesh = |backend| Route {
        services: vec![MeshParent { service: "shop/cart".into(), ..MeshParent::default() }],
        ..route("mesh", &[], &[], backend)
    };
    let told = told(&config(&[], &[free("a"), mesh("a")]), &config(&[], &[free("a"), mesh("b")]));
    assert_eq!(told[0], "calls of service shop/cart:");
    assert_eq!(told.len(), 4, "{told:?}");
    let old = config(&[], &[free("a"), mesh("a")]);
    let new = config(&[], &[free("b"), mesh("a")]);
    assert_eq!(diff(&old, &new).unwrap().parts()[0].title(), "requests where no listener is");
}

#[test]
fn streams_endpoints_and_certificates_have_their_own_lines() {
    let stream = |backend: &str| StreamRoute {
        name: "db".into(),
        listeners: vec!["tcp".into()],
        backends: vec![BackendRef::new(backend)],
        ..StreamRoute::default()
    };
    let certificate =
        |key: u8| Certificate { origin: "Secret a/b".into(), hosts: vec![Host::Any], chain: vec![key], key: vec![key] };
    let world = |backend, endpoints: &[&str], key| Config {
        streams: vec![stream(backend)],
        upstreams: vec![Upstream::new("db", Endpoints::fixed(endpoints.iter().map(|at| at.parse().unwrap())))],
        certificates: vec![certificate(key)],
        ..Config::default()
    };
    let (one, two) = ("10.0.0.1:1", "10.0.0.2:1");
    assert_eq!(told(&world("db", &[one, two], 1), &world("db", &[two, one], 1)), [""; 0]);
    let expected = [
        "streams:",
        "  db",
        "    - any name at tcp: db",
        "    + any name at tcp: db-2",
        "upstreams:",
        "  db",
        "    - 10.0.0.1:1",
        "    + 10.0.0.2:1",
        "certificates:",
        "  Secret a/b",
        "    + another certificate for *",
    ];
    assert_eq!(told(&world("db", &[one], 1), &world("db-2", &[two], 2)), expected);
}

#[test]
fn a_service_that_no_route_leads_to_is_compared_with_its_endpoints() {
    let upstream = |port: u16| Upstream::new("shop/cart:80", Endpoints::fixed([([10, 0, 0, 1], port).into()]));
    let with = |own: Option<Upstream>, listed: Vec<Upstream>| {
        let backend = BackendRef::new("shop/cart:80");
        let port = crate::config::ServicePort {
            upstream: own.map(Into::into),
            ..crate::config::ServicePort::new(80, backend)
        };
        let cart = Service { name: "shop/cart".into(), ports: vec![port] };
        Config { services: vec![cart], upstreams: listed, ..Config::default() }
    };
    let own = with(Some(upstream(1)), vec![]);
    assert_eq!(told(&Config::default(), &own), ["services:", "  shop/cart", "    + port 80: shop/cart:80"]);
    let moved = ["upstreams:", "  shop/cart:80", "    - 10.0.0.1:1", "    + 10.0.0.1:2"];
    assert_eq!(told(&own, &with(Some(upstream(2)), vec![])), moved);
    assert_eq!(told(&own, &with(None, vec![upstream(2)])), moved);
    assert_eq!(
        told(&own, &with(None, vec![upstream(1)])),
        [""; 0],
        "that a route leads there now is for the route to say"
    );
}

#[test]
fn whom_to_trust_is_told() {
    let trust = vec!["10.0.0.0/8".parse().unwrap()];
    let new = Config { forwarded: Some(Forwarded { trust, ..Forwarded::default() }), ..Config::default() };
    let told = told(&Config::default(), &new);
    assert_eq!(told[..2], ["forwarded:", "  - as the program chose"]);
    assert!(told[2].starts_with("  + trusts 10.0.0.0/8, rfc7239 false"), "{told:?}");
}
