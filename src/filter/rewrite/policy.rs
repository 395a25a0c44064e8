use http::{HeaderValue, Uri, uri::Authority};

use crate::{
    config,
    filter::{
        InvalidFilter, host,
        path::{Replacement, join},
    },
};

/// What requests are rewritten to.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) host: Option<Host>,
    path: Option<Replacement>,
}

/// A host as the field and as a URI's part.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) field: HeaderValue,
    authority: Authority,
}

impl Policy {
    pub(super) fn new(rewrite: config::Rewrite) -> Result<Self, InvalidFilter> {
        let config::Rewrite { host, path } = rewrite;
        Ok(Self { host: host.map(Host::new).transpose()?, path: path.map(Replacement::new).transpose()? })
    }

    /// The URI in the place of `uri`, and how many bytes of its path stand for the prefix that was matched. `None` if it
    /// would be too long.
    pub(super) fn rewrite(&self, uri: Uri, prefix_len: usize) -> Option<(Uri, usize)> {
        let mut parts = uri.into_parts();
        let mut prefix_len = prefix_len;
        if let (Some(replacement), Some(asked)) = (&self.path, &parts.path_and_query) {
            let (path, len) = replacement.apply(asked.path(), prefix_len);
            (parts.path_and_query, prefix_len) = (Some(join(&path, asked.query())?), len);
        }
        if let (Some(host), Some(authority)) = (&self.host, &mut parts.authority) {
            *authority = host.authority.clone();
        }
        Some((Uri::from_parts(parts).ok()?, prefix_len))
    }
}

impl Host {
    fn new(host: String) -> Result<Self, InvalidFilter> {
        let authority = host::parse(host)?;
        match HeaderValue::from_str(authority.as_str()) {
            Ok(field) => Ok(Self { field, authority }),
            Err(_) => Err(InvalidFilter::Host { host: authority.to_string() }),
        }
    }
}
