use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{Body, Error, Outcome, exchange::Exchange};

async fn answered(request: Request<Body>, answer: Result<Response<Body>, Error>) -> Response<Body> {
    let mut answer = Some(answer);
    let service = RespondLayer::new().layer(service_fn(move |_: Request<Body>| ready(answer.take().unwrap())));
    service.oneshot(request).await.unwrap()
}

fn get() -> Request<Body> {
    Request::new(Body::empty())
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn an_error_is_answered_without_its_cause_which_goes_to_the_exchange() {
    let exchange = Exchange::begin();
    let mut request = get();
    request.extensions_mut().insert(exchange.clone());
    let error = Error::new(Outcome::ConnectFailed).with_source(io::Error::other("10.1.2.3:80 refused"));
    let response = answered(request, Err(error)).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.extensions().get(), Some(&Outcome::ConnectFailed));
    assert_eq!(field(response.headers(), "content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(
        field(response.headers(), "proxy-status"),
        Some(r#"portcullis; error=connection_refused; details="connect_failed""#)
    );
    assert!(!format!("{response:?}").contains("10.1.2.3"));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "the upstream cannot be connected to\n");

    let record = exchange.record();
    assert_eq!(record.outcome, Some(Outcome::ConnectFailed));
    assert_eq!(record.detail.as_deref(), Some("connect_failed: 10.1.2.3:80 refused"));
}

#[tokio::test]
async fn an_error_is_answered_to_grpc_as_grpc() {
    let request = Request::post("/").header("content-type", "application/grpc+proto").body(Body::empty()).unwrap();
    let response = answered(request, Err(Error::new(Outcome::UpstreamTimeout))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(field(response.headers(), "grpc-status"), Some("4"));
    let expected = r#"portcullis; error=http_response_timeout; details="upstream_timeout""#;
    assert_eq!(field(response.headers(), "proxy-status"), Some(expected));
}

#[tokio::test]
async fn an_error_tells_when_to_come_again_rounded_up() {
    for (millis, seconds) in [(1, "1"), (1_000, "1"), (1_001, "2")] {
        let error = Error::new(Outcome::BreakerOpen).with_retry_after(Duration::from_micros(millis * 1_000 - 1));
        let response = answered(get(), Err(error)).await;
        assert_eq!(field(response.headers(), "retry-after"), Some(seconds));
        assert_eq!(field(response.headers(), "grpc-retry-pushback-ms"), None);

        let error = Error::new(Outcome::BreakerOpen).with_retry_after(Duration::from_micros(millis * 1_000 - 1));
        let request = Request::post("/").header("content-type", "application/grpc").body(Body::empty()).unwrap();
        let response = answered(request, Err(error)).await;
        assert_eq!(field(response.headers(), "retry-after"), None);
        assert_eq!(field(response.headers(), "grpc-retry-pushback-ms"), Some(&*millis.to_string()));
    }
    let error = Error::new(Outcome::BreakerOpen).with_retry_after(Duration::MAX);
    let response = answered(get(), Err(error)).await;
    assert_eq!(field(response.headers(), "retry-after"), Some("18446744073709551615"));
}

#[tokio::test]
async fn a_refusal_from_inside_gets_proxy_status_and_is_recorded() {
    let exchange = Exchange::begin();
    let mut request = get();
    request.extensions_mut().insert(exchange.clone());
    let service = RespondLayer::new()
        .name("edge 1")
        .layer(service_fn(async |request: Request<Body>| Ok::<_, Error>(refusal(Outcome::NoRoute, request.headers()))));
    let response = service.oneshot(request).await.unwrap();
    let expected = r#""edge 1"; error=destination_not_found; details="no_route""#;
    assert_eq!(field(response.headers(), "proxy-status"), Some(expected));
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(exchange.record().outcome, Some(Outcome::NoRoute));
}

#[tokio::test]
async fn an_upstreams_response_is_left_alone() {
    let upstream = Response::builder().status(503).header("proxy-status", "cdn; error=dns_error");
    let response = answered(get(), Ok(upstream.body(Body::from("theirs")).unwrap())).await;
    assert_eq!(field(response.headers(), "proxy-status"), Some("cdn; error=dns_error"));
    assert_eq!((response.status(), response.headers().len()), (StatusCode::SERVICE_UNAVAILABLE, 1));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "theirs");
}

#[tokio::test]
async fn only_the_instance_nearest_to_the_cause_speaks() {
    let inner = RespondLayer::new().name("inner").layer(service_fn(async |_: Request<Body>| {
        Err::<Response<Full<bytes::Bytes>>, _>(Error::new(Outcome::Overloaded))
    }));
    let service = RespondLayer::new().layer(inner.map_err(|never: Infallible| -> Error { match never {} }));
    let response = service.oneshot(get()).await.unwrap();
    let all: Vec<_> = response.headers().get_all("proxy-status").iter().collect();
    assert_eq!(all, [r#"inner; error=connection_limit_reached; details="overloaded""#]);
}

#[tokio::test]
async fn a_service_that_is_never_ready_is_answered_for() {
    #[derive(Clone)]
    struct Broken;
    impl Service<Request<Body>> for Broken {
        type Response = Response<Body>;
        type Error = Error;
        type Future = Ready<Result<Response<Body>, Error>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            Poll::Ready(Err(Error::new(Outcome::NoEndpoint)))
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            unreachable!("was not ready")
        }
    }
    let mut service = RespondLayer::new().layer(Broken);
    for _ in 0..2 {
        let response = service.ready().await.unwrap().call(get()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
