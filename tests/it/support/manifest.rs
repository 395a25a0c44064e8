//! Kubernetes YAML, built from small pieces. Every function returns one document, or several, each begun by `---`.

use std::{fmt::Write as _, net::SocketAddr};

/// A rule of an Ingress: host (empty for any) and its paths.
pub(crate) struct Rule<'a>(pub(crate) &'a str, pub(crate) &'a [Path<'a>]);

/// A path of a rule: type, path, Service name, and its port by number or by name.
pub(crate) struct Path<'a>(pub(crate) &'a str, pub(crate) &'a str, pub(crate) &'a str, pub(crate) &'a str);

/// An Ingress object, piece by piece.
#[derive(Debug)]
pub(crate) struct Ingress {
    head: String,
    spec: String,
}

/// An Ingress without rules; `.rule(..)` and the others add to it.
pub(crate) fn ingress(name: &str) -> Ingress {
    let head = format!("---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n");
    Ingress { head, spec: String::from("spec:\n  rules:\n") }
}

impl Ingress {
    /// Names its class.
    pub(crate) fn class(mut self, class: &str) -> Self {
        self.spec.insert_str("spec:\n".len(), &format!("  ingressClassName: {class}\n"));
        self
    }

    /// Puts it into a namespace.
    pub(crate) fn namespace(mut self, namespace: &str) -> Self {
        let _ = writeln!(self.head, "  namespace: {namespace}");
        self
    }

    /// Where requests go that no rule matches.
    pub(crate) fn default_backend(mut self, service: &str, port: u16) -> Self {
        let text = format!("  defaultBackend:\n    service:\n      name: {service}\n      port: {{number: {port}}}\n");
        self.spec.insert_str("spec:\n".len(), &text);
        self
    }

    /// A certificate for hosts.
    pub(crate) fn tls(mut self, hosts: &[&str], secret: &str) -> Self {
        let hosts = hosts.iter().map(|host| format!("\"{host}\"")).collect::<Vec<_>>().join(", ");
        let entry = format!("  - hosts: [{hosts}]\n    secretName: {secret}\n");
        match self.spec.find("  tls:\n") {
            Some(at) => self.spec.insert_str(at + "  tls:\n".len(), &entry),
            None => self.spec.insert_str("spec:\n".len(), &format!("  tls:\n{entry}")),
        }
        self
    }

    /// A rule.
    pub(crate) fn rule(mut self, Rule(host, paths): Rule<'_>) -> Self {
        let spec = &mut self.spec;
        let _ = match host {
            "" => writeln!(spec, "  - http:"),
            host => writeln!(spec, "  - host: \"{host}\"\n    http:"),
        };
        let _ = writeln!(spec, "      paths:");
        for Path(kind, path, service, port) in paths {
            let by = if port.parse::<u16>().is_ok() { "number" } else { "name" };
            let _ = writeln!(spec, "      - pathType: {kind}\n        path: \"{path}\"");
            let _ = writeln!(spec, "        backend:\n          service:\n            name: {service}");
            let _ = writeln!(spec, "            port:\n              {by}: {port}");
        }
        self
    }

    /// The document.
    pub(crate) fn yaml(self) -> String {
        let spec = self.spec.strip_suffix("  rules:\n").map(str::to_owned).unwrap_or(self.spec);
        self.head + &spec
    }
}

/// An IngressClass.
pub(crate) fn class(name: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: {name}\nspec:\n  \
         controller: example.com/any\n"
    )
}

/// A Service with these ports: name (may be empty) and number.
pub(crate) fn service(name: &str, ports: &[(&str, u16)]) -> String {
    let mut text = format!("---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports:\n");
    for (name, port) in ports {
        let _ = match *name {
            "" => writeln!(text, "  - port: {port}"),
            name => writeln!(text, "  - name: {name}\n    port: {port}"),
        };
    }
    text
}

/// An EndpointSlice of one endpoint; `conditions` is YAML such as `{ready: false}`, empty for none.
pub(crate) fn slice(service: &str, port: &str, endpoint: SocketAddr, conditions: &str) -> String {
    let mut text = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{port}{}-{}\n  \
         labels:\n    kubernetes.io/service-name: {service}\naddressType: IPv4\nports:\n- name: \"{port}\"\n  \
         port: {}\n  protocol: TCP\nendpoints:\n- addresses: [\"{}\"]\n",
        if port.is_empty() { "unnamed" } else { "" },
        endpoint.port(),
        endpoint.port(),
        endpoint.ip(),
    );
    if !conditions.is_empty() {
        let _ = writeln!(text, "  conditions: {conditions}");
    }
    text
}

/// A Service of one port, 80 named `http`, and its endpoints.
pub(crate) fn backend(name: &str, endpoints: &[SocketAddr]) -> String {
    let slices = endpoints.iter().map(|endpoint| slice(name, "http", *endpoint, ""));
    service(name, &[("http", 80)]) + &slices.collect::<String>()
}

/// The usual world: one Ingress without host that sends everything to one backend of these endpoints.
pub(crate) fn everything_to(endpoints: &[SocketAddr]) -> String {
    let to_it = ingress("all").rule(Rule("", &[Path("Prefix", "/", "app", "80")])).yaml();
    to_it + &backend("app", endpoints)
}

/// A TLS Secret.
pub(crate) fn secret(name: &str, certificate: &str, key: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\ntype: kubernetes.io/tls\ndata:\n  \
         tls.crt: {}\n  tls.key: {}\n",
        base64(certificate.as_bytes()),
        base64(key.as_bytes()),
    )
}

/// A ConfigMap with this text as its `ca.crt`.
pub(crate) fn config_map(name: &str, ca: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\nbinaryData:\n  ca.crt: {}\n",
        base64(ca.as_bytes())
    )
}

/// Base64 with padding (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain([&0, &0]).take(3).fold(0_usize, |group, byte| group << 8 | usize::from(*byte));
        for place in 0..4 {
            let letter = ALPHABET[group >> (18 - 6 * place) & 63];
            text.push(if place > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[test]
fn base64_agrees_with_the_rfc() {
    let vectors =
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
    for (plain, encoded) in vectors {
        assert_eq!(base64(plain.as_bytes()), encoded);
    }
}
