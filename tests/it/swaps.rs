//! Table swaps under load: not one request is lost.

use std::net::SocketAddr;

use portcullis::{
    config::{self, BackendRef, Config, Endpoints, Match, Route, Rule},
    gateway::Gateway,
    server::Server,
};

use crate::support::{
    Echo, Ingress, RELOAD, eventually, get,
    load::Load,
    manifest::{Path, Rule as IngressRule, everything_to, ingress},
    soon,
};

/// How many swaps the process is put through; each is confirmed before the next.
const RELOADS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_request() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let table = |round: usize| {
        // Each table knows one path that no other does, by which the swap is confirmed.
        let path = format!("/round-{round}");
        let mark = ingress("mark").rule(IngressRule("mark.example", &[Path("Exact", &path, "app", "80")])).yaml();
        let endpoint = if round.is_multiple_of(2) { a.addr } else { b.addr };
        let named = "  - host: a.example\n    http:";
        mark + &everything_to(&[endpoint]).replace("  - http:", named)
    };
    let ingress = Ingress::start(&table(0)).await;
    let load = Load::start(ingress.http, 8);
    for round in 1..=RELOADS {
        ingress.replace("world.yaml", &table(round));
        ingress.sighup().await;
        let path = format!("/round-{round}");
        eventually(&format!("table {round}"), RELOAD, || async {
            let status = get(ingress.http, "mark.example", &path).await.status;
            if status == 200 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
    let answered = load.all_succeeded().await;
    assert!(answered > RELOADS, "{answered} requests during {RELOADS} swaps");
    assert!(a.seen() > 0 && b.seen() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_swaps_under_load_fail_no_request() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    // Endpoints come and go, rules come and go around the one that is asked, and now and then the whole upstream is new.
    let table = |round: usize| {
        let endpoints: &[SocketAddr] = match round % 3 {
            0 => &[a.addr],
            1 => &[b.addr],
            _ => &[a.addr, b.addr],
        };
        let rule = |path: &str| Rule {
            matches: vec![Match::prefix(path)],
            backends: vec![BackendRef::new("app")],
            ..Rule::default()
        };
        let mut rules = vec![rule("/")];
        rules.extend((0..round % 50).map(|other| rule(&format!("/other-{other}"))));
        Config {
            routes: vec![Route { hosts: vec!["a.example".parse().unwrap()], rules, ..Route::named("app") }],
            upstreams: vec![config::Upstream {
                max_attempts: if round.is_multiple_of(10) { 3 } else { 4 },
                ..config::Upstream::new("app", Endpoints::fixed(endpoints.iter().copied()))
            }],
            ..Config::default()
        }
    };
    let gateway = Gateway::builder(table(0)).build().unwrap();
    let server = Server::default().http("127.0.0.1:0").bind().unwrap();
    let (address, drain) = (server.local_addrs()[0], server.drain());
    let serving = tokio::spawn(server.serve(gateway.clone()));

    let load = Load::start(address, 8);
    for round in 1..=1000 {
        gateway.apply(table(round)).unwrap();
        load.go_on(1).await;
    }
    let answered = load.all_succeeded().await;
    assert!(answered >= 1000, "{answered}");
    assert!(a.seen() > 100 && b.seen() > 100, "{} and {}", a.seen(), b.seen());
    drain.begin();
    assert_eq!(soon("the server ends", serving).await.unwrap().cut, 0);
}
