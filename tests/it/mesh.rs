//! Calls between services through the layers as code stacks them, over real sockets.

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error as StdError,
    future::{poll_fn, ready},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use portcullis::{
    Body, Error, Outcome,
    config::{self, Balancer, Certificate, Endpoints, Protocol, Roots, UpstreamTls},
    hedge::HedgeLayer,
    identity::{AllowLayer, PeerIdentity, PeerRule},
    retry::{Budget, Conditions, RetryLayer},
    server::{Server, ServerConfig},
    tls::{CertificateRefused, ClientCertificates, Identity, RefusedReason, ServerTls, Trust},
    upstream::Upstream,
};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{
    PATIENCE, Raw, backend,
    pki::{Leaf, Pki},
    soon, within,
};

const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";
const PAY: &str = "spiffe://mesh.example/ns/shop/sa/pay";

/// For this name, a URI where it has a scheme; without a subject, as a mesh issues them.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let text = name.try_into().unwrap();
    params.subject_alt_names = vec![if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn expired(name: &str) -> CertificateParams {
    let mut params = params(name);
    (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    params
}

fn certificate(Leaf { certificate, key }: Leaf) -> Certificate {
    Certificate { origin: "test".into(), hosts: Vec::new(), chain: certificate.into(), key: key.into() }
}

fn identity(pki: &Pki, params: &CertificateParams) -> Identity {
    showing(pki.sign(params), pki)
}

fn showing(leaf: Leaf, trusted: &Pki) -> Identity {
    Identity::new(&certificate(leaf), Trust::new(trusted.ca().as_bytes(), b"").unwrap()).unwrap()
}

fn mutual(identity: &Identity) -> ServerTls {
    let required = ClientCertificates::required(identity.trust().clone());
    ServerTls::new(identity.clone()).unwrap().client_certificates(required)
}

/// Serves who may come, and answers with the hash of the certificate that they showed.
fn pay(identity: &Identity, config: ServerConfig) -> SocketAddr {
    let server = Server::new(config).https("127.0.0.1:0", mutual(identity)).bind().unwrap();
    let address = server.local_addrs()[0];
    let service = ServiceBuilder::new().layer(AllowLayer::new([PeerRule::SpiffeId(CART.parse().unwrap())])).service_fn(
        |request: Request<Body>| {
            let peer = PeerIdentity::of(request.extensions()).unwrap().certificate_sha256().unwrap().to_vec();
            ready(Ok::<_, Infallible>(Response::new(Body::from(Bytes::from(peer)))))
        },
    );
    tokio::spawn(server.serve(service));
    address
}

fn upstream(endpoints: impl IntoIterator<Item = SocketAddr>) -> config::Upstream {
    config::Upstream::new("pay", Endpoints::fixed(endpoints))
}

fn get(path: &str) -> Request<Body> {
    Request::get(format!("https://pay.example{path}")).body(Body::empty()).unwrap()
}

async fn answer<S>(service: &S, request: Request<Body>) -> Result<(StatusCode, Bytes), Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Error> + Clone,
{
    let response = soon("an answer", service.clone().oneshot(request)).await?;
    let status = response.status();
    Ok((status, soon("its body", response.into_body().collect()).await.map_err(truncated)?.to_bytes()))
}

fn truncated(error: portcullis::BoxError) -> Error {
    Error::new(Outcome::ResponseTruncated).with_source(error)
}

/// The refusal among the causes.
fn refused(error: &Error) -> &CertificateRefused {
    let mut causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref()).unwrap_or_else(|| panic!("not over a certificate: {error}"))
}

/// What is logged by the futures that are given it as subscriber.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
        let log = self.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One case: who meets whom, what the caller's error says, and what the server's log says.
struct Meeting {
    what: &'static str,
    server: Identity,
    /// `None`: no certificate.
    client: Option<Identity>,
    expected: UpstreamTls,
    ours: bool,
    reason: RefusedReason,
    logged: &'static str,
}

#[tokio::test]
async fn whoever_is_refused_and_by_whom_both_sides_can_tell_why() {
    use RefusedReason::{Expired, Missing, UnknownAuthority, WrongName};
    const THEIRS: &str = "the peer refuses our certificate: ";
    let (pki, other) = (Pki::new(), Pki::new());
    let good = |id| identity(&pki, &params(id));
    let id = || UpstreamTls { spiffe_id: Some(PAY.parse().unwrap()), ..UpstreamTls::default() };
    let name = |name: &str| UpstreamTls { server_name: Some(name.into()), ..UpstreamTls::default() };
    let domain = |name: &str| UpstreamTls { trust_domain: Some(name.parse().unwrap()), ..UpstreamTls::default() };
    let meeting = |what, server, client, expected, ours, reason, logged| Meeting {
        what,
        server,
        client,
        expected,
        ours,
        reason,
        logged,
    };
    let cart = || Some(good(CART));
    let cases = [
        meeting(
            "server of another authority",
            showing(other.sign(&params(PAY)), &pki),
            cart(),
            id(),
            false,
            UnknownAuthority,
            THEIRS,
        ),
        meeting("server expired", identity(&pki, &expired(PAY)), cart(), id(), false, Expired, THEIRS),
        meeting("server of another SPIFFE ID", good(CART), cart(), id(), false, WrongName, THEIRS),
        meeting("server of another trust domain", good(PAY), cart(), domain("other.example"), false, WrongName, THEIRS),
        meeting(
            "server of another DNS name",
            good("pay.example"),
            cart(),
            name("cart.example"),
            false,
            WrongName,
            THEIRS,
        ),
        meeting(
            "client without certificate",
            good(PAY),
            None,
            id(),
            true,
            Missing,
            "the peer's certificate is refused: there is none",
        ),
        meeting(
            "client of another authority",
            good(PAY),
            Some(showing(other.sign(&params(CART)), &pki)),
            id(),
            true,
            UnknownAuthority,
            "the peer's certificate is refused (spiffe://mesh.example/ns/shop/sa/cart): no trusted authority has signed it",
        ),
        meeting(
            "client expired",
            good(PAY),
            Some(identity(&pki, &expired(CART))),
            id(),
            true,
            Expired,
            "the peer's certificate is refused (spiffe://mesh.example/ns/shop/sa/cart): it has expired",
        ),
    ];
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for case in &cases {
            let what = format!("{}, {protocol:?}", case.what);
            let log = Log::default();
            let server = Server::default().https("127.0.0.1:0", mutual(&case.server)).bind().unwrap();
            let address = server.local_addrs()[0];
            let served = service_fn(|_: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Body::from("served")))));
            let (stop, stopped) = oneshot::channel::<()>();
            // In this task, as a subscriber of its own is not handed on to those that a server spawns.
            let serving = server.serve_with_shutdown(served, async { drop(stopped.await) });

            let roots = Roots::Pem(pki.ca().as_bytes().into());
            let config = config::Upstream { tls: Some(case.expected.clone()), protocol, ..upstream([address]) };
            let caller = match &case.client {
                Some(identity) => Upstream::mtls(config, identity).unwrap(),
                None => {
                    let tls = UpstreamTls { roots, ..case.expected.clone() };
                    Upstream::new(config::Upstream { tls: Some(tls), ..config }).unwrap()
                }
            };
            let calling = async {
                let error = answer(&caller, get("/")).await.expect_err(&what);
                drop(stop);
                error
            };
            let guard = tracing::subscriber::set_default(log.subscriber());
            let (_, error) = tokio::join!(serving, calling);
            drop(guard);

            assert_eq!(error.outcome(), Outcome::CertificateRefused, "{what}: {error}");
            let refusal = refused(&error);
            assert_eq!((refusal.reason(), refusal.is_ours()), (case.reason, case.ours), "{what}: {error}");
            assert!(log.text().contains(case.logged), "{what}: {}", log.text());
        }
    }
}

#[tokio::test]
async fn a_client_of_another_name_is_answered_that_it_may_not() {
    let pki = Pki::new();
    let address = pay(&identity(&pki, &params(PAY)), ServerConfig::default());
    let tls = UpstreamTls { spiffe_id: Some(PAY.parse().unwrap()), ..UpstreamTls::default() };
    for (name, status) in [
        (CART, StatusCode::OK),
        (PAY, StatusCode::FORBIDDEN),
        ("spiffe://other.example/ns/shop/sa/cart", StatusCode::FORBIDDEN),
        ("cart.example", StatusCode::FORBIDDEN),
    ] {
        let config = config::Upstream { tls: Some(tls.clone()), ..upstream([address]) };
        let caller = Upstream::mtls(config, &identity(&pki, &params(name))).unwrap();
        assert_eq!(answer(&caller, get("/")).await.unwrap().0, status, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load_fails_no_request() {
    let (old, new) = (Pki::new(), Pki::new());
    let (cart_identity, pay_identity) = (identity(&old, &params(CART)), identity(&old, &params(PAY)));
    // Connections end all the time, so that there are handshakes at every moment.
    let config = ServerConfig { max_requests_per_connection: Some(20), ..ServerConfig::default() };
    let addresses = [pay(&pay_identity, config.clone()), pay(&pay_identity, config)];
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let tls = UpstreamTls { spiffe_id: Some(PAY.parse().unwrap()), ..UpstreamTls::default() };
        let config = config::Upstream { tls: Some(tls), protocol, ..upstream(addresses) };
        // Sent again is only what a connection that ends did not process: over HTTP/2 that may have a body.
        let retry = RetryLayer::new().conditions(Conditions::none().refused()).max_retries(5);
        let caller = ServiceBuilder::new().layer(retry).service(Upstream::mtls(config, &cart_identity).unwrap());
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let shown: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let mut load = JoinSet::new();
        for _ in 0..8 {
            let (caller, stop, answered, shown) = (caller.clone(), stop.clone(), answered.clone(), shown.clone());
            load.spawn(async move {
                while !stop.load(Relaxed) {
                    // A POST, which is not sent again by anybody once a byte of it went out.
                    let request = Request::post("https://pay.example/").body(Body::from("pay 10")).unwrap();
                    let (status, hash) = answer(&caller, request).await.unwrap();
                    assert_eq!(status, StatusCode::OK);
                    let mut shown = shown.lock().unwrap();
                    if !shown.contains(&hash) {
                        shown.push(hash);
                    }
                    answered.fetch_add(1, Relaxed);
                }
            });
        }
        let more = async |more: usize| {
            let target = answered.load(Relaxed) + more;
            crate::support::until("more answers", PATIENCE, || answered.load(Relaxed) >= target).await;
        };
        let seen = async |certificates: usize| {
            crate::support::until("the next certificate", PATIENCE, || shown.lock().unwrap().len() >= certificates)
                .await;
        };

        more(200).await;
        // The authority is the same: only the certificates change.
        for (identity, id) in [(&cart_identity, CART), (&pay_identity, PAY)] {
            identity.replace(&certificate(old.sign(&params(id)))).unwrap();
        }
        seen(2).await;
        // The authority changes: both are trusted, then the new certificates are shown, then only the new one is.
        for identity in [&cart_identity, &pay_identity] {
            identity.trust().replace(format!("{}{}", old.ca(), new.ca()).as_bytes(), b"").unwrap();
        }
        more(200).await;
        for (identity, id) in [(&cart_identity, CART), (&pay_identity, PAY)] {
            identity.replace(&certificate(new.sign(&params(id)))).unwrap();
        }
        seen(3).await;
        for identity in [&cart_identity, &pay_identity] {
            identity.trust().replace(new.ca().as_bytes(), b"").unwrap();
        }
        more(200).await;
        stop.store(true, Relaxed);
        while let Some(ended) = soon("the load's end", load.join_next()).await {
            ended.unwrap();
        }
        // For the other protocol from the start again.
        for (identity, id) in [(&cart_identity, CART), (&pay_identity, PAY)] {
            identity.replace_all(&certificate(old.sign(&params(id))), old.ca().as_bytes(), b"").unwrap();
        }
    }
}

/// Whatever can be done to a request that arrived.
async fn do_harm(mut peer: backend::Peer, rng: Arc<Mutex<fastrand::Rng>>) -> io::Result<()> {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    loop {
        let what = rng.lock().unwrap().u8(..10);
        if what == 0 {
            // Nothing is read of it.
            return peer.reset();
        }
        let Some(head) = peer.head().await? else { return Ok(()) };
        if what == 1 {
            return peer.reset();
        }
        if what == 2 {
            return Ok(());
        }
        if head.contains("content-length") {
            let _ = peer.piece().await?;
        }
        match what {
            3 => return peer.reset(),
            4 => return Ok(()),
            5 => peer.write("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await?,
            6 => {
                // As if it kept the connection.
                peer.write(OK).await?;
                return Ok(());
            }
            7 => {
                peer.write("HTTP/1.1 200 OK\r\nContent-").await?;
                return Ok(());
            }
            8 => {
                // Later than a hedge waits.
                tokio::time::sleep(Duration::from_millis(3)).await;
                peer.write(OK).await?;
            }
            _ => peer.write(OK).await?,
        }
    }
}

#[tokio::test]
async fn a_post_without_a_key_arrives_at_most_once_whatever_happens_to_it() {
    const REQUESTS: usize = 900;
    let rng = Arc::new(Mutex::new(fastrand::Rng::with_seed(7)));
    let start = || {
        let rng = rng.clone();
        Raw::start(move |peer| do_harm(peer, rng.clone()))
    };
    let backends = [start().await, start().await, start().await];
    let config = config::Upstream { balancer: Balancer::Random, ..upstream(backends.iter().map(|raw| raw.addr)) };
    // As eager as it can be.
    let budget = Budget::new(1000, 1000, Duration::from_secs(10));
    let conditions = Conditions::default().server_errors();
    let caller = ServiceBuilder::new()
        .layer(
            RetryLayer::new()
                .conditions(conditions)
                .max_retries(4)
                .per_try_timeout(Duration::from_secs(2))
                .backoff(Duration::from_micros(1), Duration::from_micros(10))
                .budget(budget.clone()),
        )
        .layer(HedgeLayer::after(Duration::from_millis(1)).budget(budget))
        .service(Upstream::new(config).unwrap());

    let mut calls = JoinSet::new();
    for number in 0..REQUESTS {
        let mut request = Request::builder().method(if number % 3 == 0 { Method::GET } else { Method::POST });
        if number % 3 == 1 {
            request = request.header("idempotency-key", number);
        }
        let request = request.uri("http://pay.example/").header("x-number", number);
        let body = if number % 3 == 0 { Body::empty() } else { Body::from("pay 10") };
        let (caller, request) = (caller.clone(), request.body(body).unwrap());
        calls.spawn(async move { answer(&caller, request).await.is_ok_and(|(status, _)| status == StatusCode::OK) });
        // A few at a time, so that connections are used again.
        if calls.len() >= 8 {
            within("a call", Duration::from_secs(30), calls.join_next()).await.unwrap().unwrap();
        }
    }
    let rest = within("the rest", Duration::from_secs(30), calls.join_all()).await;
    assert!(rest.len() < 8);

    let received: String = backends.iter().map(Raw::received).collect();
    let mut arrivals: HashMap<usize, usize> = HashMap::new();
    for line in received.lines() {
        if let Some(number) = line.strip_prefix("x-number: ") {
            *arrivals.entry(number.trim().parse().unwrap()).or_default() += 1;
        }
    }
    let mut repeated = [0; 3];
    for (number, times) in arrivals {
        repeated[number % 3] += usize::from(times > 1);
        assert!(number % 3 != 2 || times == 1, "POST {number} without a key arrived {times} times");
    }
    // What may be repeated was, many times: there was something to get wrong.
    assert!(repeated[0] > 50 && repeated[1] > 50, "{repeated:?}");
}

/// The same over HTTP/2. Notes the numbers of those that arrived and were not refused.
async fn do_harm_over_h2(socket: TcpStream, rng: Arc<Mutex<fastrand::Rng>>, arrived: Arc<Mutex<Vec<usize>>>) {
    let status = |code: u16| Response::builder().status(code).body(()).unwrap();
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((mut request, mut respond))) = connection.accept().await {
        let what = rng.lock().unwrap().u8(..14);
        if what == 0 {
            // It says that it did not process it, so it may come again.
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let number = request.headers()["x-number"].to_str().unwrap().parse().unwrap();
        arrived.lock().unwrap().push(number);
        match what {
            1 => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            2 => drop(tokio::spawn(async move {
                // After the body.
                while let Some(Ok(_)) = request.body_mut().data().await {}
                respond.send_reset(h2::Reason::INTERNAL_ERROR);
            })),
            // GOAWAY, and an end, while what arrived has no answer.
            3 => connection.abrupt_shutdown(h2::Reason::NO_ERROR),
            4 => connection.abrupt_shutdown(h2::Reason::INTERNAL_ERROR),
            // Cut.
            5 => return,
            6 => {
                connection.graceful_shutdown();
                let _ = respond.send_response(status(200), true);
            }
            7 => {
                let _ = respond.send_response(status(503), true);
            }
            8 => {
                if let Ok(mut body) = respond.send_response(status(200), false) {
                    body.send_reset(h2::Reason::INTERNAL_ERROR);
                }
            }
            9 => drop(tokio::spawn(async move {
                // Later than a hedge waits.
                tokio::time::sleep(Duration::from_millis(3)).await;
                let _ = respond.send_response(status(200), true);
            })),
            _ => {
                let _ = respond.send_response(status(200), true);
            }
        }
    }
}

#[tokio::test]
async fn a_post_without_a_key_is_processed_at_most_once_over_http_2() {
    const REQUESTS: usize = 900;
    let rng = Arc::new(Mutex::new(fastrand::Rng::with_seed(7)));
    let arrived: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        endpoints.push(listener.local_addr().unwrap());
        let (rng, arrived) = (rng.clone(), arrived.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(do_harm_over_h2(socket, rng.clone(), arrived.clone()));
            }
        });
    }
    let config = config::Upstream { balancer: Balancer::Random, protocol: Protocol::Http2, ..upstream(endpoints) };
    // As eager as it can be.
    let budget = Budget::new(1000, 1000, Duration::from_secs(10));
    let caller = ServiceBuilder::new()
        .layer(
            RetryLayer::new()
                .conditions(Conditions::default().server_errors())
                .max_retries(4)
                .per_try_timeout(Duration::from_secs(2))
                .backoff(Duration::from_micros(1), Duration::from_micros(10))
                .budget(budget.clone()),
        )
        .layer(HedgeLayer::after(Duration::from_millis(1)).budget(budget))
        .service(Upstream::new(config).unwrap());

    let mut calls = JoinSet::new();
    for number in 0..REQUESTS {
        let mut request = Request::builder().method(if number % 3 == 0 { Method::GET } else { Method::POST });
        if number % 3 == 1 {
            request = request.header("idempotency-key", number);
        }
        let request = request.uri("http://pay.example/").header("x-number", number);
        let body = if number % 3 == 0 { Body::empty() } else { Body::from("pay 10") };
        let (caller, request) = (caller.clone(), request.body(body).unwrap());
        calls.spawn(async move { drop(answer(&caller, request).await) });
        // A few at a time, so that streams share connections that end.
        if calls.len() >= 8 {
            within("a call", Duration::from_secs(30), calls.join_next()).await.unwrap().unwrap();
        }
    }
    within("the rest", Duration::from_secs(30), calls.join_all()).await;

    let mut arrivals: HashMap<usize, usize> = HashMap::new();
    for number in arrived.lock().unwrap().iter() {
        *arrivals.entry(*number).or_default() += 1;
    }
    let mut repeated = [0; 3];
    for (number, times) in arrivals {
        repeated[number % 3] += usize::from(times > 1);
        assert!(number % 3 != 2 || times == 1, "POST {number} without a key was processed {times} times");
    }
    // What may be repeated was, many times: there was something to get wrong.
    assert!(repeated[0] > 50 && repeated[1] > 50, "{repeated:?}");
}

/// Two backends that keep the first request, and answer the second. Tells how the first one's stream or connection ended.
async fn keeps_the_first_over_h2(ended: oneshot::Sender<h2::Reason>) -> [SocketAddr; 2] {
    let (first, ended) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Some(ended))));
    let start = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (first, ended) = (first.clone(), ended.clone());
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                if first.swap(false, SeqCst) {
                    let ended = ended.lock().unwrap().take().unwrap();
                    tokio::spawn(async move {
                        let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                        ended.send(reason).unwrap();
                    });
                } else {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            }
        });
        address
    };
    [start().await, start().await]
}

#[tokio::test]
async fn the_loser_of_a_hedge_is_reset_over_http_2() {
    let (sender, ended) = oneshot::channel();
    let endpoints = keeps_the_first_over_h2(sender).await;
    let config = config::Upstream { protocol: Protocol::Http2, ..upstream(endpoints) };
    let caller = ServiceBuilder::new()
        .layer(HedgeLayer::after(Duration::from_millis(1)))
        .service(Upstream::new(config).unwrap());
    assert_eq!(answer(&caller, get("/")).await.unwrap().0, StatusCode::OK);
    assert_eq!(soon("RST_STREAM", ended).await.unwrap(), h2::Reason::CANCEL);
}

#[tokio::test]
async fn the_loser_of_a_hedge_is_closed_over_http_1() {
    let first = Arc::new(AtomicBool::new(true));
    let (sender, ended) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let start = || {
        let (first, sender) = (first.clone(), sender.clone());
        Raw::start(move |mut peer| {
            let (first, sender) = (first.clone(), sender.clone());
            async move {
                while peer.request().await?.is_some() {
                    if first.swap(false, SeqCst) {
                        let end = peer.head().await;
                        sender.lock().unwrap().take().unwrap().send(end).unwrap();
                        return Ok(());
                    }
                    peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
                }
                Ok(())
            }
        })
    };
    let backends = [start().await, start().await];
    let caller = ServiceBuilder::new()
        .layer(HedgeLayer::after(Duration::from_millis(1)))
        .service(Upstream::new(upstream(backends.iter().map(|raw| raw.addr))).unwrap());
    assert_eq!(answer(&caller, get("/")).await.unwrap().0, StatusCode::OK);
    // Closed, or reset: no more requests come on it.
    assert!(matches!(soon("the end", ended).await.unwrap(), Ok(None) | Err(_)));
}

#[tokio::test]
async fn an_endpoint_that_answers_well_but_slowly_is_ejected() {
    const SLOW: Duration = Duration::from_millis(300);
    let slow = Arc::new(AtomicUsize::new(0));
    let start = |is_slow: bool| {
        let slow = slow.clone();
        Raw::start(move |mut peer| {
            let slow = slow.clone();
            async move {
                while peer.request().await?.is_some() {
                    if is_slow {
                        slow.fetch_add(1, SeqCst);
                        tokio::time::sleep(2 * SLOW).await;
                    }
                    peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
                }
                Ok(())
            }
        })
    };
    let backends = [start(true).await, start(false).await, start(false).await];
    let outlier_detection = Some(config::OutlierDetection {
        interval: Duration::from_secs(1),
        failure_percentage_volume: 3,
        min_hosts: 1,
        slow_call: Some(SLOW),
        slow_call_rate: 100,
        ..config::OutlierDetection::default()
    });
    let endpoints = backends.iter().map(|raw| raw.addr);
    let config = config::Upstream { balancer: Balancer::Random, outlier_detection, ..upstream(endpoints) };
    let caller = Upstream::new(config).unwrap();
    let ejected = async {
        let mut spared = 0;
        // By chance alone it would be passed over so often once in two million times.
        while spared < 3 {
            let before = slow.load(SeqCst);
            let mut calls = JoinSet::new();
            for _ in 0..12 {
                let caller = caller.clone();
                calls.spawn(async move { answer(&caller, get("/")).await.unwrap().0 });
            }
            assert!(calls.join_all().await.iter().all(|status| *status == StatusCode::OK));
            spared = if slow.load(SeqCst) == before { spared + 1 } else { 0 };
        }
    };
    within("the ejection", Duration::from_secs(20), ejected).await;
    assert!(slow.load(SeqCst) >= 3, "it was tried before");
}
