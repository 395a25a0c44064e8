//! TLS towards an endpoint: whom it takes for the one it wants.

use std::error::Error as _;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    config::{ClientAuth, Roots, UpstreamTls},
    tls::{
        CertificateRefused, RefusedReason,
        client::{ClientTls, ClientTlsError},
        default_provider,
    },
};

struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(&key).unwrap();
    Authority { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
}

impl Authority {
    fn trusted(&self) -> UpstreamTls {
        UpstreamTls { roots: Roots::Pem(self.pem.as_bytes().into()), ..UpstreamTls::default() }
    }

    fn issue(&self, params: &CertificateParams) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

fn named(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

/// A server with this certificate that speaks HTTP/1.1 or HTTP/2 as agreed, and answers with what it was asked for.
async fn tls_server(
    (certificate, key): (rcgen::Certificate, KeyPair),
    alpn: &[&str],
    clients: Option<&Authority>,
) -> SocketAddr {
    let builder =
        ServerConfig::builder_with_provider(default_provider().unwrap()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.der.clone()).unwrap();
            let provider = default_provider().unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap(),
            )
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    server(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let session = stream.get_ref().1;
            let sni = session.server_name().unwrap_or("-").to_owned();
            if session.alpn_protocol() != Some(b"h2") {
                let body = format!("h1 {sni}");
                return answer(stream, &format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
                    .await;
            }
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let scheme = request.uri().scheme_str().unwrap().to_owned();
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from(format!("h2 {sni} {scheme}")), true).unwrap();
            }
        }
    })
    .await
    .0
}

fn secure(address: SocketAddr, tls: &UpstreamTls, name: &str, protocol: Protocol) -> Pool {
    let mut target = Target::new(address);
    target.protocol = protocol;
    target.tls = Some(ClientTls::new(tls, name, protocol).unwrap());
    Pool::new(target, &PoolLimits::default())
}

async fn asked(pool: &Pool) -> Result<String, Outcome> {
    match soon(pool.send(get("/"))).await {
        Ok(response) => Ok(text(response).await.unwrap()),
        Err(failed) => {
            assert_eq!(failed.error.sent(), Sent::Nothing, "{}", failed.error);
            assert!(failed.request.is_some());
            Err(failed.error.outcome())
        }
    }
}

#[tokio::test]
async fn what_is_spoken_is_agreed_on() {
    let ca = authority();
    let both = ["h2", "http/1.1"].as_slice();
    for (protocol, offered, expected) in [
        (Protocol::Auto, both, "h2 a.example https"),
        (Protocol::Auto, &["http/1.1"], "h1 a.example"),
        (Protocol::Auto, &[], "h1 a.example"),
        (Protocol::Http1, both, "h1 a.example"),
        (Protocol::Http2, both, "h2 a.example https"),
    ] {
        let address = tls_server(ca.issue(&named(&["a.example"])), offered, None).await;
        let pool = secure(address, &ca.trusted(), "a.example", protocol);
        for _ in 0..2 {
            assert_eq!(asked(&pool).await.unwrap(), expected, "{protocol:?} {offered:?}");
        }
        assert_eq!(pool.stats().open, 1);
    }
    let address = tls_server(ca.issue(&named(&["a.example"])), &["http/1.1"], None).await;
    let pool = secure(address, &ca.trusted(), "a.example", Protocol::Http2);
    assert_eq!(asked(&pool).await, Err(Outcome::TlsFailed), "nothing in common");
}

#[tokio::test]
async fn many_at_once_over_http1_after_the_protocol_is_known() {
    let ca = authority();
    let address = tls_server(ca.issue(&named(&["a.example"])), &["http/1.1"], None).await;
    let pool = secure(address, &ca.trusted(), "a.example", Protocol::Auto);
    let results = futures_util::future::join_all((0..20).map(|_| asked(&pool))).await;
    assert!(results.iter().all(|result| result.as_deref() == Ok("h1 a.example")), "{results:?}");
}

#[tokio::test]
async fn a_certificate_must_name_the_server_among_its_alternative_names() {
    let ca = authority();
    let mut cn_only = CertificateParams::default();
    cn_only.distinguished_name.push(DnType::CommonName, "a.example");
    let mut expired = named(&["a.example"]);
    expired.not_before = rcgen::date_time_ymd(2001, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let mut early = named(&["a.example"]);
    early.not_before = rcgen::date_time_ymd(2400, 1, 1);
    early.not_after = rcgen::date_time_ymd(2401, 1, 1);
    let refused = Err(Outcome::CertificateRefused);
    for (what, params, name, expected) in [
        ("a wildcard", named(&["*.b.example"]), "a.b.example", Ok("h1 a.b.example")),
        ("a final dot", named(&["a.example"]), "a.example.", Ok("h1 a.example")),
        ("an address", named(&["127.0.0.1"]), "127.0.0.1", Ok("h1 -")),
        ("an address in brackets", named(&["::1"]), "[::1]", Ok("h1 -")),
        ("another name", named(&["b.example"]), "a.example", refused),
        ("a wildcard for two labels", named(&["*.b.example"]), "x.a.b.example", refused),
        ("another address", named(&["127.0.0.2"]), "127.0.0.1", refused),
        ("a common name alone", cn_only, "a.example", refused),
        ("expired", expired, "a.example", refused),
        ("not yet valid", early, "a.example", refused),
    ] {
        let address = tls_server(ca.issue(&params), &["http/1.1"], None).await;
        let pool = secure(address, &ca.trusted(), name, Protocol::Auto);
        assert_eq!(asked(&pool).await.as_deref().map_err(|e| *e), expected, "{what}");
    }
}

#[tokio::test]
async fn the_configured_name_goes_before_the_default_one() {
    let ca = authority();
    let address = tls_server(ca.issue(&named(&["a.example"])), &[], None).await;
    let tls = UpstreamTls { server_name: Some("a.example".into()), ..ca.trusted() };
    assert_eq!(asked(&secure(address, &tls, "127.0.0.1", Protocol::Auto)).await.unwrap(), "h1 a.example");
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let (ours, theirs) = (authority(), authority());
    let address = tls_server(theirs.issue(&named(&["a.example"])), &[], None).await;
    let pool = secure(address, &ours.trusted(), "a.example", Protocol::Auto);
    assert_eq!(asked(&pool).await, Err(Outcome::CertificateRefused));
}

#[tokio::test]
async fn a_server_without_tls_is_not_talked_to() {
    let ca = authority();
    let (closing, _) = server(|_, stream| async move { drop(stream) }).await;
    let (plain, _) = server(|_, mut stream| async move {
        stream.write_all(b"220 hello\r\n\r\n").await.unwrap();
        head(&mut stream).await;
    })
    .await;
    for address in [closing, plain] {
        let pool = secure(address, &ca.trusted(), "a.example", Protocol::Auto);
        assert_eq!(asked(&pool).await, Err(Outcome::TlsFailed));
        settled(&pool, 0, 0, 0).await;
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_when_asked_for() {
    let ca = authority();
    let address = tls_server(ca.issue(&named(&["a.example"])), &[], Some(&ca)).await;
    let (certificate, key) = ca.issue(&named(&["client.example"]));
    let auth =
        ClientAuth { chain: certificate.pem().into_bytes().into(), key: key.serialize_pem().into_bytes().into() };
    let tls = UpstreamTls { client_auth: Some(auth), ..ca.trusted() };
    assert_eq!(asked(&secure(address, &tls, "a.example", Protocol::Auto)).await.unwrap(), "h1 a.example");
    // With TLS 1.3 the refusal comes after the handshake, when the request may have been written.
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let failed = soon(secure(address, &ca.trusted(), "a.example", protocol).send(get("/"))).await.unwrap_err();
        let (outcome, sent) = (failed.error.outcome(), failed.error.sent());
        assert_eq!((outcome, sent), (Outcome::CertificateRefused, Sent::Possibly), "{protocol:?}: {}", failed.error);
        let refused = failed.error.source().unwrap().downcast_ref::<CertificateRefused>().unwrap();
        assert_eq!((refused.is_ours(), refused.reason()), (true, RefusedReason::Missing));
    }
}

#[tokio::test]
async fn a_body_cut_off_without_a_goodbye_is_truncated() {
    let ca = authority();
    let (certificate, key) = ca.issue(&named(&["a.example"]));
    let config = ServerConfig::builder_with_provider(default_provider().unwrap())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (address, _) = server(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\npart of it").await.unwrap();
            stream.flush().await.unwrap();
            // The socket is closed under the TLS session.
            drop(stream);
        }
    })
    .await;
    let pool = secure(address, &ca.trusted(), "a.example", Protocol::Auto);
    let response = soon(pool.send(get("/"))).await.unwrap();
    assert_eq!(soon(body_error(response)).await, Outcome::ResponseTruncated);
}

#[test]
fn what_cannot_be_used_is_named() {
    let ca = authority();
    let (certificate, _) = ca.issue(&named(&["a"]));
    let chain: Arc<[u8]> = certificate.pem().into_bytes().into();
    let other: Arc<[u8]> = KeyPair::generate().unwrap().serialize_pem().into_bytes().into();
    let auth = |chain: &Arc<[u8]>, key: &Arc<[u8]>| {
        let client_auth = Some(ClientAuth { chain: chain.clone(), key: key.clone() });
        ClientTls::new(&UpstreamTls { client_auth, ..ca.trusted() }, "a.example", Protocol::Auto).unwrap_err()
    };
    let nothing: Arc<[u8]> = b"nothing".as_slice().into();
    assert!(matches!(auth(&nothing, &other), ClientTlsError::Chain(_)));
    assert!(matches!(auth(&chain, &nothing), ClientTlsError::Key(_)));
    assert!(matches!(auth(&chain, &other), ClientTlsError::Key(_)), "{}", auth(&chain, &other));
    for name in ["", "a b", "a.example:443"] {
        let error = ClientTls::new(&ca.trusted(), name, Protocol::Auto).unwrap_err();
        assert_eq!(error, ClientTlsError::ServerName(name.to_owned()));
    }
    let broken = UpstreamTls {
        roots: Roots::Pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".as_slice().into()),
        ..UpstreamTls::default()
    };
    let error = ClientTls::new(&broken, "a.example", Protocol::Auto).unwrap_err();
    assert!(matches!(error, ClientTlsError::Roots(_)), "{error}");
}
