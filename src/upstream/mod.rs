//! A group of endpoints as one service: discovery, balancing, pools, failover.

pub mod discover;
