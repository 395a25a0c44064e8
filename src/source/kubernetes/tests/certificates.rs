use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;
use crate::{
    config::Host,
    source::{Fault, LoadError},
};

fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn secret(name: &str, kind: &str, certificate: &str, key: &str) -> String {
    let [certificate, key] = [certificate, key].map(|text| BASE64_STANDARD.encode(text));
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: {kind}\ndata:\n  tls.crt: {certificate}\n  tls.key: {key}\n"
    )
}

fn with_tls(name: &str, more: &str, tls: &str) -> String {
    let spec = format!("{{tls: {tls}, defaultBackend: {{service: {{name: s, port: {{number: 80}}}}}}}}");
    ingress(&format!("{{name: {name}{more}}}"), &spec)
}

fn refused(text: &str) -> LoadError {
    parse("k.yaml", text).unwrap_err()
}

#[test]
fn a_secret_is_shown_for_its_hosts() {
    let (certificate, key) = pair();
    let text = with_tls("i", "", "[{hosts: ['*.example.com', A.example.com], secretName: c}, {secretName: c}]")
        + &secret("c", "kubernetes.io/tls", &certificate, &key)
        + &service("s");
    let loaded = load(&text);
    let [of_hosts, of_names] = &*loaded.config.certificates else { panic!("{:?}", loaded.config.certificates) };
    assert_eq!(of_hosts.origin, "k.yaml:12: Secret default/c: data[tls.crt], data[tls.key]");
    assert_eq!(of_hosts.hosts, [Host::Exact("a.example.com".into()), Host::OneLabelWildcard("example.com".into())]);
    assert_eq!(of_names.hosts, []);
    assert_eq!((of_hosts.chain.as_slice(), of_hosts.key.as_slice()), (certificate.as_bytes(), key.as_bytes()));
    assert_eq!(loaded.warnings, []);
}

#[test]
fn string_data_is_taken_as_it_is() {
    let (certificate, key) = pair();
    let indent = |text: &str| text.trim_end().replace('\n', "\n    ");
    let text = with_tls("i", "", "[{secretName: c}]")
        + &format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: c}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
            indent(&certificate),
            indent(&key)
        )
        + &service("s");
    assert_eq!(load(&text).config.certificates[0].chain, certificate.as_bytes());
}

#[test]
fn the_oldest_ingress_comes_first() {
    let (certificate, key) = pair();
    let text = with_tls("a", "", "[{hosts: [x], secretName: last}]")
        + &with_tls("b", ", creationTimestamp: '2026-01-01T00:00:00Z'", "[{hosts: [x], secretName: second}]")
        + &with_tls("c", ", creationTimestamp: '2025-01-01T00:00:00Z'", "[{hosts: [x], secretName: first}]")
        + &["first", "second", "last"].map(|name| secret(name, "kubernetes.io/tls", &certificate, &key)).concat()
        + &service("s");
    let loaded = load(&text);
    let origins: Vec<_> = loaded.config.certificates.iter().map(|one| &*one.origin).collect();
    for (origin, name) in std::iter::zip(&origins, ["first", "second", "last"]) {
        assert!(origin.contains(&format!("Secret default/{name}:")), "{origins:?}");
    }
}

#[test]
fn a_secret_that_is_not_there_or_no_certificate_is_a_warning() {
    let (certificate, key) = pair();
    for (secrets, why) in [
        (String::new(), "there is no Secret default/c"),
        (secret("c", "Opaque", &certificate, &key), "is not of type `kubernetes.io/tls`"),
    ] {
        let loaded = load(&(with_tls("i", "", "[{hosts: [x], secretName: c}]") + &service("s") + &secrets));
        assert_eq!(loaded.config.certificates, []);
        assert_eq!(loaded.warnings[0].field, "spec.tls[0].secretName");
        assert!(loaded.warnings[0].message.contains(why), "{}", loaded.warnings[0]);
    }
}

#[test]
fn a_secret_that_holds_neither_certificate_nor_key_is_refused() {
    let (certificate, key) = pair();
    for (first, second, field) in [
        ("no PEM", &*key, "data[tls.crt]"),
        (&*key, &*key, "data[tls.crt]"),
        (&*certificate, &*certificate, "data[tls.key]"),
        (&*certificate, "-----BEGIN PRIVATE KEY-----\nMIGH", "data[tls.key]"),
    ] {
        let text = secret("c", "kubernetes.io/tls", first, second) + &service("s");
        load(&text);
        // Two hosts, one fault.
        let error = refused(&(text + &with_tls("i", "", "[{hosts: [x], secretName: c}, {hosts: [y], secretName: c}]")));
        let [problem] = error.problems() else { panic!("{error}") };
        assert_eq!(problem.field, field);
        assert_eq!(problem.place.line, if field.contains("crt") { 7 } else { 8 });
        assert!(matches!(problem.fault, Fault::Pem(_)));
        assert!(!error.to_string().contains("MIGH"), "shows what may be a key");
    }
}
