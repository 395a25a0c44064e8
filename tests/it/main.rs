//! Real sockets, real peers: one binary, a module a subject.
//!
//! The program under test is `examples/ingress`, run as a process and asked as its users would ask it: what these tests
//! say holds for the whole, whichever layer does it. The layers of a mesh, which are stacked by code, are tested in this process
//! ([`mesh`], [`sending_again`]), and so is the client of Services ([`services`]). What they share is in [`support`].

#[path = "../../examples/ingress/asked.rs"]
mod asked;
mod backend_tls;
mod bodies;
mod client_cert;
mod doubles;
mod drain;
mod failover;
mod federation;
mod forwarding;
mod frontend_tls;
mod gateway_api;
mod grpc;
mod http2;
mod inspect;
mod limits;
mod listeners;
mod mesh;
mod observe;
mod paths;
mod peers;
mod policies;
mod reload;
mod routing;
mod sending_again;
mod services;
mod slow;
mod smuggling;
mod start;
mod support;
mod swaps;
mod tls;
mod websocket;
