//! State for people and machines: metrics, readiness, routes.
