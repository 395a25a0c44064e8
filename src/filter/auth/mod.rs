//! External authorization.

mod answer;
mod body;
#[cfg(feature = "grpc-auth")]
mod by_grpc;
mod by_http;
mod check;
mod fields;
mod layer;
mod service;
#[cfg(test)]
mod tests;
mod verdict;

pub use self::{
    layer::{AuthLayer, InvalidAuth},
    service::{Auth, ResponseFuture},
};
