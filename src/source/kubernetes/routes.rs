//! Ingresses as routes.

use std::collections::HashMap;

use super::{
    backends::{Backends, Port, Speaks},
    ingress::{HttpPath, Ingress, IngressBackend, host},
    object::{Object, Objects},
};
use crate::{
    config::{BackendRef, Host, Match, PathMatch, Route, Rule},
    source::error::Warning,
};

/// The class annotation of the time before `spec.ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The Ingresses that are ours: those without a class, and those of a class that is there.
pub(super) fn served<'a>(objects: &'a Objects, warnings: &mut Vec<Warning>) -> Vec<&'a Object<Ingress>> {
    let is_there = |class: &str| objects.classes.get("", class).is_some();
    objects
        .ingresses
        .iter()
        .filter(|ingress| {
            let field = ("spec.ingressClassName", ingress.value.spec.ingress_class_name.as_deref());
            let annotation = (
                "metadata.annotations[kubernetes.io/ingress.class]",
                ingress.metadata.annotations.get(CLASS_ANNOTATION).map(String::as_str),
            );
            // The API asks that the old annotation wins over the field.
            let named = [annotation, field].into_iter().find_map(|(field, class)| Some((field, class?)));
            let Some((field, class)) = named.filter(|(_, class)| !class.is_empty()) else {
                return true;
            };
            if !is_there(class) {
                let why = format!(
                    "there is no IngressClass `{class}`, and the Ingress is not served: add the class, or leave the \
                     field out"
                );
                warnings.push(ingress.warning(field, why));
            }
            is_there(class)
        })
        .collect()
}

/// The routes of these Ingresses: one for each Ingress and host, in the order of the Ingresses' names.
pub(super) fn routes(ingresses: &[&Object<Ingress>], backends: &mut Backends<'_>) -> Vec<Route> {
    let mut routes = Vec::new();
    for ingress in ingresses {
        let mut by_host: Vec<Route> = Vec::new();
        for (index, rule) in ingress.value.spec.rules.iter().enumerate() {
            let host = match &*rule.host {
                "" => Host::Any,
                text => match host(text) {
                    Ok(host) => host,
                    Err(_) => continue, // Refused when it was read.
                },
            };
            let mut rules = Vec::new();
            match (&rule.http, &ingress.value.spec.default_backend) {
                (Some(http), _) => {
                    for (inner, path) in http.paths.iter().enumerate() {
                        let field = format!("spec.rules[{index}].http.paths[{inner}]");
                        let matches = vec![path_match(ingress, path, &field, backends)];
                        let backend = resolve(ingress, &path.backend, &format!("{field}.backend"), backends);
                        rules.push(Rule { matches, backends: vec![backend], ..Rule::default() });
                    }
                }
                // For all hosts that is what the default backend gets anyway.
                (None, Some(_)) if host == Host::Any => continue,
                (None, Some(backend)) => rules.push(everything(ingress, backend, backends)),
                (None, None) => {
                    let why = "has neither `http` nor is there a `defaultBackend`: it routes nothing".to_owned();
                    backends.warnings.push(ingress.warning(&format!("spec.rules[{index}]"), why));
                    continue;
                }
            }
            match by_host.iter_mut().find(|route| route.hosts.first() == Some(&host)) {
                Some(route) => route.rules.append(&mut rules),
                None => by_host.push(Route { rules, ..route(ingress, host) }),
            }
        }
        routes.append(&mut by_host);
    }
    default_backends(ingresses, backends, &mut routes);
    routes
}

/// Default backends get what no rule of any Ingress fits. A rule for all paths of all hosts leaves nothing to them: it
/// stands where they would, and wins whatever their ages.
fn default_backends(ingresses: &[&Object<Ingress>], backends: &mut Backends<'_>, routes: &mut Vec<Route>) {
    let all = [Match::prefix("/")];
    let for_any_host: HashMap<String, usize> = routes
        .iter()
        .enumerate()
        .filter(|(_, route)| route.hosts == [Host::Any])
        .map(|(index, route)| (route.name.clone(), index))
        .collect();
    let taker = routes
        .iter()
        .find(|route| route.hosts == [Host::Any] && route.rules.iter().any(|rule| rule.matches == all))
        .map(|route| route.name.clone());
    for ingress in ingresses {
        let Some(backend) = &ingress.value.spec.default_backend else {
            continue;
        };
        if let Some(taker) = &taker {
            let why = format!("gets no requests: a rule of Ingress {taker} takes all paths of all hosts");
            backends.warnings.push(ingress.warning("spec.defaultBackend", why));
            continue;
        }
        let rule = everything(ingress, backend, backends);
        match for_any_host.get(&route_name(ingress)).and_then(|index| routes.get_mut(*index)) {
            Some(route) => route.rules.push(rule),
            None => routes.push(Route { rules: vec![rule], ..route(ingress, Host::Any) }),
        }
    }
}

fn route(ingress: &Object<Ingress>, host: Host) -> Route {
    Route { hosts: vec![host], created: ingress.created, ..Route::named(route_name(ingress)) }
}

fn route_name(ingress: &Object<Ingress>) -> String {
    format!("{}/{}", ingress.namespace, ingress.name)
}

fn everything(ingress: &Object<Ingress>, backend: &IngressBackend, backends: &mut Backends<'_>) -> Rule {
    let backend = resolve(ingress, backend, "spec.defaultBackend", backends);
    Rule { matches: vec![Match::prefix("/")], backends: vec![backend], ..Rule::default() }
}

fn path_match(ingress: &Object<Ingress>, path: &HttpPath, field: &str, backends: &mut Backends<'_>) -> Match {
    let text = if path.path.is_empty() { "/" } else { &path.path };
    if path.path_type == "ImplementationSpecific" && text.contains(['(', '[', '*', '^', '$', '|', '\\']) {
        let why = format!("`{text}` looks like a pattern, and is taken as a prefix, letter by letter");
        backends.warnings.push(ingress.warning(&format!("{field}.path"), why));
    }
    let path = match &*path.path_type {
        "Exact" => PathMatch::Exact(text.to_owned()),
        _ => PathMatch::Prefix(text.to_owned()),
    };
    Match { path, ..Match::default() }
}

/// The backend's reference; what is wrong with it becomes a warning.
fn resolve(
    ingress: &Object<Ingress>,
    backend: &IngressBackend,
    field: &str,
    backends: &mut Backends<'_>,
) -> BackendRef {
    let namespace = &ingress.namespace;
    let reference = match (&backend.service, &backend.resource) {
        (Some(service), _) => {
            let port = match service.port.number {
                0 => Port::Name(&service.port.name),
                number => Port::Number(number),
            };
            backends.resolve(namespace, &service.name, port, Speaks::Ingress, None)
        }
        (None, Some(resource)) => BackendRef::invalid(
            format!("{namespace}/{}", resource.name),
            format!("a backend of kind {} is not supported: only Services are", resource.kind),
        ),
        // Refused when it was read.
        (None, None) => BackendRef::invalid(format!("{namespace}/"), "the backend names nothing"),
    };
    if let Some(why) = &reference.invalid {
        backends.warnings.push(ingress.warning(field, format!("{why}; requests for it are answered 500")));
    }
    reference
}
