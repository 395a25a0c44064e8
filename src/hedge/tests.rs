use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{
    Body, BoxError, Error, Outcome,
    balance::Tried,
    retry::{Budget, RetryLayer},
    timeout::Deadline,
};

const MS: Duration = Duration::from_millis(1);

/// Attempts that take these times and answer with these statuses (0: an error), each with its number as `etag`.
#[derive(Clone, Default)]
struct Backend {
    plan: Arc<Mutex<VecDeque<(Duration, u16)>>>,
    seen: Arc<Mutex<Vec<Instant>>>,
    alive: Arc<()>,
}

impl Backend {
    fn new(plan: impl IntoIterator<Item = (u32, u16)>) -> Self {
        let plan = plan.into_iter().map(|(millis, status)| (MS * millis, status)).collect();
        Self { plan: Arc::new(Mutex::new(plan)), ..Self::default() }
    }

    fn attempts(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn alive(&self) -> usize {
        Arc::strong_count(&self.alive) - 1
    }

    async fn serve(
        plan: Arc<Mutex<VecDeque<(Duration, u16)>>>,
        seen: Arc<Mutex<Vec<Instant>>>,
        held: Arc<()>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Error> {
        let _held = held;
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(Instant::now());
            seen.len()
        };
        let (time, status) = plan.lock().unwrap().pop_front().unwrap_or((MS, 200));
        if let Some(tried) = Tried::of(request.extensions()) {
            tried.add(([127, 0, 0, 1], u16::try_from(tried.addresses().len()).unwrap()).into());
        }
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        sleep(time).await;
        match status {
            0 => Err(Error::new(Outcome::UpstreamReset)),
            status => {
                let status = StatusCode::from_u16(status).unwrap();
                Ok(Response::builder().status(status).header("etag", number).body(Body::empty()).unwrap())
            }
        }
    }

    fn service(
        &self,
        layer: &HedgeLayer,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Error, Future: Send> + Clone + Send + 'static + use<>
    {
        // The count of those alive is that of attempts: the service itself holds a weak one.
        let (plan, seen, alive) = (self.plan.clone(), self.seen.clone(), Arc::downgrade(&self.alive));
        layer.layer(service_fn(move |request| {
            Self::serve(plan.clone(), seen.clone(), alive.upgrade().unwrap(), request)
        }))
    }
}

fn get() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

fn number(response: &Response<Body>) -> &str {
    response.headers()["etag"].to_str().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_second_goes_out_when_the_first_is_late_and_the_loser_is_cancelled() {
    let began = Instant::now();
    let backend = Backend::new([(500, 200), (20, 200)]);
    let response = backend.service(&HedgeLayer::after(MS * 100)).oneshot(get()).await.unwrap();
    assert_eq!((number(&response), began.elapsed()), ("2", MS * 120));
    assert_eq!((backend.attempts(), backend.alive()), (2, 0));
    assert_eq!(backend.seen.lock().unwrap()[1] - began, MS * 100);

    let backend = Backend::new([(110, 200), (20, 200)]);
    let response = backend.service(&HedgeLayer::after(MS * 100)).oneshot(get()).await.unwrap();
    assert_eq!((number(&response), backend.attempts(), backend.alive()), ("1", 2, 0));

    let backend = Backend::new([(100, 200)]);
    backend.service(&HedgeLayer::after(MS * 100)).oneshot(get()).await.unwrap();
    assert_eq!(backend.attempts(), 1, "an answer in the last instant is in time");
}

#[tokio::test(start_paused = true)]
async fn a_failure_waits_for_the_other_attempt() {
    for (plan, expected) in [
        (vec![(200, 0), (200, 200)], Ok("2")),
        (vec![(500, 200), (20, 503)], Ok("1")),
        (vec![(500, 0), (20, 503)], Ok("2")),
        (vec![(500, 503), (20, 0)], Ok("1")),
        (vec![(200, 0), (300, 0)], Err(Outcome::UpstreamReset)),
        // Nothing is late: this is for retries.
        (vec![(50, 503)], Ok("1")),
    ] {
        let backend = Backend::new(plan.clone());
        let result = backend.service(&HedgeLayer::after(MS * 100)).oneshot(get()).await;
        let result = result.as_ref().map(number).map_err(Error::outcome);
        assert_eq!(result, expected, "{plan:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_may_be_processed_twice_and_was_sent_whole_is_hedged() {
    let hedged = async |request: Request<Body>, layer: HedgeLayer| {
        let backend = Backend::new([(500, 200), (20, 200)]);
        backend.service(&layer).oneshot(request).await.unwrap();
        backend.attempts() == 2
    };
    let layer = HedgeLayer::after(MS * 100);
    let post = || Request::post("/").body(Body::from("x")).unwrap();
    assert!(!hedged(post(), layer.clone()).await);
    assert!(hedged(post(), layer.clone().repeatable_if(|parts| parts.uri.path() == "/")).await);
    let mut keyed = post();
    keyed.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    assert!(hedged(keyed, layer.clone()).await);
    assert!(hedged(Request::put("/").body(Body::from("x")).unwrap(), layer.clone()).await);
    assert!(!hedged(Request::put("/").body(Body::from("x".repeat(65 * 1024))).unwrap(), layer.clone()).await);
    let mut upgrade = get();
    upgrade.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    assert!(!hedged(upgrade, layer.clone()).await);
    let mut late = get();
    late.extensions_mut().insert(Deadline::after(Instant::now(), MS * 100));
    assert!(!hedged(late, layer).await);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_still_sent_is_not_hedged() {
    let backend = Backend::new([(500, 200)]);
    let stream = StreamBody::new(futures_util::stream::once(async {
        sleep(MS * 150).await;
        Ok::<_, BoxError>(Frame::data("late".into()))
    }));
    let put = Request::put("/").body(Body::new(stream)).unwrap();
    backend.service(&HedgeLayer::after(MS * 100)).oneshot(put).await.unwrap();
    assert_eq!(backend.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_percentile_is_learned() {
    let backend = Backend::new((0..100).map(|millis| (millis + 1, 200)).chain([(5000, 200), (10, 200)]));
    let service = backend.service(&HedgeLayer::percentile(0.95).budget(Budget::new(100, 0, MS * 10_000)));
    for _ in 0..100 {
        service.clone().oneshot(get()).await.unwrap();
    }
    assert_eq!(backend.attempts(), 100, "nothing is known yet");
    let began = Instant::now();
    service.clone().oneshot(get()).await.unwrap();
    let (attempts, took) = (backend.attempts(), began.elapsed());
    assert_eq!(attempts, 102);
    assert!(took >= MS * (95 + 10) && took <= MS * (107 + 11), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_that_of_retries_too() {
    let budget = Budget::new(20, 0, MS * 10_000);
    let backend = Backend::new((0..1000).map(|_| (60, 503)));
    let hedge = HedgeLayer::after(MS * 50).budget(budget.clone());
    let retry = RetryLayer::new().budget(budget).backoff(Duration::ZERO, Duration::ZERO);
    let service = retry.layer(backend.service(&hedge));
    for _ in 0..50 {
        service.clone().oneshot(get()).await.unwrap();
    }
    assert_eq!(backend.attempts(), 60, "a fifth of fifty, retries and hedges together");
}

#[tokio::test(start_paused = true)]
async fn both_attempts_know_what_was_tried() {
    let tried = Tried::default();
    let mut request = get();
    request.extensions_mut().insert(tried.clone());
    Backend::new([(500, 200)]).service(&HedgeLayer::after(MS * 100)).oneshot(request).await.unwrap();
    assert_eq!(tried.addresses().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_drops_both() {
    let backend = Backend::new([(500, 200), (500, 200)]);
    let mut call = task::spawn(backend.service(&HedgeLayer::after(MS * 100)).oneshot(get()));
    assert_pending!(call.poll());
    assert_eq!(backend.alive(), 1);
    advance(MS * 100).await;
    assert_pending!(call.poll());
    assert_eq!(backend.alive(), 2);
    drop(call);
    assert_eq!(backend.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_hedge_waits_for_readiness_while_the_first_goes_on() {
    let (mock, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let mut service = HedgeLayer::after(MS * 100).layer(mock);
    handle.allow(1);
    assert_ready_ok!(task::spawn(std::future::poll_fn(|cx| service.poll_ready(cx))).poll());
    let mut call = task::spawn(service.call(get()));
    assert_pending!(call.poll());
    let (_, first) = handle.next_request().await.unwrap();
    advance(MS * 100).await;
    assert_pending!(call.poll());
    assert_pending!(task::spawn(handle.next_request()).poll());
    first.send_response(Response::new(Body::empty()));
    assert_eq!(assert_ready_ok!(call.poll()).status(), 200);
}

/// What follows the head of an answer, after so many milliseconds.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// Trailers with this code.
    Told(u32, &'static str),
    Message(u32),
    Nothing,
}

impl Next {
    fn body(self) -> Body {
        Body::new(StreamBody::new(Box::pin(futures_util::stream::once(async move {
            match self {
                Self::Told(after, code) => {
                    sleep(MS * after).await;
                    let fields = [("grpc-status".parse().unwrap(), code.parse().unwrap())];
                    Ok::<_, BoxError>(Frame::trailers(fields.into_iter().collect()))
                }
                Self::Message(after) => {
                    sleep(MS * after).await;
                    Ok(Frame::data("message".into()))
                }
                Self::Nothing => std::future::pending().await,
            }
        }))))
    }
}

/// The answer to a gRPC call whose two attempts have their heads after so many milliseconds.
async fn call(layer: &HedgeLayer, attempts: [(u32, Next); 2]) -> Response<Body> {
    let plan = Arc::new(Mutex::new(attempts.into_iter().enumerate()));
    let service = layer.layer(service_fn(move |request: Request<Body>| {
        let (index, (head, next)) = plan.lock().unwrap().next().unwrap();
        async move {
            let _ = http_body_util::BodyExt::collect(request.into_body()).await;
            sleep(MS * head).await;
            Ok::<_, Error>(Response::builder().header("etag", index + 1).body(next.body()).unwrap())
        }
    }));
    let request = Request::post("/a/B").header("content-type", "application/grpc").body(Body::from("call")).unwrap();
    service.oneshot(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_grpc_failure_that_trailers_tell_waits_for_the_other_attempt_and_streams_are_hardly_held_up() {
    use Next::{Message, Nothing, Told};
    let layer = HedgeLayer::after(MS * 100).repeatable_if(|_| true);
    for (attempts, taken, at) in [
        ([(105, Told(0, "14")), (20, Message(0))], "2", 120),
        ([(105, Told(2, "14")), (20, Message(0))], "2", 120),
        ([(119, Told(5, "14")), (20, Message(0))], "2", 120),
        ([(105, Told(0, "5")), (20, Message(0))], "1", 105),
        ([(118, Nothing), (20, Told(0, "8"))], "1", 128),
        ([(150, Told(0, "14")), (20, Told(0, "14"))], "1", 150),
        // A stream has 10 ms to say something.
        ([(105, Nothing), (20, Message(0))], "1", 115),
        ([(105, Message(3)), (20, Message(0))], "1", 108),
        ([(105, Told(11, "14")), (20, Message(0))], "1", 115),
        // Where there is no other attempt nothing is held up.
        ([(50, Nothing), (20, Message(0))], "1", 50),
        ([(50, Told(5, "14")), (20, Message(0))], "1", 50),
    ] {
        let began = Instant::now();
        let mut response = call(&layer, attempts).await;
        assert_eq!((number(&response), began.elapsed()), (taken, MS * at), "{attempts:?}");
        let [(_, Told(_, code)), _] = attempts else { continue };
        if taken == "1" {
            let frame = http_body_util::BodyExt::frame(response.body_mut()).await.unwrap().unwrap();
            assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], code, "nothing was taken from the answer");
        }
    }
}
