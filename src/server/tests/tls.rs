//! TLS: names, replacement, resumption, and what a request knows of it.

use std::io;

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, danger::ServerCertVerifier},
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    config::Certificate,
    server::Server,
    tls::{CertificateError, CertificateSet, CertificateSource, Certificates, ServerTls, default_provider},
};

/// A self-signed certificate for these names.
pub(super) fn certificate(names: &[&str]) -> Certificate {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(names.clone()).unwrap().self_signed(&key).unwrap();
    Certificate {
        origin: format!("Secret {}", names.join("+")),
        hosts: Vec::new(),
        chain: cert.pem().into(),
        key: key.serialize_pem().into(),
    }
}

/// Accepts anything: which certificate was shown is what the tests look at.
#[derive(Debug)]
pub(super) struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        default_provider().unwrap().signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn client(versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&str]) -> TlsConnector {
    let mut config = ClientConfig::builder_with_provider(default_provider().unwrap())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.dangerous().set_certificate_verifier(Arc::new(Anything));
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(16);
    Arc::new(config).into()
}

/// Says what it knows of the connection.
fn facts() -> impl Serve {
    service_fn(|request: Request<Body>| {
        let info = request.extensions().get::<ConnectionInfo>().unwrap();
        let tls = info.tls().unwrap();
        ready(Ok::<_, Infallible>(Response::new(Body::from(format!(
            "{} {:?} {:?} {} {:?}",
            info.scheme(),
            tls.server_name.as_deref(),
            tls.alpn,
            tls.version.unwrap(),
            tls.cipher_suite,
        )))))
    })
}

fn start(source: impl CertificateSource) -> SocketAddr {
    let tls = ServerTls::new(source).unwrap();
    let server = Server::default().https("127.0.0.1:0", tls).bind().unwrap();
    let address = server.local_addrs()[0];
    tokio::spawn(server.serve(facts()));
    address
}

pub(super) async fn connect(
    connector: &TlsConnector,
    address: SocketAddr,
    name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    connector.connect(name, TcpStream::connect(address).await?).await
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(certificate: &Certificate) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(&certificate.chain).unwrap().to_vec()
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    read_to_end(stream).await.split("\r\n\r\n").last().unwrap().to_owned()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let (default, exact, wildcard) =
        (certificate(&["default.example"]), certificate(&["shop.example.com"]), certificate(&["*.example.com"]));
    let forced = Certificate { hosts: vec!["forced.example.net".parse().unwrap()], ..certificate(&["other.example"]) };
    let certificates = Certificates::new([&default, &wildcard, &exact, &forced]).unwrap();
    let address = start(certificates);
    let connector = client(&[&rustls::version::TLS13], &[]);
    for (name, expected) in [
        ("shop.example.com", &exact),
        ("SHOP.example.COM", &exact),
        ("cart.example.com", &wildcard),
        ("a.cart.example.com", &default),
        ("example.com", &default),
        ("forced.example.net", &forced),
        // Its hosts are named, so the names in it do not count.
        ("other.example", &default),
        // No SNI for an address.
        ("127.0.0.1", &default),
    ] {
        let stream = connect(&connector, address, name).await.unwrap();
        assert!(shown(&stream) == der(expected), "{name}");
    }
}

#[tokio::test]
async fn a_certificate_for_any_host_is_the_default() {
    let (first, any) = (certificate(&["first.example"]), certificate(&["any.example"]));
    let any = Certificate { hosts: vec![crate::config::Host::Any], ..any };
    let address = start(Certificates::new([&first, &any]).unwrap());
    let stream = connect(&client(&[&rustls::version::TLS13], &[]), address, "unknown.example").await.unwrap();
    assert!(shown(&stream) == der(&any));
}

#[tokio::test]
async fn versions_protocols_and_names_reach_the_request() {
    let address = start(Certificates::new([&certificate(&["shop.example.com"])]).unwrap());
    let tls13 = client(&[&rustls::version::TLS13], &["http/1.1"]);
    let mut stream = connect(&tls13, address, "shop.example.com").await.unwrap();
    let facts = ask(&mut stream).await;
    assert!(facts.starts_with("https Some(\"shop.example.com\") Some(b\"http/1.1\") TLSv1.3 Some(\"TLS_"), "{facts}");

    let tls12 = client(&[&rustls::version::TLS12], &[]);
    let mut stream = connect(&tls12, address, "shop.example.com").await.unwrap();
    let facts = ask(&mut stream).await;
    assert!(facts.starts_with("https Some(\"shop.example.com\") None TLSv1.2 Some(\"TLS_ECDHE_"), "{facts}");

    let both = client(&[&rustls::version::TLS13], &["h2", "http/1.1"]);
    let stream = connect(&both, address, "shop.example.com").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (mut client, _connection) = h2_client(stream).await;
    let answer = client.send_request(get("/")).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(answer.starts_with(b"https Some(\"shop.example.com\") Some(b\"h2\")"), "{answer:?}");
}

#[tokio::test]
async fn certificates_are_replaced_while_a_connection_is_open_and_a_bad_set_is_refused() {
    let (old, new) = (certificate(&["shop.example.com"]), certificate(&["shop.example.com"]));
    let certificates = Certificates::new([&old]).unwrap();
    let address = start(certificates.clone());
    let fresh = || client(&[&rustls::version::TLS13], &[]);
    let mut open = connect(&fresh(), address, "shop.example.com").await.unwrap();

    certificates.replace([&Certificate { key: new.key.clone(), ..old.clone() }]).unwrap_err();
    assert!(shown(&connect(&fresh(), address, "shop.example.com").await.unwrap()) == der(&old));
    certificates.replace([&new]).unwrap();
    assert!(shown(&connect(&fresh(), address, "shop.example.com").await.unwrap()) == der(&new));
    assert!(ask(&mut open).await.starts_with("https"));
}

#[tokio::test]
async fn a_session_is_not_resumed_once_its_certificate_is_gone() {
    let shop = certificate(&["shop.example.com"]);
    let certificates = Certificates::new([&shop]).unwrap();
    let address = start(certificates.clone());
    let connector = client(&[&rustls::version::TLS13], &[]);
    ask(&mut connect(&connector, address, "shop.example.com").await.unwrap()).await;
    let mut resumed = connect(&connector, address, "shop.example.com").await.unwrap();
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    ask(&mut resumed).await;
    certificates.store(CertificateSet::new([]).unwrap());
    connect(&connector, address, "shop.example.com").await.unwrap_err();
}

#[tokio::test]
async fn a_source_of_ones_own_supplies_the_certificates() {
    struct Snapshot(Arc<CertificateSet>);
    impl CertificateSource for Snapshot {
        fn certificates(&self) -> Arc<CertificateSet> {
            self.0.clone()
        }
    }
    let shop = certificate(&["shop.example.com"]);
    let address = start(Snapshot(Arc::new(CertificateSet::new([&shop]).unwrap())));
    let stream = connect(&client(&[&rustls::version::TLS13], &[]), address, "shop.example.com").await.unwrap();
    assert!(shown(&stream) == der(&shop));
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_with_its_origin() {
    let good = certificate(&["shop.example.com"]);
    let other = certificate(&["other.example"]);
    type Expected = fn(&CertificateError) -> bool;
    let cases: [(Certificate, Expected); 6] = [
        (Certificate { chain: good.key.clone(), ..good.clone() }, |e| {
            matches!(e, CertificateError::NoCertificate { .. })
        }),
        (Certificate { chain: Vec::new(), ..good.clone() }, |e| matches!(e, CertificateError::NoCertificate { .. })),
        (Certificate { key: good.chain.clone(), ..good.clone() }, |e| matches!(e, CertificateError::NoKey { .. })),
        (Certificate { key: other.key, ..good.clone() }, |e| matches!(e, CertificateError::KeyMismatch { .. })),
        (
            Certificate {
                chain: b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_vec(),
                ..good.clone()
            },
            |e| matches!(e, CertificateError::Pem { part: "certificate chain", .. }),
        ),
        (
            Certificate {
                chain: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
                ..good.clone()
            },
            |e| matches!(e, CertificateError::InvalidCertificate { .. }),
        ),
    ];
    for (certificate, expected) in cases {
        let error = CertificateSet::new([&good, &certificate]).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert!(error.to_string().starts_with("Secret shop.example.com: "), "{error}");
    }
}

#[test]
fn an_expired_certificate_is_taken() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["old.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let chain = params.self_signed(&key).unwrap().pem();
    let old = Certificate { chain: chain.into(), key: key.serialize_pem().into(), ..certificate(&["old.example"]) };
    assert!(CertificateSet::new([&old]).unwrap().covers("old.example"));
}

#[test]
fn files_are_read_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let shop = certificate(&["shop.example.com"]);
    std::fs::write(&chain, &shop.chain).unwrap();
    let error = Certificates::from_pem_files(&chain, &key).unwrap_err();
    assert!(error.to_string().contains("tls.key"), "{error}");
    std::fs::write(&key, &shop.key).unwrap();
    let certificates = Certificates::from_pem_files(&chain, &key).unwrap();
    assert!(certificates.certificates().covers("shop.example.com"));
    assert!(!certificates.certificates().covers("other.example.com"));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_come_is_cut_off() {
    let drain = Drain::new();
    let tls = ServerTls::new(Certificates::new([&certificate(&["a.example"])]).unwrap()).unwrap();
    let shared = Arc::new(Shared { tls: Some(tls), ..(*shared(ServerConfig::default(), &drain)).clone() });
    let (mut client, server) = duplex(4096);
    let server = tokio::spawn(connection::serve(server, Abort::default(), info(), echo(), shared, ()));
    // The beginning of a handshake record.
    client.write_all(&[22, 3, 1, 1, 0]).await.unwrap();
    let began = tokio::time::Instant::now();
    server.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn plain_http_on_a_tls_port_ends_that_connection_only() {
    let address = start(Certificates::new([&certificate(&["shop.example.com"])]).unwrap());
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(!read_to_end(&mut io).await.contains("HTTP/1.1"));
    let mut stream = connect(&client(&[&rustls::version::TLS13], &[]), address, "shop.example.com").await.unwrap();
    assert!(ask(&mut stream).await.starts_with("https"));
}
