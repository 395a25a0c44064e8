//! Limits: how much is let through, and what is turned away.
//!
//! | room | it bounds | it refuses with |
//! |---|---|---|
//! | [`concurrency`] | requests in flight, by a number; a short queue | 503 |
//! | [`rate`] | requests in an amount of time, for each client or key | 429 |

pub mod concurrency;
pub mod rate;
