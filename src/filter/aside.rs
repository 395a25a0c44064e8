//! Requests that are made beside a client's own.

use http::Extensions;

use crate::connection::{ClientAddr, ConnectionInfo};

/// What a request beside the client's knows of it: who the client is, by which endpoints may be chosen.
///
/// Nothing by which it could act on the client's exchange: its record, the connection's upgrade, the sender of its
/// informational responses, the endpoints that were tried, deadlines.
pub(super) fn extensions(of: &Extensions) -> Extensions {
    let mut extensions = Extensions::new();
    if let Some(client) = of.get::<ClientAddr>() {
        extensions.insert(*client);
    }
    if let Some(info) = of.get::<ConnectionInfo>() {
        let mut facts = ConnectionInfo::new(info.socket_peer_addr(), info.local_addr())
            .with_proxied(info.peer_addr(), info.local_addr());
        if let Some(tls) = info.tls() {
            facts = facts.with_tls(tls.clone());
        }
        extensions.insert(facts);
    }
    extensions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{balance::Tried, connection::TlsInfo, exchange::Exchange};

    #[test]
    fn who_the_client_is_goes_along_and_nothing_that_acts_on_its_exchange() {
        let tls = TlsInfo { server_name: Some("a.example".into()), ..TlsInfo::default() };
        let info = ConnectionInfo::new("10.0.0.7:1".parse().unwrap(), "10.0.0.1:443".parse().unwrap())
            .with_proxied("192.0.2.7:2".parse().unwrap(), "192.0.2.1:443".parse().unwrap())
            .with_tls(tls.clone());
        let mut all = Extensions::new();
        all.insert(info);
        all.insert(ClientAddr::new("192.0.2.9".parse().unwrap()));
        all.insert(Exchange::begin());
        all.insert(Tried::default());
        let kept = extensions(&all);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept.get::<ClientAddr>().unwrap().ip().to_string(), "192.0.2.9");
        let info = kept.get::<ConnectionInfo>().unwrap();
        assert_eq!(info.peer_addr().to_string(), "192.0.2.7:2");
        assert_eq!(info.socket_peer_addr().to_string(), "10.0.0.7:1");
        assert_eq!(info.tls(), Some(&tls));
    }
}
