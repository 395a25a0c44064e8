//! TLS: which certificate, which protocol, and what a reload changes.

use crate::support::{
    Echo, Ingress, RELOAD, eventually,
    manifest::{Path, Rule, backend, ingress, secret},
    pki::{Leaf, Pki, certificate},
    tools::{curl_tls, s_client},
};

/// An Ingress for `a.example` and `b.example`, each with a certificate of its own, before one backend.
fn world(echo: &Echo, a: &Leaf, b: &Leaf) -> String {
    let all = [Path("Prefix", "/", "app", "80")];
    ingress("a")
        .tls(&["a.example"], "cert-a")
        .tls(&["b.example", "*.wild.example"], "cert-b")
        .rule(Rule("a.example", &all))
        .rule(Rule("b.example", &all))
        .rule(Rule("*.wild.example", &all))
        .yaml()
        + &secret("cert-a", &a.certificate, &a.key)
        + &secret("cert-b", &b.certificate, &b.key)
        + &backend("app", &[echo.addr])
}

async fn start() -> (Ingress, Echo, Pki, [Leaf; 2]) {
    let (echo, pki) = (Echo::start("app").await, Pki::new());
    let leaves = [pki.leaf(&["a.example"]), pki.leaf(&["b.example", "*.wild.example"])];
    let ingress = Ingress::start(&world(&echo, &leaves[0], &leaves[1])).await;
    (ingress, echo, pki, leaves)
}

#[tokio::test]
async fn the_certificate_is_chosen_by_sni() {
    let (ingress, _echo, pki, _) = start().await;
    for (name, expected) in [
        ("a.example", "a.example"),
        ("b.example", "b.example"),
        ("x.wild.example", "b.example"),
        ("A.EXAMPLE", "a.example"),
    ] {
        let hello = ["-servername", name, "-verify_hostname", name];
        let output = s_client(ingress.https, &pki.ca_file(), &hello).await;
        assert_eq!(output.code, 0, "{name}: {output:?}");
        assert!(output.stdout.contains(&format!("subject=CN = {expected}\n")), "{name}: {}", output.stdout);
    }
}

#[tokio::test]
async fn https_is_served_over_http_1_and_2_by_alpn() {
    let (ingress, _echo, pki, _) = start().await;
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2"), ("--no-alpn", "1.1")] {
        let args = [flag, "--write-out", "http_version: %{http_version}"];
        let output = curl_tls(ingress.https, &pki.ca_file(), "a.example", "/x?y", &args).await;
        assert_eq!(output.code, 0, "{flag}: {output:?}");
        assert!(output.stdout.ends_with(&format!("http_version: {version}")), "{flag}: {}", output.stdout);
        for line in ["target: /x?y\n", "> x-forwarded-proto: https\n", "> x-forwarded-for: 127.0.0.1\n"] {
            assert!(output.stdout.contains(line), "{flag}: {line} in {}", output.stdout);
        }
        let host = format!("> host: a.example:{}\n", ingress.https.port());
        assert!(output.stdout.contains(&host), "{flag}: {host} in {}", output.stdout);
    }
}

#[tokio::test]
async fn alpn_prefers_http_2_and_refuses_what_is_unknown() {
    let (ingress, _echo, pki, _) = start().await;
    let output = s_client(ingress.https, &pki.ca_file(), &["-servername", "a.example", "-alpn", "http/1.1,h2"]).await;
    assert!(output.stdout.contains("ALPN protocol: h2\n"), "{}", output.stdout);
    let output = s_client(ingress.https, &pki.ca_file(), &["-servername", "a.example", "-alpn", "http/1.1"]).await;
    assert!(output.stdout.contains("ALPN protocol: http/1.1\n"), "{}", output.stdout);
    let output = s_client(ingress.https, &pki.ca_file(), &["-servername", "a.example", "-alpn", "unknown"]).await;
    assert!(!output.stdout.contains("ALPN protocol: unknown"), "{}", output.stdout);
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let (ingress, _echo, pki, _) = start().await;
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let output = s_client(ingress.https, &pki.ca_file(), &["-servername", "a.example", flag]).await;
        assert_eq!(output.code, 0, "{flag}: {output:?}");
        assert!(output.stdout.contains(&format!("New, {version}, ")), "{flag}: {}", output.stdout);
    }
    // Level 0, or openssl itself would refuse.
    let old = ["-servername", "a.example", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    assert_ne!(s_client(ingress.https, &pki.ca_file(), &old).await.code, 0);
}

#[tokio::test]
async fn http_on_the_https_port_does_no_harm() {
    let (ingress, _echo, pki, _) = start().await;
    let answer = crate::support::wire::try_send(ingress.https, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(answer.map_or(true, |answer| answer.status == 400));
    assert_eq!(curl_tls(ingress.https, &pki.ca_file(), "a.example", "/", &[]).await.code, 0);
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_leaves_old_ones_alone() {
    let (ingress, echo, pki, [old, b]) = start().await;
    let mut open = pki.connect(ingress.https, "a.example").await.unwrap();
    assert_eq!(open.get("a.example", "/").await.unwrap().status, 200);
    let before = certificate(&open);

    let new = pki.leaf(&["a.example"]);
    assert_ne!(old.certificate, new.certificate);
    ingress.replace("world.yaml", &world(&echo, &new, &b));
    eventually("the new certificate", RELOAD, || async {
        let conn = pki.connect(ingress.https, "a.example").await.map_err(|error| error.to_string())?;
        if certificate(&conn) == before { Err("the old one".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(open.get("a.example", "/").await.unwrap().status, 200, "the old connection goes on");
}

#[tokio::test]
async fn a_key_that_does_not_fit_is_refused_and_the_old_certificate_stays() {
    let (ingress, echo, pki, [a, b]) = start().await;
    let other = pki.leaf(&["a.example"]);
    let mixed = Leaf { certificate: other.certificate.clone(), key: a.key.clone() };
    let open = pki.connect(ingress.https, "a.example").await.unwrap();
    let before = certificate(&open);

    for (broken, word) in
        [(mixed, "cert-a"), (Leaf { certificate: a.certificate.clone(), key: "no key".into() }, "cert-a")]
    {
        let from = ingress.stderr().len();
        ingress.replace("world.yaml", &world(&echo, &broken, &b));
        ingress.sighup().await;
        ingress.logged(from, &[word]).await;
        let conn = pki.connect(ingress.https, "a.example").await.unwrap();
        assert_eq!(certificate(&conn), before);
    }

    // Mended, it is taken.
    ingress.replace("world.yaml", &world(&echo, &other, &b));
    eventually("the new certificate", RELOAD, || async {
        let conn = pki.connect(ingress.https, "a.example").await.map_err(|error| error.to_string())?;
        if certificate(&conn) == before { Err("the old one".to_owned()) } else { Ok(()) }
    })
    .await;
}
