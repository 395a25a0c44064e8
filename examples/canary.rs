//! A canary with a guard: one that is promoted, then one that is taken back.
//!
//! `cargo run --example canary` needs nothing else and ends by itself, after some ten seconds: with 0 if both rollouts ended
//! as they should. The shop runs v1. First v2 is rolled out, which is as good, and gets everything step by step. Then v3,
//! which passes the first step and breaks under the load of the second: it has lost its share again before many notice.
//!
//! Each second one line tells how both sides do; each change of the share is an event of the log.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use axum::{Router, http::StatusCode};
use http::{HeaderValue, Request};
use portcullis::{
    Body, BoxError,
    config::{BackendRef, Config, Match, Rollout, Route, Rule},
    gateway::Gateway,
    split::{
        RolloutHandle,
        rollout::{Phase, Reason, SideStatus},
    },
};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tower::ServiceExt;

/// Requests a second.
const LOAD: u32 = 200;

/// What v3 can take before it breaks: more than its first step is, much less than all.
const V3_BREAKS_AFTER: u32 = 60;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().without_time().with_env_filter("portcullis::rollout=info").init();

    println!("v2 is rolled out beside v1");
    let gateway = Gateway::builder(shop("v1", "v2")).local("v1", good()).local("v2", good());
    let gateway = gateway.local("v3", breaks_after(V3_BREAKS_AFTER)).build()?;
    let load = tokio::spawn(load(gateway.clone()));
    let first = watch(&gateway).await?;
    println!("v2: {first}\n\nv3 is rolled out beside v2");
    gateway.apply(shop("v2", "v3"))?;
    let second = watch(&gateway).await?;
    println!("v3: {second}");

    load.abort();
    match (first, second) {
        (Phase::Promoted, Phase::RolledBack(Reason::Errors)) => Ok(()),
        _ => Err("v2 should have been promoted, and v3 rolled back for its errors".into()),
    }
}

/// The shop with two versions of it. In production a step would last for minutes, and begin with one percent.
fn shop(stable: &str, canary: &str) -> Config {
    let rollout = Rollout {
        steps: vec![10, 25, 50],
        interval: Duration::from_secs(2),
        // Points above the stable one's rate of errors, and percent of its 95th percentile: generous, for a busy machine.
        max_error_rate: 2,
        max_latency: 300,
        ..Rollout::of(canary)
    };
    let rule = Rule {
        matches: vec![Match::prefix("/")],
        backends: vec![BackendRef::new(stable), BackendRef::new(canary)],
        rollout: Some(rollout),
        ..Rule::default()
    };
    Config { routes: vec![Route { rules: vec![rule], ..Route::named("shop") }], ..Config::default() }
}

/// A version that takes its time, and is well.
fn good() -> Router {
    Router::new().fallback(|| async {
        sleep(Duration::from_millis(fastrand::u64(5..15))).await;
        "sold\n"
    })
}

/// A version that answers so many requests, and then no more than every other one.
fn breaks_after(requests: u32) -> Router {
    static SERVED: AtomicU32 = AtomicU32::new(0);
    Router::new().fallback(move || async move {
        sleep(Duration::from_millis(fastrand::u64(5..15))).await;
        let served = SERVED.fetch_add(1, Relaxed);
        let broken = served > requests && served.is_multiple_of(2);
        if broken { (StatusCode::INTERNAL_SERVER_ERROR, "no connection left\n") } else { (StatusCode::OK, "sold\n") }
    })
}

/// Steady requests, whatever becomes of those before.
async fn load(gateway: Gateway) {
    let mut beat = interval(Duration::from_secs(1) / LOAD);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let mut request = Request::new(Body::empty());
            request.headers_mut().insert("host", HeaderValue::from_static("shop.example.com"));
            // Answers count when they have been read to their end.
            let Ok(response) = gateway.oneshot(request).await;
            axum::body::to_bytes(axum::body::Body::new(response.into_body()), usize::MAX).await
        });
    }
}

/// Prints how the rollout goes, each second, until it is over.
async fn watch(gateway: &Gateway) -> Result<Phase, BoxError> {
    let (_, rollout): (_, RolloutHandle) = gateway.rollouts().pop().ok_or("there is no rollout")?;
    for tick in 1..=300 {
        sleep(Duration::from_millis(100)).await;
        let status = rollout.status();
        if !matches!(status.phase, Phase::Step(_)) {
            return Ok(status.phase);
        }
        if tick % 10 == 0 {
            let (phase, share) = (status.phase.to_string(), status.share);
            println!("{phase:8} {share:3} %   stable {}   canary {}", side(status.stable), side(status.canary));
        }
    }
    Err("the rollout came to no end in 30 s".into())
}

fn side(side: SideStatus) -> String {
    let p95 = side.p95.unwrap_or_default().as_secs_f64() * 1e3;
    format!("{:4} requests, {:4.1} % failed, p95 {p95:4.1} ms", side.requests, side.error_rate() * 100.0)
}
