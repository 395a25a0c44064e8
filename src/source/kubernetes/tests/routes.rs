use super::*;
use crate::config::{Conflicts, Host};

#[test]
fn paths_hosts_and_ports_become_rules() {
    let spec = format!(
        "{{rules: [{{host: A.example.com, http: {{paths: [{}, {}, {}]}}}}, {{host: '*.example.com', http: {{paths: [{}]}}}},
          {{http: {{paths: [{{pathType: ImplementationSpecific, backend: {{service: {{name: b, port: {{name: http}}}}}}}}]}}}}]}}",
        path("/x", "Exact", "a"),
        path("/y/", "Prefix", "b"),
        path("/z", "ImplementationSpecific", "a"),
        path("/", "Prefix", "a"),
    );
    let loaded = load(&(ingress("{name: i, namespace: default}", &spec) + &service("a") + &service("b")));
    assert_eq!(
        table(&loaded.config),
        [
            "default/i a.example.com =/x -> default/a:80",
            "default/i a.example.com /y/ -> default/b:80",
            "default/i a.example.com /z -> default/a:80",
            "default/i *.example.com / -> default/a:80",
            "default/i * / -> default/b:80",
        ]
    );
    assert_eq!(loaded.config.routes[1].hosts, [Host::OneLabelWildcard("example.com".into())]);
    assert_eq!(loaded.config.conflicts, Conflicts::Oldest);
    assert_eq!(loaded.warnings, []);
    assert_eq!(addresses(&loaded.config, "default/b:80"), ["10.0.0.1:8080"]);
    assert_eq!(loaded.config.upstreams.len(), 2, "one port by name and by number is one upstream");
}

#[test]
fn rules_for_one_host_are_one_route() {
    let paths = |text| format!("http: {{paths: [{}]}}", path(text, "Prefix", "a"));
    let spec = format!(
        "{{rules: [{{host: a, {}}}, {{host: b, {}}}, {{host: a, {}}}]}}",
        paths("/1"),
        paths("/2"),
        paths("/3")
    );
    let config = load(&(ingress("{name: i}", &spec) + &service("a"))).config;
    assert_eq!(config.routes.len(), 2);
    assert_eq!(
        table(&config),
        ["default/i a /1 -> default/a:80", "default/i a /3 -> default/a:80", "default/i b /2 -> default/a:80"]
    );
}

#[test]
fn a_default_backend_gets_what_is_left() {
    let default = "defaultBackend: {service: {name: d, port: {number: 80}}}";
    let all = ingress("{name: only}", &format!("{{{default}}}")) + &service("d");
    assert_eq!(table(&load(&all).config), ["default/only * / -> default/d:80"]);

    // A rule without `http`, and hosts that have rules.
    let spec =
        format!("{{{default}, rules: [{{host: a}}, {{host: b, http: {{paths: [{}]}}}}]}}", path("/b", "Prefix", "d"));
    let all = ingress("{name: i}", &spec) + &service("d");
    assert_eq!(
        table(&load(&all).config),
        ["default/i a / -> default/d:80", "default/i b /b -> default/d:80", "default/i * / -> default/d:80"]
    );

    // A rule that asks for nothing is the default backend itself.
    let both = ingress("{name: i}", &format!("{{{default}, rules: [{{}}]}}")) + &service("d");
    assert_eq!(table(&load(&both).config), ["default/i * / -> default/d:80"]);
    assert_eq!(load(&both).warnings, []);

    // A rule for everything stands above any default backend, although it is younger.
    let spec = format!("{{rules: [{{http: {{paths: [{}]}}}}]}}", path("/", "Prefix", "e"));
    let younger = ingress("{name: z, creationTimestamp: '2026-01-02T00:00:00Z'}", &spec);
    let older = ingress("{name: a, creationTimestamp: '2026-01-01T00:00:00Z'}", &format!("{{{default}}}"));
    let loaded = load(&(older + &younger + &service("d") + &service("e")));
    assert_eq!(table(&loaded.config), ["default/z * / -> default/e:80"]);
    assert_eq!(loaded.warnings[0].field, "spec.defaultBackend");
}

#[test]
fn a_rule_without_paths_and_default_routes_nothing() {
    let text = ingress("{name: i}", "{rules: [{host: a}]}");
    assert_eq!(table(&load(&text).config), [""; 0]);
    assert_eq!(
        load(&text).warnings[0].to_string(),
        "k.yaml:5:16: Ingress default/i: spec.rules[0]: has neither `http` nor is there a `defaultBackend`: it routes nothing"
    );
}

#[test]
fn classes_decide_who_is_served() {
    let class = "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: ours}\nspec: {controller: some.one/else}\n";
    for (metadata, class_name, is_served) in [
        ("{name: i}", "", true),
        ("{name: i}", "ingressClassName: ours, ", true),
        ("{name: i}", "ingressClassName: '', ", true),
        ("{name: i}", "ingressClassName: null, ", true),
        ("{name: i}", "ingressClassName: other, ", false),
        ("{name: i, annotations: {kubernetes.io/ingress.class: ours}}", "", true),
        ("{name: i, annotations: {kubernetes.io/ingress.class: nginx}}", "", false),
        ("{name: i, annotations: {kubernetes.io/ingress.class: ours}}", "ingressClassName: other, ", true),
        ("{name: i, annotations: {kubernetes.io/ingress.class: other}}", "ingressClassName: ours, ", false),
    ] {
        let spec = format!("{{{class_name}defaultBackend: {{service: {{name: d, port: {{number: 80}}}}}}}}");
        let loaded = load(&(class.to_owned() + &ingress(metadata, &spec) + &service("d")));
        assert_eq!(loaded.config.routes.len(), usize::from(is_served), "{metadata} {class_name}");
        assert_eq!(loaded.warnings.is_empty(), is_served, "{metadata} {class_name}");
    }
}

#[test]
fn what_cannot_be_resolved_answers_500_by_its_name() {
    let backend = |backend: &str| {
        let rule = format!("{{path: /, pathType: Prefix, backend: {{{backend}}}}}");
        let text =
            ingress("{name: i, namespace: shop}", &format!("{{rules: [{{host: a, http: {{paths: [{rule}]}}}}]}}"));
        load(&(text + &service("here").replace("name: here}", "name: here, namespace: shop}")))
    };
    for (text, name, why) in [
        ("service: {name: gone, port: {number: 80}}", "shop/gone:80", "there is no Service shop/gone"),
        ("service: {name: gone, port: {name: web}}", "shop/gone:web", "there is no Service shop/gone"),
        (
            "service: {name: here, port: {number: 8080}}",
            "shop/here:8080",
            "has no TCP port 8080; it has `http` 80 (TCP)",
        ),
        ("service: {name: here, port: {name: web}}", "shop/here:web", "has no TCP port `web`"),
        ("resource: {kind: Bucket, name: b, apiGroup: x}", "shop/b", "a backend of kind Bucket is not supported"),
    ] {
        let loaded = backend(text);
        let reference = &loaded.config.routes[0].rules[0].backends[0];
        assert_eq!(reference.name, name);
        assert!(reference.invalid.as_deref().is_some_and(|found| found.contains(why)), "{reference:?}");
        assert_eq!(loaded.config.upstreams, []);
        assert_eq!(loaded.warnings[0].field, "spec.rules[0].http.paths[0].backend");
    }
    assert_eq!(backend("service: {name: here, port: {number: 80}}").config.upstreams.len(), 1);
}

#[test]
fn lists_and_json_are_read_like_documents() {
    let item = |name: &str, head: &str| {
        format!(
            r#"{{{head}"metadata":{{"name":"{name}"}},"spec":{{"defaultBackend":{{"service":{{"name":"d","port":{{"number":80}}}}}}}}}}"#
        )
    };
    let full = r#""apiVersion":"networking.k8s.io/v1","kind":"Ingress","#;
    let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{},{}]}}"#, item("a", full), item("b", full));
    let names = |text: &str| load(text).config.routes.iter().map(|route| route.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&list), ["default/a", "default/b"]);
    let typed = format!(r#"{{"apiVersion":"networking.k8s.io/v1","kind":"IngressList","items":[{}]}}"#, item("a", ""));
    assert_eq!(names(&typed), ["default/a"]);
    assert_eq!(names(r#"{"apiVersion":"v1","kind":"List","items":null}"#), [""; 0]);
}

#[test]
fn other_kinds_are_left_out_with_a_warning() {
    let found = warnings(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n---\napiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: i, namespace: n}\n",
    );
    assert_eq!(
        found,
        [
            "k.yaml:1:13: Deployment default/d: apiVersion: apps/v1 Deployment is none of the kinds used here, and is left out",
            "k.yaml:5:13: Ingress n/i: apiVersion: extensions/v1beta1 Ingress is left out: write `networking.k8s.io/v1`",
        ]
    );
}

#[test]
fn a_pattern_is_a_prefix_and_said_to_be_one() {
    let spec = format!(
        "{{rules: [{{host: a, http: {{paths: [{}]}}}}]}}",
        path("'/a(/|$)(.*)'", "ImplementationSpecific", "a")
    );
    let loaded = load(&(ingress("{name: i}", &spec) + &service("a")));
    assert_eq!(table(&loaded.config), ["default/i a /a(/|$)(.*) -> default/a:80"]);
    assert!(loaded.warnings[0].message.contains("letter by letter"), "{:?}", loaded.warnings);
}
