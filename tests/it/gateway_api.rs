//! The Gateway API, from its specification: objects in, real requests through, and what must come of them.

use std::{collections::BTreeMap, net::SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Echo, Ingress, RELOAD, Raw, eventually, free_port,
    gateway_api::{Listener, gateway, http_route, listener_set, object, route},
    get,
    manifest::{backend, secret, service},
    pki::Pki,
    soon,
    tools::{curl, curl_tls, s_client},
    wire,
};

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A Gateway `web` with one plain listener, these routes, and two backends `one` and `two`.
struct Web {
    _ingress: Ingress,
    http: SocketAddr,
    one: Echo,
    two: Echo,
}

async fn web(routes: &[String]) -> Web {
    let (one, two, port) = (Echo::start("one").await, Echo::start("two").await, free_port());
    let world = gateway("web", &[Listener("http", port, "HTTP", "", "")], "")
        + &routes.concat()
        + &backend("one", &[one.addr])
        + &backend("two", &[two.addr]);
    Web { _ingress: Ingress::start(&world).await, http: at(port), one, two }
}

const ONE: &str = "{backendRefs: [{name: one, port: 80}]}";
const TWO: &str = "{backendRefs: [{name: two, port: 80}]}";

/// Status, and which backend answered.
async fn asked(addr: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let answer = get(addr, host, path).await;
    (answer.status, answer.value("x-backend").unwrap_or_default().to_owned())
}

fn answered(status: u16, backend: &str) -> (u16, String) {
    (status, backend.to_owned())
}

#[tokio::test]
async fn the_most_specific_listener_owns_a_host_and_hides_the_routes_of_the_others() {
    let (one, two, port, other) = (Echo::start("one").await, Echo::start("two").await, free_port(), free_port());
    let listeners = [
        Listener("any", port, "HTTP", "", ""),
        Listener("wild", port, "HTTP", "*.shop.example", ""),
        Listener("exact", port, "HTTP", "a.shop.example", ""),
        Listener("aside", other, "HTTP", "", ""),
    ];
    let rule = |path: &str, to: &str| {
        format!("{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: {to}, port: 80}}]}}")
    };
    let to = |name: &str, to: &str| {
        route("HTTPRoute", name, &format!("{{name: web, sectionName: {name}}}"), "", &[&rule(&format!("/{name}"), to)])
    };
    let world = gateway("web", &listeners, "")
        + &to("any", "one")
        + &to("wild", "two")
        + &to("exact", "one")
        + &route("HTTPRoute", "by-port", &format!("{{name: web, port: {other}}}"), "", &[TWO])
        + &backend("one", &[one.addr])
        + &backend("two", &[two.addr]);
    let _ingress = Ingress::start(&world).await;
    for (host, owner, backend) in [
        ("x.example", "any", "one"),
        ("shop.example", "any", "one"),
        ("b.shop.example", "wild", "two"),
        ("c.b.shop.example:1234", "wild", "two"),
        ("A.shop.example", "exact", "one"),
    ] {
        for path in ["any", "wild", "exact"] {
            let expected = if path == owner { answered(200, backend) } else { answered(404, "") };
            assert_eq!(asked(at(port), host, &format!("/{path}")).await, expected, "{host} /{path}");
        }
    }
    assert_eq!(asked(at(other), "a.shop.example", "/any").await, answered(200, "two"));
}

#[tokio::test]
async fn hostnames_of_a_route_and_of_a_listener_meet() {
    let (one, port) = (Echo::start("one").await, free_port());
    let world = gateway("web", &[Listener("wild", port, "HTTP", "*.shop.example", "")], "")
        + &http_route("exact", "a.shop.example, other.example", &[ONE])
        + &http_route(
            "wider",
            "\"*.example\"",
            &["{matches: [{path: {value: /wider}}], backendRefs: [{name: one, port: 80}]}"],
        )
        + &backend("one", &[one.addr]);
    let _ingress = Ingress::start(&world).await;
    for (host, path, status) in [
        ("a.shop.example", "/", 200),
        ("other.example", "/", 404),
        ("b.shop.example", "/", 404),
        ("b.shop.example", "/wider", 200),
        ("shop.example", "/wider", 404),
        ("b.other.example", "/wider", 404),
    ] {
        assert_eq!(asked(at(port), host, path).await.0, status, "{host}{path}");
    }
}

#[tokio::test]
async fn a_more_specific_match_wins_whatever_the_order() {
    let rule = |matches: &str, to: &str| format!("{{matches: [{matches}], backendRefs: [{{name: {to}, port: 80}}]}}");
    let web = web(&[
        http_route("a", "", &[&rule("{path: {value: /}}", "one"), &rule("{path: {value: /p}, method: POST}", "one")]),
        http_route(
            "b",
            "",
            &[
                &rule("{path: {value: /p}}", "two"),
                &rule("{path: {type: Exact, value: /p/exact}}", "two"),
                &rule("{path: {value: /}, headers: [{name: X-Canary, value: \"1\"}]}", "two"),
                &rule("{path: {value: /p/exact/longer}}", "one"),
            ],
        ),
        http_route("z", "", &[&rule("{path: {value: /p}}", "one")]),
    ])
    .await;
    for (path, backend) in
        [("/", "one"), ("/p", "two"), ("/p/x", "two"), ("/px", "one"), ("/p/exact", "two"), ("/p/exact/longer", "one")]
    {
        assert_eq!(asked(web.http, "x", path).await, answered(200, backend), "{path}");
    }
    let post = wire::send(web.http, "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(post.value("x-backend"), Some("one"), "a method outranks the name of the route");
    let canary = wire::send(web.http, "GET / HTTP/1.1\r\nHost: x\r\nx-canary: 1\r\n\r\n").await;
    assert_eq!(canary.value("x-backend"), Some("two"));
}

#[tokio::test]
async fn shares_are_exact_and_an_invalid_one_is_answered_500() {
    let web = web(&[
        http_route("split", "", &["{backendRefs: [{name: one, port: 80, weight: 7}, {name: two, port: 80, weight: 3}]}"]),
        http_route("broken", "broken.example", &[
            "{backendRefs: [{name: one, port: 80, weight: 3}, {name: missing, port: 80}, {name: two, port: 80, weight: 0}]}",
        ]),
        http_route("none", "none.example", &["{matches: [{path: {value: /}}]}"]),
        http_route("empty", "empty.example", &["{backendRefs: [{name: empty, port: 80}]}"]),
        service("empty", &[("http", 80)]),
    ])
    .await;
    let tally = async |host: &str, count: usize| {
        let mut seen = BTreeMap::new();
        for _ in 0..count {
            *seen.entry(asked(web.http, host, "/").await).or_insert(0) += 1;
        }
        seen
    };
    assert_eq!(tally("x", 20).await, [(answered(200, "one"), 14), (answered(200, "two"), 6)].into());
    assert_eq!(tally("broken.example", 20).await, [(answered(200, "one"), 15), (answered(500, ""), 5)].into());
    assert_eq!(asked(web.http, "none.example", "/").await.0, 500);
    assert_eq!(asked(web.http, "empty.example", "/").await.0, 503);
}

#[tokio::test]
async fn filters_change_what_they_name_and_nothing_else() {
    let web = web(&[http_route("filters", "", &[
        "{matches: [{path: {value: /headers}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: \
         [{name: X-Set, value: new}], add: [{name: X-Add, value: more}], remove: [x-gone]}}, {type: \
         ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Backend, value: hidden}]}}], backendRefs: \
         [{name: one, port: 80}]}",
        "{matches: [{path: {value: /old}}], filters: [{type: URLRewrite, urlRewrite: {hostname: new.example, path: \
         {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}], backendRefs: [{name: one, port: 80}]}",
        "{matches: [{path: {value: /moved}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, \
         hostname: else.example, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /to}}}]}",
        "{matches: [{path: {value: /mirror}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: two, \
         port: 80}}}], backendRefs: [{name: one, port: 80}]}",
    ])])
    .await;
    let ask = "GET /headers HTTP/1.1\r\nHost: x:81\r\nx-set: old\r\nx-add: 1\r\nX-Gone: 1\r\nx-kept: 1\r\n\r\n";
    let answer = wire::send(web.http, ask).await;
    let text = answer.text();
    assert_eq!(answer.value("x-backend"), Some("hidden"));
    for line in ["> host: x:81\n", "> x-set: new\n", "> x-add: 1\n> x-add: more\n", "> x-kept: 1\n"] {
        assert!(text.contains(line) || text.contains("> x-add: 1,more\n"), "{line} in {text}");
    }
    assert!(!text.contains("x-gone") && !text.contains("old"), "{text}");

    let text = get(web.http, "x", "/old/a%2Fb?q=%20").await.text();
    assert!(text.contains("target: /new/a%2Fb?q=%20\n") && text.contains("> host: new.example\n"), "{text}");
    assert!(get(web.http, "x", "/older").await.status == 404);

    let moved = get(web.http, "x", "/moved/there?q=1").await;
    assert_eq!((moved.status, moved.value("location")), (308, Some("https://else.example/to/there?q=1")));

    let before = web.two.seen();
    assert_eq!(asked(web.http, "x", "/mirror/status/201").await, answered(201, "one"));
    eventually("the mirrored request", RELOAD, || async {
        if web.two.seen() > before { Ok(()) } else { Err("none".into()) }
    })
    .await;
}

#[tokio::test]
async fn preflights_are_answered_here() {
    let web = web(&[http_route("cors", "", &[
        "{filters: [{type: CORS, cors: {allowOrigins: [\"https://app.example\"], allowMethods: [PUT], allowCredentials: \
         true}}], backendRefs: [{name: one, port: 80}]}",
    ])])
    .await;
    for (origin, allowed) in [("https://app.example", Some("https://app.example")), ("https://evil.example", None)] {
        let ask =
            format!("OPTIONS / HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n\r\n");
        let answer = wire::send(web.http, &ask).await;
        assert_eq!(answer.value("access-control-allow-origin"), allowed, "{}", answer.head);
        assert!(answer.status < 300, "{}", answer.head);
    }
    assert_eq!(web.one.seen(), 0);
}

#[tokio::test]
async fn a_reference_into_another_namespace_needs_a_grant() {
    let (one, port) = (Echo::start("one").await, free_port());
    let far = backend("one", &[one.addr]).replace("metadata:\n", "metadata:\n  namespace: far\n");
    let world = gateway("web", &[Listener("http", port, "HTTP", "", "")], "")
        + &http_route("far", "", &["{backendRefs: [{name: one, namespace: far, port: 80}]}"])
        + &far;
    let ingress = Ingress::start(&world).await;
    assert_eq!(asked(at(port), "x", "/").await.0, 500);
    let grant = |name: &str| {
        let from = "  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]\n";
        object(
            "v1beta1",
            "ReferenceGrant",
            "far",
            "g",
            &format!("{from}  to: [{{group: \"\", kind: Service, name: {name}}}]\n"),
        )
    };
    ingress.replace("world.yaml", &(world.clone() + &grant("one")));
    let becomes = async |status: u16| {
        eventually(&format!("a {status}"), RELOAD, || async {
            let got = asked(at(port), "x", "/").await.0;
            if got == status { Ok(()) } else { Err(got.to_string()) }
        })
        .await;
    };
    becomes(200).await;
    ingress.replace("world.yaml", &(world + &grant("another")));
    becomes(500).await;
}

#[tokio::test]
async fn retries_are_counted_and_what_is_left_has_its_status() {
    let closing = Raw::start(|mut peer| async move {
        let _ = peer.request().await?;
        Ok(())
    })
    .await;
    let web = web(&[
        http_route("retry", "", &[
            "{matches: [{path: {value: /listed}}], retry: {codes: [503], attempts: 2, backoff: 1ms}, backendRefs: [{name: \
             one, port: 80}]}",
            "{matches: [{path: {value: /closing}}], retry: {attempts: 3, backoff: 1ms}, backendRefs: [{name: closing, port: \
             80}]}",
            "{matches: [{path: {value: /slow}}], timeouts: {backendRequest: 50ms}, retry: {attempts: 1, backoff: 1ms}, \
             backendRefs: [{name: one, port: 80}]}",
            "{matches: [{path: {value: /short}}], timeouts: {request: 50ms}, backendRefs: [{name: one, port: 80}]}",
        ]),
        backend("closing", &[closing.addr]),
    ])
    .await;
    for (path, status, attempts) in [
        ("/listed/status/503", 503, 3),
        ("/listed/status/502", 502, 1),
        ("/slow/wait/5000", 504, 2),
        ("/short/wait/5000", 504, 1),
    ] {
        let before = web.one.seen();
        assert_eq!((asked(web.http, "x", path).await.0, web.one.seen() - before), (status, attempts), "{path}");
    }
    assert_eq!((asked(web.http, "x", "/closing").await.0, closing.requests().len()), (503, 4));
}

#[tokio::test]
async fn https_listeners_answer_421_to_a_host_of_another() {
    let (pki, one, two, port) = (Pki::new(), Echo::start("one").await, Echo::start("two").await, free_port());
    let leaf = pki.leaf(&["a.example", "b.example", "x.wild.example"]);
    let tls = "tls: {certificateRefs: [{name: cert}]}";
    let listeners = [
        Listener("any", port, "HTTPS", "", tls),
        Listener("b", port, "HTTPS", "b.example", tls),
        Listener("wild", port, "HTTPS", "*.wild.example", tls),
    ];
    let world = gateway("web", &listeners, "")
        + &secret("cert", &leaf.certificate, &leaf.key)
        + &route("HTTPRoute", "any", "{name: web, sectionName: any}", "a.example", &[ONE])
        + &route("HTTPRoute", "b", "{name: web, sectionName: b}", "", &[TWO])
        + &route("HTTPRoute", "wild", "{name: web, sectionName: wild}", "", &[TWO])
        + &backend("one", &[one.addr])
        + &backend("two", &[two.addr]);
    let _ingress = Ingress::start(&world).await;
    for version in ["--http1.1", "--http2"] {
        for (sni, host, status) in [
            ("a.example", "a.example", 200),
            ("a.example", "b.example", 421),
            ("a.example", "c.example", 404),
            ("b.example", "b.example", 200),
            ("b.example", "a.example", 421),
            ("x.wild.example", "y.wild.example", 200),
            ("x.wild.example", "c.example", 421),
        ] {
            let host_line = format!("Host: {host}");
            let args = [version, "-H", &host_line, "-o", "/dev/null", "--write-out", "%{http_code}"];
            let output = curl_tls(at(port), &pki.ca_file(), sni, "/", &args).await;
            assert_eq!(output.stdout, status.to_string(), "{version} {sni} {host}: {}", output.stderr);
        }
    }
}

/// Sends `hello` over TLS by this name and returns what comes back.
async fn tls_hello(pki: &Pki, addr: SocketAddr, name: &str) -> std::io::Result<String> {
    let mut conn = pki.connect(addr, name).await?;
    conn.stream.write_all(b"hello").await?;
    let mut buffer = [0; 64];
    let count = soon("an answer", conn.stream.read(&mut buffer)).await?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

#[tokio::test]
async fn tls_is_terminated_or_passed_through_by_name_on_one_port() {
    let (pki, port, plain) = (Pki::new(), free_port(), free_port());
    let parrot = Raw::start(|mut peer| async move {
        let mut buffer = [0; 64];
        while let count @ 1.. = peer.stream.read(&mut buffer).await? {
            peer.stream.write_all(&buffer[..count]).await?;
        }
        Ok(())
    })
    .await;
    let leaf = pki.leaf(&["end.example"]);
    let listeners = [
        Listener("end", port, "TLS", "end.example", "tls: {mode: Terminate, certificateRefs: [{name: cert}]}"),
        Listener("through", port, "TLS", "*.through.example", "tls: {mode: Passthrough}"),
        Listener("tcp", plain, "TCP", "", ""),
    ];
    let to = "{backendRefs: [{name: parrot, port: 80}]}";
    let world = gateway("web", &listeners, "")
        + &secret("cert", &leaf.certificate, &leaf.key)
        + &route("TLSRoute", "end", "{name: web}", "end.example", &[to])
        + &route("TLSRoute", "through", "{name: web}", "a.through.example", &[to])
        + &route(
            "TLSRoute",
            "lost",
            "{name: web}",
            "lost.through.example",
            &["{backendRefs: [{name: missing, port: 80}]}"],
        )
        + &route("TCPRoute", "tcp", "{name: web, sectionName: tcp}", "", &[to])
        + &backend("parrot", &[parrot.addr]);
    let _ingress = Ingress::start(&world).await;
    assert_eq!(tls_hello(&pki, at(port), "end.example").await.unwrap(), "hello");
    assert_eq!(parrot.connections(), 1);
    // What is passed through comes back as it was: a ClientHello, which no client takes for an answer.
    let output = s_client(at(port), &pki.ca_file(), &["-servername", "a.through.example"]).await;
    assert_ne!(output.code, 0);
    assert_eq!(parrot.connections(), 2);
    for name in ["lost.through.example", "b.through.example", "nobody.example"] {
        let error = tls_hello(&pki, at(port), name).await.unwrap_err();
        assert!(!error.to_string().contains("alert"), "{name}: closed without an alert, not {error}");
    }
    assert_eq!(parrot.connections(), 2);
    let mut tcp = tokio::net::TcpStream::connect(at(plain)).await.unwrap();
    tcp.write_all(b"hi").await.unwrap();
    let mut buffer = [0; 2];
    soon("an answer", tcp.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"hi");
}

#[tokio::test]
async fn grpc_routes_match_methods_and_answer_in_grpc() {
    let port = free_port();
    let known = "{matches: [{method: {service: pkg.Svc, method: Known}}], backendRefs: [{name: one, port: 80}]}";
    let one = Echo::start("one").await;
    let world = gateway("web", &[Listener("http", port, "HTTP", "", "")], "")
        + &route("GRPCRoute", "g", "{name: web}", "", &[known])
        + &service("one", &[("http", 80)]);
    let _ingress = Ingress::start(&world).await;
    let ask = async |method: &str| {
        let url = format!("http://127.0.0.1:{port}/pkg.Svc/{method}");
        let args = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-d", "", "-i", &url];
        curl(&args).await.stdout
    };
    let unknown = ask("Unknown").await;
    assert!(unknown.contains("grpc-status: 12") || unknown.starts_with("HTTP/2 404"), "{unknown}");
    let empty = ask("Known").await;
    assert!(empty.contains("grpc-status: 14"), "no endpoints: {empty}");
    assert_eq!(one.seen(), 0);
}

#[tokio::test]
async fn a_listener_set_adds_listeners_where_its_gateway_allows_it() {
    let (one, port) = (Echo::start("one").await, free_port());
    let world = |allowed: &str| {
        gateway("web", &[Listener("http", port, "HTTP", "own.example", "")], allowed)
            + &listener_set("default", "more", "web", &[Listener("http", port, "HTTP", "more.example", "")])
            + &http_route("own", "", &[ONE])
            + &route(
                "HTTPRoute",
                "more",
                "{group: gateway.networking.k8s.io, kind: ListenerSet, name: more}",
                "",
                &[ONE],
            )
            + &backend("one", &[one.addr])
    };
    let ingress = Ingress::start(&world("")).await;
    assert_eq!(asked(at(port), "own.example", "/").await.0, 200);
    assert_eq!(asked(at(port), "more.example", "/").await.0, 404);
    ingress.replace("world.yaml", &world("  allowedListeners: {namespaces: {from: Same}}\n"));
    eventually("the set's listener", RELOAD, || async {
        match asked(at(port), "more.example", "/").await.0 {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    assert_eq!(asked(at(port), "own.example", "/").await.0, 200);
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_keeps_nobody_else_from_being_served() {
    let (one, port, another) = (Echo::start("one").await, free_port(), free_port());
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = holder.local_addr().unwrap();
    let web = |port| gateway("web", &[Listener("http", port, "HTTP", "", "")], "");
    let other = gateway("other", &[Listener("http", held.port(), "HTTP", "", "")], "");
    let route = |path: &str| {
        let rule = format!("{{matches: [{{path: {{value: {path}}}}}], {}", ONE.trim_start_matches('{'));
        route("HTTPRoute", "to-one", "{name: web}, {name: other}", "", &[&rule]) + &backend("one", &[one.addr])
    };
    // Its class comes with the first.
    let both = |port, path: &str| web(port) + &other[other.rfind("---").unwrap()..] + &route(path);
    let there = held.to_string();
    let warning = ["WARN", "default/other/http", &there];

    // Asked for while serving.
    let ingress = Ingress::start(&(web(port) + &route("/old"))).await;
    ingress.replace("world.yaml", &both(port, "/new"));
    ingress.logged(0, &warning).await;
    let served = |at: SocketAddr| {
        eventually("the new route", RELOAD, move || async move {
            match wire::try_send(at, "GET /new HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.status.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
    };
    served(at(port)).await;

    // From the start; and once it is free, the next configuration has it.
    let ingress = Ingress::start(&both(another, "/new")).await;
    ingress.logged(0, &warning).await;
    served(at(another)).await;
    drop(holder);
    ingress.sighup().await;
    served(held).await;

    // Where nothing at all is left, it is an error.
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = holder.local_addr().unwrap();
    let exit = Ingress::refuses(&[("world.yaml", &web(held.port()))]).await;
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains(&held.to_string()), "{}", exit.stderr);
}
