//! What the agent says, checked: all of it is good, or none of it is taken.

use std::{collections::BTreeMap, sync::Arc};

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use super::message::{X509Svid, X509SvidResponse};
use crate::{
    BoxError,
    identity::{InvalidSpiffeId, SpiffeId, TrustDomain},
    tls::{
        CertificateError, TrustBundle,
        certificates::certified,
        default_provider, peer,
        trust::{Anchors, all_der},
    },
};

/// Identities, of which there is at least one, and whom they trust.
pub(super) struct Update {
    pub(super) default: (SpiffeId, Arc<CertifiedKey>),
    /// The rest, each ID once.
    pub(super) others: BTreeMap<SpiffeId, Arc<CertifiedKey>>,
    pub(super) anchors: Anchors,
}

/// What is wrong with an update.
#[derive(Debug, Error)]
pub(super) enum Flaw {
    #[error("there is no SVID in it")]
    NoSvid,
    #[error(transparent)]
    Id(#[from] InvalidSpiffeId),
    #[error("the SVID of {id}: its chain cannot be read: {source}")]
    Chain { id: SpiffeId, source: BoxError },
    #[error("the SVID of {id}: its certificate is for {presented}")]
    OtherId { id: SpiffeId, presented: String },
    #[error("a revocation list is empty")]
    EmptyList,
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl Update {
    pub(super) fn read(response: &X509SvidResponse) -> Result<Self, Flaw> {
        let mut own = BTreeMap::<TrustDomain, Vec<u8>>::new();
        let mut svids = Vec::with_capacity(response.svids.len());
        for svid in &response.svids {
            let (id, key) = read_svid(svid)?;
            let bundle = own.entry(id.trust_domain().parse()?).or_default();
            // Of one trust domain, all SVIDs have the same.
            if *bundle != svid.bundle {
                bundle.extend_from_slice(&svid.bundle);
            }
            svids.push((id, key));
        }
        let mut svids = svids.into_iter();
        let default = svids.next().ok_or(Flaw::NoSvid)?;
        let mut others = BTreeMap::new();
        for (id, key) in svids.filter(|(id, _)| *id != default.0) {
            others.entry(id).or_insert(key);
        }

        if response.crl.iter().any(Vec::is_empty) {
            return Err(Flaw::EmptyList);
        }
        let crls = response.crl.concat();
        let mut foreign = Vec::with_capacity(response.federated_bundles.len());
        for (domain, bundle) in &response.federated_bundles {
            let domain: TrustDomain = domain.strip_prefix("spiffe://").unwrap_or(domain).parse()?;
            // A domain without authorities, for now: nobody of it is trusted, and ours goes on. But never as ours.
            if !bundle.is_empty() || own.contains_key(&domain) {
                foreign.push((domain, bundle));
            }
        }
        let own = own.iter().map(|(domain, bundle)| TrustBundle::new(domain, bundle).crls(&crls).dns_names());
        let foreign = foreign.iter().map(|(domain, bundle)| TrustBundle::new(domain, bundle));
        // Refuses a domain that is there twice, ours among the federated ones first of all.
        let anchors = Anchors::by_domain(own.chain(foreign))?;
        Ok(Self { default, others, anchors })
    }
}

fn read_svid(svid: &X509Svid) -> Result<(SpiffeId, Arc<CertifiedKey>), Flaw> {
    let id: SpiffeId = svid.spiffe_id.parse()?;
    let broken = |source: BoxError| Flaw::Chain { id: id.clone(), source };
    let chain = all_der::<CertificateDer<'static>>(&svid.x509_svid).map_err(broken)?;
    for (place, certificate) in chain.iter().enumerate() {
        let names = peer::parse(certificate).map_err(|e| broken(e.into()))?;
        if place == 0 && names.spiffe_id() != Some(&id) {
            return Err(Flaw::OtherId { presented: names.to_string(), id });
        }
    }
    let key = PrivatePkcs8KeyDer::from(svid.x509_svid_key.clone());
    let provider = default_provider().map_err(CertificateError::from)?;
    let (key, _) = certified(&format!("the SVID of {id}"), chain, key.into(), &provider)?;
    Ok((id, key))
}
