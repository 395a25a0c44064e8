//! What a mesh's certificate authority does: SPIFFE IDs for services, and new ones before the old ones expire.

use std::sync::Mutex;

use portcullis::{
    BoxError,
    config::Certificate,
    tls::{Identity, Trust},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

pub(crate) const SHOP: &str = "spiffe://mesh.example/ns/demo/sa/shop";
pub(crate) const ORDERS: &str = "spiffe://mesh.example/ns/demo/sa/orders";

/// The identities of both services, and the authority that issues them.
pub(crate) struct Mesh {
    pub(crate) shop: Identity,
    pub(crate) orders: Identity,
    authority: Mutex<Authority>,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Mesh {
    pub(crate) fn new() -> Result<Self, BoxError> {
        let authority = Authority::new()?;
        // Each service has a trust of its own, as in two processes.
        let identity = |id| Ok::<_, BoxError>(Identity::new(&authority.issue(id)?, authority.trust()?)?);
        Ok(Self { shop: identity(SHOP)?, orders: identity(ORDERS)?, authority: Mutex::new(authority) })
    }

    /// Replaces the authority and all certificates, in the order in which nobody ever meets one that is not trusted:
    /// trust both, `pause`, show the new, `pause`, trust only the new.
    pub(crate) async fn rotate<F: Future<Output = ()>>(&self, pause: impl Fn() -> F) -> Result<(), BoxError> {
        let next = Authority::new()?;
        let both = format!("{}{}", self.authority.lock().map_err(|_| "poisoned")?.pem, next.pem);
        for identity in [&self.shop, &self.orders] {
            identity.trust().replace(both.as_bytes(), b"")?;
        }
        pause().await;
        for (identity, id) in [(&self.shop, SHOP), (&self.orders, ORDERS)] {
            identity.replace(&next.issue(id)?)?;
        }
        pause().await;
        for identity in [&self.shop, &self.orders] {
            identity.trust().replace(next.pem.as_bytes(), b"")?;
        }
        *self.authority.lock().map_err(|_| "poisoned")? = next;
        Ok(())
    }
}

impl Authority {
    fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "mesh.example");
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    fn trust(&self) -> Result<Trust, BoxError> {
        Ok(Trust::new(self.pem.as_bytes(), b"")?)
    }

    /// A URI, and neither a subject nor a DNS name.
    fn issue(&self, id: &str) -> Result<Certificate, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let chain = params.signed_by(&key, &self.issuer)?.pem().into_bytes();
        let key = key.serialize_pem().into_bytes();
        Ok(Certificate { origin: id.to_owned(), hosts: Vec::new(), chain, key })
    }
}
