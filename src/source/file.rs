//! Our own YAML: a [`Config`] as it is, with certificates by file.
//!
//! The fields are those of [`Config`], [`Route`](crate::config::Route), [`Rule`](crate::config::Rule) and
//! [`Upstream`](crate::config::Upstream), where their defaults are written down too. A field that is not known, or has no
//! value, is an error. Several files make one configuration.
//!
//! - Certificates, keys and revocation lists (`cert`, `key`, `ca`, `crl`) are paths, relative to the file they stand in, or PEM text.
//! - `identity` is the name of one that the program gives (`GatewayBuilder::identity`).
//! - Durations are numbers with units: `1m30s`, `250ms`.
//! - Backends and endpoints that need no weight are written as their name or address alone.
//! - A backend is an upstream of that name or a service in this process; the gateway knows those, and says which is missing.
//!
//! # Example
//! ```yaml
#![doc = include_str!("file/example.yaml")]
//! ```
//!
//! What else a rule and an upstream can ask for:
//! ```yaml
#![doc = include_str!("file/policies.yaml")]
//! ```
//!
//! In a program:
//! ```
//! let text = "{routes: [{name: all, rules: [{backends: [app]}]}]}";
//! let config = portcullis::source::parse("gate.yaml", text)?.config;
//! assert_eq!(config.routes[0].rules[0].backends[0].name, "app");
//! # Ok::<_, portcullis::source::LoadError>(())
//! ```

use std::{collections::HashMap, path::Path};

use super::{
    Document, Fingerprint, Report,
    decode::{Nulls, decode},
    error::{Fault, Place, Problem},
    files,
    tree::{Node, Value},
};
use crate::config::{
    Certificate, Config, Endpoints, Filter, ListenerProtocol, PathMatch, Roots, TrustBundle, check::Wrong,
};

/// Joins the documents to one configuration; what is wrong with them goes to `report`.
pub(super) fn config(documents: Vec<Document>, report: &mut Report, files: &mut Fingerprint) -> Config {
    let mut whole = Config::default();
    let mut names = HashMap::new();
    let mut forwarded: Option<Place> = None;
    for mut document in documents {
        let before = report.problems.len();
        let mut origins = Vec::new();
        read_references(&mut document, &mut origins, report, files);
        if report.problems.len() > before {
            continue;
        }
        let Document { file, node, .. } = document;
        let mut found = |position: (u32, u32), field: String, fault| {
            let place = Place { file: file.clone(), line: position.0, column: position.1 };
            report.problems.push(Problem { place, object: None, field, fault });
        };
        let mut config = match decode::<Config>(&node, Nulls::Refused) {
            Ok(config) => config,
            Err(error) => {
                let field = error.field();
                found(error.position.unwrap_or((node.line, node.column)), field, error.fault);
                continue;
            }
        };
        for (certificate, origin) in certificates(&mut config).zip(origins) {
            certificate.origin = origin;
        }
        check(&config, &mut |field, fault| found(node.locate(&field), field, fault));
        let of_routes = config.routes.iter().map(|route| &route.name).enumerate();
        let of_routes = of_routes.map(|(index, name)| ("routes", index, name));
        let of_upstreams = config.upstreams.iter().map(|upstream| &upstream.name).enumerate();
        let of_upstreams = of_upstreams.map(|(index, name)| ("upstreams", index, name));
        for (list, index, name) in of_routes.chain(of_upstreams) {
            let field = format!("{list}[{index}].name");
            let (line, column) = node.locate(&field);
            let place = Place { file: file.clone(), line, column };
            if let Some(first) = names.insert((list, name.clone()), place.clone()) {
                names.insert((list, name.clone()), first.clone());
                found((line, column), field, Fault::Duplicate { first });
            }
        }
        if let Some(settings) = config.forwarded.take() {
            let (line, column) = node.locate("forwarded");
            match &forwarded {
                Some(first) => {
                    found((line, column), "forwarded".to_owned(), Fault::Duplicate { first: first.clone() });
                }
                None => forwarded = Some(Place { file: file.clone(), line, column }),
            }
            whole.forwarded = Some(settings);
        }
        whole.listeners.append(&mut config.listeners);
        whole.routes.append(&mut config.routes);
        whole.streams.append(&mut config.streams);
        whole.services.append(&mut config.services);
        whole.upstreams.append(&mut config.upstreams);
        whole.certificates.append(&mut config.certificates);
    }
    whole
}

/// What is wrong although each value by itself is one.
fn check(config: &Config, found: &mut dyn FnMut(String, Fault)) {
    let invalid = |why: &str| Fault::Invalid(why.to_owned());
    for (index, route) in config.routes.iter().enumerate() {
        let route_field = format!("routes[{index}]");
        if route.rules.is_empty() {
            found(format!("{route_field}.rules"), invalid("has no rules: give it one, or remove the route"));
        }
        for (index, rule) in route.rules.iter().enumerate() {
            let rule_field = format!("{route_field}.rules[{index}]");
            let redirects = rule.filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
            if rule.backends.is_empty() && !redirects {
                found(format!("{rule_field}.backends"), invalid("has no backends: name one"));
            }
            for Wrong { field, why } in rule.wrong() {
                found(format!("{rule_field}.{field}"), Fault::Invalid(why));
            }
            for (index, one) in rule.matches.iter().enumerate() {
                if let PathMatch::Exact(path) | PathMatch::Prefix(path) = &one.path
                    && !path.starts_with('/')
                {
                    let fault = Fault::Path { path: path.clone(), why: "it must start with `/`" };
                    found(format!("{rule_field}.matches[{index}].path"), fault);
                }
            }
        }
    }
    for (index, service) in config.services.iter().enumerate() {
        for (number, port) in service.ports.iter().enumerate() {
            for Wrong { field, why } in port.backend.wrong() {
                found(format!("services[{index}].ports[{number}].backend.{field}"), Fault::Invalid(why));
            }
        }
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        let field = |name: &str| format!("upstreams[{index}].{name}");
        for wrong in upstream.wrong() {
            found(field(&wrong.field), Fault::Invalid(wrong.why));
        }
        if upstream.max_attempts == 0 {
            found(field("max_attempts"), invalid("must be 1 or more"));
        }
        if upstream.pool.max_connections == 0 {
            found(field("pool.max_connections"), invalid("must be 1 or more"));
        }
        if upstream.pool.max_streams == 0 {
            found(field("pool.max_streams"), invalid("must be 1 or more"));
        }
        if let Endpoints::Dns { refresh, .. } = &upstream.endpoints
            && refresh.is_zero()
        {
            found(field("endpoints.dns.refresh"), invalid("must be more than zero"));
        }
        if let Some(tls) = &upstream.tls {
            if tls.identity.is_some() && tls.client_auth.is_some() {
                found(field("tls.identity"), invalid("cannot stand beside `client_auth`: leave one of them out"));
            }
            let flat = [("ca", tls.roots != Roots::System), ("crl", tls.crls.is_some())];
            check_trust(&field("tls"), tls.trust.as_deref(), flat, found);
        }
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        let (protocol, ends) = match &listener.protocol {
            ListenerProtocol::Https(ends) => ("https", ends),
            ListenerProtocol::Tls(ends) => ("tls", ends),
            _ => continue,
        };
        let field = format!("listeners[{index}].protocol.{protocol}");
        if ends.identity.is_some() && !ends.certificates.is_empty() {
            let why = invalid("cannot stand beside `certificates`: leave one of them out");
            found(format!("{field}.identity"), why);
        }
        let Some(client) = &ends.client else { continue };
        let field = format!("{field}.client");
        let of_identity = ends.identity.is_some() && client.crls.is_none();
        if client.roots.is_empty() && client.trust.is_none() && !of_identity {
            found(format!("{field}.ca"), Fault::Missing);
        }
        let flat = [("ca", !client.roots.is_empty()), ("crl", client.crls.is_some())];
        check_trust(&field, client.trust.as_deref(), flat, found);
    }
}

/// Trust by domain: with what is `flat`, authorities would be trusted for every name after all.
fn check_trust(
    field: &str,
    trust: Option<&[TrustBundle]>,
    flat: [(&str, bool); 2],
    found: &mut dyn FnMut(String, Fault),
) {
    let Some(bundles) = trust else { return };
    for (name, _) in flat.into_iter().filter(|(_, is_there)| *is_there) {
        let why = "cannot stand beside `trust`, where each trust domain has its own: move it there, or leave one out";
        found(format!("{field}.{name}"), Fault::Invalid(why.to_owned()));
    }
    if bundles.is_empty() {
        let why = "has no trust domain: name one, or leave the field out";
        found(format!("{field}.trust"), Fault::Invalid(why.to_owned()));
    }
    for (index, bundle) in bundles.iter().enumerate() {
        if bundles.iter().take(index).any(|before| before.domain == bundle.domain) {
            let why = format!("`{}` is there twice: give all its authorities in one place", bundle.domain);
            found(format!("{field}.trust[{index}].domain"), Fault::Invalid(why));
        }
    }
}

#[derive(Clone, Copy)]
enum Pem {
    Certificates,
    Key,
    RevocationLists,
}

/// A configuration's certificates, in the order of [`read_references`].
fn certificates(config: &mut Config) -> impl Iterator<Item = &mut Certificate> {
    let of_listeners = config.listeners.iter_mut().flat_map(|listener| match &mut listener.protocol {
        ListenerProtocol::Https(ends) | ListenerProtocol::Tls(ends) => ends.certificates.iter_mut(),
        _ => [].iter_mut(),
    });
    of_listeners.chain(&mut config.certificates)
}

/// Puts the content of every file that is referred to in the place of its path. The certificates' files go to `origins`.
fn read_references(document: &mut Document, origins: &mut Vec<String>, report: &mut Report, files: &mut Fingerprint) {
    let Document { file, folder, node } = document;
    let named = file.clone();
    let mut read = |field: String, node: Option<&mut Node>, sort: Pem| {
        let node = node?;
        let at = Place { file: file.clone(), line: node.line, column: node.column };
        match resolve(node, folder, sort, files) {
            Ok(path) => path,
            Err(fault) => {
                report.problems.push(Problem { place: at, object: None, field, fault });
                None
            }
        }
    };
    let trust = |field: &str, node: &mut Node, read: &mut dyn FnMut(String, Option<&mut Node>, Pem) -> _| {
        let mut both = |field: &str, node: &mut Node| {
            let _: Option<String> = read(format!("{field}.ca"), node.get_mut("ca"), Pem::Certificates);
            read(format!("{field}.crl"), node.get_mut("crl"), Pem::RevocationLists);
        };
        both(field, node);
        for (index, bundle) in list(node, "trust").iter_mut().enumerate() {
            both(&format!("{field}.trust[{index}]"), bundle);
        }
    };
    for (index, upstream) in list(node, "upstreams").iter_mut().enumerate() {
        let Some(tls) = upstream.get_mut("tls") else {
            continue;
        };
        let field = format!("upstreams[{index}].tls");
        trust(&field, tls, &mut read);
        if let Some(own) = tls.get_mut("client_auth") {
            read(format!("{field}.client_auth.cert"), own.get_mut("cert"), Pem::Certificates);
            read(format!("{field}.client_auth.key"), own.get_mut("key"), Pem::Key);
        }
    }
    let mut certificates = |field: &str, node: &mut Node, read: &mut dyn FnMut(String, Option<&mut Node>, Pem) -> _| {
        for (index, certificate) in list(node, "certificates").iter_mut().enumerate() {
            let field = format!("{field}certificates[{index}]");
            let at = format!("{named}:{}: {field}", certificate.line);
            let path: Option<String> = read(format!("{field}.cert"), certificate.get_mut("cert"), Pem::Certificates);
            read(format!("{field}.key"), certificate.get_mut("key"), Pem::Key);
            origins.push(path.map_or_else(|| at.clone(), |path| format!("{at} ({path})")));
        }
    };
    for (index, listener) in list(node, "listeners").iter_mut().enumerate() {
        for protocol in ["https", "tls"] {
            let ends = listener.get_mut("protocol").and_then(|listener| listener.get_mut(protocol));
            let Some(ends) = ends else { continue };
            let field = format!("listeners[{index}].protocol.{protocol}.");
            certificates(&field, ends, &mut read);
            if let Some(client) = ends.get_mut("client") {
                trust(&format!("{field}client"), client, &mut read);
            }
        }
    }
    certificates("", node, &mut read);
}

fn list<'a>(node: &'a mut Node, key: &str) -> &'a mut [Node] {
    node.get_mut(key).map(Node::elements_mut).unwrap_or_default()
}

/// Makes PEM text of a path; gives the path. What is no text is left to be found by its type.
fn resolve(node: &mut Node, folder: &Path, sort: Pem, files: &mut Fingerprint) -> Result<Option<String>, Fault> {
    let Value::Text(text) = &mut node.value else {
        return Ok(None);
    };
    if text.contains("-----BEGIN") {
        return check_pem(text, sort).map(|()| None).map_err(Fault::Pem);
    }
    let path = folder.join(&**text);
    let shown = path.display().to_string();
    let content = files::read(&path, files).map_err(|problem| match problem.fault {
        Fault::Unreadable(why) => Fault::Unreadable(format!("{shown}: {why}")),
        other => other,
    })?;
    let content = String::from_utf8(content).map_err(|_| Fault::Pem(format!("{shown}: is not PEM text")))?;
    check_pem(&content, sort).map_err(|why| Fault::Pem(format!("{shown}: {why}")))?;
    *text = content.into();
    Ok(Some(shown))
}

#[cfg(feature = "tls")]
fn check_pem(text: &str, sort: Pem) -> Result<(), String> {
    match sort {
        Pem::Certificates => super::pem::check_certificates(text.as_bytes()),
        Pem::Key => super::pem::check_key(text.as_bytes()),
        Pem::RevocationLists => super::pem::check_crls(text.as_bytes()),
    }
}

#[cfg(not(feature = "tls"))]
fn check_pem(text: &str, sort: Pem) -> Result<(), String> {
    let (marker, what) = match sort {
        Pem::Certificates => ("BEGIN CERTIFICATE", "certificate"),
        Pem::Key => ("PRIVATE KEY", "private key"),
        Pem::RevocationLists => ("BEGIN X509 CRL", "revocation list"),
    };
    if text.contains(marker) { Ok(()) } else { Err(format!("has no {what} in PEM")) }
}

#[cfg(test)]
mod tests;
