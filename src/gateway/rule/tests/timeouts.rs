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
