//! GRPCRoutes, with calls over HTTP/2 to a backend that speaks it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    Ingress, free_port,
    gateway_api::{Listener, gateway, route},
    manifest::backend,
    soon,
};

/// An empty message.
const MESSAGE: &[u8] = &[0; 5];

/// A backend over HTTP/2 without TLS. Its answer has its name, the request's path and those of its fields that begin with
/// `x-`, each as `was-x-…`, and ends well.
async fn pot(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut response = Response::new(());
                    let fields = response.headers_mut();
                    fields.insert("content-type", HeaderValue::from_static("application/grpc"));
                    fields.insert("pot", HeaderValue::from_static(name));
                    fields.insert("path", request.uri().path().parse().unwrap());
                    fields.insert("own", HeaderValue::from_static("own"));
                    for (field, value) in request.headers() {
                        if field.as_str().starts_with("x-") {
                            fields.append(http::HeaderName::try_from(format!("was-{field}")).unwrap(), value.clone());
                        }
                    }
                    let mut body = respond.send_response(response, false).unwrap();
                    body.send_data(Bytes::from_static(MESSAGE), false).unwrap();
                    let trailers = [("grpc-status", "0"), ("grpc-message", name)];
                    let trailers = trailers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
                    body.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
                }
            });
        }
    });
    addr
}

/// What a call came to.
struct Called {
    status: u16,
    fields: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
}

impl Called {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    /// As a client of gRPC reads it: of the trailers, or of the head where it is alone.
    fn grpc_status(&self) -> &str {
        self.trailers.get("grpc-status").or_else(|| self.fields.get("grpc-status")).unwrap().to_str().unwrap()
    }
}

async fn call(addr: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Called {
    let called = async {
        let (client, connection) = h2::client::handshake(TcpStream::connect(addr).await.unwrap()).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut request = Request::post(format!("http://tea.example{path}")).body(()).unwrap();
        let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
        for (name, value) in grpc.iter().chain(fields) {
            request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let (response, mut sending) = client.ready().await.unwrap().send_request(request, false).unwrap();
        sending.send_data(Bytes::from_static(MESSAGE), true).unwrap();
        let (head, mut receiving) = response.await.unwrap().into_parts();
        let mut body = Vec::new();
        while let Some(data) = receiving.data().await {
            let data = data.unwrap();
            receiving.flow_control().release_capacity(data.len()).unwrap();
            body.extend_from_slice(&data);
        }
        let trailers = receiving.trailers().await.unwrap().unwrap_or_default();
        driver.abort();
        Called { status: head.status.as_u16(), fields: head.headers, body, trailers }
    };
    soon("an answer to a call", called).await
}

/// A Gateway with these rules of a GRPCRoute.
async fn tea(rules: &[&str], backends: &[(&str, SocketAddr)]) -> (Ingress, SocketAddr) {
    let port = free_port();
    let mut world = gateway("web", &[Listener("http", port, "HTTP", "", "")], "")
        + &route("GRPCRoute", "tea", "{name: web}", "tea.example", rules);
    for (name, addr) in backends {
        world += &backend(name, &[*addr]);
    }
    (Ingress::start(&world).await, SocketAddr::from(([127, 0, 0, 1], port)))
}

#[tokio::test]
async fn a_call_is_matched_by_method_and_header_and_ends_with_the_backends_trailers() {
    let backends = [("green", pot("green").await), ("black", pot("black").await)];
    let rules = [
        "{matches: [{method: {service: tea.Pot, method: Pour}}], backendRefs: [{name: green, port: 80}]}",
        "{matches: [{method: {service: tea.Pot}, headers: [{name: x-kind, value: black}]}], \
         backendRefs: [{name: black, port: 80}]}",
    ];
    let (_ingress, addr) = tea(&rules, &backends).await;
    for (path, fields, pot) in [
        ("/tea.Pot/Pour", &[][..], Some("green")),
        ("/tea.Pot/Pour", &[("x-kind", "black")], Some("green")),
        ("/tea.Pot/Fill", &[("x-kind", "black")], Some("black")),
        ("/tea.Pot/Fill", &[], None),
        ("/tea.Pot/pour", &[], None),
        ("/tea.Cup/Pour", &[("x-kind", "black")], None),
    ] {
        let called = call(addr, path, fields).await;
        assert_eq!((called.status, called.field("pot")), (200, pot), "{path} {fields:?}");
        // Unimplemented, where no rule fits.
        assert_eq!(called.grpc_status(), if pot.is_some() { "0" } else { "12" }, "{path} {fields:?}");
        if let Some(pot) = pot {
            assert_eq!((called.field("path"), &*called.body), (Some(path), MESSAGE));
            assert_eq!(called.trailers["grpc-message"], pot);
        }
    }
}

#[tokio::test]
async fn fields_of_calls_and_of_their_answers_are_set_added_and_removed() {
    let backends = [("green", pot("green").await)];
    let rule = "{filters: [\
        {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: ours}], \
         add: [{name: X-Add, value: more}], remove: [x-remove]}}, \
        {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: Own, value: ours}], \
         add: [{name: was-x-set, value: more}], remove: [path]}}], \
        backendRefs: [{name: green, port: 80}]}";
    let (_ingress, addr) = tea(&[rule], &backends).await;
    let fields = [("x-set", "theirs"), ("x-add", "first"), ("x-remove", "gone"), ("x-keep", "kept")];
    let called = call(addr, "/tea.Pot/Pour", &fields).await;
    // A value that is added is another line, or joined by a comma.
    let all = |name: &str| {
        let values = called.fields.get_all(name).iter().map(|value| value.to_str().unwrap());
        values.collect::<Vec<_>>().join(",")
    };
    assert_eq!(called.grpc_status(), "0");
    assert_eq!((all("was-x-set"), all("was-x-add")), ("ours,more".to_owned(), "first,more".to_owned()));
    assert_eq!((all("was-x-remove"), all("was-x-keep")), (String::new(), "kept".to_owned()));
    assert_eq!((all("own"), all("path")), ("ours".to_owned(), String::new()));
}

#[tokio::test]
async fn calls_are_shared_out_by_weight_and_those_to_a_dead_backend_are_unavailable() {
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let backends = [("green", pot("green").await), ("black", pot("black").await), ("dead", dead)];
    let rules = [
        "{matches: [{method: {service: tea.Pot}}], \
         backendRefs: [{name: green, port: 80, weight: 3}, {name: black, port: 80}]}",
        "{matches: [{method: {service: tea.Cup}}], backendRefs: [{name: dead, port: 80}]}",
        "{matches: [{method: {service: tea.Tray}}], backendRefs: [{name: missing, port: 80}]}",
    ];
    let (_ingress, addr) = tea(&rules, &backends).await;
    let mut green = 0;
    for _ in 0..8 {
        let called = call(addr, "/tea.Pot/Pour", &[]).await;
        assert_eq!(called.grpc_status(), "0");
        green += usize::from(called.field("pot") == Some("green"));
    }
    assert_eq!(green, 6);
    // What stands for 500 among the statuses of gRPC is unknown.
    for (service, expected) in [("Cup", "14"), ("Tray", "2")] {
        let called = call(addr, &format!("/tea.{service}/Fill"), &[]).await;
        assert_eq!((called.status, called.grpc_status()), (200, expected), "{service}");
    }
}
