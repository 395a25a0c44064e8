//! What a rule says of time.

use http_body::Frame;
use http_body_util::StreamBody;

use super::*;
use crate::{BoxError, Error};

/// A gateway of one rule whose backend answers at once and says something every 70 ms, without end.
fn lively(rule: Rule) -> Gateway {
    let service = service_fn(|_: Request<Body>| async move {
        let frames = futures_util::stream::unfold((), |()| async {
            sleep(70 * MS).await;
            Some((Ok::<_, BoxError>(Frame::data("x".into())), ()))
        });
        Ok::<_, std::convert::Infallible>(Response::new(Body::new(StreamBody::new(frames))))
    });
    Gateway::builder(rules([rule])).local("here", service).build().unwrap()
}

/// What ended a response's body, unless it still went on after a minute.
async fn end(response: Response<Body>) -> Option<Outcome> {
    let error = tokio::time::timeout(60_000 * MS, response.into_body().collect()).await.ok()?.unwrap_err();
    Some(error.downcast_ref::<Error>().unwrap().outcome())
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_cut_when_its_rule_says_so_and_a_request_that_gets_no_answer_at_all_too() {
    let limited = |limit| Timeouts { max_stream_duration: Some(limit), ..Timeouts::default() };
    let began = Instant::now();
    let gateway_of_streams = lively(Rule { timeouts: limited(1000 * MS), ..to("here") });
    let response = send(&gateway_of_streams, get("/")).await;
    assert_eq!((response.status(), end(response).await), (StatusCode::OK, Some(Outcome::UpstreamTimeout)));
    assert_eq!(began.elapsed(), 1000 * MS);

    let silent = gateway(Rule { timeouts: limited(1000 * MS), ..to("here") }, &Double::new([Act::Hang]));
    let refused = tokio::time::timeout(60_000 * MS, answer(&silent, get("/"))).await.unwrap();
    assert_eq!(refused, (504, Some(Outcome::UpstreamTimeout)));
    assert_eq!(began.elapsed(), 2000 * MS);

    let unlimited = lively(Rule { timeouts: limited(Duration::ZERO), ..to("here") });
    assert_eq!(end(send(&unlimited, get("/")).await).await, None);
    // The time for the head is not that for the body.
    let timeouts = Timeouts { request: Some(1000 * MS), ..Timeouts::default() };
    let headed = lively(Rule { timeouts, ..to("here") });
    assert_eq!(end(send(&headed, get("/")).await).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_pauses_for_longer_than_its_rule_allows_is_cut() {
    for (idle, ends) in [(50, Some(Outcome::UpstreamTimeout)), (100, None), (0, None)] {
        let timeouts = Timeouts { idle: Some(idle * MS), ..Timeouts::default() };
        let began = Instant::now();
        let response = send(&lively(Rule { timeouts, ..to("here") }), get("/")).await;
        assert_eq!((response.status(), end(response).await), (StatusCode::OK, ends), "{idle} ms");
        if ends.is_some() {
            assert_eq!(began.elapsed(), 50 * MS);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_read_and_told_in_the_header_of_the_rule_by_every_attempt() {
    let told = |double: &Double| {
        let fields = double.seen();
        let told = fields.iter().map(|seen| seen.headers.get("x-left").map(|value| value.to_str().unwrap().to_owned()));
        told.collect::<Vec<_>>()
    };
    let name = Some(http::HeaderName::from_static("x-left"));
    let saying = |value: &str| {
        let mut request = get("/");
        request.headers_mut().insert("x-left", value.parse().unwrap());
        request
    };
    let ways = [(None, Some("700"), "700"), (Some(500 * MS), Some("700"), "500"), (Some(500 * MS), None, "500")];
    for (limit, said, first) in ways {
        let double = Double::new([Act::SayAfter(200 * MS, 503)]);
        let timeouts = Timeouts { request: limit, deadline_header: name.clone(), ..Timeouts::default() };
        let retry = Retry { attempts: 1, statuses: vec![503], backoff: None, ..Retry::default() };
        let gateway = gateway(Rule { retry: Some(retry), timeouts, ..to("here") }, &double);
        assert_eq!(status(&gateway, said.map_or_else(|| get("/"), saying)).await, 503);
        let told: Vec<u64> = told(&double).into_iter().map(|told| told.unwrap().parse().unwrap()).collect();
        assert_eq!((told.len(), told[0].to_string().as_str()), (2, first));
        assert!((told[0] - 260..=told[0] - 200).contains(&told[1]), "{told:?}");
    }

    // Alone it is enough to be heeded, and no limit is none.
    let double = Double::new([Act::Say(200), Act::Hang]);
    let timeouts = Timeouts { deadline_header: name, ..Timeouts::default() };
    let gateway = gateway(Rule { timeouts, ..to("here") }, &double);
    assert_eq!((status(&gateway, get("/")).await, told(&double)), (200, vec![None]));
    let patient = tokio::time::timeout(60_000 * MS, answer(&gateway, saying("100"))).await;
    assert_eq!(patient.unwrap(), (504, Some(Outcome::UpstreamTimeout)));
    assert_eq!(answer(&gateway, saying("0")).await, (504, Some(Outcome::DeadlineExceeded)));
    assert_eq!(double.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_body_where_the_rule_says_so() {
    let grpc = |timeout: &str| {
        let mut request = get("/");
        request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        request
    };
    let timeouts = Timeouts { request: Some(1000 * MS), deadline_ends_body: true, ..Timeouts::default() };
    let of_rule = lively(Rule { timeouts, ..to("here") });
    let of_client =
        lively(Rule { timeouts: Timeouts { deadline_ends_body: true, ..Timeouts::default() }, ..to("here") });
    for (gateway, request, expected) in
        [(&of_rule, get("/"), 1000), (&of_rule, grpc("300m"), 300), (&of_client, grpc("300m"), 300)]
    {
        let began = Instant::now();
        assert_eq!(end(send(gateway, request).await).await, Some(Outcome::UpstreamTimeout));
        assert_eq!(began.elapsed(), expected * MS);
    }
    assert_eq!(end(send(&of_client, get("/")).await).await, None);
}
