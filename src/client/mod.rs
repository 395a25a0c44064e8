//! Connections to one endpoint.
