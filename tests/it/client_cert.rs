//! What a backend is told of a client's certificate, by rules of our own YAML.

use std::net::SocketAddr;

use rcgen::{CertificateParams, SanType};

use crate::support::{
    Echo, Ingress, free_port,
    ingress::folder,
    pki::Pki,
    tools::{curl_tls, fingerprint},
};

const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";
const GATE: &str = "spiffe://mesh.example/ns/gate/sa/gate";

const ROUTES: &str = "
routes:
- name: told
  listeners: [tls]
  rules:
  - {matches: [{path: {prefix: /set}}], filters: [{client_cert: {}}], backends: [app]}
  - {matches: [{path: {prefix: /by}}], filters: [{client_cert: {by: 'spiffe://mesh.example/ns/gate/sa/gate'}}], backends: [app]}
  - {matches: [{path: {prefix: /append}}], filters: [{client_cert: {tell: append}}], backends: [app]}
  - {matches: [{path: {prefix: /keep}}], filters: [{client_cert: {tell: keep}}], backends: [app]}
  - matches: [{path: {prefix: /twice}}]
    filters: [{client_cert: {tell: append}}]
    backends: [{name: app, filters: [{client_cert: {tell: append}}]}]
  - {backends: [app]}
";

#[tokio::test]
async fn a_backend_is_told_of_the_certificate_that_the_client_was_verified_by() {
    let (pki, app) = (Pki::new(), Echo::start("app").await);
    let gate = pki.leaf(&["a.example"]);
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        vec![SanType::URI(CART.try_into().unwrap()), SanType::DnsName("cart.example".try_into().unwrap())];
    let cart = pki.sign(&params);
    let dir = folder(&[
        ("ca.pem", &pki.ca()),
        ("gate.pem", &gate.certificate),
        ("gate.key", &gate.key),
        ("cart.pem", &cart.certificate),
        ("cart.key", &cart.key),
    ]);
    let port = free_port();
    let text = format!(
        "listeners:\n- name: tls\n  port: {port}\n  protocol:\n    https:\n      certificates: [{{cert: gate.pem, key: \
         gate.key}}]\n      client: {{ca: ca.pem, mode: optional}}\n{ROUTES}upstreams:\n- {{name: app, endpoints: \
         {{static: ['{}']}}}}\n",
        app.addr
    );
    let manifest = dir.path().join("gate.yaml");
    std::fs::write(&manifest, text).unwrap();
    let [certificate, key] = ["cart.pem", "cart.key"].map(|name| dir.path().join(name));
    let hash = fingerprint(&certificate).await;
    let _ingress = Ingress::start_with(dir, &[&manifest]).await;

    let (certificate, key) = (certificate.to_string_lossy(), key.to_string_lossy());
    let shown = ["--cert", &*certificate, "--key", &*key];
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let ours = format!("Hash={hash};URI={CART};DNS=cart.example");
    let with_by = format!("By={GATE};{ours}");
    for version in ["--http1.1", "--http2"] {
        for (path, expected) in [
            ("/set", Some(&ours)),
            ("/by", Some(&with_by)),
            ("/append", Some(&ours)),
            ("/twice", Some(&ours)),
            ("/keep", None),
            ("/", None),
        ] {
            // What a client says of itself is nobody's word, whether it shows a certificate or none.
            for (shown, expected) in [(&shown[..], expected), (&[], None)] {
                let mut args = vec![version, "--header", "X-Forwarded-Client-Cert: URI=spiffe://mesh.example/admin"];
                args.extend(shown);
                let output = curl_tls(address, &pki.ca_file(), "a.example", path, &args).await;
                assert_eq!(output.code, 0, "{version} {path}: {output:?}");
                let told: Vec<_> =
                    output.stdout.lines().filter_map(|line| line.strip_prefix("> x-forwarded-client-cert: ")).collect();
                let expected: Vec<_> = expected.into_iter().map(String::as_str).collect();
                assert_eq!(told, expected, "{version} {path}: {}", output.stdout);
            }
        }
    }
}

#[tokio::test]
async fn each_host_of_a_port_asks_for_what_its_own_listener_says() {
    let (pki, strangers, app) = (Pki::new(), Pki::new(), Echo::start("app").await);
    let server = pki.leaf(&["open.example", "closed.example"]);
    let port = free_port();
    let listener = |name: &str, client: &str| {
        format!(
            "- name: {name}\n  port: {port}\n  host: {name}.example\n  protocol: {{https: {{certificates: [{{cert: s.pem, \
             key: s.key}}]{client}}}}}\n"
        )
    };
    let text = format!(
        "listeners:\n{}{}routes:\n- {{name: all, listeners: [open, closed], rules: [{{backends: [app]}}]}}\nupstreams:\n- \
         {{name: app, endpoints: {{static: ['{}']}}}}\n",
        listener("open", ""),
        listener("closed", ", client: {ca: ca.pem, mode: required}"),
        app.addr
    );
    let dir = folder(&[("ca.pem", &pki.ca()), ("s.pem", &server.certificate), ("s.key", &server.key)]);
    let manifest = dir.path().join("gate.yaml");
    std::fs::write(&manifest, text).unwrap();
    let _ingress = Ingress::start_with(dir, &[&manifest]).await;

    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let ours = pki.leaf(&["cart.example"]);
    let theirs = strangers.leaf(&["cart.example"]);
    for (host, client, expected) in [
        ("open.example", None, true),
        ("open.example", Some(&theirs), true),
        ("closed.example", Some(&ours), true),
        ("closed.example", None, false),
        ("closed.example", Some(&theirs), false),
    ] {
        // That a certificate is not good is told after the client's side of the handshake is over (TLS 1.3).
        let status = async {
            let mut conn = pki.connect_as(client, address, host).await?;
            Ok::<_, std::io::Error>(conn.get(host, "/").await?.status)
        };
        let status = status.await;
        assert_eq!(status.as_ref().ok() == Some(&200), expected, "{host}, {} shown: {status:?}", client.is_some());
        assert_eq!(status.is_ok(), expected, "{host}");
    }
}
