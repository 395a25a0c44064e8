//! What becomes of Gateways and of what attaches to them.

mod attach;
mod conflicts;
mod credentials;
mod faults;
mod listener_sets;
mod listeners;
mod streams;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;
use crate::{
    config::{Listener, ListenerProtocol},
    source::{
        Report,
        decode::{Nulls, decode},
        kubernetes::{
            gateway_api::{Attaching, GatewayApi, Grants, ParentReference, by_client, hostname},
            object::Objects,
        },
        tree,
    },
};

const CLASS: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: c}
spec: {controllerName: some.one/else}
";

/// An object of the API with this metadata and spec, each in flow style.
fn object(kind: &str, metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n")
}

/// A Gateway of the class that is there.
fn gateway(metadata: &str, more: &str, listeners: &[&str]) -> String {
    let listeners = listeners.join(", ");
    object("Gateway", metadata, &format!("{{gatewayClassName: c, {more} listeners: [{listeners}]}}"))
}

fn listener_set(metadata: &str, parent: &str, listeners: &[&str]) -> String {
    let listeners = listeners.join(", ");
    object("ListenerSet", metadata, &format!("{{parentRef: {parent}, listeners: [{listeners}]}}"))
}

fn namespace(name: &str, labels: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n")
}

/// Lets objects of `from` refer to those of `to`, both in flow style.
fn grant(namespace: &str, from: &str, to: &str) -> String {
    object(
        "ReferenceGrant",
        &format!("{{name: g, namespace: {namespace}}}"),
        &format!("{{from: [{from}], to: [{to}]}}"),
    )
}

/// A Secret of type `kubernetes.io/tls`.
fn certificate(namespace: &str, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
    let [chain, key] = [made.cert.pem(), made.signing_key.serialize_pem()].map(|text| BASE64_STANDARD.encode(text));
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: kubernetes.io/tls\ndata: {{tls.crt: {chain}, tls.key: {key}}}\n"
    )
}

/// A ConfigMap with an authority.
fn authority(namespace: &str, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed([format!("{name}.example.com")]).unwrap();
    let pem = quoted(&made.cert.pem());
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{ca.crt: {pem}}}\n"
    )
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\n', "\\n"))
}

/// One line a listener: `NAME ADDRESSES:PORT HOST PROTOCOL`, with `!` behind one that is invalid.
fn listeners(config: &Config) -> Vec<String> {
    config.listeners.iter().map(line).collect()
}

fn line(listener: &Listener) -> String {
    let Listener { name, addresses, port, host, protocol, optional, invalid } = listener;
    assert!(optional, "one author's address is nobody else's matter");
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let protocol = match protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Https(_) => "https",
        ListenerProtocol::Tls(_) => "tls",
        ListenerProtocol::TlsPassthrough => "passthrough",
        ListenerProtocol::Tcp => "tcp",
    };
    let mark = if invalid.is_some() { "!" } else { "" };
    format!("{name} {}:{port} {host} {protocol}{mark}", addresses.join(","))
}

/// Field and text of every warning.
fn told(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(|one| format!("{}: {}", one.field, one.message)).collect()
}

fn parent_reference(name: &str) -> ParentReference {
    let text = format!("{{name: {name}}}");
    let node = tree::documents(&text).next().unwrap().unwrap_or_else(|error| panic!("{}", error.message));
    decode(&node, Nulls::Absent).unwrap()
}

/// Reads objects and shows them to `then`.
fn with_objects<T>(text: &str, then: impl FnOnce(&Objects) -> T) -> T {
    let (mut objects, mut report) = (Objects::default(), Report::default());
    for document in tree::documents(text) {
        let node = document.unwrap_or_else(|error| panic!("{}: {}", error.line, error.message));
        objects.add(crate::source::Document { file: "k.yaml".into(), folder: Default::default(), node }, &mut report);
    }
    assert_eq!(report.problems, []);
    then(&objects)
}

/// The listeners that a route attaches to, and what is said of the others.
fn attach(text: &str, kind: &str, namespace: &str, parents: &str, hosts: &[&str]) -> (Vec<String>, Vec<String>) {
    let parents = tree::documents(parents).next().unwrap().unwrap_or_else(|error| panic!("{}", error.message));
    let parents: Vec<ParentReference> = decode(&parents, Nulls::Absent).unwrap();
    let hosts: Vec<_> = hosts.iter().map(|text| hostname(text).unwrap()).collect();
    with_objects(text, |objects| {
        let grants = Grants::new(objects);
        let (api, _) = GatewayApi::new(objects, &grants, &mut Vec::new());
        let attached = api.parents.attach(Attaching { kind, namespace, parents: &parents, hosts: &hosts });
        (
            attached.listeners.iter().map(|listener| listener.name.clone()).collect(),
            attached.warnings.into_iter().map(|(field, why)| format!("{field}: {why}")).collect(),
        )
    })
}
