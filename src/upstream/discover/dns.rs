//! Endpoints by name: looked up again and again.

use std::{collections::BTreeSet, fmt, future::Future, io, net::SocketAddr, pin::Pin, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use crate::config::Endpoint;

/// How long one look-up may take before it counts as failed. The C library's resolver gives up on a server after 5 s
/// and tries twice.
const LONGEST_LOOKUP: Duration = Duration::from_secs(10);

/// The shortest time between two look-ups, whatever is asked for (Envoy allows 1 ms; nobody's name server likes it).
const LEAST_REFRESH: Duration = Duration::from_millis(100);

/// The longest: a day.
const LONGEST_REFRESH: Duration = Duration::from_secs(86_400);

/// While there is no answer yet, the name is looked up again after this long if the refresh is longer.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The addresses that a name resolves to, looked up again every now and then.
///
/// 1. Look-ups follow each other after `refresh`, up to a tenth more or less by chance, so that many upstreams and
///    processes do not ask at once. After a failure before the first answer, after a second at most.
/// 2. An answer that fails, takes over 10 s, or is empty leaves the last good one in place.
/// 3. Order and repetition in an answer mean nothing: only a different set of addresses is a new list.
///
/// # Example
/// ```
/// # tokio_test::block_on(async {
/// use portcullis::upstream::discover::{Discover, Dns};
///
/// // In a test, a closure is the resolver.
/// let dns = Dns::new("payments", 8443)
///     .resolver(|_host: String, port| async move { Ok(vec![([10, 0, 0, 2], port).into(), ([10, 0, 0, 1], port).into()]) });
/// let endpoints = Discover::dns(dns).next().await.unwrap();
/// assert_eq!(endpoints[0].address, "10.0.0.1:8443".parse().unwrap());
/// assert_eq!(endpoints.len(), 2);
/// # });
/// ```
pub struct Dns {
    host: String,
    port: u16,
    refresh: Duration,
    resolver: Box<dyn Resolve>,
    rng: fastrand::Rng,
    /// When to look up next; `None` at once.
    due: Option<Instant>,
    good: BTreeSet<SocketAddr>,
    /// The last look-up failed: the next failure is no news.
    failing: bool,
}

/// A look-up under way.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// What looks names up: implemented by [`SystemResolver`] and by closures from host and port to a future.
pub trait Resolve: Send + Sync + 'static {
    /// Begins to look up the addresses of `host`, each with `port`.
    fn resolve(&self, host: &str, port: u16) -> Resolving;
}

impl<F, Answer> Resolve for F
where
    F: Fn(String, u16) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
{
    fn resolve(&self, host: &str, port: u16) -> Resolving {
        Box::pin(self(host.to_owned(), port))
    }
}

/// The operating system's resolver (`getaddrinfo`, on the runtime's blocking threads).
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> Resolving {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

impl Dns {
    /// The addresses of `host`, each with `port`.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            refresh: Duration::from_secs(5),
            resolver: Box::new(SystemResolver),
            rng: fastrand::Rng::new(),
            due: None,
            good: BTreeSet::new(),
            failing: false,
        }
    }

    /// How often the name is looked up. Default 5 s (Envoy's `dns_refresh_rate`); at least 100 ms, at most a day.
    #[must_use]
    pub fn refresh(mut self, refresh: Duration) -> Self {
        self.refresh = refresh.clamp(LEAST_REFRESH, LONGEST_REFRESH);
        self
    }

    /// What looks the name up. Default [`SystemResolver`].
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Box::new(resolver);
        self
    }

    pub(super) async fn next(&mut self) -> Vec<Endpoint> {
        loop {
            if let Some(due) = self.due {
                sleep_until(due).await;
            }
            let answer = timeout(LONGEST_LOOKUP, self.resolver.resolve(&self.host, self.port)).await;
            let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            // Nothing is awaited from here on: a look-up that was made is not lost.
            let new = self.learn(answer);
            let pause = if self.good.is_empty() { self.refresh.min(FIRST_RETRY) } else { self.refresh };
            let pause = pause.mul_f32(0.9 + self.rng.f32() / 5.0);
            self.due = Instant::now().checked_add(pause);
            if new {
                return self.good.iter().copied().map(Endpoint::from).collect();
            }
        }
    }

    /// Takes an answer in; whether it is a new one.
    fn learn(&mut self, answer: io::Result<Vec<SocketAddr>>) -> bool {
        let why = match answer {
            Ok(addresses) if !addresses.is_empty() => {
                self.failing = false;
                let addresses = addresses.into_iter().collect();
                let new = self.good != addresses;
                self.good = addresses;
                return new;
            }
            Ok(_) => "no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut self.failing, true) {
            let kept = self.good.len();
            tracing::warn!(host = self.host, error = why, kept, "look-up failed; keeping the last addresses");
        }
        false
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("refresh", &self.refresh)
            .field("addresses", &self.good)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// Answers in turn, then without end the last one; notes when it was asked.
    #[derive(Clone, Default)]
    struct Script {
        answers: Arc<Mutex<VecDeque<Option<Vec<u8>>>>>,
        asked: Arc<Mutex<Vec<Instant>>>,
    }

    impl Script {
        fn new(answers: impl IntoIterator<Item = Option<Vec<u8>>>) -> Self {
            Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
        }

        fn pauses(&self) -> Vec<Duration> {
            self.asked.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect()
        }
    }

    impl Resolve for Script {
        fn resolve(&self, host: &str, port: u16) -> Resolving {
            assert_eq!(host, "shop");
            self.asked.lock().unwrap().push(Instant::now());
            let mut answers = self.answers.lock().unwrap();
            let answer = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
            Box::pin(async move {
                let hosts = answer.ok_or(io::ErrorKind::NotFound)?;
                Ok(hosts.into_iter().map(|host| ([10, 0, 0, host], port).into()).collect())
            })
        }
    }

    fn dns(script: &Script) -> Dns {
        Dns::new("shop", 80).resolver(script.clone())
    }

    fn hosts(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_different_set_of_addresses_is_news() {
        let script = Script::new([Some(vec![2, 1]), Some(vec![1, 2, 2]), Some(vec![1]), Some(vec![1, 3])]);
        let mut dns = dns(&script);
        assert_eq!(hosts(&dns.next().await), ["10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!(hosts(&dns.next().await), ["10.0.0.1:80"]);
        assert_eq!(hosts(&dns.next().await), ["10.0.0.1:80", "10.0.0.3:80"]);
        assert_eq!(script.pauses().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_or_is_empty_keeps_the_last_answer() {
        let script = Script::new([Some(vec![1]), None, Some(vec![]), Some(vec![1]), Some(vec![2])]);
        let mut dns = dns(&script);
        assert_eq!(hosts(&dns.next().await), ["10.0.0.1:80"]);
        assert_eq!(hosts(&dns.next().await), ["10.0.0.2:80"]);
        assert_eq!(script.pauses().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn look_ups_keep_their_distance_with_jitter() {
        let script = Script::new([Some(vec![1])]);
        let mut dns = dns(&script).refresh(Duration::from_secs(20));
        dns.next().await;
        assert!(timeout(Duration::from_secs(600), dns.next()).await.is_err(), "nothing was new");
        let pauses = script.pauses();
        assert!((27..=33).contains(&pauses.len()), "{pauses:?}");
        assert!(pauses.iter().all(|pause| (18_000..=22_001).contains(&pause.as_millis())), "{pauses:?}");
        assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_first_answer_it_is_asked_more_often() {
        let script = Script::new([None, None, None, Some(vec![1])]);
        let began = Instant::now();
        dns(&script).refresh(Duration::from_secs(300)).next().await;
        assert!(began.elapsed() < Duration::from_secs(4));
        assert_eq!(script.pauses().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_hangs_is_given_up_and_one_that_is_dropped_begun_again() {
        let asked = Arc::new(Mutex::new(0));
        let counter = asked.clone();
        let resolver = move |_: String, port: u16| {
            *counter.lock().unwrap() += 1;
            let hangs = *counter.lock().unwrap() < 3;
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok(vec![([10, 0, 0, 1], port).into()])
            }
        };
        let mut dns = Dns::new("shop", 80).resolver(resolver);
        assert!(timeout(Duration::from_secs(1), dns.next()).await.is_err());
        assert_eq!(*asked.lock().unwrap(), 1);
        assert_eq!(dns.next().await.len(), 1);
        assert_eq!(*asked.lock().unwrap(), 3);
    }

    #[tokio::test]
    async fn the_system_resolver_knows_addresses() {
        let endpoints = Dns::new("127.0.0.1", 8080).next().await;
        assert_eq!(hosts(&endpoints), ["127.0.0.1:8080"]);
    }
}
