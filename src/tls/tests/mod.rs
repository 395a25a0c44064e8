//! Both sides against each other, over real sockets, with certificates as a mesh has them: a URI, and no subject.

mod federation;
mod refusals;
mod rotation;

use std::{convert::Infallible, error::Error as StdError, future::ready, io, net::SocketAddr};

use http::{Request, Response};
use http_body_util::BodyExt;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::HandshakeKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{ServiceExt, service_fn};

use super::{client::ClientTls, *};
use crate::{
    Body, Error, Outcome,
    client::{Pool, Target},
    config::{self, Certificate, PoolLimits, Protocol, Roots, SubjectName, UpstreamTls},
    connection::TlsInfo,
    identity::PeerIdentity,
    server::Server,
    upstream::Upstream,
};

pub(crate) const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";
pub(crate) const PAY: &str = "spiffe://mesh.example/ns/shop/sa/pay";

pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// All authorities have the same name, as all of a mesh's do.
pub(crate) fn ca() -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
    let certificate = params.self_signed(&key).unwrap();
    Ca { pem: certificate.pem(), issuer: Issuer::new(params, key) }
}

/// For these names, of which those with a scheme are URIs.
fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names
        .iter()
        .map(|name| {
            let text = (*name).try_into().unwrap();
            if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }
        })
        .collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub(crate) fn numbered(names: &[&str], serial: u64) -> CertificateParams {
    let mut params = params(names);
    params.serial_number = Some(serial.into());
    params
}

impl Ca {
    pub(crate) fn sign(&self, params: &CertificateParams) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem().into_bytes();
        Certificate { origin: "test".into(), hosts: Vec::new(), chain, key: key.serialize_pem().into_bytes() }
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Certificate {
        self.sign(&params(names))
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::new(self.pem.as_bytes(), b"").unwrap()
    }

    pub(crate) fn identity(&self, names: &[&str]) -> Identity {
        Identity::new(&self.issue(names), self.trust()).unwrap()
    }

    pub(crate) fn crl(&self, revoked: u64, next_update: i32) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(revoked),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub(crate) fn mutual(identity: &Identity) -> ServerTls {
    let required = ClientCertificates::required(identity.trust().clone());
    ServerTls::new(identity.clone()).unwrap().client_certificates(required)
}

fn expecting(id: &str) -> UpstreamTls {
    UpstreamTls { spiffe_id: Some(id.parse().unwrap()), ..UpstreamTls::default() }
}

/// A client with an identity that expects this one of the server.
pub(crate) fn client(identity: &Identity, id: &str) -> ClientTls {
    ClientTls::mtls(identity, &expecting(id), "mesh.example", Protocol::Http1).unwrap()
}

/// A server that answers with who asks.
pub(crate) fn serve(tls: ServerTls) -> SocketAddr {
    let server = Server::default().https("127.0.0.1:0", tls).bind().unwrap();
    let address = server.local_addrs()[0];
    tokio::spawn(server.serve(service_fn(|request: Request<Body>| {
        let peer = PeerIdentity::of(request.extensions()).map_or_else(|| "nobody".to_owned(), ToString::to_string);
        ready(Ok::<_, Infallible>(Response::new(Body::from(peer))))
    })));
    address
}

fn pool(address: SocketAddr, tls: ClientTls) -> Pool {
    let mut target = Target::new(address);
    target.tls = Some(tls);
    Pool::new(target, &PoolLimits::default())
}

async fn ask(pool: &Pool) -> Result<String, Error> {
    let request = Request::get("/").header("host", "mesh.example").body(Body::empty()).unwrap();
    let response = pool.send(request).await.map_err(|failed| failed.error)?;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// One handshake, with a byte from the server, before which its session tickets come.
pub(crate) async fn shake(server: &ServerTls, client: &ClientTls) -> (io::Result<TlsInfo>, io::Result<HandshakeKind>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (io, peer) = listener.accept().await.unwrap();
        let (mut stream, info) = server.accept(io, peer).await?;
        stream.write_all(b"!").await?;
        stream.shutdown().await?;
        Ok(info)
    };
    let connecting = async {
        let io = TcpStream::connect(address).await.unwrap();
        let (mut stream, _) = client.connect(io, Protocol::Http1).await.map_err(|(_, error)| error)?;
        // With TLS 1.3 a client learns here that it is refused.
        stream.read_u8().await?;
        Ok(stream.get_ref().1.handshake_kind().unwrap())
    };
    tokio::join!(accepting, connecting)
}

/// The refusal that an error has among its causes.
pub(crate) fn refused<'a>(error: &'a (dyn StdError + 'static)) -> &'a CertificateRefused {
    let found = std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref());
    found.unwrap_or_else(|| panic!("not over a certificate: {error}"))
}

#[tokio::test]
async fn both_sides_know_each_other_by_spiffe_ids_alone() {
    let ca = ca();
    let (cart, pay) = (ca.identity(&[CART]), ca.identity(&[PAY]));
    let address = serve(mutual(&pay));
    for (what, tls) in [
        ("exact", expecting(PAY)),
        ("trust domain", UpstreamTls { trust_domain: Some("mesh.example".parse().unwrap()), ..UpstreamTls::default() }),
    ] {
        // The name stands in no certificate.
        let tls = ClientTls::mtls(&cart, &tls, "127.0.0.1", Protocol::Http1).unwrap();
        assert_eq!(ask(&pool(address, tls)).await.unwrap(), CART, "{what}");
    }
}

#[tokio::test]
async fn an_upstream_is_given_an_identity() {
    let ca = ca();
    let cart = ca.identity(&[CART]);
    let address = serve(mutual(&ca.identity(&[PAY])));
    let config = config::Upstream::new("pay", config::Endpoints::fixed([address]));
    let config = config::Upstream { tls: Some(expecting(PAY)), ..config };
    let asked = async |config| {
        let request = Request::get("/").header("host", "mesh.example").body(Body::empty()).unwrap();
        let response = Upstream::mtls(config, &cart).unwrap().oneshot(request).await?;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Ok::<_, Error>(String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(asked(config.clone()).await.unwrap(), CART);
    // By default the server's address would have to stand in its certificate.
    let error = asked(config::Upstream { tls: None, ..config }).await.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::WrongName);
}

#[tokio::test]
async fn what_a_request_knows_of_its_peer() {
    let ca = ca();
    let identity = ca.identity(&[CART]);
    let (info, _) = shake(&mutual(&identity), &client(&identity, CART)).await;
    let info = info.unwrap();
    let peer = info.peer_identity.unwrap();
    assert_eq!(peer.spiffe_id().unwrap().as_str(), CART);
    assert_eq!(peer.certificate(), info.peer_certificates.first());
    assert!(peer.certificate_sha256().is_some());
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing_and_may_not_be_bad() {
    let (ca, other) = (ca(), ca());
    let server = ServerTls::new(ca.identity(&[PAY])).unwrap();
    let server = server.client_certificates(ClientCertificates::optional(ca.trust()));
    let none = UpstreamTls { roots: Roots::Pem(ca.pem.as_bytes().into()), ..expecting(PAY) };
    let none = ClientTls::new(&none, "mesh.example", Protocol::Http1).unwrap();
    assert_eq!(shake(&server, &none).await.0.unwrap().peer_identity, None);

    let bad = Identity::new(&other.issue(&[CART]), ca.trust()).unwrap();
    let error = shake(&server, &client(&bad, PAY)).await.0.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);

    let good = shake(&server, &client(&ca.identity(&[CART]), PAY)).await.0.unwrap();
    assert_eq!(good.peer_identity.unwrap().to_string(), CART);
}

#[tokio::test]
async fn an_unverified_certificate_lets_in_and_says_nothing() {
    let (ca, other) = (ca(), ca());
    let server = ServerTls::new(ca.identity(&[PAY])).unwrap();
    let server = server.client_certificates(ClientCertificates::unverified(ca.trust()));
    let none = UpstreamTls { roots: Roots::Pem(ca.pem.as_bytes().into()), ..expecting(PAY) };
    let none = ClientTls::new(&none, "mesh.example", Protocol::Http1).unwrap();
    let bad = Identity::new(&other.issue(&[CART]), ca.trust()).unwrap();
    let bad = client(&bad, PAY);
    // A session that is resumed is one of nobody, too.
    for (client, resumed) in [(&none, false), (&bad, false), (&bad, true)] {
        let (info, kind) = shake(&server, client).await;
        let info = info.unwrap();
        assert_eq!(info.peer_identity, None);
        assert!(info.peer_certificates.is_empty());
        assert_eq!(kind.unwrap() == HandshakeKind::Resumed, resumed);
    }
    let good = shake(&server, &client(&ca.identity(&[CART]), PAY)).await.0.unwrap();
    assert_eq!(good.peer_identity.unwrap().to_string(), CART);
    assert_eq!(good.peer_certificates.len(), 1);
}

#[tokio::test]
async fn clients_are_asked_by_the_name_they_shake_hands_for() {
    let (ours, partners) = (ca(), ca());
    let server = ServerTls::new(ours.identity(&["*.example", "a.b.example", PAY]))
        .unwrap()
        .client_certificates_for(["*.b.example".parse().unwrap()], ClientCertificates::off())
        .client_certificates_for(["*.example".parse().unwrap()], ClientCertificates::required(ours.trust()))
        .client_certificates_for(["partners.example".parse().unwrap()], ClientCertificates::required(partners.trust()));
    let mesh = Identity::new(&ours.issue(&[CART]), ours.trust()).unwrap();
    let partner = Identity::new(&partners.issue(&["spiffe://partner.example/x"]), ours.trust()).unwrap();
    for (name, of_mesh, of_partner) in [
        ("a.example", Some(true), None),
        ("A.Example", Some(true), None),
        ("partners.example", None, Some(true)),
        ("a.b.example", Some(false), Some(false)),
        ("example", Some(false), Some(false)),
        ("127.0.0.1", Some(false), Some(false)),
    ] {
        for (identity, expected) in [(&mesh, of_mesh), (&partner, of_partner)] {
            let tls = ClientTls::mtls(identity, &expecting(PAY), name, Protocol::Http1).unwrap();
            // The certificate has names beside its URI, which do not matter.
            let known = shake(&server, &tls).await.0.ok().map(|info| info.peer_identity.is_some());
            assert_eq!(known, expected, "{name}");
        }
    }
}

#[test]
fn a_client_cannot_be_made_to_expect_spiffe_ids_of_anyone() {
    let error = ClientTls::new(&expecting(CART), "a.example", Protocol::Auto).unwrap_err();
    assert_eq!(error, client::ClientTlsError::SpiffeWithoutRoots);
    let identity = ca().identity(&[CART]);
    let tls = UpstreamTls { crls: Some(b"".as_slice().into()), ..expecting(PAY) };
    let error = ClientTls::mtls(&identity, &tls, "a.example", Protocol::Auto).unwrap_err();
    assert_eq!(error, client::ClientTlsError::RevocationListsOfIdentity);
}

#[test]
fn roots_and_lists_are_taken_as_pem_and_as_der() {
    use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
    let (one, two) = (ca(), ca());
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    let crl = one.crl(1, 2400);
    let crl_der = CertificateRevocationListDer::from_pem_slice(crl.as_bytes()).unwrap().to_vec();
    let both = [der(&one.pem), der(&two.pem)].concat();
    let trust = Trust::new(&both, &crl_der).unwrap();
    assert_eq!(format!("{trust:?}"), "Trust { roots: 2, crls: 1 }");
    let trust = Trust::new(format!("{}{}", one.pem, two.pem).as_bytes(), crl.repeat(2).as_bytes()).unwrap();
    assert_eq!(format!("{trust:?}"), "Trust { roots: 2, crls: 2 }");

    let error = |roots: &[u8], crls: &[u8]| Trust::new(roots, crls).unwrap_err().to_string();
    assert!(error(b"", b"").starts_with("trust roots: no certificate authority"));
    assert!(error(&both[..both.len() - 1], b"").starts_with("trust roots: a certificate authority cannot be read"));
    assert!(error(&crl_der, b"").starts_with("trust roots: a certificate authority cannot be read"));
    assert!(error(&both, b"nothing").starts_with("revocation lists: a revocation list cannot be read"));
    assert!(error(&both, &both).starts_with("revocation lists: a revocation list cannot be read"));
}
