//! What it takes to read ten thousand HTTPRoutes, and to compile what they become.
//!
//! `cargo bench --bench compile`

use std::{fmt::Write, hint::black_box};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::{
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

fn compile(c: &mut Criterion) {
    let text = manifests();
    let config = load(&text).config;
    assert_eq!(config.routes.len(), ROUTES);
    let mut group = c.benchmark_group("10000 HTTPRoutes");
    group.sample_size(10);
    group.bench_function("read", |b| b.iter(|| black_box(load(&text))));
    group.bench_function("compile the table", |b| {
        b.iter(|| RouteTable::compile(&config.routes, config.conflicts, |_, rule| rule).expect("the routes are right"));
    });
    group.finish();
}

criterion_group!(benches, compile);
criterion_main!(benches);
