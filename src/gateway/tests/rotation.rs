//! Certificates and authorities that a configuration replaces under upstreams that stay.

use super::*;
use crate::{
    config::{Certificate, ClientAuth, Protocol, Roots, UpstreamTls},
    tls::{
        Identity, Trust,
        client::ClientTlsError,
        tests::{CART, Ca, PAY, ca, mutual, serve},
    },
    upstream::Upstream,
};

/// A gateway's whole configuration: everything to one server over mutual TLS.
fn world(address: SocketAddr, shown: &Certificate, roots: &str, expected: &str) -> Config {
    let client_auth = Some(ClientAuth { chain: shown.chain.as_slice().into(), key: shown.key.as_slice().into() });
    let (roots, spiffe_id) = (Roots::Pem(roots.as_bytes().into()), Some(expected.parse().unwrap()));
    let tls = Some(UpstreamTls { roots, client_auth, spiffe_id, ..UpstreamTls::default() });
    let pay = config::Upstream { tls, protocol: Protocol::Http1, ..to("pay", [address]) };
    config([rule("/", [BackendRef::new("pay")])], [pay])
}

/// An answer whose body nobody has read yet: its connection is not free for the next request.
async fn answer(gateway: &Gateway) -> Response<Body> {
    let request = Request::get("/").header("host", "mesh.example").body(Body::empty()).unwrap();
    gateway.clone().oneshot(request).await.unwrap()
}

async fn text(answer: Response<Body>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

fn only(gateway: &Gateway) -> Upstream {
    gateway.upstreams().remove(0)
}

/// A server that tells who asks and trusts both authorities, with what it is.
fn server(one: &Ca, other: &Ca) -> (SocketAddr, Identity) {
    let trust = Trust::new(format!("{}{}", one.pem, other.pem).as_bytes(), b"").unwrap();
    let pay = Identity::new(&one.issue(&[PAY]), trust).unwrap();
    (serve(mutual(&pay)), pay)
}

#[tokio::test]
async fn another_certificate_is_shown_by_the_next_connection_of_the_same_upstream() {
    let (old, new) = (ca(), ca());
    let (address, pay) = server(&old, &new);
    let gateway = Gateway::builder(world(address, &old.issue(&[CART]), &old.pem, PAY)).build().unwrap();
    let upstream = only(&gateway);
    let endpoint = upstream.endpoints().iter().next().unwrap().0.clone();
    let open = answer(&gateway).await;

    let renewed = format!("{CART}2");
    gateway.apply(world(address, &new.issue(&[&renewed]), &old.pem, PAY)).unwrap();
    assert!(only(&gateway).is_same(&upstream));
    let next = answer(&gateway).await;
    assert!(Arc::ptr_eq(&endpoint, upstream.endpoints().iter().next().unwrap().0), "with all that is known of it");
    assert_eq!(endpoint.payload().stats().open, 2, "the old connection is its own");

    // The server's authority goes, with the server's sessions, and what is open goes on.
    pay.replace_all(&new.issue(&[PAY]), new.pem.as_bytes(), b"").unwrap();
    assert_eq!(answer(&gateway).await.extensions().get(), Some(&Outcome::CertificateRefused));
    gateway.apply(world(address, &new.issue(&[&renewed]), &new.pem, PAY)).unwrap();
    assert!(only(&gateway).is_same(&upstream));
    assert_eq!(text(answer(&gateway).await).await, renewed);
    assert_eq!(text(next).await, renewed);
    assert_eq!(text(open).await, CART, "who it was when it was made");
}

#[tokio::test]
async fn a_bad_certificate_is_refused_and_another_expectation_is_another_upstream() {
    let ca = ca();
    let (address, _) = server(&ca, &ca);
    let certificate = ca.issue(&[CART]);
    let gateway = Gateway::builder(world(address, &certificate, &ca.pem, PAY)).build().unwrap();
    let upstream = only(&gateway);
    let keyless = Certificate { key: ca.issue(&[CART]).key, ..certificate.clone() };
    let error = gateway.apply(world(address, &keyless, &ca.pem, PAY)).unwrap_err().to_string();
    assert_eq!(
        error,
        "upstream `pay`: `client_auth` key: it belongs to another certificate: expected one PEM block `PRIVATE KEY` that \
         fits the certificate"
    );
    assert_eq!(text(answer(&gateway).await).await, CART);
    // As it is, too, when another part of the configuration is refused.
    let mut broken = world(address, &ca.issue(&[&format!("{CART}2")]), &ca.pem, PAY);
    broken.routes[0].rules[0].backends.push(BackendRef::new("gone"));
    gateway.apply(broken).unwrap_err();
    let held = answer(&gateway).await;
    let next = answer(&gateway).await;
    assert_eq!((text(held).await, text(next).await), (CART.to_owned(), CART.to_owned()));

    gateway.apply(world(address, &certificate, &ca.pem, CART)).unwrap();
    assert!(!only(&gateway).is_same(&upstream), "whom it expects is not what rotates");
    assert_eq!(answer(&gateway).await.extensions().get(), Some(&Outcome::CertificateRefused));
}

/// The same with an identity that the program gives.
fn named(address: SocketAddr, identity: &str) -> Config {
    let (identity, spiffe_id) = (Some(identity.to_owned()), Some(PAY.parse().unwrap()));
    let tls = Some(UpstreamTls { identity, spiffe_id, ..UpstreamTls::default() });
    let pay = config::Upstream { tls, protocol: Protocol::Http1, ..to("pay", [address]) };
    config([rule("/", [BackendRef::new("pay")])], [pay])
}

#[tokio::test]
async fn an_upstream_shows_the_identity_it_names_as_that_rotates() {
    let (old, new) = (ca(), ca());
    let (address, pay) = server(&old, &new);
    let cart = old.identity(&[CART]);
    let gateway = Gateway::builder(named(address, "mesh")).identity("mesh", cart.clone()).build().unwrap();
    let upstream = only(&gateway);
    let open = answer(&gateway).await;

    let renewed = format!("{CART}2");
    cart.replace_all(&new.issue(&[&renewed]), new.pem.as_bytes(), b"").unwrap();
    pay.replace_all(&new.issue(&[PAY]), new.pem.as_bytes(), b"").unwrap();
    let next = answer(&gateway).await;
    assert!(only(&gateway).is_same(&upstream));
    assert_eq!((text(next).await, text(open).await), (renewed.clone(), CART.to_owned()));

    // Authorities of a configuration's own take the place of the identity's, for this upstream alone.
    let mut own = named(address, "mesh");
    own.upstreams[0].tls.as_mut().unwrap().roots = Roots::Pem(old.pem.as_bytes().into());
    gateway.apply(own.clone()).unwrap();
    let strict = only(&gateway);
    assert!(!strict.is_same(&upstream));
    assert_eq!(answer(&gateway).await.extensions().get(), Some(&Outcome::CertificateRefused));
    let both = format!("{}{}", old.pem, new.pem);
    own.upstreams[0].tls.as_mut().unwrap().roots = Roots::Pem(both.as_bytes().into());
    gateway.apply(own).unwrap();
    assert!(only(&gateway).is_same(&strict));
    assert_eq!(text(answer(&gateway).await).await, renewed);
    assert_eq!(format!("{:?}", cart.trust()), "Trust { roots: 1, crls: 0 }", "and the identity's stay");
    gateway.apply(named(address, "mesh")).unwrap();
    assert!(!only(&gateway).is_same(&strict));
    assert_eq!(text(answer(&gateway).await).await, renewed);
}

#[tokio::test]
async fn an_identity_must_be_given_and_be_the_only_thing_shown() {
    let ca = ca();
    let address = closed().await;
    let build = |config| Gateway::builder(config).identity("mesh", ca.identity(&[CART])).build();
    let told = |config| match build(config) {
        Err(BuildError::Upstream(crate::upstream::BuildError::Tls { name, source })) if name == "pay" => source,
        other => panic!("{other:?}"),
    };
    let error = told(named(address, "mush"));
    assert_eq!(error, ClientTlsError::UnknownIdentity { name: "mush".into(), known: vec!["mesh".to_owned()] });
    assert_eq!(
        error.to_string(),
        "there is no identity named `mush`: give it with `GatewayBuilder::identity`; there are: mesh"
    );
    let mut both = world(address, &ca.issue(&[CART]), &ca.pem, PAY);
    both.upstreams[0].tls.as_mut().unwrap().identity = Some("mesh".into());
    assert_eq!(told(both), ClientTlsError::IdentityBesideClientAuth);
    let mut lists = named(address, "mesh");
    lists.upstreams[0].tls.as_mut().unwrap().crls = Some(b"".as_slice().into());
    let gateway = build(named(address, "mesh")).unwrap();
    assert!(gateway.apply(lists).unwrap_err().to_string().contains("for an identity that has its own"));
    // Nor where it had authorities of its own before: those of the system would take their place.
    let mut own = named(address, "mesh");
    let tls = own.upstreams[0].tls.as_mut().unwrap();
    (tls.roots, tls.spiffe_id) = (Roots::Pem(ca.pem.as_bytes().into()), None);
    let gateway = build(own.clone()).unwrap();
    let tls = own.upstreams[0].tls.as_mut().unwrap();
    (tls.roots, tls.crls) = (Roots::System, Some(b"".as_slice().into()));
    assert!(gateway.apply(own).unwrap_err().to_string().contains("for an identity that has its own"));
    // An upstream by itself knows no names.
    let alone = Upstream::new(named(address, "mesh").upstreams.remove(0)).unwrap_err().to_string();
    assert_eq!(alone, "upstream `pay`: there is no identity named `mesh`: give it with `GatewayBuilder::identity`");
}
