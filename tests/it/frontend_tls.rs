//! A Gateway that asks its clients for certificates, `spec.tls.frontend`, from the Gateway API's text.

use std::{io, net::SocketAddr};

use crate::support::{
    Echo, Ingress, free_port,
    gateway_api::{Listener, gateway, http_route},
    get,
    manifest::{backend, config_map, secret},
    pki::{Leaf, Pki},
};

const CERTIFICATE: &str = "tls: {certificateRefs: [{name: cert}]}";

/// The status that a client with this certificate gets.
async fn asked(pki: &Pki, port: u16, client: Option<&Leaf>) -> io::Result<u16> {
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let mut conn = pki.connect_as(client, addr, "a.example").await?;
    Ok(conn.get("a.example", "/").await?.status)
}

fn validation(ca: &str, more: &str) -> String {
    format!("{{validation: {{caCertificateRefs: [{{kind: ConfigMap, group: \"\", name: {ca}}}]{more}}}}}")
}

/// A Gateway with an HTTPS listener at each port and one for HTTP at the last, where everything goes to `one`.
fn world(pki: &Pki, other: &Pki, ports: &[u16], frontend: &str, one: &Echo) -> String {
    let names: Vec<_> = ports.iter().map(|port| format!("l{port}")).collect();
    let (last, https) = ports.split_last().unwrap();
    let mut listeners: Vec<_> =
        std::iter::zip(&names, https).map(|(name, port)| Listener(name, *port, "HTTPS", "", CERTIFICATE)).collect();
    listeners.push(Listener("plain", *last, "HTTP", "", ""));
    let leaf = pki.leaf(&["a.example"]);
    gateway("web", &listeners, &format!("  tls: {{frontend: {frontend}}}\n"))
        + &secret("cert", &leaf.certificate, &leaf.key)
        + &config_map("clients", &pki.ca())
        + &config_map("others", &other.ca())
        + &config_map("broken", "no certificate")
        + &http_route("all", "", &["{backendRefs: [{name: one, port: 80}]}"])
        + &backend("one", &[one.addr])
}

#[tokio::test]
async fn clients_show_a_certificate_of_the_default_authority_or_of_the_ports_own() {
    let (pki, other, one) = (Pki::new(), Pki::new(), Echo::start("one").await);
    let ports @ [default, own, open, plain] = [(); 4].map(|()| free_port());
    let frontend = format!(
        "{{default: {}, perPort: [{{port: {own}, tls: {}}}, {{port: {open}, tls: {{}}}}]}}",
        validation("clients", ""),
        validation("others", ""),
    );
    let _ingress = Ingress::start(&world(&pki, &other, &ports, &frontend, &one)).await;
    let (ours, theirs) = (pki.leaf(&["client.example"]), other.leaf(&["client.example"]));
    for (what, port, client, is_served) in [
        ("the default, its own", default, Some(&ours), true),
        ("the default, another's", default, Some(&theirs), false),
        ("the default, none", default, None, false),
        ("per port, the default's", own, Some(&ours), false),
        ("per port, its own", own, Some(&theirs), true),
        ("per port, none", own, None, false),
        ("per port without validation, none", open, None, true),
    ] {
        let before = one.seen();
        let got = asked(&pki, port, client).await;
        match is_served {
            true => assert_eq!(got.unwrap(), 200, "{what}"),
            false => assert!(got.unwrap_err().to_string().contains("alert"), "{what}"),
        }
        assert_eq!(one.seen() - before, usize::from(is_served), "{what}");
    }
    assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], plain)), "a.example", "/").await.status, 200, "HTTP asks nobody");
}

#[tokio::test]
async fn the_insecure_fallback_serves_whatever_a_client_shows() {
    let (pki, other, one) = (Pki::new(), Pki::new(), Echo::start("one").await);
    let ports @ [strict, fallback, _] = [(); 3].map(|()| free_port());
    let frontend = format!(
        "{{default: {}, perPort: [{{port: {fallback}, tls: {}}}]}}",
        validation("clients", ""),
        validation("clients", ", mode: AllowInsecureFallback"),
    );
    let _ingress = Ingress::start(&world(&pki, &other, &ports, &frontend, &one)).await;
    let (ours, theirs) = (pki.leaf(&["client.example"]), other.leaf(&["client.example"]));
    for client in [None, Some(&ours), Some(&theirs)] {
        assert_eq!(asked(&pki, fallback, client).await.unwrap(), 200, "{client:?}");
    }
    asked(&pki, strict, Some(&theirs)).await.unwrap_err();
}

#[tokio::test]
async fn a_listener_without_a_valid_authority_refuses_and_its_siblings_serve() {
    let (pki, other, one) = (Pki::new(), Pki::new(), Echo::start("one").await);
    let ports @ [sibling, missing, broken, kind, plain] = [(); 5].map(|()| free_port());
    let frontend = format!(
        "{{default: {}, perPort: [{{port: {missing}, tls: {}}}, {{port: {broken}, tls: {}}}, {{port: {kind}, tls: {}}}]}}",
        validation("clients", ""),
        validation("gone", ""),
        validation("broken", ", mode: AllowInsecureFallback"),
        validation("clients", "").replace("kind: ConfigMap", "kind: Service"),
    );
    let _ingress = Ingress::start(&world(&pki, &other, &ports, &frontend, &one)).await;
    let ours = pki.leaf(&["client.example"]);
    for port in [missing, broken, kind] {
        for client in [Some(&ours), None] {
            let got = asked(&pki, port, client).await;
            assert!(got.is_err(), "{port} of {ports:?}: {got:?}");
        }
    }
    assert_eq!(one.seen(), 0);
    assert_eq!(asked(&pki, sibling, Some(&ours)).await.unwrap(), 200);
    assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], plain)), "a.example", "/").await.status, 200);
}
