//! The edge: errors become responses.
