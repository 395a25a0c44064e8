//! What becomes of manifests.

mod certificates;
mod endpoints;
mod faults;
mod gateway_api;
mod http_routes;
mod order;
mod routes;
mod services;

use crate::{
    config::{Config, Endpoints, PathMatch},
    source::{Loaded, parse},
};

fn load(text: &str) -> Loaded {
    parse("k.yaml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn warnings(text: &str) -> Vec<String> {
    load(text).warnings.iter().map(ToString::to_string).collect()
}

/// One line a rule: `ROUTE HOST PATH -> BACKEND`, an invalid backend with `!` behind it.
fn table(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for route in &config.routes {
        for host in &route.hosts {
            for rule in &route.rules {
                for one in &rule.matches {
                    let path = match &one.path {
                        PathMatch::Exact(path) => format!("={path}"),
                        PathMatch::Prefix(path) => path.clone(),
                        other => format!("{other:?}"),
                    };
                    for backend in &rule.backends {
                        let mark = if backend.invalid.is_some() { "!" } else { "" };
                        lines.push(format!("{} {host} {path} -> {}{mark}", route.name, backend.name));
                    }
                }
            }
        }
    }
    lines
}

/// The upstream's addresses.
fn addresses(config: &Config, upstream: &str) -> Vec<String> {
    let found = config.upstreams.iter().find(|one| one.name == upstream);
    match &found.unwrap_or_else(|| panic!("no {upstream} among {:?}", config.upstreams)).endpoints {
        Endpoints::Static(endpoints) => endpoints.iter().map(|one| one.address.to_string()).collect(),
        Endpoints::Dns { host, port, .. } => vec![format!("dns:{host}:{port}")],
    }
}

/// A Service with one port and a slice with one address.
fn service(name: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-x, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [10.0.0.1]}}]
"
    )
}

/// An Ingress with this metadata and spec, each in flow style.
fn ingress(metadata: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {metadata}
spec: {spec}
"
    )
}

/// A path of a rule.
fn path(path: &str, kind: &str, service: &str) -> String {
    format!("{{path: {path}, pathType: {kind}, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}")
}
