//! Why a request goes where it goes.

use std::{collections::HashSet, fmt, ops::ControlFlow};

use super::{Entry, Place, RouteTable, index::EntryId};
use crate::{
    config::{Host, PathMatch},
    route::{
        Condition, HostRank, Specificity, TieBreak, Unmet,
        request::{RequestView, Words},
    },
};

/// What a lookup comes to and why: every match for the request's host, with what became of it.
///
/// Its `Display` is for people: a line for the request, one for each match, the most specific first.
pub struct Explanation<'t, T> {
    request: String,
    candidates: Vec<Candidate<'t, T>>,
    other_hosts: usize,
}

/// A match that was considered, for one of its route's hosts.
pub struct Candidate<'t, T> {
    host: &'t Host,
    entry: &'t Entry,
    target: &'t T,
    verdict: Verdict,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is the request's.
    Wins,
    /// Something it asks for does not hold.
    Unmet(Unmet),
    /// It fits, and the winner is more specific.
    LessSpecific(TieBreak),
}

pub(super) fn explain<'t, T>(table: &'t RouteTable<T>, request: RequestView<'_>) -> Explanation<'t, T> {
    // The winner is the lookup's, and so are the walk and the conditions by which the others lose.
    let winner = table.best(request);
    let winning = winner.and_then(|(host, id)| Some(table.entries.get(id)?.specificity_for(&host.host)));
    let mut candidates = Vec::new();
    let mut considered: HashSet<EntryId> = HashSet::new();
    let _ = table.hosts::<()>(request.host().as_deref(), |host| {
        let mut path_fits = HashSet::new();
        let _ = host.walk::<()>(request.path(), |id| {
            path_fits.insert(id);
            ControlFlow::Continue(())
        });
        for id in host.entries() {
            let Some(entry) = table.entries.get(id) else { continue };
            let Some(rule) = table.rules.get(entry.rule) else { continue };
            let verdict = if winner.is_some_and(|(of, winner)| winner == id && of.host == host.host) {
                Verdict::Wins
            } else if !path_fits.contains(&id) {
                Verdict::Unmet(unmet_path(&entry.path, request.path()))
            } else if let Some(unmet) = entry.conditions.first_unmet(request) {
                Verdict::Unmet(unmet.explain(request))
            } else {
                let own = entry.specificity_for(&host.host);
                let tie_break = winning.as_ref().and_then(|winning| winning.tie_break(&own));
                Verdict::LessSpecific(tie_break.unwrap_or(TieBreak::Position))
            };
            considered.insert(id);
            candidates.push(Candidate { host: &host.host, entry, target: &rule.target, verdict });
        }
        ControlFlow::Continue(())
    });
    let host = request.host().unwrap_or_else(|| "(no host)".into());
    let path = request.uri.path_and_query().map_or("", |path| path.as_str());
    Explanation {
        request: format!("{} {host} {path}", request.method),
        candidates,
        other_hosts: table.entries.len() - considered.len(),
    }
}

impl Entry {
    fn specificity_for(&self, host: &Host) -> Specificity {
        let host = match host {
            Host::Any => HostRank::Any,
            Host::Exact(_) => HostRank::Exact,
            Host::Wildcard(suffix) => HostRank::Wildcard { suffix: suffix.len(), one_label: false },
            Host::OneLabelWildcard(suffix) => HostRank::Wildcard { suffix: suffix.len(), one_label: true },
        };
        Specificity { host, ..self.specificity.clone() }
    }
}

fn unmet_path(expected: &PathMatch, found: &str) -> Unmet {
    Unmet { condition: Condition::Path, expected: path_words(expected), found: Some(found.to_owned()) }
}

fn path_words(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(path) => format!("exactly `{path}`"),
        PathMatch::Prefix(prefix) if prefix.is_empty() => "anything".to_owned(),
        PathMatch::Prefix(prefix) => format!("`{prefix}` and below"),
        PathMatch::GrpcMethod(method) => format!("the gRPC method `{method}` of any service"),
        #[cfg(feature = "regex")]
        PathMatch::Regex(pattern) => format!("something like `{}`", pattern.as_str()),
    }
}

// === impl Explanation ===

impl<'t, T> Explanation<'t, T> {
    /// The match that wins; `None` where no route is the request's.
    #[must_use]
    pub fn winner(&self) -> Option<&Candidate<'t, T>> {
        self.candidates.iter().find(|candidate| candidate.verdict == Verdict::Wins)
    }

    /// Every match for the request's host, the most specific first.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate<'t, T>] {
        &self.candidates
    }

    /// How many matches are for other hosts alone.
    #[must_use]
    pub fn other_hosts(&self) -> usize {
        self.other_hosts
    }
}

impl<T> fmt::Display for Explanation<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.request)?;
        if self.winner().is_none() {
            f.write_str("\n  no route")?;
        }
        for candidate in &self.candidates {
            let mark = if candidate.verdict == Verdict::Wins { "->" } else { "  " };
            write!(f, "\n{mark} {candidate}: {}", candidate.verdict)?;
        }
        if self.other_hosts > 0 {
            write!(f, "\n   {} more, for other hosts", self.other_hosts)?;
        }
        Ok(())
    }
}

impl<T> fmt::Debug for Explanation<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explanation")
            .field("request", &self.request)
            .field("candidates", &self.candidates)
            .field("other_hosts", &self.other_hosts)
            .finish()
    }
}

// === impl Candidate ===

impl<'t, T> Candidate<'t, T> {
    /// Where the match stands in the configuration.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::of(&self.entry.specificity)
    }

    /// The route's name.
    #[must_use]
    pub fn route(&self) -> &'t str {
        &self.entry.specificity.name.0
    }

    /// The host it is considered for.
    #[must_use]
    pub fn host(&self) -> &'t Host {
        self.host
    }

    /// What the match's rule leads to.
    #[must_use]
    pub fn target(&self) -> &'t T {
        self.target
    }

    /// Where it stands in the order.
    #[must_use]
    pub fn specificity(&self) -> Specificity {
        self.entry.specificity_for(self.host)
    }

    /// What became of it.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

impl<T> fmt::Display for Candidate<'_, T> {
    /// Where it stands and what it asks for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions = &self.entry.conditions;
        write!(f, "{} (host {}, path {}", self.place(), self.host, path_words(&self.entry.path))?;
        if let Some(method) = &conditions.method {
            write!(f, ", method `{method}`")?;
        }
        for header in &conditions.headers {
            write!(f, ", header {} {}", header.name, Words(&header.value))?;
        }
        for query in &conditions.query {
            write!(f, ", query parameter {} {}", query.name, Words(&query.value))?;
        }
        for cookie in &conditions.cookies {
            write!(f, ", cookie {} {}", cookie.name, Words(&cookie.value))?;
        }
        f.write_str(")")
    }
}

impl<T> fmt::Debug for Candidate<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("place", &self.place())
            .field("host", &self.host)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wins => f.write_str("wins"),
            Self::Unmet(unmet) => unmet.fmt(f),
            Self::LessSpecific(part) => write!(f, "fits, but the winner {part}"),
        }
    }
}
