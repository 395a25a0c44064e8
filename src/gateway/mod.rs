//! A configuration compiled into services.
