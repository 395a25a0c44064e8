//! Endpoints that are left alone.

use super::*;
use crate::{balance::Pick, breaker::State, classify::Class};

#[tokio::test]
async fn an_open_breaker_keeps_requests_from_all_endpoints() {
    let (broken, saw) = resetting().await;
    let config = config::Upstream {
        circuit_breaker: Some(config::CircuitBreaker { consecutive_failures: 3, ..Default::default() }),
        ..upstream([broken])
    };
    let upstream = Upstream::new(config).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&upstream, Method::POST, "").await.unwrap_err().outcome(), Outcome::UpstreamReset);
    }
    let before = saw.requests();
    let error = ask(&upstream, Method::GET, "").await.unwrap_err();
    assert_eq!((error.outcome(), error.sent()), (Outcome::BreakerOpen, Sent::Nothing));
    assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(saw.requests(), before);
    assert_eq!(upstream.circuit().unwrap().stats().refused, 1);

    // What is answered is counted to the end of its body.
    let (alive, _) = echo().await;
    upstream.set_endpoints(&[alive.into()]);
    let circuit = upstream.circuit().unwrap();
    let probed = async {
        loop {
            match ask(&upstream, Method::POST, "body").await {
                Ok(answer) => break answer,
                Err(error) => tokio::time::sleep(error.retry_after().unwrap()).await,
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(20), probed).await.unwrap(), "body");
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test]
async fn an_endpoints_own_breaker_keeps_requests_from_it_alone() {
    let ((broken, saw), (sound, _)) = (resetting().await, echo().await);
    let config = config::Upstream {
        endpoint_circuit_breaker: Some(config::CircuitBreaker {
            consecutive_failures: 2,
            open: Duration::from_secs(3600),
            max_open: Duration::from_secs(3600),
            ..Default::default()
        }),
        ..upstream([broken, sound])
    };
    let upstream = Upstream::new(config).unwrap();
    let mut failed = 0;
    for _ in 0..20 {
        failed += u32::from(ask(&upstream, Method::POST, "").await.is_err());
    }
    assert_eq!((failed, saw.requests()), (2, 2));
    #[cfg(feature = "metrics")]
    {
        let stats = upstream.stats();
        assert_eq!((stats.endpoint_breakers_open, stats.endpoint_breakers_opened), (1, 1));
        assert_eq!((stats.endpoints_available, stats.breaker), (1, None));
    }

    upstream.set_endpoints(&[broken.into()]);
    let error = ask(&upstream, Method::GET, "").await.unwrap_err();
    assert_eq!((error.outcome(), error.sent()), (Outcome::BreakerOpen, Sent::Nothing));
    assert!(error.retry_after().is_some_and(|wait| wait > Duration::from_secs(3000)));
    let error = upstream.connect_stream(&peer()).await.unwrap_err();
    assert_eq!((error.outcome(), saw.requests()), (Outcome::BreakerOpen, 2));
}

#[tokio::test]
async fn an_endpoints_breaker_closes_by_a_live_probe_and_streams_end_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let breaker = config::CircuitBreaker { consecutive_failures: 1, ..Default::default() };
    let config = config::Upstream { endpoint_circuit_breaker: Some(breaker), ..upstream([address]) };
    let upstream = Upstream::new(config).unwrap();
    assert_eq!(upstream.connect_stream(&peer()).await.unwrap_err().outcome(), Outcome::ConnectFailed);
    assert_eq!(upstream.connect_stream(&peer()).await.unwrap_err().outcome(), Outcome::BreakerOpen);

    let _listener = TcpListener::bind(address).await.unwrap();
    let connected = async {
        loop {
            match upstream.connect_stream(&peer()).await {
                Ok(stream) => break stream,
                Err(error) => tokio::time::sleep(error.retry_after().unwrap()).await,
            }
        }
    };
    let stream = timeout(Duration::from_secs(20), connected).await.unwrap();
    // The stream is still open, and no longer a probe.
    let endpoints = upstream.endpoints();
    let circuit = endpoints.iter().next().unwrap().0.circuit().unwrap();
    assert_eq!(circuit.state(), State::Closed);
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn the_ejection_cap_holds_at_once_when_endpoints_leave() {
    let hour = Duration::from_secs(3600);
    let outlier_detection = Some(config::OutlierDetection {
        interval: hour,
        base_ejection: hour,
        max_ejection_percent: 50,
        ..Default::default()
    });
    let addresses: Vec<_> = (1..=4).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let upstream = Upstream::new(config::Upstream { outlier_detection, ..upstream(addresses) }).unwrap();
    let ejected = || {
        let endpoints = upstream.endpoints();
        endpoints.iter().filter(|(endpoint, _)| endpoint.is_ejected()).map(|(e, _)| e.address()).collect::<Vec<_>>()
    };
    let began = Instant::now();
    for _ in 0..200 {
        let endpoints = upstream.endpoints();
        let mut attempt = endpoints.pick(&mut Pick::new(began, &mut fastrand::Rng::new())).unwrap();
        attempt.note(Class::ServerError);
        attempt.succeed(began);
        tokio::task::yield_now().await;
    }
    let out = ejected();
    assert_eq!(out.len(), 2);
    upstream.set_endpoints(&out.iter().copied().map(Into::into).collect::<Vec<_>>());
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!((ejected().len(), Instant::now()), (1, began));
}
