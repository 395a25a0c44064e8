//! Listeners of a configuration: isolation, misdirected requests, streams, and their coming and going.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Echo, Ingress, Raw, eventually, free_port,
    ingress::folder,
    load::Load,
    pki::Pki,
    soon,
    tools::{curl, s_client},
    wire::{get, try_send},
};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

fn at(ip: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, ip], port))
}

fn listener(name: &str, at: SocketAddr, host: &str, protocol: &str) -> String {
    let (ip, port) = (at.ip(), at.port());
    format!("- {{name: {name}, addresses: ['{ip}'], port: {port}, host: '{host}', protocol: {protocol}}}\n")
}

fn to(name: &str, listener: &str, backend: &str) -> String {
    format!("- {{name: {name}, listeners: [{listener}], rules: [{{backends: [{backend}]}}]}}\n")
}

fn upstreams(echoes: &[(&str, SocketAddr)]) -> String {
    let upstream = |(name, at): &(&str, SocketAddr)| format!("- {{name: {name}, endpoints: {{static: ['{at}']}}}}\n");
    format!("upstreams:\n{}", echoes.iter().map(upstream).collect::<String>())
}

#[tokio::test]
async fn listeners_are_apart_by_host_and_address_and_come_and_go() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let (here, there) = (at(2, free_port()), at(3, free_port()));
    let world = |listeners: &str, routes: &str| {
        format!("listeners:\n{listeners}routes:\n{routes}{}", upstreams(&[("one", one.addr), ("two", two.addr)]))
    };
    let any = listener("any", here, "*", "http");
    let wild = listener("wild", here, "*.example.com", "http");
    let second = listener("second", there, "*", "http");
    let routes = to("to-any", "any", "one");
    let both =
        format!("{routes}- {{name: w, listeners: [wild], hosts: [a.example.com], rules: [{{backends: [two]}}]}}\n");
    let ingress = Ingress::start(&world(&format!("{any}{wild}"), &both)).await;
    for (host, answer) in [("a.test", Some("one")), ("a.example.com", Some("two")), ("b.example.com", None)] {
        let response = get(here, host, "/").await;
        assert_eq!(response.status, if answer.is_some() { 200 } else { 404 }, "{host}");
        assert!(response.text().contains(answer.unwrap_or_default()), "{host}: {}", response.text());
    }
    // The program's own port leads to what is attached to nothing.
    assert_eq!(get(ingress.http, "a.test", "/").await.status, 404);

    // The first goes on while the second comes and goes.
    let load = Load::start(here, 2);
    let more = format!("{routes}{}", to("to-second", "second", "two"));
    ingress.replace("world.yaml", &world(&format!("{any}{second}"), &more));
    ingress.sighup().await;
    eventually("the second listens", PATIENCE, || async {
        match try_send(there, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    ingress.replace("world.yaml", &world(&any, &routes));
    ingress.sighup().await;
    eventually("the second is gone", PATIENCE, || async {
        match TcpStream::connect(there).await {
            Err(_) => Ok(()),
            Ok(_) => Err("it listens".to_owned()),
        }
    })
    .await;
    load.go_on(20).await;
    assert!(load.all_succeeded().await > 0);
}

#[tokio::test]
async fn tls_is_told_apart_by_name_and_what_is_misdirected_is_421() {
    let (one, pki) = (Echo::start("one").await, Pki::new());
    let place = at(4, free_port());
    let leaf = pki.leaf(&["a.test", "b.test", "ended.test"]);
    let dir = folder(&[("cert.pem", &leaf.certificate), ("key.pem", &leaf.key)]);
    let path = |name: &str| dir.path().join(name).display().to_string();
    let ends = format!("{{certificates: [{{cert: '{}', key: '{}'}}]}}", path("cert.pem"), path("key.pem"));
    let passed = Ingress::start(&format!(
        "listeners:\n{}{}routes:\n{}{}",
        listener("a", place, "a.test", &format!("{{https: {ends}}}")),
        listener("b", place, "b.test", &format!("{{https: {ends}}}")),
        to("r", "a, b", "one"),
        upstreams(&[("one", one.addr)]),
    ))
    .await;
    // In front of it, one that passes some on and ends others.
    let front = at(5, free_port());
    let fronting = Ingress::start(&format!(
        "listeners:\n{}{}streams:\n- {{name: p, listeners: [pass], backends: [tls]}}\n- {{name: e, listeners: [end], backends: [one]}}\n{}",
        listener("pass", front, "*.test", "tls_passthrough"),
        listener("end", front, "ended.test", &format!("{{tls: {ends}}}")),
        upstreams(&[("tls", place), ("one", one.addr)]),
    ))
    .await;
    let ca = pki.ca_file().display().to_string();
    for to in [place, front] {
        for version in ["--http1.1", "--http2"] {
            for (name, host, status) in
                [("a.test", "a.test", "200"), ("a.test", "b.test", "421"), ("b.test", "c.test", "421")]
            {
                let url = format!("https://{name}:{}/", to.port());
                let (host, connect) = (format!("Host: {host}"), format!("::{to}"));
                let out = ["--output", "/dev/null", "--write-out", "%{http_code}"];
                let args =
                    [&[version, "--cacert", &ca, "--connect-to", &connect, "--header", &host, &url][..], &out].concat();
                assert_eq!(curl(&args).await.stdout, status, "{to} {version} {name} {host}");
            }
        }
    }
    let url = format!("https://ended.test:{}/", front.port());
    let connect = format!("::{front}");
    let output = curl(&["--http1.1", "--cacert", &ca, "--connect-to", &connect, &url]).await;
    assert!(output.stdout.contains("one"), "{output:?}");
    for (route, name) in [("p", "a.test"), ("e", "ended.test")] {
        let words = ["access::stream", &format!("route=\"{route}\""), &format!("server_name=\"{name}\"")];
        fronting.logged(0, &words).await;
    }
    for (to, name) in [(place, "other.test"), (front, "test"), (front, "none.example")] {
        let output = s_client(to, &pki.ca_file(), &["-servername", name]).await;
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(!said.contains("alert") && !said.contains("BEGIN CERTIFICATE"), "{to} {name}: {said}");
        assert_ne!(output.code, 0, "{to} {name}");
    }
    drop(passed);
}

/// Waits until all of these are lines of the metrics.
async fn counted(ingress: &Ingress, lines: &[String]) {
    eventually("the counts", PATIENCE, || async {
        let text = get(ingress.admin, "admin", "/metrics").await.text();
        let there = |line: &String| text.lines().any(|other| other == line);
        match lines.iter().find(|line| !there(line)) {
            None => Ok(()),
            Some(line) => Err(format!("{line} is not in {text}")),
        }
    })
    .await;
}

#[tokio::test]
async fn streams_are_counted_while_they_last_and_by_how_they_end() {
    /// More than is copied at a time.
    const ANSWER: usize = 100_000;
    let answering = Raw::start(|mut peer| async move {
        let mut question = [0; 11];
        peer.stream.read_exact(&mut question).await?;
        peer.write(vec![b'a'; ANSWER]).await?;
        peer.drain().await
    })
    .await;
    let (tcp, deserted, refused) = (at(6, free_port()), at(6, free_port()), at(6, free_port()));
    let world = |more: &str| {
        format!(
            "listeners:\n{}{}{}streams:\n- {{name: db, listeners: [tcp], backends: [answering]}}\n\
             - {{name: mq, listeners: [deserted], backends: [empty]}}\n\
             - {{name: smtp, listeners: [refused], backends: [closed]}}\n{}\
             - {{name: empty, endpoints: {{static: []}}}}\n{more}",
            listener("tcp", tcp, "*", "tcp"),
            listener("deserted", deserted, "*", "tcp"),
            listener("refused", refused, "*", "tcp"),
            upstreams(&[("answering", answering.addr), ("closed", at(1, free_port()))]),
        )
    };
    let ingress = Ingress::start(&world("")).await;
    let from = ingress.stderr().len();
    let labels = r#"route="db",upstream="answering""#;
    let line = |name: &str, value: usize| format!("portcullis_stream{name}{{{labels}}} {value}");
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(tcp).await.unwrap();
        stream.write_all(b"a question?").await.unwrap();
        soon("the answer", stream.read_exact(&mut vec![0; ANSWER])).await.unwrap();
        streams.push(stream);
    }
    let passed = [line("_received_bytes_total", 22), line("_sent_bytes_total", 2 * ANSWER)];
    counted(&ingress, &[&passed[..], &[line("s_opened_total", 2), line("s_open", 2)]].concat()).await;

    // A reload leaves them as they are.
    ingress.replace("world.yaml", &world("certificates: []\n"));
    ingress.sighup().await;
    let mut ended = streams.pop().unwrap();
    ended.shutdown().await.unwrap();
    assert_eq!(soon("the end", ended.read(&mut [0; 1])).await.unwrap(), 0);
    for nowhere in [deserted, refused] {
        let mut stream = TcpStream::connect(nowhere).await.unwrap();
        let _ = soon("the end", stream.read(&mut [0; 1])).await;
    }
    let total = |route: &str, upstream: &str, outcome: &str| {
        format!(r#"portcullis_streams_total{{route="{route}",upstream="{upstream}",outcome="{outcome}"}} 1"#)
    };
    let ends = [
        total("db", "answering", "completed"),
        total("mq", "empty", "no_endpoint"),
        total("smtp", "closed", "connect_failed"),
    ];
    let still = [line("s_open", 1), line("_duration_seconds_count", 1)];
    counted(&ingress, &[&ends[..], &passed[..], &still[..]].concat()).await;
    let bytes = format!("received_bytes=11 sent_bytes={ANSWER}");
    ingress.logged(from, &["portcullis::access::stream", "db", "completed", &bytes]).await;
    ingress.logged(from, &["portcullis::access::stream", "mq", "no_endpoint"]).await;

    // One that is broken is over, too: nobody reads the answer.
    streams.pop().unwrap().set_zero_linger().unwrap();
    counted(&ingress, &[total("db", "answering", "cancelled"), line("s_open", 0)]).await;
}
