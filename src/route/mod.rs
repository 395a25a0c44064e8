//! Which rule a request belongs to: the pure table, and the service around it.

mod builder;
pub mod path;
mod request;
mod service;
mod specificity;
mod table;
mod target;
#[cfg(test)]
mod tests;

pub use self::{
    builder::{Builder, RouterError},
    request::{Condition, Unmet},
    service::{RouteFuture, Router},
    specificity::{HostRank, PathRank, Specificity, TieBreak},
    table::{Candidate, Explanation, Found, Place, RouteMatch, RouteTable, TableError, Verdict},
    target::{Target, TargetFuture},
};
