//! Faults on purpose: delays and failures.
