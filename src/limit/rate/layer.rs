use std::sync::Arc;

use http::HeaderValue;
use tower_layer::Layer;

use super::{Everyone, KeyOf, Limiter, Quota, Rate, WhenFull, fields};

/// Limits how often requests come; see the [module](super).
///
/// One layer is one limit: the services that it makes, and their clones, share it.
#[derive(Debug)]
#[must_use]
pub struct RateLayer<K = Everyone> {
    key: Arc<K>,
    limiter: Arc<Limiter>,
    policy: Option<HeaderValue>,
}

impl RateLayer {
    /// One quota for all requests together.
    pub fn new(quota: Quota) -> Self {
        Self::keyed(quota, Everyone)
    }
}

impl<K: KeyOf> RateLayer<K> {
    /// This quota for each key, with a [`Limiter::new`].
    pub fn keyed(quota: Quota, key: K) -> Self {
        Self { key: Arc::new(key), limiter: Arc::new(Limiter::new(quota)), policy: None }
    }

    /// How many keys are kept at the most, and what becomes of a new one when they are. Default 100,000, and
    /// [`WhenFull::Evict`].
    pub fn max_keys(self, keys: usize, when_full: WhenFull) -> Self {
        let limiter = Limiter::with_keys(self.limiter.quota(), keys, when_full);
        self.limiter(Arc::new(limiter))
    }

    /// Uses this limiter, which others may use as well, in place of its own.
    pub fn limiter(mut self, limiter: Arc<Limiter>) -> Self {
        self.limiter = limiter;
        let wanted = self.policy.is_some();
        self.fields(wanted)
    }

    /// Whether responses say what is left, in the fields `RateLimit` and `RateLimit-Policy` of
    /// draft-ietf-httpapi-ratelimit-headers-10. Default: no, as they are no standard yet and tell a client how to stay just
    /// below.
    pub fn fields(mut self, add: bool) -> Self {
        self.policy = add.then(|| fields::policy(self.limiter.quota()));
        self
    }

    /// The limiter, to look at or to share.
    #[must_use]
    pub fn handle(&self) -> Arc<Limiter> {
        Arc::clone(&self.limiter)
    }
}

impl<K> Clone for RateLayer<K> {
    fn clone(&self) -> Self {
        Self { key: Arc::clone(&self.key), limiter: Arc::clone(&self.limiter), policy: self.policy.clone() }
    }
}

impl<S, K> Layer<S> for RateLayer<K> {
    type Service = Rate<S, K>;

    fn layer(&self, inner: S) -> Rate<S, K> {
        Rate { inner, key: Arc::clone(&self.key), limiter: Arc::clone(&self.limiter), policy: self.policy.clone() }
    }
}
