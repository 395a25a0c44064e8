use std::{convert::Infallible, net::IpAddr};

use http::{HeaderMap, Request, Response};
use proptest::prelude::*;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;

use super::*;
use crate::{
    connection::{ConnectionInfo, TlsInfo},
    identity::PeerIdentity,
    split::Cohort,
};

/// The fields and the client that a service behind `layer` sees.
fn seen(layer: &ForwardedLayer, peer: Option<&str>, fields: &[(&str, &str)]) -> (HeaderMap, Option<IpAddr>) {
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let client = request.extensions().get::<ClientAddr>().map(|client| client.ip());
        Ok::<_, Infallible>(Response::new((request.into_parts().0.headers, client)))
    }));
    let mut request = Request::get("/").header("host", "shop.example:8443");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    if let Some(peer) = peer {
        let info = ConnectionInfo::new(peer.parse().unwrap(), "10.0.0.1:8443".parse().unwrap());
        let peer_identity = Some(PeerIdentity::new(["spiffe://a.example/cart"], []).into());
        request = request.extension(info.with_tls(TlsInfo { peer_identity, ..TlsInfo::default() }));
    }
    tokio_test::block_on(service.oneshot(request.body(()).unwrap())).unwrap().into_body()
}

fn trusting() -> ForwardedLayer {
    ForwardedLayer::new().trust(["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()])
}

const STRANGER: Option<&str> = Some("192.0.2.7:4711");
const BALANCER: Option<&str> = Some("10.9.9.9:4711");

#[test]
fn a_stranger_is_not_believed() {
    let (headers, client) = seen(
        &ForwardedLayer::new(),
        STRANGER,
        &[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "admin.example"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-prefix", "/admin"),
            ("x-forwarded-client-cert", "Hash=1"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("true-client-ip", "1.1.1.1"),
            ("cf-connecting-ip", "1.1.1.1"),
            ("ssl-client-verify", "SUCCESS"),
            ("x-request-id", "7"),
        ],
    );
    let mut left: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    left.sort();
    assert_eq!(
        left,
        [
            "host: shop.example:8443",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: shop.example:8443",
            "x-forwarded-port: 8443",
            "x-forwarded-proto: https",
            "x-real-ip: 192.0.2.7",
            "x-request-id: 7",
        ]
    );
    assert_eq!(client, Some("192.0.2.7".parse().unwrap()));
}

#[test]
fn a_trusted_peer_is_added_to_what_it_said() {
    let said = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "http"), ("x-forwarded-prefix", "/a")];
    let (headers, client) = seen(&trusting(), BALANCER, &said);
    assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 10.9.9.9");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert!(!headers.contains_key("x-forwarded-port"));
    assert_eq!(headers["x-forwarded-prefix"], "/a");
    assert_eq!(headers["x-forwarded-host"], "shop.example:8443");
    assert_eq!(headers["x-real-ip"], "192.0.2.1");
    assert_eq!(client, Some("192.0.2.1".parse().unwrap()));
}

#[test]
fn the_client_is_the_first_hop_from_the_right_that_is_not_trusted() {
    for (lines, client) in [
        (&["1.1.1.1, 192.0.2.1, 10.1.1.1"][..], "192.0.2.1"),
        (&["1.1.1.1, 192.0.2.1", "10.1.1.1"], "192.0.2.1"),
        (&["192.0.2.1:4711, 10.1.1.1"], "192.0.2.1"),
        (&["[2001:db9::1]:4711,[2001:db8::1]"], "2001:db9::1"),
        (&["::ffff:192.0.2.1"], "192.0.2.1"),
        (&["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        (&["192.0.2.1, unknown, 10.1.1.1"], "10.1.1.1"),
        (&["192.0.2.1, , 10.1.1.1"], "10.1.1.1"),
        (&["garbage"], "10.9.9.9"),
        (&[""], "10.9.9.9"),
        (&[], "10.9.9.9"),
    ] {
        let fields: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        let (headers, found) = seen(&trusting(), BALANCER, &fields);
        assert_eq!(found, Some(client.parse().unwrap()), "{lines:?}");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(headers["x-real-ip"], client);
    }
}

#[test]
fn forwarded_is_walked_where_nothing_else_is_there() {
    for (line, client) in [
        ("for=192.0.2.1;proto=http, for=10.1.1.1", "192.0.2.1"),
        ("proto=http;For=\"[2001:db9::1]:47\", for=10.1.1.1", "2001:db9::1"),
        ("for=\"a, b;c\\\"\", for=10.1.1.1", "10.1.1.1"),
        ("for=_hidden", "10.9.9.9"),
        ("for=\"192.0.2.1", "10.9.9.9"),
    ] {
        assert_eq!(seen(&trusting(), BALANCER, &[("forwarded", line)]).1, Some(client.parse().unwrap()), "{line}");
    }
    let both = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "192.0.2.1")];
    assert_eq!(seen(&trusting(), BALANCER, &both).1, Some("192.0.2.1".parse().unwrap()));
}

#[test]
fn forwarded_is_set_when_asked_for_and_quotes_ipv6() {
    let layer = ForwardedLayer::new().forwarded(true);
    let (headers, _) = seen(&layer, Some("[2001:db8::7]:1"), &[("forwarded", "for=1.1.1.1")]);
    assert_eq!(headers["forwarded"], "for=\"[2001:db8::7]\";proto=https;host=\"shop.example:8443\"");
    assert_eq!(headers["x-forwarded-for"], "2001:db8::7");
    let (headers, _) = seen(&trusting(), BALANCER, &[("forwarded", "for=192.0.2.1")]);
    assert_eq!(headers["forwarded"], "for=192.0.2.1, for=10.9.9.9;proto=https;host=\"shop.example:8443\"");
}

#[test]
fn names_that_read_like_another_are_dropped_whoever_sent_them() {
    for (layer, peer) in [(ForwardedLayer::new(), STRANGER), (trusting(), BALANCER)] {
        let (headers, _) = seen(
            &layer,
            peer,
            &[
                ("x_forwarded_for", "1.1.1.1"),
                ("x-real_ip", "1.1.1.1"),
                ("transfer_encoding", "chunked"),
                ("content_length", "5"),
                ("x_user", "root"),
                ("x-user", "me"),
                ("y_a-b", "1"),
                ("y-a_b", "2"),
                ("my_own", "kept"),
            ],
        );
        let underscored: Vec<_> = headers.keys().filter(|name| name.as_str().contains('_')).collect();
        assert_eq!(underscored, ["my_own"]);
        assert_eq!(headers["x-user"], "me");
    }
    let (headers, _) = seen(&ForwardedLayer::new().drop_underscores(true), STRANGER, &[("my_own", "1")]);
    assert!(!headers.contains_key("my_own"));
}

#[test]
fn a_nomination_is_taken_before_anything_is_added() {
    let fields = [
        ("connection", "keep-alive, x-user, Upgrade, x-forwarded-for, x-real-ip, host"),
        ("x-user", "me"),
        ("upgrade", "websocket"),
    ];
    let (headers, _) = seen(&ForwardedLayer::new(), STRANGER, &fields);
    assert!(!headers.contains_key("x-user"));
    assert_eq!(headers["connection"], "upgrade");
    assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
    assert!(headers.contains_key("host"));
}

#[test]
fn protected_by_setting() {
    let layer = trusting().protect(["x-user".parse().unwrap()]);
    assert!(!seen(&layer, STRANGER, &[("x-user", "me")]).0.contains_key("x-user"));
    assert!(!seen(&layer, STRANGER, &[("x_user", "me")]).0.contains_key("x_user"));
    assert!(seen(&layer, BALANCER, &[("x-user", "me")]).0.contains_key("x-user"));
}

#[test]
fn nobody_is_trusted_who_is_not_known() {
    let (headers, client) = seen(&trusting(), None, &[("x-forwarded-for", "1.1.1.1"), ("x-real-ip", "1.1.1.1")]);
    assert!(!headers.contains_key("x-forwarded-for") && !headers.contains_key("x-real-ip"));
    assert_eq!(client, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_stranger_is_who_it_is_whatever_it_says(
        fields in prop::collection::vec(
            (prop::sample::select(vec![
                "x-forwarded-for", "X-Forwarded-Proto", "x_forwarded_for", "x-forwarded_for", "x-real-ip", "x_real_ip",
                "forwarded", "connection", "x-client-ip", "x-forwarded-x",
            ]), "[ -~]{0,24}"),
            0..8,
        ),
    ) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (headers, client) = seen(&trusting(), STRANGER, &fields);
        prop_assert_eq!(client, Some("192.0.2.7".parse().unwrap()));
        prop_assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["192.0.2.7"]);
        prop_assert_eq!(headers.get_all("x-real-ip").iter().collect::<Vec<_>>(), ["192.0.2.7"]);
        prop_assert_eq!(&headers["x-forwarded-proto"], "https");
        let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip"];
        for name in headers.keys() {
            let dashed = name.as_str().replace('_', "-");
            prop_assert!(!is_protected(&dashed) || ours.contains(&name.as_str()), "{}", name);
        }
    }

    #[test]
    fn any_chain_has_a_client(line in "[ -~]{0,80}", name in prop::sample::select(vec!["forwarded", "x-forwarded-for"])) {
        let (headers, client) = seen(&trusting(), BALANCER, &[(name, &line)]);
        prop_assert!(client.is_some());
        prop_assert!(headers["x-forwarded-for"].to_str().unwrap().ends_with("10.9.9.9"));
    }
}

#[test]
fn the_clients_certificate_is_told_when_asked_for() {
    let said = [("x-forwarded-client-cert", "Hash=1"), ("x-forwarded-client-cert", "Hash=2")];
    let ours = "By=spiffe://a.example/gate;URI=spiffe://a.example/cart";
    for (mode, peer, expected) in [
        (ClientCert::Keep, STRANGER, None),
        (ClientCert::Keep, BALANCER, Some("Hash=1, Hash=2".to_owned())),
        (ClientCert::Set, STRANGER, Some(ours.to_owned())),
        (ClientCert::Set, BALANCER, Some(ours.to_owned())),
        (ClientCert::Set, None, None),
        (ClientCert::Append, STRANGER, Some(ours.to_owned())),
        (ClientCert::Append, BALANCER, Some(format!("Hash=1, Hash=2, {ours}"))),
        (ClientCert::Append, None, None),
    ] {
        let layer = trusting().client_cert(mode).client_cert_by("spiffe://a.example/gate".parse().unwrap());
        let (headers, _) = seen(&layer, peer, &said);
        let told: Vec<_> =
            headers.get_all("x-forwarded-client-cert").iter().map(|value| value.to_str().unwrap()).collect();
        let told = (!told.is_empty()).then(|| told.join(", "));
        assert_eq!(told, expected, "{mode:?} {peer:?}");
    }
}

#[test]
fn a_peer_without_a_certificate_has_nothing_told_of_it() {
    let plain = ConnectionInfo::new("10.9.9.9:1".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    for (mode, expected) in [(ClientCert::Set, None), (ClientCert::Append, Some("Hash=1"))] {
        let service = trusting().client_cert(mode).layer(service_fn(|request: Request<()>| async move {
            Ok::<_, Infallible>(Response::new(request.into_parts().0.headers))
        }));
        let request = Request::get("/").header("x-forwarded-client-cert", "Hash=1").extension(plain.clone());
        let headers = tokio_test::block_on(service.oneshot(request.body(()).unwrap())).unwrap().into_body();
        let told = headers.get("x-forwarded-client-cert").map(|value| value.to_str().unwrap());
        assert_eq!(told, expected, "{mode:?}");
    }
}

#[test]
fn nobody_puts_himself_into_a_cohort() {
    let told = "user=1,portcullis-cohort=shop:canary";
    for (peer, left) in [(None, "user=1"), (STRANGER, "user=1"), (BALANCER, told)] {
        let (headers, _) = seen(&trusting(), peer, &[("baggage", told)]);
        assert_eq!(headers["baggage"], *left, "{peer:?}");
    }
    // Who is put into one by code was put there by somebody else.
    let echo =
        service_fn(async |request: Request<()>| Ok::<_, Infallible>(Response::new(request.into_parts().0.headers)));
    let request = Request::get("/").header("baggage", told).extension(Cohort::new("shop", "stable")).body(()).unwrap();
    let headers = tokio_test::block_on(ForwardedLayer::new().layer(echo).oneshot(request)).unwrap().into_body();
    let lines: Vec<_> = headers.get_all("baggage").iter().collect();
    assert_eq!(lines, ["user=1", "portcullis-cohort=shop:stable"]);
}
