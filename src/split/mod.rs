//! Which of a rule's backends a request belongs to: turns, cohorts, sessions, canaries.

mod cohort;
mod stable;

pub use self::{cohort::Cohort, stable::StableChoice};
