//! One host's matches, found by path without looking at the rest.

use std::{collections::HashMap, ops::ControlFlow};

use foldhash::fast::RandomState;

use crate::config::{Host, PathMatch};

/// Keys come from the configuration and lookups from clients; foldhash is seeded at random.
pub(super) type Map<V> = HashMap<Box<str>, V, RandomState>;

/// An entry's number: the smaller, the more specific, as long as the host is the same.
pub(super) type EntryId = usize;

/// The place of the root, by which all paths go, in the tree.
const ROOT: usize = 0;

/// The matches for one host. Every list is in ascending order, and so is the walk.
#[derive(Debug)]
pub(super) struct HostIndex {
    pub(super) host: Host,
    exact: Map<Vec<EntryId>>,
    /// Few, as a rule: each is tried in turn.
    #[cfg(feature = "regex")]
    regexes: Vec<(crate::config::Pattern, EntryId)>,
    /// By method, whatever the service: behind every prefix but the root's.
    grpc_methods: Map<Vec<EntryId>>,
    /// A tree of path segments; the root is first, and children come after their parents.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: Map<usize>,
    entries: Vec<EntryId>,
    /// The nearest node above that has entries.
    above: Option<usize>,
}

impl HostIndex {
    pub(super) fn new(host: Host) -> Self {
        Self {
            host,
            exact: Map::default(),
            #[cfg(feature = "regex")]
            regexes: Vec::new(),
            grpc_methods: Map::default(),
            nodes: vec![Node::default()],
        }
    }

    /// Adds an entry, whose path is in its normal form. Entries have to come in ascending order.
    pub(super) fn insert(&mut self, path: &PathMatch, id: EntryId) {
        match path {
            PathMatch::Exact(path) => self.exact.entry(path.as_str().into()).or_default().push(id),
            PathMatch::Prefix(prefix) => {
                let node = segments(prefix).fold(ROOT, |node, segment| self.child(node, segment));
                self.nodes[node].entries.push(id);
            }
            PathMatch::GrpcMethod(method) => self.grpc_methods.entry(method.as_str().into()).or_default().push(id),
            #[cfg(feature = "regex")]
            PathMatch::Regex(pattern) => self.regexes.push((pattern.clone(), id)),
        }
    }

    fn child(&mut self, parent: usize, segment: &str) -> usize {
        if let Some(&child) = self.nodes[parent].children.get(segment) {
            return child;
        }
        let child = self.nodes.len();
        self.nodes[parent].children.insert(segment.into(), child);
        self.nodes.push(Node::default());
        child
    }

    /// To be called when all entries are there.
    pub(super) fn finish(&mut self) {
        for parent in 0..self.nodes.len() {
            let node = &self.nodes[parent];
            let above = if node.entries.is_empty() { node.above } else { Some(parent) };
            let children: Vec<usize> = node.children.values().copied().collect();
            for child in children {
                self.nodes[child].above = above;
            }
        }
    }

    /// Shows every entry whose path fits, the most specific first, until `visit` breaks.
    pub(super) fn walk<R>(&self, path: &str, mut visit: impl FnMut(EntryId) -> ControlFlow<R>) -> ControlFlow<R> {
        if let Some(entries) = self.exact.get(path) {
            entries.iter().try_for_each(|&id| visit(id))?;
        }
        #[cfg(feature = "regex")]
        for (pattern, id) in &self.regexes {
            if pattern.is_match(path) {
                visit(*id)?;
            }
        }
        let mut next = Some(self.deepest(path)).filter(|&node| node != ROOT);
        while let Some(node) = next.and_then(|node| self.nodes.get(node)) {
            node.entries.iter().try_for_each(|&id| visit(id))?;
            next = node.above.filter(|&node| node != ROOT);
        }
        if !self.grpc_methods.is_empty()
            && let Some(entries) = grpc_method(path).and_then(|method| self.grpc_methods.get(method))
        {
            entries.iter().try_for_each(|&id| visit(id))?;
        }
        let root = self.nodes.get(ROOT).map(|root| root.entries.as_slice()).unwrap_or_default();
        root.iter().try_for_each(|&id| visit(id))
    }

    /// The deepest node on the path's way. All paths, also `*`, go by the root.
    fn deepest(&self, path: &str) -> usize {
        let mut deepest = ROOT;
        for segment in segments(path) {
            match self.nodes.get(deepest).and_then(|node| node.children.get(segment)) {
                Some(&child) => deepest = child,
                None => break,
            }
        }
        deepest
    }

    /// Every entry, in ascending order.
    pub(super) fn entries(&self) -> Vec<EntryId> {
        let lists =
            self.exact.values().chain(self.grpc_methods.values()).chain(self.nodes.iter().map(|node| &node.entries));
        let mut all: Vec<EntryId> = lists.flatten().copied().collect();
        #[cfg(feature = "regex")]
        all.extend(self.regexes.iter().map(|(_, id)| id));
        all.sort_unstable();
        all
    }
}

/// The method of a gRPC path, which is `/service/method`.
fn grpc_method(path: &str) -> Option<&str> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.contains('/')).then_some(method)
}

/// A path's elements. A slash at the end does not count; what does not begin with one has none.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let elements = path.strip_prefix('/').filter(|rest| !rest.is_empty());
    elements.map(|rest| rest.strip_suffix('/').unwrap_or(rest).split('/')).into_iter().flatten()
}
