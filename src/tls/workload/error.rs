//! Why there is no identity.

use std::time::Duration;

use thiserror::Error;

use crate::BoxError;

/// Why a Workload API gives no identity.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// Nobody said where it is.
    #[error("no Workload API endpoint: set SPIFFE_ENDPOINT_SOCKET, or name one with `WorkloadApi::at`")]
    NoEndpoint,
    /// Where it is said to be is no address.
    #[error("Workload API endpoint {endpoint:?}: expected `unix:///path/to.sock` or `tcp://ip:port`")]
    InvalidEndpoint {
        /// What was said.
        endpoint: String,
    },
    /// Nobody listens there.
    #[error("Workload API at {endpoint}: cannot connect: {source}: is the agent running, and its socket mounted here?")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the connection failed with.
        source: BoxError,
    },
    /// The agent knows no identity for this process.
    #[error(
        "Workload API at {endpoint}: no identity for this process: {message}: is there a registration entry for it?"
    )]
    Denied {
        /// Where.
        endpoint: String,
        /// What the agent says.
        message: String,
    },
    /// The agent ended the call, or the connection broke.
    #[error("Workload API at {endpoint}: the call failed: {source}")]
    Failed {
        /// Where.
        endpoint: String,
        /// The gRPC status.
        source: BoxError,
    },
    /// The agent sent something that cannot be used.
    #[error("Workload API at {endpoint}: an update is refused: {source}")]
    Malformed {
        /// Where.
        endpoint: String,
        /// What is wrong with it.
        source: BoxError,
    },
    /// The agent took the call, and says nothing.
    #[error("Workload API at {endpoint}: no update within {timeout:?}: is the agent attested and synchronized?")]
    TimedOut {
        /// Where.
        endpoint: String,
        /// How long it was waited for.
        timeout: Duration,
    },
}
