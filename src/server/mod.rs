//! Accepts connections and serves any Tower service.
