use super::*;

#[test]
fn every_protocol_becomes_a_listener() {
    let text = CLASS.to_owned()
        + &gateway(
            "{name: g, namespace: n}",
            "addresses: [{value: 10.0.0.1}, {type: IPAddress, value: 'fd00::1'}],",
            &[
                "{name: a, port: 80, protocol: HTTP}",
                "{name: b, port: 80, protocol: HTTP, hostname: B.example.com}",
                "{name: c, port: 443, protocol: HTTPS, hostname: '*.example.com', tls: {certificateRefs: [{name: s}]}}",
                "{name: d, port: 443, protocol: TLS, hostname: d.com, tls: {mode: Passthrough}}",
                "{name: e, port: 443, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: s}]}}",
                "{name: f, port: 9000, protocol: TCP}",
            ],
        )
        + &certificate("n", "s");
    let loaded = load(&text);
    assert_eq!(
        listeners(&loaded.config),
        [
            "n/g/a 10.0.0.1,fd00::1:80 * http",
            "n/g/b 10.0.0.1,fd00::1:80 b.example.com http",
            "n/g/c 10.0.0.1,fd00::1:443 *.example.com https",
            "n/g/d 10.0.0.1,fd00::1:443 d.com passthrough",
            "n/g/e 10.0.0.1,fd00::1:443 * tls",
            "n/g/f 10.0.0.1,fd00::1:9000 * tcp",
        ]
    );
    assert_eq!(told(&loaded), [""; 0]);
}

#[test]
fn a_gateway_of_a_class_that_is_not_there_is_not_served() {
    let one = &["{name: a, port: 80, protocol: HTTP}"];
    for (classes, is_served) in [
        (CLASS.to_owned(), true),
        (String::new(), false),
        (CLASS.replace("name: c}", "name: d}"), false),
        (CLASS.replace("/v1", "/v1beta1"), true),
    ] {
        let loaded = load(&(classes.clone() + &gateway("{name: g}", "", one)));
        assert_eq!(loaded.config.listeners.len(), usize::from(is_served), "{classes}");
        assert_eq!(loaded.warnings.iter().any(|one| one.field == "spec.gatewayClassName"), !is_served, "{classes}");
    }
}

#[test]
fn addresses_that_cannot_be_bound_are_told() {
    for (addresses, bound, warned) in [
        ("[]", "", 0),
        ("[{type: IPAddress}]", "", 0),
        ("[{type: Hostname, value: lb.example.com}]", "", 1),
        ("[{type: example.com/named, value: x}, {value: 10.0.0.2}]", "10.0.0.2", 1),
    ] {
        let more = format!("addresses: {addresses},");
        let loaded = load(&(CLASS.to_owned() + &gateway("{name: g}", &more, &["{name: a, port: 80, protocol: HTTP}"])));
        assert_eq!(listeners(&loaded.config), [format!("default/g/a {bound}:80 * http")]);
        assert_eq!(loaded.warnings.len(), warned, "{addresses}");
    }
}

#[test]
fn what_a_listener_cannot_be_or_take_is_told_and_its_siblings_serve() {
    let text = CLASS.to_owned()
        + &gateway(
            "{name: g}",
            "",
            &[
                "{name: udp, port: 53, protocol: UDP}",
                "{name: own, port: 54, protocol: example.com/own}",
                "{name: bare, port: 443, protocol: HTTPS}",
                "{name: ok, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: TCPRoute}, {kind: HTTPRoute, group: x}]}}",
                "{name: lost, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}",
                "{name: odd, port: 82, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: k, operator: Gt, values: ['1']}]}}}}",
            ],
        );
    let loaded = load(&text);
    assert_eq!(
        listeners(&loaded.config),
        [
            "default/g/bare :443 * https!",
            "default/g/ok :80 * http",
            "default/g/lost :81 * http",
            "default/g/odd :82 * http",
        ]
    );
    let told = told(&loaded);
    for expected in [
        "spec.listeners[0].protocol: protocol `UDP` is not known",
        "spec.listeners[1].protocol: protocol `example.com/own` is not known",
        "spec.listeners[2].tls: the listener has no certificate: there is no `tls`",
        "spec.listeners[3].allowedRoutes.kinds[1]: a listener of protocol HTTP takes no TCPRoute: it takes HTTPRoute, GRPCRoute",
        "spec.listeners[3].allowedRoutes.kinds[2]: a listener of protocol HTTP takes no HTTPRoute of group x",
        "spec.listeners[4].allowedRoutes.namespaces.selector: there is none",
        "spec.listeners[5].allowedRoutes.namespaces.selector.matchExpressions: `Gt` of `k` is none of `In`",
    ] {
        assert!(told.iter().any(|one| one.starts_with(expected)), "{expected}\n{told:#?}");
    }
    assert_eq!(told.len(), 7, "{told:#?}");
}
