//! Ingress and service mesh behaviour in-process, as composable Tower layers.
//!
//! portcullis does inside an axum, hyper or tonic program what people run nginx, Envoy or a sidecar for: it accepts and
//! terminates TLS, routes by host and path, balances over endpoints, forwards as RFC 9110 has it, and tells what it did. There
//! is no extra process and, for a backend that lives in the same program, no extra hop.
//!
//! # Two doors
//! **Declarative.** A [`Gateway`](gateway::Gateway) serves Kubernetes manifests, a YAML file of our own, or a
//! [`Config`](config::Config) made by code, and replaces it while serving. A backend may be a service of this process:
//!
//! ```no_run
//! # #[cfg(feature = "kubernetes")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::{gateway::Gateway, server::Server, tls::server::ServerTls};
//!
//! # let checkout = axum::Router::new();
//! let gateway = Gateway::from_path("k8s/")?.local("default/checkout", checkout).build()?;
//! Server::default()
//!     .http("0.0.0.0:8080")
//!     .https("0.0.0.0:8443", ServerTls::new(gateway.certificates())?)
//!     .serve_until_signal(gateway)
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! **Layers and services.** The same parts, typed, stack with `tower::ServiceBuilder` around anything:
//!
//! ```
//! # tokio_test::block_on(async {
//! use portcullis::{
//!     config::{self, Endpoints, Match},
//!     forwarded::ForwardedLayer, proxy::ForwardLayer, respond::RespondLayer, route::Router, upstream::Upstream,
//! };
//! use tower::ServiceBuilder;
//!
//! let endpoints = Endpoints::fixed(["127.0.0.1:9001".parse()?, "127.0.0.1:9002".parse()?]);
//! let cart = ServiceBuilder::new()
//!     .layer(RespondLayer::new())
//!     .layer(ForwardedLayer::new())
//!     .layer(ForwardLayer::new())
//!     .service(Upstream::new(config::Upstream::new("cart", endpoints))?);
//! let router = Router::builder().route("cart", ["shop.example.com"], Match::prefix("/cart"), cart).build()?;
//! # let _ = router;
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! # Where to read on
//! | you want to | read |
//! |---|---|
//! | serve a configuration | [`gateway`], [`source`], [`config`] |
//! | accept connections, TLS, drain | [`server`], [`tls`] |
//! | know and admit peers by certificate | [`identity`], [`tls::Identity`] |
//! | choose a rule for a request | [`route`]; the normal form of paths: [`route::path`] |
//! | choose an endpoint, send to it | [`upstream`], [`balance`], [`client`] |
//! | stop asking what fails | [`breaker`], [`outlier`], [`health`]; what a failure is: [`classify`] |
//! | send again what failed, or what is late; limit how long it takes | [`retry`], [`hedge`], [`timeout`] |
//! | limit and shed load, by number, rate, priority, deadline | [`limit`] |
//! | inject faults | [`fault`] |
//! | change requests and responses, redirect, mirror, CORS, ask an authorization service | [`filter`] |
//! | split traffic, keep sessions and cohorts, roll out a canary | [`split`] |
//! | forward correctly | [`proxy`], [`forwarded`] |
//! | know what happened | [`telemetry`], [`admin`], [`Outcome`], [`exchange`] |
//! | answer for errors | [`respond`], [`Error`], [`grpc`] |
//!
//! # Features
//! All are additive: enabling one never changes what another does.
//!
//! | name | what it adds | default? |
//! |---|---|---|
//! | `tls` | TLS on both sides, with a crypto provider that the program installs | through the next |
//! | `tls-ring` | `tls` with the ring provider | yes |
//! | `tls-aws-lc-rs` | `tls` with the aws-lc-rs provider: post-quantum key exchange, FIPS; builds a C library | no |
//! | `regex` | regular expressions in matches | yes |
//! | `yaml` | configuration in YAML files of our own | through the next |
//! | `kubernetes` | Kubernetes manifests as configuration | yes |
//! | `metrics` | Prometheus metrics | yes |
//! | `grpc-auth` | authorization services asked by gRPC (`ext_authz`) | yes |
//! | `spiffe` | identities from a SPIFFE Workload API, such as SPIRE's agent | no |
//! | `proxy-protocol` | PROXY protocol v1 and v2 on accepted connections | yes |
#![cfg_attr(docsrs, feature(doc_cfg))]

// Ground.
pub mod body;
pub mod config;
pub mod connection;
mod error;
pub mod exchange;
pub mod grpc;
mod interim;
mod outcome;
#[cfg(feature = "tls")]
mod pem;

// Policy, and layers.
pub mod balance;
pub mod breaker;
pub mod classify;
pub mod fault;
pub mod filter;
pub mod forwarded;
pub mod health;
pub mod hedge;
pub mod identity;
pub mod limit;
pub mod outlier;
pub mod respond;
pub mod retry;
pub mod route;
pub mod split;
pub mod telemetry;
pub mod timeout;

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

/// The README's snippets compile.
#[cfg(all(doctest, feature = "kubernetes", feature = "tls-ring"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Any error, where its type has been given up.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
