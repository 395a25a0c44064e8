//! What the rules that lead to an upstream share.

use http::Request;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_layer::Layer;

use crate::{
    Body,
    breaker::{BreakerLayer, Circuit},
    config::{self, AdaptiveConcurrency},
    gateway::local::Local,
    hedge::HedgeLayer,
    limit::{
        adaptive::AdaptiveLayer,
        concurrency::{ConcurrencyLayer, Permits},
        shed::ShedLayer,
    },
    retry::Budget,
    timeout::tell_what_is_left,
};

/// An upstream's policies, or those of the service of this process that stands in for it: the budget for sending again,
/// and what stands around each attempt. Each keeps its state for as long as its own settings stay.
pub(in crate::gateway) struct Shared {
    budget: Kept<config::RetryBudget, Budget>,
    /// Around a service of this process: an upstream has its own.
    breaker: Option<Kept<config::CircuitBreaker, BreakerLayer>>,
    hedge: Option<config::Hedge>,
    concurrency: Option<Kept<config::Concurrency, ConcurrencyLayer>>,
    adaptive: Option<Kept<AdaptiveConcurrency, AdaptiveLayer>>,
    shed: Option<Kept<config::Shed, ShedLayer>>,
    /// All of them around the upstream; none if there are none.
    stack: Option<Local>,
}

struct Kept<C, T> {
    config: C,
    made: T,
}

impl Shared {
    /// The policies of `config` around `innermost`, which is a service of this process if `local`. `previous` are those of the configuration before, around the same
    /// service if `same`.
    pub(in crate::gateway) fn new(
        config: &config::Upstream,
        innermost: impl FnOnce() -> Local,
        local: bool,
        previous: Option<&Self>,
        same: bool,
    ) -> Self {
        let budget = Kept::of(&config.retry_budget, previous.map(|previous| &previous.budget), Budget::of);
        let breaker = config.circuit_breaker.as_ref().filter(|_| local).map(|breaker| {
            let previous = previous.and_then(|previous| previous.breaker.as_ref());
            Kept::of(breaker, previous, |breaker| {
                BreakerLayer::new(Circuit::new(config.name.as_str(), breaker.clone()))
            })
        });
        let concurrency = config.concurrency.as_ref().map(|concurrency| {
            let previous = previous.and_then(|previous| previous.concurrency.as_ref());
            Kept::of(concurrency, previous, |concurrency| {
                ConcurrencyLayer::new(concurrency.limit).queue(concurrency.queue).max_wait(concurrency.max_wait)
            })
        });
        let adaptive = config.adaptive_concurrency.as_ref().map(|adaptive| {
            let previous = previous.and_then(|previous| previous.adaptive.as_ref());
            Kept::of(adaptive, previous, |adaptive| match adaptive {
                AdaptiveConcurrency::Gradient(gradient) => AdaptiveLayer::gradient(gradient.clone()),
                AdaptiveConcurrency::Aimd(aimd) => AdaptiveLayer::aimd(aimd.clone()),
            })
        });
        let shed = config.shed.as_ref().map(|shed| {
            let previous = previous.and_then(|previous| previous.shed.as_ref());
            Kept::of(shed, previous, shed_layer)
        });
        let mut this = Self { budget, breaker, hedge: config.hedge.clone(), concurrency, adaptive, shed, stack: None };
        this.stack = match previous {
            // With the latencies that hedging knows.
            Some(previous) if same && this.is_as(previous) => previous.stack.clone(),
            _ => this.around(innermost),
        };
        this
    }

    /// The budget of all who lead here.
    pub(in crate::gateway) fn budget(&self) -> &Budget {
        &self.budget.made
    }

    /// The upstream behind its policies, if it has any.
    pub(in crate::gateway) fn stack(&self) -> Option<&Local> {
        self.stack.as_ref()
    }

    /// Whether requests are refused by their deadlines.
    pub(in crate::gateway) fn sheds(&self) -> bool {
        self.shed.is_some()
    }

    fn is_as(&self, other: &Self) -> bool {
        fn same<C: PartialEq, T>(one: Option<&Kept<C, T>>, other: Option<&Kept<C, T>>) -> bool {
            one.map(|kept| &kept.config) == other.map(|kept| &kept.config)
        }
        self.budget.config == other.budget.config
            && same(self.breaker.as_ref(), other.breaker.as_ref())
            && self.hedge == other.hedge
            && same(self.concurrency.as_ref(), other.concurrency.as_ref())
            && same(self.adaptive.as_ref(), other.adaptive.as_ref())
            && same(self.shed.as_ref(), other.shed.as_ref())
    }

    fn around(&self, innermost: impl FnOnce() -> Local) -> Option<Local> {
        let limits = self.concurrency.is_some() || self.adaptive.is_some() || self.shed.is_some();
        if self.breaker.is_none() && self.hedge.is_none() && !limits {
            return None;
        }
        let mut stack = innermost();
        if let Some(breaker) = &self.breaker {
            stack = Local::new(breaker.made.layer(stack));
        }
        if let Some(adaptive) = &self.adaptive {
            stack = Local::new(adaptive.made.layer(stack));
        }
        if let Some(concurrency) = &self.concurrency {
            // After the time in the queue.
            let told = stack.map_request(|request: Request<Body>| {
                let (mut parts, body) = request.into_parts();
                tell_what_is_left(&mut parts, Instant::now());
                Request::from_parts(parts, body)
            });
            stack = Local::new(concurrency.made.layer(told));
        }
        if let Some(shed) = &self.shed {
            let layer = match &self.adaptive {
                Some(adaptive) => shed.made.clone().load(share_in_use(adaptive.made.handle())),
                None => shed.made.clone(),
            };
            stack = Local::new(layer.layer(stack));
        }
        if let Some(hedge) = &self.hedge {
            stack = Local::new(self.hedge_layer(hedge).layer(stack));
        }
        Some(stack)
    }

    fn hedge_layer(&self, hedge: &config::Hedge) -> HedgeLayer {
        let layer = match hedge.after {
            Some(delay) => HedgeLayer::after(delay),
            None => HedgeLayer::percentile(hedge.percentile / 100.0).least(hedge.least),
        };
        let layer = layer.budget(self.budget.made.clone());
        if hedge.non_idempotent { layer.repeatable_if(|_| true) } else { layer }
    }
}

fn shed_layer(shed: &config::Shed) -> ShedLayer {
    shed.shares
        .by_class()
        .into_iter()
        .fold(ShedLayer::new(shed.limit.unwrap_or(usize::MAX)), |layer, (priority, _, share)| {
            layer.share(priority, share)
        })
}

/// How full a limit is that is being learned.
fn share_in_use(permits: Permits) -> impl Fn() -> f64 {
    move || permits.in_flight() as f64 / permits.limit().max(1) as f64
}

impl<C: Clone + PartialEq, T: Clone> Kept<C, T> {
    fn of(config: &C, previous: Option<&Self>, make: impl FnOnce(&C) -> T) -> Self {
        let made = match previous {
            Some(previous) if previous.config == *config => previous.made.clone(),
            _ => make(config),
        };
        Self { config: config.clone(), made }
    }
}
