//! The command line and the start: what is refused, and how it says so.

use std::time::Duration;

use crate::support::{
    Ingress, get,
    manifest::{Path, Rule, everything_to, ingress, secret},
    pki::Pki,
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

#[tokio::test]
async fn a_missing_path_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let exit = Ingress::refuses_paths(&[&dir.path().join("not-there.yaml")]).await;
    assert_eq!(exit.code, Some(2), "{}", exit.stderr);
    assert!(exit.stderr.contains("not-there.yaml"), "{}", exit.stderr);
}

#[tokio::test]
async fn unknown_fields_kinds_and_odd_but_valid_yaml_are_no_reason_to_refuse() {
    let echo = crate::support::Echo::start("app").await;
    let yaml = everything_to(&[echo.addr])
        .replace("spec:\n", "spec:\n  someFutureField: {a: [1, 2]}\n")
        .replace("metadata:\n", "status: {}\nmetadata:\n  annotations: {\"a/b\": \"c\"}\n")
        + "---\n# nothing but a comment\n---\n---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n...\n";
    let ingress = Ingress::start(&yaml).await;
    assert_eq!(get(ingress.http, "a", "/").await.status, 200);
}

#[tokio::test]
async fn ready_means_that_the_first_request_succeeds() {
    let echo = crate::support::Echo::start("app").await;
    let pki = Pki::new();
    let leaf = pki.leaf(&["a.example"]);
    let all = [Path("Prefix", "/", "app", "80")];
    let yaml = ingress("a").tls(&["a.example"], "cert").rule(Rule("a.example", &all)).yaml()
        + &secret("cert", &leaf.certificate, &leaf.key)
        + &crate::support::manifest::backend("app", &[echo.addr]);
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
