//! A corpus of requests that two readers may read differently: hyper's server, and what is made of it here.
//!
//! Each is either refused, and nothing that follows it on the connection is taken for a request, or reaches the upstream
//! with the framing written down here and no other.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{ServiceExt, service_fn as tower_service_fn};
use tower_layer::Layer;

use super::ForwardLayer;
use crate::{Body, Error, Outcome, connection::ConnectionInfo};

/// What an upstream received, one line a request: method, target, host, `Content-Length`, body.
type Seen = Arc<Mutex<Vec<String>>>;

fn line(request: &Request<Body>) -> String {
    let field = |name| {
        let values: Vec<_> =
            request.headers().get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        if values.is_empty() { "-".to_owned() } else { values.join("|") }
    };
    assert!(!request.headers().contains_key(header::TRANSFER_ENCODING));
    let (host, length) = (field(header::HOST), field(header::CONTENT_LENGTH));
    format!("{} {} {host} {length}", request.method(), request.uri())
}

/// What the upstream received, and the statuses the client read until the connection was closed.
async fn run(input: &[u8]) -> (Vec<String>, Vec<u16>) {
    let seen = Seen::default();
    let record = Arc::clone(&seen);
    let forward = ForwardLayer::new().layer(tower_service_fn(move |request: Request<Body>| {
        let record = Arc::clone(&record);
        async move {
            let head = line(&request);
            let body = request.into_body().collect().await;
            match body {
                Ok(body) => {
                    let bytes = body.to_bytes();
                    record.lock().unwrap().push(format!("{head} {:?}", String::from_utf8_lossy(&bytes)));
                    Ok(Response::new(Body::from("ok")))
                }
                Err(error) => {
                    record.lock().unwrap().push(format!("{head} failed"));
                    // As a pool has it, to whom a body that fails without a word is a client that went away.
                    let outcome = error.downcast_ref::<Error>().map_or(Outcome::Cancelled, Error::outcome);
                    Err(Error::new(outcome).with_source(error))
                }
            }
        }
    }));
    let info = ConnectionInfo::new("192.0.2.1:1".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let forward = forward.clone();
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(info.clone());
        async move {
            let response = forward.oneshot(request).await.unwrap_or_else(|error| {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = error.status();
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            });
            Ok::<_, Infallible>(response)
        }
    });
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let connection =
        http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service).with_upgrades();
    let client = async move {
        // The server may have heard enough.
        let _ = client.write_all(input).await;
        let _ = client.shutdown().await;
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.unwrap();
        output
    };
    let (_, output) = tokio::join!(connection, client);
    let output = String::from_utf8_lossy(&output).into_owned();
    let statuses =
        output.match_indices("HTTP/1.").filter_map(|(at, _)| output.get(at + 9..at + 12)?.parse().ok()).collect();
    let seen = seen.lock().unwrap().clone();
    (seen, statuses)
}

/// What is expected of an input that is followed by another request.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// The upstream received this, and then the next request.
    Passes(&'static str),
    /// The upstream received this, and then the connection was closed.
    Closes(&'static str),
    /// The body failed while the upstream read it; the client was told so, and the connection was closed.
    Fails(u16),
    /// The upstream received nothing; the client was told so, and the connection was closed.
    Refused(u16),
    /// The connection was closed.
    Silent,
}
use Expected::{Closes, Fails, Passes, Refused, Silent};

#[tokio::test]
async fn every_input_means_one_thing() {
    for (input, expected) in CORPUS {
        let mut bytes = input.to_vec();
        bytes.extend_from_slice(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        let (seen, statuses) = run(&bytes).await;
        let seen: Vec<_> = seen.iter().map(String::as_str).collect();
        let fits = match (expected, &seen[..], &statuses[..]) {
            (Passes(line), [first, "GET /next a - \"\""], [200, 200]) => first == line,
            (Closes(line), [first], [200]) => first == line,
            (Fails(status), [first], [answer]) => first.ends_with(" failed") && answer == status,
            (Refused(status), [], [answer]) => answer == status,
            (Silent, [], []) => true,
            _ => false,
        };
        assert!(fits, "{:?}: {seen:?} {statuses:?}, expected {expected:?}", String::from_utf8_lossy(input));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Bytes of the corpus exchanged, doubled, left out: whatever comes of it, what is forwarded has one length, its own.
    #[test]
    fn what_passes_is_framed_by_its_body(
        picks in prop::collection::vec(0..CORPUS.len(), 1..3),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"\r\n \t:;,0a\0"[..]), 0..3_u8), 0..4),
    ) {
        let mut bytes: Vec<u8> = picks.iter().flat_map(|&pick| CORPUS[pick].0).copied().collect();
        for (at, byte, edit) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        let (seen, statuses) = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(&bytes));
        prop_assert!(statuses.len() >= seen.iter().filter(|line| !line.ends_with(" failed")).count());
        for line in seen.iter().filter(|line| !line.ends_with(" failed")) {
            let (head, body) = line.split_once(" \"").unwrap();
            let length = head.rsplit(' ').next().unwrap();
            let body = body.strip_suffix('"').unwrap();
            if !body.contains(['\\', '\u{fffd}']) {
                prop_assert!(length == "-" || length == body.len().to_string(), "{}", line);
            }
        }
    }
}

#[rustfmt::skip]
const CORPUS: &[(&[u8], Expected)] = &[
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Passes(r#"GET / a - """#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Passes(r#"POST / a 3 "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Passes(r#"POST / a - "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\nabc\r\n0\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\rabc\r\n0\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n", Passes(r#"POST / a - "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", Passes(r#"POST / a - "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\nZ: w\r\n\r\n", Fails(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\n\r\n\r\n", Passes(r#"POST / a - "abc""#)),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Closes(r#"POST / a - "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Closes(r#"POST / a - "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", Passes(r#"POST / a 3 "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc", Passes(r#"POST / a 3 "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nabc", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nabc", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\t\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Passes(r#"POST / a - "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xa0chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(501)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(501)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", Passes(r#"POST / a 3 "abc""#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX:\ra\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rB: c\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\nHost: a\n\n", Passes(r#"GET / a - """#)),
    (b"GET / HTTP/1.1\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.0\r\n\r\n", Closes(r#"GET / 192.0.2.2:80 - """#)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refused(400)),
    (b"GET / HTTP/1.1\r\nHost: a/x\r\n\r\n", Refused(400)),
    (b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", Passes(r#"GET /x b - """#)),
    (b"GET http://b/x HTTP/1.1\r\n\r\n", Refused(400)),
    (b"GET http://u@b/x HTTP/1.1\r\nHost: b\r\n\r\n", Refused(400)),
    (b"GET ftp://b/x HTTP/1.1\r\nHost: b\r\n\r\n", Refused(400)),
    (b"GET http://b HTTP/1.1\r\nHost: b\r\n\r\n", Passes(r#"GET / b - """#)),
    (b"GET b:80 HTTP/1.1\r\nHost: b\r\n\r\n", Refused(400)),
    (b"GET x HTTP/1.1\r\nHost: b\r\n\r\n", Refused(400)),
    (b"GET * HTTP/1.1\r\nHost: b\r\n\r\n", Refused(400)),
    (b"OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n", Passes(r#"OPTIONS * b - """#)),
    (b"CONNECT b:80 HTTP/1.1\r\nHost: b\r\n\r\n", Refused(501)),
    (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", Passes(r#"get / a - """#)),
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    (b"GET /\r\n", Refused(400)),
    (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused(400)),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refused(400)),
    (b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", Refused(400)),
    (b"GET / http/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Passes(r#"GET /a a - """#)),
    (b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", Passes(r#"GET /a\b a - """#)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", Passes(r#"GET / a - """#)),
    (b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc", Passes(r#"POST / a 3 "abc""#)),
    (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: content-length, transfer-encoding, host\r\nContent-Length: 3\r\n\r\nabc", Passes(r#"GET / a 3 "abc""#)),
    (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Passes(r#"GET / a - """#)),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Silent),
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\n\r\n", Fails(499)),
];
