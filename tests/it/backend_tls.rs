//! TLS towards backends: BackendTLSPolicy, and the certificate that a Gateway shows, from the Gateway API's text.

use std::net::SocketAddr;

use rcgen::{CertificateParams, SanType};

use crate::support::{
    Echo, Ingress, free_port,
    gateway_api::{Listener, gateway, http_route, object},
    get,
    manifest::{backend, config_map, secret, service, slice},
    pki::Pki,
    tls_backend::TlsBackend,
    wire::Response,
};

/// A Gateway `web` at this port, and at each path `/NAME` the Service of that name.
fn web(port: u16, services: &[&str], more: &str) -> String {
    let rules: Vec<_> = services.iter().map(|name| to(&format!("/{name}"), name, 80)).collect();
    let rules: Vec<_> = rules.iter().map(String::as_str).collect();
    gateway("web", &[Listener("http", port, "HTTP", "", "")], more) + &http_route("all", "", &rules)
}

fn to(path: &str, service: &str, port: u16) -> String {
    format!("{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: {service}, port: {port}}}]}}")
}

/// A policy for a Service, and its `validation` with the authority in a ConfigMap.
fn policy(name: &str, target: &str, ca: &str, hostname: &str, more: &str) -> String {
    let spec = format!(
        "  targetRefs: [{{group: \"\", kind: Service, {target}}}]\n  validation: {{caCertificateRefs: [{{group: \"\", \
         kind: ConfigMap, name: {ca}}}], hostname: {hostname}{more}}}\n"
    );
    object("v1", "BackendTLSPolicy", "default", name, &spec)
}

async fn asked(port: u16, path: &str) -> Response {
    get(SocketAddr::from(([127, 0, 0, 1], port)), "a.example", path).await
}

/// Asserts that the answer is an error of the Gateway's, and that the backend saw no request, in the clear or not.
async fn refuses(port: u16, path: &str, backend: &TlsBackend) {
    let answer = asked(port, path).await;
    assert!((500..600).contains(&answer.status), "{path}: {}", answer.head);
    assert_eq!((backend.requests(), backend.plaintext()), (0, 0), "{path}");
}

#[tokio::test]
async fn a_policy_names_the_authority_and_the_host_and_without_one_there_is_no_tls() {
    let (pki, port, plain) = (Pki::new(), free_port(), Echo::start("plain").await);
    let leaf = pki.leaf(&["backend.example"]);
    let (safe, bare) = (TlsBackend::start(&leaf, None).await, TlsBackend::start(&leaf, None).await);
    let world = web(port, &["safe", "bare", "plain"], "")
        + &policy("p", "name: safe", "ca", "backend.example", "")
        + &config_map("ca", &pki.ca())
        + &backend("safe", &[safe.addr])
        + &backend("bare", &[bare.addr])
        + &backend("plain", &[plain.addr]);
    let _ingress = Ingress::start(&world).await;
    let answer = asked(port, "/safe").await;
    assert_eq!((answer.status, answer.value("x-sni")), (200, Some("backend.example")), "{}", answer.head);
    assert_eq!((safe.requests(), safe.plaintext()), (1, 0));
    assert_eq!(asked(port, "/plain").await.value("x-backend"), Some("plain"));
    assert!(asked(port, "/bare").await.status >= 500);
    assert!(bare.plaintext() > 0 && bare.requests() == 0, "{bare:?}");
}

#[tokio::test]
async fn who_is_not_verified_is_not_asked() {
    let (pki, other, port) = (Pki::new(), Pki::new(), free_port());
    let leaf = pki.leaf(&["backend.example"]);
    let (name, authority) = (TlsBackend::start(&leaf, None).await, TlsBackend::start(&leaf, None).await);
    let (missing, broken) = (TlsBackend::start(&leaf, None).await, TlsBackend::start(&leaf, None).await);
    let cases = [
        ("name", &name, "ca", "else.example"),
        ("authority", &authority, "other", "backend.example"),
        ("missing", &missing, "gone", "backend.example"),
        ("broken", &broken, "broken", "backend.example"),
    ];
    let mut world = web(port, &cases.map(|(service, ..)| service), "")
        + &config_map("ca", &pki.ca())
        + &config_map("other", &other.ca())
        + &config_map("broken", "no certificate");
    for (service, server, ca, hostname) in cases {
        world += &policy(service, &format!("name: {service}"), ca, hostname, "");
        world += &backend(service, &[server.addr]);
    }
    let _ingress = Ingress::start(&world).await;
    for (service, server, ..) in cases {
        refuses(port, &format!("/{service}"), server).await;
    }
    assert!(name.connections() > 0 && authority.connections() > 0, "they were refused by their certificates");
    assert_eq!((missing.connections(), broken.connections()), (0, 0), "there is nothing to verify them by");
}

#[tokio::test]
async fn with_subject_names_the_hostname_only_goes_into_the_sni() {
    const SHOP: &str = "spiffe://mesh.example/shop";
    let (pki, port) = (Pki::new(), free_port());
    let mut params = CertificateParams::new(vec!["alt.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI(SHOP.try_into().unwrap()));
    let leaf = pki.sign(&params);
    let cases = [
        ("dns", "{type: Hostname, hostname: alt.example}".to_owned(), true),
        ("uri", format!("{{type: URI, uri: \"{SHOP}\"}}"), true),
        ("either", format!("{{type: Hostname, hostname: no.example}}, {{type: URI, uri: \"{SHOP}\"}}"), true),
        ("no-dns", "{type: Hostname, hostname: sni.example}".to_owned(), false),
        ("no-uri", format!("{{type: URI, uri: \"{SHOP}/more\"}}"), false),
    ];
    let mut servers = Vec::new();
    let mut world = web(port, &cases.each_ref().map(|(service, ..)| *service), "") + &config_map("ca", &pki.ca());
    for (service, names, _) in &cases {
        let server = TlsBackend::start(&leaf, None).await;
        let names = format!(", subjectAltNames: [{names}]");
        world += &policy(service, &format!("name: {service}"), "ca", "sni.example", &names);
        world += &backend(service, &[server.addr]);
        servers.push(server);
    }
    let _ingress = Ingress::start(&world).await;
    for ((service, _, is_served), server) in std::iter::zip(&cases, &servers) {
        let path = format!("/{service}");
        if *is_served {
            let answer = asked(port, &path).await;
            assert_eq!(
                (answer.status, answer.value("x-sni")),
                (200, Some("sni.example")),
                "{service}: {}",
                answer.head
            );
        } else {
            refuses(port, &path, server).await;
        }
    }
}

#[tokio::test]
async fn a_policy_for_a_port_goes_before_then_the_older_then_the_first_by_name() {
    let (pki, port) = (Pki::new(), free_port());
    let server = TlsBackend::start(&pki.leaf(&["a.example", "b.example", "old.example", "port.example"]), None).await;
    let aged = |text: String, year: u16| {
        text.replace("metadata:\n", &format!("metadata:\n  creationTimestamp: \"{year}-01-01T00:00:00Z\"\n"))
    };
    let of = |name: &str, target: &str, host: &str| policy(name, target, "ca", host, "");
    let rules =
        [to("/named", "ports", 80), to("/other", "ports", 81), to("/twice", "twice", 80), to("/aged", "aged", 80)];
    let world = gateway("web", &[Listener("http", port, "HTTP", "", "")], "")
        + &http_route("all", "", &rules.each_ref().map(String::as_str))
        + &config_map("ca", &pki.ca())
        // The winner is never the first in the file; only of the twins is it the first by name.
        + &of("a", "name: ports", "a.example")
        + &of("z", "name: ports, sectionName: http", "port.example")
        + &service("ports", &[("http", 80), ("more", 81)])
        + &slice("ports", "http", server.addr, "")
        + &slice("ports", "more", server.addr, "")
        + &of("twin-b", "name: twice", "b.example")
        + &of("twin-a", "name: twice", "a.example")
        + &backend("twice", &[server.addr])
        + &aged(of("aged-a", "name: aged", "a.example"), 2025)
        + &aged(of("aged-b", "name: aged", "old.example"), 2024)
        + &backend("aged", &[server.addr]);
    let _ingress = Ingress::start(&world).await;
    for (path, name) in
        [("/named", "port.example"), ("/other", "a.example"), ("/twice", "a.example"), ("/aged", "old.example")]
    {
        let answer = asked(port, path).await;
        assert_eq!((answer.status, answer.value("x-sni")), (200, Some(name)), "{path}: {}", answer.head);
    }
}

#[tokio::test]
async fn a_gateway_shows_its_certificate_to_a_backend_that_demands_one() {
    let (pki, clients) = (Pki::new(), Pki::new());
    let leaf = pki.leaf(&["backend.example"]);
    let (ours, theirs) = (clients.leaf(&["gateway.example"]), pki.leaf(&["gateway.example"]));
    for (more, is_served) in [
        ("  tls: {backend: {clientCertificateRef: {name: ours}}}\n", true),
        ("  tls: {backend: {clientCertificateRef: {name: theirs}}}\n", false),
        ("", false),
    ] {
        let (server, port) = (TlsBackend::start(&leaf, Some(&clients)).await, free_port());
        let world = web(port, &["safe"], more)
            + &policy("p", "name: safe", "ca", "backend.example", "")
            + &config_map("ca", &pki.ca())
            + &secret("ours", &ours.certificate, &ours.key)
            + &secret("theirs", &theirs.certificate, &theirs.key)
            + &backend("safe", &[server.addr]);
        let _ingress = Ingress::start(&world).await;
        if is_served {
            let answer = asked(port, "/safe").await;
            assert_eq!((answer.status, answer.value("x-client")), (200, Some("1")), "{}", answer.head);
        } else {
            refuses(port, "/safe", &server).await;
            assert!(server.connections() > 0, "it was the backend that refused");
        }
    }
}
