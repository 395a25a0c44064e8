//! `BackendTLSPolicy`: which Services speak TLS, and what is asked of their certificates.

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;

use super::{
    reference_grant::{Grants, Referrer},
    references::{CORE, GROUP, LocalObjectReference, ObjectReference, hostname},
    tls::Credentials,
};
use crate::{
    config::{Host, Roots, SubjectName, UpstreamTls},
    source::{
        error::{Fault, Warning},
        kubernetes::object::{Kind, Object, Objects},
        pem,
    },
};

/// gateway.networking.k8s.io BackendTLSPolicy.
#[derive(Deserialize)]
pub(crate) struct BackendTlsPolicy {
    spec: BackendTlsPolicySpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BackendTlsPolicySpec {
    target_refs: Vec<TargetReference>,
    validation: Validation,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TargetReference {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
    /// The name of a port.
    section_name: Option<String>,
}

#[derive(Deserialize)]
struct Validation {
    #[serde(default, rename = "caCertificateRefs")]
    authorities: Vec<LocalObjectReference>,
    #[serde(rename = "wellKnownCACertificates")]
    well_known: Option<String>,
    hostname: String,
    #[serde(default, rename = "subjectAltNames")]
    subject_names: Vec<SubjectAltName>,
}

#[derive(Deserialize)]
struct SubjectAltName {
    #[serde(rename = "type")]
    kind: SubjectAltNameType,
    hostname: Option<String>,
    uri: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum SubjectAltNameType {
    Hostname,
    #[serde(rename = "URI")]
    Uri,
}

/// What the policies ask for, by Service and port.
///
/// 1. A policy for one port, by `sectionName`, goes before one for the whole Service.
/// 2. Of two for the same the older one counts, then the first by name; the other has a warning.
/// 3. A policy without a valid authority leaves its Service unusable: what it protects never goes in the clear.
#[derive(Default)]
pub(crate) struct Policies<'a>(HashMap<(&'a str, &'a str), HashMap<Option<&'a str>, Policy<'a>>>);

struct Policy<'a> {
    name: &'a str,
    tls: Result<Arc<UpstreamTls>, Arc<str>>,
}

impl<'a> Policies<'a> {
    pub(crate) fn new(objects: &'a Objects, warnings: &mut Vec<Warning>) -> Self {
        let mut policies = Self::default();
        for object in objects.backend_tls_policies.by_age() {
            let tls = tls(objects, object, warnings);
            for (index, target) in object.value.spec.target_refs.iter().enumerate() {
                let field = format!("spec.targetRefs[{index}]");
                if target.group != CORE || target.kind != "Service" {
                    let why = format!("a target of kind {} is not supported: only Services are", target.kind);
                    warnings.push(object.warning(&format!("{field}.kind"), why));
                    continue;
                }
                let service = policies.0.entry((&object.namespace, &target.name)).or_default();
                let section = target.section_name.as_deref().filter(|section| !section.is_empty());
                if let Some(first) = service.get(&section) {
                    let why = format!("conflicts with BackendTLSPolicy {}, which goes before it", first.name);
                    warnings.push(object.warning(&field, why));
                    continue;
                }
                service.insert(section, Policy { name: &object.name, tls: tls.clone() });
            }
        }
        policies
    }

    /// What is asked for at a port of a Service; nothing where it speaks no TLS, an error where it cannot be used.
    pub(crate) fn find(&self, namespace: &str, service: &str, port: &str) -> Option<Result<UpstreamTls, String>> {
        let service = self.0.get(&(namespace, service))?;
        let policy = service.get(&Some(port)).or_else(|| service.get(&None))?;
        Some(match &policy.tls {
            Ok(tls) => Ok(UpstreamTls::clone(tls)),
            Err(why) => Err(format!("BackendTLSPolicy {namespace}/{}: {why}", policy.name)),
        })
    }
}

/// The settings of a policy, or why it has none.
fn tls(
    objects: &Objects,
    object: &Object<BackendTlsPolicy>,
    warnings: &mut Vec<Warning>,
) -> Result<Arc<UpstreamTls>, Arc<str>> {
    let Validation { authorities, well_known, hostname, subject_names } = &object.value.spec.validation;
    let roots = match well_known.as_deref() {
        Some("System") => Roots::System,
        Some(other) => {
            let why = format!("`{other}` is not known: write `System`, or `caCertificateRefs`");
            warnings.push(object.warning("spec.validation.wellKnownCACertificates", why.clone()));
            return Err(why.into());
        }
        None => {
            let (mut roots, mut faults) = (Vec::new(), Vec::new());
            for (index, reference) in authorities.iter().enumerate() {
                match authority(objects, &object.namespace, reference) {
                    Ok(mut pem) => {
                        roots.append(&mut pem);
                        roots.push(b'\n');
                    }
                    Err(why) => {
                        let field = format!("spec.validation.caCertificateRefs[{index}]");
                        warnings.push(object.warning(&field, why.clone()));
                        faults.push(why);
                    }
                }
            }
            if roots.is_empty() {
                return Err(format!("no valid certificate authority: {}", faults.join("; ")).into());
            }
            Roots::Pem(roots.into())
        }
    };
    let subject_names = subject_names
        .iter()
        .filter_map(|name| match name.kind {
            SubjectAltNameType::Hostname => name.hostname.clone().map(SubjectName::Dns),
            SubjectAltNameType::Uri => name.uri.clone().map(SubjectName::Uri),
        })
        .collect();
    let tls = UpstreamTls { server_name: Some(hostname.clone()), subject_names, roots, ..UpstreamTls::default() };
    Ok(tls.into())
}

/// The authorities in a ConfigMap or Secret of the policy's namespace.
fn authority(objects: &Objects, namespace: &str, reference: &LocalObjectReference) -> Result<Vec<u8>, String> {
    let LocalObjectReference { group, kind, name } = reference.clone();
    let reference = ObjectReference { group, kind, name, namespace: None };
    let from = Referrer { group: GROUP, kind: BackendTlsPolicy::KIND, namespace };
    // Within a namespace no grant is needed.
    let pem = Credentials { objects, grants: &Grants::default() }.authorities(from, &reference)?;
    pem::check_authorities(&pem).map_err(|why| format!("{} {namespace}/{}: {why}", reference.kind, reference.name))?;
    Ok(pem)
}

impl Kind for BackendTlsPolicy {
    const API_VERSIONS: &'static [&'static str] =
        &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha3"];
    const KIND: &'static str = "BackendTLSPolicy";

    fn check(&self, found: &mut dyn FnMut(String, Fault)) {
        let BackendTlsPolicySpec { target_refs, validation } = &self.spec;
        if target_refs.is_empty() {
            found("spec.targetRefs".to_owned(), Fault::Missing);
        }
        for (index, target) in target_refs.iter().enumerate().filter(|(_, target)| target.name.is_empty()) {
            let _ = target;
            found(format!("spec.targetRefs[{index}].name"), Fault::Missing);
        }
        validation.check("spec.validation", found);
    }
}

impl Validation {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        match (self.authorities.is_empty(), self.well_known.as_deref().unwrap_or_default()) {
            (true, "") => found(format!("{field}.caCertificateRefs"), Fault::Missing),
            (false, "") | (true, _) => {}
            (false, _) => {
                let why = "has `caCertificateRefs` and `wellKnownCACertificates`: leave one of them out".to_owned();
                found(field.to_owned(), Fault::Invalid(why));
            }
        }
        for (index, reference) in self.authorities.iter().enumerate() {
            reference.check(&format!("{field}.caCertificateRefs[{index}]"), found);
        }
        match hostname(&self.hostname) {
            Ok(Host::Exact(_)) => {}
            Ok(_) => {
                let why = format!("`{}` stands for many hosts: write one", self.hostname);
                found(format!("{field}.hostname"), Fault::Host(why));
            }
            Err(fault) => found(format!("{field}.hostname"), fault),
        }
        for (index, name) in self.subject_names.iter().enumerate() {
            name.check(&format!("{field}.subjectAltNames[{index}]"), found);
        }
    }
}

impl SubjectAltName {
    fn check(&self, field: &str, found: &mut dyn FnMut(String, Fault)) {
        let is_hostname = self.kind == SubjectAltNameType::Hostname;
        for (name, value, is_due) in [("hostname", &self.hostname, is_hostname), ("uri", &self.uri, !is_hostname)] {
            match (is_due, value.as_deref().unwrap_or_default()) {
                (true, "") => found(format!("{field}.{name}"), Fault::Missing),
                (false, "") => {}
                (false, _) => {
                    let why = "does not go with this `type`: leave it out, or change the type".to_owned();
                    found(format!("{field}.{name}"), Fault::Invalid(why));
                }
                (true, text) if is_hostname => {
                    if let Err(fault) = hostname(text) {
                        found(format!("{field}.{name}"), fault);
                    }
                }
                (true, text) if !text.contains("://") => {
                    let why = format!("`{text}` is not an absolute URI, such as `spiffe://example.org/shop`");
                    found(format!("{field}.{name}"), Fault::Invalid(why));
                }
                _ => {}
            }
        }
    }
}
