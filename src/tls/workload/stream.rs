//! The call itself.

use std::{env, net::SocketAddr, time::Duration};

use http::uri::PathAndQuery;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{error::WorkloadError, message::X509SvidResponse};
use crate::BoxError;

const ENVIRONMENT: &str = "SPIFFE_ENDPOINT_SOCKET";
const METHOD: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// What keeps requests out that something was tricked into making: the agent refuses a call without it.
const HEADER: &str = "workload.spiffe.io";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// By TCP's own means: agents in Go take HTTP/2 pings for an attack.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// Where to call, checked.
#[derive(Clone)]
pub(super) struct Agent {
    /// As it was given.
    text: String,
    endpoint: Endpoint,
}

impl Agent {
    /// At `text`, or where the environment says.
    pub(super) fn new(text: Option<&str>) -> Result<Self, WorkloadError> {
        let text = text.map(str::to_owned).or_else(|| env::var(ENVIRONMENT).ok().filter(|text| !text.is_empty()));
        let text = text.ok_or(WorkloadError::NoEndpoint)?;
        let Some(endpoint) = uri(&text).and_then(|uri| Endpoint::from_shared(uri).ok()) else {
            return Err(WorkloadError::InvalidEndpoint { endpoint: text });
        };
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_keepalive(Some(TCP_KEEPALIVE));
        Ok(Self { text, endpoint })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Connects and asks; the updates are what comes.
    pub(super) async fn fetch(&self) -> Result<Streaming<X509SvidResponse>, WorkloadError> {
        let channel = self.endpoint.connect().await.map_err(|e| self.unreachable(&e))?;
        let mut client = Grpc::<Channel>::new(channel);
        client.ready().await.map_err(|e| self.unreachable(&e))?;
        let mut request = Request::new(());
        request.metadata_mut().insert(HEADER, MetadataValue::from_static("true"));
        let path = PathAndQuery::from_static(METHOD);
        let response = client.server_streaming(request, path, ProstCodec::<(), X509SvidResponse>::default()).await;
        Ok(response.map_err(|status| self.refused(status))?.into_inner())
    }

    /// The next update; the end of them is a failure, too.
    pub(super) async fn next(
        &self,
        updates: &mut Streaming<X509SvidResponse>,
    ) -> Result<X509SvidResponse, WorkloadError> {
        let next = updates.message().await.map_err(|status| self.refused(status))?;
        next.ok_or_else(|| self.refused(Status::unavailable("the agent ended the stream")))
    }

    /// By the last cause, which the others only wrap.
    fn unreachable(&self, error: &tonic::transport::Error) -> WorkloadError {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let source = causes.last().map_or_else(String::new, ToString::to_string).into();
        WorkloadError::Unreachable { endpoint: self.text.clone(), source }
    }

    fn refused(&self, status: Status) -> WorkloadError {
        let endpoint = self.text.clone();
        match status.code() {
            Code::PermissionDenied => {
                let message = status.message().escape_debug().to_string();
                WorkloadError::Denied { endpoint, message }
            }
            _ => WorkloadError::Failed { endpoint, source: status.into() },
        }
    }

    pub(super) fn malformed(&self, source: impl Into<BoxError>) -> WorkloadError {
        WorkloadError::Malformed { endpoint: self.text.clone(), source: source.into() }
    }
}

impl WorkloadError {
    /// Whether asking again is of no use: the specification says so of one status.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Failed { source, .. } => {
                source.downcast_ref::<Status>().is_some_and(|status| status.code() == Code::InvalidArgument)
            }
            _ => false,
        }
    }
}

/// The endpoint as the transport writes it. A name would have to be looked up, and whoever answers would hand out identities.
fn uri(text: &str) -> Option<String> {
    if let Some(address) = text.strip_prefix("tcp://") {
        return Some(format!("http://{}", address.parse::<SocketAddr>().ok()?));
    }
    let path = text.strip_prefix("unix:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    (path.starts_with('/') && !path.contains('\0')).then(|| format!("unix://{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_absolute_paths_and_addresses() {
        for (text, expected) in [
            ("unix:///run/spire/agent.sock", Some("unix:///run/spire/agent.sock")),
            ("unix:/run/spire/agent.sock", Some("unix:///run/spire/agent.sock")),
            ("unix:///run/with space%20.sock", Some("unix:///run/with space%20.sock")),
            ("tcp://127.0.0.1:8081", Some("http://127.0.0.1:8081")),
            ("tcp://[::1]:8081", Some("http://[::1]:8081")),
            ("unix://run/agent.sock", None),
            ("unix:agent.sock", None),
            ("/run/agent.sock", None),
            ("tcp://localhost:8081", None),
            ("tcp://127.0.0.1", None),
            ("tcp://127.0.0.1:80/path", None),
            ("http://127.0.0.1:80", None),
            ("", None),
        ] {
            assert_eq!(uri(text).as_deref(), expected, "{text}");
        }
        let error = Agent::new(Some("localhost:80")).err().unwrap();
        assert!(error.to_string().contains("\"localhost:80\": expected `unix:///"), "{error}");
    }
}
