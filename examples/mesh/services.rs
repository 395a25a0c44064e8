//! The two services, and the layers between them: the part to copy.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{HeaderName, Method, StatusCode},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt;
use portcullis::{
    Body, BoxError, Error,
    config::{self, Balancer, CircuitBreaker, Endpoints, OutlierDetection, UpstreamTls},
    exchange::Exchange,
    hedge::HedgeLayer,
    identity::{AllowLayer, PeerIdentity, PeerRule},
    retry::{Conditions, RetryLayer},
    server::{DrainReport, Server, ServerConfig},
    timeout::DeadlineLayer,
    tls::{ClientCertificates, Identity, NoProvider, ServerTls},
    upstream::Upstream,
};
use tokio::{task::JoinHandle, time::sleep};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

use super::pki::{Mesh, ORDERS, SHOP};

/// Plain HTTP has no `grpc-timeout`: the deadline travels in a field of our own.
const TIME_LEFT: HeaderName = HeaderName::from_static("x-time-left-ms");

/// For a call, and all that is called for it.
const LIMIT: Duration = Duration::from_secs(2);

/// What a service calls another one through: the layers, outermost first, and what can be seen of them.
#[derive(Clone)]
pub(crate) struct Client {
    service: BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Error>,
    pub(crate) upstream: Upstream,
    pub(crate) tally: Arc<Tally>,
}

/// What the layers of a [`Client`] did.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) retries: AtomicU64,
    pub(crate) hedges: AtomicU64,
    /// What the upstream passed on by itself to another endpoint, as nothing of it had reached the first.
    pub(crate) passed_on: AtomicU64,
}

/// How often one call came by: an extension of its request, which retries and hedges copy.
#[derive(Clone, Default)]
struct Trip(Arc<[AtomicU32; 2]>);

const TRY: usize = 0;
const SEND: usize = 1;

impl Client {
    /// Calls the service `name`, which must prove to be `id`, as `identity`.
    fn new(identity: &Identity, name: &str, id: &str, endpoints: &[SocketAddr]) -> Result<Self, BoxError> {
        let upstream = config::Upstream {
            tls: Some(UpstreamTls { spiffe_id: Some(id.parse()?), ..UpstreamTls::default() }),
            circuit_breaker: Some(CircuitBreaker::default()),
            // Peak EWMA, the default, sends so little to what fails that there would be nothing to see.
            balancer: Balancer::LeastRequest,
            // A demonstration has no half minute.
            outlier_detection: Some(OutlierDetection {
                base_ejection: Duration::from_secs(2),
                interval: Duration::from_secs(2),
                ..OutlierDetection::default()
            }),
            ..config::Upstream::new(name, Endpoints::fixed(endpoints.iter().copied()))
        };
        let upstream = Upstream::mtls(upstream, identity)?;
        let budget = upstream.budget(); // one for all that is sent again: 20 % and 10 a second
        let service = ServiceBuilder::new()
            .layer(DeadlineLayer::client(LIMIT).header(TIME_LEFT))
            .layer(
                RetryLayer::new()
                    .conditions(Conditions::default().server_errors())
                    .max_retries(2)
                    .backoff(Duration::from_millis(2), Duration::from_millis(20))
                    .budget(budget.clone()),
            )
            .map_request(|request| passes(request, TRY))
            .layer(HedgeLayer::percentile(0.95).least(Duration::from_millis(10)).budget(budget))
            .map_request(|request| passes(request, SEND))
            .service(upstream.clone()); // balancing, outlier detection, circuit breaker, pool, mutual TLS
        Ok(Self { service: BoxCloneSyncService::new(service), upstream, tally: Arc::default() })
    }

    /// The answer's text; `None` for one that is not good, or for none.
    async fn ask(&self, method: Method, uri: &str) -> Option<String> {
        let (trip, exchange) = (Trip::default(), Exchange::begin());
        let request = http::Request::builder().method(method).uri(uri).extension(trip.clone());
        let request = request.extension(exchange.clone()).body(Body::empty()).ok()?;
        let answer = self.service.clone().oneshot(request).await;
        self.tally.add(&trip, exchange.record().attempts);
        let response = answer.ok().filter(|response| response.status().is_success())?;
        String::from_utf8(response.into_body().collect().await.ok()?.to_bytes().into()).ok()
    }
}

fn passes(request: http::Request<Body>, place: usize) -> http::Request<Body> {
    if let Some(Trip(counts)) = request.extensions().get() {
        counts[place].fetch_add(1, Relaxed);
    }
    request
}

impl Tally {
    fn add(&self, Trip(counts): &Trip, attempts: u32) {
        let (tries, sends) = (counts[TRY].load(Relaxed), counts[SEND].load(Relaxed));
        self.retries.fetch_add(tries.saturating_sub(1).into(), Relaxed);
        self.hedges.fetch_add(sends.saturating_sub(tries).into(), Relaxed);
        self.passed_on.fetch_add(attempts.saturating_sub(sends).into(), Relaxed);
    }
}

/// Admits one caller, by the certificate it showed, and keeps to the time that it has left.
fn admit<S: Clone + Send + Sync + 'static>(app: Router<S>, id: &str) -> Result<Router<S>, BoxError> {
    let allow = AllowLayer::new([PeerRule::SpiffeId(id.parse()?)]);
    Ok(app.layer(ServiceBuilder::new().layer(allow).layer(DeadlineLayer::server(LIMIT).header(TIME_LEFT))))
}

/// Serves over TLS, and refuses in the handshake who shows no certificate of an authority that `identity` trusts.
fn mutual(identity: &Identity) -> Result<ServerTls, NoProvider> {
    let required = ClientCertificates::required(identity.trust().clone());
    Ok(ServerTls::new(identity.clone())?.client_certificates(required))
}

/// A peer's certificate is verified when it connects: connections that end now and then let a rotation come to an end.
fn limits() -> ServerConfig {
    ServerConfig { max_connection_age: Some(Duration::from_secs(1)), ..ServerConfig::default() }
}

/// All that runs.
pub(crate) struct World {
    pub(crate) shop: Arc<Shop>,
    pub(crate) replicas: Vec<Arc<Replica>>,
    pub(crate) ledger: Arc<Ledger>,
    shop_address: SocketAddr,
    _shop_task: JoinHandle<DrainReport>,
}

/// The service that visitors ask.
pub(crate) struct Shop {
    pub(crate) orders: Client,
    /// The fault of the last phase.
    pub(crate) nameless: AtomicBool,
    pub(crate) failed: AtomicU64,
}

/// One of the servers of `orders`.
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) shop: Client,
    pub(crate) slow: AtomicBool,
    pub(crate) failing: AtomicBool,
    pub(crate) requests: AtomicU64,
    pub(crate) slowed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) unnamed: AtomicU64,
    identity: Identity,
    ledger: Arc<Ledger>,
    rng: Mutex<fastrand::Rng>,
    task: Mutex<Option<JoinHandle<DrainReport>>>,
}

/// What the replicas of `orders` have in common: a database, if you like.
#[derive(Default)]
pub(crate) struct Ledger {
    /// How often each order was placed.
    pub(crate) placed: Mutex<HashMap<u32, u32>>,
    /// The certificates that `shop` showed.
    pub(crate) certificates: Mutex<HashSet<[u8; 32]>>,
}

impl World {
    pub(crate) fn start(mesh: &Mesh, seed: u64) -> Result<Self, BoxError> {
        // Where everybody is: what a cluster's DNS would tell.
        let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr();
        let addresses = [free()?, free()?, free()?, free()?];
        let shop = Arc::new(Shop {
            orders: Client::new(&mesh.shop, "orders", ORDERS, &addresses)?,
            nameless: AtomicBool::new(false),
            failed: AtomicU64::new(0),
        });
        let names = Router::new().route("/customers/{id}", get(name));
        let app = Router::new().route("/orders/{id}", get(order).post(order)).merge(admit(names, ORDERS)?);
        let server = Server::new(limits()).http("127.0.0.1:0").https("127.0.0.1:0", mutual(&mesh.shop)?).bind()?;
        let &[shop_address, shop_mutual] = server.local_addrs() else { return Err("two listeners".into()) };
        let serving = server.serve(app.with_state(shop.clone()));
        let shop_task = tokio::spawn(serving);

        let ledger = Arc::new(Ledger::default());
        let replica = |(number, &address): (usize, &SocketAddr)| {
            let replica = Arc::new(Replica {
                name: format!("orders-{}", number + 1),
                address,
                shop: Client::new(&mesh.orders, "shop", SHOP, &[shop_mutual])?,
                slow: AtomicBool::new(false),
                failing: AtomicBool::new(false),
                requests: AtomicU64::new(0),
                slowed: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                unnamed: AtomicU64::new(0),
                identity: mesh.orders.clone(),
                ledger: ledger.clone(),
                rng: Mutex::new(fastrand::Rng::with_seed(seed ^ number as u64)),
                task: Mutex::new(None),
            });
            replica.start()?;
            Ok::<_, BoxError>(replica)
        };
        let replicas = addresses.iter().enumerate().map(replica).collect::<Result<_, _>>()?;
        Ok(Self { shop, replicas, ledger, shop_address, _shop_task: shop_task })
    }

    /// Where visitors find it.
    pub(crate) fn shop_address(&self) -> SocketAddr {
        self.shop_address
    }
}

/// A visitor's question, which `orders` answers.
async fn order(State(shop): State<Arc<Shop>>, method: Method, Path(id): Path<u32>) -> Response {
    match shop.orders.ask(method, &format!("https://orders/orders/{id}")).await {
        Some(text) => text.into_response(),
        None => StatusCode::BAD_GATEWAY.into_response(),
    }
}

async fn name(State(shop): State<Arc<Shop>>, Path(id): Path<u32>) -> Response {
    if shop.nameless.load(Relaxed) {
        shop.failed.fetch_add(1, Relaxed);
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    format!("Customer No. {id}").into_response()
}

impl Replica {
    /// Listens and serves.
    pub(crate) fn start(self: &Arc<Self>) -> Result<(), BoxError> {
        let app = Router::new().route("/orders/{id}", get(read).post(place));
        let app = admit(app.layer(from_fn_with_state(self.clone(), misbehave)), SHOP)?.with_state(self.clone());
        let server = Server::new(limits()).https(self.address, mutual(&self.identity)?).bind()?;
        *self.task() = Some(tokio::spawn(server.serve(app)));
        Ok(())
    }

    /// Dies: the listener is closed, and all connections are cut.
    pub(crate) fn kill(&self) {
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }

    fn task(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<DrainReport>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order, with the customer's name where `shop` has it: it is not worth failing for.
    async fn describe(&self, id: u32) -> String {
        let customer = self.shop.ask(Method::GET, &format!("https://shop/customers/{}", id % 100)).await;
        if customer.is_none() {
            self.unnamed.fetch_add(1, Relaxed);
        }
        format!("order {id} of {}, by {}\n", customer.as_deref().unwrap_or("somebody"), self.name)
    }
}

async fn read(State(replica): State<Arc<Replica>>, Path(id): Path<u32>) -> String {
    replica.describe(id).await
}

async fn place(State(replica): State<Arc<Replica>>, Path(id): Path<u32>) -> String {
    *replica.ledger.placed.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default() += 1;
    replica.describe(id).await
}

/// Takes a millisecond or two, and what else the schedule asks for.
async fn misbehave(State(replica): State<Arc<Replica>>, request: Request, next: Next) -> Result<Response, Infallible> {
    replica.requests.fetch_add(1, Relaxed);
    if let Some(hash) = PeerIdentity::of(request.extensions()).and_then(PeerIdentity::certificate_sha256) {
        replica.ledger.certificates.lock().unwrap_or_else(PoisonError::into_inner).insert(*hash);
    }
    if replica.failing.load(Relaxed) {
        replica.failed.fetch_add(1, Relaxed);
        return Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response());
    }
    let micros = replica.rng.lock().unwrap_or_else(PoisonError::into_inner).u64(1000..2000);
    sleep(Duration::from_micros(micros)).await;
    if replica.slow.load(Relaxed) {
        replica.slowed.fetch_add(1, Relaxed);
        sleep(Duration::from_millis(400)).await;
    }
    Ok(next.run(request).await)
}
