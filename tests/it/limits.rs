//! Limits that are on without being asked for: the size of a head and the number of its fields.

use std::fmt::Write as _;

use crate::support::{
    Ingress, Raw, get,
    manifest::everything_to,
    wire::{try_send, values},
};

/// A request with this many fields of this size, besides Host.
fn request(fields: usize, size: usize) -> String {
    let mut text = String::from("GET / HTTP/1.1\r\nHost: a\r\n");
    for number in 0..fields {
        let _ = write!(text, "X-{number}: {}\r\n", "x".repeat(size));
    }
    text + "\r\n"
}

#[tokio::test]
async fn a_head_within_the_limits_passes_and_one_beyond_is_refused() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    // The defaults: 64 KiB and 100 fields.
    for (fields, size) in [(90, 10), (1, 30_000), (50, 1000)] {
        let response = try_send(ingress.http, &request(fields, size)).await.unwrap();
        assert_eq!(response.status, 200, "{fields} fields of {size}: {}", response.head);
        let seen = raw.requests().pop().unwrap();
        assert_eq!(values(&seen, &format!("x-{}", fields - 1)), ["x".repeat(size)], "{fields} fields of {size}");
    }
    let before = raw.requests().len();
    for (fields, size) in [(150, 10), (1, 100_000), (90, 1000), (10_000, 1)] {
        // Refused, or cut off in the middle of it.
        let answer = try_send(ingress.http, &request(fields, size)).await;
        assert!(
            answer.as_ref().map_or(true, |answer| [400, 431].contains(&answer.status)),
            "{fields} fields of {size}: {answer:?}"
        );
    }
    assert_eq!(raw.requests().len(), before);
    assert_eq!(get(ingress.http, "a", "/").await.status, 200);
}

#[tokio::test]
async fn a_long_path_and_query_pass() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let target = format!("/{}?{}", "p".repeat(8000), "q".repeat(8000));
    assert_eq!(get(ingress.http, "a", &target).await.status, 200);
    assert!(raw.request().starts_with(&format!("GET {target} HTTP/1.1\r\n")));
}

#[tokio::test]
async fn a_large_head_of_an_answer_passes() {
    let raw = Raw::start(|mut peer| async move {
        while peer.request().await?.is_some() {
            let cookies = format!("Set-Cookie: c={}\r\n", "x".repeat(1000)).repeat(20);
            peer.write(format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: 0\r\n\r\n")).await?;
        }
        Ok(())
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let response = get(ingress.http, "a", "/").await;
    assert_eq!((response.status, response.values("set-cookie").len()), (200, 20));
}
