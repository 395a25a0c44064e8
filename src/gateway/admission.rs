//! What becomes of a connection, by the listeners of the configuration as it is then.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use super::{
    compile::Snapshot,
    listeners::{Domain, Family, Kind, Place},
    streams::StreamRule,
};
use crate::{
    Outcome,
    connection::ConnectionInfo,
    server::{Arrival, ClientHello, Decide, Decision, StreamHandler},
    telemetry::{StreamFacts, TelemetryLayer},
};

/// A gateway's word on connections.
pub(super) struct Admission {
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) idle: Duration,
    /// What records streams.
    pub(super) telemetry: TelemetryLayer,
}

impl Decide for Admission {
    /// 1. Where no listener is, it is the program's own listener's. Where one is, its protocol holds.
    /// 2. HTTP is let in, and the request decides, unless every listener there is invalid.
    /// 3. TLS belongs to the listener whose host fits SNI best. What belongs to none is closed, unless the program's own
    ///    listener has TLS and there are routes for it. So is what belongs to one that is invalid, or has nowhere to go.
    fn decide(&self, arrival: &Arrival<'_>) -> Decision {
        let snapshot = self.snapshot.load();
        let listeners = &snapshot.listeners;
        let Some(place) = listeners.place(arrival.connection) else { return Decision::Own };
        let own = arrival.connection.is_of_own_listener() && listeners.has_unattached();
        let decision = match (place.family, arrival.hello) {
            (Family::Http, _) if own || place.domains.values().any(|domain| domain.invalid.is_none()) => {
                Ok(Decision::Http)
            }
            (Family::Http, _) => Err("the listener is invalid".to_owned()),
            (Family::Tcp, _) => self.of_domain(place.domains.find(None), None, arrival.connection),
            (Family::Tls, None) => Ok(Decision::Hello),
            (Family::Tls, Some(hello)) => self.of_hello(place, hello, own && arrival.own_tls, arrival.connection),
        };
        decision.unwrap_or_else(|why| Decision::Close(why.into()))
    }
}

impl Admission {
    fn of_hello(
        &self,
        place: &Place,
        hello: &ClientHello,
        own: bool,
        connection: &ConnectionInfo,
    ) -> Result<Decision, String> {
        match place.domains.find(hello.server_name()) {
            None if own => Ok(Decision::Own),
            domain => self.of_domain(domain, hello.server_name(), connection),
        }
    }

    fn of_domain(
        &self,
        domain: Option<&Arc<Domain>>,
        name: Option<&str>,
        connection: &ConnectionInfo,
    ) -> Result<Decision, String> {
        let domain = domain.ok_or_else(|| format!("no listener is for {:?}", name.unwrap_or_default()))?;
        let handler = |rule: Option<&Arc<StreamRule>>| self.handler(rule, name, connection);
        Ok(match &domain.kind {
            Kind::Http(_) => Decision::Http,
            #[cfg(feature = "tls")]
            Kind::Https(tls, _) => Decision::Https(tls.clone()),
            #[cfg(feature = "tls")]
            Kind::Tls(tls, rules) => Decision::TlsStream(tls.clone(), handler(rules.find(name))?),
            Kind::Passthrough(rules) => Decision::Stream(handler(rules.find(name))?),
            Kind::Tcp(rule) => Decision::Stream(handler(rule.as_ref())?),
            Kind::Nothing => return Err(domain.invalid.as_deref().unwrap_or("the listener is invalid").to_owned()),
        })
    }

    fn handler(
        &self,
        rule: Option<&Arc<StreamRule>>,
        name: Option<&str>,
        connection: &ConnectionInfo,
    ) -> Result<StreamHandler, String> {
        let mut facts = StreamFacts::new(connection.peer_addr().ip());
        facts.server_name = name.map(Into::into);
        let Some(rule) = rule else {
            let why = "no route is for it".to_owned();
            self.telemetry.stream(facts).end(Outcome::NoRoute, Some(why.clone()));
            return Err(why);
        };
        rule.handler(self.idle, &self.telemetry, facts)
    }
}
