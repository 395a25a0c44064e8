//! Paths: what is normal is forwarded byte for byte, and nothing that is not normal gets around a rule.

use crate::support::{
    Conn, Ingress, Raw,
    manifest::{Path, Rule, backend, everything_to, ingress},
    wire::try_send,
};

#[tokio::test]
async fn a_normal_path_and_any_query_pass_byte_for_byte() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let targets = [
        "/",
        "/?",
        "/a/b/",
        "/a%20b/%C3%A9",
        "/a+b,c=d&e!$'()*:@~",
        "/.hidden/..hidden/a..b/...",
        "/x?",
        "/x?a=1&a=2&b",
        "/x?next=/../%2e%2e//;&q=%zz%00?{}|",
        "/x?url=http://a//b/../c",
    ];
    let mut conn = Conn::open(ingress.http).await.unwrap();
    for target in targets {
        assert_eq!(conn.get("a", target).await.unwrap().status, 200, "{target}");
        let seen = raw.requests().pop().unwrap();
        assert_eq!(seen.lines().next(), Some(format!("GET {target} HTTP/1.1").as_str()));
    }
}

/// Ways to write `/private/x` that a rule for `/public`, or the one for everything, must not see as something else.
const DISGUISES: &[&str] = &[
    "/public/../private/x",
    "/public/./../private/x",
    "/public/%2e%2e/private/x",
    "/public/%2E%2e/private/x",
    "/public/.%2e/private/x",
    "/public//../private/x",
    "/public/..;/private/x",
    "/public/..;a=b/private/x",
    "/public/..%2fprivate/x",
    "/public/%2e%2e%2fprivate/x",
    "/public%2f..%2fprivate/x",
    "/public/..%5cprivate/x",
    "/public/..\\private/x",
    "/public/a/../../private/x",
    "//private/x",
    "///private/x",
    "/./private/x",
    "/%2e/private/x",
    "/../private/x",
    "/%2e%2e/private/x",
    "/%70rivate/x",
    "/.;/private/x",
];

/// What a backend that decodes and resolves as much as any does would take a path for.
fn naive(path: &str) -> String {
    let mut decoded = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let byte = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(byte.map_or('%', char::from));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded.push_str(rest);
    let mut elements: Vec<&str> = Vec::new();
    let decoded = decoded.replace('\\', "/");
    for element in decoded.split('/') {
        match element.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(elements.pop()),
            plain => elements.push(plain),
        }
    }
    format!("/{}", elements.join("/"))
}

#[test]
fn every_disguise_is_one() {
    for path in DISGUISES {
        assert_eq!(naive(path), "/private/x", "{path}");
    }
}

#[tokio::test]
async fn no_way_of_writing_a_path_gets_around_its_rule() {
    let (public, private, rest) = (Raw::ok().await, Raw::ok().await, Raw::ok().await);
    let rule = Rule(
        "",
        &[
            Path("Prefix", "/public", "public", "80"),
            Path("Prefix", "/private", "private", "80"),
            Path("Prefix", "/", "rest", "80"),
        ],
    );
    let yaml = ingress("a").rule(rule).yaml()
        + &backend("public", &[public.addr])
        + &backend("private", &[private.addr])
        + &backend("rest", &[rest.addr]);
    let ingress = Ingress::start(&yaml).await;
    for path in DISGUISES {
        let response = try_send(ingress.http, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await.unwrap();
        assert!([200, 400].contains(&response.status), "{path}: {}", response.head);
    }
    for (name, raw) in [("public", &public), ("rest", &rest)] {
        for request in raw.requests() {
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            assert_ne!(naive(&path), "/private/x", "the backend {name} was sent {path}");
        }
    }
    // And the rule's own backend sees a path that needs no resolving: it cannot differ about it.
    for request in private.requests() {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let plain = path.to_ascii_lowercase();
        for trick in ["//", "/../", "/./", "%2e", "%5c", "\\"] {
            assert!(!plain.contains(trick), "the backend was sent {path}");
        }
    }
}

#[tokio::test]
async fn parameters_and_encoded_slashes_are_data() {
    let (private, rest) = (Raw::ok().await, Raw::ok().await);
    let rule = Rule("", &[Path("Prefix", "/private", "private", "80"), Path("Prefix", "/", "rest", "80")]);
    let yaml = ingress("a").rule(rule).yaml() + &backend("private", &[private.addr]) + &backend("rest", &[rest.addr]);
    let ingress = Ingress::start(&yaml).await;
    // Each is an element of its own, for the match as for the backend, which is sent what was matched.
    for path in ["/private;a=b/x", "/private%2Fx", "/private%2fx", "/a;v=1/b"] {
        let mut conn = Conn::open(ingress.http).await.unwrap();
        assert_eq!(conn.get("a", path).await.unwrap().status, 200, "{path}");
        let seen = rest.requests().pop().expect(path);
        assert_eq!(seen.lines().next(), Some(format!("GET {path} HTTP/1.1").as_str()));
    }
    assert_eq!(private.received(), "");
}

#[tokio::test]
async fn plain_dots_and_double_slashes_are_resolved_as_documented() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    for (target, forwarded) in
        [("/a/../b", "/b"), ("/a/./b", "/a/b"), ("/a//b", "/a/b"), ("/a/%2e%2e/b?x=/../", "/b?x=/../")]
    {
        let mut conn = Conn::open(ingress.http).await.unwrap();
        assert_eq!(conn.get("a", target).await.unwrap().status, 200, "{target}");
        let seen = raw.requests().pop().unwrap();
        assert_eq!(seen.lines().next(), Some(format!("GET {forwarded} HTTP/1.1").as_str()), "for {target}");
    }
}

#[tokio::test]
async fn a_target_with_control_characters_is_refused() {
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    for target in ["/a\tb", "/a\u{1}b", "/a b", "/a%00b", "/a#b", "a"] {
        let answer = try_send(ingress.http, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        // NUL is a byte like any other once it is encoded, and a fragment may be cut off as a client would have done.
        let allowed = if ["/a%00b", "/a#b"].contains(&target) { [200, 400] } else { [400, 404] };
        assert!(answer.as_ref().map_or(true, |answer| allowed.contains(&answer.status)), "{target:?}: {answer:?}");
    }
    assert!(!raw.received().contains(['\t', '\u{1}', '#']), "{}", raw.received());
}
