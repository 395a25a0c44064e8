//! Calls between services through the layers as code stacks them, over real sockets.

use std::{
    convert::Infallible,
    error::Error as StdError,
    future::ready,
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
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use portcullis::{
    Body, Error, Outcome,
    config::{self, Balancer, Certificate, Endpoints, Protocol, Roots, UpstreamTls},
    identity::{AllowLayer, PeerIdentity, PeerRule},
    server::{Server, ServerConfig},
    tls::{CertificateRefused, ClientCertificates, Identity, RefusedReason, ServerTls, Trust},
    upstream::Upstream,
};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use tokio::{sync::oneshot, task::JoinSet};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{
    PATIENCE, Raw,
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

pub(crate) fn upstream(endpoints: impl IntoIterator<Item = SocketAddr>) -> config::Upstream {
    config::Upstream::new("pay", Endpoints::fixed(endpoints))
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("https://pay.example{path}")).body(Body::empty()).unwrap()
}

pub(crate) async fn answer<S>(service: &S, request: Request<Body>) -> Result<(StatusCode, Bytes), Error>
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
        let caller = Upstream::mtls(config, &cart_identity).unwrap();
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
