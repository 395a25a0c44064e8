use super::*;

/// A Gateway `infra/g` that lets ListenerSets in by this rule.
fn parent(allowed: &str) -> String {
    let more = format!("allowedListeners: {allowed},");
    CLASS.to_owned()
        + &gateway("{name: g, namespace: infra}", &more, &["{name: own, port: 80, protocol: HTTP, hostname: own.com}"])
}

const PARENT: &str = "{name: g, namespace: infra}";

#[test]
fn the_gateway_says_who_may_add_listeners() {
    let one = "{name: l, port: 80, protocol: HTTP, hostname: set.com}";
    for (allowed, namespaces, is_served) in [
        ("null", "", false),
        ("{}", "", false),
        ("{namespaces: {from: None}}", "", false),
        ("{namespaces: {from: Same}}", "", false),
        ("{namespaces: {from: All}}", "", true),
        ("{namespaces: {from: Selector, selector: {matchLabels: {team: web}}}}", "{team: web}", true),
        ("{namespaces: {from: Selector, selector: {matchLabels: {team: web}}}}", "{team: api}", false),
        ("{namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: team}}}}", "", true),
    ] {
        let namespaces = if namespaces.is_empty() { String::new() } else { namespace("team", namespaces) };
        let set = listener_set("{name: s, namespace: team}", PARENT, &[one]);
        let text = parent(allowed) + &namespaces + &set;
        let loaded = load(&text);
        let mut expected = vec!["infra/g/own :80 own.com http"];
        if is_served {
            expected.push("listenerset/team/s/l :80 set.com http");
        }
        assert_eq!(listeners(&loaded.config), expected, "{allowed}");
        assert_eq!(loaded.warnings.len(), usize::from(!is_served), "{allowed}");
        let route = "[{kind: ListenerSet, name: s}]";
        let (attached, told) = attach(&text, "HTTPRoute", "team", route, &[]);
        assert_eq!(attached.len(), usize::from(is_served), "{allowed}");
        assert_eq!(told.len(), usize::from(!is_served), "{told:?}");
    }
}

#[test]
fn what_came_first_keeps_its_place() {
    let all = "{namespaces: {from: All}}";
    let set = |metadata: &str, listeners: &[&str]| listener_set(metadata, PARENT, listeners);
    let own = "{name: a, port: 80, protocol: HTTP, hostname: own.com}";
    let shared = "{name: b, port: 80, protocol: HTTP, hostname: shared.com}";
    let tcp = "{name: c, port: 80, protocol: TCP}";
    let [x, y] = ["x", "y"].map(|host| format!("{{name: {host}, port: 80, protocol: HTTP, hostname: {host}.com}}"));
    let text = parent(all)
        + &set("{name: older, namespace: z, creationTimestamp: '2025-01-01T00:00:00Z'}", &[own, shared, &x])
        + &set("{name: b, namespace: a}", &[tcp, shared])
        + &set("{name: a, namespace: a}", &[&y, tcp])
        + &set(
            "{name: c, namespace: a}",
            &[
                "{name: p, port: 90, protocol: HTTP}",
                "{name: q, port: 90, protocol: TCP}",
                "{name: r, port: 91, protocol: TCP}",
            ],
        );
    let loaded = load(&text);
    assert_eq!(
        listeners(&loaded.config),
        [
            "infra/g/own :80 own.com http",
            "listenerset/z/older/b :80 shared.com http",
            "listenerset/z/older/x :80 x.com http",
            "listenerset/a/a/y :80 y.com http",
            "listenerset/a/c/r :91 * tcp",
        ]
    );
    let objects: Vec<_> =
        loaded.warnings.iter().map(|one| (one.object.as_deref().unwrap_or_default(), &*one.field)).collect();
    assert_eq!(
        objects,
        [
            ("ListenerSet z/older", "spec.listeners[0]"),
            ("ListenerSet a/b", "spec.listeners[0]"),
            ("ListenerSet a/b", "spec.listeners[1]"),
            ("ListenerSet a/a", "spec.listeners[1]"),
            ("ListenerSet a/c", "spec.listeners[0]"),
            ("ListenerSet a/c", "spec.listeners[1]"),
        ]
    );
}

#[test]
fn a_route_attaches_to_the_gateway_or_to_the_set_as_it_says() {
    let text = parent("{namespaces: {from: All}}")
        + &listener_set(
            "{name: g, namespace: infra}",
            "{name: g}",
            &["{name: more, port: 80, protocol: HTTP, hostname: set.com}"],
        );
    for (parents, expected) in [
        ("[{name: g}]", vec!["infra/g/own"]),
        ("[{name: g, kind: ListenerSet}]", vec!["listenerset/infra/g/more"]),
        (
            "[{name: g}, {name: g, kind: ListenerSet, sectionName: more}]",
            vec!["infra/g/own", "listenerset/infra/g/more"],
        ),
        ("[{name: g, sectionName: more}]", vec![]),
        ("[{name: g, kind: ListenerSet, sectionName: own}]", vec![]),
        ("[{name: g, kind: XListenerSet, group: gateway.networking.x-k8s.io}]", vec![]),
    ] {
        assert_eq!(attach(&text, "HTTPRoute", "infra", parents, &[]).0, expected, "{parents}");
    }
}

#[test]
fn the_set_of_the_trial_is_another_kind() {
    let set = |kind: &str, version: &str, host: &str| {
        let listeners = format!("[{{name: l, port: 80, protocol: HTTP, hostname: {host}}}]");
        let spec = format!("{{parentRef: {{name: g}}, listeners: {listeners}}}");
        object(kind, "{name: s, namespace: infra}", &spec).replace("gateway.networking.k8s.io/v1", version)
    };
    let text = parent("{namespaces: {from: Same}}")
        + &set("ListenerSet", "gateway.networking.k8s.io/v1", "a.com")
        + &set("XListenerSet", "gateway.networking.x-k8s.io/v1alpha1", "b.com");
    assert_eq!(
        listeners(&load(&text).config),
        [
            "infra/g/own :80 own.com http",
            "listenerset/infra/s/l :80 a.com http",
            "xlistenerset/infra/s/l :80 b.com http"
        ]
    );
    let parents = "[{name: s, kind: XListenerSet, group: gateway.networking.x-k8s.io}]";
    assert_eq!(attach(&text, "HTTPRoute", "infra", parents, &[]).0, ["xlistenerset/infra/s/l"]);
}

#[test]
fn a_set_goes_with_its_gateway() {
    let one = &["{name: l, port: 80, protocol: HTTP}"][..];
    for (parent_ref, why) in [
        ("{name: gone}", "there is no Gateway infra/gone"),
        ("{name: g, kind: Service, group: ''}", "`Service` of group `` is no Gateway"),
        ("{name: g}", "there is no GatewayClass `c`"),
    ] {
        let set = listener_set("{name: s, namespace: infra}", parent_ref, one);
        let text = parent("{namespaces: {from: All}}").replace(CLASS, "") + &set;
        assert_eq!(listeners(&load(&text).config), [""; 0]);
        let (attached, told) = attach(&text, "HTTPRoute", "infra", "[{kind: ListenerSet, name: s}]", &[]);
        assert_eq!(attached, [""; 0]);
        assert!(told[0].contains("ListenerSet infra/s is not served") && told[0].contains(why), "{told:?}");
    }
}

#[test]
fn grants_to_the_gateway_are_not_its_sets() {
    let tls = "tls: {certificateRefs: [{name: s, namespace: certs}]}";
    let own = format!("{{name: own, port: 443, protocol: HTTPS, hostname: own.com, {tls}}}");
    let more = format!("{{name: more, port: 443, protocol: HTTPS, hostname: more.com, {tls}}}");
    for (kind, invalid) in [("Gateway", "more"), ("ListenerSet", "own")] {
        let text = CLASS.to_owned()
            + &gateway("{name: g, namespace: n}", "allowedListeners: {namespaces: {from: Same}},", &[&own])
            + &listener_set("{name: s, namespace: n}", "{name: g}", &[&more])
            + &certificate("certs", "s")
            + &grant(
                "certs",
                &format!("{{group: gateway.networking.k8s.io, kind: {kind}, namespace: n}}"),
                "{group: '', kind: Secret}",
            );
        for listener in load(&text).config.listeners {
            assert_eq!(listener.invalid.is_some(), listener.name.ends_with(invalid), "{kind} {}", listener.name);
        }
    }
}
