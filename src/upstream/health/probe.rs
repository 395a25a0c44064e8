//! One check of one endpoint.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, TE, USER_AGENT},
    uri::{Authority, PathAndQuery},
};
use http_body_util::{BodyExt, Limited};
use tokio::net::TcpStream;

use super::grpc;
use crate::{
    Body, BoxError,
    client::Pool,
    config::{Check, StatusRange},
    upstream::dial::Dial,
};

/// How much of an answer is read.
const ANSWER_LIMIT: usize = 64 * 1024;

/// `SERVING` of `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

/// How to check any endpoint of an upstream; what can be wrong about it has been found out.
#[derive(Debug, Clone)]
pub(in crate::upstream) enum Recipe {
    Tcp,
    Http { uri: Uri, host: Option<HeaderValue>, expected: Vec<StatusRange> },
    Grpc { host: Option<HeaderValue>, message: Bytes },
}

/// How to check one endpoint.
pub(super) enum Prober {
    Tcp(SocketAddr),
    Http { pool: Pool, recipe: Recipe },
}

impl Recipe {
    /// The error says what is wrong, and how to mend it.
    pub(in crate::upstream) fn new(check: &Check, upstream: &str) -> Result<Self, String> {
        let default_host = || {
            // Such as `default/cart` is a name, and no host.
            let host = Authority::try_from(upstream).ok().filter(|host| !host.as_str().contains('@'))?;
            HeaderValue::from_str(host.as_str()).ok()
        };
        match check {
            Check::Tcp => Ok(Self::Tcp),
            Check::Http { path, host, expected } => {
                let uri = PathAndQuery::try_from(path.as_str()).ok().filter(|_| path.starts_with('/'));
                let uri = uri.ok_or_else(|| format!("`{path}` is not a path: write one such as `/healthz`"))?;
                let host = match host {
                    None => default_host(),
                    Some(host) => {
                        let checked =
                            Authority::try_from(host.as_str()).ok().filter(|host| !host.as_str().contains('@'));
                        let value = checked.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
                        let wrong = || format!("`{host}` is not a host: write one such as `shop.example.com`");
                        Some(value.ok_or_else(wrong)?)
                    }
                };
                if expected.iter().all(|range| range.from > range.to) {
                    return Err("no status is expected: name at least one, from the smaller to the larger".to_owned());
                }
                Ok(Self::Http { uri: Uri::from(uri), host, expected: expected.clone() })
            }
            Check::Grpc { service } => Ok(Self::Grpc { host: default_host(), message: grpc::request(service) }),
        }
    }
}

impl Prober {
    pub(super) fn new(recipe: &Recipe, dial: &Dial, address: SocketAddr) -> Self {
        match recipe {
            Recipe::Tcp => Self::Tcp(address),
            Recipe::Http { .. } | Recipe::Grpc { .. } => {
                let http2 = matches!(recipe, Recipe::Grpc { .. });
                Self::Http { pool: dial.pool_for_checks(address, http2), recipe: recipe.clone() }
            }
        }
    }

    /// Asks once. Has no limit in time of its own.
    pub(super) async fn check(&self) -> Result<(), BoxError> {
        match self {
            Self::Tcp(address) => Ok(TcpStream::connect(address).await.map(drop)?),
            Self::Http { pool, recipe } => check_http(pool, recipe).await,
        }
    }
}

async fn check_http(pool: &Pool, recipe: &Recipe) -> Result<(), BoxError> {
    let response = pool.send(recipe.request()).await.map_err(|failed| failed.error)?;
    let status = response.status();
    match recipe {
        Recipe::Tcp => Ok(()),
        Recipe::Http { expected, .. } => {
            let passed = expected.iter().any(|range| range.contains(status.as_u16()));
            // Read for the server's sake, which would otherwise see an aborted connection; whatever comes of it.
            let _ = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            if passed { Ok(()) } else { Err(format!("status {}", status.as_u16()).into()) }
        }
        Recipe::Grpc { .. } => {
            if status != StatusCode::OK {
                return Err(format!("status {}", status.as_u16()).into());
            }
            let head = grpc_status(response.headers());
            let answer = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await?;
            let code = answer.trailers().and_then(grpc_status).or(head).ok_or("no grpc-status")?;
            if code != "0" {
                return Err(format!("grpc-status {code}").into());
            }
            match grpc::status(&answer.to_bytes()) {
                Some(SERVING) => Ok(()),
                Some(other) => Err(format!("serving status {other}").into()),
                None => Err("not a HealthCheckResponse".into()),
            }
        }
    }
}

fn grpc_status(fields: &HeaderMap) -> Option<String> {
    Some(fields.get("grpc-status")?.to_str().ok()?.to_owned())
}

impl Recipe {
    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("portcullis-health-check"));
        let (uri, host) = match self {
            Self::Tcp => (Uri::default(), None),
            Self::Http { uri, host, .. } => (uri.clone(), host.clone()),
            Self::Grpc { host, message } => {
                *request.method_mut() = Method::POST;
                *request.body_mut() = Body::from(message.clone());
                request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
                (Uri::from_static("/grpc.health.v1.Health/Check"), host.clone())
            }
        };
        *request.uri_mut() = uri;
        if let Some(host) = host {
            request.headers_mut().insert(HOST, host);
        }
        request
    }
}
