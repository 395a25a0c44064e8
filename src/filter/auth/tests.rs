use std::{convert::Infallible, future::pending};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, advance},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

use super::*;
use crate::{
    Body, BoxError, Error, Outcome, Sent,
    config::{AuthProtocol, BackendRef, ExternalAuth},
    exchange::Exchange,
    route::Target,
    timeout::Deadline,
};

/// What a service was asked, or an app was called with.
type Heard = mpsc::UnboundedReceiver<(http::request::Parts, Bytes)>;

/// A service that answers with the same each time, and tells what it hears.
pub(super) fn double<A>(answer: A) -> (Target<Body, Error>, Heard)
where
    A: Fn() -> Result<Response<Body>, Error> + Clone + Send + Sync + 'static,
{
    let (sender, heard) = mpsc::unbounded_channel();
    let target = Target::new(service_fn(move |request: Request<Body>| {
        let (sender, answer) = (sender.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(|error| Error::new(Outcome::BadRequest).with_source(error))?;
            sender.send((parts, body.to_bytes())).unwrap();
            answer()
        }
    }));
    (target, heard)
}

/// The app behind the layer.
pub(super) fn app() -> (Target<Body, Error>, Heard) {
    double(|| Ok(Response::new(Body::from("the app's answer"))))
}

fn by_http(path: &str, headers: &[&str], response_headers: &[&str]) -> ExternalAuth {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let protocol =
        AuthProtocol::Http { path: path.into(), headers: owned(headers), response_headers: owned(response_headers) };
    ExternalAuth { backend: BackendRef::new("auth"), protocol, body: None }
}

pub(super) async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

fn ok(fields: &'static [(&'static str, &'static str)]) -> Result<Response<Body>, Error> {
    let response = fields.iter().fold(Response::builder(), |response, (name, value)| response.header(*name, *value));
    Ok(response.body(Body::from("ignored")).unwrap())
}

#[tokio::test]
async fn the_question_is_the_request_with_what_is_listed_and_no_body() {
    let (service, mut asked) = double(|| ok(&[]));
    let (app, mut served) = app();
    let layer = AuthLayer::new(&by_http("/check/", &["X-Team", "content-length"], &[]), service).unwrap();
    let request = Request::post("/a%2Fb//c?x=%7e&y")
        .header("host", "shop.example.com:8080")
        .header("authorization", "Bearer 7")
        .header("x-team", "a")
        .header("x-team", "b")
        .header("x-secret", "1")
        .header("cookie", "session=7")
        .header("content-length", "5")
        .header("expect", "100-continue")
        .extension(Exchange::begin())
        .body(Body::from("hello"))
        .unwrap();
    let response = layer.layer(app).oneshot(request).await.unwrap();
    assert_eq!(text(response).await, "the app's answer");

    let (question, body) = asked.recv().await.unwrap();
    assert_eq!((question.method.as_str(), question.uri.to_string()), ("POST", "/check/a%2Fb//c?x=%7e&y".to_owned()));
    let mut fields: Vec<_> = question.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "authorization: \"Bearer 7\"",
            "content-length: \"0\"",
            "host: \"shop.example.com:8080\"",
            "x-team: \"a\"",
            "x-team: \"b\""
        ]
    );
    assert!(body.is_empty() && question.extensions.is_empty());

    let (request, body) = served.recv().await.unwrap();
    assert_eq!((request.headers["x-secret"].as_bytes(), &body[..]), (&b"1"[..], &b"hello"[..]));
    assert!(request.headers.contains_key("expect"), "nobody has asked for the body yet");
}

#[tokio::test]
async fn a_listed_field_is_the_services_whether_it_sets_it_or_not() {
    let (service, _asked) = double(|| ok(&[("x-user", "ada"), ("x-group", "a"), ("x-group", "b"), ("x-other", "1")]));
    let (app, mut served) = app();
    let config = by_http("", &[], &["X-User", "x-admin", "x-group"]);
    let service = AuthLayer::new(&config, service).unwrap().layer(app);
    let request = Request::get("/")
        .header("x-user", "root")
        .header("x-user", "root2")
        .header("x-admin", "true")
        .header("x-keep", "1");
    service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (request, _) = served.recv().await.unwrap();
    let all = |name: &str| request.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all("x-user"), ["ada"]);
    assert_eq!(all("x-group"), ["a", "b"]);
    assert_eq!((all("x-keep"), request.headers.len()), (vec!["1"], 4));
}

#[tokio::test]
async fn without_a_list_all_fields_are_taken_over_but_those_of_the_answer_itself() {
    let (service, _asked) = double(|| {
        ok(&[
            ("x-user", "ada"),
            ("host", "auth.example"),
            ("content-type", "text/plain"),
            ("content-length", "7"),
            ("connection", "close"),
            ("via", "1.1 edge"),
        ])
    });
    let (app, mut served) = app();
    let service = AuthLayer::new(&by_http("", &[], &[]), service).unwrap().layer(app);
    let request = Request::post("/").header("host", "shop.example.com").header("content-type", "application/json");
    service.oneshot(request.header("x-user", "root").body(Body::from("{}")).unwrap()).await.unwrap();
    let (request, body) = served.recv().await.unwrap();
    assert_eq!(request.headers["x-user"], "ada");
    assert_eq!(request.headers["host"], "shop.example.com");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!((request.headers.len(), &body[..]), (3, &b"{}"[..]));
}

#[tokio::test]
async fn a_denial_is_the_answer_with_its_fields_and_body() {
    for (status, name, value) in [
        (302, "location", "https://login.example/?next=%2Fcart"),
        (401, "www-authenticate", "Basic realm=\"x\""),
        (403, "set-cookie", "seen=1"),
        (429, "retry-after", "7"),
    ] {
        let (service, _asked) = double(move || {
            let answer = Response::builder().status(status).header(name, value).header("set-cookie", "a=b");
            Ok(answer.header("connection", "x-hop").header("x-hop", "1").body(Body::from("no")).unwrap())
        });
        let (app, mut served) = app();
        let exchange = Exchange::begin();
        let request = Request::get("/").extension(exchange.clone()).body(Body::empty()).unwrap();
        let layer = AuthLayer::new(&by_http("", &[], &["x-user"]), service).unwrap();
        let response = layer.layer(app).oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()[name], value);
        assert!(response.headers().get_all("set-cookie").iter().any(|cookie| cookie == "a=b"));
        assert!(!response.headers().contains_key("connection") && !response.headers().contains_key("x-hop"));
        assert!(response.extensions().get::<Outcome>().is_none(), "it is not our answer");
        assert_eq!(text(response).await, "no");
        assert!(served.try_recv().is_err());
        assert_eq!(exchange.record().detail.unwrap(), format!("denied by the authorization service: {status}"));
    }
}

#[tokio::test]
async fn a_grpc_client_is_denied_by_a_grpc_status() {
    for (status, code) in [(401, "16"), (403, "7"), (302, "2"), (429, "14")] {
        let (service, _asked) = double(move || {
            let answer = Response::builder().status(status).header("www-authenticate", "Bearer");
            Ok(answer.header("content-type", "text/html").body(Body::from("<p>no")).unwrap())
        });
        let (app, _served) = app();
        let request = Request::post("/pkg.Svc/Call").header("content-type", "application/grpc").body(Body::empty());
        let layer = AuthLayer::new(&by_http("", &[], &[]), service).unwrap();
        let response = layer.layer(app).oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], code);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert!(response.extensions().get::<Outcome>().is_none());
        assert_eq!(text(response).await, "");
    }
}

#[tokio::test]
async fn what_is_no_clear_answer_is_no() {
    let refused = || Err(Error::new(Outcome::ConnectFailed).with_sent(Sent::Nothing));
    let status = |status: u16| Ok(Response::builder().status(status).body(Body::from("internal secret")).unwrap());
    for (number, why) in [
        (0, "connect_failed"),
        (101, "its answer has the status 101 Switching Protocols"),
        (204, "its answer has the status 204 No Content"),
        (500, "its answer has the status 500 Internal Server Error"),
        (503, "its answer has the status 503 Service Unavailable"),
    ] {
        let (service, _asked) = double(move || if number == 0 { refused() } else { status(number) });
        let (app, mut served) = app();
        let exchange = Exchange::begin();
        let request = Request::get("/").extension(exchange.clone()).body(Body::empty()).unwrap();
        let service = AuthLayer::new(&by_http("", &[], &[]), service).unwrap().layer(app);
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.extensions().get(), Some(&Outcome::Forbidden));
        assert_eq!(exchange.record().detail.unwrap(), format!("no verdict of the authorization service: {why}"));
        assert!(!text(response).await.contains("secret") && served.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_late_says_no_and_is_not_waited_for() {
    struct Dropped(mpsc::UnboundedSender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (sender, mut dropped) = mpsc::unbounded_channel();
    let slow = service_fn(move |_: Request<Body>| {
        let held = Dropped(sender.clone());
        async move {
            let _held = held;
            pending::<Result<Response<Body>, Infallible>>().await
        }
    });
    let (app, mut served) = app();
    let layer = AuthLayer::new(&by_http("", &[], &[]), slow).unwrap().timeout(Duration::from_secs(2));
    let service = layer.layer(app);
    let mut call = task::spawn(service.clone().oneshot(Request::new(Body::empty())));
    assert_pending!(call.poll());
    advance(Duration::from_millis(1_999)).await;
    assert_pending!(call.poll());
    advance(Duration::from_millis(1)).await;
    assert!(call.is_woken());
    let response = assert_ready!(call.poll()).unwrap();
    assert_eq!(response.extensions().get(), Some(&Outcome::Forbidden));
    dropped.try_recv().unwrap();

    // The request's own time is shorter.
    let mut request = Request::new(Body::empty());
    request.extensions_mut().insert(Deadline::after(Instant::now(), Duration::from_secs(1)));
    let mut call = task::spawn(service.clone().oneshot(request));
    assert_pending!(call.poll());
    advance(Duration::from_secs(1)).await;
    let response = assert_ready!(call.poll()).unwrap();
    assert_eq!(response.extensions().get(), Some(&Outcome::DeadlineExceeded));
    dropped.try_recv().unwrap();

    // Nobody waits any more.
    let mut call = task::spawn(service.oneshot(Request::new(Body::empty())));
    assert_pending!(call.poll());
    drop(call);
    dropped.try_recv().unwrap();
    assert!(served.try_recv().is_err());
}

fn stream(frames: Vec<Result<Frame<Bytes>, BoxError>>) -> Body {
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

#[tokio::test]
async fn a_body_is_shown_and_delivered_as_it_came() {
    let (service, mut asked) = double(|| ok(&[]));
    let seen = service_fn(async |request: Request<Body>| {
        assert!(!request.headers().contains_key("expect"), "the client was asked already");
        let collected = request.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned();
        Ok::<_, Error>(Response::builder().extension(trailers).body(Body::from(collected.to_bytes())).unwrap())
    });
    let config = ExternalAuth { body: Some(6), ..by_http("", &[], &[]) };
    let service = AuthLayer::new(&config, service).unwrap().layer(seen);
    let trailers = HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]);
    for (body, text, trailers) in [
        (Body::from("hello!"), "hello!", None),
        (Body::empty(), "", None),
        (stream(vec![data("hel"), data(""), data("lo!")]), "hello!", None),
        (stream(vec![data("hel"), data("lo"), Ok(Frame::trailers(trailers.clone()))]), "hello", Some(trailers)),
    ] {
        let empty = text.is_empty();
        let mut request = Request::post("/").body(body).unwrap();
        if !empty {
            request.headers_mut().insert("expect", "100-continue".parse().unwrap());
        }
        let response = service.clone().oneshot(request).await.unwrap();
        let (question, shown) = asked.recv().await.unwrap();
        assert_eq!(shown, text);
        assert_eq!(question.headers["content-length"], text.len().to_string());
        assert_eq!(response.extensions().get::<Option<HeaderMap>>().unwrap(), &trailers);
        assert_eq!(self::text(response).await, text);
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_or_fails_is_refused_unasked() {
    let (service, mut asked) = double(|| ok(&[]));
    let (app, mut served) = app();
    let config = ExternalAuth { body: Some(5), ..by_http("", &[], &[]) };
    let service = AuthLayer::new(&config, service).unwrap().layer(app);
    let late = Error::new(Outcome::RequestTimeout);
    for (body, outcome) in [
        (Body::from("hello!"), Outcome::BodyTooLarge),
        (stream(vec![data("hel"), data("lo!"), Err("not read any more".into())]), Outcome::BodyTooLarge),
        (stream(vec![data("hel"), Err("the client is gone".into())]), Outcome::BadRequest),
        (stream(vec![data("hel"), Err(late.into())]), Outcome::RequestTimeout),
    ] {
        let response = service.clone().oneshot(Request::post("/").body(body).unwrap()).await.unwrap();
        assert_eq!((response.status(), response.extensions().get()), (outcome.status(), Some(&outcome)));
    }
    assert!(asked.try_recv().is_err() && served.try_recv().is_err());
}

#[tokio::test]
async fn an_unseen_body_streams_past() {
    let (service, _asked) = double(|| ok(&[]));
    let echo = service_fn(async |request: Request<Body>| Ok::<_, Error>(Response::new(request.into_body())));
    let service = AuthLayer::new(&by_http("", &[], &[]), service).unwrap().layer(echo);
    let (sender, receiver) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
    let frames = futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    let request = Request::post("/").body(Body::new(StreamBody::new(Box::pin(frames)))).unwrap();
    // Nothing of it has come.
    let mut body = service.oneshot(request).await.unwrap().into_body();
    sender.send(data("one")).unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    drop(sender);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn the_service_that_was_ready_is_called_and_its_error_passes() {
    let (mock, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    let (service, _asked) = double(|| ok(&[]));
    let mut service = AuthLayer::new(&by_http("", &[], &[]), service).unwrap().layer(mock);
    assert_ready!(task::spawn(service.ready()).poll()).unwrap();
    let mut call = task::spawn(service.call(Request::new(Body::empty())));
    assert_pending!(call.poll());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_error("inner");
    assert_eq!(call.await.unwrap_err().to_string(), "inner");
}

#[test]
fn what_cannot_be_done_is_an_error_that_names_it() {
    let error = |config: &ExternalAuth| AuthLayer::new(config, ()).unwrap_err().to_string();
    assert_eq!(error(&by_http("", &["a b"], &[])), "external authorization: `a b` is not the name of a header field");
    let unusable = error(&by_http("", &[], &["Host"]));
    assert!(unusable.contains("`host`") && unusable.ends_with("leave it out of `response_headers`"), "{unusable}");
    assert!(error(&by_http("", &["Connection"], &[])).ends_with("leave it out of `headers`"));
    for path in ["/a b", "/a?b", "/a#b", "/../a", "/a/%2E%2e", "/ü"] {
        assert!(error(&by_http(path, &[], &[])).contains("is not usable"), "{path}");
    }
    for path in ["", "/", "/a", "a/", "/a%20b/..c"] {
        let _ = AuthLayer::new(&by_http(path, &["Host", "Content-Length", "Authorization"], &[]), ()).unwrap();
    }
    #[cfg(not(feature = "grpc-auth"))]
    assert!(
        error(&ExternalAuth { protocol: AuthProtocol::Grpc { headers: vec![] }, ..by_http("", &[], &[]) })
            .contains("grpc-auth")
    );
}

#[tokio::test]
async fn targets_are_joined_to_the_prefix() {
    for (prefix, target, asked) in [
        ("", "/x?y", "/x?y"),
        ("/", "/x", "/x"),
        ("a", "/x", "/a/x"),
        ("/a/", "/", "/a/"),
        ("/a", "*", "/a"),
        ("", "*", "*"),
        ("/a", "http://h.example/x?y", "/a/x?y"),
    ] {
        let (service, mut heard) = double(|| ok(&[]));
        let (app, _served) = app();
        let request = Request::options(target).body(Body::empty()).unwrap();
        AuthLayer::new(&by_http(prefix, &[], &[]), service).unwrap().layer(app).oneshot(request).await.unwrap();
        let (question, _) = heard.recv().await.unwrap();
        assert_eq!(question.uri.to_string(), asked, "{prefix} {target}");
        assert_eq!(question.headers.contains_key("host"), target.starts_with("http"));
    }
}
