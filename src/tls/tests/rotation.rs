//! What replaces what, and what stays.

use super::*;

#[tokio::test]
async fn authority_and_certificate_rotate_on_both_sides_under_open_connections() {
    let (old, new) = (ca(), ca());
    let (cart, pay) = (old.identity(&[CART]), old.identity(&[PAY]));
    let address = serve(mutual(&pay));
    let tls = client(&cart, PAY);
    let open = pool(address, tls.clone());
    assert_eq!(ask(&open).await.unwrap(), CART);

    // As it is done: first everyone trusts both, then everyone changes, then the old one goes.
    let both = format!("{}{}", old.pem, new.pem);
    for identity in [&cart, &pay] {
        identity.trust().replace(both.as_bytes(), b"").unwrap();
    }
    pay.replace(&new.issue(&[PAY])).unwrap();
    assert_eq!(ask(&pool(address, tls.clone())).await.unwrap(), CART);
    cart.replace_all(&new.issue(&[&format!("{CART}2")]), new.pem.as_bytes(), b"").unwrap();
    assert_eq!(ask(&pool(address, tls.clone())).await.unwrap(), format!("{CART}2"));
    pay.trust().replace(new.pem.as_bytes(), b"").unwrap();
    assert_eq!(ask(&pool(address, tls)).await.unwrap(), format!("{CART}2"));

    assert_eq!(ask(&open).await.unwrap(), CART, "the old connection still is who it was");
    assert_eq!(open.stats().open, 1);
    let late = client(&old.identity(&[CART]), PAY);
    let error = ask(&pool(address, late)).await.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);
}

#[tokio::test]
async fn a_bad_replacement_changes_nothing() {
    let (ca, other) = (ca(), ca());
    let identity = ca.identity(&[PAY]);
    let good = other.issue(&[PAY]);
    let keyless = Certificate { key: ca.issue(&[PAY]).key, ..good.clone() };
    assert!(matches!(identity.replace(&keyless), Err(CertificateError::KeyMismatch { .. })));
    let error = identity.replace_all(&keyless, other.pem.as_bytes(), b"").unwrap_err();
    assert!(matches!(error, CertificateError::KeyMismatch { .. }), "{error}");
    let error = identity.replace_all(&good, b"", b"").unwrap_err();
    assert!(matches!(error, CertificateError::NoRoots { .. }), "{error}");
    let error = identity.replace_all(&good, other.pem.as_bytes(), b"no list").unwrap_err();
    assert!(matches!(error, CertificateError::RevocationList { .. }), "{error}");
    let (accepted, connected) = shake(&mutual(&identity), &client(&ca.identity(&[CART]), PAY)).await;
    assert_eq!(accepted.unwrap().peer_identity.unwrap().to_string(), CART);
    connected.unwrap();
}

#[test]
fn a_client_never_takes_half_of_a_replacement() {
    let (one, two) = (ca(), ca());
    let both = format!("{}{}", one.pem, two.pem);
    // Told apart by how many authorities there are.
    let states = [(one.issue(&[CART]), &one.pem, 1), (two.issue(&[CART]), &both, 2)];
    let chain = |certificate: &Certificate| {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_slice(&certificate.chain).unwrap()
    };
    let identity = Identity::new(&states[0].0, one.trust()).unwrap();
    let replaced = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            struct Over<'a>(&'a std::sync::atomic::AtomicBool);
            impl Drop for Over<'_> {
                fn drop(&mut self) {
                    self.0.store(true, std::sync::atomic::Ordering::SeqCst);
                }
            }
            // Also where it panics.
            let _over = Over(&replaced);
            for (certificate, roots, _) in states.iter().cycle().take(2000) {
                identity.replace_all(certificate, roots.as_bytes(), b"").unwrap();
            }
        });
        while !replaced.load(std::sync::atomic::Ordering::SeqCst) {
            let (key, anchors) = identity.snapshot(identity.trust());
            let (.., roots) = states.iter().find(|(certificate, ..)| chain(certificate) == key.cert[0]).unwrap();
            assert_eq!(anchors.subjects().len(), *roots);
        }
    });
}

#[tokio::test]
async fn files_are_read_again() {
    let (old, new) = (ca(), ca());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |ca: &Ca, names: &[&str]| {
        let certificate = ca.issue(names);
        std::fs::write(path("chain"), &certificate.chain).unwrap();
        std::fs::write(path("key"), &certificate.key).unwrap();
        std::fs::write(path("roots"), &ca.pem).unwrap();
        std::fs::write(path("crls"), ca.crl(7, 2400)).unwrap();
    };
    let files = IdentityFiles::new(path("chain"), path("key"), path("roots")).crls(path("crls"));
    write(&old, &[PAY]);
    let identity = Identity::from_pem_files(&files).unwrap();
    let server = mutual(&identity);
    shake(&server, &client(&old.identity(&[CART]), PAY)).await.0.unwrap();

    write(&new, &[PAY]);
    std::fs::write(path("crls"), "").unwrap();
    let error = identity.reload_pem_files(&files).unwrap_err();
    assert!(error.to_string().ends_with("crls: a revocation list cannot be read: the file is empty"), "{error}");
    shake(&server, &client(&old.identity(&[CART]), PAY)).await.0.unwrap();

    write(&new, &[PAY]);
    identity.reload_pem_files(&files).unwrap();
    shake(&server, &client(&new.identity(&[CART]), PAY)).await.0.unwrap();
    std::fs::remove_file(path("key")).unwrap();
    assert!(matches!(identity.reload_pem_files(&files), Err(CertificateError::File { .. })));
}

/// A client that resumes, and the server it does so with.
struct Pair {
    ca: Ca,
    clients: Trust,
    server: ServerTls,
    cart: Identity,
    client: ClientTls,
}

impl Pair {
    fn new() -> Self {
        let ca = ca();
        let clients = ca.trust();
        let server = ServerTls::new(ca.identity(&[PAY])).unwrap();
        let server = server.client_certificates(ClientCertificates::required(clients.clone()));
        let cart = Identity::new(&ca.sign(&numbered(&[CART], 7)), ca.trust()).unwrap();
        let client = client(&cart, PAY);
        Self { ca, clients, server, cart, client }
    }

    async fn kind(&self) -> (HandshakeKind, String) {
        let (accepted, connected) = shake(&self.server, &self.client).await;
        (connected.unwrap(), accepted.unwrap().peer_identity.unwrap().to_string())
    }
}

#[tokio::test]
async fn sessions_are_resumed_with_the_identity_they_were_made_with() {
    let pair = Pair::new();
    assert_eq!(pair.kind().await, (HandshakeKind::Full, CART.to_owned()));
    assert_eq!(pair.kind().await, (HandshakeKind::Resumed, CART.to_owned()));
}

#[tokio::test]
async fn a_server_forgets_sessions_when_its_trust_changes() {
    let pair = Pair::new();
    pair.kind().await;
    pair.clients.replace(format!("{}{}", pair.ca.pem, ca().pem).as_bytes(), b"").unwrap();
    assert_eq!(pair.kind().await, (HandshakeKind::Full, CART.to_owned()), "still trusted, but verified anew");
    assert_eq!(pair.kind().await.0, HandshakeKind::Resumed);

    pair.clients.replace(pair.ca.pem.as_bytes(), pair.ca.crl(7, 2400).as_bytes()).unwrap();
    let error = shake(&pair.server, &pair.client).await.0.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::Revoked);
}

#[tokio::test]
async fn a_client_forgets_sessions_when_its_trust_or_its_certificate_changes() {
    let pair = Pair::new();
    pair.kind().await;
    pair.cart.replace(&pair.ca.issue(&[&format!("{CART}2")])).unwrap();
    assert_eq!(pair.kind().await, (HandshakeKind::Full, format!("{CART}2")));
    assert_eq!(pair.kind().await.0, HandshakeKind::Resumed);

    pair.cart.trust().replace(pair.ca.pem.as_bytes(), pair.ca.crl(8, 2400).as_bytes()).unwrap();
    assert_eq!(pair.kind().await.0, HandshakeKind::Full);
    pair.cart.trust().replace(ca().pem.as_bytes(), b"").unwrap();
    let error = shake(&pair.server, &pair.client).await.1.unwrap_err();
    assert_eq!(refused(&error).reason(), RefusedReason::UnknownAuthority);
}

#[tokio::test]
async fn a_session_of_one_name_is_not_resumed_for_another() {
    let ca = ca();
    let server = ServerTls::new(ca.identity(&[PAY]))
        .unwrap()
        .client_certificates_for(["open.example".parse().unwrap()], ClientCertificates::optional(ca.trust()))
        .client_certificates_for(["shut.example".parse().unwrap()], ClientCertificates::required(ca.trust()));
    let none = UpstreamTls { roots: Roots::Pem(ca.pem.as_bytes().into()), ..expecting(PAY) };
    let open = ClientTls::new(&none, "open.example", Protocol::Http1).unwrap();
    assert_eq!(shake(&server, &open).await.1.unwrap(), HandshakeKind::Full);
    assert_eq!(shake(&server, &open).await.1.unwrap(), HandshakeKind::Resumed);
    let shut = ClientTls::new(&none, "shut.example", Protocol::Http1).unwrap();
    assert_eq!(refused(&shake(&server, &shut).await.0.unwrap_err()).reason(), RefusedReason::Missing);
}
