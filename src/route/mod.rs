//! Which rule a request belongs to: the pure table, and the service around it.

pub mod path;
