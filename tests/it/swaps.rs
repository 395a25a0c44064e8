//! Table swaps under load: not one request is lost.

use crate::support::{
    Echo, Ingress, RELOAD, eventually, get,
    load::Load,
    manifest::{Path, Rule, everything_to, ingress},
};

/// How many swaps the process is put through; each is confirmed before the next.
const RELOADS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_request() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let table = |round: usize| {
        // Each table knows one path that no other does, by which the swap is confirmed.
        let path = format!("/round-{round}");
        let mark = ingress("mark").rule(Rule("mark.example", &[Path("Exact", &path, "app", "80")])).yaml();
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

// LEAD: the thousand swaps go here, in this process and through the library's own door:
//   1. build a `Gateway` from `table(0)`, serve it on 127.0.0.1:0 by `Server`;
//   2. `let load = Load::start(addr, 8);`
//   3. a thousand times: compile `table(round)` and swap it in, `load.go_on(1).await` between swaps;
//   4. `load.all_succeeded().await`, and assert that both backends were asked.
// `reloads_under_load_fail_no_request` above is the same through files and signals.
