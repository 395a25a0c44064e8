//! Limits: how much is let through, and what is turned away.
//!
//! | room | it bounds | it refuses with |
//! |---|---|---|
//! | [`rate`] | requests in an amount of time, for each client, key, or route | 429 |
//! | [`shed`] | requests in flight by priority; those that would miss their deadline | 503, 504 |
//! | [`concurrency`] | requests in flight, by a number; a short queue | 503 |
//! | [`adaptive`] | requests in flight, by what latencies tell | 503 |
//!
//! This is also the order in which they stack well, outermost first: what a client asks too often is refused before it
//! takes anyone's place, the unimportant before it waits, and what is learned from latencies stands nearest to what has
//! them.
//!
//! The state of a limit belongs to its layer: all services that the layer makes, and all their clones, share it, as servers
//! such as axum's clone a service for each connection. Where two services should have a limit each, make two layers.
//! Everything is answered in `call`, by a [`refusal`](crate::respond::refusal) in the client's dialect; nothing waits in
//! `poll_ready`.

pub mod adaptive;
pub mod concurrency;
mod measured;
pub mod rate;
pub mod shed;
