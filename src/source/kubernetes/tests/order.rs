use proptest::prelude::*;

use super::*;

/// Documents with ties that only names settle.
fn documents() -> Vec<String> {
    let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
    let indent = |text: String| text.trim_end().replace('\n', "\n    ");
    let [certificate, key] = [made.cert.pem(), made.signing_key.serialize_pem()].map(indent);
    let mut all = service("a") + &service("b").replace("10.0.0.1", "10.0.0.2");
    for (name, created) in [("x", ""), ("y", ", creationTimestamp: '2026-01-01T00:00:00Z'"), ("w", ""), ("z", "")] {
        let spec = format!(
            "{{tls: [{{hosts: [h], secretName: c-{name}}}], defaultBackend: {{service: {{name: a, port: {{number: 80}}}}}},
              rules: [{{host: h, http: {{paths: [{}, {}]}}}}]}}",
            path("/", "Prefix", if name == "x" { "b" } else { "a" }),
            path("/e", "Exact", "missing"),
        );
        all += &ingress(&format!("{{name: {name}{created}}}"), &spec);
        all += &format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: c-{name}}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {certificate}\n  tls.key: |\n    {key}\n"
        );
    }
    all += &service("a")
        .replace("name: a-x", "name: a-y")
        .replace("10.0.0.1", "10.0.0.9")
        .replace("kind: Service", "kind: Unused");
    all.split("---\napi").filter(|one| !one.is_empty()).map(|one| format!("api{one}")).collect()
}

/// The configuration, its certificates without the line they are from.
fn outcome(files: &[Vec<String>]) -> Config {
    let folder = tempfile::tempdir().unwrap();
    for (index, documents) in files.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{index}.yaml")), documents.join("---\n")).unwrap();
    }
    let mut config = crate::source::load([folder.path()]).unwrap_or_else(|error| panic!("{error}")).config;
    for certificate in &mut config.certificates {
        certificate.origin = certificate.origin.rsplit_once(": ").unwrap().1.to_owned();
    }
    config
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn order_means_nothing(shuffled in Just(documents()).prop_shuffle(), cut in 0_usize..12) {
        let mut ordered = shuffled.clone();
        ordered.sort();
        let expected = outcome(&[ordered]);
        prop_assert_eq!(expected.routes.len(), 8);
        prop_assert_eq!(expected.certificates.len(), 4);
        let (left, right) = shuffled.split_at(cut);
        prop_assert_eq!(outcome(&[left.to_vec(), right.to_vec()]), expected);
    }
}
