//! What a rule tells of the client's certificate.

use super::*;
use crate::{
    config::{ClientCert, ClientCertFilter},
    forwarded::ForwardedLayer,
};

#[tokio::test]
async fn a_rule_tells_of_the_clients_certificate_and_of_nothing_that_a_client_says_of_it() {
    let by = Some("spiffe://a.example/gate".parse().unwrap());
    let set = Filter::ClientCert(ClientCertFilter { by, ..ClientCertFilter::default() });
    let double = Double::default();
    let config = rules([at("/told", Rule { filters: vec![set], ..to("here") }), at("/untold", to("here"))]);
    let gateway = Gateway::builder(config).local("here", double.service()).build().unwrap();
    let peer = PeerIdentity::new(["spiffe://a.example/cart"], []);
    let tls = TlsInfo { peer_identity: Some(peer.into()), ..TlsInfo::default() };
    let connection = ConnectionInfo::new("10.0.0.7:4711".parse().unwrap(), "10.0.0.1:443".parse().unwrap());
    for (path, connection) in [
        ("/told", connection.clone().with_tls(tls.clone())),
        ("/told", connection.clone()),
        ("/untold", connection.with_tls(tls)),
    ] {
        let mut request = get(path);
        request.headers_mut().insert("x-forwarded-client-cert", "URI=spiffe://a.example/admin".parse().unwrap());
        request.extensions_mut().insert(connection);
        assert_eq!(status(&gateway, request).await, 200);
    }
    let seen: Vec<_> = double.seen().iter().map(|seen| seen.headers.get("x-forwarded-client-cert").cloned()).collect();
    let told = "By=spiffe://a.example/gate;URI=spiffe://a.example/cart".parse().unwrap();
    assert_eq!(seen, [Some(told), None, None]);
}

#[tokio::test]
async fn the_clients_certificate_is_appended_once_whoever_appends_it() {
    let append = |by: &str| {
        let by = Some(format!("spiffe://a.example/{by}").parse().unwrap());
        vec![Filter::ClientCert(ClientCertFilter { tell: ClientCert::Append, by })]
    };
    let backend = BackendRef { filters: append("backend"), ..BackendRef::new("here") };
    let double = Double::default();
    let layer = ForwardedLayer::new().trust(["10.0.0.0/8".parse().unwrap()]);
    let peer = PeerIdentity::new(["spiffe://a.example/cart"], []);
    let tls = TlsInfo { peer_identity: Some(peer.into()), ..TlsInfo::default() };
    let connection = ConnectionInfo::new("10.0.0.7:1".parse().unwrap(), "10.0.0.1:443".parse().unwrap()).with_tls(tls);
    for edge in [ClientCert::Keep, ClientCert::Append, ClientCert::Set] {
        let config = rules([
            at("/rule", Rule { filters: append("rule"), ..to("here") }),
            at("/both", Rule { filters: append("rule"), backends: vec![backend.clone()], ..Rule::default() }),
        ]);
        let layer = layer.clone().client_cert(edge);
        let gateway = Gateway::builder(config).local("here", double.service()).forwarded(layer).build().unwrap();
        for (path, by) in [("/rule", "rule"), ("/both", "backend")] {
            for said in [None, Some("Hash=1")] {
                let mut request = get(path);
                if let Some(said) = said {
                    request.headers_mut().insert("x-forwarded-client-cert", said.parse().unwrap());
                }
                request.extensions_mut().insert(connection.clone());
                assert_eq!(status(&gateway, request).await, 200);
                let before = if edge == ClientCert::Set { None } else { said };
                let before = before.map(|before| format!("{before}, ")).unwrap_or_default();
                let expected = format!("{before}By=spiffe://a.example/{by};URI=spiffe://a.example/cart");
                let seen = double.seen().pop().unwrap().headers;
                assert_eq!(seen["x-forwarded-client-cert"], expected, "{edge:?} {path} {said:?}");
            }
        }
    }
}
