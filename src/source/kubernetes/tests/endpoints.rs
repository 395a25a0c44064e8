use super::*;
use crate::config::Protocol;

/// A config in which port `port` of Service s, declared as `ports`, is in use.
fn with(ports: &str, port: &str, slices: &str) -> Loaded {
    let spec = format!("{{defaultBackend: {{service: {{name: s, port: {{{port}}}}}}}}}");
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{clusterIP: 1.2.3.4, selector: {{a: b}}, ports: {ports}}}\n"
    );
    load(&(ingress("{name: i}", &spec) + &service + slices))
}

fn slice(name: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: s}}}}
addressType: IPv4\nports: {ports}\nendpoints: {endpoints}\n"
    )
}

#[test]
fn conditions_decide_who_is_used() {
    let one = |address: u8, conditions: &str| format!("{{addresses: [10.0.0.{address}], conditions: {conditions}}}");
    let none = "{ready: false}";
    let leaving = "{ready: false, serving: true, terminating: true}";
    for (endpoints, used) in [
        (vec![one(1, "{}"), one(2, "{ready: null}"), one(3, "{ready: true}"), one(4, none)], vec![1, 2, 3]),
        (vec![one(1, "null")], vec![1]),
        (vec![one(1, leaving), one(2, "{ready: true}")], vec![2]),
        (vec![one(1, leaving), one(2, none)], vec![1]),
        (vec![one(1, "{ready: false, serving: false, terminating: true}")], vec![]),
        (vec![one(1, "{ready: false, terminating: true}")], vec![1]),
        (vec![one(1, "{ready: false, serving: true}")], vec![]),
        (vec![one(1, "{ready: false, serving: true, terminating: false}")], vec![]),
        (vec![], vec![]),
    ] {
        let slices = slice("x", "[{name: http, port: 8080}]", &format!("[{}]", endpoints.join(", ")));
        let config = with("[{name: http, port: 80}]", "number: 80", &slices).config;
        let expected: Vec<_> = used.iter().map(|last| format!("10.0.0.{last}:8080")).collect();
        assert_eq!(addresses(&config, "default/s:80"), expected, "{endpoints:?}");
        assert_eq!(config.routes[0].rules[0].backends[0].invalid, None, "no endpoint is 503, not 500");
    }
}

#[test]
fn the_name_of_the_port_selects_the_slices_port() {
    let endpoints = "[{addresses: [10.0.0.1, 10.9.9.9]}]";
    for (service_ports, port, slice_ports, expected) in [
        ("[{port: 80, targetPort: 1}]", "number: 80", "[{port: 8080}]", vec!["10.0.0.1:8080"]),
        ("[{port: 80, name: ''}]", "number: 80", "[{port: 8080, name: null}]", vec!["10.0.0.1:8080"]),
        (
            "[{port: 80, name: a}, {port: 81, name: b}]",
            "name: b",
            "[{port: 1, name: a}, {port: 2, name: b}]",
            vec!["10.0.0.1:2"],
        ),
        ("[{port: 81, name: a}]", "number: 81", "[{port: 81, name: b}]", vec![]),
        ("[{port: 81, name: a}]", "number: 81", "[{name: a}]", vec![]),
        ("[{port: 81, name: a}]", "number: 81", "null", vec![]),
        (
            "[{port: 81, name: u, protocol: UDP}, {port: 81, name: a}]",
            "number: 81",
            "[{port: 1, name: u, protocol: UDP}, {port: 2, name: a}]",
            vec!["10.0.0.1:2"],
        ),
    ] {
        let config = with(service_ports, port, &slice("x", slice_ports, endpoints)).config;
        let name = &config.routes[0].rules[0].backends[0].name;
        assert_eq!(addresses(&config, name), expected, "{service_ports} {port} {slice_ports}");
    }
}

#[test]
fn slices_of_a_service_are_joined() {
    let v6 = slice("y", "[{port: 9}]", "[{addresses: ['fd00::1']}]").replace("IPv4", "IPv6");
    let slices = slice("z", "[{port: 8}]", "[{addresses: [10.0.0.2]}, {addresses: [10.0.0.1]}]")
        + &slice("x", "[{port: 8}]", "[{addresses: [10.0.0.1]}]")
        + &v6
        + &slice("empty", "[{port: 8}]", "null")
        + &slice("else", "[{port: 8}]", "[{addresses: [10.0.0.7]}]").replace("service-name: s}", "service-name: t}")
        + &slice("far", "[{port: 8}]", "[{addresses: [10.0.0.8]}]").replace("{name: far", "{namespace: far, name: far");
    let loaded = with("[{port: 80}]", "number: 80", &slices);
    assert_eq!(addresses(&loaded.config, "default/s:80"), ["10.0.0.1:8", "10.0.0.2:8", "[fd00::1]:9"]);
    assert_eq!(loaded.warnings, []);
}

#[test]
fn slices_nobody_can_use_are_warned_of() {
    let slices = slice("x", "[{port: 8}]", "[{addresses: [pod.example.com]}]").replace("IPv4", "FQDN")
        + &slice("y", "[{port: 8}]", "[]").replace(", labels: {kubernetes.io/service-name: s}", "");
    let loaded = with("[{port: 80}]", "number: 80", &slices);
    assert_eq!(addresses(&loaded.config, "default/s:80"), [""; 0]);
    let fields: Vec<_> = loaded.warnings.iter().map(|one| (one.place.line, &*one.field)).collect();
    assert_eq!(fields, [(15, "addressType"), (21, "metadata.labels")]);
}

#[test]
fn app_protocols_set_what_is_spoken() {
    for (app, protocol, tls) in [
        ("", Protocol::Auto, false),
        ("http", Protocol::Auto, false),
        ("kubernetes.io/h2c", Protocol::Http2, false),
        ("grpc", Protocol::Http2, false),
        ("kubernetes.io/ws", Protocol::Http1, false),
        ("kubernetes.io/wss", Protocol::Http1, true),
        ("https", Protocol::Auto, true),
        ("example.com/own", Protocol::Auto, false),
    ] {
        let loaded = with(&format!("[{{port: 80, appProtocol: '{app}'}}]"), "number: 80", "");
        let upstream = &loaded.config.upstreams[0];
        assert_eq!(upstream.protocol, protocol, "{app}");
        let name = upstream.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        assert_eq!(name, tls.then_some("s.default.svc"), "{app}");
        assert_eq!(loaded.warnings.len(), usize::from(app.contains("own")), "{app}");
    }
}

#[test]
fn an_external_name_is_looked_up() {
    let external = |ports: &str, port: &str| {
        let spec = format!("{{defaultBackend: {{service: {{name: s, port: {{{port}}}}}}}}}");
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{type: ExternalName, externalName: db.example.com., ports: {ports}}}\n"
        );
        load(&(ingress("{name: i}", &spec) + &service)).config
    };
    assert_eq!(addresses(&external("null", "number: 81"), "default/s:81"), ["dns:db.example.com:81"]);
    assert_eq!(addresses(&external("[{name: web, port: 82}]", "name: web"), "default/s:82"), ["dns:db.example.com:82"]);
    let unknown = external("[{name: web, port: 82}]", "name: other");
    assert!(unknown.routes[0].rules[0].backends[0].invalid.is_some());
}
