//! Settings that cannot be by themselves: a source says at which line.

use super::*;
use crate::gateway::Gateway;

#[test]
fn numbers_and_names_that_cannot_be_are_told_by_line_and_by_code_in_the_same_words() {
    let mut wrong = Vec::new();
    for (setting, field, why) in [
        ("hedge: {least: 1ms, percentile: 101}", "hedge.percentile", "101 is not a percentile: use 0 to 100"),
        ("panic_threshold: 101", "panic_threshold", "101 is not a percentage: use 0 to 100"),
        (
            "circuit_breaker: {failure_rate: 101}",
            "circuit_breaker.failure_rate",
            "101 is not a percentage: use 0 to 100",
        ),
        (
            "endpoint_circuit_breaker: {failure_rate: 101}",
            "endpoint_circuit_breaker.failure_rate",
            "101 is not a percentage: use 0 to 100",
        ),
        (
            "circuit_breaker: {slow_call: 1s, slow_call_rate: 200}",
            "circuit_breaker.slow_call_rate",
            "200 is not a percentage: use 0 to 100",
        ),
        (
            "outlier_detection: {failure_percentage: 101}",
            "outlier_detection.failure_percentage",
            "101 is not a percentage: use 0 to 100",
        ),
        (
            "outlier_detection: {slow_call: 1s, slow_call_rate: 101}",
            "outlier_detection.slow_call_rate",
            "101 is not a percentage: use 0 to 100",
        ),
        (
            "outlier_detection: {max_ejection_percent: 101}",
            "outlier_detection.max_ejection_percent",
            "101 is not a percentage: use 0 to 100",
        ),
        (
            "outlier_detection: {success_rate_stdev_factor: -1.9}",
            "outlier_detection.success_rate_stdev_factor",
            "-1.9 is not a number of standard deviations: use 0 or more",
        ),
        (
            "adaptive_concurrency: {gradient: {min_limit: 20, max_limit: 10}}",
            "adaptive_concurrency.gradient.min_limit",
            "20 is more than `max_limit`, 10: lower it, or raise `max_limit`",
        ),
        (
            "adaptive_concurrency: {gradient: {interval: 0s}}",
            "adaptive_concurrency.gradient.interval",
            "must be more than zero",
        ),
        (
            "adaptive_concurrency: {gradient: {min_rtt_interval: 0s}}",
            "adaptive_concurrency.gradient.min_rtt_interval",
            "must be more than zero",
        ),
        (
            "adaptive_concurrency: {gradient: {fixed_min_rtt: 0ms}}",
            "adaptive_concurrency.gradient.fixed_min_rtt",
            "must be more than zero",
        ),
        (
            "adaptive_concurrency: {gradient: {jitter: 15}}",
            "adaptive_concurrency.gradient.jitter",
            "15 is not a share: use 0 to 1",
        ),
        (
            "adaptive_concurrency: {gradient: {buffer: -0.1}}",
            "adaptive_concurrency.gradient.buffer",
            "-0.1 is not a share: use 0 or more",
        ),
        (
            "adaptive_concurrency: {gradient: {percentile: 50}}",
            "adaptive_concurrency.gradient.percentile",
            "50 is not a share: use 0 to 1",
        ),
        (
            "adaptive_concurrency: {aimd: {max_limit: 2}}",
            "adaptive_concurrency.aimd.min_limit",
            "3 is more than `max_limit`, 2: lower it, or raise `max_limit`",
        ),
        ("adaptive_concurrency: {aimd: {latency: 0s}}", "adaptive_concurrency.aimd.latency", "must be more than zero"),
        (
            "adaptive_concurrency: {aimd: {backoff: 0.4}}",
            "adaptive_concurrency.aimd.backoff",
            "0.4 is not what a limit can be multiplied by: use 0.5 to 1",
        ),
        ("shed: {limit: 4, shares: {critical: 95}}", "shed.shares.critical", "95 is not a share: use 0 to 1"),
    ] {
        let text = format!("{UPSTREAM}  {setting}\n");
        let found = only_problem(&text);
        if found != (4, format!("upstreams[0].{field}"), why.to_owned()) {
            wrong.push(format!("{setting}\n  found {found:?}"));
        }
        let by_code = by_code(&text);
        if by_code != format!("upstream `u`, {field}: {why}") {
            wrong.push(format!("{setting}\n  by code {by_code}"));
        }
    }
    for (setting, part, field, why) in [
        ("retry: {statuses: [503, 99]}", "retry", "statuses[1]", "99 is not a status: use 100 to 599"),
        ("retry: {statuses: [600]}", "retry", "statuses[0]", "600 is not a status: use 100 to 599"),
        ("retry: {grpc: [14, 17]}", "retry", "grpc[1]", "17 is not a gRPC status: use 1 to 16"),
        ("retry: {grpc: [0]}", "retry", "grpc[0]", "0 is not a gRPC status: use 1 to 16"),
        (
            "filters: [{fault: {delay: {duration: 1s, percent: 100.5}}}]",
            "filter 0",
            "fault.delay.percent",
            "100.5 is not a percentage: use 0 to 100",
        ),
        (
            "filters: [{fault: {abort: {with: reset, percent: -1}}}]",
            "filter 0",
            "fault.abort.percent",
            "-1 is not a percentage: use 0 to 100",
        ),
        (
            "filters: [{fault: {abort: {with: {status: 199}}}}]",
            "filter 0",
            "fault.abort.with.status",
            "199 is not a status to fail with: use 200 to 599",
        ),
        (
            "filters: [{fault: {abort: {with: {grpc: 0}}}}]",
            "filter 0",
            "fault.abort.with.grpc",
            "0 is not a gRPC status to fail with: use 1 to 16",
        ),
        (
            "filters: [{priority: critical}, {rate_limit: {requests: 1, key: {header: x user}}}]",
            "filter 1",
            "rate_limit.key.header",
            "`x user` is not the name of a header field",
        ),
        ("filters: [{rate_limit: {requests: 0}}]", "filter 0", "rate_limit.requests", "must be 1 or more"),
        ("filters: [{rate_limit: {requests: 1, burst: 0}}]", "filter 0", "rate_limit.burst", "must be 1 or more"),
        ("filters: [{rate_limit: {requests: 1, per: 0s}}]", "filter 0", "rate_limit.per", "must be more than zero"),
    ] {
        let text = format!("{ROUTE}  - backends: [u]\n    {setting}\n{UPSTREAM}");
        let outer = part.strip_prefix("filter ").map_or_else(|| part.to_owned(), |index| format!("filters[{index}]"));
        let found = only_problem(&text);
        if found != (5, format!("routes[0].rules[0].{outer}.{field}"), why.to_owned()) {
            wrong.push(format!("{setting}\n  found {found:?}"));
        }
        let by_code = by_code(&text);
        if by_code != format!("route `r`, rule 0, {part}: {field}: {why}") {
            wrong.push(format!("{setting}\n  by code {by_code}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_backends_own_filters_are_looked_at_too() {
    let filters = "filters: [{fault: {abort: {with: reset, percent: 101}}}]";
    let text = format!("{ROUTE}  - backends:\n    - {{name: u, {filters}}}\n{UPSTREAM}");
    let field = "filters[0].fault.abort.percent";
    let why = "101 is not a percentage: use 0 to 100";
    assert_eq!(only_problem(&text), (5, format!("routes[0].rules[0].backends[0].{field}"), why.to_owned()));
    let text = format!("{UPSTREAM}services:\n- name: a/b\n  ports: [{{port: 1, backend: {{name: u, {filters}}}}}]\n");
    assert_eq!(only_problem(&text), (6, format!("services[0].ports[0].backend.{field}"), why.to_owned()));
}

/// Its line, its field and what is wrong.
fn only_problem(text: &str) -> (u32, String, String) {
    let error = parse("f.yaml", text).expect_err(text);
    let [problem] = error.problems() else { panic!("{error}") };
    (problem.place.line, problem.field.clone(), problem.fault.to_string())
}

/// What the gateway says of the same where no source has looked at it.
fn by_code(text: &str) -> String {
    let config = serde_saphyr::from_str::<Config>(text).unwrap();
    Gateway::builder(config).build().expect_err(text).to_string()
}
