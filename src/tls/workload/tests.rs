//! Against an agent that speaks the real protocol, by tonic's server over a Unix socket.

use std::{convert::Infallible, path::Path};

use futures_util::stream;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{message::X509Svid, *};
use crate::{
    config::{Certificate, Protocol, UpstreamTls},
    tls::{
        RefusedReason, ServerTls,
        client::ClientTls,
        tests::{CART, Ca, PAY, ca, client, mutual, refused, shake},
    },
};

/// What an agent answers with, in turn.
type Said = Vec<Result<X509SvidResponse, Status>>;

/// Every call begins with what was said last. Dropped, it takes its socket and its streams along.
struct Agent {
    said: watch::Sender<Said>,
    /// A word for every stream that ends.
    ended: mpsc::UnboundedReceiver<()>,
    task: JoinHandle<()>,
}

struct Ended(mpsc::UnboundedSender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

impl Agent {
    fn new(socket: &Path, said: Said) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let incoming = stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let (said, hearing) = watch::channel(said);
        let (ending, ended) = mpsc::unbounded_channel();
        let calls = service_fn(move |request: http::Request<tonic::body::Body>| {
            let (hearing, ending) = (hearing.clone(), ending.clone());
            async move {
                assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
                let fetch = service_fn(move |request: Request<()>| {
                    let (hearing, ended) = (hearing.clone(), Ended(ending.clone()));
                    async move {
                        if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
                            return Err(Status::invalid_argument("security header missing"));
                        }
                        let place = hearing.borrow().len().saturating_sub(1);
                        if let Some(Err(status)) = hearing.borrow().get(place) {
                            return Err(status.clone());
                        }
                        Ok(Response::new(stream::unfold(
                            (hearing, place, ended),
                            |(mut hearing, place, ended)| async move {
                                let next = hearing.wait_for(|said| said.len() > place).await.ok()?[place].clone();
                                Some((next, (hearing, place + 1, ended)))
                            },
                        )))
                    }
                });
                let codec = ProstCodec::<X509SvidResponse, ()>::default();
                Ok::<_, Infallible>(tonic::server::Grpc::new(codec).server_streaming(fetch, request).await)
            }
        });
        let task = tokio::spawn(async move {
            tonic::transport::Server::builder().serve_with_incoming(calls, incoming).await.unwrap();
        });
        Self { said, ended, task }
    }

    fn say(&self, response: X509SvidResponse) {
        self.said.send_modify(|said| said.push(Ok(response)));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn roots(ca: &Ca) -> Vec<u8> {
    CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap().to_vec()
}

fn svid_of(certificate: &Certificate, id: &str, ca: &Ca) -> X509Svid {
    X509Svid {
        spiffe_id: id.to_owned(),
        x509_svid: CertificateDer::from_pem_slice(&certificate.chain).unwrap().to_vec(),
        x509_svid_key: PrivateKeyDer::from_pem_slice(&certificate.key).unwrap().secret_der().to_vec(),
        bundle: roots(ca),
    }
}

fn svid(ca: &Ca, id: &str) -> X509Svid {
    svid_of(&ca.issue(&[id]), id, ca)
}

fn response(svids: &[X509Svid]) -> X509SvidResponse {
    X509SvidResponse { svids: svids.to_vec(), ..X509SvidResponse::default() }
}

fn federated(svids: &[X509Svid], bundles: &[(&str, Vec<u8>)]) -> X509SvidResponse {
    let federated_bundles = bundles.iter().map(|(domain, bundle)| ((*domain).to_owned(), bundle.clone())).collect();
    X509SvidResponse { federated_bundles, ..response(svids) }
}

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn agent(&self, said: Said) -> Agent {
        Agent::new(&self.socket(), said)
    }

    fn api(&self) -> WorkloadApi {
        WorkloadApi::at(format!("unix://{}", self.socket().display()))
    }
}

/// Both sides of it, made once.
fn sides(workload: &WorkloadIdentity) -> (ServerTls, ClientTls) {
    let tls = UpstreamTls { trust_domain: Some("mesh.example".parse().unwrap()), ..UpstreamTls::default() };
    let client = ClientTls::mtls(workload.identity(), &tls, "mesh.example", Protocol::Http1).unwrap();
    (mutual(workload.identity()), client)
}

/// Whom the server sees in a new handshake, and that the client takes the server.
async fn seen((server, client): &(ServerTls, ClientTls)) -> String {
    let (accepted, connected) = shake(server, client).await;
    connected.unwrap();
    accepted.unwrap().peer_identity.unwrap().to_string()
}

#[tokio::test]
async fn the_first_identity_works_on_both_sides_and_partners_are_trusted_for_their_own() {
    let (place, ours, theirs) = (Place::new(), ca(), ca());
    let partners = ("spiffe://partner.example", roots(&theirs));
    let empty = ("spiffe://empty.example", Vec::new());
    let _agent = place.agent(vec![Ok(federated(&[svid(&ours, CART)], &[partners, empty]))]);
    let workload = place.api().connect().await.unwrap();
    assert_eq!(workload.spiffe_id().as_str(), CART);
    let sides = sides(&workload);
    assert_eq!(seen(&sides).await, CART);

    let by = |id: &str| client(&Identity::new(&theirs.issue(&[id]), ours.trust()).unwrap(), CART);
    let till = shake(&sides.0, &by("spiffe://partner.example/till")).await.0.unwrap();
    assert_eq!(till.peer_identity.unwrap().to_string(), "spiffe://partner.example/till");
    for (id, reason) in
        [(PAY, RefusedReason::UnknownAuthority), ("spiffe://empty.example/x", RefusedReason::UnknownTrustDomain)]
    {
        let error = shake(&sides.0, &by(id)).await.0.unwrap_err();
        assert_eq!(refused(&error).reason(), reason, "{id}");
    }
}

#[tokio::test]
async fn what_rotates_is_seen_by_the_next_handshake() {
    let (place, old, new) = (Place::new(), ca(), ca());
    let agent = place.agent(vec![Ok(response(&[svid(&old, CART)]))]);
    let mut workload = place.api().connect().await.unwrap();
    let sides = sides(&workload);
    assert_eq!(seen(&sides).await, CART);
    let late = client(&old.identity(&[CART]), PAY);

    agent.say(response(&[svid(&new, PAY)]));
    workload.changed().await;
    assert_eq!(workload.spiffe_id().as_str(), PAY);
    assert_eq!(seen(&sides).await, PAY);
    let error = shake(&sides.0, &late).await.1.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);
}

#[tokio::test]
async fn revocation_lists_are_heeded_for_our_own_domain() {
    let (place, ours, theirs) = (Place::new(), ca(), ca());
    let list = rustls_pki_types::CertificateRevocationListDer::from_pem_slice(ours.crl(7, 2400).as_bytes()).unwrap();
    let mut said = federated(&[svid(&ours, PAY)], &[("partner.example", roots(&theirs))]);
    said.crl = vec![list.to_vec()];
    let _agent = place.agent(vec![Ok(said)]);
    let workload = place.api().connect().await.unwrap();
    let server = mutual(workload.identity());
    let numbered = |ca: &Ca, id| ca.sign(&crate::tls::tests::numbered(&[id], 7));
    let revoked = client(&Identity::new(&numbered(&ours, CART), ours.trust()).unwrap(), PAY);
    let error = shake(&server, &revoked).await.0.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::Revoked);
    let till = Identity::new(&numbered(&theirs, "spiffe://partner.example/till"), ours.trust()).unwrap();
    shake(&server, &client(&till, PAY)).await.0.unwrap();
}

#[tokio::test]
async fn while_the_agent_is_away_the_identity_stays_and_then_goes_on() {
    let (place, ca) = (Place::new(), ca());
    let agent = place.agent(vec![Ok(response(&[svid(&ca, CART)]))]);
    let mut workload = place.api().connect().await.unwrap();
    let sides = sides(&workload);
    drop(agent);
    assert_eq!(seen(&sides).await, CART);

    let _agent = place.agent(vec![Ok(response(&[svid(&ca, PAY)]))]);
    workload.changed().await;
    assert_eq!(seen(&sides).await, PAY);
}

#[tokio::test]
async fn a_registration_that_comes_late_or_goes_for_a_while_is_waited_for() {
    let (place, ca) = (Place::new(), ca());
    let denied = || Err(Status::permission_denied("no identity issued"));
    let agent = place.agent(vec![denied()]);
    let good = svid(&ca, CART);
    let (connected, ()) = tokio::join!(place.api().connect(), async {
        agent.say(response(&[good]));
    });
    let mut workload = connected.unwrap();
    let sides = sides(&workload);
    agent.said.send_modify(|said| said.push(denied()));
    assert_eq!(seen(&sides).await, CART);
    agent.say(response(&[svid(&ca, PAY)]));
    workload.changed().await;
    assert_eq!(seen(&sides).await, PAY);
}

#[tokio::test]
async fn what_is_malformed_is_passed_over_and_the_stream_goes_on() {
    let (place, ca) = (Place::new(), ca());
    let agent = place.agent(vec![Ok(response(&[svid(&ca, CART)]))]);
    let mut workload = place.api().connect().await.unwrap();
    let sides = sides(&workload);
    let stranger = federated(&[svid(&self::ca(), "spiffe://mesh.example/bad")], &[("mesh.example", roots(&ca))]);
    agent.say(X509SvidResponse::default());
    agent.say(stranger);
    let paid = svid(&ca, PAY);
    agent.say(response(&[paid]));
    workload.changed().await;
    // The first change is the first good one.
    assert_eq!(workload.spiffe_id().as_str(), PAY);
    assert_eq!(seen(&sides).await, PAY);
}

#[test]
fn an_update_with_anything_malformed_changes_nothing() {
    let (ours, theirs) = (ca(), ca());
    let good = svid(&ours, CART);
    let first = response(std::slice::from_ref(&good));
    let shared = Shared::new(first.clone(), Update::read(&first).unwrap());
    let (key, trust) = (shared.identity.key(), Arc::clone(&shared.identity.trust().load()));
    let new = svid(&ours, PAY);
    let with = |change: fn(&mut X509Svid)| {
        let mut svid = new.clone();
        change(&mut svid);
        response(&[new.clone(), svid])
    };
    let partner = |domain: &'static str, bundle: Vec<u8>| federated(std::slice::from_ref(&new), &[(domain, bundle)]);
    for (update, said) in [
        (response(&[]), "there is no SVID"),
        (with(|svid| svid.spiffe_id = "spiffe://Mesh".into()), "not a SPIFFE ID"),
        (with(|svid| svid.spiffe_id = "spiffe://mesh.example/other".into()), "its certificate is for spiffe://"),
        (with(|svid| svid.x509_svid.clear()), "no certificate"),
        (
            with(|svid| svid.x509_svid.truncate(svid.x509_svid.len() - 1)),
            "its chain cannot be read: it is not whole DER",
        ),
        (with(|svid| svid.x509_svid.extend([0x30, 0])), "its chain cannot be read"),
        (with(|svid| svid.x509_svid_key.clear()), "the private key cannot be used"),
        (with(|svid| svid.bundle = b"0".to_vec()), "a certificate authority cannot be read"),
        (response(&[X509Svid { x509_svid_key: good.x509_svid_key, ..new.clone() }]), "does not fit the certificate"),
        (response(&[X509Svid { bundle: Vec::new(), ..new.clone() }]), "no certificate authority"),
        (
            partner("spiffe://mesh.example", roots(&theirs)),
            "trust domain mesh.example: its authorities are given twice",
        ),
        (partner("mesh.example", Vec::new()), "no certificate authority"),
        (partner("spiffe://partner.example/x", roots(&theirs)), "not a SPIFFE trust domain"),
        (partner("partner.example", b"0".to_vec()), "trust roots of partner.example: a certificate authority cannot"),
        (
            federated(
                std::slice::from_ref(&new),
                &[("a.example", roots(&theirs)), ("spiffe://a.example", roots(&theirs))],
            ),
            "trust domain a.example: its authorities are given twice",
        ),
        (
            X509SvidResponse { crl: vec![Vec::new()], ..response(std::slice::from_ref(&new)) },
            "a revocation list is empty",
        ),
        (
            X509SvidResponse { crl: vec![b"0".to_vec()], ..response(std::slice::from_ref(&new)) },
            "a revocation list cannot be read",
        ),
    ] {
        let flaw = shared.take(update).unwrap_err().to_string();
        assert!(flaw.contains(said), "{said}: {flaw}");
        assert!(Arc::ptr_eq(&key, &shared.identity.key()), "{said}");
        assert!(Arc::ptr_eq(&trust, &shared.identity.trust().load()), "{said}");
        let state = shared.state();
        assert_eq!((state.default.as_str(), state.by_id.len()), (CART, 1), "{said}");
    }
    // The same again keeps sessions; another one does not.
    shared.take(first).unwrap();
    assert!(Arc::ptr_eq(&trust, &shared.identity.trust().load()));
    shared.take(response(&[new])).unwrap();
    assert!(!Arc::ptr_eq(&key, &shared.identity.key()));
}

#[tokio::test]
async fn of_several_identities_the_first_is_the_default_and_any_can_be_picked() {
    let (place, ca) = (Place::new(), ca());
    let agent = place.agent(vec![Ok(response(&[svid(&ca, CART), svid(&ca, PAY)]))]);
    let mut workload = place.api().connect().await.unwrap();
    assert_eq!(workload.spiffe_id().as_str(), CART);
    let pay = workload.identity_of(&PAY.parse().unwrap()).unwrap();
    assert!(workload.identity_of(&"spiffe://mesh.example/other".parse().unwrap()).is_none());
    let before = pay.key();
    let server = mutual(workload.identity());
    let picked = client(&pay, CART);
    assert_eq!(shake(&server, &picked).await.0.unwrap().peer_identity.unwrap().to_string(), PAY);

    agent.say(response(&[svid(&ca, CART), svid(&ca, PAY)]));
    workload.changed().await;
    assert!(!Arc::ptr_eq(&before, &pay.key()), "a picked one rotates too");
    assert_eq!(shake(&server, &picked).await.0.unwrap().peer_identity.unwrap().to_string(), PAY);
}

#[tokio::test]
async fn without_an_agent_the_error_names_the_socket() {
    let place = Place::new();
    let error = place.api().timeout(Duration::from_secs(1)).connect().await.unwrap_err();
    assert!(matches!(error, WorkloadError::Unreachable { .. }), "{error}");
    let expected = format!("Workload API at unix://{}: cannot connect: ", place.socket().display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(error.to_string().contains("is the agent running"), "{error}");
    assert!(error.to_string().contains("os error 2"), "{error}");
}

#[tokio::test]
async fn what_the_agent_denies_is_told() {
    let place = Place::new();
    let agent = place.agent(vec![Err(Status::permission_denied("no identity issued"))]);
    let error = place.api().timeout(Duration::from_secs(1)).connect().await.unwrap_err();
    assert!(matches!(&error, WorkloadError::Denied { message, .. } if message == "no identity issued"), "{error}");
    assert!(error.to_string().contains("registration entry"), "{error}");

    // Asking again would be of no use, and the time is not waited out.
    agent.said.send_modify(|said| said.push(Err(Status::invalid_argument("what?"))));
    let error = place.api().timeout(Duration::MAX).connect().await.unwrap_err();
    assert!(matches!(error, WorkloadError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("what?"), "{error}");
}

#[tokio::test]
async fn an_agent_that_says_nothing_or_nonsense_is_given_up() {
    let place = Place::new();
    let agent = place.agent(Vec::new());
    let error = place.api().timeout(Duration::from_millis(200)).connect().await.unwrap_err();
    assert!(matches!(error, WorkloadError::TimedOut { .. }), "{error}");
    agent.say(X509SvidResponse::default());
    let error = place.api().timeout(Duration::from_secs(1)).connect().await.unwrap_err();
    assert!(matches!(error, WorkloadError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn dropped_it_asks_no_more_and_its_handles_stay() {
    let (place, ca) = (Place::new(), ca());
    let mut agent = place.agent(vec![Ok(response(&[svid(&ca, CART)]))]);
    let workload = place.api().connect().await.unwrap();
    let sides = sides(&workload);
    drop(workload);
    agent.ended.recv().await.unwrap();
    assert_eq!(seen(&sides).await, CART);
}

#[test]
fn a_key_is_not_shown_for_debugging() {
    let said = response(&[svid(&ca(), CART)]);
    assert_eq!(
        format!("{said:?}"),
        format!("X509SvidResponse {{ svids: [X509Svid {{ spiffe_id: {CART:?}, .. }}], .. }}")
    );
}
