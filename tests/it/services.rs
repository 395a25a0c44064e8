//! Calls of this process to the Services of manifests, over real sockets.

use http::{Method, Request};
use http_body_util::BodyExt;
use portcullis::{
    Body,
    gateway::{Gateway, MeshClient},
    source::{Source, reload},
};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::support::{
    PATIENCE, RELOAD, Raw, eventually,
    gateway_api::route,
    ingress::folder,
    manifest::{backend, service},
    soon,
};

/// The status of a call, once its answer is read.
async fn call(client: MeshClient, method: Method, uri: &str) -> u16 {
    let body = if method == Method::GET { Body::empty() } else { Body::from("2 apples") };
    let request = Request::builder().method(method).uri(uri).body(body).unwrap();
    let response = soon("an answer", client.oneshot(request)).await.unwrap();
    let status = response.status().as_u16();
    soon("its body", response.into_body().collect()).await.unwrap();
    status
}

/// A route of this Service, that marks what goes through it.
fn marking(name: &str) -> String {
    let rule = format!(
        "{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-routed, value: 'yes'}}]}}}}], \
         backendRefs: [{{name: {name}, port: 80}}]}}"
    );
    route("HTTPRoute", name, &format!("{{group: '', kind: Service, name: {name}}}"), "", &[&rule])
}

fn is_marked(request: &str) -> bool {
    request.to_ascii_lowercase().contains("x-routed: yes")
}

#[tokio::test]
async fn services_are_called_with_a_route_and_without_and_keep_their_connections_when_one_comes() {
    let (one, other, routed) = (Raw::ok().await, Raw::ok().await, Raw::ok().await);
    let services = backend("cart", &[one.addr, other.addr])
        + &backend("web", &[routed.addr])
        + &service("idle", &[("http", 80)])
        + &marking("web");
    let dir = folder(&[("services.yaml", &services)]);
    let source = Source::new([dir.path()]);
    let loaded = source.load().unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let watcher = source.watch(&loaded.files);
    let changed = watcher.poke();
    let gateway = Gateway::builder(loaded.config).build().unwrap();
    let client = gateway.client("default");
    let get = |uri: &'static str| call(client.clone(), Method::GET, uri);
    let applied = gateway.clone();
    tokio::spawn(reload(watcher, move |loaded| applied.apply(loaded.config)));

    assert_eq!(get("http://idle/").await, 503);
    assert_eq!(get("http://gone/").await, 404);
    assert_eq!(get("http://web.default/").await, 200);
    assert!(is_marked(&routed.request()));

    let both = || [&one, &other].map(|raw| raw.requests().len());
    eventually("both endpoints are asked", PATIENCE, async || {
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            calls.spawn(call(client.clone(), Method::GET, "http://cart.default.svc.cluster.local/"));
        }
        assert_eq!(calls.join_all().await, [200; 8]);
        let asked = both();
        if asked.contains(&0) { Err(format!("{asked:?}")) } else { Ok(()) }
    })
    .await;
    assert!(![&one, &other].iter().any(|raw| is_marked(&raw.received())), "no route is for it yet");

    // A route comes and goes while calls are made.
    let connections = || [&one, &other].map(Raw::connections);
    let before = connections();
    for (manifest, expected) in [(marking("cart"), true), (String::new(), false)] {
        std::fs::write(dir.path().join("route.yaml"), manifest).unwrap();
        changed.poke();
        eventually("the reload", RELOAD, async || {
            let seen = both();
            assert_eq!(get("http://cart/").await, 200);
            let latest = [&one, &other].into_iter().zip(seen).find(|(raw, seen)| raw.requests().len() > *seen);
            let marked = latest.is_some_and(|(raw, _)| raw.requests().last().is_some_and(|last| is_marked(last)));
            if marked == expected { Ok(()) } else { Err(format!("{marked}")) }
        })
        .await;
        assert_eq!(connections(), before, "over the connections that were there");
    }

    // An endpoint dies: a GET that it loses is sent again, and what has not been sent goes to the other.
    drop(other);
    for _ in 0..20 {
        assert_eq!(get("http://cart/").await, 200);
    }
    for _ in 0..20 {
        assert_eq!(call(client.clone(), Method::POST, "http://cart/").await, 200);
    }
}
