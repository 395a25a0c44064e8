use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::Body;

async fn ask(admin: &Admin, method: Method, path: &str) -> Response<Body> {
    admin.clone().oneshot(Request::builder().method(method).uri(path).body(()).unwrap()).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn readiness_is_told_as_it_changes() {
    let readiness = Readiness::new();
    let admin = Admin::new().readiness(&readiness);
    for (status, body) in [(503, "starting\n"), (200, "ready\n"), (503, "draining\n")] {
        let response = ask(&admin, Method::GET, "/ready").await;
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(text(response).await, body);
        if readiness.is_ready() { readiness.set_draining() } else { readiness.set_ready() }
    }
    assert_eq!(text(ask(&admin, Method::GET, "/live").await).await, "live\n");
}

#[tokio::test]
async fn the_index_lists_what_there_is() {
    let admin = Admin::new().page("routes", "the table", || Page::json("[]"));
    let response = ask(&admin, Method::GET, "/").await;
    assert_eq!(header(&response, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(text(response).await, "/live    answers while the process can\n/routes  the table\n");
    assert_eq!(ask(&admin, Method::GET, "/ready").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn head_has_the_fields_of_get_and_no_body() {
    let admin = Admin::new();
    let get = ask(&admin, Method::GET, "/live?x").await;
    let head = ask(&admin, Method::HEAD, "/live").await;
    assert_eq!((head.status(), head.headers()), (get.status(), get.headers()));
    assert_eq!((header(&head, "content-length"), header(&head, "cache-control")), ("5", "no-store"));
    assert_eq!(text(head).await, "");
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let admin = Admin::new();
    let response = ask(&admin, Method::POST, "/live").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(header(&response, "allow"), "GET, HEAD");
    for path in ["/liv", "/live/", "/metrics"] {
        assert_eq!(ask(&admin, Method::POST, path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_later_page_replaces_an_earlier_one_and_is_made_anew_each_time() {
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let admin = Admin::new()
        .page("/x", "old", || Page::text("old"))
        .page("/x", "new", move || Page::text(calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string()));
    assert_eq!(text(ask(&admin, Method::GET, "/x").await).await, "0");
    assert_eq!(text(ask(&admin, Method::GET, "/x").await).await, "1");
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn metrics_are_open_metrics_only_to_who_asks() {
    let admin = Admin::new().metrics(&crate::telemetry::metrics::Metrics::new());
    let plain = ask(&admin, Method::GET, "/metrics").await;
    assert_eq!(header(&plain, "content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(text(plain).await.ends_with("portcullis_requests_in_flight 0\n"));

    let request = Request::get("/metrics").header("accept", "application/openmetrics-text").body(()).unwrap();
    let open = admin.oneshot(request).await.unwrap();
    assert_eq!(header(&open, "content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text(open).await.ends_with("# EOF\n"));
}
