//! Which of several fitting matches wins: one ordered value.

use std::{cmp::Reverse, fmt, sync::Arc};

/// How specific a match is, for one of its route's hosts. The greatest of those that fit a request wins.
///
/// The fields are compared from first to last, as the Gateway API has it for `HTTPRoute` and, its services and
/// methods being paths, for `GRPCRoute`:
///
/// 1. the host: exact before wildcard, longer before shorter, any host last;
/// 2. the path: exact, then a regular expression (the longer expression first), then the longest prefix, then a gRPC method
///    of any service, then any path;
/// 3. a method is asked for;
/// 4. the number of headers asked for; a cookie is counted as one, since it is part of one;
/// 5. the number of query parameters asked for;
/// 6. the older route, one of unknown age last;
/// 7. the route's name, in alphabetical order;
/// 8. the order in which routes, rules and matches are written.
///
/// The Gateway API leaves the place of regular expressions open. They stand before prefixes here, as nginx has it (and
/// Envoy Gateway): an expression is written to take something out of a prefix, and would have no effect behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Specificity {
    /// How closely the host is named.
    pub host: HostRank,
    /// How closely the path is named.
    pub path: PathRank,
    /// Whether a method is asked for.
    pub method: bool,
    /// How many headers and cookies are asked for.
    pub headers: usize,
    /// How many query parameters are asked for.
    pub query: usize,
    /// When the route was made, in seconds since 1970; older is greater.
    pub created: Option<Reverse<i64>>,
    /// The route's name; earlier in the alphabet is greater.
    pub name: Reverse<Arc<str>>,
    /// Where the match is written: the index of route, rule and match; earlier is greater.
    pub position: Reverse<[usize; 3]>,
}

/// How closely a host is named. Lengths are in bytes, without `*.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HostRank {
    /// Any host.
    Any,
    /// A suffix of this length; of two equal suffixes the one for a single label in front wins.
    Wildcard {
        /// The suffix' length.
        suffix: usize,
        /// Exactly one label may stand in front.
        one_label: bool,
    },
    /// This host alone.
    Exact,
}

/// How closely a path is named. Lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PathRank {
    /// Any path.
    Any,
    /// A gRPC method of this length, whatever its service: any service named at all is closer.
    GrpcMethod(usize),
    /// A prefix of this length, without a slash at its end.
    Prefix(usize),
    /// A regular expression of this length.
    Regex(usize),
    /// This path alone.
    Exact,
}

/// The part of the order that decides between two matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TieBreak {
    /// The host is named more closely.
    Host,
    /// The path is named more closely.
    Path,
    /// A method is asked for.
    Method,
    /// More headers and cookies are asked for.
    Headers,
    /// More query parameters are asked for.
    Query,
    /// The route is older.
    Age,
    /// The route's name comes first in the alphabet.
    Name,
    /// It is written first.
    Position,
}

impl Specificity {
    /// The first part in which the two differ; `None` where they are the same.
    #[must_use]
    pub fn tie_break(&self, other: &Self) -> Option<TieBreak> {
        // Destructured, so that a new field cannot be forgotten here.
        let Self { host, path, method, headers, query, created, name, position } = self;
        [
            (*host != other.host, TieBreak::Host),
            (*path != other.path, TieBreak::Path),
            (*method != other.method, TieBreak::Method),
            (*headers != other.headers, TieBreak::Headers),
            (*query != other.query, TieBreak::Query),
            (*created != other.created, TieBreak::Age),
            (*name != other.name, TieBreak::Name),
            (*position != other.position, TieBreak::Position),
        ]
        .into_iter()
        .find_map(|(differ, part)| differ.then_some(part))
    }
}

impl fmt::Display for TieBreak {
    /// What the winner has over the loser.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "names the host more closely",
            Self::Path => "names the path more closely",
            Self::Method => "asks for a method",
            Self::Headers => "asks for more headers",
            Self::Query => "asks for more query parameters",
            Self::Age => "is of an older route",
            Self::Name => "is of a route that comes first in the alphabet",
            Self::Position => "is written first",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Specificity {
        Specificity {
            host: HostRank::Any,
            path: PathRank::Prefix(4),
            method: false,
            headers: 1,
            query: 1,
            created: Some(Reverse(100)),
            name: Reverse("m".into()),
            position: Reverse([1, 1, 1]),
        }
    }

    #[test]
    fn each_part_outweighs_all_after_it() {
        let wildcard = |suffix, one_label| HostRank::Wildcard { suffix, one_label };
        // From greatest to least, each with every later part at its least.
        let least = Specificity {
            method: false,
            headers: 0,
            query: 0,
            created: None,
            name: Reverse("z".into()),
            position: Reverse([9, 9, 9]),
            ..base()
        };
        let ladder = [
            (Specificity { host: HostRank::Exact, path: PathRank::Any, ..least.clone() }, TieBreak::Host),
            (Specificity { host: wildcard(9, false), path: PathRank::Any, ..least.clone() }, TieBreak::Host),
            (Specificity { host: wildcard(8, true), path: PathRank::Any, ..least.clone() }, TieBreak::Host),
            (Specificity { host: wildcard(8, false), path: PathRank::Any, ..least.clone() }, TieBreak::Host),
            (Specificity { path: PathRank::Exact, ..least.clone() }, TieBreak::Path),
            (Specificity { path: PathRank::Regex(9), ..least.clone() }, TieBreak::Path),
            (Specificity { path: PathRank::Regex(1), ..least.clone() }, TieBreak::Path),
            (Specificity { path: PathRank::Prefix(5), ..least.clone() }, TieBreak::Path),
            (Specificity { method: true, ..least.clone() }, TieBreak::Method),
            (Specificity { headers: 2, ..least.clone() }, TieBreak::Headers),
            (Specificity { headers: 1, query: 2, ..least.clone() }, TieBreak::Query),
            (Specificity { created: Some(Reverse(99)), name: Reverse("z".into()), ..base() }, TieBreak::Age),
            (Specificity { name: Reverse("a".into()), position: Reverse([9, 9, 9]), ..base() }, TieBreak::Name),
            (Specificity { position: Reverse([1, 0, 9]), ..base() }, TieBreak::Position),
            (base(), TieBreak::Age),
            (Specificity { created: None, name: Reverse("a".into()), ..base() }, TieBreak::Age),
        ];
        for (at, pair) in ladder.windows(2).enumerate() {
            assert!(pair[0].0 > pair[1].0, "{at}: {pair:?}");
        }
        for pair in ladder.windows(2) {
            assert_eq!(pair[0].0.tie_break(&pair[1].0), Some(pair[0].1), "{pair:?}");
        }
        assert_eq!(base().tie_break(&base()), None);
    }
}
