//! The client's side: verification of an upstream's certificate.
