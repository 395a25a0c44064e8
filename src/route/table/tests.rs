use std::cmp::Reverse;

use http::Request;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::{
    config::{CookieMatch, HeaderMatch, Host, Match, QueryMatch, Rule, ValueMatch},
    route::{Condition, TieBreak},
};

fn rule(matches: impl Into<Vec<Match>>) -> Rule {
    Rule { matches: matches.into(), ..Rule::default() }
}

fn route(name: &str, hosts: &[&str], rules: impl Into<Vec<Rule>>) -> Route {
    Route { hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(), rules: rules.into(), ..Route::named(name) }
}

fn compile(routes: &[Route]) -> RouteTable<String> {
    RouteTable::compile(routes, Conflicts::Refuse, |route, rule| format!("{}{rule}", route.name)).unwrap()
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

fn winner(table: &RouteTable<String>, uri: &str) -> Option<String> {
    table.lookup(&get(uri)).map(|found| found.target().clone())
}

#[test]
fn the_most_specific_host_with_a_fitting_match_wins() {
    let one_label = Route {
        hosts: vec![Host::OneLabelWildcard("example.com".into())],
        rules: vec![rule([Match::prefix("/one")])],
        ..Route::named("one")
    };
    let table = compile(&[
        route("any", &[], [rule([])]),
        route("short", &["*.com"], [rule([Match::exact("/short")])]),
        route("long", &["*.example.com"], [rule([Match::prefix("/")])]),
        one_label,
        route("exact", &["a.example.com"], [rule([Match::prefix("/a")])]),
        route("address", &["[::1]", "127.0.0.1"], [rule([])]),
    ]);
    for (uri, target) in [
        ("http://a.example.com/a", "exact0"),
        ("http://A.EXAMPLE.com.:8080/a/b", "exact0"),
        ("http://a.example.com/one", "one0"),
        ("http://b.example.com/one", "one0"),
        ("http://b.a.example.com/one", "long0"),
        ("http://a.example.com/", "long0"),
        ("http://a.example.com/short", "long0"),
        ("http://example.com/short", "short0"),
        ("http://example.com/one", "any0"),
        ("http://.example.com/one", "any0"),
        ("http://xexample.com/one", "any0"),
        ("http://com/short", "any0"),
        ("http://a.example.org/a", "any0"),
        ("http://[::1]:80/", "address0"),
        ("http://127.0.0.1:80/", "address0"),
        ("/a", "any0"),
        ("*", "any0"),
    ] {
        assert_eq!(winner(&table, uri).as_deref(), Some(target), "{uri}");
    }
}

#[test]
fn prefixes_are_of_elements_and_the_longest_wins() {
    let table = compile(&[route(
        "r",
        &["*"],
        [
            rule([Match::prefix("/a")]),
            rule([Match::prefix("/a/b/")]),
            rule([Match::prefix("/a/b/c/d")]),
            rule([Match::exact("/a/b")]),
            rule([Match::exact("/a/b/")]),
            rule([Match::prefix("/%7euser")]),
        ],
    )]);
    for (path, target) in [
        ("/a", Some("r0")),
        ("/a/", Some("r0")),
        ("/a/x", Some("r0")),
        ("/ab", None),
        ("/", None),
        ("/A", None),
        ("/a/b", Some("r3")),
        ("/a/b/", Some("r4")),
        ("/a/b/c", Some("r1")),
        ("/a/b/c/d", Some("r2")),
        ("/a/b/c/d/e/f", Some("r2")),
        ("/a/b/c/de", Some("r1")),
        ("/a/bc/c/d", Some("r0")),
        ("/~user/x", Some("r5")),
    ] {
        assert_eq!(winner(&table, path).as_deref(), target, "{path}");
    }
}

#[cfg(feature = "regex")]
#[test]
fn expressions_stand_between_exact_paths_and_prefixes() {
    let regex = |text: &str| Match { path: PathMatch::Regex(text.parse().unwrap()), ..Match::default() };
    let table = compile(&[route(
        "r",
        &["*"],
        [
            rule([Match::prefix("/a/b/c")]),
            rule([regex("/a/.*")]),
            rule([regex("/a/b/c/.+")]),
            rule([Match::exact("/a/b/c/d")]),
        ],
    )]);
    for (path, target) in
        [("/a/b/c/d", Some("r3")), ("/a/b/c/e", Some("r2")), ("/a/b/c", Some("r1")), ("/a", None), ("/x/a/b", None)]
    {
        assert_eq!(winner(&table, path).as_deref(), target, "{path}");
    }
}

#[test]
fn what_is_found_is_told() {
    let named = Rule { name: Some("second".into()), ..rule([Match::prefix("/a/"), Match::exact("/b/c")]) };
    let table = compile(&[route("r", &[], [rule([Match::prefix("/")]), named])]);
    for (path, index, prefix_len) in [("/a/x", 1, 2), ("/b/c", 1, 4), ("/x", 0, 0)] {
        let request = get(path);
        let found = table.lookup_parts(request.method(), request.uri(), request.headers()).unwrap();
        assert_eq!((found.rule_index(), found.prefix_len()), (index, prefix_len), "{path}");
        assert_eq!(found.rule_name().map(|name| &**name), Some("second").filter(|_| index == 1));
        assert_eq!(&**found.route_match().route(), "r");
    }
}

#[test]
fn of_several_header_matches_for_one_name_the_first_counts() {
    let header = |value| HeaderMatch::exact("x-a", value).unwrap();
    let matching = Match { headers: vec![header("1"), header("2")], ..Match::default() };
    let table = compile(&[route("r", &[], [rule([matching])])]);
    let request = Request::get("/").header("X-A", "1").body(()).unwrap();
    assert!(table.lookup(&request).is_some());
    assert_eq!(table.explain(&request).winner().unwrap().specificity().headers, 1);
}

#[test]
fn of_several_query_matches_for_one_name_the_first_counts() {
    let query = |name: &str, value: &str| QueryMatch { name: name.into(), value: ValueMatch::Exact(value.into()) };
    let matching = Match { query: vec![query("a", "1"), query("a", "2"), query("A", "3")], ..Match::default() };
    let table = compile(&[route("r", &[], [rule([matching])])]);
    assert!(table.lookup(&get("/?a=1&A=3")).is_some());
    assert!(table.lookup(&get("/?a=2&A=3")).is_none());
    assert!(table.lookup(&get("/?a=1")).is_none(), "case matters in parameters' names");
    assert_eq!(table.explain(&get("/?a=1&A=3")).winner().unwrap().specificity().query, 2);
}

#[test]
fn a_grpc_method_stands_between_services_and_everything() {
    let method = |name: &str| Match { path: PathMatch::GrpcMethod(name.into()), ..Match::default() };
    let table = compile(&[route(
        "r",
        &[],
        [rule([]), rule([method("Echo")]), rule([Match::prefix("/a.A")]), rule([Match::exact("/a.A/Echo")])],
    )]);
    for (path, target) in [
        ("/a.A/Echo", "r3"),
        ("/a.A/Other", "r2"),
        ("/b.B/Echo", "r1"),
        ("/b.B/echo", "r0"),
        ("/b.B/Echo/", "r0"),
        ("/b.B/x/Echo", "r0"),
        ("//Echo", "r0"),
        ("/Echo", "r0"),
        ("/", "r0"),
    ] {
        assert_eq!(winner(&table, path).as_deref(), Some(target), "{path}");
    }
    let text = table.explain(&get("/b.B/Echo")).to_string();
    assert!(text.contains("path the gRPC method `Echo` of any service): wins"), "{text}");
    assert!(text.contains("path anything): fits, but the winner names the path more closely"), "{text}");
}

#[test]
fn equal_demands_are_refused_naming_both() {
    let asking = |first: &str, second: &str| {
        let headers = vec![HeaderMatch::exact(first, "1").unwrap(), HeaderMatch::exact(second, "1").unwrap()];
        Match { headers, ..Match::prefix("/a") }
    };
    let one = route("one", &["a.example", "b.example"], [rule([Match::exact("/"), asking("x-a", "x-b")])]);
    let mut two = route("two", &["B.example"], [rule([]), rule([asking("x-b", "x-a")])]);
    let error = |routes: &[Route]| RouteTable::compile(routes, Conflicts::Refuse, |_, _| ()).map(drop);
    assert_eq!(
        error(&[one.clone(), two.clone()]).unwrap_err().to_string(),
        "route `two`, rules[1].matches[0] asks the same as route `one`, rules[0].matches[1], for host `b.example`, and \
         would never be reached: change or remove one"
    );
    two.hosts = vec!["c.example".parse().unwrap()];
    assert_eq!(error(&[one.clone(), two]), Ok(()));
    // A slash at a prefix' end means nothing, and neither do two equal matches in one rule.
    let twice = route("r", &[], [rule([Match::prefix("/a"), Match::prefix("/a/")])]);
    assert_eq!(error(&[twice]), Ok(()));
    let slash = route("r", &[], [rule([Match::prefix("/a")]), rule([Match::prefix("/a/")])]);
    assert!(matches!(error(&[slash]), Err(TableError::Conflict { .. })));
    let slash = route("r", &[], [rule([Match::exact("/a")]), rule([Match::exact("/a/")])]);
    assert_eq!(error(&[slash]), Ok(()));
    assert_eq!(error(&[one]), Ok(()));
}

#[test]
fn equal_demands_go_to_the_oldest_where_authors_differ() {
    let made = |name: &str, created| Route { created, ..route(name, &[], [rule([]), rule([])]) };
    for (routes, target, part) in [
        ([made("a", None), made("b", Some(2)), made("c", Some(1))], "c0", TieBreak::Position),
        ([made("b", Some(1)), made("a", Some(1)), made("c", None)], "a0", TieBreak::Position),
        ([made("b", None), made("c", None), made("a", None)], "a0", TieBreak::Position),
    ] {
        let table = RouteTable::compile(&routes, Conflicts::Oldest, |r, rule| format!("{}{rule}", r.name)).unwrap();
        assert_eq!(winner(&table, "/").as_deref(), Some(target));
        let explanation = table.explain(&get("/"));
        assert_eq!(explanation.candidates()[1].verdict(), &Verdict::LessSpecific(part));
    }
}

#[test]
fn a_path_without_a_normal_form_is_refused_with_its_place() {
    let routes = [route("r", &[], [rule([]), rule([Match::exact("/"), Match::exact("a")])])];
    assert_eq!(
        RouteTable::compile(&routes, Conflicts::Refuse, |_, _| ()).unwrap_err().to_string(),
        "route `r`, rules[1].matches[1]: no request has the path `a`: the path is refused: it does not begin with `/`, at \
         byte 0"
    );
}

#[test]
fn an_explanation_names_what_failed_and_what_decided() {
    let canary = Match {
        headers: vec![HeaderMatch::exact("x-canary", "1").unwrap()],
        cookies: vec![CookieMatch { name: "user".into(), value: ValueMatch::Present }],
        ..Match::prefix("/cart")
    };
    let post = Match { method: Some(Method::POST), ..Match::prefix("/cart") };
    let debug = Match {
        query: vec![QueryMatch { name: "debug".into(), value: ValueMatch::Exact("1".into()) }],
        ..Match::prefix("/cart")
    };
    let table = compile(&[
        route("shop", &["shop.example"], [rule([Match::prefix("/cart"), canary]), rule([post]), rule([debug])]),
        route("wide", &["*.example"], [rule([Match::prefix("/")])]),
        route("other", &["other.example"], [rule([])]),
        route("exact", &["shop.example"], [rule([Match::exact("/cart")])]),
    ]);
    let request =
        Request::get("/cart/7?debug=0").header("host", "shop.example").header("x-canary", "1").body(()).unwrap();
    let explanation = table.explain(&request);
    assert_eq!(
        explanation.to_string(),
        "GET shop.example /cart/7?debug=0
   route `exact`, rules[0].matches[0] (host shop.example, path exactly `/cart`): path: expected exactly `/cart`, found \
         `/cart/7`
   route `shop`, rules[1].matches[0] (host shop.example, path `/cart` and below, method `POST`): method: expected `POST`, \
         found `GET`
   route `shop`, rules[0].matches[1] (host shop.example, path `/cart` and below, header x-canary `1`, cookie user \
         anything): cookie user: expected anything, found nothing
   route `shop`, rules[2].matches[0] (host shop.example, path `/cart` and below, query parameter debug `1`): query \
         parameter debug: expected `1`, found `0`
-> route `shop`, rules[0].matches[0] (host shop.example, path `/cart` and below): wins
   route `wide`, rules[0].matches[0] (host *.example, path anything): fits, but the winner names the host more closely
   1 more, for other hosts"
    );
    let lost = &explanation.candidates()[2];
    let Verdict::Unmet(unmet) = lost.verdict() else { panic!("{lost:?}") };
    assert_eq!(unmet.condition(), &Condition::Cookie("user".into()));
    assert_eq!((unmet.expected(), unmet.found()), ("anything", None));

    let nowhere = compile(&[route("shop", &["shop.example"], [rule([])])]);
    assert_eq!(nowhere.explain(&get("/x")).to_string(), "GET (no host) /x\n  no route\n   1 more, for other hosts");
}

#[test]
fn a_table_of_nothing_finds_nothing() {
    let table = compile(&[]);
    assert!(table.is_empty());
    assert_eq!(winner(&table, "http://a.example/"), None);
    assert!(table.explain(&get("/")).winner().is_none());
}

// --- the table against a matcher that looks at everything ---

fn any_value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        3 => select(vec!["1", "2", "1,2", "a b"]).prop_map(|value| ValueMatch::Exact(value.into())),
        1 => Just(ValueMatch::Present),
        1 => Just(ValueMatch::Absent),
    ]
}

fn any_path() -> impl Strategy<Value = PathMatch> {
    let path = vec(select(vec!["a", "b"]), 0..4).prop_map(|segments| format!("/{}", segments.join("/")));
    let slash = select(vec!["", "/"]);
    let literal = (path, slash).prop_map(|(path, slash)| if path == "/" { path } else { path + slash });
    let regex = select(vec!["/a/.*", "/.*", "/a|/b", "/(a/)+b?", "/a/b"]);
    (0..6, literal, regex).prop_map(|(kind, literal, regex)| match kind {
        0 => PathMatch::Exact(literal),
        2 => PathMatch::GrpcMethod(regex[1..2].to_owned()),
        #[cfg(feature = "regex")]
        1 => PathMatch::Regex(regex.parse().unwrap()),
        _ => {
            let _ = regex;
            PathMatch::Prefix(literal)
        }
    })
}

fn any_match() -> impl Strategy<Value = Match> {
    let header = (select(vec!["x-a", "x-b"]), any_value())
        .prop_map(|(name, value)| HeaderMatch { name: name.parse().unwrap(), value });
    let query = (select(vec!["p", "q"]), any_value()).prop_map(|(name, value)| QueryMatch { name: name.into(), value });
    let cookie = any_value().prop_map(|value| CookieMatch { name: "c".into(), value });
    let method = select(vec![Method::GET, Method::POST]);
    (any_path(), option::weighted(0.3, method), vec(header, 0..2), vec(query, 0..2), option::weighted(0.1, cookie))
        .prop_map(|(path, method, headers, query, cookie)| Match {
            path,
            method,
            headers,
            query,
            cookies: cookie.into_iter().collect(),
        })
}

fn any_route() -> impl Strategy<Value = Route> {
    let host = select(vec![
        Host::Any,
        Host::Exact("x".into()),
        Host::Exact("a.x".into()),
        Host::Exact("b.a.x".into()),
        Host::Wildcard("x".into()),
        Host::Wildcard("a.x".into()),
        Host::OneLabelWildcard("x".into()),
        Host::OneLabelWildcard("a.x".into()),
    ]);
    let rule = vec(any_match(), 0..3).prop_map(rule);
    (vec(host, 0..3), vec(rule, 1..4), select(vec!["a", "b", "c"]), option::of(0..3_i64))
        .prop_map(|(hosts, rules, name, created)| Route { hosts, rules, created, ..Route::named(name) })
}

fn any_request() -> impl Strategy<Value = Request<()>> {
    let host = select(vec!["", "x", "a.x", "A.X.", "b.a.x:80", "c.b.a.x", "b.x", "ax", "y"]);
    let path = vec(select(vec!["a", "b", "c"]), 0..5).prop_map(|segments| format!("/{}", segments.join("/")));
    let value = select(vec!["1", "2", "a b"]);
    let headers = vec((select(vec!["x-a", "x-b"]), value), 0..3);
    let query = select(vec!["", "?p=1", "?q=2&p=1", "?p=2&p=1&q=%31", "?q=a+b&p", "?%70=1,2"]);
    (host, any::<bool>(), path, query, headers, option::of(select(vec!["c=1", "c=2; c=1"])), any::<bool>()).prop_map(
        |(host, in_uri, path, query, headers, cookie, post)| {
            let authority = if in_uri && !host.is_empty() { format!("http://{host}") } else { String::new() };
            let mut request = Request::builder().uri(format!("{authority}{path}{query}"));
            if !in_uri {
                request = request.header("host", host);
            }
            for (name, value) in headers.into_iter().chain(cookie.map(|cookie| ("cookie", cookie))) {
                request = request.header(name, value);
            }
            request.method(if post { "POST" } else { "GET" }).body(()).unwrap()
        },
    )
}

/// Every match of every rule in turn; returns the position of the best.
fn reference(routes: &[Route], request: &Request<()>) -> Option<[usize; 3]> {
    let host =
        request.uri().host().or_else(|| request.headers().get("host").map(|host| host.to_str().unwrap())).unwrap_or("");
    let host = host.split(':').next().unwrap().trim_end_matches('.').to_lowercase();
    let path = request.uri().path();
    let query: Vec<(String, String)> = request.uri().query().map_or(Vec::new(), |query| {
        let decode = |text: &str| text.replace('+', " ").replace("%31", "1").replace("%70", "p");
        query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(k, v)| (decode(k), decode(v)))
            .collect()
    });
    let value_fits = |expected: &ValueMatch, found: Option<&str>| match expected {
        ValueMatch::Exact(expected) => found == Some(expected),
        ValueMatch::Present => found.is_some(),
        ValueMatch::Absent => found.is_none(),
        #[cfg(feature = "regex")]
        ValueMatch::Regex(_) => unreachable!("not generated"),
    };
    let host_fits = |wanted: &Host| {
        let front =
            |suffix: &str| host.strip_suffix(suffix).and_then(|front| front.strip_suffix('.')).map(str::to_owned);
        match wanted {
            Host::Any => Some((0, 0, false)),
            Host::Wildcard(suffix) => front(suffix).map(|_| (1, suffix.len(), false)),
            Host::OneLabelWildcard(suffix) => {
                front(suffix).filter(|front| !front.contains('.')).map(|_| (1, suffix.len(), true))
            }
            Host::Exact(name) => (*name == host).then_some((2, 0, false)),
        }
    };
    let path_fits = |wanted: &PathMatch| match wanted {
        PathMatch::Exact(exact) => (exact == path).then_some((4, 0)),
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            let rest = path.strip_prefix(prefix)?;
            let kind = if prefix.is_empty() { 0 } else { 2 };
            (rest.is_empty() || rest.starts_with('/')).then_some((kind, prefix.len()))
        }
        PathMatch::GrpcMethod(method) => match *path.split('/').collect::<Vec<_>>() {
            ["", service, found] if !service.is_empty() && found == method => Some((1, method.len())),
            _ => None,
        },
        #[cfg(feature = "regex")]
        PathMatch::Regex(pattern) => pattern.is_match(path).then_some((3, pattern.as_str().len())),
    };
    let mut best = None;
    for (route_at, route) in routes.iter().enumerate() {
        let any_host = [Host::Any];
        let hosts = if route.hosts.is_empty() { &any_host[..] } else { &route.hosts };
        for (rule_at, rule) in route.rules.iter().enumerate() {
            let any_match = [Match::default()];
            let matches = if rule.matches.is_empty() { &any_match[..] } else { &rule.matches };
            for (match_at, matching) in matches.iter().enumerate() {
                let path = path_fits(&matching.path);
                let fits = matching.method.as_ref().is_none_or(|method| method == request.method())
                    && matching.headers.iter().all(|header| {
                        let lines: Vec<_> =
                            request.headers().get_all(&header.name).iter().map(|line| line.to_str().unwrap()).collect();
                        value_fits(&header.value, Some(lines.join(",")).filter(|_| !lines.is_empty()).as_deref())
                    })
                    && matching.query.iter().all(|wanted| {
                        let found = query.iter().find(|(name, _)| *name == wanted.name);
                        value_fits(&wanted.value, found.map(|(_, value)| value.as_str()))
                    })
                    && matching.cookies.iter().all(|wanted| {
                        let line = request.headers().get("cookie").map(|line| line.to_str().unwrap());
                        value_fits(&wanted.value, line.map(|line| &line[2..3]))
                    });
                for rank in hosts.iter().filter_map(host_fits) {
                    if let (true, Some(path)) = (fits, path) {
                        let position = [route_at, rule_at, match_at];
                        let key = (
                            rank,
                            path,
                            matching.method.is_some(),
                            matching.headers.len() + matching.cookies.len(),
                            matching.query.len(),
                            Reverse(route.created.unwrap_or(i64::MAX)),
                            Reverse(route.name.clone()),
                            Reverse(position),
                        );
                        best = best.max(Some((key, position)));
                    }
                }
            }
        }
    }
    best.map(|(_, position)| position)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_table_agrees_with_looking_at_everything(
        mut routes in vec(any_route(), 0..10),
        requests in vec(any_request(), 1..16),
    ) {
        // Of two equal matches for one header only the first counts, which the matcher above does not know.
        for matching in routes.iter_mut().flat_map(|route| &mut route.rules).flat_map(|rule| &mut rule.matches) {
            matching.headers.dedup_by(|second, first| second.name == first.name);
        }
        let index_of = |route: &Route| routes.iter().position(|other| std::ptr::eq(route, other));
        let table = RouteTable::compile(&routes, Conflicts::Oldest, |route, rule| (index_of(route), rule)).unwrap();
        for request in &requests {
            let expected = reference(&routes, request);
            let found = table.lookup(request).map(|found| *found.target());
            let rule = expected.map(|[route, rule, _]| (Some(route), rule));
            prop_assert_eq!(found, rule, "{:?}\n{}", request, table.explain(request));

            let explanation = table.explain(request);
            let explained = explanation.winner().map(|winner| winner.specificity().position.0);
            prop_assert_eq!(explained, expected);
            let candidates = explanation.candidates();
            prop_assert!(candidates.is_sorted_by(|a, b| a.specificity() > b.specificity()), "{}", explanation);
            for candidate in candidates {
                let is_beaten = explanation.winner().is_some_and(|winner| winner.specificity() > candidate.specificity());
                prop_assert!(is_beaten || !matches!(candidate.verdict(), Verdict::LessSpecific(_)), "{}", explanation);
            }
        }
    }
}
