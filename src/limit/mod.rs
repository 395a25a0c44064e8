//! Limits: how much is let through, and what is turned away.
