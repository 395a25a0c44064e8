//! The doubles, tested against each other and against real programs: a test that blames portcullis must not err itself.

use std::time::Duration;

use crate::support::{
    Conn, Echo, Raw, get,
    pki::Pki,
    tools::{Nginx, curl, h2load, s_client},
    wire::send,
};

#[tokio::test]
async fn echo_tells_what_it_saw() {
    let echo = Echo::start("a").await;
    let url = format!("http://{}/x?y=1", echo.addr);
    let output = curl(&["--data", "12345", "--header", "X-One: 1", &url]).await;
    assert_eq!(output.code, 0, "{output:?}");
    for line in ["name: a", "method: POST", "target: /x?y=1", "version: HTTP/1.1", "body: 5", "> x-one: 1"] {
        assert!(output.stdout.lines().any(|seen| seen == line), "{line} in {}", output.stdout);
    }
    assert_eq!(echo.seen(), 1);
}

#[tokio::test]
async fn echo_does_what_its_path_says() {
    let echo = Echo::start("a").await;
    let response = get(echo.addr, "a", "/bytes/100000").await;
    assert_eq!((response.value("content-length"), response.body.len()), (Some("100000"), 100_000));
    let response = get(echo.addr, "a", "/chunked/100000").await;
    assert_eq!((response.value("transfer-encoding"), response.body.len()), (Some("chunked"), 100_000));
    assert_eq!(get(echo.addr, "a", "/status/418").await.status, 418);
    assert_eq!(echo.sent(), 200_000);

    let mut conn = Conn::open(echo.addr).await.unwrap();
    conn.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(!conn.closes_within(Duration::from_millis(50)).await);
    echo.open();
    assert_eq!(conn.response().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_killed_echo_cuts_its_connections_and_closes_its_port() {
    let echo = Echo::start("a").await;
    let mut conn = Conn::open(echo.addr).await.unwrap();
    assert_eq!(conn.get("a", "/").await.unwrap().status, 200);
    let addr = echo.kill().await;
    assert!(conn.closes_within(Duration::from_secs(5)).await);
    assert!(Conn::open(addr).await.is_err());
    let _again = Echo::start_at("b", addr).await;
    assert!(get(addr, "a", "/").await.text().starts_with("name: b\n"));
}

#[tokio::test]
async fn raw_keeps_every_byte() {
    let raw = Raw::answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let requests = [
        "GET / HTTP/1.1\r\nHost:  a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: 1\r\n\r\n",
    ];
    let mut conn = Conn::open(raw.addr).await.unwrap();
    for request in requests {
        conn.send(request).await.unwrap();
        assert_eq!(conn.response().await.unwrap().body, b"ok");
    }
    assert_eq!(raw.requests(), requests);
    assert_eq!(raw.received(), requests.concat());
    assert_eq!(raw.connections(), 1);
}

#[tokio::test]
async fn the_client_reads_by_the_framing() {
    let raw = Raw::answers(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: 1\r\na: 2\r\n\r\n\
         3\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    )
    .await;
    let response = get(raw.addr, "a", "/").await;
    assert_eq!((response.interim.as_slice(), response.status, response.text().as_str()), (&[103][..], 200, "abc"));
    assert_eq!((response.values("a"), response.trailers.as_str()), (vec!["1", "2"], "T: 1\r\n"));

    let raw = Raw::start(|mut peer| async move {
        peer.request().await?;
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await
    })
    .await;
    let mut conn = Conn::open(raw.addr).await.unwrap();
    assert!(conn.get("a", "/").await.unwrap_err().to_string().contains("ended early"));
}

#[tokio::test]
async fn nginx_stands_in_as_a_proxy() {
    let echo = Echo::start("a").await;
    let server = format!("location / {{ proxy_pass http://{}; }}", echo.addr);
    let nginx = Nginx::start(&server, &[]).await;
    let response = send(nginx.addr, "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n1").await;
    assert_eq!((response.status, response.value("x-backend")), (200, Some("a")));
    assert!(response.text().contains("target: /x\n"), "{}", response.text());
    nginx.kill().await;
}

#[tokio::test]
async fn h2load_is_understood() {
    let nginx = Nginx::start("", &[("x", b"y")]).await;
    let good = h2load(&["--h1", "-n", "20", "-c", "2", &format!("http://{}/x", nginx.addr)]).await;
    assert_eq!((good.succeeded, good.failed, good.ok), (20, 0, 20));
    let bad = h2load(&["--h1", "-n", "20", "-c", "2", &format!("http://{}/missing", nginx.addr)]).await;
    assert_eq!(bad.ok, 0);
}

#[tokio::test]
async fn certificates_are_accepted_for_their_names_alone() {
    let pki = Pki::new();
    let leaf = pki.leaf(&["a.example"]);
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    std::fs::write(&certificate, &leaf.certificate).unwrap();
    std::fs::write(&key, &leaf.key).unwrap();
    let port = crate::support::free_port();
    let server = format!(
        "listen 127.0.0.1:{port} ssl;\nssl_certificate {};\nssl_certificate_key {};",
        certificate.display(),
        key.display()
    );
    let _nginx = Nginx::start(&server, &[("x", b"y")]).await;
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let good = s_client(addr, &pki.ca_file(), &["-servername", "a.example", "-verify_hostname", "a.example"]).await;
    assert_eq!(good.code, 0, "{good:?}");
    let bad = s_client(addr, &pki.ca_file(), &["-servername", "b.example", "-verify_hostname", "b.example"]).await;
    assert_eq!(bad.code, 1, "{bad:?}");
}
