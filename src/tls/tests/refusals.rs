//! Who is refused, and that both sides can tell why.

use super::*;

fn dated(names: &[&str], from: i32, to: i32) -> CertificateParams {
    let mut params = params(names);
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    params
}

fn only_for(purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = params(&[PAY]);
    params.extended_key_usages = vec![purpose];
    params
}

#[tokio::test]
async fn a_servers_certificate_is_refused_and_the_error_says_why() {
    use RefusedReason::*;
    let (ca, other) = (ca(), ca());
    let current = ca.crl(7, 2400);
    let by_name = UpstreamTls::default;
    for (what, certificate, expected, crl, reason) in [
        ("another CA of the same name", other.issue(&[PAY]), expecting(PAY), None, UnknownAuthority),
        ("expired", ca.sign(&dated(&[PAY], 2001, 2002)), expecting(PAY), None, Expired),
        ("not yet valid", ca.sign(&dated(&[PAY], 2400, 2401)), expecting(PAY), None, NotYetValid),
        ("another ID", ca.issue(&[CART]), expecting(PAY), None, WrongName),
        ("the ID and another", ca.issue(&[PAY, CART]), expecting(PAY), None, WrongName),
        ("the ID as prefix", ca.issue(&["spiffe://mesh.example/ns/shop/sa/pay2"]), expecting(PAY), None, WrongName),
        ("no ID", ca.issue(&["mesh.example"]), expecting(PAY), None, WrongName),
        (
            "another trust domain",
            ca.issue(&["spiffe://other.example/pay"]),
            UpstreamTls { trust_domain: Some("mesh.example".parse().unwrap()), ..by_name() },
            None,
            WrongName,
        ),
        ("an ID where a name is expected", ca.issue(&[PAY]), by_name(), None, WrongName),
        ("another name", ca.issue(&["b.example"]), by_name(), None, WrongName),
        ("revoked", ca.sign(&numbered(&[PAY], 7)), expecting(PAY), Some(&current), Revoked),
        (
            "a list of another CA's",
            ca.sign(&numbered(&[PAY], 8)),
            expecting(PAY),
            Some(&other.crl(7, 2400)),
            RevocationUnknown,
        ),
        ("an old list", ca.sign(&numbered(&[PAY], 8)), expecting(PAY), Some(&ca.crl(7, 2025)), RevocationUnknown),
        ("a client's", ca.sign(&only_for(ExtendedKeyUsagePurpose::ClientAuth)), expecting(PAY), None, WrongPurpose),
    ] {
        let address = serve(ServerTls::new(Identity::new(&certificate, ca.trust()).unwrap()).unwrap());
        let crls = crl.map(|crl| crl.as_bytes().into());
        let tls = UpstreamTls { roots: Roots::Pem(ca.pem.as_bytes().into()), crls, ..expected };
        let tls = ClientTls::new(&tls, "mesh.example", Protocol::Http1).unwrap();
        let error = ask(&pool(address, tls)).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::CertificateRefused, "{what}: {error}");
        let text = error.to_string();
        assert_eq!(refused(&error).reason(), reason, "{what}: {error}");
        let start = format!("certificate_refused: TLS handshake: the peer's certificate is refused: {reason}");
        assert!(text.starts_with(&start), "{what}: {text}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_revoked_passes() {
    let ca = ca();
    let address = serve(ServerTls::new(Identity::new(&ca.sign(&numbered(&[PAY], 8)), ca.trust()).unwrap()).unwrap());
    let crls = Some(ca.crl(7, 2400).as_bytes().into());
    let tls = UpstreamTls { roots: Roots::Pem(ca.pem.as_bytes().into()), crls, ..expecting(PAY) };
    let tls = ClientTls::new(&tls, "mesh.example", Protocol::Http1).unwrap();
    assert_eq!(ask(&pool(address, tls)).await.unwrap(), "nobody");
}

#[tokio::test]
async fn of_the_expected_subject_names_one_is_enough_and_the_servers_name_is_none() {
    let ca = ca();
    let dns = |name: &str| SubjectName::Dns(name.to_owned());
    let uri = |uri: &str| SubjectName::Uri(uri.to_owned());
    for (has, expected, fits) in [
        (vec!["a.example"], vec![dns("a.example")], true),
        (vec!["a.example"], vec![dns("A.Example")], true),
        (vec!["*.a.example"], vec![dns("b.a.example")], true),
        (vec!["*.a.example"], vec![dns("c.b.a.example")], false),
        (vec!["*.a.example"], vec![dns("*.a.example")], true),
        (vec!["b.a.example"], vec![dns("*.a.example")], true),
        (vec!["c.b.a.example"], vec![dns("*.a.example")], false),
        (vec!["a.example"], vec![dns("*.a.example")], false),
        (vec![PAY], vec![uri(PAY)], true),
        (vec![CART, PAY], vec![uri(PAY)], true),
        (vec![CART], vec![uri(PAY)], false),
        (vec![CART], vec![dns("a.example"), uri(CART)], true),
        (vec!["a.example"], vec![dns("b.example"), uri(PAY)], false),
        (vec!["mesh.example"], vec![dns("a.example")], false),
        (vec!["a.example"], vec![uri("a.example")], false),
    ] {
        let address = serve(ServerTls::new(Identity::new(&ca.issue(&has), ca.trust()).unwrap()).unwrap());
        let roots = Roots::Pem(ca.pem.as_bytes().into());
        let tls = UpstreamTls {
            server_name: Some("mesh.example".into()),
            subject_names: expected.clone(),
            roots,
            ..UpstreamTls::default()
        };
        let answer = ask(&pool(address, ClientTls::new(&tls, "x.example", Protocol::Http1).unwrap())).await;
        match answer {
            Ok(_) => assert!(fits, "{has:?} {expected:?}"),
            Err(error) => {
                assert!(!fits, "{has:?} {expected:?}: {error}");
                assert_eq!(refused(&error).reason(), RefusedReason::WrongName, "{has:?} {expected:?}");
            }
        }
    }
    // A name that fits does not make up for an authority that does not.
    let stranger = self::ca();
    let address = serve(ServerTls::new(Identity::new(&stranger.issue(&["a.example"]), ca.trust()).unwrap()).unwrap());
    let roots = Roots::Pem(ca.pem.as_bytes().into());
    let tls = UpstreamTls { subject_names: vec![dns("a.example")], roots, ..UpstreamTls::default() };
    let error = ask(&pool(address, ClientTls::new(&tls, "a.example", Protocol::Http1).unwrap())).await.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);
}

#[tokio::test]
async fn the_error_names_the_ids() {
    let ca = ca();
    let server = ServerTls::new(ca.identity(&[PAY])).unwrap();
    let error = shake(&server, &client(&ca.identity(&[CART]), CART)).await.1.unwrap_err();
    let error = Error::new(Outcome::CertificateRefused).with_source(error);
    let end = format!("is refused: it is for another name: expected {CART}, presented {PAY}");
    assert!(error.to_string().ends_with(&end), "{error}");
}

#[tokio::test]
async fn a_clients_certificate_is_refused_and_both_sides_know_why() {
    use RefusedReason::*;
    let (ca, other) = (ca(), ca());
    let identity = ca.identity(&[PAY]);
    let listed = Trust::new(ca.pem.as_bytes(), ca.crl(7, 2400).as_bytes()).unwrap();
    let none = UpstreamTls { roots: Roots::Pem(ca.pem.as_bytes().into()), ..expecting(PAY) };
    let none = ClientTls::new(&none, "mesh.example", Protocol::Http1).unwrap();
    let showing = |certificate: &Certificate| client(&Identity::new(certificate, ca.trust()).unwrap(), PAY);
    for (what, tls, reason, told) in [
        ("none", none, Missing, Missing),
        ("another CA's", showing(&other.issue(&[CART])), UnknownAuthority, UnknownAuthority),
        ("expired", showing(&ca.sign(&dated(&[CART], 2001, 2002))), Expired, Expired),
        ("revoked", showing(&ca.sign(&numbered(&[PAY], 7))), Revoked, Revoked),
        ("a server's", showing(&ca.sign(&only_for(ExtendedKeyUsagePurpose::ServerAuth))), WrongPurpose, WrongPurpose),
    ] {
        let server = ServerTls::new(identity.clone()).unwrap();
        let server = server.client_certificates(ClientCertificates::required(listed.clone()));
        let (accepted, connected) = shake(&server, &tls).await;
        let (accepted, connected) = (accepted.unwrap_err(), connected.unwrap_err());
        let refusal = refused(&accepted);
        assert_eq!((refusal.reason(), refusal.is_ours()), (reason, false), "{what}: {accepted}");
        let learned = CertificateRefused::find(&connected).unwrap();
        assert_eq!((learned.reason(), learned.is_ours()), (told, true), "{what}: {connected}");
        if reason == UnknownAuthority {
            let expected = format!("the peer's certificate is refused ({CART}): no trusted authority has signed it");
            assert_eq!(refusal.to_string(), expected);
        }
        // And as a whole, no answer comes.
        assert!(ask(&pool(serve(server), tls)).await.is_err(), "{what}");
    }
}

#[tokio::test]
async fn a_server_learns_that_its_own_certificate_was_refused() {
    let (ca, other) = (ca(), ca());
    let server = mutual(&Identity::new(&other.issue(&[PAY]), ca.trust()).unwrap());
    let accepted = shake(&server, &client(&ca.identity(&[CART]), PAY)).await.0.unwrap_err();
    assert_eq!(refused(&accepted).to_string(), "the peer refuses our certificate: no trusted authority has signed it");
}

#[test]
fn no_part_of_a_key_is_shown_that_is_not_pem() {
    let good = ca().issue(&[PAY]);
    let flat = String::from_utf8(good.key.clone()).unwrap().replace(['\n', '\r'], "");
    let secret = flat.trim_start_matches(|c| c != 'M').get(..24).unwrap().to_owned();
    let bytes = secret.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    // As the key, and in the place of the chain.
    let as_chain = Certificate { chain: flat.clone().into(), ..good.clone() };
    for certificate in [Certificate { key: flat.clone().into(), ..good.clone() }, as_chain] {
        let error = CertificateSet::new([&certificate]).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains(&secret) && !shown.contains(&bytes), "{shown}");
        }
    }
}
