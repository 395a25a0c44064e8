//! Questions to manifests, without serving them: are they right, where would this request go, what does a change change.

mod asked;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use portcullis::{
    BoxError,
    config::{Config, ListenerProtocol},
    connection::{ConnectionInfo, TlsInfo},
    gateway::{self, Gateway},
    source::{Loaded, Source},
};

use self::asked::Asked;

/// Where the program itself would listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub(crate) bind: IpAddr,
    pub(crate) http_port: u16,
    pub(crate) https_port: u16,
}

/// `--check`: what was loaded and compiles, in numbers.
pub(crate) fn check(manifests: &[PathBuf], own: Own) -> Result<String, BoxError> {
    let (gateway, warnings) = load(manifests.to_vec(), own)?;
    let config = gateway.config();
    let rules: usize = config.routes.iter().map(|route| route.rules.len()).sum();
    let shown = config.listeners.iter().filter_map(|listener| match &listener.protocol {
        ListenerProtocol::Https(ends) | ListenerProtocol::Tls(ends) => Some(ends.certificates.len()),
        _ => None,
    });
    let certificates = config.certificates.len() + shown.sum::<usize>();
    Ok(format!(
        "fine: {} listeners, {} routes with {rules} rules, {} streams, {} upstreams, {certificates} certificates, \
         {warnings} warnings\n",
        config.listeners.len(),
        config.routes.len(),
        config.streams.len(),
        config.upstreams.len(),
    ))
}

/// `--explain`: where a request would go, for each address that it could come in at. That there is none is an error.
pub(crate) fn explain(
    manifests: &[PathBuf],
    own: Own,
    asked: &str,
    address: Option<IpAddr>,
) -> Result<String, BoxError> {
    let asked = Asked::parse(asked)?;
    let (gateway, _) = load(manifests.to_vec(), own)?;
    let config = gateway.config();
    let entrances = entrances(&config, own, &asked, address);
    if entrances.is_empty() {
        let port = asked.port.map_or_else(String::new, |port| format!(" on port {port}"));
        let at = address.map_or_else(String::new, |ip| format!(" at {ip}"));
        let there = ["http", "https", "tcp"].into_iter().flat_map(|scheme| {
            listening(&config, own, scheme).into_iter().map(move |(at, _)| format!("{scheme}://{at}"))
        });
        let there = there.collect::<Vec<_>>().join(", ");
        let scheme = asked.scheme();
        return Err(
            format!("nothing listens for {scheme}{port}{at}: the connection is refused. There is: {there}").into()
        );
    }
    let mut text = String::new();
    for (local, own) in entrances {
        let mut connection = ConnectionInfo::new(SocketAddr::from(([127, 0, 0, 1], 0)), local);
        if own {
            connection = connection.with_own_listener();
        }
        if asked.tls {
            // Addresses are not named in a handshake (RFC 6066 section 3).
            let is_name = asked.host.parse::<IpAddr>().is_err() && !asked.host.starts_with('[');
            let server_name = is_name.then(|| asked.host.as_str().into());
            connection = connection.with_tls(TlsInfo { server_name, ..TlsInfo::default() });
        }
        let mut request = asked.request.clone();
        request.extensions_mut().insert(connection);
        if !text.is_empty() {
            text += "\n";
        }
        text += &match gateway.explain(&request) {
            Ok(explanation) => format!("{explanation}\n"),
            Err(error) => format!("answered 400: {error}\n"),
        };
    }
    Ok(text)
}

/// `--diff`: what changes between two sets of manifests, and whether anything does.
pub(crate) fn diff(old: &Path, new: &Path, own: Own) -> Result<(String, bool), BoxError> {
    let (old, _) = load(vec![old.to_owned()], own)?;
    let (new, _) = load(vec![new.to_owned()], own)?;
    let diff = gateway::diff(&old.config(), &new.config())?;
    Ok((diff.to_string(), !diff.is_empty()))
}

/// A gateway that serves nothing, and how many warnings there were.
fn load(manifests: Vec<PathBuf>, own: Own) -> Result<(Gateway, usize), BoxError> {
    let Loaded { config, warnings, .. } = Source::new(manifests).load()?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    Ok((Gateway::builder(config).bind(own.bind).build()?, warnings.len()))
}

/// The addresses that requests of a scheme come in at, and whether they are the program's own.
fn listening(config: &Config, own: Own, scheme: &str) -> Vec<(SocketAddr, bool)> {
    let mut all: Vec<(SocketAddr, bool)> = Vec::new();
    for listener in &config.listeners {
        let speaks = match listener.protocol {
            ListenerProtocol::Http => "http",
            ListenerProtocol::Https(_) | ListenerProtocol::Tls(_) | ListenerProtocol::TlsPassthrough => "https",
            _ => "tcp",
        };
        let bind = listener.addresses.is_empty().then_some(own.bind);
        let at = listener.addresses.iter().copied().chain(bind).filter(|_| speaks == scheme);
        all.extend(at.map(|ip| (SocketAddr::new(ip, listener.port), false)));
    }
    let unattached = config.routes.iter().any(|route| route.listeners.is_empty() && route.services.is_empty());
    let port = match scheme {
        "http" => Some(own.http_port),
        "https" => Some(own.https_port),
        _ => None,
    };
    if let Some(port) = port
        && (unattached || config.listeners.is_empty())
    {
        let at = SocketAddr::new(own.bind, port);
        all.retain(|(other, _)| *other != at);
        all.push((at, true));
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Those of them that a request could come in at: on its port, whatever a listener of the manifests speaks there. A request
/// that names no port is for the scheme's usual one; where nothing has that, for any of its scheme.
fn entrances(config: &Config, own: Own, asked: &Asked, address: Option<IpAddr>) -> Vec<(SocketAddr, bool)> {
    let mut all = listening(config, own, asked.scheme());
    if asked.port.is_some() {
        let others = ["http", "https", "tcp"].into_iter().filter(|scheme| *scheme != asked.scheme());
        let others = others.flat_map(|scheme| listening(config, own, scheme)).filter(|(_, own)| !own);
        all.extend(others.collect::<Vec<_>>());
    }
    all.retain(|(at, _)| address.is_none_or(|ip| at.ip() == ip));
    let usual = if asked.tls { 443 } else { 80 };
    match asked.port {
        Some(port) => all.retain(|(at, _)| at.port() == port),
        None if all.iter().any(|(at, _)| at.port() == usual) => all.retain(|(at, _)| at.port() == usual),
        None => {}
    }
    all
}
