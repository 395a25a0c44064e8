//! A question by gRPC: `envoy.service.auth.v3.Authorization/Check`.

mod attributes;
mod message;
mod mutations;
#[cfg(test)]
mod tests;

use std::{future::poll_fn, pin::Pin};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, HOST, TE},
    request::Parts,
};
use http_body::Body as _;
use prost::Message;
use tokio::time::Duration;

use self::message::{CheckRequest, CheckResponse, HttpAnswer};
use super::{
    check::Failure,
    layer::GrpcTerms,
    verdict::{Changes, Verdict},
};
use crate::{
    Body,
    filter::aside,
    grpc::Code,
    timeout::{GRPC_TIMEOUT, format_grpc_timeout},
};

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The largest answer that is read, as in the usual gRPC libraries.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The call that asks about `parts`, with as much of the body as is to be seen, and the time it has.
pub(super) fn question(terms: &GrpcTerms, parts: &Parts, body: &Body, seen: &Bytes, limit: Duration) -> Request<Body> {
    let message = CheckRequest { attributes: Some(attributes::of(parts, body, seen, &terms.headers)) };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    // No request is larger than this can say: head and body are limited.
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());

    let mut question = Request::new(Body::from(frame.freeze()));
    *question.method_mut() = Method::POST;
    *question.uri_mut() = Uri::from_static(METHOD);
    *question.version_mut() = Version::HTTP_2;
    *question.extensions_mut() = aside::extensions(&parts.extensions);
    let headers = question.headers_mut();
    headers.insert(HOST, terms.authority.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(GRPC_TIMEOUT, format_grpc_timeout(limit));
    question
}

/// What the answer says.
///
/// # Errors
/// When it says neither yes nor no.
pub(super) async fn verdict(answer: Response<Body>) -> Result<Verdict, Failure> {
    if answer.status() != StatusCode::OK {
        return Err(Failure::Status(answer.status()));
    }
    // Without a body, how the call ended is told in the head.
    let head = Code::of(answer.headers());
    let (text, trailers) = read(answer.into_body()).await?;
    match trailers.as_ref().and_then(Code::of).or(head) {
        Some(Code::Ok) => decide(unframed(text)?),
        Some(code) => Err(Failure::Grpc(code)),
        None => Err(Failure::Invalid("it does not say how the call ended")),
    }
}

fn decide(answer: CheckResponse) -> Result<Verdict, Failure> {
    let allowed = answer.status.is_none_or(|status| status.code == 0);
    match answer.http {
        None if allowed => Ok(Verdict::Allowed(Changes::default())),
        Some(HttpAnswer::Allowed(details)) if allowed => mutations::changes(details).map(Verdict::Allowed),
        Some(HttpAnswer::Denied(details) | HttpAnswer::Failed(details)) => mutations::denied(details),
        None | Some(HttpAnswer::Allowed(_)) => Ok(Verdict::Denied(None)),
    }
}

/// All of a body that is not too large, and its trailers.
async fn read(mut body: Body) -> Result<(Bytes, Option<HeaderMap>), Failure> {
    let (mut text, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.map_err(Failure::Call)?.into_data() {
            Ok(data) if text.len() + data.len() > MAX_ANSWER => return Err(Failure::Invalid("it is too large")),
            Ok(data) => text.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((text.freeze(), trailers))
}

/// The one message in a body.
fn unframed(mut text: Bytes) -> Result<CheckResponse, Failure> {
    if text.len() < 5 {
        return Err(Failure::Invalid("it has no message"));
    }
    let (compressed, length) = (text.get_u8(), text.get_u32());
    if compressed != 0 {
        return Err(Failure::Invalid("it is compressed, which was not offered"));
    }
    if text.len() != length as usize {
        return Err(Failure::Invalid("it is not one whole message"));
    }
    CheckResponse::decode(text).map_err(|_| Failure::Invalid("it is not a CheckResponse"))
}
