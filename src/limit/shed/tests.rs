use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use http::{Request, Response, StatusCode};
use tokio::time::{Duration, Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

use super::*;
use crate::{Body, Outcome, timeout::Deadline};

const MS: Duration = Duration::from_millis(1);

fn request(priority: Option<Priority>) -> Request<u32> {
    let mut request = Request::new(0);
    if let Some(priority) = priority {
        request.extensions_mut().insert(priority);
    }
    request
}

/// Takes the milliseconds that the request says.
fn sleeper() -> impl Service<
    Request<u32>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>>,
> + Clone {
    service_fn(|request: Request<u32>| async move {
        sleep(MS * *request.body()).await;
        Ok(Response::new(Body::from("hello")))
    })
}

fn outcome<B>(response: &Response<B>) -> Option<Outcome> {
    response.extensions().get().copied()
}

#[tokio::test(start_paused = true)]
async fn classes_are_let_in_up_to_their_shares_lowest_shed_first() {
    let layer = ShedLayer::new(10);
    let handle = layer.handle();
    let service = layer.layer(sleeper());
    let mut held = Vec::new();
    for (priority, up_to) in [
        (Some(Priority::Sheddable), 6),
        (Some(Priority::SheddablePlus), 8),
        (None, 10),
        (Some(Priority::CriticalPlus), 10),
    ] {
        loop {
            let response = service.clone().oneshot(request(priority)).await.unwrap();
            if outcome(&response) == Some(Outcome::Overloaded) {
                break;
            }
            held.push(response);
        }
        assert_eq!((held.len(), handle.in_flight()), (up_to, up_to), "{priority:?}");
    }
    held.truncate(5);
    let response = service.clone().oneshot(request(Some(Priority::Sheddable))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    drop((held, response));
    assert_eq!(handle.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_extension_comes_before_the_classifier() {
    let layer = ShedLayer::new(10).share(Priority::Sheddable, 0.0).classify(|_| Priority::Sheddable);
    let service = layer.layer(sleeper());
    let response = service.clone().oneshot(request(None)).await.unwrap();
    assert_eq!(outcome(&response), Some(Outcome::Overloaded));
    let response = service.oneshot(request(Some(Priority::SheddablePlus))).await.unwrap();
    assert_eq!(outcome(&response), None);
}

#[tokio::test(start_paused = true)]
async fn the_applications_own_load_sheds_by_the_same_shares() {
    let percent = Arc::new(AtomicU32::new(0));
    let load = Arc::clone(&percent);
    let layer = ShedLayer::new(usize::MAX).load(move || f64::from(load.load(Relaxed)) / 100.0);
    let service = layer.layer(sleeper());
    for (now, [sheddable, critical]) in [(59, [true, true]), (60, [false, true]), (94, [false, true]), (95, [false; 2])]
    {
        percent.store(now, Relaxed);
        for (priority, passes) in [(Priority::Sheddable, sheddable), (Priority::Critical, critical)] {
            let response = service.clone().oneshot(request(Some(priority))).await.unwrap();
            assert_eq!(outcome(&response).is_none(), passes, "{priority:?} at {now} %");
        }
    }
}

fn with_deadline(takes: u32, left: Duration) -> Request<u32> {
    let mut request = Request::new(takes);
    request.extensions_mut().insert(Deadline::after(Instant::now(), left));
    request
}

fn by_deadline() -> ShedLayer {
    ShedLayer::new(100)
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_in_time_is_not_begun_and_the_service_is_tried_again() {
    let service = by_deadline().layer(sleeper());
    let call = async |takes, left| outcome(&service.clone().oneshot(with_deadline(takes, left)).await.unwrap());
    // Passed already.
    assert_eq!(call(0, Duration::ZERO).await, Some(Outcome::DeadlineExceeded));
    // Nothing is known yet.
    assert_eq!(call(200, MS).await, None);
    assert_eq!(call(200, MS * 199).await, Some(Outcome::DeadlineExceeded));
    assert_eq!(call(200, MS * 200).await, None);
    // No deadline, no refusal.
    assert_eq!(outcome(&service.clone().oneshot(Request::new(200)).await.unwrap()), None);
    // Fast again, and nobody would know, were the estimate not forgotten.
    assert_eq!(call(1, MS * 90).await, Some(Outcome::DeadlineExceeded));
    advance(MS * 1200).await;
    assert_eq!(call(1, MS * 90).await, None);
    for _ in 0..16 {
        assert_eq!(call(1, MS * 90).await, None);
    }
    assert_eq!(call(1, MS * 30).await, None);
}

#[tokio::test(start_paused = true)]
async fn time_outs_teach_too_and_early_cancellations_do_not() {
    let service = by_deadline().layer(sleeper());
    let left = Duration::from_secs(3600);
    let cancel = async |after: Duration| {
        let mut call = task::spawn(service.clone().oneshot(with_deadline(1_000_000, left)));
        assert_pending!(call.poll());
        advance(after).await;
        drop(call);
    };
    cancel(MS * 500).await;
    let response = service.clone().oneshot(with_deadline(0, MS * 499)).await.unwrap();
    assert_eq!(outcome(&response), Some(Outcome::DeadlineExceeded));
    for _ in 0..20 {
        cancel(MS).await;
    }
    let response = service.clone().oneshot(with_deadline(0, MS * 480)).await.unwrap();
    assert_eq!(outcome(&response), Some(Outcome::DeadlineExceeded));
}

#[tokio::test]
async fn the_inner_service_is_asked_whether_it_is_ready_and_grpc_is_refused_as_such() {
    let (mock, mut handle) = mock::pair::<Request<u32>, Response<Body>>();
    let layer = by_deadline();
    let permits = layer.handle();
    let mut service = task::spawn(layer.layer(mock));
    handle.allow(0);
    assert_pending!(service.enter(|cx, mut service| service.poll_ready(cx)));
    handle.allow(1);
    assert_ready!(service.enter(|cx, mut service| service.poll_ready(cx))).unwrap();
    // The mock panics when it is called unready: the refusal leaves it ready for the next.
    let mut late = with_deadline(0, Duration::ZERO);
    late.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let mut refused = task::spawn(service.enter(|_, mut service| service.call(late)));
    assert_eq!(assert_ready!(refused.poll()).unwrap().headers()["grpc-status"], "4");
    let mut call = task::spawn(service.enter(|_, mut service| service.call(Request::new(0))));
    assert_pending!(call.poll());
    handle.next_request().await.unwrap().1.send_error("broken");
    assert_eq!(assert_ready!(call.poll()).unwrap_err().to_string(), "broken");
    assert_eq!(permits.in_flight(), 0);
}
