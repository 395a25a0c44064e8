use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
    time::{Duration, advance},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

use super::*;
use crate::{
    Body, BoxError,
    balance::Tried,
    config::Fraction,
    connection::{ClientAddr, ConnectionInfo},
    exchange::Exchange,
    route::Target,
    timeout::Deadline,
};

type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// A body whose frames come when the test sends them.
struct Channel(mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>);

impl HttpBody for Channel {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }
}

fn channel() -> (Frames, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Body::new(Channel(receiver)))
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// A copy that came, and how it is answered.
type Arrived = (Request<Body>, oneshot::Sender<Result<Response<Body>, &'static str>>);

/// A target whose answers the test gives.
fn shadow() -> (Target<Body, &'static str>, mpsc::UnboundedReceiver<Arrived>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let target = Target::new(service_fn(move |request: Request<Body>| {
        let (answer, answered) = oneshot::channel();
        sender.send((request, answer)).unwrap();
        async { answered.await.unwrap_or(Err("the test has no answer")) }
    }));
    (target, receiver)
}

/// A service that reads the request's body and answers with its length.
fn app() -> Target<Body, Infallible> {
    Target::new(service_fn(async |request: Request<Body>| {
        let length = request.into_body().collect().await.map_or(usize::MAX, |body| body.to_bytes().len());
        Ok::<_, Infallible>(Response::new(Body::from(length.to_string())))
    }))
}

fn all<T>(target: T) -> MirrorLayer<T> {
    MirrorLayer::new(target, Fraction::default())
}

fn counts(sent: u64, answered: u64, failed: u64, abandoned: u64, skipped: u64) -> Counts {
    Counts { sent, answered, failed, abandoned, skipped }
}

/// Lets the tasks do what they can.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_the_same_request_and_shares_nothing_of_the_exchange() {
    let (target, mut copies) = shadow();
    let layer = all(target);
    let info = ConnectionInfo::new("192.0.2.7:1".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
    let request = Request::put("/a%2Fb//c?x=%7e&y")
        .header("host", "Shop.example.com:8080")
        .header("x-a", "1")
        .header("x-a", "2")
        .header("expect", "100-continue")
        .extension(info)
        .extension(ClientAddr::new("192.0.2.9".parse().unwrap()))
        .extension(Exchange::begin())
        .extension(Tried::default())
        .extension(Deadline::at(tokio::time::Instant::now()))
        .body(Body::from("hello"))
        .unwrap();
    let inner = service_fn(async |request: Request<Body>| {
        assert!(request.headers().contains_key("expect") && request.extensions().get::<Tried>().is_some());
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");

    let (copy, answer) = copies.recv().await.unwrap();
    assert_eq!((copy.method().as_str(), copy.uri().to_string()), ("PUT", "/a%2Fb//c?x=%7e&y".to_owned()));
    assert_eq!(copy.headers()["host"], "Shop.example.com:8080");
    assert_eq!(copy.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert!(!copy.headers().contains_key("expect"));
    assert_eq!(copy.extensions().len(), 2, "the addresses alone");
    assert_eq!(copy.body().size_hint().exact(), Some(5));
    assert_eq!(copy.into_body().collect().await.unwrap().to_bytes(), "hello");
    answer.send(Ok(Response::builder().status(500).body(Body::from("read and dropped")).unwrap())).unwrap();
    settle().await;
    assert_eq!(layer.counts(), counts(1, 1, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_request_never_waits_for_its_copies_whatever_they_do() {
    let (hangs, _kept) = shadow();
    let fails = Target::new(service_fn(async |_: Request<Body>| Err::<Response<Body>, _>("no")));
    let panics =
        Target::new(service_fn(async |_: Request<Body>| -> Result<Response<Body>, &str> { panic!("on purpose") }));
    let layers = [all(hangs), all(fails), all(panics)];
    let service = layers[0].layer(layers[1].layer(layers[2].layer(app())));
    let (frames, body) = channel();
    let mut call = task::spawn(service.oneshot(Request::post("/").body(body).unwrap()));
    assert_pending!(call.poll());
    frames.send(data("some")).unwrap();
    settle().await;
    assert_pending!(call.poll());
    frames.send(data("thing")).unwrap();
    drop(frames);
    let response = assert_ready!(call.poll()).unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "9");
    settle().await;
    assert_eq!(layers[0].counts(), counts(1, 0, 0, 0, 0));
    assert_eq!(layers[1].counts(), counts(1, 0, 1, 0, 0));
    assert_eq!(layers[2].counts().sent, 1);
    advance(Duration::from_secs(15)).await;
    settle().await;
    assert_eq!(layers[0].counts(), counts(1, 0, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_streams_to_both_with_trailers() {
    let (target, mut copies) = shadow();
    let layer = all(target);
    let (frames, body) = channel();
    let mut call = task::spawn(layer.layer(app()).oneshot(Request::post("/").body(body).unwrap()));
    frames.send(data("one")).unwrap();
    assert_pending!(call.poll());
    let (mut copy, answer) = copies.recv().await.unwrap();
    let frame = copy.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "one", "before the rest has come");
    let mut next = task::spawn(copy.body_mut().frame());
    assert_pending!(next.poll());
    frames.send(data("two")).unwrap();
    frames.send(Ok(Frame::trailers(HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())])))).unwrap();
    drop(frames);
    assert_ready!(call.poll()).unwrap();
    assert!(next.is_woken());
    assert_eq!(assert_ready!(next.poll()).unwrap().unwrap().into_data().unwrap(), "two");
    drop(next);
    assert_eq!(copy.body_mut().frame().await.unwrap().unwrap().into_trailers().unwrap()["etag"], "x");
    assert!(copy.body().is_end_stream() && copy.body_mut().frame().await.is_none());
    answer.send(Ok(Response::new(Body::empty()))).unwrap();
    settle().await;
    assert_eq!(layer.counts(), counts(1, 1, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_falls_behind_is_abandoned_and_its_memory_freed() {
    let (target, mut copies) = shadow();
    let layer = all(target).max_behind(200);
    let memory = layer.memory.clone();
    let (frames, body) = channel();
    let mut call = task::spawn(layer.layer(app()).oneshot(Request::post("/").body(body).unwrap()));
    // Four small frames count for 64 bytes each.
    for _ in 0..3 {
        frames.send(data("x")).unwrap();
    }
    assert_pending!(call.poll());
    let (mut copy, answer) = copies.recv().await.unwrap();
    assert_eq!((memory.used(), layer.counts()), (192, counts(1, 0, 0, 0, 0)));
    frames.send(data("x")).unwrap();
    assert_pending!(call.poll());
    assert_eq!(memory.used(), 0);
    let error = copy.body_mut().frame().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "it fell too far behind");
    assert!(copy.body_mut().frame().await.is_none());
    settle().await;
    assert!(answer.is_closed(), "its call is dropped");
    assert_eq!(layer.counts(), counts(1, 0, 0, 1, 0));
    drop(frames);
    let response = assert_ready!(call.poll()).unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "4");
}

#[tokio::test(start_paused = true)]
async fn all_copies_together_have_one_limit() {
    let (target, mut copies) = shadow();
    let layer = all(target).max_memory(100);
    let service = layer.layer(app());
    let first = service.clone().oneshot(Request::post("/").body(Body::from("x".repeat(80))).unwrap());
    assert_eq!(first.await.unwrap().status(), StatusCode::OK);
    service.oneshot(Request::post("/").body(Body::from("y".repeat(80))).unwrap()).await.unwrap();
    settle().await;
    assert_eq!(layer.counts(), counts(2, 0, 0, 1, 0));
    let (copy, answer) = copies.recv().await.unwrap();
    assert_eq!(copy.into_body().collect().await.unwrap().to_bytes(), "x".repeat(80));
    answer.send(Ok(Response::new(Body::empty()))).unwrap();
    settle().await;
    assert_eq!((layer.memory.used(), layer.counts()), (0, counts(2, 1, 0, 1, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_takes_along_only_a_copy_that_is_not_whole() {
    let (target, mut copies) = shadow();
    let layer = all(target);
    let never = Target::new(service_fn(async |request: Request<Body>| {
        let _read = request.into_body().collect().await;
        std::future::pending::<Result<Response<Body>, Infallible>>().await
    }));
    let service = layer.layer(never);

    let whole = task::spawn(service.clone().oneshot(Request::post("/").body(Body::from("whole")).unwrap()));
    let mut whole = whole;
    assert_pending!(whole.poll());
    let (copy, answer) = copies.recv().await.unwrap();
    drop(whole);
    settle().await;
    assert_eq!(copy.into_body().collect().await.unwrap().to_bytes(), "whole");
    answer.send(Ok(Response::new(Body::empty()))).unwrap();
    settle().await;
    assert_eq!(layer.counts(), counts(1, 1, 0, 0, 0));

    let (frames, body) = channel();
    let mut part = task::spawn(service.oneshot(Request::post("/").body(body).unwrap()));
    frames.send(data("part")).unwrap();
    assert_pending!(part.poll());
    let (copy, answer) = copies.recv().await.unwrap();
    drop(part);
    settle().await;
    assert!(copy.into_body().collect().await.is_err() && answer.is_closed());
    assert_eq!(layer.counts(), counts(2, 1, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_fails_for_both() {
    let (target, mut copies) = shadow();
    let layer = all(target);
    let (frames, body) = channel();
    frames.send(data("part")).unwrap();
    frames.send(Err("the client is gone".into())).unwrap();
    let request = Request::post("/").body(body).unwrap();
    let response = layer.layer(app()).oneshot(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), usize::MAX.to_string());
    settle().await;
    // It was over before the copy was sent.
    assert_eq!(layer.counts(), counts(1, 0, 0, 1, 0));
    if let Ok((copy, _)) = copies.try_recv() {
        copy.into_body().collect().await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn only_so_many_are_in_flight_and_a_place_comes_back() {
    let (target, mut copies) = shadow();
    let layer = all(target).max_in_flight(1);
    let service = layer.layer(app());
    for _ in 0..2 {
        service.clone().oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    }
    let (_copy, answer) = copies.recv().await.unwrap();
    assert_eq!(layer.counts(), counts(1, 0, 0, 0, 1));
    // The place is taken until the answer's body has ended.
    let (frames, body) = channel();
    answer.send(Ok(Response::new(body))).unwrap();
    settle().await;
    service.clone().oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(layer.counts(), counts(1, 0, 0, 0, 2));
    drop(frames);
    settle().await;
    service.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(layer.counts(), counts(2, 1, 0, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_copy_begins_with_the_end_of_its_request() {
    let (target, mut copies) = shadow();
    let layer = all(target).timeout(Duration::from_secs(5));
    let (frames, body) = channel();
    let mut call = task::spawn(layer.layer(app()).oneshot(Request::post("/").body(body).unwrap()));
    assert_pending!(call.poll());
    let (copy, answer) = copies.recv().await.unwrap();
    advance(Duration::from_secs(60)).await;
    settle().await;
    assert!(!answer.is_closed());
    drop(frames);
    assert_ready!(call.poll()).unwrap();
    settle().await;
    advance(Duration::from_millis(4_999)).await;
    settle().await;
    assert!(!answer.is_closed());
    advance(Duration::from_millis(2)).await;
    settle().await;
    assert!(answer.is_closed());
    assert_eq!(layer.counts(), counts(1, 0, 1, 0, 0));
    drop(copy);
}

#[tokio::test(start_paused = true)]
async fn shares_are_drawn_the_same_way_from_the_same_seed() {
    let run = async |share: Fraction, seed| {
        let (target, mut copies) = shadow();
        let service = MirrorLayer::new(target, share).seed(seed).layer(app());
        for number in 0..200 {
            let request = Request::get(format!("/{number}")).body(Body::empty()).unwrap();
            service.clone().oneshot(request).await.unwrap();
        }
        settle().await;
        let mut paths = Vec::new();
        while let Ok((copy, _)) = copies.try_recv() {
            paths.push(copy.uri().path().to_owned());
        }
        paths
    };
    let quarter = Fraction { numerator: 1, denominator: 4 };
    let (one, other) = (run(quarter, 7).await, run(quarter, 8).await);
    assert_eq!(one, run(quarter, 7).await);
    assert_ne!(one, other);
    assert!((25..75).contains(&one.len()), "{}", one.len());
    assert!(run(Fraction { numerator: 0, denominator: 4 }, 7).await.is_empty());
    assert_eq!(run(Fraction { numerator: 4, denominator: 4 }, 7).await.len(), 200);
}

#[tokio::test]
async fn upgrades_are_not_mirrored() {
    let (target, _copies) = shadow();
    let layer = all(target);
    let request = Request::get("/").header("connection", "upgrade").header("upgrade", "websocket");
    layer.layer(app()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(layer.counts(), Counts::default());
}

#[test]
fn without_a_runtime_nothing_is_mirrored_and_nothing_breaks() {
    let (target, _copies) = shadow();
    let layer = all(target);
    let mut call = task::spawn(layer.layer(app()).oneshot(Request::new(Body::empty())));
    assert_ready!(call.poll()).unwrap();
    assert_eq!(layer.counts(), counts(0, 0, 0, 0, 1));
}

/// The mock panics when it is called unready.
#[tokio::test(start_paused = true)]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let (mock, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    let (target, mut copies) = shadow();
    let mut service = all(target).layer(mock);
    assert_ready!(task::spawn(service.ready()).poll()).unwrap();
    let mut call = task::spawn(service.call(Request::get("/x").body(Body::empty()).unwrap()));
    assert_pending!(call.poll());
    let (request, respond) = handle.next_request().await.unwrap();
    assert_eq!(request.uri(), "/x");
    respond.send_error("inner");
    assert_eq!(assert_ready!(call.poll()).unwrap_err().to_string(), "inner");
    assert_eq!(copies.recv().await.unwrap().0.uri(), "/x");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the frames, the reading and the cap: the copy is the body, or the beginning of it and an error.
    #[test]
    fn a_copy_is_whole_or_broken(
        frames in prop::collection::vec(0usize..150, 0..12),
        reads in prop::collection::vec(0usize..3, 12),
        stop in 0usize..20,
        cap in 64usize..800,
    ) {
        tokio_test::block_on(async {
            let memory = std::sync::Arc::new(feed::Memory::new(usize::MAX));
            let (sender, body) = channel();
            let (mut body, mut copy, fed) = feed::tee(body, cap, &memory);
            let (mut sent, mut copied, mut failed) = (Vec::new(), Vec::new(), false);
            for (index, (length, reads)) in frames.iter().zip(&reads).enumerate().take(stop) {
                let frame = vec![u8::try_from(index).unwrap(); *length];
                sent.extend_from_slice(&frame);
                sender.send(Ok(Frame::data(frame.into()))).unwrap();
                body.frame().await.unwrap().unwrap();
                assert!(memory.used() <= cap);
                for _ in 0..*reads {
                    match task::spawn(copy.frame()).poll() {
                        Poll::Ready(Some(Ok(frame))) => copied.extend_from_slice(&frame.into_data().unwrap()),
                        Poll::Ready(Some(Err(_))) => failed = true,
                        Poll::Ready(None) | Poll::Pending => {}
                    }
                }
            }
            let ended = stop >= frames.len();
            drop(sender);
            if ended {
                assert!(body.frame().await.is_none());
            }
            drop(body);
            while let Some(frame) = copy.frame().await {
                match frame {
                    Ok(frame) => copied.extend_from_slice(&frame.into_data().unwrap()),
                    Err(_) => failed = true,
                }
            }
            assert_eq!(failed, fed.broken().is_some());
            assert!(failed || ended);
            assert!(sent.starts_with(&copied));
            assert!(failed || sent == copied);
            drop((copy, fed));
            assert_eq!(memory.used(), 0);
        });
    }
}
