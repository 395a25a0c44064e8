use proptest::prelude::*;

use super::*;

const HTTP: &str = "{name: a, port: 80, protocol: HTTP}";

#[test]
fn of_one_gateways_listeners_that_cannot_be_told_apart_none_is_served() {
    let text = CLASS.to_owned()
        + &gateway(
            "{name: g}",
            "",
            &[
                "{name: both-http, port: 80, protocol: HTTP, hostname: a.com}",
                "{name: both-tcp, port: 80, protocol: TCP}",
                "{name: tls, port: 443, protocol: TLS, hostname: a.com, tls: {mode: Passthrough}}",
                "{name: https, port: 443, protocol: HTTPS, hostname: a.com, tls: {certificateRefs: [{name: s}]}}",
                "{name: other-host, port: 443, protocol: HTTPS, hostname: b.com, tls: {certificateRefs: [{name: s}]}}",
                "{name: other-port, port: 81, protocol: HTTP, hostname: a.com}",
                "{name: no-udp, port: 81, protocol: UDP}",
            ],
        )
        + &certificate("default", "s");
    let loaded = load(&text);
    assert_eq!(
        listeners(&loaded.config),
        ["default/g/other-host :443 b.com https", "default/g/other-port :81 a.com http"]
    );
    let fields: Vec<_> = loaded.warnings.iter().map(|one| &*one.field).collect();
    for field in [0, 1, 2, 3].map(|index| format!("spec.listeners[{index}]")) {
        assert!(fields.contains(&&*field), "{fields:?}");
    }
    assert_eq!(fields.len(), 5);
}

#[test]
fn of_several_gateways_the_older_has_the_place() {
    for (first, second, winner) in [
        ("{name: x}", "{name: y}", "default/x/a"),
        ("{name: y}", "{name: x}", "default/x/a"),
        ("{name: x}", "{name: y, creationTimestamp: '2026-01-01T00:00:00Z'}", "default/y/a"),
        (
            "{name: x, creationTimestamp: '2026-01-01T00:00:00Z'}",
            "{name: y, creationTimestamp: '2025-01-01T00:00:00Z'}",
            "default/y/a",
        ),
        ("{name: x}", "{name: y, namespace: a}", "a/y/a"),
    ] {
        let loaded = load(&(CLASS.to_owned() + &gateway(first, "", &[HTTP]) + &gateway(second, "", &[HTTP])));
        assert_eq!(listeners(&loaded.config), [format!("{winner} :80 * http")], "{first} {second}");
        let [warning] = &*loaded.warnings else { panic!("{:?}", loaded.warnings) };
        let expected = format!("listener {winner} has port 80 and host `*` already; the listener is not served");
        assert_eq!((&*warning.field, &*warning.message), ("spec.listeners[0]", &*expected));
    }
}

#[test]
fn gateways_share_ports_by_address_and_host() {
    let at = |address: &str| format!("addresses: [{address}],");
    let text = CLASS.to_owned()
        + &gateway("{name: a}", &at("{value: 10.0.0.1}, {value: 10.0.0.2}"), &[HTTP])
        + &gateway("{name: b}", &at("{value: 10.0.0.2}, {value: 10.0.0.3}"), &[HTTP])
        + &gateway("{name: c}", &at("{value: 10.0.0.2}"), &["{name: a, port: 80, protocol: HTTP, hostname: c.com}"])
        + &gateway("{name: d}", &at("{value: 10.0.0.3}"), &["{name: a, port: 80, protocol: TCP}"])
        + &gateway("{name: e}", "", &[HTTP]);
    let loaded = load(&text);
    assert_eq!(
        listeners(&loaded.config),
        [
            "default/a/a 10.0.0.1,10.0.0.2:80 * http",
            "default/b/a 10.0.0.3:80 * http",
            "default/c/a 10.0.0.2:80 c.com http",
            "default/e/a :80 * http",
        ]
    );
    let told = told(&loaded);
    assert!(told[0].ends_with("at 10.0.0.2; the listener is served at its other addresses"), "{told:?}");
    assert!(told[1].contains("has port 80 for another protocol at 10.0.0.3; the listener is not served"), "{told:?}");
    assert_eq!(told.len(), 2);
}

/// Objects with ties that only age and names settle.
fn tied() -> Vec<String> {
    let sets = "allowedListeners: {namespaces: {from: All}},";
    let own = "{name: o, port: 80, protocol: HTTP, hostname: own.com, allowedRoutes: {namespaces: {from: All}}}";
    let [shared, tcp] = ["{name: s, port: 80, protocol: HTTP, hostname: s.com}", "{name: t, port: 80, protocol: TCP}"];
    let spec = "{parentRefs: [{name: g}], rules: [{backendRefs: [{name: b, port: 80}]}]}";
    let all = CLASS.to_owned()
        + &gateway("{name: g}", sets, &[own, "{name: raw, port: 90, protocol: TCP}"])
        + &gateway("{name: h, creationTimestamp: '2026-01-01T00:00:00Z'}", sets, &[own])
        + &listener_set("{name: a}", "{name: g}", &[shared])
        + &listener_set("{name: b}", "{name: g}", &[shared, tcp])
        + &listener_set("{name: z, creationTimestamp: '2026-01-01T00:00:00Z'}", "{name: g}", &[shared])
        + &object("TCPRoute", "{name: b}", spec)
        + &object("TCPRoute", "{name: a}", spec)
        + &object("HTTPRoute", "{name: a}", &spec.replace("parentRefs: [", "parentRefs: [{name: h}, "))
        + &object("HTTPRoute", "{name: b}", spec)
        + &service("b");
    all.split("---\n").filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn order_means_nothing_to_gateways(shuffled in Just(tied()).prop_shuffle()) {
        let expected = load(&tied().join("---\n")).config;
        prop_assert_eq!(
            listeners(&expected),
            ["default/h/o :80 own.com http", "default/g/raw :90 * tcp", "listenerset/default/z/s :80 s.com http"]
        );
        prop_assert_eq!(expected.routes.len(), 1, "the other has no listener that is served");
        prop_assert_eq!(expected.streams.len(), 2);
        prop_assert_eq!(load(&shuffled.join("---\n")).config, expected);
    }
}
