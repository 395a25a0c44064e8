//! Tables of routes, each made once.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::rule::Rule;
use crate::{
    config::{Config, Conflicts, Host, Route},
    route::{RouteTable, TableError},
};

/// The rules that one request may be of. Listeners and services that have the same ones share a table.
pub(super) type Table = RouteTable<Arc<Rule>>;

/// Which routes a table is of, by number, and for which hosts.
pub(super) type Selection = Vec<(usize, Vec<Host>)>;

/// Makes tables, each once.
pub(super) struct Tables<'a> {
    pub(super) config: &'a Config,
    /// Of each route.
    rules: &'a [Vec<Arc<Rule>>],
    made: HashMap<(bool, Selection), Arc<Table>>,
}

impl<'a> Tables<'a> {
    pub(super) fn new(config: &'a Config, rules: &'a [Vec<Arc<Rule>>]) -> Self {
        Self { config, rules, made: HashMap::new() }
    }

    pub(super) fn make(&mut self, selection: Selection, conflicts: Conflicts) -> Result<Arc<Table>, TableError> {
        let entry = match self.made.entry((conflicts == Conflicts::Refuse, selection)) {
            Entry::Occupied(made) => return Ok(made.get().clone()),
            Entry::Vacant(entry) => entry,
        };
        let selection = &entry.key().1;
        let route = |(index, hosts): &(usize, Vec<Host>)| Some((self.config.routes.get(*index)?, hosts.clone()));
        let routes: Vec<_> = selection.iter().filter_map(route).collect();
        // The table asks for its targets in the order of the rules.
        let mut rules = selection.iter().filter_map(|(index, _)| self.rules.get(*index)).flatten();
        let rule = |_: &Route, _| {
            rules.next().cloned().unwrap_or_else(|| Arc::new(Rule::refused("the rule was not compiled")))
        };
        let table = Arc::new(Table::compile_for(&routes, conflicts, rule)?);
        Ok(entry.insert(table).clone())
    }
}
