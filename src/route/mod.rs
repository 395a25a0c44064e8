//! Which rule a request belongs to: the pure table, and the service around it.

pub mod path;
mod request;
mod specificity;
mod table;

pub use self::{
    request::{Condition, Unmet},
    specificity::{HostRank, PathRank, Specificity, TieBreak},
    table::{Candidate, Explanation, Found, Place, RouteMatch, RouteTable, TableError, Verdict},
};
