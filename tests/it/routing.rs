//! Which backend a request reaches: the rules of `networking.k8s.io/v1` Ingress, seen from outside.

use std::net::SocketAddr;

use crate::support::{
    Echo, Ingress, get,
    manifest::{Path, Rule, backend, class, ingress, service, slice},
};

/// Backends by name, each behind a Service of its name.
async fn backends<const N: usize>(names: [&str; N]) -> ([Echo; N], String) {
    let mut echoes = Vec::new();
    let mut yaml = String::new();
    for name in names {
        let echo = Echo::start(name).await;
        yaml.push_str(&backend(name, &[echo.addr]));
        echoes.push(echo);
    }
    (echoes.try_into().unwrap(), yaml)
}

/// Asks for each (host, path), and expects this backend's name, or this status.
async fn expect(addr: SocketAddr, cases: &[(&str, &str, &str)]) {
    for (host, path, expected) in cases {
        let response = get(addr, host, path).await;
        let status = response.status.to_string();
        let seen = response.value("x-backend").unwrap_or(&status);
        assert_eq!(seen, *expected, "host {host:?} path {path:?} answered {}\n{}", response.head, response.text());
    }
}

#[tokio::test]
async fn exact_and_prefix_paths() {
    let (_echoes, yaml) = backends(["exact", "prefix", "long", "root"]).await;
    let rule = Rule(
        "a.example",
        &[
            Path("Prefix", "/", "root", "80"),
            Path("Prefix", "/foo", "prefix", "80"),
            Path("Prefix", "/foo/bar/", "long", "80"),
            Path("Exact", "/foo", "exact", "80"),
        ],
    );
    let ingress = Ingress::start(&(ingress("a").rule(rule).yaml() + &yaml)).await;
    expect(
        ingress.http,
        &[
            ("a.example", "/", "root"),
            ("a.example", "/fo", "root"),
            ("a.example", "/foo", "exact"),
            ("a.example", "/foo?x=/foo/bar", "exact"),
            ("a.example", "/foo/", "prefix"),
            ("a.example", "/foo/ba", "prefix"),
            ("a.example", "/foobar", "root"),
            ("a.example", "/Foo", "root"),
            ("a.example", "/foo/bar", "long"),
            ("a.example", "/foo/bar/", "long"),
            ("a.example", "/foo/bar/baz", "long"),
            ("a.example", "/foo/barbaz", "prefix"),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_exact_path_matches_nothing_else() {
    let (_echoes, yaml) = backends(["exact"]).await;
    let rule = Rule("", &[Path("Exact", "/foo", "exact", "80"), Path("Exact", "/bar/", "exact", "80")]);
    let ingress = Ingress::start(&(ingress("a").rule(rule).yaml() + &yaml)).await;
    expect(
        ingress.http,
        &[
            ("a", "/foo", "exact"),
            ("a", "/foo/", "404"),
            ("a", "/foo/x", "404"),
            ("a", "/bar/", "exact"),
            ("a", "/bar", "404"),
            ("a", "/", "404"),
        ],
    )
    .await;
}

#[tokio::test]
async fn implementation_specific_is_a_prefix() {
    let (_echoes, yaml) = backends(["app"]).await;
    let rule = Rule("", &[Path("ImplementationSpecific", "/app", "app", "80")]);
    let ingress = Ingress::start(&(ingress("a").rule(rule).yaml() + &yaml)).await;
    expect(ingress.http, &[("a", "/app", "app"), ("a", "/app/x", "app"), ("a", "/other", "404")]).await;
}

#[tokio::test]
async fn hosts_match_whatever_their_case_and_port() {
    let (_echoes, yaml) = backends(["a", "b"]).await;
    let all = |name| [Path("Prefix", "/", name, "80")];
    let (to_a, to_b) = (all("a"), all("b"));
    let both = ingress("both").rule(Rule("a.example", &to_a)).rule(Rule("b.example", &to_b)).yaml();
    let ingress = Ingress::start(&(both + &yaml)).await;
    let with_port = format!("b.example:{}", ingress.http.port());
    expect(
        ingress.http,
        &[
            ("a.example", "/", "a"),
            ("A.Example", "/", "a"),
            ("b.example", "/", "b"),
            (&with_port, "/", "b"),
            ("b.example:1", "/", "b"),
            ("c.example", "/", "404"),
            ("xa.example", "/", "404"),
            ("x.a.example", "/", "404"),
            ("127.0.0.1", "/", "404"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_wildcard_stands_for_one_label() {
    let (_echoes, yaml) = backends(["wild", "exact", "any"]).await;
    let all = |name| [Path("Prefix", "/", name, "80")];
    let (wild, exact, any) = (all("wild"), all("exact"), [Path("Prefix", "/any", "any", "80")]);
    let objects = ingress("w").rule(Rule("*.example.com", &wild)).rule(Rule("foo.example.com", &exact)).yaml()
        + &ingress("z").rule(Rule("", &any)).yaml();
    let ingress = Ingress::start(&(objects + &yaml)).await;
    expect(
        ingress.http,
        &[
            ("bar.example.com", "/", "wild"),
            ("BAR.EXAMPLE.COM", "/", "wild"),
            ("foo.example.com", "/", "exact"),
            ("baz.bar.example.com", "/", "404"),
            ("example.com", "/", "404"),
            (".example.com", "/", "404"),
            ("barexample.com", "/", "404"),
            ("elsewhere.org", "/any", "any"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_default_backend_takes_what_no_rule_matches() {
    let (_echoes, yaml) = backends(["a", "fallback"]).await;
    let rule = Rule("a.example", &[Path("Prefix", "/a", "a", "80")]);
    let object = ingress("a").default_backend("fallback", 80).rule(rule).yaml();
    let ingress = Ingress::start(&(object + &yaml)).await;
    expect(
        ingress.http,
        &[
            ("a.example", "/a", "a"),
            ("a.example", "/b", "fallback"),
            ("b.example", "/a", "fallback"),
            ("127.0.0.1", "/", "fallback"),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_ingress_may_have_a_default_backend_alone() {
    let (_echoes, yaml) = backends(["fallback"]).await;
    let ingress = Ingress::start(&(ingress("a").default_backend("fallback", 80).yaml() + &yaml)).await;
    expect(ingress.http, &[("any.example", "/x", "fallback")]).await;
}

#[tokio::test]
async fn only_a_known_class_or_none_is_served() {
    let (_echoes, yaml) = backends(["none", "known", "unknown"]).await;
    let objects = ingress("n").rule(Rule("n.example", &[Path("Prefix", "/", "none", "80")])).yaml()
        + &ingress("k").class("ours").rule(Rule("k.example", &[Path("Prefix", "/", "known", "80")])).yaml()
        + &ingress("u").class("other").rule(Rule("u.example", &[Path("Prefix", "/", "unknown", "80")])).yaml()
        + &class("ours");
    let ingress = Ingress::start(&(objects + &yaml)).await;
    expect(ingress.http, &[("n.example", "/", "none"), ("k.example", "/", "known"), ("u.example", "/", "404")]).await;
}

#[tokio::test]
async fn ports_are_found_by_number_and_by_name() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let rule = Rule(
        "",
        &[
            Path("Prefix", "/number", "app", "8001"),
            Path("Prefix", "/name", "app", "second"),
            Path("Prefix", "/no-such-number", "app", "8003"),
            Path("Prefix", "/unnamed", "plain", "80"),
        ],
    );
    let yaml = ingress("a").rule(rule).yaml()
        + &service("app", &[("first", 8001), ("second", 8002)])
        + &slice("app", "first", one.addr, "")
        + &slice("app", "second", two.addr, "")
        + &service("plain", &[("", 80)])
        + &slice("plain", "", two.addr, "");
    let ingress = Ingress::start(&yaml).await;
    expect(
        ingress.http,
        &[("a", "/number", "one"), ("a", "/name", "two"), ("a", "/unnamed", "two"), ("a", "/no-such-number", "500")],
    )
    .await;
}

#[tokio::test]
async fn no_rule_404_no_ready_endpoint_503_no_such_service_500() {
    let gone = Echo::start("gone").await;
    let rule = Rule(
        "a.example",
        &[
            Path("Prefix", "/not-ready", "not-ready", "80"),
            Path("Prefix", "/no-slice", "no-slice", "80"),
            Path("Prefix", "/missing", "missing", "80"),
        ],
    );
    let yaml = ingress("a").rule(rule).yaml()
        + &service("not-ready", &[("http", 80)])
        + &slice("not-ready", "http", gone.addr, "{ready: false}")
        + &service("no-slice", &[("http", 80)]);
    let ingress = Ingress::start(&yaml).await;
    expect(
        ingress.http,
        &[
            ("a.example", "/", "404"),
            ("b.example", "/not-ready", "404"),
            ("a.example", "/not-ready", "503"),
            ("a.example", "/no-slice", "503"),
            ("a.example", "/missing", "500"),
        ],
    )
    .await;
    assert_eq!(gone.seen(), 0);
}

#[tokio::test]
async fn an_endpoint_is_ready_unless_it_says_otherwise() {
    let (a, b, c) = (Echo::start("absent").await, Echo::start("null").await, Echo::start("false").await);
    let yaml = ingress("a").rule(Rule("", &[Path("Prefix", "/", "app", "80")])).yaml()
        + &service("app", &[("http", 80)])
        + &slice("app", "http", a.addr, "{serving: true}")
        + &slice("app", "http", b.addr, "{ready: null}")
        + &slice("app", "http", c.addr, "{ready: false, serving: true, terminating: true}");
    let ingress = Ingress::start(&yaml).await;
    for _ in 0..40 {
        assert_eq!(get(ingress.http, "a", "/").await.status, 200);
    }
    assert_eq!(a.seen() + b.seen(), 40);
    assert!(a.seen() > 0 && b.seen() > 0, "all slices of a Service are joined: {} {}", a.seen(), b.seen());
}

#[tokio::test]
async fn requests_are_spread_over_the_endpoints() {
    let (a, b, c) = (Echo::start("a").await, Echo::start("b").await, Echo::start("c").await);
    let yaml = crate::support::manifest::everything_to(&[a.addr, b.addr, c.addr]);
    let ingress = Ingress::start(&yaml).await;
    for _ in 0..90 {
        assert_eq!(get(ingress.http, "a", "/").await.status, 200);
    }
    let shares = [a.seen(), b.seen(), c.seen()];
    assert_eq!(shares.iter().sum::<usize>(), 90);
    assert!(shares.iter().all(|share| *share >= 5), "{shares:?}");
}

#[tokio::test]
async fn of_two_equal_rules_the_first_by_name_wins() {
    let (_echoes, yaml) = backends(["first", "second"]).await;
    let second = ingress("b").rule(Rule("a.example", &[Path("Prefix", "/x", "second", "80")])).yaml();
    let first = ingress("a").rule(Rule("a.example", &[Path("Prefix", "/x", "first", "80")])).yaml();
    // The order of the documents means nothing.
    let ingress = Ingress::start(&(second + &first + &yaml)).await;
    expect(ingress.http, &[("a.example", "/x", "first")]).await;
}

#[tokio::test]
async fn services_are_found_in_the_namespace_of_the_ingress() {
    let (_echoes, yaml) = backends(["app"]).await;
    let object = ingress("a").namespace("elsewhere").rule(Rule("", &[Path("Prefix", "/", "app", "80")])).yaml();
    let ingress = Ingress::start(&(object + &yaml)).await;
    expect(ingress.http, &[("a", "/", "500")]).await;
}

#[tokio::test]
async fn manifests_come_as_folders_files_documents_and_lists() {
    let (_echoes, yaml) = backends(["a", "b"]).await;
    let to = |name, path, service| ingress(name).rule(Rule("", &[Path("Prefix", path, service, "80")])).yaml();
    // A `List` of one Ingress: the document, indented as an item.
    let item = to("b", "/b", "b").trim_start_matches("---\n").replace('\n', "\n  ");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}\n", item.trim_end());
    let unknown = "---\napiVersion: example.com/v1\nkind: Whatever\nmetadata: {name: x}\nspec: {any: thing}\n";
    let dir = crate::support::ingress::folder(&[
        ("1-ingress.yaml", &to("a", "/a", "a")),
        ("2-list.yml", &list),
        ("3-services.yaml", &(yaml + unknown)),
        ("README.txt", "not: [a manifest"),
    ]);
    let file = dir.path().join("1-ingress.yaml");
    let folder = crate::support::ingress::folder(&[]);
    for name in ["2-list.yml", "3-services.yaml", "README.txt"] {
        std::fs::rename(dir.path().join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().to_owned();
    let ingress = Ingress::start_with(folder, &[&file, &path]).await;
    expect(ingress.http, &[("x", "/a", "a"), ("x", "/b", "b"), ("x", "/c", "404")]).await;
}
