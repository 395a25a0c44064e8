use http::{Method, StatusCode};

use super::*;
use crate::{
    Outcome,
    config::Rollout,
    exchange::Record,
    split::{
        RolloutHandle,
        rollout::{Phase, Reason},
    },
    telemetry::{OpenStream, TelemetryLayer},
};

fn finished(route: &str, upstream: &str, outcome: Outcome, status: Option<u16>) -> Finished {
    let named = |name: &str| (!name.is_empty()).then(|| Arc::from(name));
    Finished {
        outcome,
        status: status.map(|status| StatusCode::from_u16(status).unwrap()),
        grpc_status: None,
        method: (&Method::GET).into(),
        response_bytes: 1000,
        duration: Duration::from_millis(30),
        record: Record {
            route: named(route),
            upstream: named(upstream),
            attempts: 3,
            request_bytes: 10,
            ..Record::default()
        },
        request: None,
    }
}

fn four_requests() -> Metrics {
    let metrics = Metrics::with_buckets([Duration::from_secs(1), Duration::from_millis(30)]);
    for _ in 0..5 {
        metrics.begun();
    }
    metrics.finished(&finished("default/shop", "cart", Outcome::Completed, Some(200)));
    let mut slow = finished("default/shop", "cart", Outcome::UpstreamTimeout, Some(504));
    slow.duration = Duration::from_secs(2);
    slow.method = (&Method::from_bytes(b"BREW").unwrap()).into();
    metrics.finished(&slow);
    let mut canary = finished("default/shop", "cart", Outcome::Completed, Some(200));
    canary.record.cohort = Some("v2".into());
    metrics.finished(&canary);
    let mut nowhere = finished("", "", Outcome::Cancelled, None);
    nowhere.record.attempts = 0;
    metrics.finished(&nowhere);
    metrics
}

#[test]
fn the_exposition_is_as_documented() {
    let metrics = four_requests();
    metrics.upstreams(|| {
        let stats = UpstreamStats { upstream: "cart".into(), endpoints: 3, ..UpstreamStats::default() };
        let breaker = breaker::Stats { state: breaker::State::HalfOpen, opened: 2, refused: 5 };
        let stats = UpstreamStats { ejections: 3, breaker: Some(breaker), ..stats };
        let stats = UpstreamStats { endpoint_breakers: true, endpoint_breakers_opened: 4, ..stats };
        vec![UpstreamStats { endpoints_available: 2, connections_idle: 7, pending_requests: 1, ..stats }]
    });
    metrics.upstreams(|| {
        vec![UpstreamStats {
            upstream: "cart".into(),
            endpoint_breakers_open: 1,
            connections_active: 4,
            ..UpstreamStats::default()
        }]
    });
    metrics.rollouts(|| vec![rollout("default/shop", 1, Phase::RolledBack(Reason::Errors), 0)]);
    metrics.rollouts(|| {
        let held = RolloutStatus { held: true, ..rollout("a", 0, Phase::Step(1), 25) };
        vec![rollout("default/shop", 0, Phase::Promoted, 100), held, rollout("a", 1, Phase::Step(0), 1)]
    });
    assert_eq!(metrics.encode(), include_str!("golden.openmetrics.txt"));
    assert_eq!(metrics.encode_prometheus(), include_str!("golden.prometheus.txt"));
}

fn rollout(route: &str, rule: usize, phase: Phase, share: u8) -> RolloutStatus {
    let handle = RolloutHandle::new(route, rule, Rollout::of("v2")).unwrap();
    RolloutStatus { phase, share, ..handle.status() }
}

/// Two samples of one series would make the whole text invalid: routes of two gateways may have one name.
#[test]
fn of_two_rollouts_with_the_same_labels_the_one_of_greater_concern_is_shown() {
    let (good, bad) = (rollout("a", 0, Phase::Promoted, 100), rollout("a", 0, Phase::RolledBack(Reason::Latency), 0));
    let (early, late) = (rollout("a", 0, Phase::Step(0), 1), rollout("a", 0, Phase::Step(2), 25));
    let held = RolloutStatus { held: true, ..late.clone() };
    for (one, other, state, share) in [
        (good.clone(), bad, "rolled_back", "0.0"),
        (good, early.clone(), "progressing", "0.01"),
        (early.clone(), late, "progressing", "0.01"),
        (held, early, "held", "0.25"),
    ] {
        for both in [[one.clone(), other.clone()], [other, one]] {
            let metrics = Metrics::new();
            metrics.rollouts(move || both.to_vec());
            let text = metrics.encode();
            let shown: Vec<_> = text.lines().filter(|line| line.starts_with("portcullis_rollout_share")).collect();
            assert_eq!(shown, [format!(r#"portcullis_rollout_share_ratio{{route="a",rule="0",canary="v2"}} {share}"#)]);
            let shown =
                text.lines().filter(|line| line.starts_with("portcullis_rollout_state") && line.ends_with(" 1"));
            let states: Vec<_> = shown.filter_map(|line| line.split('"').nth(7)).collect();
            assert_eq!(states, [state]);
        }
    }
}

fn stream(metrics: &Metrics, route: &str, upstream: &str) -> OpenStream {
    let named = |name: &str| (!name.is_empty()).then(|| Arc::from(name));
    let mut facts = StreamFacts::new([192, 0, 2, 7].into());
    (facts.route, facts.upstream) = (named(route), named(upstream));
    TelemetryLayer::new().recorder(metrics.clone()).stream(facts)
}

#[tokio::test(start_paused = true)]
async fn the_exposition_of_streams_is_as_documented() {
    let metrics = Metrics::new();
    let mut open = stream(&metrics, "default/db", "postgres");
    open.copied(3, 0);
    open.copied(3, 1000);
    let mut done = stream(&metrics, "default/db", "postgres");
    tokio::time::advance(Duration::from_secs(90)).await;
    done.copied(20, 500);
    done.end(Outcome::Completed, None);
    stream(&metrics, "default/db", "postgres").end(Outcome::ConnectFailed, None);
    stream(&metrics, "", "").end(Outcome::NoRoute, None);
    drop(stream(&metrics, "default/db", "postgres"));
    let text = metrics.encode();
    let streams = text.split_once("portcullis_requests_in_flight 0\n").unwrap().1;
    assert_eq!(streams, include_str!("golden.streams.txt"));
    assert!(metrics.encode_prometheus().contains(
        "# HELP portcullis_stream_received_bytes_total Bytes received from clients and passed on\n\
             # TYPE portcullis_stream_received_bytes_total counter\n"
    ));
    drop(open);
}

/// Else what is counted between the one look and the other would be lost.
#[test]
fn a_route_that_stays_keeps_its_place_when_its_backend_is_another() {
    let metrics = Metrics::new();
    for (route, upstream) in [("shop", "v1"), ("gone", "v1")] {
        metrics.finished(&finished(route, upstream, Outcome::Completed, Some(200)));
    }
    metrics.retain(|route, upstream, _| route == "shop" && matches!(upstream, "" | "v2"));
    let routes: Vec<_> = metrics.0.core.routes.sorted().into_iter().map(|(route, _)| route).collect();
    assert_eq!(routes.iter().map(|route| &**route).collect::<Vec<_>>(), ["shop"]);
    assert!(!metrics.encode().contains("v1"));
}

#[test]
fn streams_that_are_open_keep_their_series() {
    let metrics = Metrics::new();
    let open = stream(&metrics, "default/db", "postgres");
    drop(stream(&metrics, "default/mq", "rabbit"));
    let kept = stream(&metrics, "default/smtp", "mail");
    kept.end(Outcome::Completed, None);
    let forget = || metrics.retain(|route, _, cohort| route == "default/smtp" && cohort.is_empty());
    forget();
    let text = metrics.encode();
    assert!(text.contains(r#"portcullis_streams_open{route="default/db",upstream="postgres"} 1"#), "{text}");
    assert!(text.contains("default/smtp") && !text.contains("default/mq"), "{text}");
    drop(open);
    let text = metrics.encode();
    assert!(text.contains(r#"portcullis_streams_open{route="default/db",upstream="postgres"} 0"#), "{text}");
    forget();
    let text = metrics.encode();
    assert!(text.contains("default/smtp") && !text.contains("default/db"), "{text}");
}

#[test]
fn labels_are_escaped() {
    let metrics = Metrics::new();
    metrics.finished(&finished("a\"b\\c\nd # {", "x", Outcome::Completed, Some(200)));
    let line = r##"portcullis_request_bytes_total{route="a\"b\\c\nd # {",upstream="x"} 10"##;
    assert!(metrics.encode().lines().any(|other| other == line));
    assert!(metrics.encode_prometheus().lines().any(|other| other == line), "taken for an exemplar");
}

#[test]
fn applications_add_their_own() {
    use prometheus_client::metrics::{counter::Counter, info::Info};
    let metrics = Metrics::new();
    let counter = Counter::<u64>::default();
    metrics.register(|registry| {
        registry.register("orders", "Orders taken", counter.clone());
        registry.register("build", "About this build", Info::new([("version", "1")]));
    });
    counter.inc();
    assert!(metrics.encode().ends_with(
        "# HELP orders Orders taken.\n# TYPE orders counter\norders_total 1\n\
         # HELP build About this build.\n# TYPE build info\nbuild_info{version=\"1\"} 1\n# EOF\n"
    ));
    assert!(metrics.encode_prometheus().ends_with(
        "# HELP orders_total Orders taken.\n# TYPE orders_total counter\norders_total 1\n\
         # HELP build_info About this build.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n"
    ));
}

#[test]
fn exemplars_are_not_in_the_older_format() {
    assert_eq!(text::prometheus("a_total{x=\"#\\\"#\"} 1 # {id=\"7\"} 1.0\n# EOF\n"), "a_total{x=\"#\\\"#\"} 1\n");
}

#[test]
fn what_is_not_retained_is_gone_and_comes_back_from_zero() {
    let metrics = four_requests();
    metrics.retain(|route, upstream, _| (route, upstream) != ("default/shop", "cart"));
    assert!(!metrics.encode().contains("default/shop"));
    assert!(metrics.encode().contains("outcome=\"cancelled\""));
    metrics.finished(&finished("default/shop", "cart", Outcome::Completed, Some(200)));
    assert!(
        metrics.encode().contains("portcullis_upstream_attempts_total{route=\"default/shop\",upstream=\"cart\"} 3")
    );
}

#[test]
fn a_cohort_that_is_gone_is_dropped_alone() {
    let metrics = four_requests();
    metrics.retain(|_, _, cohort| cohort != "v2");
    let text = metrics.encode();
    assert!(!text.contains("cohort"), "{text}");
    assert!(text.contains("portcullis_upstream_attempts_total{route=\"default/shop\",upstream=\"cart\"} 6"), "{text}");
}

#[test]
fn statuses_fall_into_their_class() {
    let metrics = Metrics::new();
    for status in [101, 204, 304, 499, 500, 999] {
        metrics.finished(&finished("", "", Outcome::Completed, Some(status)));
    }
    let text = metrics.encode();
    for (code, count) in [("1xx", 1), ("2xx", 1), ("3xx", 1), ("4xx", 1), ("5xx", 2)] {
        assert!(text.contains(&format!("code=\"{code}\",outcome=\"completed\"}} {count}\n")), "{code} in {text}");
    }
}

#[test]
fn no_request_is_lost_between_threads() {
    let metrics = Metrics::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let metrics = &metrics;
            scope.spawn(move || {
                for request in 0..500 {
                    metrics.begun();
                    let route = format!("r{}", (request + thread) % 50);
                    let outcome = if request % 2 == 0 { Outcome::Completed } else { Outcome::NoEndpoint };
                    metrics.finished(&finished(&route, "u", outcome, Some(200)));
                }
            });
        }
    });
    let text = metrics.encode();
    let total: u64 = text
        .lines()
        .filter(|line| line.starts_with("portcullis_requests_total"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(total, 2000);
    assert!(text.contains("portcullis_requests_in_flight 0\n"));
}
