//! The Gateway API (gateway.networking.k8s.io): its objects, and the listeners and routes that they become.
//!
//! [`GatewayApi`] is what a kind of route needs to know: [`Parents::attach`] tells which listeners a route attaches to,
//! [`GatewayApi::backend`] follows a reference to a backend, and [`Grants`] say what may be referred to.
//!
//! A Gateway can have a certificate that it shows to backends which speak TLS, and a route can be attached to several
//! Gateways. So [`by_client`](attach::by_client) groups the listeners that it attaches to, and the route becomes one for each
//! group; in a group with a [`BackendClient`](attach::BackendClient), an upstream with TLS is one of its own, with `@` and the
//! Gateway's name behind its own.

mod attach;
mod backend_tls;
mod config_map;
mod conflicts;
mod exclusive;
mod filters;
mod gateway;
mod gateway_class;
mod grpc_route;
mod http_route;
mod listener_set;
mod listeners;
mod mesh;
mod namespace;
mod reference_grant;
mod references;
mod routes;
mod rules;
mod streams;
mod tcp_route;
mod tls;
mod tls_route;

pub(super) use self::{
    attach::BackendClient,
    backend_tls::{BackendTlsPolicy, Policies},
    config_map::ConfigMap,
    gateway::Gateway,
    gateway_class::GatewayClass,
    grpc_route::GrpcRoute,
    http_route::HttpRoute,
    listener_set::{ListenerSet, XListenerSet},
    namespace::Namespace,
    reference_grant::{Grants, ReferenceGrant},
    tcp_route::TcpRoute,
    tls_route::TlsRoute,
};

#[cfg(test)]
pub(super) use self::{
    attach::{Attaching, by_client},
    references::{ParentReference, hostname},
};

use self::{
    attach::Parents,
    reference_grant::{Referent, Referrer},
    references::BackendReference,
    tls::Credentials,
};
use super::{
    backends::{Backends, Port, Speaks},
    object::Objects,
};
use crate::{
    config::{BackendRef, Listener, Route, Service, StreamRoute},
    source::error::Warning,
};

/// What routes are made with.
pub(super) struct GatewayApi<'a> {
    pub(super) objects: &'a Objects,
    pub(super) grants: &'a Grants<'a>,
    pub(super) parents: Parents<'a>,
}

/// How a backend is reached.
#[derive(Clone, Copy)]
struct Reach<'c> {
    speaks: Speaks,
    /// Who is shown to it, if it asks.
    client: Option<&'c BackendClient>,
    /// Whether another namespace has to let it be referred to.
    needs_grant: bool,
}

impl<'a> GatewayApi<'a> {
    /// Also gives the listeners of all Gateways.
    pub(super) fn new(
        objects: &'a Objects,
        grants: &'a Grants<'a>,
        warnings: &mut Vec<Warning>,
    ) -> (Self, Vec<Listener>) {
        let (parents, listeners) = listeners::listeners(objects, Credentials { objects, grants }, warnings);
        (Self { objects, grants, parents }, listeners)
    }

    /// The routes of HTTPRoutes and GRPCRoutes.
    pub(super) fn routes(&self, backends: &mut Backends<'a>) -> Vec<Route> {
        routes::routes(self, backends)
    }

    /// What calls between Services may name; these routes govern some of them.
    pub(super) fn services(&self, routes: &[Route], backends: &mut Backends<'a>) -> Vec<Service> {
        mesh::services(self.objects, routes, backends)
    }

    /// The routes of TLSRoutes and TCPRoutes, the oldest first.
    pub(super) fn streams(&self, backends: &mut Backends<'_>) -> Vec<StreamRoute> {
        let mut routes = Vec::new();
        for object in self.objects.tls_routes.by_age() {
            routes.append(&mut tls_route::routes(self, object, backends));
        }
        for object in self.objects.tcp_routes.by_age() {
            routes.append(&mut tcp_route::routes(self, object, backends));
        }
        routes
    }

    /// The backend that a reference leads to, with its weight; one that says why if it leads nowhere.
    fn backend<F>(
        &self,
        from: Referrer<'_>,
        reference: &BackendReference<F>,
        reach: Reach<'_>,
        backends: &mut Backends<'_>,
    ) -> BackendRef {
        let BackendReference { group, kind, name, namespace, port, weight, .. } = reference;
        let namespace = namespace.as_deref().unwrap_or(from.namespace);
        let invalid = |why| match port {
            Some(port) => BackendRef::invalid(format!("{namespace}/{name}:{port}"), why),
            None => BackendRef::invalid(format!("{namespace}/{name}"), why),
        };
        let backend = match (reference.is_service(), port) {
            (false, _) => invalid(format!("a backend of kind {kind} is not supported: only Services are")),
            (true, None) => invalid("the backend names no port".to_owned()),
            (true, Some(port)) => match self.grants.check(from, Referent { group, kind, namespace, name }) {
                Err(why) if reach.needs_grant => invalid(why),
                _ => backends.resolve(namespace, name, Port::Number(*port), reach.speaks, reach.client),
            },
        };
        BackendRef { weight: *weight, ..backend }
    }
}
