//! Ingress and service mesh behaviour in-process, as composable Tower layers.
#![cfg_attr(docsrs, feature(doc_cfg))]

// Ground.
pub mod body;
pub mod config;
pub mod connection;
mod error;
pub mod exchange;
mod outcome;

// Policy, and layers.
pub mod balance;
pub mod forwarded;
pub mod respond;
pub mod route;
pub mod telemetry;

// Transport.
pub mod client;
pub mod proxy;
pub mod server;
#[cfg(feature = "tls")]
pub mod tls;

// Above it.
pub mod admin;
pub mod gateway;
#[cfg(feature = "yaml")]
pub mod source;
pub mod upstream;

#[doc(inline)]
pub use self::{
    body::Body,
    error::{Error, Sent},
    outcome::{Outcome, Side},
};

/// Any error, where its type has been given up.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
