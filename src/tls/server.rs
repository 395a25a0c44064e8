//! The server's side: certificates by name, replaced while serving.
