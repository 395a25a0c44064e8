//! What the metrics have of connections that are not HTTP.

use super::*;
use crate::{
    config::{Listener, ListenerProtocol, StreamRoute},
    connection::ConnectionInfo,
    server::{Arrival, Decide, Decision},
};

fn route(name: &str, listener: &str, backends: impl IntoIterator<Item = BackendRef>) -> StreamRoute {
    StreamRoute {
        name: name.into(),
        listeners: vec![listener.into()],
        backends: backends.into_iter().collect(),
        ..StreamRoute::default()
    }
}

/// Each route is at the port of its place, from 1.
fn world(routes: impl IntoIterator<Item = StreamRoute>) -> Config {
    let streams: Vec<_> = routes.into_iter().collect();
    let listeners = streams.iter().zip(1..).map(|(route, port)| Listener {
        addresses: vec![[127, 0, 0, 1].into()],
        protocol: ListenerProtocol::Tcp,
        ..Listener::http(route.listeners[0].clone(), port)
    });
    Config {
        listeners: listeners.collect(),
        streams,
        upstreams: vec![to("up", [([127, 0, 0, 1], 9).into()]), to("empty", [])],
        ..Config::default()
    }
}

fn admission(gateway: &Gateway) -> Admission {
    let shared = &gateway.shared;
    Admission { snapshot: shared.snapshot.clone(), idle: Duration::ZERO, telemetry: shared.telemetry.clone() }
}

fn connect(gateway: &Gateway, port: u16) -> Decision {
    let connection = ConnectionInfo::new(([192, 0, 2, 7], 4711).into(), ([127, 0, 0, 1], port).into());
    admission(gateway).decide(&Arrival { connection: &connection, hello: None, own_tls: false })
}

fn assert_has(metrics: &Metrics, lines: &[&str]) {
    let text = metrics.encode();
    for line in lines {
        assert!(text.lines().any(|other| other == *line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn a_stream_that_comes_to_nothing_is_counted_with_the_reason() {
    let metrics = Metrics::new();
    let routes = [
        route("deserted", "a", [BackendRef::new("empty")]),
        route("broken", "b", [BackendRef::invalid("gone", "there is no Service `gone`")]),
        route("weightless", "c", [BackendRef { weight: 0, ..BackendRef::new("up") }]),
    ];
    let mut config = world(routes);
    let nobody = Listener { port: 4, name: "d".into(), ..config.listeners[0].clone() };
    config.listeners.push(nobody);
    let gateway = Gateway::builder(config).metrics(&metrics).build().unwrap();
    for port in 1..=4 {
        let decision = connect(&gateway, port);
        assert!(matches!(decision, Decision::Close(_)), "{port}: {decision:?}");
    }
    assert_has(
        &metrics,
        &[
            r#"portcullis_streams_total{route="deserted",upstream="empty",outcome="no_endpoint"} 1"#,
            r#"portcullis_streams_total{route="broken",upstream="gone",outcome="invalid_backend"} 1"#,
            r#"portcullis_streams_total{route="weightless",upstream="",outcome="invalid_backend"} 1"#,
            r#"portcullis_streams_total{route="",upstream="",outcome="no_route"} 1"#,
            r#"portcullis_streams_opened_total{route="deserted",upstream="empty"} 1"#,
            r#"portcullis_streams_open{route="deserted",upstream="empty"} 0"#,
        ],
    );
}

#[tokio::test]
async fn streams_outlive_a_reload_and_then_are_forgotten_with_their_route() {
    let metrics = Metrics::new();
    let routes = || [route("kept", "a", [BackendRef::new("up")]), route("gone", "b", [BackendRef::new("up")])];
    let gateway = Gateway::builder(world(routes())).metrics(&metrics).build().unwrap();
    drop(connect(&gateway, 1));
    let open = connect(&gateway, 2);
    assert!(matches!(open, Decision::Stream(_)), "{open:?}");
    let fewer = || world(routes().into_iter().take(1));
    gateway.apply(fewer()).unwrap();
    assert_has(
        &metrics,
        &[
            r#"portcullis_streams_total{route="kept",upstream="up",outcome="cancelled"} 1"#,
            r#"portcullis_streams_open{route="gone",upstream="up"} 1"#,
        ],
    );
    drop(open);
    assert_has(
        &metrics,
        &[
            r#"portcullis_streams_total{route="gone",upstream="up",outcome="cancelled"} 1"#,
            r#"portcullis_streams_open{route="gone",upstream="up"} 0"#,
        ],
    );
    gateway.apply(fewer()).unwrap();
    let text = metrics.encode();
    assert!(text.contains(r#"route="kept""#) && !text.contains(r#"route="gone""#), "{text}");
}
