use super::*;

/// One line a route: `NAME LISTENERS HOSTS -> BACKEND*WEIGHT ...`, an invalid backend with `!` behind it.
fn streams(config: &Config) -> Vec<String> {
    let one = |route: &crate::config::StreamRoute| {
        let hosts: Vec<_> = route.hosts.iter().map(ToString::to_string).collect();
        let backends: Vec<_> = route
            .backends
            .iter()
            .map(|one| format!("{}*{}{}", one.name, one.weight, if one.invalid.is_some() { "!" } else { "" }))
            .collect();
        format!("{} {} {} -> {}", route.name, route.listeners.join(","), hosts.join(","), backends.join(" "))
    };
    config.streams.iter().map(one).collect()
}

fn world() -> String {
    CLASS.to_owned()
        + &gateway(
            "{name: g}",
            "",
            &[
                "{name: pass, port: 443, protocol: TLS, hostname: '*.pass.com', tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}",
                "{name: end, port: 443, protocol: TLS, hostname: '*.end.com', tls: {mode: Terminate, certificateRefs: [{name: s}]}}",
                "{name: tcp, port: 9000, protocol: TCP}",
                "{name: http, port: 80, protocol: HTTP}",
            ],
        )
        + &certificate("default", "s")
        + &service("b")
        + &service("far").replace("{name: far", "{namespace: far, name: far")
}

#[test]
fn streams_lead_from_listeners_to_backends() {
    let backend = "rules: [{backendRefs: [{name: b, port: 80}]}]";
    for (kind, spec, expected) in [
        (
            "TLSRoute",
            format!("{{parentRefs: [{{name: g}}], hostnames: [a.pass.com], {backend}}}"),
            vec!["default/r default/g/pass a.pass.com -> default/b:80*1"],
        ),
        ("TLSRoute", format!("{{parentRefs: [{{name: g}}], hostnames: [a.else.com], {backend}}}"), vec![]),
        ("TLSRoute", format!("{{parentRefs: [{{name: g, sectionName: http}}], hostnames: [a.com], {backend}}}"), vec![]),
        (
            "TCPRoute",
            format!("{{parentRefs: [{{name: g}}], {backend}}}"),
            vec!["default/r default/g/tcp  -> default/b:80*1"],
        ),
        ("TCPRoute", format!("{{parentRefs: [{{name: g, sectionName: pass}}], {backend}}}"), vec![]),
        ("TCPRoute", format!("{{{backend}}}"), vec![]),
        (
            "TCPRoute",
            "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: b, port: 80, weight: 3}, {name: gone, port: 1, weight: 2}, {name: b, port: 81, weight: 0}, {name: x, kind: Bucket, group: y}]}]}".to_owned(),
            vec!["default/r default/g/tcp  -> default/b:80*3 default/gone:1*2! default/b:81*0! default/x*1!"],
        ),
        (
            "TCPRoute",
            "{parentRefs: [{name: g}], rules: [{}]}".to_owned(),
            vec!["default/r default/g/tcp  -> default/*1!"],
        ),
        (
            "TCPRoute",
            "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: far, namespace: far, port: 80}]}]}".to_owned(),
            vec!["default/r default/g/tcp  -> far/far:80*1!"],
        ),
    ] {
        let loaded = load(&(world() + &object(kind, "{name: r}", &spec)));
        assert_eq!(streams(&loaded.config), expected, "{kind} {spec}");
        let is_fine = expected.len() == 1 && !expected[0].contains('!') || !spec.contains("parentRefs");
        assert_eq!(loaded.warnings.is_empty(), is_fine, "{kind} {spec}: {:?}", told(&loaded));
    }
}

#[test]
fn a_grant_opens_another_namespace() {
    let spec = "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: far, namespace: far, port: 80}]}]}";
    let from = |kind: &str| format!("{{group: gateway.networking.k8s.io, kind: {kind}, namespace: default}}");
    let to = "{group: '', kind: Service, name: far}";
    for (kind, is_granted) in [("TCPRoute", true), ("TLSRoute", false), ("Gateway", false)] {
        let text = world() + &object("TCPRoute", "{name: r}", spec) + &grant("far", &from(kind), to);
        let config = load(&text).config;
        assert_eq!(config.streams[0].backends[0].invalid.is_none(), is_granted, "{kind}");
    }
}

#[test]
fn every_version_of_a_route_is_read_and_the_oldest_comes_first() {
    let spec = "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: b, port: 80}]}]}";
    let route = |kind: &str, metadata: &str, version: &str| {
        object(kind, metadata, spec).replace("io/v1\n", &format!("io/{version}\n"))
    };
    let text = world()
        + &route("TLSRoute", "{name: c}", "v1")
        + &route("TLSRoute", "{name: b}", "v1alpha2")
        + &route("TLSRoute", "{name: d, creationTimestamp: '2026-01-01T00:00:00Z'}", "v1alpha3")
        + &route("TCPRoute", "{name: b}", "v1")
        + &route("TCPRoute", "{name: a}", "v1alpha2");
    let mut names: Vec<_> = load(&text).config.streams.into_iter().map(|route| route.name).collect();
    names.dedup();
    assert_eq!(names, ["default/d", "default/b", "default/c", "default/a", "default/b"]);
}

#[test]
fn what_is_passed_on_and_what_is_ended_are_two_routes() {
    let spec = "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: b, port: 80}]}]}";
    let config = load(&(world() + &object("TLSRoute", "{name: r}", spec))).config;
    let listeners: Vec<_> = config.streams.iter().map(|route| route.listeners.join(",")).collect();
    assert_eq!(listeners, ["default/g/end", "default/g/pass"]);
}
