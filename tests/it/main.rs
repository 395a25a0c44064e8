//! Real sockets, real peers: one binary, a module a subject.

mod support;
