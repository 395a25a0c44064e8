//! How hyper's servers end the bodies of complete and of broken answers.

use hyper::service::service_fn as hyper_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// What was kept of one request to `path`, over a connection in memory, and whether the client had a complete answer.
async fn served(http2: bool, method: Method, path: &str) -> (Finished, bool) {
    let kept = Kept::default();
    let service = TelemetryLayer::new().recorder(kept.clone()).around(service_fn(answer));
    let service = hyper_fn(move |request| service.clone().oneshot(request));
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (client, server) = (TokioIo::new(client), TokioIo::new(server));
    let serving = tokio::spawn(async move {
        let _ = if http2 {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(server, service).await
        } else {
            hyper::server::conn::http1::Builder::new().serve_connection(server, service).await
        };
    });
    let request = Request::builder().method(method).uri(format!("http://x{path}")).body(Body::from("ask")).unwrap();
    let response = if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), client).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(client).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let complete = match response {
        Ok(response) => response.into_body().collect().await.is_ok(),
        Err(_) => false,
    };
    // The sender is gone, so both connections end, and with them all that they held.
    serving.await.unwrap();
    (kept.one(), complete)
}

async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let _ = request.into_body().collect().await;
    let frames = || vec![data("ab"), data("cd")];
    Ok(match path.as_str() {
        "/unknown-length" => Response::new(stream(frames())),
        "/declared-length" => Response::builder().header("content-length", "4").body(stream(frames())).unwrap(),
        "/known-length" => Response::new(Body::from("abcd")),
        "/trailers" => Response::new(stream(vec![data("abcd"), trailers("grpc-status", "0")])),
        "/no-content" => Response::builder().status(204).body(Body::empty()).unwrap(),
        _ => Response::new(stream(vec![data("abcd"), Err(Error::new(Outcome::UpstreamReset).into())])),
    })
}

#[tokio::test]
async fn complete_answers_are_complete() {
    for http2 in [false, true] {
        for path in ["/unknown-length", "/declared-length", "/known-length", "/trailers"] {
            let (finished, complete) = served(http2, Method::POST, path).await;
            assert_eq!((finished.outcome, complete), (Outcome::Completed, true), "{path}, HTTP/2 {http2}");
            assert_eq!((finished.response_bytes, finished.record.request_bytes), (4, 3), "{path}, HTTP/2 {http2}");
        }
        for path in ["/unknown-length", "/declared-length", "/known-length"] {
            let (finished, _) = served(http2, Method::HEAD, path).await;
            assert_eq!(finished.outcome, Outcome::Completed, "HEAD {path}, HTTP/2 {http2}");
        }
        let (finished, _) = served(http2, Method::POST, "/no-content").await;
        assert_eq!((finished.outcome, finished.response_bytes), (Outcome::Completed, 0), "HTTP/2 {http2}");
    }
}

#[tokio::test]
async fn a_broken_answer_is_broken_for_the_client_as_well() {
    for http2 in [false, true] {
        let (finished, complete) = served(http2, Method::POST, "/broken").await;
        assert_eq!((finished.outcome, complete), (Outcome::UpstreamReset, false), "HTTP/2 {http2}");
        assert_eq!(finished.status, Some(StatusCode::OK));
    }
}
