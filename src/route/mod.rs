//! Which rule a request belongs to: the pure table, and the service around it.
//!
//! A [`RouteTable`] is compiled from the [configuration](crate::config)'s routes, finds the one rule that a request
//! belongs to, and [explains](RouteTable::explain) why. A [`Router`] is the service around it: for a gateway over a
//! compiled table, and for code over routes written with its [`RouterBuilder`].
//!
//! 1. A path is matched and forwarded in one [normal form](path); what has none is answered 400.
//! 2. The most specific host with a match that fits wins, and of its matches the one with the greatest [`Specificity`]:
//!    the order of the Gateway API, as one ordered value.
//! 3. Two matches that ask the same for the same host are refused when the table is compiled, or go to the oldest
//!    route, as [`Conflicts`](crate::config::Conflicts) says.
//! 4. A request without a rule goes to the fallback, or is answered 404 with [`Outcome::NoRoute`](crate::Outcome).
//!
//! # Where it belongs
//! Inside whatever limits and records requests, around whatever belongs to one rule: retries, timeouts, upstreams.
//!
//! # Caveats
//! - A host's regular expressions are tried one after the other; a lookup's time grows with their number, and with
//!   nothing else.
//! - The host of a request is believed. Whether it may be asked for on this connection is for the server to say.
//!
//! # Example
//! ```
//! use portcullis::{config::Match, route::Router};
//!
//! let router = Router::builder()
//!     .route("shop", ["shop.example.com"], Match::prefix("/"), "shop")
//!     .rule([Match::prefix("/cart"), Match::exact("/basket")], "cart")
//!     .build()?;
//! let explanation = router.explain(&http::Request::get("http://shop.example.com/cart/7").body(())?)?;
//! assert_eq!(
//!     explanation.to_string(),
//!     "GET shop.example.com /cart/7\n   \
//!      route `shop`, rules[1].matches[1] (host shop.example.com, path exactly `/basket`): \
//!      path: expected exactly `/basket`, found `/cart/7`\n\
//!      -> route `shop`, rules[1].matches[0] (host shop.example.com, path `/cart` and below): wins\n   \
//!      route `shop`, rules[0].matches[0] (host shop.example.com, path anything): \
//!      fits, but the winner names the path more closely"
//! );
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod diff;
mod hosts;
pub mod path;
mod request;
mod service;
mod specificity;
mod table;
mod target;
#[cfg(test)]
mod tests;

pub use self::{
    builder::{RouterBuilder, RouterError},
    diff::{Change, Destination, Diff, PathClass, diff, diff_domains},
    request::{Condition, Unmet},
    service::{RouteFuture, Router},
    specificity::{HostRank, PathRank, Specificity, TieBreak},
    table::{Candidate, Explanation, Found, Place, RouteMatch, RouteTable, TableError, Verdict},
    target::{Target, TargetFuture},
};
pub(crate) use self::{
    hosts::{HostMap, normal},
    request::host,
};
