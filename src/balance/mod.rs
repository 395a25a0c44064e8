//! Which endpoint a request goes to: pure pickers over an immutable set.
