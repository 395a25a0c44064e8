use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::{assert_request_eq, mock};

use super::{
    permits::{Entry, Ticket},
    *,
};
use crate::{Body, Outcome, timeout::Deadline};

type Mock = mock::Mock<&'static str, Response<Body>>;

/// The mock asserts that it is ready when called, and speaks in paths.
fn mocked(layer: &ConcurrencyLayer) -> (Concurrency<Paths>, mock::Handle<&'static str, Response<Body>>) {
    let (mock, handle) = mock::pair();
    (layer.layer(Paths(mock)), handle)
}

#[derive(Clone, Debug)]
struct Paths(Mock);

impl Service<Request<&'static str>> for Paths {
    type Response = Response<Body>;
    type Error = <Mock as Service<&'static str>>::Error;
    type Future = <Mock as Service<&'static str>>::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<&'static str>) -> Self::Future {
        self.0.call(request.into_body())
    }
}

macro_rules! call {
    ($service:expr, $name:literal) => {{
        let mut service = $service.clone();
        assert_ready!(task::spawn(service.ready()).poll()).unwrap();
        task::spawn(service.call(Request::new($name)))
    }};
}

fn answer(text: &'static str) -> Response<Body> {
    Response::new(Body::from(text))
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_in_order_of_arrival_at_the_end_of_a_body() {
    let layer = ConcurrencyLayer::new(1).queue(2);
    let (service, mut handle) = mocked(&layer);
    let mut first = call!(service, "first");
    assert_pending!(first.poll());
    let mut second = call!(service, "second");
    let mut third = call!(service, "third");
    assert_pending!(third.poll());
    assert_pending!(second.poll());
    let mut fourth = call!(service, "fourth");
    let refused = assert_ready!(fourth.poll()).unwrap();
    assert_eq!(refused.extensions().get(), Some(&Outcome::Overloaded));

    assert_request_eq!(handle, "first").send_response(answer("hello"));
    let response = assert_ready!(first.poll()).unwrap();
    assert!(!second.is_woken());
    drop(first);
    assert_pending!(second.poll());
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert!(second.is_woken());
    assert!(!third.is_woken());
    assert_pending!(third.poll());
    assert_pending!(second.poll());
    assert_request_eq!(handle, "second").send_response(Response::new(Body::empty()));
    assert_ready!(second.poll()).unwrap();
    // An empty body ends with the head.
    assert!(third.is_woken());
    assert_pending!(third.poll());
    assert_request_eq!(handle, "third").send_error("broken");
    assert_eq!(assert_ready!(third.poll()).unwrap_err().to_string(), "broken");
    assert_eq!(layer.handle().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_in_vain_shuts_the_queue_until_a_permit_comes_back() {
    let layer = ConcurrencyLayer::new(1);
    let (service, mut handle) = mocked(&layer);
    let mut stuck = call!(service, "stuck");
    assert_pending!(stuck.poll());
    let mut early = call!(service, "early");
    assert_pending!(early.poll());
    advance(Duration::from_secs(2)).await;
    let mut late = call!(service, "late");
    assert_pending!(late.poll());
    advance(Duration::from_millis(999)).await;
    assert_pending!(early.poll());
    advance(Duration::from_millis(1)).await;
    assert!(early.is_woken());
    assert_eq!(assert_ready!(early.poll()).unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    // Shut: nobody else waits for it, but who did already goes on.
    assert_eq!(assert_ready!(call!(service, "no").poll()).unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_pending!(late.poll());
    drop(stuck);
    assert!(late.is_woken());
    assert_pending!(late.poll());
    assert_request_eq!(handle, "stuck").send_response(answer("nobody listens"));
    assert_request_eq!(handle, "late").send_response(answer(""));
    assert_ready!(late.poll()).unwrap();
    // Open again.
    let mut holder = call!(service, "holder");
    assert_pending!(holder.poll());
    assert_pending!(call!(service, "waits").poll());
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_comes_with_the_last_moment_is_used() {
    let layer = ConcurrencyLayer::new(1);
    let (service, mut handle) = mocked(&layer);
    let holder = call!(service, "holder");
    let mut waits = call!(service, "waits");
    assert_pending!(waits.poll());
    advance(Duration::from_secs(3)).await;
    drop(holder);
    assert_pending!(waits.poll());
    let _ = handle.next_request().await;
    assert_request_eq!(handle, "waits").send_response(answer(""));
    assert_ready!(waits.poll()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_late_when_its_turn_comes_is_not_begun() {
    let layer = ConcurrencyLayer::new(1).queue(2).max_wait(Duration::from_secs(60));
    let permits = layer.handle();
    let (service, mut handle) = mocked(&layer);
    let mut first = call!(service, "first");
    assert_pending!(first.poll());
    let mut waiting = service.clone();
    assert_ready!(task::spawn(waiting.ready()).poll()).unwrap();
    let mut request = Request::new("late");
    request.extensions_mut().insert(Deadline::after(Instant::now(), Duration::from_secs(1)));
    let mut late = task::spawn(waiting.call(request));
    assert_pending!(late.poll());
    assert_request_eq!(handle, "first").send_response(answer("first"));
    advance(Duration::from_secs(1)).await;
    drop(assert_ready!(first.poll()).unwrap());
    let refused = assert_ready!(late.poll()).unwrap();
    assert_eq!(refused.extensions().get(), Some(&Outcome::DeadlineExceeded));
    assert_eq!(permits.in_flight(), 0);
    assert_pending!(task::spawn(handle.next_request()).poll());
}

#[tokio::test(start_paused = true)]
async fn a_drop_anywhere_gives_back() {
    let layer = ConcurrencyLayer::new(1);
    let (service, _handle) = mocked(&layer);
    let permits = layer.handle();
    // Called.
    drop(call!(service, "a"));
    assert_eq!(permits.in_flight(), 0);
    // Queued, never polled; queued, polled; its turn has come, but it has not looked.
    let holder = call!(service, "holder");
    let unpolled = call!(service, "b");
    let mut polled = call!(service, "c");
    let mut turn = call!(service, "d");
    let mut next = call!(service, "e");
    assert_pending!(polled.poll());
    assert_pending!(turn.poll());
    assert_pending!(next.poll());
    assert_eq!(permits.queued(), 4);
    drop(unpolled);
    drop(polled);
    assert_eq!(permits.queued(), 2);
    drop(holder);
    assert!(turn.is_woken());
    assert_eq!((permits.in_flight(), permits.queued()), (1, 1));
    drop(turn);
    assert!(next.is_woken());
    assert_eq!((permits.in_flight(), permits.queued()), (1, 0));
    drop(next);
    assert_eq!(permits.in_flight(), 0);
}

#[tokio::test]
async fn a_body_dropped_half_way_gives_back() {
    let layer = ConcurrencyLayer::new(1).queue(0);
    let service = layer.layer(service_fn(async |_: Request<()>| Ok::<_, Infallible>(answer("hello"))));
    let response = service.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(layer.handle().in_flight(), 1);
    let refused = service.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(response);
    assert_eq!(layer.handle().in_flight(), 0);
}

#[tokio::test]
async fn a_panic_inside_gives_back() {
    let layer = ConcurrencyLayer::new(1);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        if std::hint::black_box(true) {
            panic!("on purpose");
        }
        Ok::<_, Infallible>(answer("hello"))
    }));
    tokio::spawn(service.oneshot(Request::new(()))).await.unwrap_err();
    assert_eq!(layer.handle().in_flight(), 0);
}

#[tokio::test]
async fn services_of_one_layer_share_its_limit_and_grpc_is_told_so() {
    let layer = ConcurrencyLayer::new(1).queue(0);
    let (one, two) = (mocked(&layer), mocked(&layer));
    let _held = call!(one.0, "a");
    let mut service = two.0;
    assert_ready!(task::spawn(service.ready()).poll()).unwrap();
    let request = Request::post("/").header("content-type", "application/grpc").body("b").unwrap();
    let response = assert_ready!(task::spawn(service.call(request)).poll()).unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
}

#[test]
fn a_lower_limit_waits_for_permits_and_a_higher_one_hands_them_out() {
    let permits = Permits::new(2, 10);
    let held = [permits.try_acquire().unwrap(), permits.try_acquire().unwrap()];
    permits.set_limit(1);
    let Entry::Queued(ticket) = permits.enter() else { panic!("there is room in the queue") };
    let mut ticket = task::spawn(ticket);
    assert_pending!(ticket.poll());
    let [one, two] = held;
    drop(one);
    assert!(!ticket.is_woken());
    permits.set_limit(2);
    assert!(ticket.is_woken());
    // Nobody overtakes, though the ticket has not looked yet.
    assert!(permits.try_acquire().is_none());
    let _permit = assert_ready!(ticket.poll());
    drop(two);
    assert_eq!(permits.in_flight(), 1);
    assert!(Permits::new(0, 0).try_acquire().is_none());
}

#[derive(Debug, Clone)]
enum Step {
    Enter,
    Poll(usize),
    DropTicket(usize),
    GiveUp(usize),
    DropPermit(usize),
    SetLimit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Enter),
        3 => (0..8usize).prop_map(Step::Poll),
        1 => (0..8usize).prop_map(Step::DropTicket),
        1 => (0..8usize).prop_map(Step::GiveUp),
        3 => (0..8usize).prop_map(Step::DropPermit),
        1 => (0..5usize).prop_map(Step::SetLimit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Against a model: who has a permit, who waits in which order, and that everything comes back.
    #[test]
    fn permits_always_come_back_in_order(limit in 0..5usize, queue in 0..5usize, steps in prop::collection::vec(step(), 0..120)) {
        let permits = Permits::new(limit, queue);
        let mut limit = limit;
        let mut held: Vec<Permit> = Vec::new();
        let mut tickets: Vec<task::Spawn<Ticket>> = Vec::new();
        // The model: of each ticket, whether its turn has come; and the gate.
        let mut turns: VecDeque<bool> = VecDeque::new();
        let mut shut = false;
        for step in steps {
            let granted = turns.iter().filter(|turn| **turn).count();
            let waiting = turns.len() - granted;
            let mut freed = false;
            match step {
                Step::Enter => match permits.enter() {
                    Entry::Granted(permit) => {
                        prop_assert!(held.len() + granted < limit && waiting == 0);
                        held.push(permit);
                    }
                    Entry::Queued(ticket) => {
                        prop_assert!(held.len() + granted >= limit || waiting > 0);
                        prop_assert!(!shut && waiting < queue);
                        tickets.push(task::spawn(ticket));
                        turns.push_back(false);
                    }
                    Entry::Refused => prop_assert!(shut || waiting >= queue),
                },
                Step::Poll(n) if n < tickets.len() => match tickets[n].poll() {
                    std::task::Poll::Ready(permit) => {
                        prop_assert!(turns[n]);
                        held.push(permit);
                        drop(tickets.remove(n));
                        turns.remove(n);
                    }
                    std::task::Poll::Pending => prop_assert!(!turns[n]),
                },
                Step::DropTicket(n) if n < tickets.len() => {
                    drop(tickets.remove(n));
                    freed = turns.remove(n).unwrap();
                }
                Step::GiveUp(n) if n < tickets.len() => {
                    let mut ticket = tickets.remove(n);
                    match ticket.enter(|_, mut ticket| ticket.give_up()) {
                        Some(permit) => {
                            prop_assert!(turns[n]);
                            held.push(permit);
                        }
                        None => {
                            prop_assert!(!turns[n]);
                            shut = true;
                        }
                    }
                    turns.remove(n);
                }
                Step::DropPermit(n) if n < held.len() => {
                    drop(held.remove(n));
                    freed = true;
                }
                Step::SetLimit(to) => {
                    permits.set_limit(to);
                    limit = to;
                }
                _ => {}
            }
            shut &= !freed;
            let mut out = held.len() + turns.iter().filter(|turn| **turn).count();
            for turn in turns.iter_mut().filter(|turn| !**turn) {
                if out < limit {
                    *turn = true;
                    out += 1;
                }
            }
            prop_assert_eq!(permits.in_flight(), out);
            prop_assert_eq!(permits.queued(), turns.iter().filter(|turn| !**turn).count());
        }
        drop(held);
        drop(tickets);
        prop_assert_eq!((permits.in_flight(), permits.queued()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_and_cancellations_never_exceed_the_limit_nor_lose_a_permit() {
    static INSIDE: AtomicUsize = AtomicUsize::new(0);
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            INSIDE.fetch_sub(1, SeqCst);
        }
    }
    let layer = ConcurrencyLayer::new(3).queue(50);
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let service = layer.layer(service_fn(move |request: Request<u64>| {
        let most = Arc::clone(&seen);
        async move {
            let _guard = Guard;
            most.fetch_max(INSIDE.fetch_add(1, SeqCst) + 1, SeqCst);
            for _ in 0..request.into_body() % 5 {
                tokio::task::yield_now().await;
            }
            Ok::<_, Infallible>(answer("hello"))
        }
    }));
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let service = service.clone();
        tasks.spawn(async move {
            let mut rng = fastrand::Rng::with_seed(worker);
            for _ in 0..300 {
                let mut future = Box::pin(service.clone().oneshot(Request::new(rng.u64(..))));
                // Dropped after a few polls, or finished.
                let mut polls = if rng.bool() { usize::MAX } else { rng.usize(..4) };
                std::future::poll_fn(|cx| match polls.checked_sub(1) {
                    None => std::task::Poll::Ready(()),
                    Some(left) => {
                        polls = left;
                        if polls < 4 {
                            cx.waker().wake_by_ref();
                        }
                        future.as_mut().poll(cx).map(drop)
                    }
                })
                .await;
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    assert!((1..=3).contains(&most.load(SeqCst)), "{most:?}");
    assert_eq!((layer.handle().in_flight(), layer.handle().queued()), (0, 0));
}
