use super::*;

/// Gateway `infra/g` with four listeners, and an unserved one.
fn world() -> String {
    CLASS.to_owned()
        + &gateway(
            "{name: g, namespace: infra}",
            "",
            &[
                "{name: same, port: 80, protocol: HTTP, hostname: '*.same.com'}",
                "{name: all, port: 80, protocol: HTTP, hostname: all.com, allowedRoutes: {namespaces: {from: All}}}",
                "{name: some, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {env: prod}, matchExpressions: [{key: team, operator: NotIn, values: [web]}]}}}}",
                "{name: grpc, port: 82, protocol: HTTP, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}}",
                "{name: only-bad, port: 83, protocol: HTTP, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: TCPRoute}]}}",
                "{name: tcp, port: 84, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}",
                "{name: tls, port: 85, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}",
                "{name: lost, port: 86, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}",
                "{name: lost-too, port: 86, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}",
            ],
        )
        + &namespace("prod", "{env: prod}")
        + &namespace("web", "{env: prod, team: web}")
        + &gateway("{name: classless, namespace: infra}", "", &["{name: a, port: 80, protocol: HTTP}"])
            .replace("Name: c,", "Name: other,")
}

#[test]
fn a_listener_must_take_kind_namespace_and_host() {
    let world = world();
    for (kind, namespace, parents, hosts, expected) in [
        ("HTTPRoute", "infra", "[{name: g}]", &[][..], &["same", "all"][..]),
        ("HTTPRoute", "infra", "[{name: g}]", &["a.same.com", "all.com"], &["same", "all"]),
        ("HTTPRoute", "infra", "[{name: g}]", &["a.b.same.com"], &["same"]),
        ("HTTPRoute", "infra", "[{name: g}]", &["*.com"], &["same", "all"]),
        ("HTTPRoute", "infra", "[{name: g}]", &["same.com"], &[]),
        ("HTTPRoute", "other", "[{name: g, namespace: infra}]", &[], &["all"]),
        ("HTTPRoute", "other", "[{name: g}]", &[], &[]),
        ("HTTPRoute", "prod", "[{name: g, namespace: infra}]", &[], &["all", "some"]),
        ("HTTPRoute", "prod", "[{name: g, namespace: infra}]", &["x.com"], &["some"]),
        ("HTTPRoute", "web", "[{name: g, namespace: infra}]", &[], &["all"]),
        ("GRPCRoute", "infra", "[{name: g}]", &[], &["same", "all", "grpc"]),
        ("TCPRoute", "infra", "[{name: g}]", &[], &["tcp"]),
        ("TLSRoute", "infra", "[{name: g}]", &["x.com"], &["tls"]),
        // By section and port.
        ("HTTPRoute", "infra", "[{name: g, sectionName: all}]", &[], &["all"]),
        ("HTTPRoute", "infra", "[{name: g, sectionName: ''}]", &[], &["same", "all"]),
        ("HTTPRoute", "infra", "[{name: g, sectionName: gone}]", &[], &[]),
        ("HTTPRoute", "infra", "[{name: g, port: 80}]", &[], &["same", "all"]),
        ("HTTPRoute", "infra", "[{name: g, port: 8080}]", &[], &[]),
        ("HTTPRoute", "infra", "[{name: g, port: 80, sectionName: all}]", &[], &["all"]),
        ("HTTPRoute", "infra", "[{name: g, port: 81, sectionName: all}]", &[], &[]),
        ("HTTPRoute", "infra", "[{name: g, sectionName: grpc}]", &[], &[]),
        ("HTTPRoute", "infra", "[{name: g, sectionName: only-bad}]", &[], &[]),
        ("TCPRoute", "infra", "[{name: g, sectionName: only-bad}]", &[], &[]),
        ("HTTPRoute", "infra", "[{name: g, sectionName: lost}]", &[], &[]),
        // Several parents, one of which is nothing.
        ("HTTPRoute", "infra", "[{name: gone}, {name: g, sectionName: all}]", &[], &["all"]),
        ("HTTPRoute", "infra", "[{name: g, port: 80}, {name: g, sectionName: all}]", &[], &["same", "all"]),
        ("HTTPRoute", "infra", "[{name: g, kind: Gateway, group: example.com}]", &[], &[]),
        ("HTTPRoute", "infra", "[{name: classless}]", &[], &[]),
        ("HTTPRoute", "infra", "[]", &[], &[]),
        ("HTTPRoute", "infra", "[{name: g, kind: Service, group: ''}]", &[], &[]),
    ] {
        let (attached, _) = attach(&world, kind, namespace, parents, hosts);
        let expected: Vec<_> = expected.iter().map(|section| format!("infra/g/{section}")).collect();
        assert_eq!(attached, expected, "{kind} {namespace} {parents} {hosts:?}");
    }
}

#[test]
fn a_parent_that_takes_no_route_is_told_why() {
    let world = world();
    for (namespace, parents, hosts, expected) in [
        (
            "infra",
            "[{name: g, sectionName: gone}]",
            "",
            ".sectionName: Gateway infra/g has no such listener: there are `same`",
        ),
        (
            "infra",
            "[{name: g, port: 99}]",
            "",
            ".port: none there is at this port: there are `same` (port 80 *.same.com), `all` (port 80 all.com)",
        ),
        (
            "infra",
            "[{name: g, sectionName: all, port: 99}]",
            "",
            ".port: none there is at this port: there is `all` (port 80 all.com)",
        ),
        (
            "infra",
            "[{name: g, sectionName: tcp}]",
            "",
            ": Gateway infra/g takes no HTTPRoute there: there is `tcp` (port 84)",
        ),
        (
            "other",
            "[{name: g, namespace: infra, sectionName: same}]",
            "",
            ": Gateway infra/g admits no route of namespace other there: there is `same`",
        ),
        (
            "infra",
            "[{name: g, sectionName: all}]",
            "x.com",
            ": Gateway infra/g has none of the hostnames (x.com) there: there is `all` (port 80 all.com)",
        ),
        (
            "infra",
            "[{name: g, sectionName: lost}]",
            "",
            ": Gateway infra/g does not serve it: there is `lost` (port 86, not served: another listener",
        ),
        ("infra", "[{name: gone}]", "", ": there is no Gateway infra/gone"),
        (
            "infra",
            "[{name: classless}]",
            "",
            ": Gateway infra/classless is not served: there is no GatewayClass `other`",
        ),
        ("infra", "[{name: g, kind: Mesh}]", "", ".kind: `Mesh` of group `gateway.networking.k8s.io` is nothing"),
    ] {
        let hosts: Vec<_> = Some(hosts).filter(|hosts| !hosts.is_empty()).into_iter().collect();
        let (_, told) = attach(&world, "HTTPRoute", namespace, parents, &hosts);
        let [told] = &*told else { panic!("{parents}: {told:?}") };
        assert!(told.starts_with(&format!("spec.parentRefs[0]{expected}")), "{told}\n{expected}");
    }
    let (_, told) = attach(&world, "HTTPRoute", "infra", "[{name: g, kind: Service, group: ''}]", &[]);
    assert_eq!(told, [""; 0], "that is the mesh's");
}
