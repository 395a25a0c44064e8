//! One record a request: metrics and the access log.
