//! The external authorization filter.

use serde::Deserialize;

use super::{Found, check_field_name};
use crate::{
    config::{self, AuthProtocol},
    source::{
        error::Fault,
        kubernetes::{backends::Speaks, gateway_api::references::BackendReference},
    },
};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExternalAuth {
    protocol: AuthKind,
    pub(super) backend_ref: BackendReference,
    grpc: Option<GrpcAuth>,
    http: Option<HttpAuth>,
    forward_body: Option<ForwardBody>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum AuthKind {
    #[serde(rename = "GRPC")]
    Grpc,
    #[serde(rename = "HTTP")]
    Http,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GrpcAuth {
    allowed_headers: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct HttpAuth {
    path: String,
    allowed_headers: Vec<String>,
    allowed_response_headers: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ForwardBody {
    max_size: u32,
}

impl ExternalAuth {
    pub(super) fn check(&self, field: &str, found: Found<'_>) {
        self.backend_ref.check(format_args!("{field}.backendRef"), found);
        for (kind, name, is_there) in
            [(AuthKind::Grpc, "grpc", self.grpc.is_some()), (AuthKind::Http, "http", self.http.is_some())]
        {
            if is_there && self.protocol != kind {
                let why = "does not go with this `protocol`: leave it out, or change the protocol".to_owned();
                found(format!("{field}.{name}"), Fault::Invalid(why));
            }
        }
        let (grpc, http) = (self.grpc.as_ref(), self.http.as_ref());
        for (list, names) in [
            ("grpc.allowedHeaders", grpc.map(|grpc| &grpc.allowed_headers)),
            ("http.allowedHeaders", http.map(|http| &http.allowed_headers)),
            ("http.allowedResponseHeaders", http.map(|http| &http.allowed_response_headers)),
        ] {
            for (index, name) in names.into_iter().flatten().enumerate() {
                check_field_name(name, || format!("{field}.{list}[{index}]"), found);
            }
        }
    }

    /// What the service that is asked is to be spoken to in.
    pub(super) fn speaks(&self) -> Speaks {
        match self.protocol {
            AuthKind::Grpc => Speaks::Grpc,
            AuthKind::Http => Speaks::Http,
        }
    }

    pub(super) fn with(&self, backend: config::BackendRef) -> config::ExternalAuth {
        let protocol = match self.protocol {
            AuthKind::Grpc => AuthProtocol::Grpc { headers: self.grpc.clone().unwrap_or_default().allowed_headers },
            AuthKind::Http => {
                let HttpAuth { path, allowed_headers, allowed_response_headers } =
                    self.http.clone().unwrap_or_default();
                AuthProtocol::Http { path, headers: allowed_headers, response_headers: allowed_response_headers }
            }
        };
        let body = self.forward_body.as_ref().map(|body| body.max_size).filter(|size| *size > 0);
        config::ExternalAuth { backend, protocol, body }
    }
}
