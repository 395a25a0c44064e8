//! Kubernetes manifests: the same objects as in a cluster, from files, served as a cluster would serve them.
//!
//! Kinds: `Ingress` and `IngressClass` (networking.k8s.io/v1); `Service`, `Secret`, `ConfigMap` and `Namespace` (v1);
//! `EndpointSlice` (discovery.k8s.io/v1); of the Gateway API, in every version in use, `GatewayClass`, `Gateway`,
//! `ListenerSet` and `XListenerSet`, `HTTPRoute`, `GRPCRoute`, `TLSRoute`, `TCPRoute`, `ReferenceGrant` and
//! `BackendTLSPolicy`; each alone or in a `List`. Other kinds are left out with a [`Warning`](super::Warning); fields that
//! are not used are passed over. An object that the API server would refuse is refused here, with line and field, and with it
//! the whole: what is served is never half of what was written.
//!
//! # Rules
//! 1. The order of files, documents and list items means nothing. Of two equal matches the older Ingress's wins
//!    (`creationTimestamp`; one without counts as younger), then the first by `namespace/name`. The same object twice is an
//!    error. A namespace that is not given is `default`.
//! 2. An Ingress without a class is served, and so is one of any IngressClass that is there, whatever its controller; one that
//!    names another class is not. The annotation `kubernetes.io/ingress.class` wins over `spec.ingressClassName`, as the
//!    API asks. The default-class annotation changes nothing, as Ingresses without a class are served anyway.
//! 3. Path types: `Exact`; `Prefix` by element; `ImplementationSpecific` is `Prefix`, never a regular expression, and without a
//!    path it is all paths. A wildcard host stands for exactly one label. A rule without host is for any host.
//! 4. A rule without `http` sends all paths of its host to the Ingress's `defaultBackend`. Apart from that a `defaultBackend`
//!    gets what no rule of any Ingress fits.
//! 5. A backend is a port of a Service, by name or number. Its endpoints come from EndpointSlices alone, joined by the label
//!    `kubernetes.io/service-name`: the *name* of the Service's port (none is a name too) selects the slice's, whose number is
//!    dialled. `selector`, `clusterIP` and `targetPort` are not used.
//! 6. Endpoints are used if `ready` is true or not given. If there is none, those that are terminating and still serving are
//!    (KEP-1669; `serving` not given means yes, as kube-proxy has it). If there is none either, requests are answered 503.
//!    Of several addresses of one endpoint the first is used; slices of type FQDN are left out.
//! 7. A backend whose Service or port is missing, or that is no Service, is answered 500; the rest is served.
//! 8. An `ExternalName` Service is looked up by DNS, at the port that the Service declares, or else that the backend names.
//! 9. `appProtocol`: `kubernetes.io/h2c` and `grpc` are HTTP/2 without TLS; `kubernetes.io/ws` HTTP/1.1; `https` and
//!    `kubernetes.io/wss` TLS, verified against the system's authorities for the name `SERVICE.NAMESPACE.svc` (or the external
//!    name).
//! 10. `spec.tls` shows the certificate of a Secret of type `kubernetes.io/tls` for its `hosts`; without hosts for the names in
//!     the certificate. A Secret that is missing or of another type gives no certificate and a warning; one that does not hold
//!     a certificate and a key is an error.
//!
//! # Gateway API
//! 1. An HTTPRoute or GRPCRoute is served at the listeners that it attaches to; one that attaches to none is left out, with a
//!    warning. Where both kinds have the same host of one listener, the older route has it, then the first by name.
//! 2. A backend is a port of a Service by number, in another namespace with a ReferenceGrant. What cannot be used is answered
//!    500 for its share of the weights; a filter that is not known or cannot be done fails its rule, or its backend. A mirror
//!    whose backend cannot be used is left out, with a warning, as the API has it.
//! 3. `appProtocol` says `kubernetes.io/h2c` (HTTP/2) and `kubernetes.io/ws` (HTTP/1.1); backends of GRPCRoutes are HTTP/2
//!    always. TLS comes from BackendTLSPolicies alone, which Ingresses obey, too; one without a valid authority makes its
//!    Service unusable.
//! 4. The precedence of regular expressions, which the API leaves open: behind exact paths, before prefixes.
//! 5. `retry` holds for all methods that its rule matches. Without `backendRequest`, `request` alone limits an attempt.
//! 6. A route whose parent is a Service governs the calls to it. From another namespace it is for the callers of that
//!    namespace; `hostnames` mean nothing there, and no grant is needed (GEP-1294). Every Service can be called, at its TCP
//!    ports: without a route a call goes to its endpoints, as it would to those of a backend. A port named `grpc` or `grpc-…`
//!    without `appProtocol` is called over HTTP/2.
//! 7. How many rules, matches and the like a route may have is not limited here, as it is in a cluster.
//!
//! # Gateways
//! 1. Every GatewayClass is ours, whatever its controller. A Gateway whose class is not there is not served, with a warning;
//!    nor are its ListenerSets.
//! 2. Listeners speak HTTP, HTTPS, TLS or TCP, and bind `spec.addresses` of type `IPAddress`. Other types are left out with a
//!    warning; without an address of that type the program chooses. One that cannot be bound (it is not this machine's, or
//!    is taken) is left out by itself, with a warning in the log, and what is at other addresses is served
//!    ([`Listener::optional`](crate::config::Listener::optional)).
//! 3. A ListenerSet adds listeners to a Gateway whose `allowedListeners` admits its namespace. Certificates are referred to in
//!    its own name, so that grants to the Gateway are not its.
//! 4. HTTP, TLS (with HTTPS) and TCP do not share a port; of HTTP and TLS a port has each host once, of TCP one listener. What
//!    cannot be told apart is not served, with a warning: the Gateway's own listeners come first, then ListenerSets, the oldest
//!    first, then by `namespace/name`; of one object's own listeners all that collide go, as the API has it. An older Gateway
//!    keeps its place at an address, and the younger is served at its others.
//! 5. A listener without any certificate that can be used, or whose client validation has no authority that can be, closes
//!    its connections; its siblings serve. What was asked for is a Secret of type `kubernetes.io/tls`, and `ca.crt` of a
//!    ConfigMap or a Secret, in another namespace with a ReferenceGrant.
//! 6. `spec.tls.frontend` is about HTTPS: that of the port, else the default. A listener's own `frontendValidation` goes before.
//! 7. A route attaches to the listeners of the Gateway or ListenerSet that it names, by `sectionName` and `port` where they
//!    are given, that take its kind, admit its namespace (by default the listener's own) and have one of its hosts. What it
//!    does not attach to is a warning that says which of those it was. A namespace without an object has one label,
//!    `kubernetes.io/metadata.name`.
//! 8. A TLSRoute attaches to TLS listeners, passed through or ended here, a TCPRoute to TCP listeners. Only their first rule is
//!    used. Connections for a backend that cannot be used are closed, for its share of the weights.
//!
//! # Names
//! A listener is called `namespace/gateway/listener`, one of a ListenerSet `listenerset/namespace/set/listener` (of an
//! XListenerSet, `xlistenerset/…`).
//!
//! A route is called `namespace/ingress`; an Ingress for several hosts has one route for each, all of that name. An upstream and
//! the backends that refer to it are called `namespace/service:port`, with the number of the Service's port; a backend
//! that cannot be resolved has the name it would have, so that a service in this process can stand in for it. A port that is
//! spoken to in several ways has an upstream for each: `+grpc` behind its name is HTTP/2 for GRPCRoutes, `+plaintext` is without
//! the TLS that others find there, and `@namespace/gateway` is with the client certificate of that Gateway.
//! A GRPCRoute is called `namespace/name (GRPCRoute)`.
//!
//! # Example
//! ```
//! use portcullis::source;
//!
//! let loaded = source::parse("shop.yaml", "
//! apiVersion: networking.k8s.io/v1
//! kind: Ingress
//! metadata: {name: shop}
//! spec:
//!   rules:
//!   - host: shop.example.com
//!     http:
//!       paths:
//!       - {path: /cart, pathType: Prefix, backend: {service: {name: cart, port: {name: http}}}}
//! ---
//! apiVersion: v1
//! kind: Service
//! metadata: {name: cart}
//! spec:
//!   ports: [{name: http, port: 80}]
//! ---
//! apiVersion: discovery.k8s.io/v1
//! kind: EndpointSlice
//! metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
//! addressType: IPv4
//! ports: [{name: http, port: 8080}]
//! endpoints: [{addresses: [10.0.0.1]}]
//! ")?;
//! assert_eq!(loaded.config.routes[0].name, "default/shop");
//! assert_eq!(loaded.config.upstreams[0].name, "default/cart:80");
//! # Ok::<_, source::LoadError>(())
//! ```

mod backends;
mod certificates;
mod gateway_api;
mod ingress;
mod object;
mod routes;
mod secret;
mod service;
mod time;

#[cfg(test)]
mod tests;

use self::{
    backends::Backends,
    gateway_api::{GatewayApi, Grants},
    object::Objects,
};
use super::{Document, Report};
use crate::config::{Config, Conflicts};

/// Makes the configuration that these documents describe; what is wrong with them goes to `report`.
pub(super) fn config(documents: Vec<Document>, report: &mut Report) -> Config {
    let mut objects = Objects::default();
    for document in documents {
        objects.add(document, report);
    }
    let ingresses = routes::served(&objects, &mut report.warnings);
    let grants = Grants::new(&objects);
    let (api, listeners) = GatewayApi::new(&objects, &grants, &mut report.warnings);
    let mut backends = Backends::new(&objects);
    let mut routes = routes::routes(&ingresses, &mut backends);
    routes.append(&mut api.routes(&mut backends));
    let services = api.services(&routes, &mut backends);
    let streams = api.streams(&mut backends);
    let (upstreams, mut warnings) = backends.finish();
    report.warnings.append(&mut warnings);
    let certificates = certificates::certificates(&objects, &ingresses, report);
    Config {
        listeners,
        routes,
        streams,
        services,
        upstreams,
        certificates,
        forwarded: None,
        conflicts: Conflicts::Oldest,
    }
}
