//! What operators see: metrics, the access log, and `Proxy-Status`.

use crate::support::{
    Conn, Echo, Ingress, Raw, eventually, free_port, get,
    manifest::{Path, Rule, backend, everything_to, ingress, service},
};

#[tokio::test]
async fn metrics_count_requests_by_route_and_upstream() {
    let (shop, blog) = (Echo::start("shop").await, Echo::start("blog").await);
    let rule = Rule("", &[Path("Prefix", "/shop", "shop", "80"), Path("Prefix", "/blog", "blog", "80")]);
    let yaml = ingress("web").rule(rule).yaml() + &backend("shop", &[shop.addr]) + &backend("blog", &[blog.addr]);
    let ingress = Ingress::start(&yaml).await;
    for path in ["/shop", "/shop", "/shop", "/blog", "/nowhere"] {
        get(ingress.http, "a", path).await;
    }
    // A request is counted at the end of its answer, which its client may see a moment earlier.
    let text = eventually("the counts", crate::support::PATIENCE, || async {
        let response = get(ingress.admin, "admin", "/metrics").await;
        let text = response.text();
        let counted = |service: &str, count: &str| {
            text.lines().any(|line| {
                line.contains("requests") && line.contains(service) && line.contains("web") && line.ends_with(count)
            })
        };
        if response.status == 200 && counted("shop", " 3") && counted("blog", " 1") {
            Ok(text.clone())
        } else {
            Err(text)
        }
    })
    .await;
    assert!(text.contains("# TYPE"), "{text}");
    assert!(text.contains("no_route"), "the request that matched nothing is counted: {text}");
    assert_eq!(get(ingress.admin, "admin", "/nothing-here").await.status, 404);
}

#[tokio::test]
async fn metrics_have_the_content_type_scrapers_ask_for() {
    let ingress = Ingress::start(&everything_to(&[])).await;
    let response = get(ingress.admin, "admin", "/metrics").await;
    let kind = response.value("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/openmetrics-text") || kind.starts_with("text/plain"), "{}", response.head);
}

#[tokio::test]
async fn every_request_is_one_line_in_the_access_log() {
    let echo = Echo::start("app").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let from = ingress.stderr().len();
    let paths = ["/first-path", "/second-path", "/third-path"];
    for path in paths {
        get(ingress.http, "a.example", path).await;
    }
    for path in paths {
        let endpoint = echo.addr.to_string();
        let line = ingress.logged(from, &[path]).await;
        for word in [endpoint.as_str(), "completed", "200", "GET", "app"] {
            assert!(line.contains(word), "{word} in {line}");
        }
        let log = ingress.stderr().split_off(from);
        assert_eq!(log.lines().filter(|line| line.contains(path)).count(), 1, "{log}");
    }
}

#[tokio::test]
async fn a_log_line_cannot_be_forged() {
    let echo = Echo::start("app").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let from = ingress.stderr().len();
    get(ingress.http, "a.example", "/%20forged?%0aforged%0d%0aline%1b[31m").await;
    ingress.logged(from, &["forged"]).await;
    let log = ingress.stderr().split_off(from);
    assert!(!log.contains("\nforged") && !log.contains("\nline"), "{log}");
}

#[tokio::test]
async fn every_failure_has_a_status_an_outcome_and_a_proxy_status() {
    let truncated = Raw::answers("nonsense\r\n\r\n").await;
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let rule = Rule(
        "a.example",
        &[
            Path("Prefix", "/empty", "empty", "80"),
            Path("Prefix", "/missing", "missing", "80"),
            Path("Prefix", "/refused", "refused", "80"),
            Path("Prefix", "/nonsense", "nonsense", "80"),
        ],
    );
    let yaml = ingress("a").rule(rule).yaml()
        + &service("empty", &[("http", 80)])
        + &backend("refused", &[nobody])
        + &backend("nonsense", &[truncated.addr]);
    let ingress = Ingress::start(&yaml).await;
    for (path, status, error, outcome) in [
        ("/other", 404, "destination_not_found", "no_route"),
        ("/empty", 503, "destination_unavailable", "no_endpoint"),
        ("/missing", 500, "proxy_configuration_error", "invalid_backend"),
        ("/refused", 502, "connection_refused", "connect_failed"),
        ("/nonsense", 502, "http_protocol_error", "upstream_protocol"),
    ] {
        let from = ingress.stderr().len();
        let response = get(ingress.http, "a.example", path).await;
        assert_eq!(response.status, status, "{path}: {}", response.head);
        let proxy_status = response.value("proxy-status").unwrap_or_default();
        assert!(proxy_status.contains(&format!("error={error}")), "{path}: {proxy_status:?}");
        ingress.logged(from, &[path, outcome]).await;
    }
}

#[tokio::test]
async fn an_answer_of_the_backend_is_its_own() {
    let echo = Echo::start("app").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    for status in [404, 500, 502, 503, 504] {
        let response = get(ingress.http, "a", &format!("/status/{status}")).await;
        assert_eq!((response.status, response.value("x-backend")), (status, Some("app")));
        let proxy_status = response.value("proxy-status").unwrap_or_default();
        assert!(!proxy_status.contains("error="), "{}", response.head);
    }
}

#[tokio::test]
async fn a_client_that_went_away_is_logged_as_such() {
    let echo = Echo::start("app").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let from = ingress.stderr().len();
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    crate::support::until("the request arrives", crate::support::PATIENCE, || echo.seen() == 1).await;
    drop(conn);
    ingress.logged(from, &["/gate", "cancelled"]).await;
}
