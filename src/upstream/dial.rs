//! How an upstream's endpoints are connected to.

use std::{net::SocketAddr, time::Duration};

use super::BuildError;
#[cfg(not(feature = "tls"))]
use super::Identity;
#[cfg(feature = "tls")]
use crate::tls::{Identity, client::ClientTls};
use crate::{
    client::{Pool, Target},
    config,
};

/// How every endpoint is connected to.
pub(super) struct Dial {
    pub(super) template: Target,
    limits: config::PoolLimits,
    /// Whether TLS verifies each endpoint by its own address, there being no other name for it.
    #[cfg(feature = "tls")]
    by_address: bool,
}

impl Dial {
    pub(super) fn new(
        config: &config::Upstream,
        #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "there is none"))] identity: Option<
            &Identity,
        >,
    ) -> Result<Self, BuildError> {
        let mut template = Target::new(SocketAddr::from(([0, 0, 0, 0], 0)));
        template.protocol = config.protocol;
        template.connect_timeout = config.connect_timeout;
        template.response_timeout = config.response_timeout;
        template.stream_idle_timeout = config.stream_idle_timeout;
        #[cfg(not(feature = "tls"))]
        if config.tls.is_some() {
            return Err(BuildError::NoTls { name: config.name.clone() });
        }
        Ok(Self {
            #[cfg(feature = "tls")]
            by_address: set_tls(&mut template, config, identity)?,
            template,
            limits: config.pool.clone(),
        })
    }

    pub(super) fn pool(&self, address: SocketAddr) -> Pool {
        Pool::new(self.target(address), &self.limits)
    }

    /// A connection for each check: that it can be made is part of what is asked. Apart from those of requests, so that
    /// neither waits for the other.
    pub(super) fn pool_for_checks(&self, address: SocketAddr, http2: bool) -> Pool {
        let mut target = self.target(address);
        if http2 {
            target.protocol = config::Protocol::Http2;
        }
        let limits = config::PoolLimits { max_connections: 1, idle_timeout: Duration::ZERO, ..self.limits };
        Pool::new(target, &limits)
    }

    fn target(&self, address: SocketAddr) -> Target {
        #[cfg_attr(not(feature = "tls"), expect(unused_mut, reason = "only TLS depends on the address"))]
        let mut target = Target { address, ..self.template.clone() };
        #[cfg(feature = "tls")]
        if self.by_address {
            target.tls = target.tls.map(|tls| tls.named_by(address.ip()));
        }
        target
    }
}

/// Whether the name that TLS verifies is each endpoint's own address.
#[cfg(feature = "tls")]
fn set_tls(template: &mut Target, config: &config::Upstream, identity: Option<&Identity>) -> Result<bool, BuildError> {
    let defaults = config::UpstreamTls::default();
    let Some(tls) = config.tls.as_ref().or_else(|| identity.map(|_| &defaults)) else { return Ok(false) };
    let looked_up = match &config.endpoints {
        config::Endpoints::Dns { host, .. } => Some(host.as_str()),
        config::Endpoints::Static(_) => None,
    };
    // A placeholder where each endpoint's own address takes its place.
    let name = looked_up.unwrap_or("0.0.0.0");
    let built = match identity {
        Some(identity) => ClientTls::mtls(identity, tls, name, config.protocol),
        None => ClientTls::new(tls, name, config.protocol),
    };
    let built = built.map_err(|source| BuildError::Tls { name: config.name.clone(), source })?;
    template.tls = Some(built);
    Ok(tls.server_name.is_none() && looked_up.is_none())
}
