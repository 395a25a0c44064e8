use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::Cors;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    headers
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

fn preflight(cors: &Cors, request: &[(&str, &str)]) -> (Vec<String>, bool) {
    match Policy::new(cors.clone()).unwrap().decide(&Method::OPTIONS, &fields(request)) {
        Decision::Preflight { mut fields, allowed } => {
            let asked = fields.remove(VARY).unwrap();
            assert_eq!(asked, "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
            (lines(&fields), allowed)
        }
        Decision::Share(grant) => panic!("is a preflight, and got {grant:?}"),
    }
}

fn shared(cors: &Cors, request: &[(&str, &str)], response: &[(&str, &str)]) -> Vec<String> {
    let policy = Policy::new(cors.clone()).unwrap();
    let Decision::Share(grant) = policy.decide(&Method::GET, &fields(request)) else { panic!("is no preflight") };
    let mut response = fields(response);
    policy.share(&grant, &mut response);
    lines(&response)
}

fn credentialed() -> Cors {
    Cors {
        origins: strings(&["https://www.foo.com", "https://*.bar.com"]),
        methods: strings(&["GET", "OPTIONS"]),
        headers: strings(&["x-header-1", "X-Header-2"]),
        expose: strings(&["x-header-3", "x-header-4"]),
        credentials: true,
        max_age: Duration::from_secs(3600),
    }
}

fn everything(credentials: bool) -> Cors {
    let any = || strings(&["*"]);
    Cors { origins: any(), methods: any(), headers: any(), expose: any(), credentials, ..Cors::default() }
}

const ASKED: [(&str, &str); 2] =
    [("access-control-request-method", "GET"), ("access-control-request-headers", "x-header-1, x-header-2")];

#[test]
fn a_preflight_of_an_allowed_origin_is_told_the_whole_policy() {
    for origin in ["https://www.foo.com", "https://xpto.www.bar.com"] {
        let (lines, allowed) = preflight(&credentialed(), &[("origin", origin), ASKED[0], ASKED[1]]);
        let expected = [
            "access-control-allow-credentials: true",
            "access-control-allow-headers: x-header-1, X-Header-2",
            "access-control-allow-methods: GET, OPTIONS",
            &format!("access-control-allow-origin: {origin}"),
            "access-control-expose-headers: x-header-3, x-header-4",
            "access-control-max-age: 3600",
        ];
        assert_eq!((lines, allowed), (strings(&expected), true));
    }
}

#[test]
fn a_preflight_of_another_origin_or_of_several_is_told_nothing() {
    let foo = ("origin", "https://www.foo.com");
    for origins in [&[("origin", "https://foobar.com")][..], &[("origin", "null")], &[("origin", "")], &[foo, foo]] {
        let request: Vec<_> = origins.iter().copied().chain(ASKED).collect();
        assert_eq!(preflight(&credentialed(), &request), (vec![], false), "{origins:?}");
    }
    assert_eq!(preflight(&Cors::default(), &[foo, ASKED[0]]), (vec![], false));
}

#[test]
fn a_wildcard_is_sent_without_credentials_only() {
    let other = ("origin", "https://other.foo.com:12345");
    let put = ("access-control-request-method", "PUT");
    let (lines, _) = preflight(&everything(false), &[other, put, ASKED[1]]);
    assert_eq!(
        lines,
        [
            "access-control-allow-headers: x-header-1, x-header-2",
            "access-control-allow-methods: *",
            "access-control-allow-origin: *",
            "access-control-expose-headers: *",
            "access-control-max-age: 5",
        ]
    );
    let (lines, _) = preflight(&everything(true), &[other, put, ASKED[1], ("access-control-request-headers", "x-3")]);
    assert_eq!(
        lines,
        [
            "access-control-allow-credentials: true",
            "access-control-allow-headers: x-3",
            "access-control-allow-headers: x-header-1, x-header-2",
            "access-control-allow-methods: PUT",
            "access-control-allow-origin: https://other.foo.com:12345",
            "access-control-max-age: 5",
        ]
    );
    // Who asks for no fields is told of none.
    let (lines, _) = preflight(&everything(true), &[("origin", "null"), put]);
    assert!(lines.contains(&"access-control-allow-origin: null".to_owned()));
    assert!(!lines.iter().any(|line| line.starts_with("access-control-allow-headers")));
}

#[test]
fn only_options_with_an_origin_and_a_method_is_a_preflight() {
    let policy = Policy::new(credentialed()).unwrap();
    let origin = ("origin", "https://www.foo.com");
    let granted = Grant::Origin(HeaderValue::from_static("https://www.foo.com"));
    for (method, request, grant) in [
        (Method::GET, &[origin, ASKED[0]][..], granted.clone()),
        (Method::HEAD, &[origin, ASKED[0]], granted.clone()),
        (Method::OPTIONS, &[origin], granted),
        (Method::OPTIONS, &ASKED, Grant::Nobody),
        (Method::OPTIONS, &[], Grant::Nobody),
    ] {
        assert_eq!(policy.decide(&method, &fields(request)), Decision::Share(grant), "{method} {request:?}");
    }
}

#[test]
fn a_response_says_what_the_policy_says_whatever_the_backend_did() {
    let backend = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-origin", "https://evil.test"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "*"),
        ("access-control-allow-headers", "*"),
        ("access-control-expose-headers", "x-secret"),
        ("access-control-max-age", "86400"),
        ("x-app", "1"),
        ("vary", "accept"),
    ];
    assert_eq!(
        shared(&credentialed(), &[("origin", "https://www.foo.com")], &backend),
        [
            "access-control-allow-credentials: true",
            "access-control-allow-origin: https://www.foo.com",
            "access-control-expose-headers: x-header-3, x-header-4",
            "vary: Origin",
            "vary: accept",
            "x-app: 1",
        ]
    );
    for request in [&[("origin", "https://evil.test")][..], &[]] {
        let nothing = ["vary: Origin", "vary: accept", "x-app: 1"];
        assert_eq!(shared(&credentialed(), request, &backend), nothing);
    }
    for request in [&[("origin", "https://evil.test")][..], &[]] {
        let public = ["access-control-allow-origin: *", "access-control-expose-headers: *", "vary: accept", "x-app: 1"];
        assert_eq!(shared(&everything(false), request, &backend), public);
    }
}

#[test]
fn vary_names_the_origin_once() {
    for (vary, after) in [
        ("Accept, ORIGIN", &["vary: Accept, ORIGIN"][..]),
        ("*", &["vary: *"]),
        ("x-origin", &["vary: Origin", "vary: x-origin"]),
    ] {
        assert_eq!(shared(&credentialed(), &[], &[("vary", vary)]), after);
    }
}

#[test]
fn with_credentials_all_fields_are_exposed_by_name() {
    let backend = [("x-a", "1"), ("set-cookie", "a=b"), ("x-b", "2"), ("access-control-max-age", "1")];
    let lines = shared(&everything(true), &[("origin", "https://a.test")], &backend);
    assert_eq!(lines[2], "access-control-expose-headers: x-a, x-b");
    let lines = shared(&everything(true), &[("origin", "https://a.test")], &[]);
    assert_eq!(
        lines,
        ["access-control-allow-credentials: true", "access-control-allow-origin: https://a.test", "vary: Origin"]
    );
}

#[test]
fn names_that_are_none_are_refused() {
    let method = Cors { methods: strings(&["GET", "G T"]), ..Cors::default() };
    assert_eq!(Policy::new(method).unwrap_err(), InvalidFilter::Method { method: "G T".to_owned() });
    for cors in [
        Cors { headers: strings(&["x-a,x-b"]), ..Cors::default() },
        Cors { expose: strings(&["x-a,x-b"]), ..Cors::default() },
    ] {
        assert_eq!(Policy::new(cors).unwrap_err(), InvalidFilter::FieldName { name: "x-a,x-b".to_owned() });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn with_credentials_there_is_no_wildcard_and_without_an_allowed_origin_nothing(
        lists in prop::collection::vec(prop::sample::select(vec![vec![], vec!["*"], vec!["x-a"]]), 3),
        origins in prop::sample::select(vec![vec![], vec!["*"], vec!["https://a.test"], vec!["https://*.a.test", "null"]]),
        credentials in any::<bool>(),
        origin in prop::option::of("https://(x\\.)?[ab]\\.test|null|\\*"),
        asked in prop::sample::select(vec![ASKED, [(ASKED[0].0, "*"), (ASKED[1].0, "*")]]),
        is_preflight in any::<bool>(),
    ) {
        let [methods, headers, expose] = [0, 1, 2].map(|list| strings(&lists[list]));
        let cors = Cors { origins: strings(&origins), methods, headers, expose, credentials, ..Cors::default() };
        let policy = Policy::new(cors).unwrap();
        let mut request = fields(&asked);
        request.extend(origin.as_ref().map(|origin| (ORIGIN, origin.parse().unwrap())));
        let method = if is_preflight { Method::OPTIONS } else { Method::PUT };
        let fields = match policy.decide(&method, &request) {
            Decision::Preflight { fields, .. } => {
                prop_assert!(is_preflight && origin.is_some());
                fields
            }
            Decision::Share(grant) => {
                prop_assert!(!is_preflight || origin.is_none());
                let mut response = fields(&[("*", "1")]);
                policy.share(&grant, &mut response);
                response.remove("*");
                response
            }
        };
        if credentials {
            prop_assert!(fields.values().all(|value| value != "*"), "{:?}", fields);
        }
        match fields.get(ACCESS_CONTROL_ALLOW_ORIGIN) {
            None => prop_assert!(fields.keys().all(|name| *name == VARY), "{:?}", fields),
            Some(allowed) => prop_assert!(*allowed == "*" || Some(allowed.to_str().unwrap()) == origin.as_deref()),
        }
    }
}
