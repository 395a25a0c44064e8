use super::*;
use crate::config::{ClientValidation, ClientValidationMode, Termination};

fn https(name: &str, port: u16, references: &str) -> String {
    format!("{{name: {name}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{references}]}}}}")
}

fn termination(listener: &Listener) -> &Termination {
    match &listener.protocol {
        ListenerProtocol::Https(termination) | ListenerProtocol::Tls(termination) => termination,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_listener_without_any_certificate_is_invalid_and_its_sibling_serves() {
    let from = "{group: gateway.networking.k8s.io, kind: Gateway, namespace: n}";
    for (reference, more, why) in [
        ("{name: s}", String::new(), ""),
        ("{name: s, namespace: n}", String::new(), ""),
        ("{name: gone}", String::new(), "there is no Secret n/gone"),
        ("{name: s, kind: ConfigMap}", String::new(), "not from ConfigMap"),
        ("{name: s, group: example.com}", String::new(), "not from Secret of group example.com"),
        ("{name: opaque}", String::new(), "Secret n/opaque is not of type `kubernetes.io/tls`"),
        ("{name: broken}", String::new(), "Secret n/broken: data[tls.crt]: has no certificate"),
        (
            "{name: far, namespace: far}",
            String::new(),
            "no ReferenceGrant in namespace far lets a Gateway of namespace n",
        ),
        ("{name: far, namespace: far}", grant("far", from, "{group: '', kind: Secret}"), ""),
        ("{name: far, namespace: far}", grant("far", from, "{group: '', kind: Secret, name: far}"), ""),
        (
            "{name: far, namespace: far}",
            grant("far", from, "{group: '', kind: Secret, name: other}"),
            "no ReferenceGrant",
        ),
        ("{name: far, namespace: far}", grant("far", from, "{group: '', kind: Service}"), "no ReferenceGrant"),
        ("{name: far, namespace: far}", grant("n", from, "{group: '', kind: Secret}"), "no ReferenceGrant"),
        (
            "{name: far, namespace: far}",
            grant("far", &from.replace("Gateway", "HTTPRoute"), "{group: '', kind: Secret}"),
            "no ReferenceGrant",
        ),
        (
            "{name: far, namespace: far}",
            grant("far", &from.replace(": n}", ": m}"), "{group: '', kind: Secret}"),
            "no ReferenceGrant",
        ),
    ] {
        let text = CLASS.to_owned()
            + &gateway("{name: g, namespace: n}", "", &[&https("a", 443, reference), &https("b", 444, "{name: s}")])
            + &certificate("n", "s")
            + &certificate("far", "far")
            + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: opaque, namespace: n}\ntype: Opaque\n"
            + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: broken, namespace: n}\ntype: kubernetes.io/tls\ndata: {tls.crt: SGVsbG8K, tls.key: SGVsbG8K}\n"
            + &more;
        let loaded = load(&text);
        let [asked, sibling] = &*loaded.config.listeners else { panic!("{:?}", loaded.config.listeners) };
        assert_eq!(sibling.invalid, None);
        assert_eq!(termination(sibling).certificates.len(), 1);
        assert_eq!(termination(asked).certificates.len(), usize::from(why.is_empty()), "{reference}");
        let invalid = asked.invalid.as_deref().unwrap_or_default();
        assert!(invalid.contains(why) && invalid.is_empty() == why.is_empty(), "{reference}: {invalid}");
        assert_eq!(loaded.warnings.len(), usize::from(!why.is_empty()), "{reference}");
    }
}

#[test]
fn one_certificate_of_several_is_enough() {
    let text = CLASS.to_owned()
        + &gateway("{name: g}", "", &[&https("a", 443, "{name: gone}, {name: s}")])
        + &certificate("default", "s");
    let loaded = load(&text);
    assert_eq!(loaded.config.listeners[0].invalid, None);
    assert_eq!(termination(&loaded.config.listeners[0]).certificates.len(), 1);
    assert_eq!(told(&loaded), ["spec.listeners[0].tls.certificateRefs[0]: there is no Secret default/gone"]);
}

/// Of each listener, by its port: why it is invalid, or what it asks of clients.
fn validations(text: &str) -> Vec<(u16, Result<Option<ClientValidationMode>, String>)> {
    let config = load(text).config;
    let one = |listener: &Listener| match (&listener.invalid, &termination(listener).client) {
        (Some(why), None) => Err(why.clone()),
        (None, client) => Ok(client.as_ref().map(|client: &ClientValidation| client.mode)),
        (Some(why), Some(_)) => panic!("{why}"),
    };
    config.listeners.iter().map(|listener| (listener.port, one(listener))).collect()
}

#[test]
fn clients_are_asked_by_default_by_port_and_by_listener() {
    let references = |name: &str| format!("caCertificateRefs: [{{kind: ConfigMap, group: '', {name}}}]");
    let frontend = format!(
        "tls: {{frontend: {{default: {{validation: {{{}}}}}, perPort: [
          {{port: 2, tls: {{validation: {{{}, mode: AllowInsecureFallback}}}}}}, {{port: 3, tls: {{}}}},
          {{port: 4, tls: {{validation: {{{}}}}}}}, {{port: 5, tls: {{validation: {{{}}}}}}}]}}}},",
        references("name: ca"),
        references("name: ca"),
        references("name: gone"),
        references("name: far, namespace: far"),
    );
    let listeners: Vec<_> = (1..6).map(|port| https(&format!("l{port}"), port, "{name: s}")).collect();
    let mut listeners: Vec<_> = listeners.iter().map(String::as_str).collect();
    let old = format!(
        "{{name: l6, port: 6, protocol: HTTPS, tls: {{certificateRefs: [{{name: s}}], frontendValidation: {{{}, mode: AllowInsecureFallback}}}}}}",
        references("name: ca")
    );
    let stream = "{name: l7, port: 7, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: s}]}}";
    listeners.extend([&*old, stream]);
    let text = CLASS.to_owned()
        + &gateway("{name: g}", &frontend, &listeners)
        + &certificate("default", "s")
        + &authority("default", "ca")
        + &authority("far", "far");
    let found = validations(&text);
    let (valid, invalid): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, one)| one.is_ok());
    assert_eq!(
        valid,
        [
            (1, Ok(Some(ClientValidationMode::Required))),
            (2, Ok(Some(ClientValidationMode::Unverified))),
            (3, Ok(None)),
            (6, Ok(Some(ClientValidationMode::Unverified))),
            (7, Ok(None)),
        ]
    );
    let [(4, Err(missing)), (5, Err(ungranted))] = &*invalid else { panic!("{invalid:?}") };
    assert!(missing.contains("there is no ConfigMap default/gone"), "{missing}");
    assert!(ungranted.contains("no ReferenceGrant in namespace far"), "{ungranted}");

    // With the grant.
    let from = "{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}";
    let granted = text + &grant("far", from, "{group: '', kind: ConfigMap}");
    assert_eq!(validations(&granted)[4], (5, Ok(Some(ClientValidationMode::Required))));
}

#[test]
fn authorities_come_from_where_they_can_be() {
    let map = |data: &str| format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\n{data}\n");
    let pem = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
    let base64 = BASE64_STANDARD.encode(&pem);
    let secret = format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: m}}\ndata: {{ca.crt: {base64}}}\n");
    for (kind, object, why) in [
        ("ConfigMap", map(&format!("data: {{ca.crt: {}}}", quoted(&pem))), ""),
        ("ConfigMap", map(&format!("binaryData: {{ca.crt: {base64}}}")), ""),
        ("Secret", secret, ""),
        ("ConfigMap", map("data: {tls.crt: x}"), "has no key `ca.crt`"),
        ("ConfigMap", map("data: {ca.crt: x}"), "`ca.crt` has no certificate"),
        ("Service", map(""), "not from Service"),
    ] {
        let frontend = format!(
            "tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{{kind: {kind}, group: '', name: m}}]}}}}}}}},"
        );
        let text = CLASS.to_owned()
            + &gateway("{name: g}", &frontend, &[&https("a", 443, "{name: s}"), "{name: b, port: 80, protocol: HTTP}"])
            + &certificate("default", "s")
            + &object;
        let loaded = load(&text);
        let invalid = loaded.config.listeners[0].invalid.as_deref().unwrap_or_default();
        assert!(invalid.contains(why) && invalid.is_empty() == why.is_empty(), "{object}: {invalid}");
        assert_eq!(loaded.config.listeners[1].invalid, None, "HTTP asks for no certificates");
    }
}

#[test]
fn routes_are_told_apart_by_the_certificate_for_their_backends() {
    let one = &["{name: a, port: 80, protocol: HTTP}"][..];
    let at = |address: &str, tls: &str| format!("addresses: [{{value: {address}}}], {tls}");
    let text = CLASS.to_owned()
        + &gateway("{name: none}", &at("10.0.0.1", ""), one)
        + &gateway("{name: new}", &at("10.0.0.2", "tls: {backend: {clientCertificateRef: {name: s}}},"), one)
        + &gateway("{name: old}", &at("10.0.0.3", "backendTLS: {clientCertificateRef: {name: s}},"), one)
        + &gateway("{name: bad}", &at("10.0.0.4", "tls: {backend: {clientCertificateRef: {name: gone}}},"), one)
        + &certificate("default", "s");
    let parents: Vec<_> = ["none", "new", "old", "bad"].map(parent_reference).into();
    with_objects(&text, |objects| {
        let (grants, mut warnings) = (Grants::new(objects), Vec::new());
        let (api, _) = GatewayApi::new(objects, &grants, &mut warnings);
        let attached =
            api.parents.attach(Attaching { kind: "HTTPRoute", namespace: "default", parents: &parents, hosts: &[] });
        let groups: Vec<_> = by_client(attached.listeners)
            .into_iter()
            .map(|(client, names)| (client.map(|client| client.gateway.clone()), names.join(" ")))
            .collect();
        let expected = [
            (None, "default/none/a default/bad/a"),
            (Some("default/new"), "default/new/a"),
            (Some("default/old"), "default/old/a"),
        ];
        assert_eq!(groups, expected.map(|(gateway, names)| (gateway.map(str::to_owned), names.to_owned())));
        let [warning] = &*warnings else { panic!("{warnings:?}") };
        assert_eq!(warning.field, "spec.tls.backend.clientCertificateRef");
    });
}
