//! Services that calls of this process may name, and routes whose parents they are.

use super::{
    http_routes::{BACKENDS, GATEWAY, authority, config_map, object, policy},
    *,
};
use crate::config::Protocol;

#[test]
fn a_service_as_parent_makes_a_route_of_the_mesh() {
    let parents =
        "[{group: '', kind: Service, name: s, port: 80}, {group: '', kind: Service, name: gone}, {name: web}]";
    let spec = format!("{{parentRefs: {parents}, hostnames: [a.example], rules: [{{{BACKENDS}}}]}}");
    let consumer = "{parentRefs: [{group: '', kind: Service, name: s, namespace: default}], rules: [{backendRefs: [{name: s, namespace: default, port: 80}]}]}";
    let grpc = "{parentRefs: [{group: '', kind: Service, name: g}], rules: [{backendRefs: [{name: g, port: 80}]}]}";
    let text = object("HTTPRoute", "{name: r}", &spec)
        + &object("HTTPRoute", "{name: c, namespace: client}", consumer)
        + &object("GRPCRoute", "{name: g}", grpc)
        + &service("s")
        + &service("g");
    let config = load(&format!("{GATEWAY}{text}")).config;
    let seen: Vec<_> = config
        .routes
        .iter()
        .map(|route| {
            let backend = &route.rules[0].backends[0];
            assert_eq!(backend.invalid, None, "no grant is needed in a mesh");
            (&*route.name, route.listeners.len(), route.hosts.len(), route.services.clone(), &*backend.name)
        })
        .collect();
    let parent = |service: &str, port, consumers: Option<&str>| {
        vec![crate::config::MeshParent { service: service.into(), port, consumers: consumers.map(str::to_owned) }]
    };
    assert_eq!(
        seen,
        [
            ("client/c", 0, 0, parent("default/s", None, Some("client")), "default/s:80"),
            ("default/r", 1, 1, vec![], "default/s:80"),
            ("default/r", 0, 0, parent("default/s", Some(80), None), "default/s:80"),
            ("default/g (GRPCRoute)", 0, 0, parent("default/g", None, None), "default/g:80+grpc"),
        ]
    );
    let services: Vec<_> = config.services.iter().map(|one| (&*one.name, &*one.ports[0].backend.name)).collect();
    assert_eq!(services, [("default/g", "default/g:80+grpc"), ("default/s", "default/s:80")]);
    let own: Vec<_> = config.services.iter().filter_map(|one| one.ports[0].upstream.as_ref()).collect();
    assert_eq!(own.len(), 0, "routes lead to both: {own:?}");
}

#[test]
fn a_service_that_no_route_leads_to_has_the_upstream_that_a_backend_would_have() {
    let port = |more: &str| service("s").replace("port: 80}", &format!("port: 80, {more}}}"));
    let validation = "{caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}], hostname: a.example}";
    let secured = service("s") + &config_map("ca", &authority()) + &policy("p", "", validation);
    let no_slice = service("s").split("---\napiVersion: discovery").next().unwrap().to_owned();
    let external = "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: ExternalName, externalName: a.example, ports: [{port: 80}]}\n";
    for (manifests, endpoints, protocol, tls) in [
        (service("s"), 1, Protocol::Auto, false),
        (port("appProtocol: kubernetes.io/h2c"), 1, Protocol::Http2, false),
        (port("appProtocol: kubernetes.io/ws"), 1, Protocol::Http1, false),
        (service("s").replace("spec: {ports", "spec: {clusterIP: None, ports"), 1, Protocol::Auto, false),
        (secured, 1, Protocol::Auto, true),
        (no_slice, 0, Protocol::Auto, false),
        (external.to_owned(), 0, Protocol::Auto, false),
    ] {
        let alone = load(&manifests).config;
        assert_eq!(alone.upstreams, [], "nothing is made for it");
        let port = &alone.services[0].ports[0];
        let own = port.upstream.as_deref().unwrap();
        let addresses = if let Endpoints::Static(endpoints) = &own.endpoints { endpoints.len() } else { 0 };
        assert_eq!((addresses, own.protocol, own.tls.is_some()), (endpoints, protocol, tls), "{manifests}");

        let route = format!("{{parentRefs: [{{name: web}}], rules: [{{{BACKENDS}}}]}}");
        let led_to = load(&format!("{GATEWAY}{manifests}{}", object("HTTPRoute", "{name: r}", &route))).config;
        assert_eq!((own, &port.backend), (&led_to.upstreams[0], &led_to.routes[0].rules[0].backends[0]), "{manifests}");
        assert_eq!(led_to.services[0].ports[0].upstream, None, "it is among the others");
    }
}

#[test]
fn the_ports_of_a_service_are_those_that_can_be_called() {
    let named = |name: &str, ports: &str| {
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: {ports}}}\n")
    };
    let ports = "[{name: a, port: 80}, {name: dns, port: 53, protocol: UDP}, {name: grpc-b, port: 81}, {name: c, port: 80}, {name: d, port: 82, appProtocol: example.com/own}]";
    let loaded = load(&(named("s", ports) + &named("a.b", "[{port: 80}]") + &named("none", "[]")));
    let services: Vec<(&str, Vec<_>)> = loaded
        .config
        .services
        .iter()
        .map(|one| (&*one.name, one.ports.iter().map(|port| (port.port, &*port.backend.name)).collect()))
        .collect();
    let ports = vec![(80, "default/s:80"), (81, "default/s:81+grpc"), (82, "default/s:82")];
    assert_eq!(services, [("default/none", vec![]), ("default/s", ports)]);
    // What is spoken at a port that nothing leads to concerns nobody.
    let warnings: Vec<_> = loaded.warnings.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(warnings, ["metadata.name"], "{:?}", loaded.warnings);
}

#[test]
fn a_policy_that_cannot_be_kept_makes_calls_of_its_service_fail() {
    let gone = "{caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}], hostname: a.example}";
    let config = load(&(service("s") + &policy("p", "", gone))).config;
    let port = &config.services[0].ports[0];
    assert!(port.backend.invalid.is_some() && port.upstream.is_none(), "{port:?}");
}
