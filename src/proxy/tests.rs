use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_test::{assert_pending, task};
use tower::{ServiceExt, service_fn as tower_service_fn};
use tower_layer::Layer;

use super::*;
use crate::{Body, BoxError, Error, Outcome};

fn layer() -> ForwardLayer {
    ForwardLayer::new().via("edge").unwrap()
}

/// Sends `request` through a layer to an upstream that answers with `response`; returns what it received and the answer.
fn exchange(
    layer: &ForwardLayer,
    request: Request<Body>,
    response: Response<Body>,
) -> (Option<Request<Body>>, Result<Response<Body>, Error>) {
    let seen = Arc::new(Mutex::new(None));
    let (record, response) = (Arc::clone(&seen), Arc::new(Mutex::new(Some(response))));
    let service = layer.layer(tower_service_fn(move |request: Request<Body>| {
        *record.lock().unwrap() = Some(request);
        let response = response.lock().unwrap().take().unwrap();
        async move { Ok(response) }
    }));
    let answer = tokio_test::block_on(service.oneshot(request));
    (seen.lock().unwrap().take(), answer)
}

fn forwarded(request: http::request::Builder, body: Body) -> Request<Body> {
    let (seen, answer) = exchange(&layer(), request.body(body).unwrap(), Response::new(Body::empty()));
    answer.unwrap();
    seen.unwrap()
}

fn refused(request: http::request::Builder) -> Outcome {
    let (seen, answer) = exchange(&layer(), request.body(Body::empty()).unwrap(), Response::new(Body::empty()));
    assert!(seen.is_none());
    answer.unwrap_err().outcome()
}

fn passed_back(request: http::request::Builder, response: Response<Body>) -> Response<Body> {
    exchange(&layer(), request.body(Body::empty()).unwrap(), response).1.unwrap()
}

fn get() -> http::request::Builder {
    Request::get("/").header("host", "a.example:8080")
}

/// A body of unknown length, fed by a sender.
pub(super) fn piped() -> (mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>, Body) {
    struct Piped(mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>);
    impl HttpBody for Piped {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.0.poll_recv(cx)
        }
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Body::new(Piped(receiver)))
}

fn stream(text: &'static str) -> Body {
    with_trailers(text, HeaderMap::new())
}

fn with_trailers(text: &'static str, trailers: HeaderMap) -> Body {
    let (sender, body) = piped();
    sender.send(Ok(Frame::data(text.into()))).unwrap();
    if !trailers.is_empty() {
        sender.send(Ok(Frame::trailers(trailers))).unwrap();
    }
    body
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))).collect();
    lines.sort();
    lines
}

#[test]
fn what_is_for_one_hop_stays_here() {
    let request = get()
        .header("connection", "keep-alive, x-hop")
        .header("connection", "X-Other, close, , bad name")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("proxy-authorization", "Basic eA==")
        .header("proxy", "http://evil")
        .header("te", "gzip;q=0.5")
        .header("upgrade", "foo")
        .header("http2-settings", "AA")
        .header("x-hop", "1")
        .header("x-other", "2")
        .header("x-end", "3")
        .header("authorization", "me");
    let seen = forwarded(request, Body::empty());
    assert_eq!(lines(seen.headers()), ["authorization: me", "host: a.example:8080", "via: 1.1 edge", "x-end: 3"]);
}

#[test]
fn a_nomination_takes_nothing_that_is_not_the_clients_to_take() {
    let names = "host, authorization, cookie, content-type, via, x-forwarded-for, x-real-ip, forwarded, content-length";
    let request = get()
        .header("connection", names)
        .header("authorization", "me")
        .header("cookie", "a=1")
        .header("content-type", "text/plain")
        .header("content-length", "2")
        .header("x-forwarded-for", "192.0.2.1")
        .header("x-real-ip", "192.0.2.1")
        .header("forwarded", "for=192.0.2.1")
        .header("via", "1.1 before");
    let seen = forwarded(request, Body::from("ab"));
    for name in names.split(", ") {
        assert!(seen.headers().contains_key(name), "{name}");
    }
    assert_eq!(seen.headers().get_all("via").iter().collect::<Vec<_>>(), ["1.1 before", "1.1 edge"]);
}

#[test]
fn grpc_keeps_its_te() {
    let seen = forwarded(get().header("te", "gzip, Trailers").header("connection", "te"), Body::empty());
    assert_eq!(seen.headers()["te"], "trailers");
    assert!(!seen.headers().contains_key("connection"));
}

#[test]
fn framing_is_made_from_the_body() {
    let length = |request: http::request::Builder, body| {
        let seen = forwarded(request, body);
        assert!(!seen.headers().contains_key("transfer-encoding"));
        let mut all = seen.headers().get_all("content-length").iter();
        let length = all.next().map(|value| value.to_str().unwrap().to_owned());
        assert!(all.next().is_none());
        length
    };
    let post = || Request::post("/").header("host", "a");
    assert_eq!(length(post().header("content-length", "5"), Body::from("hello")).as_deref(), Some("5"));
    assert_eq!(length(post().header("content-length", "7"), Body::from("hello")).as_deref(), Some("5"));
    assert_eq!(length(post().header("content-length", "05"), Body::from("hello")).as_deref(), Some("5"));
    assert_eq!(length(post().header("content-length", "5"), stream("hello")), None);
    assert_eq!(length(post().header("transfer-encoding", "chunked"), stream("hello")), None);
    assert_eq!(length(post(), Body::empty()).as_deref(), Some("0"));
    assert_eq!(length(get(), Body::empty()), None);
    assert_eq!(length(get().header("content-length", "5"), Body::empty()).as_deref(), Some("0"));
}

#[test]
fn what_is_ambiguous_is_refused() {
    for (request, outcome) in [
        (Request::get("/"), Outcome::BadRequest),
        (get().header("host", "b"), Outcome::BadRequest),
        (get().header("content-length", "1").header("content-length", "1"), Outcome::BadRequest),
        (get().header("content-length", "1, 1"), Outcome::BadRequest),
        (get().header("content-length", "+1"), Outcome::BadRequest),
        (get().header("content-length", "1").header("transfer-encoding", "chunked"), Outcome::BadRequest),
        (get().header("transfer-encoding", "chunked").version(Version::HTTP_10), Outcome::BadRequest),
        (get().header("transfer-encoding", "chunked").version(Version::HTTP_2), Outcome::BadRequest),
        (get().header("transfer-encoding", "chunked, chunked"), Outcome::BadRequest),
        (get().header("transfer-encoding", "gzip, chunked"), Outcome::NotImplemented),
        (get().method("CONNECT"), Outcome::NotImplemented),
        (get().method("CONNECT").uri("a:443"), Outcome::NotImplemented),
        (Request::get("https://a/").header("host", "b").version(Version::HTTP_2), Outcome::BadRequest),
        (Request::get("https://u@a/").version(Version::HTTP_2), Outcome::BadRequest),
        (Request::get("ftp://a/").version(Version::HTTP_2), Outcome::BadRequest),
        (Request::get("/").version(Version::HTTP_2), Outcome::BadRequest),
        (Request::get("*").header("host", "a"), Outcome::BadRequest),
        (get().header("via", "1.0 fred, HTTP/1.1 edge (us)"), Outcome::Loop),
        (get().method("TRACE").header("max-forwards", "0"), Outcome::NotImplemented),
    ] {
        let shown = format!("{request:?}");
        assert_eq!(refused(request), outcome, "{shown}");
    }
}

#[test]
fn the_host_arrives_as_it_was_sent() {
    assert_eq!(forwarded(get(), Body::empty()).headers()["host"], "a.example:8080");
    let h2 = |request: http::request::Builder| forwarded(request.version(Version::HTTP_2), Body::empty());
    let seen = h2(Request::get("https://A.example:8443/x?y"));
    assert_eq!(seen.headers()["host"], "A.example:8443");
    assert_eq!(seen.uri(), "https://A.example:8443/x?y");
    assert_eq!(seen.headers()["via"], "2.0 edge");
    assert_eq!(h2(Request::get("https://a/").header("host", "A")).headers()["host"], "a");
    let absolute = forwarded(Request::get("http://b/x?y").header("host", "a"), Body::empty());
    assert_eq!((absolute.headers()["host"].as_bytes(), absolute.uri().to_string()), (&b"b"[..], "/x?y".to_owned()));
}

#[test]
fn other_hops_are_no_loop() {
    for via in ["1.1 edge2", "1.1 myedge", "1.1 fred (edge)", "edge", ""] {
        assert!(forwarded(get().header("via", via), Body::empty()).headers().contains_key("via"), "{via}");
    }
    // Two hops with default settings pass each other's requests, and refuse their own.
    let (one, other) = (ForwardLayer::new(), ForwardLayer::new());
    let answer = || Response::new(Body::empty());
    let after_one = exchange(&one, get().body(Body::empty()).unwrap(), answer()).0.unwrap();
    let after_both = exchange(&other, after_one, answer()).0.unwrap();
    assert_eq!(after_both.headers().get_all("via").iter().count(), 2);
    assert_eq!(exchange(&one, after_both, answer()).1.unwrap_err().outcome(), Outcome::Loop);
}

#[test]
fn a_pseudonym_is_a_word() {
    for bad in ["", "a b", "a,b", "a/b", "é"] {
        assert!(ForwardLayer::new().via(bad).is_err(), "{bad}");
    }
}

#[test]
fn max_forwards_counts_down_where_it_means_something() {
    let request = |method: &str, left: &str| get().method(method).header("max-forwards", left);
    assert_eq!(forwarded(request("OPTIONS", "2"), Body::empty()).headers()["max-forwards"], "1");
    assert_eq!(forwarded(request("TRACE", "1"), Body::empty()).headers()["max-forwards"], "0");
    assert_eq!(forwarded(request("GET", "0"), Body::empty()).headers()["max-forwards"], "0");
    assert_eq!(forwarded(request("OPTIONS", "x"), Body::empty()).headers()["max-forwards"], "x");
    let (seen, answer) =
        exchange(&layer(), request("OPTIONS", "0").body(Body::empty()).unwrap(), Response::new(Body::empty()));
    assert!(seen.is_none());
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
}

#[test]
fn cookie_crumbs_are_joined() {
    let seen = forwarded(get().header("cookie", "a=1").header("cookie", "b=2; c=3"), Body::empty());
    assert_eq!(seen.headers().get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
}

#[test]
fn an_answer_is_the_upstreams_without_what_is_for_one_hop() {
    let response = Response::builder()
        .version(Version::HTTP_10)
        .header("server", "backend")
        .header("date", "Thu, 01 Jan 1970 00:00:00 GMT")
        .header("connection", "close, x-hop, set-cookie")
        .header("x-hop", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-authenticate", "Basic")
        .header("upgrade", "h2c")
        .header("alt-svc", "h3=\":8443\"")
        .header("set-cookie", "a=1")
        .header("set-cookie", "b=2")
        .header("content-length", "5")
        .body(Body::from("hello"))
        .unwrap();
    let response = passed_back(get(), response);
    assert_eq!(response.version(), Version::HTTP_11);
    assert_eq!(
        lines(response.headers()),
        [
            "content-length: 5",
            "date: Thu, 01 Jan 1970 00:00:00 GMT",
            "server: backend",
            "set-cookie: a=1",
            "set-cookie: b=2",
            "via: 1.0 edge",
        ]
    );
    let silent =
        exchange(&layer().response_via(false), get().body(Body::empty()).unwrap(), Response::new(Body::empty()));
    assert!(!silent.1.unwrap().headers().contains_key("via"));
}

#[test]
fn an_answer_is_framed_by_its_body() {
    let length = |request: http::request::Builder, response: Response<Body>| {
        let response = passed_back(request, response);
        let all: Vec<_> =
            response.headers().get_all("content-length").iter().map(|v| v.to_str().unwrap().to_owned()).collect();
        assert!(!response.headers().contains_key("transfer-encoding"));
        all.join("|")
    };
    let response = |lengths: &[&str], body| {
        let builder =
            lengths.iter().fold(Response::builder(), |builder, length| builder.header("content-length", *length));
        builder.header("transfer-encoding", "chunked").body(body).unwrap()
    };
    assert_eq!(length(get(), response(&["5"], Body::from("hello"))), "5");
    assert_eq!(length(get(), response(&["5", "5"], Body::from("hello"))), "5");
    assert_eq!(length(get(), response(&["9"], Body::from("hello"))), "5");
    assert_eq!(length(get(), response(&["+5"], Body::from("hello"))), "5");
    assert_eq!(length(get(), response(&["5, 5"], Body::from("hello"))), "5");
    assert_eq!(length(get(), response(&["9"], stream("hello"))), "");
    assert_eq!(length(get().method("HEAD"), response(&["9"], Body::empty())), "9");
    assert_eq!(length(get().method("HEAD"), response(&["9", "8"], Body::empty())), "");
    let mut not_modified = response(&["9"], Body::empty());
    *not_modified.status_mut() = StatusCode::NOT_MODIFIED;
    assert_eq!(length(get(), not_modified), "9");
}

#[test]
fn trailers_pass_without_what_is_forbidden_there() {
    let mut trailers = HeaderMap::new();
    for name in
        ["grpc-status", "x-checksum", "my_own", "content-length", "transfer-encoding", "connection", "authorization"]
    {
        trailers.insert(HeaderName::from_static(name), "1".parse().unwrap());
    }
    for name in ["x-forwarded-for", "x_forwarded_for", "host", "content_length", "set-cookie", "via"] {
        trailers.insert(HeaderName::from_static(name), "1".parse().unwrap());
    }
    let seen = forwarded(Request::post("/").header("host", "a"), with_trailers("x", trailers.clone()));
    let there = tokio_test::block_on(seen.into_body().collect()).unwrap();
    let back = passed_back(get(), Response::new(with_trailers("x", trailers)));
    let back = tokio_test::block_on(back.into_body().collect()).unwrap();
    for collected in [there, back] {
        assert_eq!(lines(collected.trailers().unwrap()), ["grpc-status: 1", "my_own: 1", "x-checksum: 1"]);
    }
}

#[test]
fn a_body_that_fails_is_not_a_body_that_ends() {
    let (sender, body) = piped();
    sender.send(Err("cut off".into())).unwrap();
    let response = passed_back(get(), Response::new(body));
    assert_eq!(tokio_test::block_on(response.into_body().collect()).unwrap_err().to_string(), "cut off");
}

#[test]
fn an_unasked_switch_is_a_failure() {
    let switch = |upgrade: Option<&str>| {
        let mut response = Response::builder().status(101);
        if let Some(upgrade) = upgrade {
            response = response.header("upgrade", upgrade);
        }
        response.body(Body::empty()).unwrap()
    };
    let outcome = |request: http::request::Builder, response| {
        exchange(&layer(), request.body(Body::empty()).unwrap(), response).1.unwrap_err().outcome()
    };
    assert_eq!(outcome(get(), switch(Some("websocket"))), Outcome::UpgradeFailed);
    assert_eq!(outcome(get(), switch(None)), Outcome::UpgradeFailed);
    // `Upgrade` without `Connection: upgrade` asks for nothing, nor does one that cannot be switched on our side.
    assert_eq!(outcome(get().header("upgrade", "websocket"), switch(Some("websocket"))), Outcome::UpgradeFailed);
    let informational = Response::builder().status(103).body(Body::empty()).unwrap();
    assert_eq!(outcome(get(), informational), Outcome::UpstreamProtocol);
}

#[test]
fn h2c_is_never_forwarded() {
    let ask = || {
        get().header("connection", "Upgrade, HTTP2-Settings").header("upgrade", "H2C").header("http2-settings", "AA")
    };
    let seen = forwarded(ask(), Body::empty());
    for name in ["connection", "upgrade", "http2-settings"] {
        assert!(!seen.headers().contains_key(name));
    }
    let request = ask().body(Body::empty()).unwrap();
    let (seen, answer) = exchange(&layer().refuse_h2c(true), request, Response::new(Body::empty()));
    assert!(seen.is_none());
    assert_eq!(answer.unwrap_err().outcome(), Outcome::NotImplemented);
}

#[test]
fn who_is_gone_takes_the_upstreams_work_along() {
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = Arc::clone(&dropped);
    let service = layer().layer(tower_service_fn(move |_: Request<Body>| {
        let guard = OnDrop(Arc::clone(&guard));
        async move {
            let _guard = guard;
            std::future::pending::<Result<Response<Body>, Error>>().await
        }
    }));
    let mut future = task::spawn(service.oneshot(get().body(Body::empty()).unwrap()));
    assert_pending!(future.poll());
    assert!(!dropped.load(Ordering::SeqCst));
    drop(future);
    assert!(dropped.load(Ordering::SeqCst));

    // The same for an answer's body.
    let (sender, body) = piped();
    let response = passed_back(get(), Response::new(body));
    assert!(!sender.is_closed());
    drop(response);
    assert!(sender.is_closed());
}

#[test]
fn a_body_with_the_wrong_bytes_in_it_says_so() {
    let failure = |error: std::io::ErrorKind| {
        let (sender, body) = piped();
        sender.send(Err(std::io::Error::from(error).into())).unwrap();
        let seen = forwarded(Request::post("/").header("host", "a"), body);
        let failure = tokio_test::block_on(seen.into_body().collect()).unwrap_err();
        failure.downcast_ref::<Error>().map(Error::outcome)
    };
    assert_eq!(failure(std::io::ErrorKind::InvalidInput), Some(Outcome::BadRequest));
    assert_eq!(failure(std::io::ErrorKind::UnexpectedEof), None);
}

#[test]
fn a_request_whose_body_failed_is_the_clients_fault() {
    let service =
        |error: fn() -> Error| layer().layer(tower_service_fn(move |_: Request<Body>| async move { Err(error()) }));
    let outcome =
        |error| tokio_test::block_on(service(error).oneshot(get().body(Body::empty()).unwrap())).unwrap_err().outcome();
    let too_large = || Error::new(Outcome::UpstreamReset).with_source(Error::new(Outcome::BodyTooLarge));
    assert_eq!(outcome(too_large), Outcome::BodyTooLarge);
    assert_eq!(outcome(|| Error::new(Outcome::UpstreamReset)), Outcome::UpstreamReset);
    assert_eq!(outcome(|| Error::new(Outcome::NoEndpoint).with_source("x")), Outcome::NoEndpoint);
}

const NAMES: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer_encoding",
    "upgrade",
    "http2-settings",
    "x-a",
    "x-b",
    "x-c",
    "via",
    "cookie",
    "x-forwarded-for",
    "proxy-authorization",
    "alt-svc",
    "set-cookie",
    "trailer",
    "expect",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_for_one_hop_passes_and_ours_is_always_there(
        fields in prop::collection::vec((prop::sample::select(NAMES), "[ -~]{0,12}"), 0..10),
        nominated in prop::collection::vec(prop::sample::select(NAMES), 0..5),
        version in prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
    ) {
        let nominations = nominated.join(" ,");
        let mut request = get().version(version).header("connection", &nominations);
        let mut response = Response::builder().header("connection", &nominations);
        for (name, value) in &fields {
            request = request.header(*name, value);
            response = response.header(*name, value);
        }
        let (request, response) = (request.body(Body::from("x")).unwrap(), response.body(Body::from("x")).unwrap());
        let (seen, answer) = exchange(&layer(), request, response);
        let seen = seen.unwrap().into_parts().0.headers;
        let answer = answer.unwrap().into_parts().0.headers;
        for headers in [&seen, &answer] {
            for name in ["connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings", "proxy-authorization"] {
                prop_assert!(!headers.contains_key(name), "{}", name);
            }
            prop_assert!(headers.get_all("te").iter().all(|value| value == "trailers"));
            for name in &nominated {
                let kept = ["via", "cookie", "set-cookie", "x-forwarded-for", "te"];
                prop_assert!(kept.contains(name) || !headers.contains_key(*name), "{}", name);
            }
            let last = headers.get_all("via").iter().next_back();
            prop_assert!(last.is_some_and(|via| via.to_str().unwrap().ends_with(" edge")));
        }
        prop_assert_eq!(&seen["host"], "a.example:8080");
        prop_assert!(seen.get_all("content-length").iter().all(|value| value == "1"));
    }
}
