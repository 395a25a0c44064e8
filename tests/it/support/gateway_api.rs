//! Objects of the Gateway API, in the same short way as [`manifest`](super::manifest).

use std::fmt::Write as _;

/// A document of this kind; `spec` is YAML, indented by two.
pub(crate) fn object(version: &str, kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata:\n  namespace: {namespace}\n  name: \
         {name}\nspec:\n{spec}"
    )
}

/// A listener: name, port, protocol, hostname (empty for any), and more fields as YAML in flow style.
pub(crate) struct Listener<'a>(
    pub(crate) &'a str,
    pub(crate) u16,
    pub(crate) &'a str,
    pub(crate) &'a str,
    pub(crate) &'a str,
);

fn listeners(all: &[Listener<'_>]) -> String {
    let mut text = String::from("  listeners:\n");
    for Listener(name, port, protocol, hostname, more) in all {
        let _ = write!(text, "  - {{name: {name}, port: {port}, protocol: {protocol}");
        if !hostname.is_empty() {
            let _ = write!(text, ", hostname: \"{hostname}\"");
        }
        let comma = if more.is_empty() { "" } else { ", " };
        let _ = writeln!(text, "{comma}{more}}}");
    }
    text
}

/// A Gateway in `default` at 127.0.0.1, and its class. `more` is YAML, indented by two.
pub(crate) fn gateway(name: &str, all: &[Listener<'_>], more: &str) -> String {
    let class = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: ours}\n\
                 spec: {controllerName: example.com/ours}\n";
    let spec = "  gatewayClassName: ours\n  addresses: [{type: IPAddress, value: 127.0.0.1}]\n";
    class.to_owned() + &object("v1", "Gateway", "default", name, &format!("{spec}{}{more}", listeners(all)))
}

/// A ListenerSet of a Gateway in `default`.
pub(crate) fn listener_set(namespace: &str, name: &str, gateway: &str, all: &[Listener<'_>]) -> String {
    let parent = format!("  parentRef: {{name: {gateway}, namespace: default}}\n");
    object("v1", "ListenerSet", namespace, name, &(parent + &listeners(all)))
}

/// A route of this kind in `default`: parents and hostnames as items of a flow sequence, and each rule as a flow mapping.
pub(crate) fn route(kind: &str, name: &str, parents: &str, hostnames: &str, rules: &[&str]) -> String {
    let mut spec = format!("  parentRefs: [{parents}]\n");
    if !hostnames.is_empty() {
        let _ = writeln!(spec, "  hostnames: [{hostnames}]");
    }
    let _ = writeln!(spec, "  rules:");
    for rule in rules {
        let _ = writeln!(spec, "  - {rule}");
    }
    let version = if matches!(kind, "TLSRoute" | "TCPRoute") { "v1alpha2" } else { "v1" };
    object(version, kind, "default", name, &spec)
}

/// An HTTPRoute of a Gateway named `web`.
pub(crate) fn http_route(name: &str, hostnames: &str, rules: &[&str]) -> String {
    route("HTTPRoute", name, "{name: web}", hostnames, rules)
}
