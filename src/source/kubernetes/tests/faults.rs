use super::*;
use crate::source::Fault;

/// What is wrong with it, without the name of the file.
fn faults(text: &str) -> Vec<String> {
    match parse("k.yaml", text) {
        Ok(_) => Vec::new(),
        Err(error) => {
            error.problems().iter().map(|one| one.to_string().trim_start_matches("k.yaml:").to_owned()).collect()
        }
    }
}

const HEAD: &str = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: i\nspec:\n";
const RULES: &str = "  rules:\n  - host: a\n    http:\n      paths:\n";

#[test]
fn an_ingress_is_refused_with_line_and_field() {
    let backend = "        backend: {service: {name: s, port: {number: 80}}}\n";
    let p = "Ingress default/i: spec.rules[0].http.paths[0]";
    for (spec, expected) in [
        ("  {}\n".to_owned(), "6:3: Ingress default/i: spec: has neither `rules` nor a `defaultBackend`: give it one of them".to_owned()),
        ("  rules: {host: a}\n".to_owned(), "6:10: Ingress default/i: spec.rules: found a mapping, expected a list".to_owned()),
        ("  rules:\n  - host: 'a b'\n".to_owned(), "7:11: Ingress default/i: spec.rules[0].host: `a b` is not a host: an Ingress takes a DNS name, or `*.` and a DNS name; without a port".to_owned()),
        ("  rules:\n  - host: 10.0.0.1\n".to_owned(), "7:11: Ingress default/i: spec.rules[0].host: `10.0.0.1` is an address: an Ingress takes a DNS name, or `*.` and a DNS name; leave the field out to mean any host".to_owned()),
        ("  rules:\n  - host: '*'\n".to_owned(), "7:11: Ingress default/i: spec.rules[0].host: `*` is not a host here: leave the field out to mean any host".to_owned()),
        ("  rules:\n  - host: a\n    http: {}\n".to_owned(), "8:11: Ingress default/i: spec.rules[0].http.paths: is required and missing".to_owned()),
        ("  rules:\n  - host: a\n    http:\n      paths: []\n".to_owned(), "9:14: Ingress default/i: spec.rules[0].http.paths: is required and missing".to_owned()),
        (format!("{RULES}      - pathType: Prefix\n        path: cart\n{backend}"), format!("11:15: {p}.path: `cart` is not a path to match: it must start with `/`")),
        (format!("{RULES}      - pathType: Exact\n        path: /a/../b\n{backend}"), format!("11:15: {p}.path: `/a/../b` is not a path to match: it must not have `.` or `..` as an element")),
        (format!("{RULES}      - pathType: Prefix\n{backend}"), format!("10:9: {p}.path: `` is not a path to match: it must start with `/`")),
        (format!("{RULES}      - path: /a\n{backend}"), format!("10:9: {p}.pathType: is required and missing")),
        (format!("{RULES}      - path: /a\n        pathType: prefix\n{backend}"), format!("11:19: {p}.pathType: `prefix` is not a path type: write `Exact`, `Prefix` or `ImplementationSpecific`")),
        (format!("{RULES}      - path: /a\n        pathType: Prefix\n"), format!("10:9: {p}.backend: is required and missing")),
        (format!("{RULES}      - path: /a\n        pathType: Prefix\n        backend: {{}}\n"), format!("12:18: {p}.backend: names no `service`: write its name and port")),
        (format!("{RULES}      - path: /a\n        pathType: Prefix\n        backend:\n          service:\n            name: s\n"), format!("14:13: {p}.backend.service.port: names neither `name` nor `number` (1 to 65535) of the Service's port: write one of them")),
        (format!("{RULES}      - path: /a\n        pathType: Prefix\n        backend:\n          service:\n            name: s\n            port: {{number: 70000}}\n"), format!("15:28: {p}.backend.service.port.number: found the number 70000, expected a whole number from 0 to 65535")),
        (format!("{RULES}      - path: /a\n        pathType: Prefix\n        backend:\n          service:\n            name: s\n            port: {{number: http}}\n"), format!("15:28: {p}.backend.service.port.number: found the text `http`, expected a whole number from 0 to 65535")),
        (format!("{RULES}      - path: /a\n        pathType: Prefix\n        backend:\n          service:\n            name: s\n            port: {{number: 1, name: a}}\n"), format!("15:19: {p}.backend.service.port: names the Service's port by `name` and by `number`: leave one of them out")),
        ("  ingressClassName: 7\n".to_owned(), "6:21: Ingress default/i: spec.ingressClassName: found the number 7, expected a text (numbers, true and false need quotes to be one)".to_owned()),
        ("  tls:\n  - hosts: [a, 'b:443']\n  defaultBackend: {service: {name: s, port: {number: 80}}}\n".to_owned(), "7:16: Ingress default/i: spec.tls[0].hosts[1]: `b:443` is not a host: an Ingress takes a DNS name, or `*.` and a DNS name; without a port".to_owned()),
        ("  - a\n".to_owned(), "6:3: Ingress default/i: spec: found a list, expected a mapping".to_owned()),
    ] {
        assert_eq!(faults(&format!("{HEAD}{spec}")), [expected], "{spec}");
    }
}

#[test]
fn every_other_kind_is_refused_with_line_and_field() {
    for (text, expected) in [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  ports:\n  - port: 0\n",
            "6:11: Service default/s: spec.ports[0].port: found the number 0, expected a port from 1 to 65535",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  ports:\n  - name: a\n",
            "6:5: Service default/s: spec.ports[0].port: is required and missing",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  type: ExternalName\n",
            "5:3: Service default/s: spec.externalName: is required and missing",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {namespace: n}\n",
            "3:11: Service: metadata.name: is required and missing",
        ),
        ("apiVersion: v1\nkind: Service\n", "1:1: Service: metadata.name: is required and missing"),
        (
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: [s]\n",
            "4:9: Service: metadata.name: found a list, expected a text (numbers, true and false need quotes to be one)",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\n  creationTimestamp: yesterday\n",
            "5:22: Service default/s: metadata.creationTimestamp: `yesterday` is not a time: write it as in `2026-01-31T12:00:00Z`",
        ),
        ("kind: Service\n", "1:1: apiVersion: is required and missing"),
        ("apiVersion: v1\nkind:\n", "2:5: kind: is required and missing"),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4\nendpoints:\n- addresses:\n  - fd00::1\n",
            "7:5: EndpointSlice default/e: endpoints[0].addresses[0]: `fd00::1` is not an IPv4 address",
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: ipv4\n",
            "4:14: EndpointSlice default/e: addressType: `ipv4` is not an address type: write `IPv4`, `IPv6` or `FQDN`",
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\n",
            "1:1: EndpointSlice default/e: addressType: is required and missing",
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4\nendpoints:\n- addresses: []\n",
            "6:14: EndpointSlice default/e: endpoints[0].addresses: is required and missing",
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4\nendpoints:\n- addresses: [10.0.0.1]\n  conditions: {ready: maybe}\n",
            "7:23: EndpointSlice default/e: endpoints[0].conditions.ready: found the text `maybe`, expected `true` or `false`",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  a: '%%%'\n",
            "5:6: Secret default/s: data[a]: not base64: the character at 0 does not belong; encode it with `base64 -w0`, or move it to `stringData` as it is",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: YQ==\n",
            "6:3: Secret default/s: data[tls.key]: is required and missing",
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: s}\n  spec:\n    ports: 80\n",
            "8:12: Service default/s: items[0].spec.ports: found the number 80, expected a list",
        ),
        ("apiVersion: v1\nkind: List\nitems: 7\n", "3:8: items: must be a list of objects"),
        ("apiVersion: v1\nkind: List\nitems: [7]\n", "3:9: items[0].apiVersion: is required and missing"),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
}

#[test]
fn all_faults_are_told_by_line_of_the_file() {
    let text = format!(
        "# a comment\n---\n{HEAD}  rules:\n  - host: 'x y'\n  - host: 'z z'\n---\na: [1\n---\n{}---\napiVersion: v1\nkind: Service\nmetadata: {{name: t}}\nspec: {{ports: [{{}}]}}\n---\nneither: one\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: t}\n"
    );
    let error = parse("k.yaml", &text).unwrap_err();
    let found: Vec<_> = error.problems().iter().map(|one| (one.place.line, &*one.field)).collect();
    assert_eq!(
        found,
        [(9, "spec.rules[0].host"), (10, "spec.rules[1].host"), (12, ""), (21, "spec.ports[0].port"), (23, "")]
    );
    assert!(matches!(error.problems()[2].fault, Fault::Syntax(_)));
    assert!(matches!(error.problems()[4].fault, Fault::Mixed(_)));
}

#[test]
fn an_object_that_is_there_twice_names_both_places() {
    let one = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
    let other = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: default}\n";
    let elsewhere = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\n";
    assert_eq!(
        faults(&format!("{one}---\n{elsewhere}---\n{other}")),
        ["9:1: Service default/s: is there twice, first at k.yaml:1:1: remove one of them"]
    );
}

#[test]
fn unknown_fields_and_nulls_make_nothing_invalid() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: s, labels: null, uid: 7, managedFields: [{a: b}]}\nspec: {ports: null, future: [1, 2]}\nstatus: {loadBalancer: {}}\n";
    assert_eq!(faults(text), [""; 0]);
}
