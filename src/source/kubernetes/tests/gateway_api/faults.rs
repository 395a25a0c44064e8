use super::*;
use crate::source::parse;

/// What is wrong, without the file and the line.
fn faults(text: &str) -> Vec<String> {
    match parse("k.yaml", text) {
        Ok(_) => Vec::new(),
        Err(error) => {
            let text = |fault: &crate::source::Fault| fault.to_string();
            error.problems().iter().map(|one| format!("{}: {}", one.field, text(&one.fault))).collect()
        }
    }
}

#[test]
fn what_the_api_server_refuses_of_a_gateway_is_refused() {
    let one = |listener: &str| gateway("{name: g}", "", &[listener]);
    let http = "{name: a, port: 80, protocol: HTTP}";
    let more = |more: &str| gateway("{name: g}", more, &[http]);
    for (text, expected) in [
        (one(http), vec![]),
        (gateway("{name: g}", "", &[]), vec!["spec.listeners: is required"]),
        (one(http).replace("gatewayClassName: c", "gatewayClassName: ''"), vec!["spec.gatewayClassName: is required"]),
        (one("{name: a, protocol: HTTP}"), vec!["spec.listeners[0].port: is required"]),
        (one("{name: a, port: 0, protocol: HTTP}"), vec!["spec.listeners[0].port: found the number 0"]),
        (one("{name: a, port: 80}"), vec!["spec.listeners[0].protocol: is required"]),
        (
            one("{name: a, port: 80, protocol: HTTP, hostname: 'a:80'}"),
            vec!["spec.listeners[0].hostname: `a:80` is not a host"],
        ),
        (
            one("{name: a, port: 80, protocol: HTTP, hostname: 10.0.0.1}"),
            vec!["spec.listeners[0].hostname: `10.0.0.1` is an address"],
        ),
        (
            one("{name: a, port: 80, protocol: HTTP, hostname: '*'}"),
            vec!["spec.listeners[0].hostname: `*` is not a host here"],
        ),
        (
            one("{name: a, port: 80, protocol: TCP, hostname: a.com}"),
            vec!["spec.listeners[0].hostname: a listener of protocol TCP knows no hosts"],
        ),
        (
            one("{name: a, port: 80, protocol: HTTP, tls: {}}"),
            vec!["spec.listeners[0].tls: a listener of protocol HTTP takes no `tls`"],
        ),
        (
            one("{name: a, port: 80, protocol: HTTPS, tls: {mode: Passthrough}}"),
            vec!["spec.listeners[0].tls.mode: HTTPS is ended here"],
        ),
        (
            one("{name: a, port: 80, protocol: HTTPS, tls: {}}"),
            vec!["spec.listeners[0].tls.certificateRefs: is required"],
        ),
        (
            one("{name: a, port: 80, protocol: HTTPS, tls: {mode: None}}"),
            vec!["spec.listeners[0].tls.mode: found `None`"],
        ),
        (one("{name: a, port: 80, protocol: TLS}"), vec!["spec.listeners[0].tls: is required"]),
        (
            one("{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: None}}}"),
            vec![
                "spec.listeners[0].allowedRoutes.namespaces.from: found `None`, expected one of `All`, `Selector`, `Same`",
            ],
        ),
        (
            gateway("{name: g}", "", &[http, "{name: a, port: 81, protocol: HTTP}"]),
            vec!["spec.listeners[1].name: `a` is the name of another"],
        ),
        (
            gateway("{name: g}", "", &[http, "{name: b, port: 80, protocol: HTTP}"]),
            vec!["spec.listeners[1]: another listener has the same port"],
        ),
        (
            more("addresses: [{value: lb.example.com}],"),
            vec!["spec.addresses[0].value: `lb.example.com` is not an IP address"],
        ),
        (more("addresses: [{value: 10.0.0.1}, {value: 10.0.0.1}],"), vec!["spec.addresses[1].value: is there twice"]),
        (
            more(
                "tls: {frontend: {default: {validation: {caCertificateRefs: []}}, perPort: [{port: 1, tls: {}}, {port: 1, tls: {}}]}},",
            ),
            vec![
                "spec.tls.frontend.default.validation.caCertificateRefs: is required",
                "spec.tls.frontend.perPort[1].port: port 1 is there twice",
            ],
        ),
        (
            more(
                "tls: {frontend: {default: {validation: {caCertificateRefs: [{kind: ConfigMap, name: c}], mode: No}}}},",
            ),
            vec![
                "spec.tls.frontend.default.validation.mode: found `No`, expected one of `AllowValidOnly`, `AllowInsecureFallback`",
            ],
        ),
    ] {
        let found = faults(&(CLASS.to_owned() + &text));
        assert_eq!(found.len(), expected.len(), "{text}\n{found:?}");
        for (found, expected) in std::iter::zip(found, expected) {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
    }
}

#[test]
fn the_other_kinds_are_refused_by_field_too() {
    let rules = "rules: [{backendRefs: [{name: b, port: 80}]}]";
    for (text, expected) in [
        (
            listener_set("{name: s}", "{name: ''}", &[]),
            vec!["spec.parentRef.name: is required", "spec.listeners: is required"],
        ),
        (object("ListenerSet", "{name: s}", "{listeners: []}"), vec!["spec.parentRef: is required"]),
        (grant("n", "", "{group: '', kind: Secret}"), vec!["spec.from: is required"]),
        (object("TCPRoute", "{name: r}", "{rules: []}"), vec!["spec.rules: is required"]),
        (
            object("TCPRoute", "{name: r}", "{rules: [{backendRefs: [{name: b}]}]}"),
            vec!["spec.rules[0].backendRefs[0].port: is required"],
        ),
        (
            object("TCPRoute", "{name: r}", "{rules: [{backendRefs: [{name: b, port: 80, weight: 1000001}]}]}"),
            vec!["spec.rules[0].backendRefs[0].weight: found the number 1000001, expected a weight"],
        ),
        (
            object("TCPRoute", "{name: r}", &format!("{{parentRefs: [{{name: g}}, {{name: g}}], {rules}}}")),
            vec!["spec.parentRefs[1]: is there twice"],
        ),
        (
            object("TCPRoute", "{name: r}", &format!("{{parentRefs: [{{name: g, port: 0}}], {rules}}}")),
            vec!["spec.parentRefs[0].port: found the number 0"],
        ),
        (
            object("TLSRoute", "{name: r}", &format!("{{hostnames: [a.com, 'a b'], {rules}}}")),
            vec!["spec.hostnames[1]: `a b` is not a host"],
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\nbinaryData: {a: '%'}\n".to_owned(),
            vec!["binaryData[a]: not base64"],
        ),
    ] {
        let found = faults(&text);
        assert_eq!(found.len(), expected.len(), "{text}\n{found:?}");
        for (found, expected) in std::iter::zip(found, expected) {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
    }
}

#[test]
fn unknown_fields_nulls_and_versions_make_nothing_invalid() {
    let listener = "{name: a, port: 80, protocol: HTTP, future: 1, hostname: null, allowedRoutes: {namespaces: null, kinds: null, more: 2}}";
    let text = CLASS.to_owned()
        + &gateway(
            "{name: g, uid: x}",
            "infrastructure: {labels: {a: b}}, addresses: null, tls: null, new: [1],",
            &[listener],
        );
    assert_eq!(faults(&text), [""; 0]);
    let old = gateway("{name: g}", "", &[listener]).replace("io/v1\n", "io/v1alpha1\n");
    let loaded = load(&(CLASS.to_owned() + &old));
    assert_eq!(loaded.config.listeners, []);
    assert!(loaded.warnings[0].message.ends_with("write `gateway.networking.k8s.io/v1`"), "{:?}", loaded.warnings);
}
