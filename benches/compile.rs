//! What a reload of ten thousand HTTPRoutes takes, stage by stage.
//!
//! `cargo bench --bench compile`
//!
//! 1. `YAML to trees`: parsing, with the place of every value; the routes are of a kind that is not known, and each is
//!    a warning.
//! 2. `and to a configuration`: the same, with the objects decoded, checked and made into routes and upstreams.
//! 3. `the table of routes`: what the gateway's compiler spends on matching alone.
//! 4. `a gateway`: the configuration compiled for the first time.
//! 5. `applied to a gateway`: compiled beside the one that is served, swapped in, and what was served before freed.

use std::fmt::Write;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use portcullis::{
    gateway::Gateway,
    route::RouteTable,
    source::{self, Loaded},
};

const ROUTES: usize = 10_000;

/// One Gateway; each route with a host of its own, three rules and one Service of a hundred.
fn manifests() -> String {
    let mut text = String::from(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: ours}
spec: {controllerName: example.com/ours}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: ours
  listeners: [{name: http, port: 80, protocol: HTTP}]
",
    );
    for number in 0..100 {
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{number}}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{number}, labels: {{kubernetes.io/service-name: s{number}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [10.0.0.1]}}]
"
        );
    }
    for number in 0..ROUTES {
        let service = number % 100;
        let _ = write!(
            text,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: route-{number}
spec:
  parentRefs:
  - name: web
  hostnames:
  - host-{number}.example.com
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: /cart
    backendRefs:
    - name: s{service}
      port: 80
  - matches:
    - path:
        type: Exact
        value: /status
      method: GET
    backendRefs:
    - name: s{service}
      port: 80
  - matches:
    - headers:
      - name: x-canary
        value: always
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set:
        - name: x-variant
          value: canary
    backendRefs:
    - name: s{service}
      port: 80
"
        );
    }
    text
}

fn load(text: &str) -> Loaded {
    source::parse("bench.yaml", text).expect("the manifests are right")
}

fn stages(c: &mut Criterion) {
    let text = manifests();
    let unknown = text.replace("kind: HTTPRoute", "kind: Unknown");
    let config = load(&text).config;
    assert_eq!(config.routes.len(), ROUTES);
    let gateway = Gateway::builder(config.clone()).build().expect("the configuration is right");
    let mut group = c.benchmark_group("10000 HTTPRoutes");
    group.sample_size(10);
    group.bench_function("YAML to trees", |b| b.iter_with_large_drop(|| load(&unknown)));
    group.bench_function("and to a configuration", |b| b.iter_with_large_drop(|| load(&text)));
    group.bench_function("the table of routes", |b| {
        b.iter_with_large_drop(|| RouteTable::compile(&config.routes, config.conflicts, |_, rule| rule));
    });
    group.bench_function("a gateway", |b| {
        b.iter_batched(|| config.clone(), |config| Gateway::builder(config).build(), BatchSize::PerIteration);
    });
    group.bench_function("applied to a gateway", |b| {
        b.iter_batched(|| config.clone(), |config| gateway.apply(config), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
