//! Each trust domain's authorities sign for that domain, and for no other.

use super::*;
use crate::identity::TrustDomain;

const PARTNER: &str = "spiffe://partner.example/till";

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// Two meshes that trust each other, as we see it.
struct Meshes {
    ours: Ca,
    theirs: Ca,
    trust: Trust,
}

fn meshes() -> Meshes {
    let (ours, theirs) = (ca(), ca());
    let (mesh, partner) = (domain("mesh.example"), domain("partner.example"));
    let trust = Trust::by_domain([
        TrustBundle::new(&mesh, ours.pem.as_bytes()).dns_names(),
        TrustBundle::new(&partner, theirs.pem.as_bytes()),
    ]);
    Meshes { ours, theirs, trust: trust.unwrap() }
}

impl Meshes {
    fn identity(&self, of: &Ca, names: &[&str]) -> Identity {
        Identity::new(&of.issue(names), self.trust.clone()).unwrap()
    }

    /// A client that trusts whom we trust, and what is expected of the server.
    fn client(&self, tls: &UpstreamTls) -> ClientTls {
        let cart = self.identity(&self.ours, &[CART]);
        ClientTls::mtls(&cart, tls, "mesh.example", Protocol::Http1).unwrap()
    }
}

/// Takes any client, so that it is the client who refuses.
fn open(identity: Identity) -> ServerTls {
    ServerTls::new(identity).unwrap()
}

#[tokio::test]
async fn each_domains_own_certificates_pass_on_both_sides() {
    let meshes = meshes();
    let pay = meshes.identity(&meshes.ours, &[PAY]);
    let till = meshes.identity(&meshes.theirs, &[PARTNER]);
    for (server, server_id, client, client_id) in [(&pay, PAY, &till, PARTNER), (&till, PARTNER, &pay, PAY)] {
        let (accepted, connected) = shake(&mutual(server), &self::client(client, server_id)).await;
        connected.unwrap();
        assert_eq!(accepted.unwrap().peer_identity.unwrap().to_string(), client_id);
    }
}

#[tokio::test]
async fn a_foreign_authority_signs_no_id_of_ours() {
    let meshes = meshes();
    let forged = meshes.identity(&meshes.theirs, &[PAY]);
    // With any expectation that the forged name would meet.
    for expected in [
        expecting(PAY),
        UpstreamTls { trust_domain: Some(domain("mesh.example")), ..UpstreamTls::default() },
        UpstreamTls { subject_names: vec![SubjectName::Uri(PAY.to_owned())], ..UpstreamTls::default() },
    ] {
        let error = shake(&open(forged.clone()), &meshes.client(&expected)).await.1.unwrap_err();
        assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority, "{expected:?}");
    }
    // With a DNS name beside the ID, where a name is expected.
    let named = meshes.identity(&meshes.theirs, &[PAY, "mesh.example"]);
    let error = shake(&open(named), &meshes.client(&UpstreamTls::default())).await.1.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);

    let server = mutual(&meshes.identity(&meshes.ours, &[PAY]));
    let error = shake(&server, &client(&forged, PAY)).await.0.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);
    assert!(refused(&error).to_string().contains(PAY), "{error}");

    // Nor do we sign theirs.
    let forged = meshes.identity(&meshes.ours, &[PARTNER]);
    let error = shake(&server, &client(&forged, PAY)).await.0.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);

    // Let in without verification, it still is nobody.
    let unverified = ClientCertificates::unverified(meshes.trust.clone());
    let server = open(meshes.identity(&meshes.ours, &[PAY])).client_certificates(unverified);
    assert_eq!(shake(&server, &client(&forged, PAY)).await.0.unwrap().peer_identity, None);
}

#[tokio::test]
async fn an_upstream_is_verified_by_the_authorities_of_its_domain() {
    let meshes = meshes();
    let bundle = |domain: &str, roots: &str| config::TrustBundle {
        domain: domain.parse().unwrap(),
        roots: roots.as_bytes().into(),
        crls: None,
        dns_names: false,
    };
    let trust = vec![bundle("mesh.example", &meshes.ours.pem), bundle("partner.example", &meshes.theirs.pem)];
    let tls = UpstreamTls { trust: Some(trust), ..expecting(PAY) };
    let client = |tls: &UpstreamTls| ClientTls::new(tls, "mesh.example", Protocol::Http1);
    let identity = meshes.identity(&meshes.ours, &[CART]);
    // Without an identity, and in the place of whom an identity trusts.
    for client in [client(&tls), ClientTls::mtls(&identity, &tls, "mesh.example", Protocol::Http1)] {
        let client = client.unwrap();
        shake(&open(meshes.identity(&meshes.ours, &[PAY])), &client).await.1.unwrap();
        let error = shake(&open(meshes.identity(&meshes.theirs, &[PAY])), &client).await.1.unwrap_err();
        assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);
    }
    use crate::tls::client::ClientTlsError;
    let beside = UpstreamTls { roots: Roots::Pem(meshes.ours.pem.as_bytes().into()), ..tls.clone() };
    assert_eq!(client(&beside).unwrap_err(), ClientTlsError::TrustBesideRoots);
    let beside = UpstreamTls { crls: Some(b"".as_slice().into()), ..tls.clone() };
    assert_eq!(client(&beside).unwrap_err(), ClientTlsError::TrustBesideRoots);
    let broken = UpstreamTls { trust: Some(vec![bundle("mesh.example", "")]), ..tls };
    let error = client(&broken).unwrap_err().to_string();
    assert!(error.starts_with("`trust`: trust roots of mesh.example: no certificate authority"), "{error}");
}

#[tokio::test]
async fn who_has_no_id_or_one_of_an_unknown_domain_is_refused_whatever_is_expected() {
    use RefusedReason::{UnknownTrustDomain, WrongName};
    let meshes = meshes();
    let server = mutual(&meshes.identity(&meshes.ours, &[PAY]));
    for (names, reason, said) in [
        (&["mesh.example"][..], WrongName, "expected one SPIFFE ID, presented mesh.example"),
        (&[PAY, PARTNER, "mesh.example"], WrongName, "expected one SPIFFE ID, presented"),
        (&["https://mesh.example/x", "mesh.example"], WrongName, "expected one SPIFFE ID, presented"),
        (&["spiffe://other.example/x", "mesh.example"], UnknownTrustDomain, "trust domain other.example of spiffe://"),
        (&["spiffe://sub.mesh.example/x", "mesh.example"], UnknownTrustDomain, "trust domain sub.mesh.example of"),
    ] {
        let theirs = meshes.identity(&meshes.ours, names);
        // The server's name stands in every one of them.
        let connected = shake(&open(theirs.clone()), &meshes.client(&UpstreamTls::default())).await.1.unwrap_err();
        let accepted = shake(&server, &client(&theirs, PAY)).await.0.unwrap_err();
        for error in [connected, accepted] {
            let refusal = refused(&error);
            assert_eq!((refusal.reason(), refusal.is_ours()), (reason, false), "{names:?}: {error}");
            let source = refusal.source().unwrap().to_string();
            assert!(source.contains(said), "{names:?}: {source}");
        }
    }
    // With the ID, the name does as ever.
    let named = meshes.identity(&meshes.ours, &[PAY, "mesh.example"]);
    shake(&open(named), &meshes.client(&UpstreamTls::default())).await.1.unwrap();
}

#[tokio::test]
async fn a_foreign_authority_gives_nobody_a_dns_name_of_ours() {
    let meshes = meshes();
    // Under an ID of its own, with which it is welcome.
    let till = meshes.identity(&meshes.theirs, &[PARTNER, "mesh.example"]);
    for expected in [
        UpstreamTls::default(),
        UpstreamTls { subject_names: vec![SubjectName::Dns("mesh.example".to_owned())], ..UpstreamTls::default() },
        UpstreamTls { subject_names: vec![SubjectName::Dns("*.example".to_owned())], ..UpstreamTls::default() },
    ] {
        let error = shake(&open(till.clone()), &meshes.client(&expected)).await.1.unwrap_err();
        assert_eq!(refused(&error).reason(), RefusedReason::WrongName, "{expected:?}");
        let ours = meshes.identity(&meshes.ours, &[PAY, "mesh.example"]);
        shake(&open(ours), &meshes.client(&expected)).await.1.unwrap();
    }
    shake(&open(till.clone()), &meshes.client(&expecting(PARTNER))).await.1.unwrap();

    let server = mutual(&meshes.identity(&meshes.ours, &[PAY]));
    let cart = meshes.identity(&meshes.ours, &[CART, "mesh.example"]);
    for (client, id, names) in [(&till, PARTNER, &[][..]), (&cart, CART, &["mesh.example"])] {
        let peer = shake(&server, &self::client(client, PAY)).await.0.unwrap().peer_identity.unwrap();
        assert_eq!(peer.spiffe_id().unwrap().as_str(), id);
        assert_eq!(peer.dns_names().collect::<Vec<_>>(), names);
    }
}

#[tokio::test]
async fn revocation_lists_speak_for_their_own_domain() {
    let (ours, theirs) = (ca(), ca());
    let (mesh, partner) = (domain("mesh.example"), domain("partner.example"));
    let crl = ours.crl(7, 2400);
    let trust = Trust::by_domain([
        TrustBundle::new(&mesh, ours.pem.as_bytes()).crls(crl.as_bytes()),
        TrustBundle::new(&partner, theirs.pem.as_bytes()),
    ]);
    let trust = trust.unwrap();
    let server = open(Identity::new(&ours.issue(&[PAY]), ours.trust()).unwrap());
    let server = server.client_certificates(ClientCertificates::required(trust));
    let by = |ca: &Ca, id: &str| client(&Identity::new(&ca.sign(&numbered(&[id], 7)), ours.trust()).unwrap(), PAY);
    let error = shake(&server, &by(&ours, CART)).await.0.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::Revoked);
    // The same number by an authority of the same name.
    shake(&server, &by(&theirs, PARTNER)).await.0.unwrap();
}

#[tokio::test]
async fn a_domain_that_is_taken_out_is_refused_from_then_on() {
    let meshes = meshes();
    let server = mutual(&meshes.identity(&meshes.ours, &[PAY]));
    let till = client(&meshes.identity(&meshes.theirs, &[PARTNER]), PAY);
    shake(&server, &till).await.0.unwrap();
    let mesh = domain("mesh.example");
    meshes.trust.replace_by_domain([TrustBundle::new(&mesh, meshes.ours.pem.as_bytes())]).unwrap();
    let error = shake(&server, &till).await.0.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownTrustDomain);
}

#[test]
fn a_domain_is_named_once() {
    let (ours, theirs) = (ca(), ca());
    let mesh = domain("mesh.example");
    let bundle = TrustBundle::new(&mesh, ours.pem.as_bytes());
    let trust = Trust::by_domain([bundle]).unwrap();
    let error = trust.replace_by_domain([bundle, TrustBundle::new(&mesh, theirs.pem.as_bytes())]).unwrap_err();
    assert!(matches!(&error, CertificateError::TrustDomainTwice { domain } if *domain == mesh), "{error}");
    let error = Trust::by_domain([TrustBundle::new(&mesh, b"")]).unwrap_err();
    assert!(error.to_string().starts_with("trust roots of mesh.example: no certificate authority"), "{error}");
    assert_eq!(format!("{trust:?}"), "Trust { domains: [\"mesh.example\"], roots: 1, crls: 0 }");
}

#[test]
fn clients_are_told_all_domains_authorities() {
    assert_eq!(meshes().trust.load().subjects().len(), 2);
}
