use http::{HeaderMap, HeaderName, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceExt};

use super::{
    message::{
        Allowed, BoolValue, Denied, HeaderPair, HeaderValueOption, HttpRequest, HttpStatus, QueryParameter, Status,
    },
    *,
};
use crate::{
    BoxError, Error, Outcome,
    config::{AuthProtocol, BackendRef, ExternalAuth},
    connection::{ConnectionInfo, TlsInfo},
    filter::auth::{
        AuthLayer,
        tests::{app, double, text},
    },
    identity::PeerIdentity,
};

fn config(headers: &[&str], body: Option<u32>) -> ExternalAuth {
    let headers = headers.iter().map(|name| (*name).to_owned()).collect();
    ExternalAuth { backend: BackendRef::new("auth"), protocol: AuthProtocol::Grpc { headers }, body }
}

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    frame
}

/// An answer in pieces, with `grpc-status` in its trailers.
fn answer(frame: &[u8], status: &'static str) -> Response<Body> {
    let mut frames: Vec<Result<Frame<Bytes>, BoxError>> =
        frame.chunks(3).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    frames.push(Ok(Frame::trailers(HeaderMap::from_iter([(crate::grpc::STATUS, status.parse().unwrap())]))));
    Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
}

fn says(code: i32, http: Option<HttpAnswer>) -> Response<Body> {
    answer(&framed(&CheckResponse { status: Some(Status { code }), http }), "0")
}

fn option(key: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
    let header = Some(HeaderPair { key: key.into(), value: value.into(), raw_value: Bytes::new() });
    HeaderValueOption { header, append: append.map(|value| BoolValue { value }), append_action }
}

/// What becomes of a request that is answered so.
async fn check(
    request: http::request::Builder,
    answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
) -> (Response<Body>, Option<Parts>) {
    let (service, _asked) = double(move || Ok(answer()));
    let (app, mut served) = app();
    let service = AuthLayer::new(&config(&[], None), service).unwrap().layer(app);
    let response = service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    (response, served.try_recv().ok().map(|(parts, _)| parts))
}

/// What a service is asked about a request.
async fn asked(config: &ExternalAuth, request: Request<Body>) -> (Parts, HttpRequest, CheckRequest) {
    let (service, mut asked) = double(|| Ok(says(0, None)));
    let (app, mut served) = app();
    AuthLayer::new(config, service).unwrap().layer(app).oneshot(request).await.unwrap();
    served.try_recv().unwrap();
    let (parts, body) = asked.try_recv().unwrap();
    assert_eq!((body[0], u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize), (0, body.len() - 5));
    let question = CheckRequest::decode(&body[5..]).unwrap();
    let http = question.attributes.clone().unwrap().request.unwrap().http.unwrap();
    (parts, http, question)
}

#[tokio::test]
async fn the_question_tells_of_the_request_and_its_connection() {
    let tls = TlsInfo {
        server_name: Some("shop.example.com".into()),
        peer_identity: Some(PeerIdentity::new(["spiffe://a.example/x"], ["x.a.example"]).into()),
        ..TlsInfo::default()
    };
    let info = ConnectionInfo::new("[::ffff:192.0.2.7]:4711".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    let request = Request::post("/a%2Fb?x=%7e")
        .version(Version::HTTP_2)
        .header("host", "shop.example.com:8443")
        .header("x-request-id", "7")
        .header("x-a", "1")
        .header("x-a", "2")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .extension(info.with_tls(tls))
        .body(Body::from("hello"))
        .unwrap();
    let (parts, http, question) = asked(&config(&[], None), request).await;
    assert_eq!((parts.method, parts.version, parts.uri.path()), (Method::POST, Version::HTTP_2, METHOD));
    for (name, value) in [
        ("host", "authorization"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "10000000u"),
    ] {
        assert_eq!(parts.headers[name], value);
    }
    assert_eq!([&*http.id, &*http.method, &*http.path], ["7", "POST", "/a%2Fb?x=%7e"]);
    assert_eq!([&*http.host, &*http.scheme, &*http.protocol], ["shop.example.com:8443", "https", "HTTP/2"]);
    assert_eq!((http.size, &*http.body, http.raw_body.len()), (5, "", 0));
    assert_eq!([&*http.headers["x-a"], &*http.headers["cookie"]], ["1,2", "a=1; b=2"]);
    let attributes = question.attributes.unwrap();
    assert_eq!(attributes.tls_session.unwrap().sni, "shop.example.com");
    assert!(attributes.request.unwrap().time.unwrap().seconds > 0);
    let source = attributes.source.unwrap();
    assert_eq!(source.principal, "spiffe://a.example/x");
    let address = source.address.unwrap().socket_address.unwrap();
    assert_eq!((&*address.address, address.port), ("192.0.2.7", Some(4711)));
    let address = attributes.destination.unwrap().address.unwrap().socket_address.unwrap();
    assert_eq!((&*address.address, address.port), ("192.0.2.1", Some(443)));
}

#[tokio::test]
async fn only_listed_fields_are_told_and_a_body_as_text_or_bytes() {
    let request =
        |body: Vec<u8>| Request::post("/").header("x-a", "1").header("x-b", "2").body(Body::from(body)).unwrap();
    let (_, http, _) = asked(&config(&["X-B", "x-c"], Some(9)), request(b"text".to_vec())).await;
    assert_eq!(http.headers.into_iter().collect::<Vec<_>>(), [("x-b".to_owned(), "2".to_owned())]);
    assert_eq!((&*http.body, http.raw_body.len(), http.size), ("text", 0, 4));
    let (_, http, _) = asked(&config(&[], Some(9)), request(vec![0xff, 0])).await;
    assert_eq!((&*http.body, &http.raw_body[..], http.size), ("", &[0xff, 0][..], 2));
}

/// The bytes are put together by hand from the numbers that Envoy's definitions give the fields.
#[test]
fn messages_are_on_the_wire_as_envoys_definitions_say() {
    let http = HttpRequest { id: "i".into(), size: 3, protocol: "p".into(), ..HttpRequest::default() };
    assert_eq!(http.encode_to_vec(), b"\x0a\x01i\x48\x03\x52\x01p");
    let bytes = b"\x0a\x02\x08\x07\x12\x16\x0a\x03\x08\x92\x03\x12\x0a\x0a\x08\x0a\x01a\x12\x01b\x20\x01\x1a\x03own";
    let response = CheckResponse::decode(&bytes[..]).unwrap();
    let Some(HttpAnswer::Denied(denied)) = response.http else { panic!("{response:?}") };
    assert_eq!((response.status.unwrap().code, denied.status.unwrap().code, &*denied.body), (7, 402, "own"));
    let header = denied.headers[0].header.as_ref().unwrap();
    assert_eq!((&*header.key, &*header.value), ("a", "b"));
    let allowed = CheckResponse::decode(&b"\x1a\x0a\x2a\x01r\x3a\x02\x0a\x00\x42\x01q"[..]).unwrap();
    let Some(HttpAnswer::Allowed(details)) = allowed.http else { panic!("{allowed:?}") };
    assert_eq!((details.headers_to_remove, details.query_parameters_to_remove), (vec!["r".into()], vec!["q".into()]));
}

#[tokio::test]
async fn what_is_allowed_goes_on_changed() {
    let details = Allowed {
        headers: vec![
            option("X-User", "ada", None, 0),
            option("x-trace", "mine", Some(true), 0),
            option("x-old", "new", None, 1),
            option("x-absent", "1", None, 3),
        ],
        headers_to_remove: vec!["Authorization".into(), ":path".into(), "Host".into()],
        response_headers_to_add: vec![option("set-cookie", "a=1", None, 0), option("set-cookie", "b=2", None, 0)],
        query_parameters_to_set: vec![QueryParameter { key: "user".into(), value: "ada".into() }],
        query_parameters_to_remove: vec!["token".into()],
    };
    let request = Request::get("/x?token=7&y=%2f")
        .header("host", "a.example")
        .header("authorization", "Bearer 7")
        .header("x-user", "root")
        .header("x-trace", "theirs")
        .header("x-old", "old");
    let (response, served) = check(request, move || says(0, Some(HttpAnswer::Allowed(details.clone())))).await;
    assert_eq!(response.headers().get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    let served = served.unwrap();
    let all = |name: HeaderName| served.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all(HeaderName::from_static("x-user")), ["ada"]);
    assert_eq!(all(HeaderName::from_static("x-trace")), ["theirs", "mine"]);
    assert_eq!(all(HeaderName::from_static("x-old")), ["old"]);
    assert_eq!(served.headers.len(), 5, "{:?}", served.headers);
    assert_eq!(served.uri, "/x?y=%2f&user=ada");
}

#[tokio::test]
async fn what_is_denied_is_answered_as_the_service_says() {
    let denied = Denied {
        status: Some(HttpStatus { code: 302 }),
        headers: vec![
            option("location", "/login", None, 0),
            option("set-cookie", "a=1", None, 0),
            option("set-cookie", "b=2", Some(false), 0),
        ],
        body: "log in".into(),
    };
    let (response, served) = check(Request::get("/"), move || says(16, Some(HttpAnswer::Denied(denied.clone())))).await;
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.headers()["location"], "/login");
    assert_eq!(response.headers().get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert!(response.extensions().get::<Outcome>().is_none() && served.is_none());
    assert_eq!(text(response).await, "log in");
    // Details of a denial deny, whatever the status says.
    let (response, served) = check(Request::get("/"), || says(0, Some(HttpAnswer::Denied(Denied::default())))).await;
    assert_eq!((response.status(), served.is_none()), (StatusCode::FORBIDDEN, true));
}

#[tokio::test]
async fn a_grpc_client_hears_of_its_denial_by_grpc_status() {
    let request = || Request::post("/pkg.Svc/Call").header("content-type", "application/grpc");
    let (response, served) = check(request(), || {
        let headers = vec![option("www-authenticate", "Bearer", None, 0)];
        let denied = Denied { status: Some(HttpStatus { code: 401 }), headers, body: "who are you?".into() };
        says(16, Some(HttpAnswer::Denied(denied)))
    })
    .await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "16");
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert!(served.is_none() && response.into_body().collect().await.unwrap().to_bytes().is_empty());
    // Without details the refusal is ours.
    let (response, served) = check(request(), || says(7, None)).await;
    assert_eq!((response.headers()["grpc-status"].as_bytes(), served.is_none()), (&b"7"[..], true));
    assert_eq!(response.extensions().get(), Some(&Outcome::Forbidden));
}

#[tokio::test]
async fn a_status_that_denies_is_not_outweighed_by_details_that_allow() {
    let (response, served) = check(Request::get("/"), || says(7, Some(HttpAnswer::Allowed(Allowed::default())))).await;
    assert_eq!((response.extensions().get(), served.is_none()), (Some(&Outcome::Forbidden), true));
}

#[tokio::test]
async fn what_is_no_clear_answer_is_no() {
    type Make = fn() -> Response<Body>;
    let broken: [(&str, Make); 13] = [
        ("trailers only", || Response::builder().header("grpc-status", "14").body(Body::empty()).unwrap()),
        ("trailers only, and yet a success", || {
            Response::builder().header("grpc-status", "0").body(Body::empty()).unwrap()
        }),
        ("a status in trailers", || answer(&framed(&CheckResponse::default()), "13")),
        ("no status", || Response::new(Body::from(framed(&CheckResponse::default())))),
        ("not gRPC", || Response::new(Body::from("hello"))),
        ("an HTTP error", || Response::builder().status(503).body(Body::empty()).unwrap()),
        ("a short message", || {
            answer(&framed(&CheckResponse { status: Some(Status { code: 7 }), http: None })[..6], "0")
        }),
        ("two messages", || answer(&framed(&CheckResponse::default()).repeat(2), "0")),
        ("a compressed message", || answer(&[1, 0, 0, 0, 0], "0")),
        ("no protobuf", || answer(&[0, 0, 0, 0, 2, 0xff, 0xff], "0")),
        ("a field that routes", || {
            let headers = vec![option("host", "evil.example", None, 0)];
            says(0, Some(HttpAnswer::Allowed(Allowed { headers, ..Allowed::default() })))
        }),
        ("a pseudo-header", || {
            let headers = vec![option(":path", "/admin", None, 0)];
            says(0, Some(HttpAnswer::Allowed(Allowed { headers, ..Allowed::default() })))
        }),
        ("a value that is none", || {
            let headers = vec![option("x-user", "a\r\nx-admin: 1", None, 0)];
            says(0, Some(HttpAnswer::Allowed(Allowed { headers, ..Allowed::default() })))
        }),
    ];
    for (what, answer) in broken {
        let (response, served) = check(Request::get("/"), answer).await;
        assert_eq!(response.extensions().get(), Some(&Outcome::Forbidden), "{what}");
        assert!(served.is_none(), "{what}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no() {
    let (service, _asked) = double(|| {
        let frames: Vec<Result<Frame<Bytes>, BoxError>> =
            vec![Ok(Frame::data(framed(&CheckResponse::default()).into())), Err("reset".into())];
        Ok::<_, Error>(Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames)))))
    });
    let (app, mut served) = app();
    let service = AuthLayer::new(&config(&[], None), service).unwrap().layer(app);
    let response = service.oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(served.try_recv().is_err());
}
