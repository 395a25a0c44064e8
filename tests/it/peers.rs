//! Real clients and real backends, end to end: curl, h2load, nginx.

use crate::support::{
    Echo, Ingress,
    manifest::{Path, Rule, backend, everything_to, ingress, secret},
    pki::Pki,
    tools::{Nginx, curl, curl_tls, h2load},
};

/// Everything to one backend, over HTTP and HTTPS.
fn both(pki: &Pki, endpoint: std::net::SocketAddr) -> String {
    let leaf = pki.leaf(&["a.example", "127.0.0.1"]);
    ingress("a").tls(&["a.example"], "cert").rule(Rule("", &[Path("Prefix", "/", "app", "80")])).yaml()
        + &secret("cert", &leaf.certificate, &leaf.key)
        + &backend("app", &[endpoint])
}

#[tokio::test]
async fn curl_over_http_1_and_http_2() {
    let echo = Echo::start("app").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    let url = format!("http://{}/x?y=z", ingress.http);
    for (flag, version) in [("--http1.0", "1"), ("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let args =
            [flag, "--data", "12345", "--header", "X-A: b", "--write-out", "http_version: %{http_version}", &url];
        let output = curl(&args).await;
        assert_eq!(output.code, 0, "{flag}: {output:?}");
        for line in ["method: POST", "target: /x?y=z", "version: HTTP/1.1", "body: 5", "> x-a: b"] {
            assert!(output.stdout.lines().any(|seen| seen == line), "{flag}: {line} in {}", output.stdout);
        }
        let host = format!("> host: {}\n", ingress.http);
        assert!(output.stdout.contains(&host), "{flag}: {host} in {}", output.stdout);
        // An HTTP/1.0 request may be answered as HTTP/1.1 by the letter of RFC 9110 section 2.5. curl writes 1.0 as `1`.
        let seen = output.stdout.rsplit("http_version: ").next().unwrap_or_default();
        assert!(seen == version || (version == "1" && seen == "1.1"), "{flag}: {seen}");
    }
}

#[tokio::test]
async fn http_2_upgrade_in_the_clear_stays_http_1() {
    let echo = Echo::start("app").await;
    let ingress = Ingress::start(&everything_to(&[echo.addr])).await;
    // curl offers `Upgrade: h2c` with this flag; the server goes on in HTTP/1.1 or refuses.
    let url = format!("http://{}/", ingress.http);
    let output = curl(&["--http2", "--output", "/dev/null", "--write-out", "%{http_version} %{http_code}", &url]).await;
    assert!(["1.1 200", "1.1 501", "1.1 400"].contains(&output.stdout.as_str()), "{output:?}");
    assert!(output.code == 0, "{output:?}");
}

#[tokio::test]
async fn several_requests_share_a_connection() {
    let (echo, pki) = (Echo::start("app").await, Pki::new());
    let ingress = Ingress::start(&both(&pki, echo.addr)).await;
    for flag in ["--http1.1", "--http2"] {
        let more = format!("https://a.example:{}/second", ingress.https.port());
        let args = [
            flag,
            "--output",
            "/dev/null",
            "--output",
            "/dev/null",
            "--write-out",
            "%{num_connects} %{http_code};",
            &more,
        ];
        let output = curl_tls(ingress.https, &pki.ca_file(), "a.example", "/first", &args).await;
        assert_eq!(output.stdout, "1 200;0 200;", "{flag}: {output:?}");
    }
}

#[tokio::test]
async fn h2load_over_every_protocol() {
    let (echo, pki) = (Echo::start("app").await, Pki::new());
    let ingress = Ingress::start(&both(&pki, echo.addr)).await;
    let (http, https) = (format!("http://{}/", ingress.http), format!("https://{}/", ingress.https));
    let large = format!("{http}bytes/1000000");
    for (what, args) in [
        ("HTTP/1.1", vec!["--h1", "-n", "2000", "-c", "8", &http]),
        ("HTTP/2", vec!["-n", "2000", "-c", "4", "-m", "10", &http]),
        ("HTTP/2, more streams than any limit at once", vec!["-n", "2000", "-c", "1", "-m", "1000", &http]),
        ("HTTPS with HTTP/1.1", vec!["--h1", "-n", "1000", "-c", "8", &https]),
        ("HTTPS with HTTP/2", vec!["-n", "1000", "-c", "4", "-m", "10", &https]),
        ("large bodies", vec!["-n", "50", "-c", "2", "-m", "10", &large]),
    ] {
        let load = h2load(&args).await;
        assert_eq!((load.failed, load.ok), (0, load.succeeded), "{what}: {load:?}");
        assert!(load.succeeded >= 50, "{what}: {load:?}");
    }
}

#[tokio::test]
async fn nginx_as_a_backend() {
    let page: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let nginx = Nginx::start(
        "gzip on; gzip_proxied any; gzip_min_length 1; gzip_types *;",
        &[("page", &page), ("text.html", &[b'x'; 5000])],
    )
    .await;
    let pki = Pki::new();
    let ingress = Ingress::start(&both(&pki, nginx.addr)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("page");
    let saved = file.to_string_lossy();
    for flag in ["--http1.1", "--http2"] {
        let output = curl_tls(ingress.https, &pki.ca_file(), "a.example", "/page", &[flag, "--output", &saved]).await;
        assert_eq!(output.code, 0, "{flag}: {output:?}");
        assert!(std::fs::read(&file).unwrap() == page, "{flag}: the file came through changed");

        let args = [flag, "--range", "10-19", "--output", &saved, "--write-out", "%{http_code}"];
        let output = curl_tls(ingress.https, &pki.ca_file(), "a.example", "/page", &args).await;
        assert_eq!(
            (output.stdout.as_str(), std::fs::read(&file).unwrap().as_slice()),
            ("206", &page[10..20]),
            "{flag}"
        );

        let args = [flag, "--compressed", "--write-out", "%{size_download}", "--output", &saved];
        let output = curl_tls(ingress.https, &pki.ca_file(), "a.example", "/text.html", &args).await;
        assert_eq!(std::fs::read(&file).unwrap(), [b'x'; 5000], "{flag}");
        assert!(output.stdout.parse::<u32>().is_ok_and(|size| size < 1000), "{flag}: compressed: {output:?}");

        let args = [flag, "--head", "--write-out", "%{http_code}"];
        let output = curl_tls(ingress.https, &pki.ca_file(), "a.example", "/page", &args).await;
        let head = output.stdout.to_lowercase();
        assert!(head.ends_with("200") && head.contains("content-length: 1000000\r\n"), "{flag}: {output:?}");
        assert!(head.contains("server: nginx/"), "{flag}: {head}");

        let args = [flag, "--output", "/dev/null", "--write-out", "%{http_code}"];
        let output = curl_tls(ingress.https, &pki.ca_file(), "a.example", "/missing", &args).await;
        assert_eq!(output.stdout, "404", "{flag}");
    }
    nginx.kill().await;
    let output = curl_tls(ingress.https, &pki.ca_file(), "a.example", "/page", &["--write-out", "%{http_code}"]).await;
    assert!(output.stdout.ends_with("502"), "{output:?}");
}

#[tokio::test]
async fn nginx_that_closes_after_every_few_requests_costs_nothing() {
    let nginx = Nginx::start("keepalive_requests 3;", &[("x", b"y")]).await;
    let ingress = Ingress::start(&everything_to(&[nginx.addr])).await;
    let url = format!("http://{}/x", ingress.http);
    let load = h2load(&["--h1", "-n", "1000", "-c", "8", &url]).await;
    assert_eq!((load.failed, load.ok), (0, 1000));
}
