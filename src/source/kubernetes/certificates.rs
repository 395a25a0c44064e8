//! Secrets as certificates.

use std::collections::HashSet;

use super::{
    ingress::{Ingress, IngressTls, host},
    object::{Object, Objects},
    secret::{self, Secret},
};
use crate::{
    config::{Certificate, Host},
    source::{
        Report,
        error::{Fault, Problem},
        pem,
    },
};

/// The certificates these Ingresses name, those of the oldest first: where two are for the same host, the first counts.
pub(super) fn certificates(objects: &Objects, ingresses: &[&Object<Ingress>], report: &mut Report) -> Vec<Certificate> {
    let mut by_age = ingresses.to_vec();
    // Stable: Ingresses come by name. Without a time an Ingress counts as younger than any.
    by_age.sort_by_key(|ingress| ingress.created.unwrap_or(i64::MAX));
    let mut references = Vec::new();
    let mut seen = HashSet::new();
    for ingress in by_age {
        for (index, tls) in ingress.value.spec.tls.iter().enumerate() {
            match find(objects, ingress, tls) {
                Ok(Some(found)) => {
                    let mut hosts: Vec<_> = tls.hosts.iter().filter_map(|text| host(text).ok()).collect();
                    hosts.sort();
                    hosts.dedup();
                    if seen.insert((&*found.namespace, &*found.name, hosts.clone())) {
                        references.push((found, hosts));
                    }
                }
                Ok(None) => {}
                Err(why) => report.warnings.push(ingress.warning(&format!("spec.tls[{index}].secretName"), why)),
            }
        }
    }
    let mut certificates = Vec::new();
    for (secret, hosts) in references {
        match read(secret, hosts) {
            Ok(certificate) => certificates.push(certificate),
            Err(found) => report.problems.extend(found),
        }
    }
    certificates
}

/// The Secret a TLS entry names, if it names one. An error says why it has no certificate.
fn find<'a>(
    objects: &'a Objects,
    ingress: &Object<Ingress>,
    tls: &IngressTls,
) -> Result<Option<&'a Object<Secret>>, String> {
    if tls.secret_name.is_empty() {
        return Ok(None);
    }
    let named = format!("{}/{}", ingress.namespace, tls.secret_name);
    match objects.secrets.get(&ingress.namespace, &tls.secret_name) {
        None => Err(format!("there is no Secret {named}: these hosts have no certificate")),
        Some(found) if found.value.kind != secret::TLS => {
            Err(format!("Secret {named} is not of type `{}`: these hosts have no certificate", secret::TLS))
        }
        Some(found) => Ok(Some(found)),
    }
}

/// A Secret's certificate with its key, for these hosts.
pub(super) fn read(object: &Object<Secret>, hosts: Vec<Host>) -> Result<Certificate, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut value = |key, check: fn(&[u8]) -> Result<(), String>| {
        let bytes = object.value.value(key).unwrap_or_default();
        if let Err(why) = check(&bytes) {
            problems.push(object.problem(&object.value.field(key), Fault::Pem(why)));
        }
        bytes
    };
    let chain = value(secret::CERTIFICATE, pem::check_certificates);
    let key = value(secret::KEY, pem::check_key);
    if !problems.is_empty() {
        return Err(problems);
    }
    let place = object.place(&object.value.field(secret::CERTIFICATE));
    let [chain_field, key_field] = [secret::CERTIFICATE, secret::KEY].map(|key| object.value.field(key));
    let origin = format!("{}:{}: {}: {chain_field}, {key_field}", place.file, place.line, object.label());
    Ok(Certificate { origin, hosts, chain, key })
}
