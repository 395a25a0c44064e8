//! What a proxy owes both sides: RFC 9110 forwarding, upgrades.
