//! Identities from a SPIFFE Workload API, such as SPIRE's agent.

mod error;
mod message;
mod stream;
mod update;

#[cfg(all(test, unix, feature = "tls-ring"))]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tonic::Streaming;

pub use self::error::WorkloadError;
use self::{
    message::X509SvidResponse,
    stream::Agent,
    update::{Flaw, Update},
};
use super::{Identity, Trust};
use crate::identity::SpiffeId;

/// How long the first update is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between attempts: a random time up to this, which doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A SPIFFE Workload API, which gives this process its [`Identity`] and rotates it: X.509-SVIDs, trust bundles and revocation
/// lists, as SPIRE's agent streams them.
///
/// 1. The endpoint is `unix:///path` or `tcp://ip:port`, given or from the environment's `SPIFFE_ENDPOINT_SOCKET`.
/// 2. [`connect`](Self::connect) asks until the first identity is there, and gives up after a time (default 30 s) with the
///    last failure: an agent may start after its workloads, and learn of them later still.
/// 3. From then on a task follows the stream. When it breaks, the task connects again, after a random pause of up to 200 ms that
///    doubles up to 15 s, and the last identity stays for as long as it is valid. The log is told, as a warning.
/// 4. An update is taken whole or not at all: when anything in it is malformed, the old identity stays.
/// 5. Trust is [by trust domain](Trust::by_domain): our own bundle for our own IDs, each federated bundle for its domain's. A
///    federated bundle that names our own domain makes the update malformed; one that is empty trusts nobody.
/// 6. Revocation lists speak for our own trust domain, not for federated ones.
///
/// # Caveats
/// * **TCP is plaintext**: whoever can read or answer there has the private key, or our trust. Only loopback is fit for it,
///   and a Unix socket is better.
/// * Where there are revocation lists, certificates that no list speaks for are refused: see [`Trust`].
///
/// # Example
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis::{
///     config::{Protocol, UpstreamTls},
///     tls::{ClientCertificates, ServerTls, WorkloadApi, client::ClientTls},
/// };
///
/// let workload = WorkloadApi::at("unix:///run/spire/agent.sock").connect().await?;
/// let server = ServerTls::new(workload.identity().clone())?
///     .client_certificates(ClientCertificates::required(workload.trust().clone()));
/// let pay = UpstreamTls { spiffe_id: Some("spiffe://mesh.example/pay".parse()?), ..UpstreamTls::default() };
/// let client = ClientTls::mtls(workload.identity(), &pay, "pay.internal", Protocol::Auto)?;
/// // Both rotate for as long as `workload` is there.
/// # let _ = (server, client);
/// # Ok(()) }
/// ```
///
/// For a gateway, whose upstreams and listeners name it:
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis::{gateway::Gateway, source, tls::WorkloadApi};
///
/// # #[cfg(feature = "yaml")] {
/// let text = "
/// upstreams:
/// - name: pay
///   endpoints: {static: ['10.0.0.1:8443']}
///   tls: {identity: mesh, spiffe_id: 'spiffe://mesh.example/pay'}
/// listeners:
/// - name: mesh
///   port: 8443
///   protocol: {https: {identity: mesh, client: {mode: required}}}
/// ";
/// let workload = WorkloadApi::from_env().connect().await?;
/// let config = source::parse("gate.yaml", text)?.config;
/// let gateway = Gateway::builder(config).identity("mesh", workload.identity().clone()).build()?;
/// # let _ = gateway; }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is asked before `connect`"]
pub struct WorkloadApi {
    endpoint: Option<String>,
    timeout: Duration,
}

impl WorkloadApi {
    /// Where `SPIFFE_ENDPOINT_SOCKET` says, which is read on [`connect`](Self::connect).
    pub fn from_env() -> Self {
        Self { endpoint: None, timeout: TIMEOUT }
    }

    /// At `unix:///path` or `tcp://ip:port`.
    pub fn at(endpoint: impl Into<String>) -> Self {
        Self { endpoint: Some(endpoint.into()), timeout: TIMEOUT }
    }

    /// How long to wait for the first identity. Default 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks for the first identity, and follows it from then on.
    ///
    /// # Errors
    /// When the endpoint is none, or no identity came in time.
    pub async fn connect(self) -> Result<WorkloadIdentity, WorkloadError> {
        let agent = Agent::new(self.endpoint.as_deref())?;
        let mut last = None;
        let asking = async {
            let mut pauses = Pauses::default();
            loop {
                match first(&agent).await {
                    Ok(found) => return Ok(found),
                    Err(error) if error.is_final() => return Err(error),
                    Err(error) => last = Some(error),
                }
                sleep(pauses.next()).await;
            }
        };
        let Ok(found) = timeout(self.timeout, asking).await else {
            let endpoint = agent.as_str().to_owned();
            return Err(last.unwrap_or(WorkloadError::TimedOut { endpoint, timeout: self.timeout }));
        };
        let (updates, response, update) = found?;
        let shared = Arc::new(Shared::new(response, update));
        let changes = shared.changes.subscribe();
        let task = tokio::spawn(follow(agent, Arc::clone(&shared), updates)).abort_handle();
        Ok(WorkloadIdentity { identity: shared.identity.clone(), shared, changes, task })
    }
}

/// The identity that a Workload API gives this process. Its handles rotate for as long as this is there; when it is dropped,
/// nothing is asked any more and they stay as they are.
pub struct WorkloadIdentity {
    identity: Identity,
    shared: Arc<Shared>,
    changes: watch::Receiver<()>,
    task: AbortHandle,
}

struct Shared {
    /// The default one.
    identity: Identity,
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

struct State {
    response: X509SvidResponse,
    default: SpiffeId,
    /// All that were ever issued, the default one too.
    by_id: BTreeMap<SpiffeId, Identity>,
}

impl WorkloadIdentity {
    /// The default identity: of several, the first that the agent names.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The identity with this SPIFFE ID, if the agent gave it; it rotates as the default one does. One that the agent gives no
    /// longer stays as it last was.
    #[must_use]
    pub fn identity_of(&self, id: &SpiffeId) -> Option<Identity> {
        self.shared.state().by_id.get(id).cloned()
    }

    /// Whom to trust, by trust domain: the same for all identities.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        self.identity.trust()
    }

    /// The SPIFFE ID of the default identity as it is now.
    #[must_use]
    pub fn spiffe_id(&self) -> SpiffeId {
        self.shared.state().default.clone()
    }

    /// Waits for an update that was taken since this was last asked, or since the beginning.
    ///
    /// Cancel safe: an update is not missed.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            pending().await
        }
    }
}

impl Drop for WorkloadIdentity {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for WorkloadIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadIdentity")
            .field("spiffe_id", &self.spiffe_id())
            .field("trust", self.trust())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(response: X509SvidResponse, update: Update) -> Self {
        let trust = Trust::from(update.anchors);
        let (default, key) = update.default;
        let identity = Identity::of(Arc::clone(&key), trust.clone());
        let keys = update.others.into_iter().chain([(default.clone(), key)]);
        let by_id = keys.map(|(id, key)| (id, Identity::of(key, trust.clone()))).collect();
        let state = Mutex::new(State { response, default, by_id });
        Self { identity, state, changes: watch::Sender::new(()) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an update, or says what is wrong with it and stays. One that says nothing new is passed over, so that sessions are
    /// resumed.
    fn take(&self, response: X509SvidResponse) -> Result<(), Flaw> {
        let mut state = self.state();
        if state.response == response {
            return Ok(());
        }
        let update = Update::read(&response)?;
        let trust = self.identity.trust();
        let (default, key) = update.default;
        trust.together(|| {
            // Trust first: who is told that an authority goes also learns of the one that comes.
            trust.store(update.anchors);
            self.identity.store(Arc::clone(&key));
            for (id, key) in update.others.into_iter().chain([(default.clone(), key)]) {
                match state.by_id.get(&id) {
                    Some(identity) => identity.store(key),
                    None => drop(state.by_id.insert(id, Identity::of(key, trust.clone()))),
                }
            }
        });
        (state.default, state.response) = (default, response);
        drop(state);
        self.changes.send_replace(());
        Ok(())
    }
}

/// Connects, and waits for an update that is good.
async fn first(agent: &Agent) -> Result<(Streaming<X509SvidResponse>, X509SvidResponse, Update), WorkloadError> {
    let mut updates = agent.fetch().await?;
    let response = agent.next(&mut updates).await?;
    let update = Update::read(&response).map_err(|flaw| agent.malformed(flaw))?;
    Ok((updates, response, update))
}

/// Takes updates for ever, over as many connections as it needs.
async fn follow(agent: Agent, shared: Arc<Shared>, updates: Streaming<X509SvidResponse>) {
    let mut pauses = Pauses::default();
    let mut open = Some(updates);
    loop {
        let lost = match &mut open {
            None => match agent.fetch().await {
                Ok(updates) => {
                    open = Some(updates);
                    continue;
                }
                Err(error) => error,
            },
            Some(updates) => match agent.next(updates).await {
                Ok(response) => {
                    match shared.take(response) {
                        Ok(()) => tracing::debug!(endpoint = agent.as_str(), "the Workload API's update is taken"),
                        Err(flaw) => tracing::warn!("{}; the old identity stays", agent.malformed(flaw)),
                    }
                    pauses = Pauses::default();
                    continue;
                }
                Err(error) => error,
            },
        };
        open = None;
        let pause = pauses.next();
        tracing::warn!(?pause, "{lost}; the identity stays as it is, until it expires");
        sleep(pause).await;
    }
}

/// How long to wait before the next attempt.
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let longest = self.0;
        self.0 = longest.saturating_mul(2).min(LONGEST_PAUSE);
        longest.mul_f64(fastrand::f64())
    }
}
