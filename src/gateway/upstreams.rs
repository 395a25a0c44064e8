//! The upstreams of a snapshot, each with what stands around it.

use std::{collections::HashMap, sync::Arc};

use super::{BuildError, identities::Identities, local::Local, rule::Shared};
use crate::{
    config::{self, Endpoints, Roots, UpstreamTls, check::refuse},
    upstream::Upstream,
};
#[cfg(feature = "tls")]
use crate::{
    tls::client::{ClientTlsError, Rotation},
    upstream,
};

/// Upstreams by name.
#[derive(Default)]
pub(super) struct Upstreams(HashMap<String, Standing>);

/// An upstream, or the service of this process that stands in for it.
#[derive(Clone)]
pub(super) struct Standing {
    /// None where there is a service in its place: no connections, no lookups.
    pub(super) serving: Option<Serving>,
    pub(super) policies: Arc<Shared>,
}

/// An upstream with the configuration that this snapshot has of it, which may list other endpoints than the one it was
/// first made from.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) config: Arc<config::Upstream>,
    pub(super) upstream: Upstream,
    /// Whether the endpoints have to be replaced when the snapshot takes over.
    moved: bool,
    /// What TLS shows and trusts from then on, where that is something else.
    #[cfg(feature = "tls")]
    rotation: Option<Arc<Rotation>>,
}

impl Upstreams {
    pub(super) fn get(&self, name: &str) -> Option<&Standing> {
        self.0.get(name)
    }

    pub(super) fn insert(&mut self, name: &str, standing: Standing) {
        self.0.insert(name.to_owned(), standing);
    }

    pub(super) fn serving(&self) -> impl Iterator<Item = &Serving> {
        self.0.values().filter_map(|standing| standing.serving.as_ref())
    }

    /// Moves those that were kept to the endpoints, certificates, authorities and budgets that the snapshot has for them.
    pub(super) fn take_over(&self) {
        for standing in self.0.values() {
            let Some(serving) = &standing.serving else { continue };
            serving.upstream.set_budget(standing.policies.budget().clone());
            // First, so that no new endpoint is shown the old certificate.
            #[cfg(feature = "tls")]
            if let Some(rotation) = &serving.rotation {
                serving.upstream.rotate(rotation);
            }
            if let (true, Endpoints::Static(endpoints)) = (serving.moved, &serving.config.endpoints) {
                serving.upstream.set_endpoints(endpoints);
            }
        }
    }
}

impl Standing {
    /// What `before` has and `config` keeps is taken over.
    pub(super) fn new(
        config: &Arc<config::Upstream>,
        local: Option<&Local>,
        identities: &Identities,
        before: Option<&Self>,
    ) -> Result<Self, BuildError> {
        refuse(config.wrong())
            .map_err(|wrong| BuildError::Policy { upstream: config.name.clone(), problem: wrong.to_string() })?;
        let serving_before = before.and_then(|before| before.serving.as_ref());
        let (serving, innermost) = match local {
            Some(local) => (None, local.clone()),
            None => {
                let kept = serving_before.filter(|before| before.goes_on(config));
                let serving = match kept {
                    Some(before) => before.kept(config)?,
                    None => Serving::new(config, identities)?,
                };
                let innermost = Local::new(serving.upstream.clone());
                (Some(serving), innermost)
            }
        };
        let stays = match (&serving, serving_before) {
            (Some(now), Some(before)) => now.upstream.is_same(&before.upstream),
            (None, None) => true,
            _ => false,
        };
        let policies = before.map(|before| &*before.policies);
        let policies = Arc::new(Shared::new(config, || innermost, serving.is_none(), policies, stays));
        if let (Some(new), false) = (&serving, stays) {
            new.upstream.set_budget(policies.budget().clone());
        }
        Ok(Self { serving, policies })
    }

    /// Whether it goes on under this configuration with the connections that it has.
    pub(super) fn goes_on(&self, next: &config::Upstream) -> bool {
        self.serving.as_ref().is_none_or(|serving| serving.goes_on(next))
    }
}

impl Serving {
    fn new(config: &Arc<config::Upstream>, identities: &Identities) -> Result<Self, BuildError> {
        Ok(Self {
            config: config.clone(),
            upstream: made(config, identities)?,
            moved: false,
            #[cfg(feature = "tls")]
            rotation: None,
        })
    }

    /// Whether its next configuration leaves it as it is, but for listed endpoints, what TLS shows and trusts, and what stands
    /// around it.
    fn goes_on(&self, next: &config::Upstream) -> bool {
        let mut same = config::Upstream {
            retry_budget: next.retry_budget.clone(),
            hedge: next.hedge.clone(),
            concurrency: next.concurrency.clone(),
            adaptive_concurrency: next.adaptive_concurrency.clone(),
            shed: next.shed.clone(),
            ..config::Upstream::clone(&self.config)
        };
        if let (Endpoints::Static(before), Endpoints::Static(endpoints)) = (&mut same.endpoints, &next.endpoints) {
            before.clone_from(endpoints);
        }
        if let (Some(before), Some(next)) = (&mut same.tls, &next.tls)
            && before.client_auth.is_some() == next.client_auth.is_some()
            // Whom an identity trusts is for the program to change.
            && (before.identity.is_none() || trusts_by_itself(before) == trusts_by_itself(next))
        {
            before.client_auth.clone_from(&next.client_auth);
            before.roots.clone_from(&next.roots);
            before.crls.clone_from(&next.crls);
            before.trust.clone_from(&next.trust);
        }
        same == *next
    }

    /// The same upstream under its next configuration, with which it [goes on](Self::goes_on).
    fn kept(&self, next: &Arc<config::Upstream>) -> Result<Self, BuildError> {
        #[cfg(feature = "tls")]
        let rotation = match &next.tls {
            Some(tls) if self.config.tls != next.tls => {
                let failed = |source| upstream::BuildError::Tls { name: next.name.clone(), source };
                Some(Arc::new(Rotation::new(tls).map_err(failed)?))
            }
            _ => None,
        };
        Ok(Self {
            config: next.clone(),
            upstream: self.upstream.clone(),
            moved: self.config.endpoints != next.endpoints,
            #[cfg(feature = "tls")]
            rotation,
        })
    }
}

/// Whether it names authorities, in whose place an identity's would be.
fn trusts_by_itself(tls: &UpstreamTls) -> bool {
    // Revocation lists alone name none: they would be for whom the identity trusts, and are refused.
    tls.roots != Roots::System || tls.trust.is_some()
}

#[cfg(not(feature = "tls"))]
fn made(config: &config::Upstream, _: &Identities) -> Result<Upstream, BuildError> {
    Ok(Upstream::new(config.clone())?)
}

/// An upstream, with the identity that its TLS names.
#[cfg(feature = "tls")]
fn made(config: &config::Upstream, identities: &Identities) -> Result<Upstream, BuildError> {
    let Some((tls, name)) = config.tls.as_ref().and_then(|tls| Some((tls, tls.identity.as_ref()?))) else {
        return Ok(Upstream::new(config.clone())?);
    };
    let wrong = |source| upstream::BuildError::Tls { name: config.name.clone(), source };
    if tls.client_auth.is_some() {
        return Err(wrong(ClientTlsError::IdentityBesideClientAuth).into());
    }
    let identity = identities.find(name);
    let identity = identity.map_err(|known| wrong(ClientTlsError::UnknownIdentity { name: name.clone(), known }))?;
    Ok(Upstream::mtls(config.clone(), identity)?)
}
