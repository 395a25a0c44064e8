//! The router, alone and with axum.

use std::convert::Infallible;

use axum::{Router as App, body::Body as AxumBody, extract::Path, routing::get};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_test::mock;

use super::*;
use crate::{Body, Outcome, config::Match, exchange::Exchange};

/// Answers with its name and what it sees of the request.
#[derive(Clone)]
struct Echo(&'static str);

impl<B> Service<Request<B>> for Echo {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let route = request.extensions().get::<RouteMatch>().map(|m| format!("{} {}", m.route(), m.rule_index()));
        let text = format!("{}: {} by {}", self.0, request.uri(), route.unwrap_or_default());
        std::future::ready(Ok(Response::new(text)))
    }
}

fn shop() -> RouterBuilder<Echo> {
    Router::builder()
        .route("cart", ["shop.example"], Match::prefix("/cart"), Echo("cart"))
        .rule(Match { method: Some(Method::POST), ..Match::prefix("/cart") }, Echo("post"))
}

fn request(uri: &str) -> Request<()> {
    Request::get(uri).header("host", "shop.example").body(()).unwrap()
}

async fn text<B: http_body::Body<Error: std::fmt::Debug>>(response: Response<B>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn the_service_sees_the_normal_form_and_the_route() {
    let router = shop().build().unwrap();
    let answer = router.clone().oneshot(request("//x/%2e./%63art/%7E?a=/../b")).await.unwrap();
    assert_eq!(answer.into_body(), "cart: /cart/~?a=/../b by cart 0");
    let mut post = request("/cart");
    *post.method_mut() = Method::POST;
    assert_eq!(router.oneshot(post).await.unwrap().into_body(), "post: /cart by cart 1");
}

#[tokio::test]
async fn the_exchange_learns_the_route_and_why_a_path_is_refused() {
    for (path, route, detail) in [
        ("/cart", Some("cart"), None),
        ("/other", None, None),
        (
            "/..;/x",
            None,
            Some("the path is refused: it hides a `.` or `..` segment behind `%2f`, `%5c` or `;`, at byte 1"),
        ),
    ] {
        let exchange = Exchange::begin();
        let mut request = request(path);
        request.extensions_mut().insert(exchange.clone());
        shop().build().unwrap().oneshot(request).await.unwrap();
        assert_eq!(exchange.record().route.as_deref(), route);
        assert_eq!(exchange.record().detail.as_deref(), detail);
    }
}

#[tokio::test]
async fn what_has_no_route_is_answered_by_the_fallback_or_404() {
    let answer = shop().build().unwrap().oneshot(request("/other")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.extensions().get(), Some(&Outcome::NoRoute));

    let answer = shop().fallback(Echo("home")).build().unwrap().oneshot(request("/./other")).await.unwrap();
    assert_eq!(answer.into_body(), "home: /other by ");
}

#[tokio::test]
async fn a_path_without_a_normal_form_is_answered_400_whatever_the_fallback() {
    let router = shop().fallback(Echo("home")).build().unwrap();
    let answer = router.oneshot(request("/cart/..%2f..%2fadmin")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(answer.extensions().get(), Some(&Outcome::BadRequest));
}

#[tokio::test]
async fn grpc_is_answered_in_its_own_terms() {
    for (path, status) in [("/shop.Cart/Get", "12"), ("/%00", "13")] {
        for content_type in ["application/grpc", "application/grpc+proto"] {
            let mut request = request(path);
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
            let answer = shop().build().unwrap().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["grpc-status"], status);
            assert_eq!(answer.headers()["content-type"], "application/grpc");
            assert!(answer.extensions().get::<Outcome>().is_some());
        }
    }
}

#[tokio::test]
async fn a_service_that_is_not_ready_holds_up_its_own_requests_only() {
    let (busy, mut busy_handle) = mock::pair::<Request<()>, Response<String>>();
    let (idle, mut idle_handle) = mock::pair::<Request<()>, Response<String>>();
    busy_handle.allow(0);
    let mut router = Router::builder()
        .route("busy", ["*"], Match::prefix("/busy"), busy)
        .route("idle", ["*"], Match::prefix("/idle"), idle)
        .build()
        .unwrap();
    let mut ready = tokio_test::task::spawn(());
    assert_ready_ok!(ready.enter(|cx, _| Service::<Request<()>>::poll_ready(&mut router, cx)));
    let mut waiting = tokio_test::task::spawn(router.call(request("/busy")));
    assert_pending!(waiting.poll());
    let mut answered = tokio_test::task::spawn(router.call(request("/idle")));
    assert_pending!(answered.poll());
    let (_, respond) = idle_handle.next_request().await.unwrap();
    respond.send_response(Response::new("idle".into()));
    assert_eq!(assert_ready_ok!(answered.poll()).into_body(), "idle");
    assert_pending!(waiting.poll());

    busy_handle.allow(1);
    assert!(waiting.is_woken());
    assert_pending!(waiting.poll());
    let (_, respond) = busy_handle.next_request().await.unwrap();
    respond.send_response(Response::new("busy".into()));
    assert_eq!(assert_ready_ok!(waiting.poll()).into_body(), "busy");
}

#[tokio::test]
async fn a_services_own_error_is_the_routers() {
    let failing = service_fn(|_: Request<()>| async { Err::<Response<String>, _>("broken") });
    let router = Router::builder().route("r", ["*"], [], failing).build().unwrap();
    assert_eq!(router.oneshot(request("/")).await.unwrap_err(), "broken");
}

#[tokio::test]
async fn an_explanation_is_of_the_normal_form() {
    let router = shop().build().unwrap();
    let explanation = router.explain(&request("/x/../cart")).unwrap();
    assert_eq!(explanation.winner().unwrap().target().0, "cart");
    assert_eq!(router.explain(&request("/%00")).unwrap_err().reason(), path::Refusal::ControlCharacter);
}

#[test]
fn mistakes_are_told_when_the_router_is_built() {
    let route = |host: &'static str, path: &str| Router::builder().route("r", [host], Match::prefix(path), Echo("r"));
    let error = |builder: RouterBuilder<Echo>| builder.build().unwrap_err().to_string();
    assert!(error(route("a b", "/")).starts_with("route `r`: `a b` is not a host"));
    assert!(error(route("*", "x")).starts_with("route `r`, rules[0].matches[0]: no request has the path `x`"));
    assert!(error(route("*", "/x").rule(Match::prefix("/x/"), Echo("s"))).contains("asks the same as"));
    assert_eq!(error(Router::builder().rule([], Echo("r"))), "a rule belongs to a route: call `route` before `rule`");
}

// --- with axum, either way round ---

fn app() -> App {
    App::new()
        .route("/cart/{id}", get(async |Path(id): Path<String>| format!("cart {id}")))
        .route("/hello", get(async || "hello"))
}

fn axum_request(uri: &str) -> Request<AxumBody> {
    request(uri).map(|()| AxumBody::empty())
}

#[tokio::test]
async fn axum_inside() {
    let typed = Router::builder().route("app", ["shop.example"], Match::prefix("/cart"), app()).build().unwrap();
    let answer = typed.clone().oneshot(axum_request("/cart/%37")).await.unwrap();
    assert_eq!(text(answer).await, "cart 7");
    assert_eq!(typed.oneshot(axum_request("/hello")).await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn axum_and_others_inside_behind_layers() {
    let own = service_fn(async |request: Request<Body>| {
        Ok(Response::new(format!("own {}", request.extensions().get::<RouteMatch>().unwrap().route())))
    });
    let limited = ServiceBuilder::new().concurrency_limit(1).service(own);
    let router = Router::builder()
        .route("app", ["*"], Match::prefix("/cart"), Target::new(app()))
        .route("own", ["*"], Match::prefix("/own"), Target::new(limited))
        .build()
        .unwrap();
    for (path, expected) in [("/cart/7", "cart 7"), ("/own/x", "own own")] {
        let request = request(path).map(|()| Body::empty());
        assert_eq!(text(router.clone().oneshot(request).await.unwrap()).await, expected);
    }
}

#[tokio::test]
async fn inside_axum() {
    let home = service_fn(async |_: Request<AxumBody>| Ok(Response::new(Body::from("home"))));
    let router = Router::builder()
        .route("cart", ["shop.example"], Match::prefix("/cart"), Target::new(Echo("cart")))
        .route("deep", ["*"], Match::prefix("/deep"), Target::new(app()))
        .fallback(Target::new(home))
        .build()
        .unwrap();
    let outer = App::new()
        .route("/hello", get(async || "hello"))
        .nest_service("/nested", router.clone())
        .route_service("/cart/one", router.clone())
        .fallback_service(router);
    for (path, expected) in [
        ("/hello", "hello"),
        ("/cart/one", "cart: /cart/one by cart 0"),
        ("/cart/two?q", "cart: /cart/two?q by cart 0"),
        ("/nested/cart/./x", "cart: /cart/x by cart 0"),
        ("/nested/other", "home"),
        ("/other", "home"),
    ] {
        assert_eq!(text(outer.clone().oneshot(axum_request(path)).await.unwrap()).await, expected, "{path}");
    }
    let refused = outer.oneshot(axum_request("/cart/..;/x")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(refused.extensions().get(), Some(&Outcome::BadRequest));
}

#[test]
fn a_router_of_anything_can_be_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Router<Target<Body, crate::Error>>>();
    shared::<Router<App>>();
}
