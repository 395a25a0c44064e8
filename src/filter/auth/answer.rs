//! The service's refusal, as the client understands it.

use http::{HeaderValue, Response};

use super::fields;
use crate::{
    Body, Outcome,
    grpc::{self, Code},
    respond::{Dialect, refusal},
};

/// The answer as it is; to a gRPC client, under the status that gRPC has for it, without the body.
pub(super) fn denied(answer: Response<Body>, dialect: Dialect) -> Response<Body> {
    if dialect == Dialect::Http {
        return answer;
    }
    let mut told = refusal(Outcome::Forbidden, dialect);
    // It is the service's answer, not ours.
    told.extensions_mut().remove::<Outcome>();
    let (parts, _) = answer.into_parts();
    for (name, value) in &parts.headers {
        if fields::is_copied_unasked(name) {
            told.headers_mut().append(name, value.clone());
        }
    }
    let code = Code::of(&parts.headers).unwrap_or_else(|| Code::of_http(parts.status));
    told.headers_mut().insert(grpc::STATUS, HeaderValue::from(code as u16));
    told
}
