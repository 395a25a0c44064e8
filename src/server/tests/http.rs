//! What is served, to whom, and what becomes of services that fail.

use axum::{Router, extract::Extension, routing};
use tokio::net::TcpStream;

use super::*;
use crate::server::{Listener, Server};

#[tokio::test]
async fn an_axum_router_is_served_over_both_versions_on_one_port() {
    let app = Router::new().route(
        "/who",
        routing::get(|Extension(info): Extension<ConnectionInfo>, version: ::http::Version| async move {
            format!("{} {version:?}", info.peer_addr().ip())
        }),
    );
    let server = Server::default().http("127.0.0.1:0").listen(Listener::new("127.0.0.1:0")).bind().unwrap();
    let addresses = server.local_addrs().to_vec();
    assert_eq!(addresses.len(), 2);
    let drain = server.drain();
    let server = tokio::spawn(server.serve(app));

    for address in addresses {
        let mut io = TcpStream::connect(address).await.unwrap();
        io.write_all(b"GET /who HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(read_to_end(&mut io).await.ends_with("127.0.0.1 HTTP/1.1"));

        let (mut client, _) = h2_client(TcpStream::connect(address).await.unwrap()).await;
        let answer = client.send_request(get("/who")).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "127.0.0.1 HTTP/2.0");
    }
    drain.begin();
    assert_eq!(server.await.unwrap().cut, 0);
}

#[tokio::test]
async fn a_request_split_anywhere_is_put_together_again() {
    for request in ["POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi"] {
        for at in 1..request.len() {
            let mut pipe = serve(echo());
            let (first, rest) = request.split_at(at);
            pipe.client.write_all(first.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
            pipe.client.write_all(rest.as_bytes()).await.unwrap();
            assert!(read_to_end(&mut pipe.client).await.ends_with("\r\n\r\nhi"), "split at {at}");
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let service = service_fn(|request: Request<Body>| {
        ready(Ok::<_, Infallible>(Response::new(Body::from(request.uri().path().to_owned()))))
    });
    let mut pipe = serve(service);
    let requests = "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    pipe.client.write_all(requests.as_bytes()).await.unwrap();
    let answers = read_to_end(&mut pipe.client).await;
    assert!(answers.find("/1").unwrap() < answers.find("/2").unwrap());
}

#[tokio::test]
async fn a_service_that_is_not_ready_at_once_is_waited_for() {
    /// Ready at its second poll; panics when it is called before.
    struct Slow(bool);
    impl Clone for Slow {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl Service<Request<Body>> for Slow {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;
        fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
            if std::mem::replace(&mut self.0, true) {
                return std::task::Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            assert!(std::mem::replace(&mut self.0, false), "called before it was ready");
            ready(Ok(Response::new(Body::from("ready"))))
        }
    }
    let mut pipe = serve(Slow(false));
    pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut pipe.client).await.ends_with("ready"));
}

#[tokio::test]
async fn a_place_in_a_queue_is_kept_and_not_lost() {
    let gate = Gate::default();
    let limited = tower::ServiceBuilder::new().concurrency_limit(1).service(gate.service());
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (mut first, mut second) = (serve(limited.clone()), serve(limited));
    first.client.write_all(request).await.unwrap();
    gate.came().await;
    second.client.write_all(request).await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.waiting(), 1);
    gate.open();
    assert!(read_to_end(&mut first.client).await.ends_with("done"));
    gate.came().await;
    gate.open();
    assert!(read_to_end(&mut second.client).await.ends_with("done"));
}

#[tokio::test]
async fn a_service_that_fails_or_panics_ends_one_connection_or_stream() {
    let service = service_fn(|request: Request<Body>| async move {
        match request.uri().path() {
            "/fail" => Err(BoxError::from("broken")),
            "/panic" => panic!("on purpose"),
            _ => Ok(Response::new(Body::from("fine"))),
        }
    });
    for path in ["/fail", "/panic"] {
        let mut pipe = serve(service);
        pipe.client.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(read_to_end(&mut pipe.client).await, "");
        let _ = pipe.server.await;
        assert_eq!(pipe.drain.in_flight(), 0);
    }
    let pipe = serve(service);
    let (mut client, _connection) = h2_client(pipe.client).await;
    client.send_request(get("/fail")).await.unwrap_err();
    client.send_request(get("/panic")).await.unwrap_err();
    assert_eq!(client.send_request(get("/")).await.unwrap().status(), 200);
    drop(client);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let gate = Gate::default();
    let mut pipe = serve(gate.service());
    pipe.client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    gate.came().await;
    drop(pipe.client);
    pipe.server.await.unwrap();
    assert_eq!(gate.waiting(), 0);
}

#[tokio::test]
async fn the_connection_limit_makes_the_next_client_wait() {
    let gate = Gate::default();
    let config = ServerConfig { max_connections: 1, ..ServerConfig::default() };
    let server = Server::new(config).http("127.0.0.1:0").bind().unwrap();
    let address = server.local_addrs()[0];
    tokio::spawn(server.serve(gate.service()));
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(request).await.unwrap();
    gate.came().await;
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(request).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(gate.waiting(), 1);
    gate.open();
    assert!(read_to_end(&mut first).await.ends_with("done"));
    gate.came().await;
    gate.open();
    assert!(read_to_end(&mut second).await.ends_with("done"));
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::default().http(address).bind().unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    Server::default().http("nonsense").bind().unwrap_err();
    let shared = || Listener::new("127.0.0.1:0").reuse_port(true);
    let first = Server::default().listen(shared()).bind().unwrap();
    let same = Listener::new(first.local_addrs()[0]).reuse_port(true);
    assert!(Server::default().listen(same).bind().is_ok() || !cfg!(unix));
}

#[cfg(feature = "proxy-protocol")]
#[tokio::test]
async fn the_proxy_protocol_names_the_client() {
    let service = service_fn(|request: Request<Body>| {
        let info = request.extensions().get::<ConnectionInfo>().unwrap();
        ready(Ok::<_, Infallible>(Response::new(Body::from(format!("{} {}", info.peer_addr(), info.local_addr())))))
    });
    let proxy = crate::server::ProxyProtocol::required_from(["127.0.0.0/8".parse().unwrap()]);
    let server = Server::default().listen(Listener::new("127.0.0.1:0").proxy_protocol(proxy)).bind().unwrap();
    let address = server.local_addrs()[0];
    tokio::spawn(server.serve(service));

    let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(format!("PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n{request}").as_bytes()).await.unwrap();
    assert!(read_to_end(&mut io).await.ends_with("[2001:db8::7]:4711 [2001:db8::1]:443"));

    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(read_to_end(&mut io).await, "");
}
