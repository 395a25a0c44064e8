//! Questions to manifests: `--check`, `--explain` and `--diff`, their exit codes and what they print.

use std::process::Output;

use tokio::process::Command;

use crate::support::{
    ingress::{binary, folder},
    manifest::{Path, Rule, backend, everything_to, ingress},
    soon,
};

async fn run(arguments: &[&str]) -> Output {
    soon("ingress answers", Command::new(binary()).args(arguments).kill_on_drop(true).output()).await.unwrap()
}

/// The exit code, and what is on stdout.
async fn answer(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(arguments).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() != Some(2) || !stderr.is_empty());
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Two listeners on one port, a third elsewhere, and a canary by header.
const WORLD: &str = "
listeners:
- {name: any, addresses: [127.0.0.2], port: 80}
- {name: shop, addresses: [127.0.0.2], port: 80, host: '*.example.com'}
- {name: other, addresses: [127.0.0.3], port: 80}
routes:
- name: web
  listeners: [any, other]
  rules: [{backends: [web]}]
- name: shop
  listeners: [shop]
  hosts: [shop.example.com]
  rules:
  - matches: [{path: {prefix: /cart}}]
    backends: [{name: web, weight: 3}, {name: cart, weight: 1}]
    filters: [{request_headers: {set: {x-shop: 'yes'}}}]
    retry: {attempts: 2, statuses: [503]}
    timeouts: {request: 2s}
  - matches: [{path: {prefix: /cart}, headers: [{name: x-user, value: {exact: '1'}}]}]
    backends: [cart]
upstreams:
- {name: web, endpoints: {static: ['127.0.0.1:1']}}
- {name: cart, endpoints: {static: ['127.0.0.1:2']}}
";

#[tokio::test]
async fn a_check_counts_what_is_there_and_binds_nothing() {
    let dir = folder(&[("world.yaml", WORLD)]);
    let path = dir.path().to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, text) = answer(&["--check", "--manifests", path, "--http-port", &port]).await;
    assert_eq!(code, Some(0), "{text}");
    let expected = "fine: 3 listeners, 2 routes with 3 rules, 0 streams, 2 upstreams, 0 certificates, 0 warnings\n";
    assert_eq!(text, expected);
}

#[tokio::test]
async fn a_check_of_what_cannot_be_served_says_why() {
    let unknown = WORLD.replace("{name: cart, endpoints", "{name: card, endpoints");
    for (world, words) in [(&*unknown, "named `cart`"), ("routes: 7\n", "world.yaml:1:9")] {
        let dir = folder(&[("world.yaml", world)]);
        let output = run(&["--check", "--manifests", dir.path().to_str().unwrap()]).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(words) && output.stdout.is_empty(), "{stderr}");
    }
}

#[tokio::test]
async fn an_explanation_names_listener_rule_and_policies_and_why_the_others_lost() {
    let dir = folder(&[("world.yaml", WORLD)]);
    let path = dir.path().to_str().unwrap();
    let ask = |line| answer_to(path, line, &["--address", "127.0.0.2"]);
    let expected = "\
listener `shop` (host *.example.com) at 127.0.0.2:80
GET shop.example.com /cart/7
   route `shop`, rules[1].matches[0] (host shop.example.com, path `/cart` and below, header x-user `1`): \
   header x-user: expected `1`, found nothing
-> route `shop`, rules[0].matches[0] (host shop.example.com, path `/cart` and below): wins
   backend web, weight 3 of 4: 127.0.0.1:1
   backend cart, weight 1 of 4: 127.0.0.1:2
   request headers: sets x-shop: `yes`
   retries up to 2 times on 503
   request within 2s
";
    assert_eq!(ask("GET http://shop.example.com/cart/7").await, (Some(0), expected.to_owned()));
    let (_, text) = ask("http://shop.example.com/cart -H 'x-user: 1'").await;
    assert!(text.contains("-> route `shop`, rules[1]") && text.contains("backend cart, weight 1 of 1"), "{text}");
    let (_, text) = ask("http://b.example.com/").await;
    assert!(text.contains("listener `shop`") && text.contains("answered 404"), "{text}");
    // Without an address, each that the request could come in at.
    let (code, text) = answer_to(path, "http://any.test/", &[]).await;
    assert_eq!(code, Some(0));
    assert!(text.contains("listener `any`") && text.contains("listener `other` (host *) at 127.0.0.3:80"), "{text}");
}

#[tokio::test]
async fn a_request_that_nothing_listens_for_is_an_error_that_says_what_there_is() {
    let dir = folder(&[("world.yaml", WORLD)]);
    let path = dir.path().to_str().unwrap();
    for (line, more, words) in [
        ("https://any.test/", &[][..], "nothing listens for https: "),
        ("http://any.test:81/", &[], "nothing listens for http on port 81: "),
        ("http://any.test/", &["--address", "127.0.0.9"], "nothing listens for http at 127.0.0.9: "),
    ] {
        let arguments = ["--explain", line, "--manifests", path];
        let output = run(&[&arguments[..], more].concat()).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {stderr}");
        assert!(stderr.contains(words) && output.stdout.is_empty(), "{line}: {stderr}");
        assert!(stderr.contains("There is: http://127.0.0.2:80, http://127.0.0.3:80"), "{line}: {stderr}");
    }
}

/// Somebody listens: what comes of it is for the explanation to say.
#[tokio::test]
async fn a_request_at_a_port_of_another_protocol_is_explained() {
    const WORLD: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: c}
spec: {controllerName: example.com/c}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: c
  listeners: [{name: db, port: 5432, protocol: TCP}, {name: web, port: 80, protocol: HTTP}]
";
    let dir = folder(&[("world.yaml", WORLD)]);
    let path = dir.path().to_str().unwrap();
    for (line, words) in [
        ("http://db.test:5432/", "listener `default/g/db`: the connection is closed: no stream route is for it"),
        ("https://db.test:5432/", "listener `default/g/db`: the connection is closed: no stream route is for it"),
        ("https://web.test:80/", "the connection is closed: TLS is not spoken there"),
    ] {
        let (code, text) = answer_to(path, line, &[]).await;
        assert_eq!(code, Some(0), "{line}: {text}");
        assert!(text.contains(words), "{line}: {text}");
    }
}

async fn answer_to(path: &str, line: &str, more: &[&str]) -> (Option<i32>, String) {
    let arguments = ["--explain", line, "--manifests", path];
    answer(&[&arguments[..], more].concat()).await
}

#[tokio::test]
async fn a_request_for_another_listener_than_the_handshake_is_told_to_be_misdirected() {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned(), "b.test".to_owned()]).unwrap();
    let pem = |text: String| text.replace('\n', "\n    ");
    let listener =
        |name: &str, host: &str| format!("- {{name: {name}, port: 443, host: {host}, protocol: {{https: {{}}}}}}\n");
    let world = format!(
        "listeners:\n{}{}routes:\n- {{name: r, listeners: [a, b], rules: [{{backends: [web]}}]}}\n\
         upstreams: [{{name: web, endpoints: {{static: []}}}}]\n\
         certificates:\n- cert: |\n    {}\n  key: |\n    {}\n",
        listener("a", "a.test"),
        listener("b", "b.test"),
        pem(made.cert.pem()),
        pem(made.signing_key.serialize_pem()),
    );
    let dir = folder(&[("world.yaml", &world)]);
    let path = dir.path().to_str().unwrap();
    for (line, words) in [
        ("https://a.test/", "-> route `r`, rules[0]"),
        ("https://a.test/", "no endpoint (503)"),
        ("https://a.test/ -H 'host: b.test'", "answered 421"),
        ("https://c.test/", "the connection is closed: no listener is for the name `c.test`"),
    ] {
        let (code, text) = answer_to(path, line, &[]).await;
        assert_eq!(code, Some(0));
        assert!(text.contains(words), "{line}: {text}");
    }
}

#[tokio::test]
async fn a_difference_is_told_by_class_of_requests_and_by_exit_code() {
    let world = |cart: &str, at: &str| {
        let paths = [Path("Prefix", "/", "web", "80"), Path("Prefix", "/cart", cart, "80")];
        ingress("shop").rule(Rule("shop.example.com", &paths)).yaml()
            + &backend("web", &[at.parse().unwrap()])
            + &backend("cart", &["10.0.0.2:80".parse().unwrap()])
    };
    let old = folder(&[("world.yaml", &world("web", "10.0.0.1:80"))]);
    let new = folder(&[("a.yaml", &world("cart", "10.0.0.3:80"))]);
    let paths = [old.path().to_str().unwrap(), new.path().to_str().unwrap()];
    let (code, text) = answer(&["--diff", paths[0], paths[1]]).await;
    assert_eq!(code, Some(1), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["requests where no listener is:", "  shop.example.com, /cart and below"], "{text}");
    assert!(lines[2].starts_with("    - route") && lines[2].contains("web"), "{text}");
    assert!(lines[3].starts_with("    + route") && lines[3].contains("cart"), "{text}");
    assert_eq!(lines[4], "upstreams:", "{text}");
    assert!(text.ends_with("    - 10.0.0.1:80\n    + 10.0.0.3:80\n"), "{text}");

    assert_eq!(answer(&["--diff", paths[0], paths[0]]).await, (Some(0), String::new()));
    let output = run(&["--diff", paths[0], "/not/there.yaml"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/not/there.yaml"));
}

#[tokio::test]
async fn questions_that_make_no_sense_are_refused() {
    let dir = folder(&[("world.yaml", &everything_to(&[]))]);
    let path = dir.path().to_str().unwrap();
    for (arguments, words) in [
        (&["--check"][..], "need --manifests"),
        (&["--explain", "http://a/"], "need --manifests"),
        (&["--explain", "ftp://a/", "--manifests", path], "neither http nor https"),
        (&["--diff", path], "--diff needs two values"),
        (&["--diff", path, path, "--manifests", path], "in the place of --manifests"),
        (&["--check", "--diff", path, path], "only one of"),
        (&["--address", "127.0.0.1"], "--address goes with --explain"),
    ] {
        let output = run(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words) && output.stdout.is_empty(), "{arguments:?}: {stderr}");
    }
}
