//! The cohort that a split puts a request into, and how it travels.

use std::{fmt, sync::Arc};

use http::Extensions;

tokio::task_local! {
    static CURRENT: Cohort;
}

/// The share of a rule's requests that a request belongs to: a name, and the route that gave it.
///
/// A request extension for services of this process; and, for code that serves a request, a value of the task: calls made
/// meanwhile find it with [`current`](Self::current). A task that is spawned does not inherit it: give it on with
/// [`scope`](Self::scope).
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use portcullis::split::Cohort;
///
/// let cohort = Cohort::new("default/shop", "canary");
/// assert_eq!((cohort.route(), cohort.name()), ("default/shop", "canary"));
///
/// assert_eq!(Cohort::current(), None);
/// assert_eq!(cohort.clone().scope(async { Cohort::current() }).await, Some(cohort));
/// # });
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cohort {
    route: Arc<str>,
    name: Arc<str>,
}

impl Cohort {
    /// The cohort of this name, as `route` gave it.
    #[must_use]
    pub fn new(route: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { route: route.into(), name: name.into() }
    }

    /// The route whose split gave it.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Its name: [`BackendRef::cohort`](crate::config::BackendRef::cohort), or the backend's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// The one in a request's extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// That of the request which this task is serving.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// The one in a request's extensions, else that of the task.
    #[must_use]
    pub fn in_force(extensions: &Extensions) -> Option<Self> {
        Self::of(extensions).cloned().or_else(Self::current)
    }

    /// `future` with this as the cohort of its task.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// The same for what happens in one call.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), work)
    }
}

impl fmt::Display for Cohort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.route, self.name)
    }
}

impl fmt::Debug for Cohort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cohort({self})")
    }
}
