use http::HeaderName;
use thiserror::Error;

use crate::route::path::InvalidPath;

/// Why a filter cannot be made.
///
/// # Example
/// ```
/// use portcullis::{config, filter::RedirectLayer};
///
/// let invalid = RedirectLayer::new(config::Redirect { status: 200, ..Default::default() }).unwrap_err();
/// assert_eq!(invalid.to_string(), "200 is not the status of a redirect: use 301, 302, 303, 307 or 308");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidFilter {
    /// A field that says where a message ends, or that is for one hop only.
    #[error("`{name}` belongs to the connection and cannot be changed by a filter: leave it out")]
    ConnectionField {
        /// The field's name, as it is written.
        name: HeaderName,
    },
    /// The `Host` field among header changes.
    #[error("`host` cannot be changed as a header field: rewrite the host instead")]
    HostField,
    /// A redirect's status.
    #[error("{status} is not the status of a redirect: use 301, 302, 303, 307 or 308")]
    Status {
        /// The status.
        status: u16,
    },
    /// The port 0.
    #[error("0 is not a port: use 1 to 65535, or leave it out")]
    Port,
    /// A host that is none.
    #[error("`{host}` is not a host: write a name or an address, without scheme, port and wildcard")]
    Host {
        /// The host.
        host: String,
    },
    /// A path that does not begin with `/`, or has no normal form.
    #[error("`{path}` cannot be put in the place of a path: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: InvalidPath,
    },
    /// A character that no URI's path has.
    #[error(
        "`{path}` cannot be put in the place of a path: percent-encode what is not a letter, a digit or `-._~!$&'()*+,;=:@/`"
    )]
    PathCharacter {
        /// The path.
        path: String,
    },
    /// An origin that is none.
    #[error(
        "`{origin}` is not an origin: write `*`, `https://shop.example.com`, `https://*.example.com` or the like, without a path"
    )]
    Origin {
        /// The origin.
        origin: String,
    },
    /// A method that is none.
    #[error("`{method}` is not a method")]
    Method {
        /// The method.
        method: String,
    },
    /// A field's name that is none.
    #[error("`{name}` is not the name of a header field")]
    FieldName {
        /// The name.
        name: String,
    },
}
