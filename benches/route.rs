//! How long a lookup takes as the table grows, and that it does not allocate.
//!
//! `cargo bench --bench route --no-default-features`

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{Request, Uri};
use portcullis::{
    config::{Conflicts, HeaderMatch, Host, Match, Route, Rule},
    route::{RouteTable, path},
};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn rule(matching: Match) -> Rule {
    Rule { matches: vec![matching], ..Rule::default() }
}

/// One host with a rule for each of `n` services, as in a large Ingress.
fn one_host(n: usize) -> Vec<Route> {
    let hosts = vec![Host::Exact("shop.example.com".into())];
    let rules = (0..n).map(|i| rule(Match::prefix(format!("/service-{i}/api")))).collect();
    vec![Route { hosts, rules, ..Route::named("shop") }]
}

/// One host, all of its prefixes eight elements deep.
fn deep(n: usize) -> Vec<Route> {
    let hosts = vec![Host::Exact("shop.example.com".into())];
    let rules = (0..n).map(|i| rule(Match::prefix(format!("/a/b/c/d/e/f/g/{i}")))).collect();
    vec![Route { hosts, rules, ..Route::named("deep") }]
}

/// A host for each rule, every tenth a wildcard.
fn many_hosts(n: usize) -> Vec<Route> {
    let host = |i| match i % 10 {
        0 => Host::Wildcard(format!("tenant-{i}.example.com")),
        _ => Host::Exact(format!("tenant-{i}.example.com")),
    };
    let route =
        |i| Route { hosts: vec![host(i)], rules: vec![rule(Match::prefix("/"))], ..Route::named(format!("{i}")) };
    (0..n).map(route).collect()
}

/// One host whose rules each have a canary beside them.
fn canaries(n: usize) -> Vec<Route> {
    let canary = |i| Match {
        headers: HeaderMatch::exact("x-canary", "1").into_iter().collect(),
        ..Match::prefix(format!("/service-{i}/api"))
    };
    let mut routes = one_host(n / 2);
    routes[0].rules.extend((0..n / 2).map(|i| rule(canary(i))));
    routes
}

fn compile(routes: &[Route]) -> RouteTable<usize> {
    RouteTable::compile(routes, Conflicts::Refuse, |_, rule| rule).expect("the routes are sound")
}

fn get(host: &str, path: &str) -> Request<()> {
    Request::get(path).header("host", host).header("x-canary", "1").body(()).expect("a request")
}

fn lookups(criterion: &mut Criterion) {
    let shop = |path: &str| get("shop.example.com", path);
    for n in SIZES {
        let last = n - 1;
        let near = n / 2 - 1;
        for (name, routes, request, fits) in [
            ("hit", one_host(n), shop(&format!("/service-{near}/api/v1/things")), true),
            ("miss", one_host(n), shop("/service-x/api/v1/things"), false),
            ("other host", one_host(n), get("other.example.com", "/service-1/api"), false),
            ("deep prefix", deep(n), shop(&format!("/a/b/c/d/e/f/g/{near}/x/y")), true),
            ("many hosts", many_hosts(n), get(&format!("tenant-{last}.example.com"), "/"), true),
            ("wildcard host", many_hosts(n), get("a.tenant-0.example.com", "/"), true),
            ("canary header", canaries(n), shop(&format!("/service-{near}/api/v1")), true),
        ] {
            let table = compile(&routes);
            let allocations = allocation_counter::measure(|| {
                assert_eq!(black_box(table.lookup(&request)).is_some(), fits, "{name} {n}");
            });
            assert_eq!(allocations.count_total, 0, "{name} {n} allocates");
            criterion.benchmark_group(name).bench_function(BenchmarkId::from_parameter(n), |bencher| {
                bencher.iter(|| table.lookup(black_box(&request)))
            });
        }
    }
}

fn normal_forms(criterion: &mut Criterion) {
    for (name, path, allocations) in [
        ("normal", "/service-17/api/v1/things/0123456789", 0),
        ("escaped", "/caf%c3%a9/a%20b", 0),
        ("dots", "/a/../b", 1),
    ] {
        let count = allocation_counter::measure(|| drop(black_box(path::normalize(black_box(path))))).count_total;
        assert_eq!(count, allocations, "{name}");
        criterion
            .benchmark_group("normal form")
            .bench_function(name, |bencher| bencher.iter(|| path::normalize(black_box(path)).is_ok()));
    }
    let mut uri = Uri::from_static("http://shop.example.com/a/b?c");
    let count = allocation_counter::measure(|| assert_eq!(path::normalize_uri(black_box(&mut uri)), Ok(false)));
    assert_eq!(count.count_total, 0, "a URI that is normal already");
}

fn compiling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile 10,000");
    group.sample_size(10);
    for (name, routes) in [("one host", one_host(10_000)), ("many hosts", many_hosts(10_000))] {
        group.bench_function(name, |bencher| bencher.iter(|| compile(black_box(&routes))));
    }
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short(); targets = lookups, normal_forms, compiling }
criterion_main!(benches);
