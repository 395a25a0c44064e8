//! Who the client is, and what is told to the upstream of it: Forwarded and X-Forwarded-*.
