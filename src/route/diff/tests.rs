use http::{Method, Request};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{classes::path_fits, *};
use crate::config::{BackendRef, HeaderMatch, Match, PathMatch, QueryMatch, ValueMatch};

fn rule(matching: Match, backend: &str) -> Rule {
    Rule { matches: vec![matching], backends: vec![BackendRef::new(backend)], ..Rule::default() }
}

fn route(name: &str, hosts: &[&str], rules: Vec<Rule>) -> Route {
    Route { hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(), rules, ..Route::named(name) }
}

/// Host, path, what else, and the backends before and after.
fn told(old: &[Route], new: &[Route]) -> Vec<String> {
    let backend = |destination: Option<&Destination<'_>>| {
        destination.map_or_else(|| "404".to_owned(), |one| one.rule().backends[0].name.clone())
    };
    let line = |change: &Change<'_>| {
        let Change { host, path, when, .. } = change;
        let when = if when.is_empty() { String::new() } else { format!(", {when}") };
        format!("{host} {path}{when}: {} -> {}", backend(change.before()), backend(change.after()))
    };
    diff(old, new).unwrap().changes().iter().map(line).collect()
}

#[test]
fn other_names_and_another_order_are_no_change() {
    let old = [route("a", &["x.example"], vec![rule(Match::prefix("/"), "web"), rule(Match::exact("/cart"), "cart")])];
    let new = [
        route("c", &["x.example"], vec![rule(Match::exact("/cart"), "cart")]),
        route("b", &["x.example"], vec![Rule { name: Some("all".into()), ..rule(Match::default(), "web") }]),
    ];
    assert_eq!(told(&old, &new), [""; 0]);
}

#[test]
fn a_more_general_class_speaks_for_those_in_it() {
    let old = [route("all", &["*"], vec![rule(Match::default(), "web")]), route("x", &["x.example"], vec![])];
    let new = [
        route("all", &["*"], vec![rule(Match::default(), "web-2")]),
        route("x", &["x.example"], vec![rule(Match::prefix("/cart"), "cart")]),
    ];
    let expected = ["* any other path: web -> web-2", "x.example /cart and below: web -> cart"];
    assert_eq!(told(&old, &new), expected);
}

#[test]
fn wildcards_for_one_label_and_for_more_are_told_apart() {
    let old = [route("w", &["*.example"], vec![rule(Match::default(), "many")])];
    let mut one = route("o", &[], vec![rule(Match::default(), "one")]);
    one.hosts = vec![Host::OneLabelWildcard("example".into())];
    let new = [old[0].clone(), one];
    assert_eq!(told(&old, &new), ["*.example any other path: many -> one"]);
    assert!(matches!(diff(&old, &new).unwrap().changes()[0].host(), Host::OneLabelWildcard(_)));
}

#[test]
fn a_domain_keeps_its_requests_from_the_others() {
    let all = [route("all", &["*"], vec![rule(Match::default(), "web")])];
    let own = [route("own", &["x.example"], vec![rule(Match::prefix("/cart"), "cart")])];
    let exact = || Host::Exact("x.example".into());
    let found = diff_domains(&[(Host::Any, &all)], &[(Host::Any, &all), (exact(), &own)]).unwrap();
    let told: Vec<_> = found.changes().iter().map(|change| change.to_string().replace('\n', ";")).collect();
    assert_eq!(
        told,
        [
            "x.example, any other path;  - route `all`, rule 0: web;  + no route (404)",
            "x.example, /cart and below;  - route `all`, rule 0: web;  + route `own`, rule 0: cart",
        ]
    );
}

#[test]
fn what_is_asked_for_beside_the_path_is_told() {
    let canary = Match { headers: vec![HeaderMatch::exact("x-user", "1").unwrap()], ..Match::prefix("/a") };
    let beta = Match {
        query: vec![QueryMatch { name: "b".into(), value: ValueMatch::Present }],
        method: Some(Method::GET),
        ..Match::prefix("/a")
    };
    let old = [route("r", &["x"], vec![rule(Match::prefix("/a"), "web"), rule(canary.clone(), "canary")])];
    let new = [route("r", &["x"], vec![rule(Match::prefix("/a"), "web"), rule(canary, "canary"), rule(beta, "beta")])];
    assert_eq!(
        told(&old, &new),
        [
            "x /a and below, method GET, query parameter b: anything: web -> beta",
            // A method goes before a header.
            "x /a and below, header x-user: `1`, method GET, query parameter b: anything: canary -> beta",
        ]
    );
}

#[test]
fn a_replaced_prefix_counts_by_its_length() {
    let rewrite = |matching| Rule {
        filters: vec![Filter::Rewrite(crate::config::Rewrite {
            host: None,
            path: Some(PathChange::Prefix("/v1".into())),
        })],
        ..rule(matching, "api")
    };
    let old = [route("r", &["x"], vec![rewrite(Match::prefix("/api")), rewrite(Match::prefix("/api/users"))])];
    let new = [route("r", &["x"], vec![rewrite(Match::prefix("/api"))])];
    assert_eq!(told(&old, &new), ["x /api/users and below: api -> api"]);
}

#[cfg(feature = "regex")]
#[test]
fn expressions_are_tried_by_a_text_that_fits_them() {
    let regex = |text: &str| Match { path: PathMatch::Regex(text.parse().unwrap()), ..Match::default() };
    let old = [route("r", &["x"], vec![rule(Match::default(), "web")])];
    let new = [route("r", &["x"], vec![rule(Match::default(), "web"), rule(regex(r"/v[0-9]+/(a|b)\w*"), "api")])];
    assert_eq!(told(&old, &new), [r"x paths like `/v[0-9]+/(a|b)\w*`, such as /v0/aa: web -> api"]);

    let hopeless = [route("r", &["x"], vec![rule(Match::default(), "web"), rule(regex(r"/\b\B"), "api")])];
    assert_eq!(diff(&old, &hopeless).unwrap().unexamined(), [r"x: paths like `/\b\B`"]);
}

fn any_routes() -> impl Strategy<Value = Vec<Route>> {
    let path = select(vec!["/", "/a", "/a/b", "/c"]);
    let header = option::of(select(vec!["1", "2"]));
    let matching = (path, any::<bool>(), header, option::of(select(vec![Method::GET, Method::POST])));
    let any_rule = (matching, select(vec!["p", "q"])).prop_map(|((path, exact, header, method), backend)| {
        let headers = header.iter().map(|value| HeaderMatch::exact("x-h", *value).unwrap()).collect();
        let base = if exact { Match::exact(path) } else { Match::prefix(path) };
        rule(Match { headers, method, ..base }, backend)
    });
    let hosts = select(vec!["*", "x.example", "*.example", "y.x.example"]);
    vec((hosts, vec(any_rule, 0..4)), 0..4).prop_map(|routes| {
        routes.into_iter().enumerate().map(|(at, (host, rules))| route(&at.to_string(), &[host], rules)).collect()
    })
}

fn any_request() -> impl Strategy<Value = Request<()>> {
    let host = select(vec!["x.example", "z.example", "y.x.example", "z.x.example", "example", "other"]);
    let path = select(vec!["/", "/a", "/a/b", "/a/b/d", "/a/d", "/c", "/c/d", "/d"]);
    let method = select(vec![Method::GET, Method::POST, Method::PUT]);
    (host, path, method, option::of(select(vec!["1", "2", "3"]))).prop_map(|(host, path, method, header)| {
        let mut request = Request::builder().method(method).uri(format!("http://{host}{path}"));
        if let Some(header) = header {
            request = request.header("x-h", header);
        }
        request.body(()).unwrap()
    })
}

fn includes(class: &PathClass, path: &str) -> bool {
    match class {
        PathClass::Exact(exact) => exact == path,
        PathClass::Prefix(prefix) => path_fits(&PathMatch::Prefix(format!("{prefix}/")), path),
        PathClass::Below(prefix) => path_fits(&PathMatch::Prefix(format!("{prefix}/")), path) && path != prefix,
        PathClass::GrpcMethod(_) | PathClass::Regex { .. } => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Nothing that changes for any request goes untold, and nothing is told where nothing changes.
    #[test]
    fn a_difference_is_told_just_when_there_is_one(
        old in any_routes(),
        new in any_routes(),
        requests in vec(any_request(), 32),
    ) {
        let (before, after) = (Side::new(&[(Host::Any, &*old)]).unwrap(), Side::new(&[(Host::Any, &*new)]).unwrap());
        let found = diff(&old, &new).unwrap();
        let changed = |request: &Request<()>| match (before.destination(request), after.destination(request)) {
            (None, None) => false,
            (Some(one), Some(other)) => !one.does_the_same_as(&other),
            _ => true,
        };
        for request in requests.iter().filter(|request| changed(request)) {
            let is_told = found.changes().iter().any(|change| {
                change.host().fits(request.uri().host().unwrap()) && includes(change.path(), request.uri().path())
            });
            prop_assert!(is_told, "{:?}\n{}", request, found);
        }
        for change in found.changes() {
            let told_apart = match (change.before(), change.after()) {
                (Some(one), Some(other)) => !one.does_the_same_as(other),
                (None, None) => false,
                _ => true,
            };
            prop_assert!(told_apart, "{}", found);
        }
        prop_assert!(diff(&old, &old).unwrap().changes().is_empty());
        let back = diff(&new, &old).unwrap();
        prop_assert_eq!(found.changes().is_empty(), back.changes().is_empty());
    }
}
