//! Limits: how much is let through, and what is turned away.
//!
//! | room | it bounds | it refuses with |
//! |---|---|---|
//! | [`concurrency`] | requests in flight, by a number; a short queue | 503 |

pub mod concurrency;
