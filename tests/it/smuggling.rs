//! Requests that two readers could take for different ones: refused, and nothing of them reaches a backend as another
//! request. RFC 9112 sections 2.2, 3.2, 5, 6 and 7, and the ways known proxies failed.

use std::time::Duration;

use crate::support::{Conn, Ingress, Raw, get, manifest::everything_to};

/// What may come of a request.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// A status from 400 or a closed connection, and no backend sees any of it.
    Refused,
    /// Refused where the body goes wrong: a backend may have seen the begin of it, but no complete request.
    Cut,
    /// Refused, or forwarded as exactly one request whose framing is not in doubt.
    One,
}

use Verdict::{Cut, One, Refused};

/// What an attacker hopes a backend takes for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

const CORPUS: &[(&str, &str, Verdict)] = &[
    (
        "TE and CL, CL short",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        One,
    ),
    (
        "CL and TE, body for CL",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 48\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        One,
    ),
    ("two different CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 48\r\n\r\n", Refused),
    ("two different CL in one", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 48\r\n\r\n", Refused),
    ("signed CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n", Refused),
    ("negative CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", Refused),
    ("CL that is not a number", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x0\r\n\r\n", Refused),
    ("CL beyond 64 bits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", Refused),
    ("empty CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", Refused),
    ("TE on HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    (
        "TE on HTTP/1.0 keep-alive",
        "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    ("unknown TE", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused),
    ("TE identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n", Refused),
    ("chunked not last", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", Refused),
    ("chunked twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused),
    (
        "TE with a vertical tab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    ("space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused),
    ("TE hidden by folding", "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n", Refused),
    ("space before the first field", "POST / HTTP/1.1\r\n Host: a\r\nContent-Length: 0\r\n\r\n", Refused),
    ("bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n", Refused),
    ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Refused),
    (
        "bare LF ends a chunk's size",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nZ\r\n0\r\n\r\n",
        Cut,
    ),
    (
        "bare LF ends a chunk's data",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nZ\n0\r\n\r\n",
        Cut,
    ),
    (
        "bare LF in a chunk extension",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\nZ\r\n0\r\n\r\n",
        Cut,
    ),
    ("bare LF ends the last chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n", Cut),
    ("signed chunk size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nZ\r\n0\r\n\r\n", Cut),
    (
        "chunk size with 0x",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nZ\r\n0\r\n\r\n",
        Cut,
    ),
    (
        "chunk size beyond 64 bits",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nZ\r\n0\r\n\r\n",
        Cut,
    ),
    ("no chunk size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\nZ\r\n0\r\n\r\n", Cut),
    (
        "data longer than its chunk",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nZZ\r\n0\r\n\r\n",
        Cut,
    ),
    ("no Host", "GET / HTTP/1.1\r\n\r\n", Refused),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused),
    ("Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused),
    ("Host with user information", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Refused),
    ("Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Refused),
    ("Host with a bad port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Refused),
    ("two Hosts in one", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused),
    ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", Refused),
    (
        "h2c upgrade",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        One,
    ),
    (
        "upgrade with a body",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\n",
        One,
    ),
    ("unknown version", "GET / HTTP/1.9\r\nHost: a\r\n\r\n", One),
    ("HTTP/0.9", "GET /\r\n\r\n", Refused),
    ("HTTP/2 in HTTP/1 clothes", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refused),
    ("method that is no token", "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
];

#[tokio::test]
async fn nothing_is_smuggled() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut wrong = Vec::new();
    for (index, (name, request, verdict)) in CORPUS.iter().enumerate() {
        // What the backend still has to read of the case before, which may have been cut off, is read before this is.
        assert_eq!(get(ingress.http, "a", &format!("/after-{index}")).await.status, 200);
        let before = raw.requests().len();
        let received = raw.received().len();
        let mut conn = Conn::open(ingress.http).await.unwrap();
        conn.send(format!("{request}{SMUGGLED}")).await.unwrap();
        let first = conn.response_to(request.split(' ').next().unwrap_or_default()).await;
        let status = first.as_ref().map_or(0, |response| response.status);
        let refused = status == 0 || (400..600).contains(&status);
        // After a refusal the rest of the connection is not to be read as requests; if it was one that is certain
        // (two requests, both answered), the second is honest pipelining.
        let closed = refused && conn.closes_within(Duration::from_secs(5)).await;
        let seen = raw.requests().split_off(before);
        let bytes = raw.received().split_off(received);
        let fine = match verdict {
            Refused => refused && closed && bytes.is_empty(),
            Cut => refused && closed && seen.is_empty() && !bytes.contains("/smuggled"),
            One if refused => bytes.is_empty(),
            One => seen.len() <= 2 && bytes.matches("HTTP/1.1\r\n").count() == seen.len() && !bytes.contains("h2c"),
        };
        if !fine {
            wrong.push(format!("{name}: {verdict:?}, status {status}, closed {closed}, backend saw {bytes:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn te_and_cl_together_never_reach_a_backend_together() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    for order in
        [["Content-Length: 4", "Transfer-Encoding: chunked"], ["Transfer-Encoding: chunked", "Content-Length: 4"]]
    {
        let mut conn = Conn::open(ingress.http).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{}\r\n{}\r\n\r\n", order[0], order[1]);
        conn.send(format!("{head}1\r\nZ\r\n0\r\n\r\n{SMUGGLED}")).await.unwrap();
        let status = conn.response().await.map_or(0, |response| response.status);
        // RFC 9112 section 6.1: whichever way it is taken, the connection ends after it.
        assert!(status == 200 || status == 400, "{status}");
        assert!(conn.closes_within(Duration::from_secs(5)).await, "open after {order:?}, {status}");
    }
    for request in raw.requests() {
        let lower = request.to_ascii_lowercase();
        assert!(!(lower.contains("content-length:") && lower.contains("transfer-encoding:")), "{request}");
        assert!(!request.contains("/smuggled"), "{request}");
    }
}

#[tokio::test]
async fn an_answer_that_was_not_asked_for_is_never_given_to_the_next_client() {
    // The backend answers twice: the second answer must not become the next request's.
    let answers = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo";
    let raw = Raw::answers(answers).await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    for _ in 0..5 {
        let response = get(ingress.http, "a", "/").await;
        assert_ne!(response.text(), "two");
    }
}

#[tokio::test]
async fn an_ambiguous_answer_is_not_passed_on() {
    for (name, answer) in [
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde"),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        ("bad status", "HTTP/1.1 2000 OK\r\n\r\n"),
    ] {
        let raw = Raw::answers(answer).await;
        let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
        let mut conn = Conn::open(ingress.http).await.unwrap();
        let response = conn.get("a", "/").await;
        assert!(response.as_ref().is_ok_and(|response| response.status == 502), "{name}: {response:?}");
    }
}
