//! The classes of one host's requests, and which of them go elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use http::Method;

use super::{
    Change, fresh,
    sample::{PathClass, When},
    side::Side,
};
use crate::{
    config::{Host, Match, PathMatch, Route},
    route::path::normalize,
};

/// The classes of one host.
pub(super) struct Classes<'s, 'a> {
    pub(super) old: &'s Side<'a>,
    pub(super) new: &'s Side<'a>,
    pub(super) host: &'s Host,
    pub(super) name: &'s str,
    pub(super) before: Vec<&'a Route>,
    pub(super) after: Vec<&'a Route>,
}

impl<'a> Classes<'_, 'a> {
    pub(super) fn changes(&self, unexamined: &mut BTreeSet<String>) -> Vec<Change<'a>> {
        let everything = Match::default();
        let matches = || {
            let rules = self.before.iter().chain(&self.after).flat_map(|route| &route.rules);
            rules.flat_map(|rule| &rule.matches)
        };
        let mut classes = Vec::new();
        for matching in matches().chain([&everything]) {
            if let Err(what) = PathClass::of(&matching.path, &mut classes) {
                unexamined.insert(format!("{}: {what}", self.host));
            }
        }
        classes.sort_unstable();
        classes.dedup();
        let segment = unlisted_segment(&classes);
        let method = unlisted_method(matches());

        let mut by_path: BTreeMap<PathClass, Vec<Change<'a>>> = BTreeMap::new();
        for class in classes {
            let path = class.sample(&segment);
            let changes = self.changes_of(&class, &path, matches(), &method, unexamined);
            by_path.insert(class, changes);
        }
        fold(by_path)
    }

    /// What changes for one class of paths, by what else the requests have.
    fn changes_of<'m>(
        &self,
        class: &PathClass,
        path: &str,
        matches: impl Iterator<Item = &'m Match>,
        method: &Method,
        unexamined: &mut BTreeSet<String>,
    ) -> Vec<Change<'a>> {
        let mut asking: Vec<&Match> = Vec::new();
        for matching in matches.filter(|matching| asks_more(matching) && path_fits(&matching.path, path)) {
            if !asking.iter().any(|other| asks_the_same(other, matching)) {
                asking.push(matching);
            }
        }
        let mut changed: Vec<(When<'m>, Change<'a>)> = Vec::new();
        for when in When::all(&asking) {
            let request = match when.request(self.name, path, method) {
                Ok(request) => request,
                Err(what) => {
                    unexamined.insert(format!("{}, {class}: {what}", self.host));
                    continue;
                }
            };
            let (before, after) = (self.old.destination(&request), self.new.destination(&request));
            let same = match (&before, &after) {
                (None, None) => true,
                (Some(before), Some(after)) => before.does_the_same_as(after),
                _ => false,
            };
            if same {
                continue;
            }
            let change = Change { host: self.host.clone(), path: class.clone(), when: when.to_string(), before, after };
            // What a more general class says already.
            let told = changed.iter().any(|(other, told)| {
                let (a, b) = (told.key(), change.key());
                when.includes(*other) && (a.2, a.3) == (b.2, b.3)
            });
            if !told {
                changed.push((when, change));
            }
        }
        changed.into_iter().map(|(_, change)| change).collect()
    }
}

/// Makes one of a path and what is below it where both go the same way.
fn fold(mut by_path: BTreeMap<PathClass, Vec<Change<'_>>>) -> Vec<Change<'_>> {
    let prefixes: Vec<String> = by_path
        .keys()
        .filter_map(|class| match class {
            PathClass::Below(path) => Some(path.clone()),
            _ => None,
        })
        .collect();
    for prefix in prefixes {
        let exact = PathClass::Exact(if prefix.is_empty() { "/".to_owned() } else { prefix.clone() });
        let below = PathClass::Below(prefix.clone());
        let ends = |class: &PathClass| -> Vec<_> {
            by_path
                .get(class)
                .into_iter()
                .flatten()
                .map(|change| (change.key().1, change.key().2, change.key().3))
                .collect()
        };
        if ends(&exact) == ends(&below) {
            by_path.remove(&exact);
            if let Some(mut changes) = by_path.remove(&below) {
                let path = PathClass::Prefix(prefix);
                changes.iter_mut().for_each(|change| change.path = path.clone());
                by_path.insert(path, changes);
            }
        }
    }
    by_path.into_values().flatten().collect()
}

fn asks_more(matching: &Match) -> bool {
    matching.method.is_some()
        || !(matching.headers.is_empty() && matching.query.is_empty() && matching.cookies.is_empty())
}

fn asks_the_same(one: &Match, other: &Match) -> bool {
    let Match { path: _, method, headers, query, cookies } = one;
    *method == other.method && *headers == other.headers && *query == other.query && *cookies == other.cookies
}

/// Whether a path in its normal form is among those that a match asks for.
pub(super) fn path_fits(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => normalize(exact).is_ok_and(|exact| exact == path),
        PathMatch::GrpcMethod(method) => grpc_method(path).is_some_and(|asked| asked == method),
        PathMatch::Prefix(prefix) => normalize(prefix).is_ok_and(|prefix| {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
        #[cfg(feature = "regex")]
        PathMatch::Regex(pattern) => pattern.is_match(path),
    }
}

/// The method of a gRPC call: `/service/method`.
fn grpc_method(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.contains('/')).then_some(method)
}

/// A segment that none of the paths has.
fn unlisted_segment(classes: &[PathClass]) -> String {
    let segments: HashSet<&str> = classes
        .iter()
        .flat_map(|class| match class {
            PathClass::Exact(path) | PathClass::Prefix(path) | PathClass::Below(path) => path.split('/'),
            PathClass::GrpcMethod(method) => method.split('/'),
            PathClass::Regex { sample, .. } => sample.split('/'),
        })
        .collect();
    fresh(|segment| segments.contains(segment))
}

/// A method that none of the matches asks for.
fn unlisted_method<'m>(matches: impl Iterator<Item = &'m Match>) -> Method {
    let listed: HashSet<&Method> = matches.filter_map(|matching| matching.method.as_ref()).collect();
    let common = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD, Method::OPTIONS];
    common.into_iter().find(|method| !listed.contains(method)).unwrap_or(Method::TRACE)
}
