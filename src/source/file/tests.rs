use std::fs;

use super::*;
use crate::{
    config::{self, BackendRef, Balancer, Certificate, ClientAuth, HashKey, Host, Roots, TrustBundle, UpstreamTls},
    source::{LoadError, load, parse},
};

mod settings;

fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn faults(text: &str) -> Vec<String> {
    lines(&parse("f.yaml", text).expect_err(text))
}

fn lines(error: &LoadError) -> Vec<String> {
    error.problems().iter().map(ToString::to_string).collect()
}

const ROUTE: &str = "routes:\n- name: r\n  rules:\n";
const UPSTREAM: &str = "upstreams:\n- name: u\n  endpoints: {static: ['127.0.0.1:1']}\n";

#[test]
fn mistakes_are_told_by_line_and_field() {
    let mut wrong = Vec::new();
    for (text, expected) in [
        (
            "route: []\n".to_owned(),
            "f.yaml:1:1: route: no such field; there are `listeners`, `routes`, `streams`, `services`, `upstreams`, `certificates`, `forwarded`",
        ),
        ("routes:\n".to_owned(), "f.yaml:1:1: routes: has no value: give it one, or leave the field out"),
        ("- a\n".to_owned(), "f.yaml:1:1: found a list, expected a mapping"),
        ("routes:\n- rules: []\n".to_owned(), "f.yaml:2:3: routes[0].name: is required and missing"),
        ("routes:\n- name: r\n".to_owned(), "f.yaml:2:3: routes[0].rules: is required and missing"),
        (
            "routes:\n- name: r\n  rules: []\n".to_owned(),
            "f.yaml:3:10: routes[0].rules: has no rules: give it one, or remove the route",
        ),
        (format!("{ROUTE}  - {{}}\n"), "f.yaml:4:5: routes[0].rules[0].backends: has no backends: name one"),
        (
            format!("{ROUTE}  - backends: [{{name: a, weigth: 1}}]\n"),
            "f.yaml:4:26: routes[0].rules[0].backends[0].weigth: no such field; there are `name`, `weight`, `filters`, `cohort`",
        ),
        (
            format!("{ROUTE}  - backends: [[a]]\n"),
            "f.yaml:4:16: routes[0].rules[0].backends[0]: found a list, expected a backend's name, or a mapping with `name` and `weight`",
        ),
        (
            format!("{ROUTE}  - backends: [{{name: a, weight: -1}}]\n"),
            "f.yaml:4:34: routes[0].rules[0].backends[0].weight: found the number -1, expected a whole number, 0 or more",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    matches:\n    - path: {{prefix: a}}\n"),
            "f.yaml:6:13: routes[0].rules[0].matches[0].path: `a` is not a path to match: it must start with `/`",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    matches:\n    - path: {{begins: a}}\n"),
            "f.yaml:6:14: routes[0].rules[0].matches[0].path: found `begins`, expected one of `exact`, `prefix`, `grpc_method`, `regex`",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    matches:\n    - path: prefix\n"),
            "f.yaml:6:13: routes[0].rules[0].matches[0].path: found a name without a value, expected its value, as `name: value`",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    matches:\n    - method: 'G T'\n"),
            "f.yaml:6:15: routes[0].rules[0].matches[0].method: `G T` is not an HTTP method",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    timeouts: {{request: 10}}\n"),
            "f.yaml:5:25: routes[0].rules[0].timeouts.request: found the number 10, expected a text (numbers, true and false need quotes to be one)",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    timeouts: {{deadline_header: Host}}\n"),
            "f.yaml:5:33: routes[0].rules[0].timeouts.deadline_header: `host` has a meaning of its own: use another, such as `x-request-timeout-ms`",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    timeouts: {{deadline_header: Transfer_Encoding}}\n"),
            "f.yaml:5:33: routes[0].rules[0].timeouts.deadline_header: `transfer_encoding` reads like a field that has a meaning of its own: use another, such as `x-request-timeout-ms`",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    timeouts: {{deadline_header: x a}}\n"),
            "f.yaml:5:33: routes[0].rules[0].timeouts.deadline_header: `x a` is not a header field name",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    retry: {{attempt: 1}}\n"),
            "f.yaml:5:13: routes[0].rules[0].retry.attempt: no such field; there are `attempts`, `statuses`, `grpc`, `reset`, `backoff`, `longest_wait`, `body_cap`, `non_idempotent`",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    filters:\n    - rate_limit: {{per: 1s}}\n"),
            "f.yaml:6:19: routes[0].rules[0].filters[0].rate_limit.requests: is required and missing",
        ),
        (
            format!("{ROUTE}  - backends: [a]\n    filters:\n    - fault: {{abort: {{with: {{staus: 1}}}}}}\n"),
            "f.yaml:6:30: routes[0].rules[0].filters[0].fault.abort.with: found `staus`, expected one of `status`, `grpc`, `reset`, `connect_failure`",
        ),
        (
            format!("{UPSTREAM}  hedge: {{afer: 1s}}\n"),
            "f.yaml:4:11: upstreams[0].hedge.afer: no such field; there are `after`, `percentile`, `least`, `non_idempotent`",
        ),
        (
            format!("{UPSTREAM}  concurrency: {{queue: 1}}\n"),
            "f.yaml:4:16: upstreams[0].concurrency.limit: is required and missing",
        ),
        (
            format!("{UPSTREAM}  shed:\n    limit: 4\n    shares: {{sheddable: 0.5, critical: 95}}\n"),
            "f.yaml:6:40: upstreams[0].shed.shares.critical: 95 is not a share: use 0 to 1",
        ),
        (
            format!("{UPSTREAM}  shed: {{limit: 4, shares: {{sheddable: -0.1}}}}\n"),
            "f.yaml:4:40: upstreams[0].shed.shares.sheddable: -0.1 is not a share: use 0 to 1",
        ),
        (
            format!("{UPSTREAM}  connect_timeout: 1.5s\n"),
            "f.yaml:4:20: upstreams[0].connect_timeout: `1.5s` is not a duration: write numbers with units, such as `30s`, `1m30s` or `250ms` (units h, m, s, ms)",
        ),
        (
            format!("{UPSTREAM}  panic_threshold: 101\n"),
            "f.yaml:4:20: upstreams[0].panic_threshold: 101 is not a percentage: use 0 to 100",
        ),
        (format!("{UPSTREAM}  max_attempts: 0\n"), "f.yaml:4:17: upstreams[0].max_attempts: must be 1 or more"),
        (
            format!("{UPSTREAM}  pool:\n    max_connections: 0\n"),
            "f.yaml:5:22: upstreams[0].pool.max_connections: must be 1 or more",
        ),
        (
            format!("{UPSTREAM}  balancer: {{round_robin: 1}}\n"),
            "f.yaml:4:14: upstreams[0].balancer: `round_robin` takes no value: write `round_robin` alone",
        ),
        (
            format!("{UPSTREAM}  balancer: {{maglev: {{cookie: 7}}}}\n"),
            "f.yaml:4:31: upstreams[0].balancer.maglev.cookie: found the number 7, expected a text (numbers, true and false need quotes to be one)",
        ),
        (
            format!("{UPSTREAM}  tls:\n"),
            "f.yaml:4:3: upstreams[0].tls: has no value: give it one, or leave the field out",
        ),
        (
            "upstreams:\n- name: u\n  endpoints: {static: ['localhost:80']}\n".to_owned(),
            "f.yaml:3:24: upstreams[0].endpoints.static[0]: `localhost:80` is not an address: write an IP address and a port, as in `10.0.0.1:8080` or `[::1]:8080`",
        ),
        (
            "upstreams:\n- name: u\n  endpoints: {static: [], dns: {}}\n".to_owned(),
            "f.yaml:3:14: upstreams[0].endpoints: found a mapping of several fields, expected exactly one",
        ),
        (
            "upstreams:\n- name: u\n  endpoints: {dns: {host: a, port: 1, refresh: 0s}}\n".to_owned(),
            "f.yaml:3:48: upstreams[0].endpoints.dns.refresh: must be more than zero",
        ),
        (
            "upstreams:\n- name: u\n  endpoints: {dns: {host: a}}\n".to_owned(),
            "f.yaml:3:20: upstreams[0].endpoints.dns.port: is required and missing",
        ),
        (
            "forwarded: {trust: [10.0.0.0/8, 10.0.0.0/33]}\n".to_owned(),
            "f.yaml:1:33: forwarded.trust[1]: `10.0.0.0/33` is not a network: write it as `10.0.0.0/8` or `2001:db8::/32`",
        ),
        (
            "certificates:\n- {cert: c}\n".to_owned(),
            "f.yaml:2:10: certificates[0].cert: cannot be read: c: No such file or directory (os error 2)",
        ),
        ("certificates:\n- {}\n".to_owned(), "f.yaml:2:3: certificates[0].cert: is required and missing"),
    ] {
        let found = faults(&text);
        if found != [expected] {
            wrong.push(format!("{text}\n  found {found:?}\n  not [{expected:?}]"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_unique_across_documents() {
    let found = faults(&format!("{UPSTREAM}---\n{UPSTREAM}"));
    assert_eq!(found, ["f.yaml:6:9: upstreams[0].name: is there twice, first at f.yaml:2:9: remove one of them"]);
    let found = faults("forwarded: {trust: [10.0.0.0/8]}\n---\nforwarded: {}\n");
    assert_eq!(found, ["f.yaml:3:12: forwarded: is there twice, first at f.yaml:1:12: remove one of them"]);
    let text =
        format!("{ROUTE}  - backends: [u]\n{UPSTREAM}---\n{}", ROUTE.replace(": r", ": u") + "  - backends: [u]\n");
    let config = parse("f.yaml", &text).unwrap().config;
    assert_eq!((config.routes.len(), config.upstreams.len()), (2, 1), "a route may have an upstream's name");
}

#[test]
fn short_forms_mean_what_long_ones_do() {
    let text =
        format!("{ROUTE}  - backends: [a, {{name: b, weight: 0}}]\n{UPSTREAM}  balancer: {{ring_hash: client_ip}}\n");
    let config = parse("f.yaml", &text).unwrap().config;
    assert_eq!(
        config.routes[0].rules[0].backends,
        [BackendRef::new("a"), BackendRef { weight: 0, ..BackendRef::new("b") }]
    );
    assert_eq!(config.upstreams[0].endpoints, Endpoints::fixed(["127.0.0.1:1".parse().unwrap()]));
    assert_eq!(config.upstreams[0].balancer, Balancer::RingHash(HashKey::ClientIp));
}

#[test]
fn certificates_are_read_from_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = pair();
    fs::create_dir(folder.path().join("certs")).unwrap();
    fs::write(folder.path().join("certs/c.pem"), &cert).unwrap();
    fs::write(folder.path().join("certs/c.key"), &key).unwrap();
    // What is in it is looked at where it is put to use.
    let list = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    fs::write(folder.path().join("certs/c.crl"), list).unwrap();
    let text = format!(
        "certificates:\n- {{cert: certs/c.pem, key: certs/c.key, hosts: ['*.example.com', '*']}}\n{UPSTREAM}  tls:\n    server_name: x\n    ca: certs/c.pem\n    crl: certs/c.crl\n    spiffe_id: spiffe://a.example/b\n    trust_domain: a.example\n    client_auth: {{cert: certs/c.pem, key: certs/c.key}}\n"
    );
    let path = folder.path().join("gate.yaml");
    fs::write(&path, text).unwrap();
    let loaded = load([&path]).unwrap();
    let (chain, key) = (cert.clone().into_bytes(), key.into_bytes());
    assert_eq!(
        loaded.config.upstreams[0].tls,
        Some(UpstreamTls {
            subject_names: vec![],
            server_name: Some("x".into()),
            roots: Roots::Pem(chain.clone().into()),
            client_auth: Some(ClientAuth { chain: chain.clone().into(), key: key.clone().into() }),
            spiffe_id: Some("spiffe://a.example/b".parse().unwrap()),
            trust_domain: Some("a.example".parse().unwrap()),
            crls: Some(list.as_bytes().into()),
            trust: None,
            identity: None,
        })
    );
    let origin = format!("{0}/gate.yaml:2: certificates[0] ({0}/certs/c.pem)", folder.path().display());
    let hosts = vec![Host::OneLabelWildcard("example.com".into()), Host::Any];
    assert_eq!(loaded.config.certificates, [Certificate { origin, hosts, chain, key }]);
    let names: Vec<_> =
        loaded.files.paths().map(|path| path.strip_prefix(&folder).unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["certs/c.crl", "certs/c.key", "certs/c.pem", "gate.yaml"]);

    fs::write(folder.path().join("certs/c.key"), &cert).unwrap();
    fs::remove_file(folder.path().join("certs/c.pem")).unwrap();
    let error = load([&path]).unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|one| (one.place.line, &*one.field)).collect();
    assert_eq!(
        fields,
        [
            (2, "certificates[0].cert"),
            (2, "certificates[0].key"),
            (8, "upstreams[0].tls.ca"),
            (12, "upstreams[0].tls.client_auth.cert"),
            (12, "upstreams[0].tls.client_auth.key"),
        ]
    );
    assert_eq!(error.files().paths().count(), 4, "a file that is missing is worth watching for");
}

#[test]
fn trust_is_given_by_domain() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (pair().0, pair().0);
    let list = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    for (name, text) in [("ours.pem", &*ours), ("theirs.pem", &theirs), ("theirs.crl", list)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("gate.yaml");
    let both = "[{domain: ours.example, ca: ours.pem, dns_names: true}, {domain: partner.example, ca: theirs.pem, crl: theirs.crl}]";
    let write = |client: &str, tls: &str| {
        let listener = format!("listeners:\n- {{name: l, port: 1, protocol: {{https: {{client: {client}}}}}}}\n");
        fs::write(&path, format!("{listener}{UPSTREAM}  tls: {tls}\n")).unwrap();
        load([&path])
    };
    let loaded = write(&format!("{{trust: {both}}}"), &format!("{{trust: {both}}}")).unwrap();
    let bundle = |domain: &str, roots: &str, crls: Option<&str>, dns_names| TrustBundle {
        domain: domain.parse().unwrap(),
        roots: roots.as_bytes().into(),
        crls: crls.map(|list| list.as_bytes().into()),
        dns_names,
    };
    let expected =
        vec![bundle("ours.example", &ours, None, true), bundle("partner.example", &theirs, Some(list), false)];
    let tls = loaded.config.upstreams[0].tls.as_ref().unwrap();
    assert_eq!((&tls.trust, &tls.roots), (&Some(expected.clone()), &Roots::System));
    let client = loaded.config.listeners[0].protocol.client().unwrap();
    assert_eq!((&client.trust, &*client.roots), (&Some(expected), &b""[..]));
    let watched = loaded.files.paths().map(|path| path.strip_prefix(&folder).unwrap().to_str().unwrap());
    assert_eq!(watched.collect::<Vec<_>>(), ["gate.yaml", "ours.pem", "theirs.crl", "theirs.pem"]);

    let told = |client: &str, tls: &str| -> Vec<_> {
        let error = write(client, tls).unwrap_err();
        let problem = |one: &Problem| format!("{}: {}: {}", one.place.line, one.field, one.fault);
        error.problems().iter().map(problem).collect()
    };
    let client = "listeners[0].protocol.https.client";
    let beside = "cannot stand beside `trust`, where each trust domain has its own: move it there, or leave one out";
    assert_eq!(told("{mode: optional}", "{}"), [format!("2: {client}.ca: is required and missing")]);
    assert_eq!(
        told(&format!("{{ca: ours.pem, trust: {both}}}"), &format!("{{crl: theirs.crl, trust: {both}}}")),
        [format!("2: {client}.ca: {beside}"), format!("6: upstreams[0].tls.crl: {beside}")]
    );
    assert_eq!(
        told("{ca: ours.pem}", "{trust: []}"),
        ["6: upstreams[0].tls.trust: has no trust domain: name one, or leave the field out"]
    );
    let one = "{domain: ours.example, ca: ours.pem}";
    assert_eq!(
        told("{ca: ours.pem}", &format!("{{trust: [{one}, {one}]}}")),
        ["6: upstreams[0].tls.trust[1].domain: `ours.example` is there twice: give all its authorities in one place"]
    );
    assert_eq!(
        told(&format!("{{trust: [{one}, {{domain: Ours.example, ca: ours.pem}}]}}"), "{trust: [{domain: a.example}]}"),
        [format!(
            "2: {client}.trust[1].domain: \"Ours.example\" is not a SPIFFE trust domain: 'O' cannot be in a trust domain: only `a-z`, `0-9`, `.`, `-` and `_` can"
        )]
    );
    let gone = format!("6: upstreams[0].tls.trust[0].ca: cannot be read: {}/gone: ", folder.path().display());
    let found = told("{ca: ours.pem}", "{trust: [{domain: a.example, ca: gone}]}");
    assert!(found.len() == 1 && found[0].starts_with(&gone), "{found:?}");
}

#[test]
fn an_identity_is_named_in_the_place_of_certificates() {
    let text = |https: &str, tls: &str| {
        format!("listeners:\n- {{name: l, port: 1, protocol: {{https: {{{https}}}}}}}\n{UPSTREAM}  tls: {{{tls}}}\n")
    };
    let config = parse("f.yaml", &text("identity: mesh, client: {}", "identity: mesh")).unwrap().config;
    assert_eq!(config.upstreams[0].tls.as_ref().unwrap().identity.as_deref(), Some("mesh"));
    let ListenerProtocol::Https(ends) = &config.listeners[0].protocol else { panic!("{config:?}") };
    assert_eq!(ends.identity.as_deref(), Some("mesh"));
    assert!(ends.client.is_some(), "whom it trusts is the identity's");

    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = pair();
    fs::write(folder.path().join("c.pem"), cert).unwrap();
    fs::write(folder.path().join("c.key"), key).unwrap();
    let path = folder.path().join("gate.yaml");
    let own = "{cert: c.pem, key: c.key}";
    let both = text(&format!("identity: mesh, certificates: [{own}]"), &format!("identity: mesh, client_auth: {own}"));
    fs::write(&path, both).unwrap();
    let error = load([&path]).unwrap_err();
    let told: Vec<_> = error.problems().iter().map(|one| format!("{}: {}", one.field, one.fault)).collect();
    assert_eq!(
        told,
        [
            "listeners[0].protocol.https.identity: cannot stand beside `certificates`: leave one of them out",
            "upstreams[0].tls.identity: cannot stand beside `client_auth`: leave one of them out",
        ]
    );
}

#[test]
fn pem_can_stand_in_the_file_itself() {
    let (cert, key) = pair();
    let indent = |text: &str| text.trim_end().replace('\n', "\n    ");
    let text = format!("certificates:\n- cert: |\n    {}\n  key: |\n    {}\n", indent(&cert), indent(&key));
    let found = parse("f.yaml", &text).unwrap().config.certificates.remove(0);
    assert_eq!((found.chain, &*found.origin), (cert.into_bytes(), "f.yaml:2: certificates[0]"));
    let broken = "certificates:\n- cert: |\n    -----BEGIN CERTIFICATE-----\n    AAAA\n  key: x\n";
    assert!(
        faults(broken)[0]
            .starts_with("f.yaml:3:5: certificates[0].cert: the certificate is not PEM: its `END` line is missing"),
        "{:?}",
        faults(broken)
    );
}

#[test]
fn nothing_at_all_is_an_empty_configuration() {
    assert_eq!(parse("f.yaml", "# later\n").unwrap().config, Config::default());
}

#[cfg(feature = "regex")]
#[test]
fn the_example_of_the_documentation_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = pair();
    fs::create_dir(folder.path().join("certs")).unwrap();
    for name in ["ca", "gate", "shop"] {
        fs::write(folder.path().join(format!("certs/{name}.pem")), &cert).unwrap();
        fs::write(folder.path().join(format!("certs/{name}.key")), &key).unwrap();
    }
    fs::write(folder.path().join("gate.yaml"), include_str!("example.yaml")).unwrap();
    let config = load([folder.path()]).unwrap_or_else(|error| panic!("{error}")).config;
    let [beta, rest] = &*config.routes[0].rules else { panic!("{:?}", config.routes) };
    assert_eq!((beta.backends[1].weight, &*rest.backends[0].name), (9, "cart"));
    assert_eq!(beta.matches[0].headers.len() + beta.matches[0].query.len() + beta.matches[0].cookies.len(), 3);
    assert_eq!(config.upstreams[1].balancer, Balancer::RingHash(HashKey::Cookie("group".into())));
    assert_eq!(config.upstreams[1].max_attempts, 2);
    assert_eq!(config.certificates.len(), 2);

    // The alternatives that its comments name.
    for (shown, other) in [
        ("{prefix: /cart}", "{exact: /cart}"),
        ("{prefix: /cart}", r#"{regex: "/cart/[0-9]+"}"#),
        (r#"{exact: "1"}"#, r#"{regex: "[0-9]+"}"#),
        (r#"{exact: "1"}"#, "absent"),
        ("balancer: least_request", "balancer: peak_ewma"),
        ("balancer: least_request", "balancer: random"),
        ("{ring_hash: {cookie: group}}", "{maglev: client_ip}"),
        ("{ring_hash: {cookie: group}}", "{maglev: path}"),
        ("protocol: http2", "protocol: auto"),
        ("    ca: certs/ca.pem", "    trust: [{domain: example.com, ca: certs/ca.pem}]"),
    ] {
        assert!(include_str!("example.yaml").contains(shown), "{shown}");
        fs::write(folder.path().join("gate.yaml"), include_str!("example.yaml").replace(shown, other)).unwrap();
        load([folder.path()]).unwrap_or_else(|error| panic!("{other}: {error}"));
    }
}

#[test]
fn every_policy_can_be_written_and_served() {
    let text = include_str!("policies.yaml");
    let config = parse("f.yaml", text).unwrap_or_else(|error| panic!("{error}")).config;
    let [cart, basket] = &*config.routes[0].rules else { panic!("{:?}", config.routes) };
    assert_eq!((cart.filters.len(), cart.backends[0].filters.len(), basket.filters.len()), (11, 1, 1));
    let [fault] = &*cart.backends[0].filters else { panic!("{cart:?}") };
    let abort = config::FaultAbort { with: config::FaultKind::Reset, percent: 0.1 };
    assert_eq!(*fault, Filter::Fault(config::Fault { abort: Some(abort), ..config::Fault::default() }));
    let retry = cart.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, &*retry.statuses, &*retry.grpc), (2, &[502, 503][..], &[14][..]));
    assert_eq!(retry.backoff, Some(std::time::Duration::from_millis(50)));
    assert_eq!(config.forwarded.as_ref().unwrap().trust.len(), 2);
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.retry_budget.percent, 10);
    assert_eq!(upstream.hedge.as_ref().unwrap().percentile, 99.0);
    assert_eq!(upstream.concurrency.as_ref().unwrap().queue, 50);
    assert_eq!(upstream.shed.as_ref().unwrap().shares.sheddable, 0.5);
    assert!(matches!(upstream.adaptive_concurrency, Some(config::AdaptiveConcurrency::Gradient(_))));
    assert!(matches!(config.upstreams[1].adaptive_concurrency, Some(config::AdaptiveConcurrency::Aimd(_))));
    crate::gateway::Gateway::builder(config).build().unwrap_or_else(|error| panic!("{error}"));

    // The alternatives that its comments name.
    for (shown, other) in [
        (r#"{below: "spiffe://example.com/ns/shop"}"#, "{trust_domain: example.com}"),
        (r#"{below: "spiffe://example.com/ns/shop"}"#, "any"),
        ("path: {prefix: /v2}", "path: {full: /v2}"),
        ("{percentile: 99, least: 10ms, non_idempotent: false}", "{after: 50ms}"),
        ("split: {by: {cookie: group}}", "split: turns"),
        ("key: client_ip", "key: {header: x-user}"),
        ("key: client_ip", "key: identity"),
        ("with: reset", "with: connect_failure"),
        ("with: reset", "with: {grpc: 14}"),
    ] {
        assert!(text.contains(shown), "{shown}");
        parse("f.yaml", &text.replace(shown, other)).unwrap_or_else(|error| panic!("{other}: {error}"));
    }
}
