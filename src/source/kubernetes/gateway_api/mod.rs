//! The Gateway API (gateway.networking.k8s.io): its objects, and the listeners and routes that they become.

#[expect(dead_code, reason = "the routes come next")]
mod references;
