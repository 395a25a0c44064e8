//! The command line and the start: what is refused, and how it says so.

use std::{net::SocketAddr, process::Output, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::support::{
    Echo, Ingress, free_port, get,
    ingress::{binary, command, folder},
    manifest::{Path, Rule, backend, everything_to, ingress, secret},
    pki::Pki,
    soon,
};

/// Whether a message points at this line.
pub(crate) fn names_line(text: &str, line: usize) -> bool {
    let (line, text) = (line.to_string(), text.to_lowercase());
    [":", "line ", "line: ", "line="].iter().any(|mark| {
        text.match_indices(&format!("{mark}{line}")).any(|(at, found)| {
            // `:1` must not be found in `:12`.
            !text[at + found.len()..].starts_with(|next: char| next.is_ascii_digit())
        })
    })
}

/// The number, from 1, of the line that contains `word`.
pub(crate) fn line_of(yaml: &str, word: &str) -> usize {
    1 + yaml.lines().position(|line| line.contains(word)).expect(word)
}

#[tokio::test]
async fn an_invalid_field_is_refused_with_file_line_and_name() {
    let fine = ingress("a").rule(Rule("a.example", &[Path("Prefix", "/x", "app", "80")])).yaml();
    for (field, from, to) in [
        ("pathType", "pathType: Prefix", "pathType: Prefx"),
        ("path", "path: \"/x\"", "path: \"x\""),
        ("number", "number: 80", "number: eighty"),
        ("number", "number: 80", "number: 70000"),
        ("host", "host: \"a.example\"", "host: \"a.*.example\""),
        ("host", "host: \"a.example\"", "host: \"a.example:80\""),
        ("rules", "  rules:", "  rules: nothing\n  ignored:"),
    ] {
        // A document before it, so that a line counted from the document's begin is a wrong one.
        let yaml = everything_to(&[]) + &fine.replace(from, to);
        assert!(yaml.contains(to), "{from} is in the manifest");
        let line = line_of(&yaml, to.lines().next().unwrap_or_default());
        let exit = Ingress::refuses(&[("fine.yaml", "---\n"), ("wrong.yaml", &yaml)]).await;
        assert_eq!(exit.code, Some(2), "{to}: {}", exit.stderr);
        for word in ["wrong.yaml", field] {
            assert!(exit.stderr.contains(word), "{to}: {word} in {}", exit.stderr);
        }
        assert!(names_line(&exit.stderr, line), "{to}: line {line} in {}", exit.stderr);
        assert!(exit.took < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn broken_yaml_is_refused_with_file_and_line() {
    let yaml = everything_to(&[]) + "---\nkind: Ingress\n  metadata: [\n";
    let line = line_of(&yaml, "metadata: [");
    let exit = Ingress::refuses(&[("broken.yaml", &yaml)]).await;
    assert_eq!(exit.code, Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains("broken.yaml"), "{}", exit.stderr);
    // A parser may notice an unclosed bracket where it opens or at the end.
    assert!((line - 1..=line + 1).any(|line| names_line(&exit.stderr, line)), "line {line} in {}", exit.stderr);
}

/// Runs it with these arguments to its end.
async fn run(arguments: &[&str]) -> Output {
    soon("ingress exits", Command::new(binary()).args(arguments).kill_on_drop(true).output()).await.unwrap()
}

#[tokio::test]
async fn help_is_shown_on_demand() {
    for option in ["--help", "-h"] {
        let output = run(&[option]).await;
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("usage: ingress [--manifests PATH]"));
    }
}

#[tokio::test]
async fn a_wrong_argument_is_refused_by_name_and_value() {
    for (arguments, words) in [
        (&["--nothing-like-that"][..], ["unknown", "--nothing-like-that"]),
        (&["world.yaml"], ["unknown", "world.yaml"]),
        (&["--manifests"], ["--manifests", "needs a value"]),
        (&["--http-port", "65536"], ["--http-port", "65536"]),
        (&["--https-port=web"], ["--https-port", "web"]),
        (&["--bind", "localhost"], ["--bind", "localhost"]),
        (&["--admin", "9000"], ["--admin", "9000"]),
        (&["--help=me"], ["unknown", "--help=me"]),
    ] {
        let output = run(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        for word in words.into_iter().chain(["usage"]) {
            assert!(stderr.contains(word), "{arguments:?}: {word} in {stderr}");
        }
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = folder(&[]);
    let output = run(&["--manifests", dir.path().to_str().unwrap(), "--http-port", &port]).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("127.0.0.1:{port}")), "{stderr}");
    assert!(output.stdout.is_empty(), "not ready");
}

#[tokio::test]
async fn an_option_takes_its_value_behind_an_equals_sign_too() {
    let dir = folder(&[]);
    let (http, https) = (free_port(), free_port());
    let mut child = Command::new(binary())
        .arg(format!("--manifests={}", dir.path().display()))
        .args([format!("--http-port={http}"), format!("--https-port={https}"), "--bind=127.0.0.1".to_owned()])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    soon("a line", BufReader::new(child.stdout.take().unwrap()).read_line(&mut line)).await.unwrap();
    assert!(line.contains("ready") && line.contains(&format!("127.0.0.1:{http}")), "{line}");
}

#[tokio::test]
async fn a_hangup_while_it_starts_does_not_end_it() {
    let echo = Echo::start("app").await;
    let dir = folder(&[]);
    let pipe = dir.path().join("world.yaml");
    assert!(Command::new("mkfifo").arg(&pipe).status().await.unwrap().success());
    let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut child = command(&[&pipe], address(), address(), address()).spawn().unwrap();

    // Opens when the program opens it to read: then it is in the middle of its start.
    let mut world = soon("the manifest is read", tokio::fs::File::options().write(true).open(&pipe)).await.unwrap();
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().await.unwrap().success());
    world.write_all(everything_to(&[echo.addr]).as_bytes()).await.unwrap();
    world.flush().await.unwrap();
    drop(world);
    let mut line = String::new();
    soon("a line", BufReader::new(child.stdout.take().unwrap()).read_line(&mut line)).await.unwrap();
    assert!(line.contains("ready"), "{line:?}, and {:?}", child.try_wait());
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_key_that_does_not_fit_is_refused_with_file_line_and_field() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (leaf, other) = (pki.leaf(&["a.example"]), other.leaf(&["a.example"]));
    let all = [Path("Prefix", "/", "app", "80")];
    let yaml = ingress("a").tls(&["a.example"], "cert").rule(Rule("a.example", &all)).yaml()
        + &secret("cert", &leaf.certificate, &other.key);
    let exit = Ingress::refuses(&[("wrong.yaml", &yaml)]).await;
    assert_eq!(exit.code, Some(2), "{}", exit.stderr);
    for word in ["wrong.yaml", "Secret default/cert", "tls.key"] {
        assert!(exit.stderr.contains(word), "{word} in {}", exit.stderr);
    }
    assert!(names_line(&exit.stderr, line_of(&yaml, "tls.crt")), "{}", exit.stderr);
}

#[tokio::test]
async fn a_missing_path_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let exit = Ingress::refuses_paths(&[&dir.path().join("not-there.yaml")]).await;
    assert_eq!(exit.code, Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains("not-there.yaml"), "{}", exit.stderr);
}

#[tokio::test]
async fn unknown_fields_kinds_and_odd_but_valid_yaml_are_no_reason_to_refuse() {
    let echo = Echo::start("app").await;
    let yaml = everything_to(&[echo.addr])
        .replace("spec:\n", "spec:\n  someFutureField: {a: [1, 2]}\n")
        .replace("metadata:\n", "status: {}\nmetadata:\n  annotations: {\"a/b\": \"c\"}\n")
        + "---\n# nothing but a comment\n---\n---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n...\n";
    let ingress = Ingress::start(&yaml).await;
    assert_eq!(get(ingress.http, "a", "/").await.status, 200);
}

#[tokio::test]
async fn ready_means_that_the_first_request_succeeds() {
    let echo = Echo::start("app").await;
    let pki = Pki::new();
    let leaf = pki.leaf(&["a.example"]);
    let all = [Path("Prefix", "/", "app", "80")];
    let yaml = ingress("a").tls(&["a.example"], "cert").rule(Rule("a.example", &all)).yaml()
        + &secret("cert", &leaf.certificate, &leaf.key)
        + &backend("app", &[echo.addr]);
    for _ in 0..5 {
        let ingress = Ingress::start(&yaml).await;
        assert_eq!(get(ingress.http, "a.example", "/").await.status, 200);
        let mut conn = pki.connect(ingress.https, "a.example").await.unwrap();
        assert_eq!(conn.get("a.example", "/").await.unwrap().status, 200);
        assert_eq!(ingress.stdout().lines().filter(|line| line.contains("ready")).count(), 1, "{}", ingress.stdout());
    }
}

#[test]
fn lines_are_found_whole() {
    assert!(names_line("x.yaml:12: path", 12) && names_line("at line 12, column 3", 12));
    assert!(!names_line("x.yaml:12: path", 1) && !names_line("x.yaml: 12 errors", 12));
    assert_eq!(line_of("a\nb\nc", "b"), 2);
}
