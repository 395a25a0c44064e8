//! HTTPRoutes, GRPCRoutes and what they lead to.

use std::time::Duration;

use super::*;
use crate::config::{
    AuthProtocol, Filter, Fraction, PathChange, Protocol, Roots, Route, Rule, SessionCarrier, SubjectName, ValueMatch,
};

/// A Gateway with one listener for all hosts, admitting routes of all namespaces.
pub(super) const GATEWAY: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ours}
spec: {controllerName: example.com/ours}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: ours
  listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]
";

pub(super) fn object(kind: &str, metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n")
}

/// A route attached to the Gateway, with these rules in flow style.
fn route(kind: &str, rules: &str) -> String {
    object(kind, "{name: r}", &format!("{{parentRefs: [{{name: web}}], rules: {rules}}}"))
}

fn routes(text: &str) -> Vec<Route> {
    load(&format!("{GATEWAY}{text}")).config.routes
}

/// The only rule of the only route.
fn rule(kind: &str, rule: &str, rest: &str) -> Rule {
    let mut routes = routes(&(route(kind, &format!("[{rule}]")) + rest));
    assert_eq!(routes.len(), 1);
    routes.remove(0).rules.remove(0)
}

fn problems(kind: &str, rules: &str) -> Vec<(u32, String)> {
    let error = parse("k.yaml", &route(kind, rules)).expect_err("is refused");
    error.problems().iter().map(|one| (one.place.line, one.field.clone())).collect()
}

pub(super) const BACKENDS: &str = "backendRefs: [{name: s, port: 80}]";

#[test]
fn a_route_has_its_hosts_listeners_and_age() {
    let metadata = "{name: r, namespace: shop, creationTimestamp: '1970-01-01T00:00:07Z'}";
    let spec = format!(
        "{{parentRefs: [{{name: web, namespace: default}}], hostnames: [a.example, '*.b.example'], rules: [{{name: \
         first, {BACKENDS}}}]}}"
    );
    let routes = routes(&object("HTTPRoute", metadata, &spec));
    let [route] = &*routes else { panic!("{routes:?}") };
    assert_eq!((&*route.name, route.created), ("shop/r", Some(7)));
    assert_eq!(route.hosts, ["a.example".parse().unwrap(), "*.b.example".parse().unwrap()]);
    assert_eq!(route.listeners.len(), 1);
    assert_eq!(route.rules[0].name.as_deref(), Some("first"));
    assert_eq!(route.rules[0].backends[0].name, "shop/s:80");
}

#[test]
fn what_attaches_to_nothing_is_no_route() {
    for parents in ["[]", "[{name: gone}]", "[{name: web, sectionName: gone}]", "[{name: web, port: 81}]"] {
        let text = object("HTTPRoute", "{name: r}", &format!("{{parentRefs: {parents}, rules: [{{{BACKENDS}}}]}}"));
        let loaded = load(&format!("{GATEWAY}{text}"));
        assert_eq!(loaded.config.routes, [], "{parents}");
        assert!(loaded.warnings.iter().any(|one| one.field.starts_with("spec.parentRefs")), "{parents}");
    }
}

#[test]
fn matches_ask_what_is_written() {
    let found = rule(
        "HTTPRoute",
        "{matches: [
          {path: {type: Exact, value: /a}, method: GET, headers: [{name: X-A, value: '1'}], queryParams: [{name: q, value: '2'}]},
          {path: {value: /b}},
          {path: {type: PathPrefix}},
          {},
          {path: {type: RegularExpression, value: '/c.*'}, headers: [{type: RegularExpression, name: x-b, value: 'a|b'}]}]}",
        "",
    );
    let paths: Vec<_> = found.matches.iter().map(|one| format!("{:?}", one.path)).collect();
    assert_eq!(
        paths,
        ["Exact(\"/a\")", "Prefix(\"/b\")", "Prefix(\"/\")", "Prefix(\"/\")", "Regex(Pattern(\"/c.*\"))"]
    );
    let first = &found.matches[0];
    assert_eq!(first.method, Some(http::Method::GET));
    assert_eq!((first.headers[0].name.as_str(), &first.headers[0].value), ("x-a", &ValueMatch::Exact("1".into())));
    assert_eq!((&*first.query[0].name, &first.query[0].value), ("q", &ValueMatch::Exact("2".into())));
    assert_eq!(found.matches[4].headers[0].value, ValueMatch::Regex("a|b".parse().unwrap()));
}

#[test]
fn grpc_methods_are_paths() {
    for (method, path) in [
        ("{service: a.B, method: C}", PathMatch::Exact("/a.B/C".into())),
        ("{service: a.B}", PathMatch::Prefix("/a.B".into())),
        ("{method: C}", PathMatch::GrpcMethod("C".into())),
        ("{type: RegularExpression, service: 'a|b', method: C}", PathMatch::Regex("/(?:a|b)/(?:C)".parse().unwrap())),
        ("{type: RegularExpression, method: C.*}", PathMatch::Regex("/[^/]+/(?:C.*)".parse().unwrap())),
        ("null", PathMatch::Prefix("/".into())),
    ] {
        let found = rule("GRPCRoute", &format!("{{matches: [{{method: {method}}}], {BACKENDS}}}"), "");
        assert_eq!(found.matches[0].path, path, "{method}");
    }
    assert_eq!(routes(&route("GRPCRoute", "[{}]"))[0].name, "default/r (GRPCRoute)");
}

#[test]
fn filters_become_what_they_say() {
    let found = rule(
        "HTTPRoute",
        "{filters: [
          {type: RequestHeaderModifier, requestHeaderModifier: {
            set: [{name: X-Set, value: a}, {name: x-set, value: b}], add: [{name: X-Add, value: c}], remove: [X-Gone]}},
          {type: URLRewrite, urlRewrite: {hostname: h.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /p}}},
          {type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, percent: 20}},
          {type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, fraction: {numerator: 1, denominator: 4}}},
          {type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}},
          {type: CORS, cors: {allowOrigins: ['https://*.a.example'], allowCredentials: true, maxAge: 7}},
          {type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: s, port: 80},
            http: {path: /auth, allowedHeaders: [x-a], allowedResponseHeaders: [x-b]}, forwardBody: {maxSize: 9}}},
          {type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: s, port: 80}, grpc: {}}}],
         backendRefs: [{name: s, port: 80, weight: 0, filters: [
          {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-back, value: d}]}}]}]}",
        &service("s"),
    );
    assert_eq!(found.invalid, None);
    let [headers, rewrite, percent, fraction, cors, http, grpc] = &*found.filters else {
        panic!("the mirror without backend is dropped: {:?}", found.filters)
    };
    let Filter::RequestHeaders(changes) = headers else { panic!("{headers:?}") };
    assert_eq!(changes.set, [("x-set".parse().unwrap(), "a".parse().unwrap())], "the first of equals counts");
    assert_eq!((changes.add.len(), changes.remove[0].as_str()), (1, "x-gone"));
    let Filter::Rewrite(rewrite) = rewrite else { panic!("{rewrite:?}") };
    assert_eq!(rewrite.host.as_deref(), Some("h.example"));
    assert_eq!(rewrite.path, Some(PathChange::Prefix("/p".into())));
    for (mirror, numerator, denominator) in [(percent, 20, 100), (fraction, 1, 4)] {
        let Filter::Mirror(mirror) = mirror else { panic!("{mirror:?}") };
        assert_eq!(mirror.backend.name, "default/s:80");
        assert_eq!(mirror.share, Fraction { numerator, denominator });
    }
    let Filter::Cors(cors) = cors else { panic!("{cors:?}") };
    assert_eq!((cors.credentials, cors.max_age), (true, Duration::from_secs(7)));
    assert_eq!(cors.methods, ["GET", "HEAD", "POST"]);
    let Filter::ExternalAuth(http) = http else { panic!("{http:?}") };
    assert_eq!((&*http.backend.name, http.body), ("default/s:80", Some(9)));
    assert!(matches!(&http.protocol, AuthProtocol::Http { path, .. } if path == "/auth"));
    let Filter::ExternalAuth(grpc) = grpc else { panic!("{grpc:?}") };
    assert_eq!((&*grpc.backend.name, grpc.body), ("default/s:80+grpc", None));
    assert_eq!(found.backends[0].weight, 0);
    assert!(matches!(found.backends[0].filters[..], [Filter::ResponseHeaders(_)]));
}

#[test]
fn what_cannot_be_done_fails_its_rule_or_its_share() {
    let s = service("s");
    let unknown = "{type: Later}";
    let extension = "{type: ExtensionRef, extensionRef: {group: a.example, kind: Own, name: x}}";
    let auth = "{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: gone, port: 80}}}";
    for filter in [unknown, extension, auth] {
        let found = rule("HTTPRoute", &format!("{{filters: [{filter}], {BACKENDS}}}"), &s);
        assert!(found.invalid.is_some(), "{filter}");
        let share =
            format!("{{backendRefs: [{{name: s, port: 80}}, {{name: s, port: 80, weight: 3, filters: [{filter}]}}]}}");
        let found = rule("HTTPRoute", &share, &s);
        assert_eq!(found.invalid, None, "{filter}");
        assert_eq!(found.backends[0].invalid, None, "{filter}");
        assert!(found.backends[1].invalid.is_some() && found.backends[1].weight == 3, "{filter}");
    }
    // What only HTTPRoutes know.
    let redirect = "{type: RequestRedirect, requestRedirect: {scheme: https}}";
    assert!(rule("GRPCRoute", &format!("{{filters: [{redirect}]}}"), &s).invalid.is_some());
    assert_eq!(rule("HTTPRoute", &format!("{{filters: [{redirect}]}}"), &s).invalid, None);
    for nothing in ["{}", "{backendRefs: []}"] {
        assert!(rule("HTTPRoute", nothing, &s).invalid.is_some(), "{nothing}");
    }
    let none = object("HTTPRoute", "{name: r}", "{parentRefs: [{name: web}]}");
    assert!(routes(&none)[0].rules[0].invalid.is_some(), "by default one rule that leads nowhere");
}

#[test]
fn backends_are_services_that_may_be_referred_to() {
    let s = service("s") + &service("t").replace("{name: t", "{namespace: far, name: t");
    let grant = |from: &str, to: &str| {
        object("ReferenceGrant", "{name: g, namespace: far}", &format!("{{from: [{from}], to: [{to}]}}"))
            .replace("/v1\n", "/v1beta1\n")
    };
    let ours = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}";
    let grpc = ours.replace("HTTPRoute", "GRPCRoute");
    let services = "{group: '', kind: Service}";
    let far = "{name: t, namespace: far, port: 80}";
    for (reference, rest, valid) in [
        ("{name: s, port: 80}", String::new(), true),
        ("{name: s, port: 81}", String::new(), false),
        ("{name: gone, port: 80}", String::new(), false),
        ("{group: a.example, kind: Own, name: s}", String::new(), false),
        ("{kind: ServiceImport, group: multicluster.x-k8s.io, name: s, port: 80}", String::new(), false),
        (far, String::new(), false),
        (far, grant(ours, services), true),
        (far, grant(&grpc, services), false),
        (far, grant(ours, "{group: '', kind: Service, name: t}"), true),
        (far, grant(ours, "{group: '', kind: Service, name: other}"), false),
        (far, grant(ours, "{group: '', kind: Secret}"), false),
    ] {
        let text = GATEWAY.to_owned() + &route("HTTPRoute", &format!("[{{backendRefs: [{reference}]}}]")) + &s + &rest;
        let loaded = load(&text);
        let backend = &loaded.config.routes[0].rules[0].backends[0];
        assert_eq!(backend.invalid.is_none(), valid, "{reference} {rest} {backend:?}");
        let warned = loaded.warnings.iter().any(|one| one.field == "spec.rules[0].backendRefs[0]");
        assert_eq!(warned, !valid, "{reference}");
        assert_eq!(loaded.config.routes[0].rules[0].invalid, None, "{reference}");
    }
}

#[test]
fn what_is_spoken_depends_on_the_route_and_the_port() {
    let both = |app: &str| {
        let services = service("s").replace("port: 80}", &format!("port: 80, appProtocol: {app}}}"));
        let ingress = ingress("{name: i}", "{defaultBackend: {service: {name: s, port: {number: 80}}}}");
        let grpc = route("GRPCRoute", &format!("[{{{BACKENDS}}}]")).replace("{name: r}", "{name: g}");
        let web2 = object(
            "Gateway",
            "{name: web2}",
            "{gatewayClassName: ours, listeners: [{name: http, port: 81, protocol: HTTP}]}",
        );
        let grpc = grpc.replace("{name: web}", "{name: web2}");
        let text =
            format!("{GATEWAY}{web2}{ingress}{grpc}{}{services}", route("HTTPRoute", &format!("[{{{BACKENDS}}}]")));
        let upstreams = load(&text).config.upstreams;
        upstreams.iter().map(|one| format!("{} {:?} {}", one.name, one.protocol, one.tls.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(both("http"), ["default/s:80 Auto false", "default/s:80+grpc Http2 false"]);
    assert_eq!(both("kubernetes.io/h2c"), ["default/s:80 Http2 false"]);
    assert_eq!(both("kubernetes.io/ws"), ["default/s:80 Http1 false", "default/s:80+grpc Http2 false"]);
    assert_eq!(
        both("https"),
        ["default/s:80 Auto true", "default/s:80+grpc+plaintext Http2 false", "default/s:80+plaintext Auto false"]
    );
}

#[test]
fn a_protocol_that_is_not_known_is_warned_of_once_a_port() {
    let ports = "ports: [{name: a, port: 80, appProtocol: own}, {name: b, port: 81, appProtocol: own}]";
    let services = (service("s") + &service("t")).replace("ports: [{name: http, port: 80}]", ports);
    let backends =
        "[{backendRefs: [{name: s, port: 80}, {name: s, port: 81}, {name: t, port: 80}, {name: t, port: 81}]}]";
    let named = |kind: &str| {
        let hosted = format!("{{hostnames: [{}.example], parent", kind.to_lowercase());
        route(kind, backends).replace("{parent", &hosted)
    };
    let loaded = load(&format!("{GATEWAY}{}{}{services}", named("HTTPRoute"), named("GRPCRoute")));
    assert_eq!(loaded.config.upstreams.len(), 8, "each port for HTTP and for gRPC: {:?}", loaded.config.upstreams);
    let warned: Vec<_> = loaded.warnings.iter().map(|one| (one.object.as_deref(), &*one.field)).collect();
    let (s, t) = (Some("Service default/s"), Some("Service default/t"));
    let [first, second] = ["spec.ports[0].appProtocol", "spec.ports[1].appProtocol"];
    assert_eq!(warned, [(s, first), (s, second), (t, first), (t, second)]);
}

pub(super) fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

pub(super) fn config_map(name: &str, pem: &str) -> String {
    let indented: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n{indented}")
}

pub(super) fn policy(name: &str, section: &str, validation: &str) -> String {
    let target = format!("{{group: '', kind: Service, name: s{section}}}");
    object(
        "BackendTLSPolicy",
        &format!("{{name: {name}}}"),
        &format!("{{targetRefs: [{target}], validation: {validation}}}"),
    )
}

#[test]
fn a_policy_turns_tls_on_and_never_off() {
    let ca = config_map("ca", &authority()) + &config_map("empty", "nothing");
    let by = |map: &str, host: &str| {
        format!("{{caCertificateRefs: [{{group: '', kind: ConfigMap, name: {map}}}], hostname: {host}}}")
    };
    let section = ", sectionName: http";
    let cases = [
        (policy("p", "", &by("ca", "a.example")), Some("a.example")),
        (policy("p", "", &by("ca", "a.example")) + &policy("q", section, &by("ca", "b.example")), Some("b.example")),
        (policy("p", ", sectionName: other", &by("ca", "a.example")), None),
        (policy("b", "", &by("ca", "b.example")) + &policy("a", "", &by("ca", "a.example")), Some("a.example")),
        (
            policy("a", "", &by("ca", "a.example"))
                + &policy("b, creationTimestamp: '2020-01-01T00:00:00Z'", "", &by("ca", "b.example")),
            Some("b.example"),
        ),
    ];
    for (policies, expected) in cases {
        let loaded = load(
            &(GATEWAY.to_owned() + &route("HTTPRoute", &format!("[{{{BACKENDS}}}]")) + &service("s") + &ca + &policies),
        );
        let tls = loaded.config.upstreams[0].tls.as_ref();
        assert_eq!(tls.and_then(|tls| tls.server_name.as_deref()), expected, "{policies}");
        assert!(tls.is_none_or(|tls| matches!(tls.roots, Roots::Pem(_))));
        assert_eq!(loaded.config.routes[0].rules[0].backends[0].invalid, None);
    }
    let damaged = "{caCertificateRefs: [{group: '', kind: ConfigMap, name: damaged}], hostname: a.example}";
    let der = config_map("damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----");
    for validation in [
        &*by("gone", "a.example"),
        &by("empty", "a.example"),
        damaged,
        "{caCertificateRefs: [{group: a.example, kind: Own, name: ca}], hostname: a.example}",
        "{wellKnownCACertificates: example.com/own, hostname: a.example}",
    ] {
        for kind in ["HTTPRoute", "GRPCRoute"] {
            let found =
                rule(kind, &format!("{{{BACKENDS}}}"), &(service("s") + &ca + &der + &policy("p", "", validation)));
            assert!(found.backends[0].invalid.is_some(), "{validation}");
        }
    }
    let names = "{wellKnownCACertificates: System, hostname: a.example, subjectAltNames: [{type: Hostname, hostname: b.example}, {type: URI, uri: 'spiffe://c/d'}]}";
    let text = GATEWAY.to_owned()
        + &route("HTTPRoute", &format!("[{{{BACKENDS}}}]"))
        + &service("s")
        + &policy("p", "", names);
    let config = load(&text).config;
    let tls = config.upstreams[0].tls.as_ref().unwrap();
    assert_eq!(tls.roots, Roots::System);
    assert_eq!(tls.subject_names, [SubjectName::Dns("b.example".into()), SubjectName::Uri("spiffe://c/d".into())]);
    assert_eq!(config.upstreams[0].protocol, Protocol::Auto);
}

#[test]
fn times_retries_and_sessions() {
    let found = rule(
        "HTTPRoute",
        &format!(
            "{{timeouts: {{request: 10s, backendRequest: 2s}}, retry: {{codes: [500, 503], attempts: 3, backoff: 50ms}},
              sessionPersistence: {{sessionName: old, absoluteTimeout: 1h, cookieConfig: {{lifetimeType: Permanent}}}}, {BACKENDS}}}"
        ),
        "",
    );
    assert_eq!(found.timeouts.request, Some(Duration::from_secs(10)));
    assert_eq!(found.timeouts.backend_request, Some(Duration::from_secs(2)));
    let retry = found.retry.unwrap();
    assert_eq!((retry.attempts, &*retry.statuses, retry.reset), (3, &[500, 503][..], true));
    assert_eq!(retry.backoff, Some(Duration::from_millis(50)));
    let session = found.session.unwrap();
    assert_eq!(session.carrier, SessionCarrier::Cookie { name: "old".into(), permanent: true });
    assert_eq!(session.absolute_timeout, Some(Duration::from_secs(3600)));
    let session = |text: &str| {
        let found = rule("HTTPRoute", &format!("{{sessionPersistence: {text}, {BACKENDS}}}"), "");
        (found.session.unwrap().carrier, found.retry)
    };
    let (header, retry) = session("{type: Header, header: {name: x-s}}");
    assert_eq!((header, retry), (SessionCarrier::Header { name: "x-s".into() }, None));
    let unnamed = session("{cookie: {}}").0;
    assert!(matches!(&unnamed, SessionCarrier::Cookie { name, permanent: false } if name.starts_with("session-")));
    assert_eq!(unnamed, session("{}").0, "the same each time");
    let whole = rule("HTTPRoute", &format!("{{timeouts: {{request: 0s}}, {BACKENDS}}}"), "");
    assert_eq!(whole.timeouts.backend_request, Some(Duration::ZERO), "no limit means none");
}

#[test]
fn of_two_kinds_of_routes_the_older_has_a_host() {
    let at = |kind: &str, metadata: &str, hosts: &str| {
        object(kind, metadata, &format!("{{parentRefs: [{{name: web}}], hostnames: {hosts}, rules: [{{{BACKENDS}}}]}}"))
    };
    let names = |text: &str| routes(text).iter().map(|route| route.name.clone()).collect::<Vec<_>>();
    let http = at("HTTPRoute", "{name: b}", "[a.example]");
    assert_eq!(names(&(http.clone() + &at("GRPCRoute", "{name: a}", "[a.example]"))), ["default/a (GRPCRoute)"]);
    assert_eq!(names(&(http.clone() + &at("GRPCRoute", "{name: c}", "['*.example']"))), ["default/b"]);
    assert_eq!(names(&(http.clone() + &at("GRPCRoute", "{name: b}", "[a.example]"))), ["default/b"]);
    assert_eq!(names(&(http + &at("GRPCRoute", "{name: a}", "[b.example]"))).len(), 2);
}

#[test]
fn what_the_api_server_would_refuse_is_refused_with_its_field() {
    let redirect = "{type: RequestRedirect, requestRedirect: {scheme: https}}";
    let prefix = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}";
    for (rule, field) in [
        ("matches: [{path: {value: a}}]", "matches[0].path.value"),
        ("matches: [{path: {value: /a//b}}]", "matches[0].path.value"),
        ("matches: [{path: {value: /a/../b}}]", "matches[0].path.value"),
        ("matches: [{path: {value: /a%2Fb}}]", "matches[0].path.value"),
        ("matches: [{path: {value: '/a b'}}]", "matches[0].path.value"),
        ("matches: [{path: {value: '/a%zz'}}]", "matches[0].path.value"),
        ("matches: [{path: {type: RegularExpression, value: '('}}]", "matches[0].path.value"),
        ("matches: [{path: {type: Other, value: /}}]", "matches[0].path.type"),
        ("matches: [{method: get}]", "matches[0].method"),
        ("matches: [{headers: [{name: 'a b', value: c}]}]", "matches[0].headers[0].name"),
        ("backendRefs: [{name: s}]", "backendRefs[0].port"),
        ("backendRefs: [{name: s, port: 80, weight: 1000001}]", "backendRefs[0].weight"),
        (&*format!("filters: [{redirect}], {BACKENDS}"), "filters[0]"),
        (&*format!("filters: [{redirect}, {redirect}]"), "filters[1]"),
        (&*format!("filters: [{redirect}, {{type: URLRewrite, urlRewrite: {{hostname: a.example}}}}]"), "filters"),
        (
            &*format!("matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{prefix}]"),
            "filters[0].urlRewrite.path",
        ),
        (&*format!("matches: [{{}}, {{}}], filters: [{prefix}]"), "filters[0].urlRewrite.path"),
        ("filters: [{type: CORS}]", "filters[0].cors"),
        ("filters: [{type: CORS, cors: {}, urlRewrite: {}}]", "filters[0].urlRewrite"),
        ("filters: [{type: CORS, cors: {allowOrigins: ['*', 'http://a']}}]", "filters[0].cors.allowOrigins"),
        ("filters: [{type: CORS, cors: {allowOrigins: [a.example]}}]", "filters[0].cors.allowOrigins[0]"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 305}}]",
            "filters[0].requestRedirect.statusCode",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {hostname: '*.a'}}]",
            "filters[0].requestRedirect.hostname",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, percent: 101}}]",
            "filters[0].requestMirror.percent",
        ),
        ("timeouts: {request: 1s, backendRequest: 2s}", "timeouts.backendRequest"),
        ("timeouts: {request: 1}", "timeouts.request"),
        ("retry: {codes: [399]}", "retry.codes[0]"),
        ("retry: {attempts: 0}", "retry.attempts"),
        ("sessionPersistence: {cookie: {lifetimeType: Permanent}}", "sessionPersistence.absoluteTimeout"),
    ] {
        let found = problems("HTTPRoute", &format!("[{{{rule}}}]"));
        assert_eq!(found, [(5, format!("spec.rules[0].{field}"))], "{rule}");
    }
    assert_eq!(problems("HTTPRoute", "[]"), [(5, "spec.rules".to_owned())]);
    assert_eq!(problems("HTTPRoute", "[{name: a}, {name: a}]"), [(5, "spec.rules[1].name".to_owned())]);
    for (method, field) in [("{}", "method"), ("{service: a/b}", "method.service"), ("{method: 1a}", "method.method")] {
        let found = problems("GRPCRoute", &format!("[{{matches: [{{method: {method}}}]}}]"));
        assert_eq!(found, [(5, format!("spec.rules[0].matches[0].{field}"))], "{method}");
    }
    // "No limit" is not shorter than anything, and fields that nobody knows do no harm.
    let fine = format!("[{{timeouts: {{request: 0s, backendRequest: 2s}}, later: {{a: 1}}, {BACKENDS}}}]");
    assert!(parse("k.yaml", &route("HTTPRoute", &fine)).is_ok());
}
