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
