//! Certificates and authorities that objects refer to.

use super::{
    config_map::AUTHORITIES,
    reference_grant::{Grants, Referent, Referrer},
    references::{CORE, ObjectReference, SecretObjectReference},
};
use crate::{
    config::{Certificate, ClientAuth},
    source::{
        kubernetes::{certificates, object::Objects, secret},
        pem,
    },
};

/// Follows references to certificates and authorities. Errors say why one leads nowhere.
#[derive(Clone, Copy)]
pub(crate) struct Credentials<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) grants: &'a Grants<'a>,
}

impl Credentials<'_> {
    /// The certificate of a Secret of type `kubernetes.io/tls`, for the names in it.
    pub(crate) fn certificate(
        &self,
        from: Referrer<'_>,
        reference: &SecretObjectReference,
    ) -> Result<Certificate, String> {
        let SecretObjectReference { group, kind, name, namespace } = reference;
        let namespace = namespace.as_deref().unwrap_or(from.namespace);
        if group != CORE || kind != "Secret" {
            return Err(format!("a certificate is taken from a Secret, not from {}", of_group(kind, group, CORE)));
        }
        self.grants.check(from, Referent { group, kind, namespace, name })?;
        let found = self.objects.secrets.get(namespace, name);
        let found = found.ok_or_else(|| format!("there is no Secret {namespace}/{name}"))?;
        if found.value.kind != secret::TLS {
            return Err(format!("Secret {namespace}/{name} is not of type `{}`", secret::TLS));
        }
        certificates::read(found, Vec::new()).map_err(|problems| {
            let why: Vec<_> = problems.iter().map(|problem| format!("{}: {}", problem.field, problem.fault)).collect();
            format!("Secret {namespace}/{name}: {}", why.join("; "))
        })
    }

    /// The certificate that is shown to backends.
    pub(crate) fn client(&self, from: Referrer<'_>, reference: &SecretObjectReference) -> Result<ClientAuth, String> {
        let Certificate { chain, key, .. } = self.certificate(from, reference)?;
        Ok(ClientAuth { chain: chain.into(), key: key.into() })
    }

    /// The authorities under `ca.crt` of a ConfigMap or a Secret, in PEM.
    pub(crate) fn authorities(&self, from: Referrer<'_>, reference: &ObjectReference) -> Result<Vec<u8>, String> {
        let ObjectReference { group, kind, name, namespace } = reference;
        let namespace = namespace.as_deref().unwrap_or(from.namespace);
        let is_known = group == CORE && matches!(&**kind, "ConfigMap" | "Secret");
        if !is_known {
            let other = of_group(kind, group, CORE);
            return Err(format!("authorities are taken from a ConfigMap or a Secret, not from {other}"));
        }
        self.grants.check(from, Referent { group, kind, namespace, name })?;
        let value = match &**kind {
            "Secret" => self.objects.secrets.get(namespace, name).map(|found| found.value.value(AUTHORITIES)),
            _ => self.objects.config_maps.get(namespace, name).map(|found| found.value.value(AUTHORITIES)),
        };
        let value = value.ok_or_else(|| format!("there is no {kind} {namespace}/{name}"))?;
        let value = value.ok_or_else(|| format!("{kind} {namespace}/{name} has no key `{AUTHORITIES}`"))?;
        pem::check_certificates(&value)
            .map_err(|why| format!("{kind} {namespace}/{name}: `{AUTHORITIES}` {why}"))
            .map(|()| value)
    }
}

/// A kind for people, with its group where that is not the usual one.
pub(super) fn of_group(kind: &str, group: &str, usual: &str) -> String {
    if group == usual { kind.to_owned() } else { format!("{kind} of group {group}") }
}
