//! Routes whose parents are Services (GAMMA): they govern the calls to them.

use std::{collections::HashSet, sync::Arc};

use super::{
    references::{CORE, ParentReference},
    routes::GRPC_MARK,
};
use crate::{
    config::{MeshParent, Route, Service, ServicePort},
    source::kubernetes::{
        backends::{Backends, Port, Speaks},
        object::Objects,
        service,
    },
};

/// The Services among a route's parents, and what is wrong with the others of them, by field.
pub(super) fn parents(
    objects: &Objects,
    namespace: &str,
    parents: &[ParentReference],
) -> (Vec<MeshParent>, Vec<(String, String)>) {
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    let services = parents.iter().enumerate().filter(|(_, parent)| parent.group == CORE && parent.kind == "Service");
    for (index, reference) in services {
        match parent(objects, namespace, reference) {
            Ok(parent) if found.contains(&parent) => {}
            Ok(parent) => found.push(parent),
            Err((field, why)) => warnings.push((format!("spec.parentRefs[{index}]{field}"), why)),
        }
    }
    (found, warnings)
}

fn parent(
    objects: &Objects,
    namespace: &str,
    reference: &ParentReference,
) -> Result<MeshParent, (&'static str, String)> {
    let of = reference.namespace.as_deref().unwrap_or(namespace);
    let name = format!("{of}/{}", reference.name);
    let object = objects.services.get(of, &reference.name);
    let object = object.ok_or_else(|| ("", format!("there is no Service {name}")))?;
    let ports = || object.value.spec.ports.iter().filter(|port| port.protocol == "TCP");
    let port = match (reference.section_name.as_deref().filter(|section| !section.is_empty()), reference.port) {
        (None, None) => None,
        (Some(section), port) => {
            let named = ports().find(|one| one.name == section && port.is_none_or(|port| one.port == port));
            let named =
                named.ok_or_else(|| (".sectionName", format!("Service {name} has no such port `{section}`")))?;
            Some(named.port)
        }
        (None, Some(port)) if ports().any(|one| one.port == port) => Some(port),
        (None, Some(port)) => return Err((".port", format!("Service {name} has no TCP port {port}"))),
    };
    let consumers = (of != namespace).then(|| namespace.to_owned());
    Ok(MeshParent { service: name, port, consumers })
}

/// Takes from the parents of an HTTPRoute those whose calls a GRPCRoute governs, port by port, as the more specific kind of route
/// goes before the others (GEP-1294), and tells which they were.
pub(super) fn yield_to_grpc(objects: &Objects, grpc: &[MeshParent], parents: &mut Vec<MeshParent>) -> Vec<String> {
    let mut lost = Vec::new();
    for parent in std::mem::take(parents) {
        let rivals = || grpc.iter().filter(|one| one.service == parent.service && one.consumers == parent.consumers);
        let is_taken = |port: u16| rivals().any(|one| one.port.is_none_or(|taken| taken == port));
        if rivals().next().is_none() {
            parents.push(parent);
            continue;
        }
        let ports: Vec<u16> = match parent.port {
            Some(port) => vec![port],
            None => ports(objects, &parent.service),
        };
        for port in ports {
            if is_taken(port) {
                lost.push(format!("{}:{port}", parent.service));
            } else {
                parents.push(MeshParent { port: Some(port), ..parent.clone() });
            }
        }
    }
    lost
}

/// The numbers of a Service's ports that can be called.
fn ports(objects: &Objects, service: &str) -> Vec<u16> {
    let object = service.split_once('/').and_then(|(namespace, name)| objects.services.get(namespace, name));
    let ports = object.into_iter().flat_map(|object| &object.value.spec.ports);
    ports.filter(|port| port.protocol == "TCP").map(|port| port.port).collect()
}

/// All Services, as far as somebody can call them. Those that no route leads to have an upstream of their own.
pub(super) fn services(objects: &Objects, routes: &[Route], backends: &mut Backends<'_>) -> Vec<Service> {
    let grpc: HashSet<(&str, Option<u16>)> = routes
        .iter()
        .filter(|route| route.name.ends_with(GRPC_MARK))
        .flat_map(|route| &route.services)
        .map(|parent| (&*parent.service, parent.port))
        .collect();
    let mut services = Vec::new();
    for object in objects.services.iter() {
        let name = format!("{}/{}", object.namespace, object.name);
        if Service::split(&name).is_none() {
            let why = "is not a DNS label: calls of this process cannot name the Service".to_owned();
            backends.warnings.push(object.warning("metadata.name", why));
            continue;
        }
        let is_grpc = |port: &service::ServicePort| {
            // Where nothing is said the name of the port tells, as with Istio.
            let by_name = port.app_protocol.is_empty() && (port.name == "grpc" || port.name.starts_with("grpc-"));
            by_name || [None, Some(port.port)].into_iter().any(|port| grpc.contains(&(&*name, port)))
        };
        let mut ports: Vec<ServicePort> = Vec::with_capacity(object.value.spec.ports.len());
        for port in object.value.spec.ports.iter().filter(|port| port.protocol == "TCP") {
            // The first of a number is what backends find, too.
            if ports.iter().any(|other| other.port == port.port) {
                continue;
            }
            let speaks = if is_grpc(port) { Speaks::Grpc } else { Speaks::Http };
            let number = Port::Number(port.port);
            let (backend, upstream) = backends.look_up(&object.namespace, &object.name, number, speaks);
            ports.push(ServicePort { port: port.port, backend, upstream: upstream.map(Arc::new) });
        }
        services.push(Service { name, ports });
    }
    services
}
