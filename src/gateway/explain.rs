//! Why a request goes where it goes, with the backends at the end of it.

use std::{fmt, sync::Arc};

use http::Request;

use super::{
    compile::Snapshot,
    rule::{Backend, Rule, Target},
};
use crate::route::path::{InvalidPath, normalize_uri};

/// Where a request goes under a gateway's configuration, and why the other rules lost.
///
/// Its `Display` is for people: the request, every rule for its host with what became of it, and the winner's backends.
#[derive(Debug, Clone)]
pub struct Explanation {
    text: String,
    winner: Option<Winner>,
}

/// The rule that wins a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Winner {
    /// The route's name.
    pub route: Arc<str>,
    /// The rule's place in the route, from 0.
    pub rule: usize,
    /// What answers its requests.
    pub backends: Vec<ExplainedBackend>,
}

/// One backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExplainedBackend {
    /// Its name.
    pub name: Arc<str>,
    /// Its share of the rule's requests, relative to the others'.
    pub weight: u32,
    /// Whether it is a service of this process.
    pub local: bool,
    /// Why it answers 500, if it does.
    pub invalid: Option<Arc<str>>,
}

impl Explanation {
    pub(super) fn of<B>(snapshot: &Snapshot, request: &Request<B>) -> Result<Self, InvalidPath> {
        let mut plain = Request::new(());
        *plain.method_mut() = request.method().clone();
        *plain.uri_mut() = request.uri().clone();
        *plain.headers_mut() = request.headers().clone();
        normalize_uri(plain.uri_mut())?;
        let connection = request.extensions().get();
        let table = match snapshot.listeners.table(plain.uri(), plain.headers(), connection) {
            Ok(table) => table,
            Err(error) => {
                let text = format!("{} {}\n  no route: {error}", plain.method(), plain.uri());
                return Ok(Self { text, winner: None });
            }
        };
        let explanation = table.explain(&plain);
        let winner = table.lookup(&plain).map(|found| Winner {
            route: found.route().clone(),
            rule: found.rule_index(),
            backends: found.target().explain(),
        });
        Ok(Self { text: explanation.to_string(), winner })
    }

    /// The rule that wins; `None` where the request has no route.
    #[must_use]
    pub fn winner(&self) -> Option<&Winner> {
        self.winner.as_ref()
    }
}

impl Winner {
    /// The name of the backend, where there is only one with a weight.
    #[must_use]
    pub fn backend(&self) -> Option<&str> {
        let mut weighty = self.backends.iter().filter(|backend| backend.weight > 0);
        let only = weighty.next()?;
        weighty.next().is_none().then_some(&*only.name)
    }
}

impl Rule {
    fn explain(&self) -> Vec<ExplainedBackend> {
        let explain = |backend: &Backend| ExplainedBackend {
            name: backend.name.clone(),
            weight: backend.weight,
            local: matches!(backend.target, Target::Local(_)),
            invalid: match &backend.target {
                Target::Invalid(why) => Some(why.clone()),
                Target::Local(_) | Target::Upstream(_) | Target::Stack(_) => self.invalid().cloned(),
            },
        };
        self.backends.list.iter().map(explain).collect()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        for backend in self.winner.iter().flat_map(|winner| &winner.backends) {
            write!(f, "\n   backend {}, weight {}", backend.name, backend.weight)?;
            if backend.local {
                f.write_str(", in this process")?;
            }
            if let Some(why) = &backend.invalid {
                write!(f, ", answers 500: {why}")?;
            }
        }
        Ok(())
    }
}
