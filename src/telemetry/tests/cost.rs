//! What a record costs: some 300 ns with metrics, three readings of the clock and the router's notes included.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use http_body::Body as HttpBody;

use super::*;

/// `cargo test --release --lib telemetry::tests::cost -- --ignored --nocapture`
#[test]
#[ignore = "prints times; by hand, in release"]
fn cost_per_request_with_metrics() {
    const REQUESTS: i64 = 1_000_000;
    let (route, upstream): (Arc<str>, Arc<str>) = ("default/shop".into(), "default/cart".into());
    let inner = service_fn(move |request: Request<Body>| {
        if let Some(exchange) = Exchange::of(request.extensions()) {
            exchange.update(|record| {
                record.route = Some(Arc::clone(&route));
                record.upstream = Some(Arc::clone(&upstream));
                record.attempts = 1;
            });
        }
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::from("hello"))))
    });
    let metrics = TelemetryLayer::new().recorder(metrics::Metrics::new());
    let logged = metrics.clone().recorder(AccessLog::new());
    let mut cx = Context::from_waker(Waker::noop());
    let mut run = |layer: TelemetryLayer| {
        let mut service = layer.around(inner.clone());
        let began = on_cpu();
        for _ in 0..REQUESTS {
            let mut request = get();
            // The server puts something there, too: the map's allocation is not this layer's.
            request.extensions_mut().insert(1_u8);
            let mut answer = std::pin::pin!(service.call(request));
            let Poll::Ready(Ok(response)) = answer.as_mut().poll(&mut cx) else { panic!("not ready") };
            let mut body = response.into_body();
            assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        }
        (on_cpu() - began) / REQUESTS
    };
    for _ in 0..3 {
        let bare = run(TelemetryLayer::new());
        let (metrics, logged) = (run(metrics.clone()), run(logged.clone()));
        println!(
            "bare {bare} ns, with metrics +{} ns, and a disabled access log +{} ns",
            metrics - bare,
            logged - bare
        );
    }
}

/// Nanoseconds that this thread has run, which other load on the machine does not lengthen much; Linux only.
fn on_cpu() -> i64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}
