//! HTTPRoutes and GRPCRoutes as routes.

use super::{
    GatewayApi,
    attach::{Attaching, ParentListener, by_client},
    exclusive::{self, Claimant},
    grpc_route::GrpcRoute,
    http_route::HttpRoute,
    mesh,
    references::{ParentReference, hostname},
    rules::{self, Scope, Warns},
};
use crate::{
    config::{Host, MeshParent, Route, Rule},
    source::kubernetes::{
        backends::{Backends, Speaks},
        object::{Kind, Object},
    },
};

/// What HTTPRoutes and GRPCRoutes become. An object becomes several routes of one name where its backends have to be reached in
/// several ways: one for the listeners of Gateways that show the same certificate, one for the calls between Services.
pub(super) fn routes<'a>(api: &GatewayApi<'a>, backends: &mut Backends<'a>) -> Vec<Route> {
    let mut placed: Vec<Placed<'_>> = Vec::new();
    placed.extend(api.objects.http_routes.iter().map(|object| place(api, AnyRoute::Http(object), backends)));
    placed.extend(api.objects.grpc_routes.iter().map(|object| place(api, AnyRoute::Grpc(object), backends)));
    settle(&mut placed, backends);
    settle_calls(api, &mut placed, backends);
    placed.iter().flat_map(|one| one.routes(api, backends)).collect()
}

/// Behind the names of GRPCRoutes, which an HTTPRoute may have as well. It keeps the order of the alphabet: a space comes before
/// all that names are made of.
pub(super) const GRPC_MARK: &str = " (GRPCRoute)";

/// A route of either kind.
#[derive(Clone, Copy)]
enum AnyRoute<'a> {
    Http(&'a Object<HttpRoute>),
    Grpc(&'a Object<GrpcRoute>),
}

/// A route and where it is in force.
struct Placed<'a> {
    route: AnyRoute<'a>,
    hosts: Vec<Host>,
    listeners: Vec<&'a ParentListener<'a>>,
    services: Vec<MeshParent>,
}

/// Finds what a route is attached to.
fn place<'p>(api: &'p GatewayApi<'_>, route: AnyRoute<'p>, backends: &mut Backends<'_>) -> Placed<'p> {
    let (parents, hostnames) = route.spec();
    // What is no host was refused when it was read.
    let hosts: Vec<Host> = hostnames.iter().filter_map(|text| hostname(text).ok()).collect();
    let namespace = route.namespace();
    let attached = api.parents.attach(Attaching { kind: route.kind(), namespace, parents, hosts: &hosts });
    let (services, mut warnings) = mesh::parents(api.objects, namespace, parents);
    warnings.extend(attached.warnings);
    if parents.is_empty() {
        warnings.push(("spec.parentRefs".to_owned(), "there are none".to_owned()));
    }
    for (field, why) in warnings {
        backends.warnings.push(route.warning(&field, format!("{why}; the route is not attached there")));
    }
    Placed { route, hosts, listeners: attached.listeners, services }
}

/// An HTTPRoute and a GRPCRoute do not share a host of a listener: the older one has it, then the first by name.
fn settle(placed: &mut [Placed<'_>], backends: &mut Backends<'_>) {
    let claimants: Vec<Claimant<'_>> = placed
        .iter()
        .map(|one| Claimant {
            is_grpc: matches!(one.route, AnyRoute::Grpc(_)),
            created: one.route.created(),
            name: (one.route.namespace(), one.route.name()),
            hosts: &one.hosts,
            listeners: &one.listeners,
        })
        .collect();
    for (index, listener) in exclusive::losses(&claimants) {
        let Some(one) = placed.get_mut(index) else {
            continue;
        };
        one.listeners.retain(|other| other.name != listener);
        let other = if matches!(one.route, AnyRoute::Grpc(_)) { HttpRoute::KIND } else { GrpcRoute::KIND };
        let why = format!("not attached to listener {listener}: an {other} that goes before it has one of its hosts");
        backends.warnings.push(one.route.warning("spec.hostnames", why));
    }
}

/// An HTTPRoute governs no calls that a GRPCRoute governs.
fn settle_calls(api: &GatewayApi<'_>, placed: &mut [Placed<'_>], backends: &mut Backends<'_>) {
    let is_grpc = |one: &Placed<'_>| matches!(one.route, AnyRoute::Grpc(_));
    let grpc: Vec<MeshParent> =
        placed.iter().filter(|one| is_grpc(one)).flat_map(|one| one.services.iter().cloned()).collect();
    for one in placed.iter_mut().filter(|one| !grpc.is_empty() && !is_grpc(one)) {
        for lost in mesh::yield_to_grpc(api.objects, &grpc, &mut one.services) {
            let why = format!("not attached to Service {lost}: a {} governs the calls to it", GrpcRoute::KIND);
            backends.warnings.push(one.route.warning("spec.parentRefs", why));
        }
    }
}

impl Placed<'_> {
    fn routes<'a>(&self, api: &GatewayApi<'a>, backends: &mut Backends<'a>) -> Vec<Route> {
        let mut routes = Vec::new();
        for (client, listeners) in by_client(self.listeners.iter().copied()) {
            let mut scope = self.scope(api, backends);
            scope.client = client;
            let rules = self.route.rules(&mut scope);
            routes.push(Route { listeners, hosts: self.hosts.clone(), ..self.route.route(rules) });
        }
        if !self.services.is_empty() {
            let mut scope = self.scope(api, backends);
            scope.is_mesh = true;
            let rules = self.route.rules(&mut scope);
            // Hostnames mean nothing there (GEP-1294).
            routes.push(Route { services: self.services.clone(), ..self.route.route(rules) });
        }
        routes
    }

    fn scope<'r, 'a>(&'r self, api: &'r GatewayApi<'a>, backends: &'r mut Backends<'a>) -> Scope<'r, 'a> {
        Scope {
            api,
            backends,
            kind: self.route.kind(),
            namespace: self.route.namespace(),
            name: self.route.name(),
            speaks: match self.route {
                AnyRoute::Http(_) => Speaks::Http,
                AnyRoute::Grpc(_) => Speaks::Grpc,
            },
            client: None,
            is_mesh: false,
            route: &self.route,
        }
    }
}

impl<'a> AnyRoute<'a> {
    fn kind(self) -> &'static str {
        match self {
            Self::Http(_) => HttpRoute::KIND,
            Self::Grpc(_) => GrpcRoute::KIND,
        }
    }

    fn namespace(self) -> &'a str {
        match self {
            Self::Http(object) => &object.namespace,
            Self::Grpc(object) => &object.namespace,
        }
    }

    fn name(self) -> &'a str {
        match self {
            Self::Http(object) => &object.name,
            Self::Grpc(object) => &object.name,
        }
    }

    fn created(self) -> Option<i64> {
        match self {
            Self::Http(object) => object.created,
            Self::Grpc(object) => object.created,
        }
    }

    fn spec(self) -> (&'a [ParentReference], &'a [String]) {
        match self {
            Self::Http(object) => (&object.value.spec.parent_refs, &object.value.spec.hostnames),
            Self::Grpc(object) => (&object.value.spec.parent_refs, &object.value.spec.hostnames),
        }
    }

    fn rules(self, scope: &mut Scope<'_, '_>) -> Vec<Rule> {
        match self {
            Self::Http(object) => rules::http(&object.value.spec.rules, scope),
            Self::Grpc(object) => rules::grpc(&object.value.spec.rules, scope),
        }
    }

    /// With nothing but rules.
    fn route(self, rules: Vec<Rule>) -> Route {
        let name = match self {
            Self::Http(object) => format!("{}/{}", object.namespace, object.name),
            Self::Grpc(object) => format!("{}/{}{GRPC_MARK}", object.namespace, object.name),
        };
        Route { name, rules, created: self.created(), ..Route::default() }
    }
}

impl Warns for AnyRoute<'_> {
    fn warning(&self, field: &str, message: String) -> crate::source::Warning {
        match self {
            Self::Http(object) => object.warning(field, message),
            Self::Grpc(object) => object.warning(field, message),
        }
    }
}
