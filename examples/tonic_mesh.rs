//! tonic on both ends, portcullis between them: gRPC with mutual TLS, deadlines, retries, hedges, breakers and identities.
//!
//! `cargo run --example tonic_mesh` calls two replicas of a service, of which one is unwell, prints what becomes of it, and
//! ends. A generated client or server is used as [`Grpc`] is here: it takes any Tower service.

#[path = "mesh/pki.rs"]
#[expect(dead_code, reason = "nothing rotates here")]
mod pki;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::stream;
use http::{Response as HttpResponse, uri::PathAndQuery};
use portcullis::{
    Body, BoxError, Error,
    balance::Availability,
    config::{self, Balancer, CircuitBreaker, Endpoints, Protocol, UpstreamTls},
    hedge::HedgeLayer,
    identity::{AllowLayer, PeerIdentity, PeerRule},
    retry::RetryLayer,
    server::Server,
    timeout::{Deadline, DeadlineLayer},
    tls::{ClientCertificates, Identity, ServerTls},
    upstream::Upstream,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Response, Status, client::Grpc, server};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceBuilder, service_fn};

use self::pki::{Mesh, ORDERS, SHOP};

/// `rpc Find(Order) returns (Order)`, which changes nothing and may be repeated.
const FIND: &str = "/demo.Orders/Find";
/// `rpc Watch(Order) returns (stream Order)`.
const WATCH: &str = "/demo.Orders/Watch";

#[derive(Clone, PartialEq, prost::Message)]
struct Order {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    text: String,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mesh = Mesh::new()?;
    let unwell = Arc::new(AtomicU32::new(3));
    let endpoints = [serve(&mesh.orders, unwell.clone())?, serve(&mesh.orders, Arc::default())?];
    let upstream = upstream(&mesh.shop, endpoints)?;
    let mut orders = Grpc::new(channel(&upstream));

    println!("unary, over mutual TLS:");
    println!("  {}", find(&mut orders, 7, None).await?.text);

    println!("one replica of two answers UNAVAILABLE, three times and at once (trailers only):");
    for id in 1..=6 {
        println!("  {}", find(&mut orders, id, None).await?.text);
    }
    let open =
        upstream.endpoints().iter().filter(|(e, _)| e.availability(Instant::now()) == Availability::Open).count();
    println!(
        "  and has been asked all three times: {}, by then its breaker has opened: {}",
        unwell.load(Relaxed) == 0,
        open == 1
    );
    if open != 1 {
        return Err("the breaker of one replica should be open".into());
    }

    println!("server streaming:");
    let mut updates = server_streaming(&mut orders, 9).await?.into_inner();
    while let Some(order) = updates.message().await? {
        println!("  {}", order.text);
    }

    println!("order 0 takes a minute, and the caller has 100 ms:");
    match find(&mut orders, 0, Some(Duration::from_millis(100))).await {
        Err(status) if status.code() == Code::DeadlineExceeded => println!("  {:?}", status.code()),
        other => return Err(format!("not late: {other:?}").into()),
    }

    println!("orders calls itself, which only shop may:");
    match find(&mut Grpc::new(channel(&self::upstream(&mesh.orders, endpoints)?)), 7, None).await {
        Err(status) if status.code() == Code::PermissionDenied => println!("  {:?}", status.code()),
        other => return Err(format!("not refused: {other:?}").into()),
    }
    Ok(())
}

/// The replicas, as who calls them sees them.
fn upstream(identity: &Identity, endpoints: [SocketAddr; 2]) -> Result<Upstream, BoxError> {
    Ok(Upstream::mtls(
        config::Upstream {
            protocol: Protocol::Http2,
            // Each in turn: by default the one that fails is hardly asked.
            balancer: Balancer::RoundRobin,
            tls: Some(UpstreamTls { spiffe_id: Some(ORDERS.parse()?), ..UpstreamTls::default() }),
            endpoint_circuit_breaker: Some(CircuitBreaker {
                consecutive_failures: 3,
                open: Duration::from_secs(60), // the demonstration is over before one request probes it
                ..CircuitBreaker::default()
            }),
            ..config::Upstream::new("orders", Endpoints::fixed(endpoints))
        },
        identity,
    )?)
}

/// What a tonic client is made over, in the place of its `Channel`.
fn channel(
    upstream: &Upstream,
) -> impl Service<http::Request<tonic::body::Body>, Response = HttpResponse<Body>, Error = Error, Future: Send> + Clone + use<>
{
    let budget = upstream.budget(); // one for all that is sent again
    ServiceBuilder::new()
        .map_request(|request: http::Request<tonic::body::Body>| request.map(Body::new))
        .layer(DeadlineLayer::client(Duration::from_secs(2))) // `grpc-timeout`
        .layer(RetryLayer::new().max_retries(3).repeatable_if(|head| head.uri.path() == FIND).budget(budget.clone())) // on UNAVAILABLE
        .layer(HedgeLayer::percentile(0.95).repeatable_if(|head| head.uri.path() == FIND).budget(budget))
        .service(upstream.clone()) // balancing, circuit breakers, pool, mutual TLS
}

async fn find<T>(orders: &mut Grpc<T>, id: u32, limit: Option<Duration>) -> Result<Order, Status>
where
    T: Service<http::Request<tonic::body::Body>, Response = HttpResponse<Body>, Error = Error>,
{
    let mut request = Request::new(Order { id, text: String::new() });
    if let Some(limit) = limit {
        request.set_timeout(limit);
    }
    orders.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let codec = ProstCodec::<Order, Order>::default();
    Ok(orders.unary(request, PathAndQuery::from_static(FIND), codec).await?.into_inner())
}

async fn server_streaming<T>(orders: &mut Grpc<T>, id: u32) -> Result<Response<tonic::Streaming<Order>>, Status>
where
    T: Service<http::Request<tonic::body::Body>, Response = HttpResponse<Body>, Error = Error>,
{
    let request = Request::new(Order { id, text: String::new() });
    orders.ready().await.map_err(|error| Status::from_error(error.into()))?;
    orders.server_streaming(request, PathAndQuery::from_static(WATCH), ProstCodec::<Order, Order>::default()).await
}

/// A replica, which is unwell for so many calls.
fn serve(identity: &Identity, unwell: Arc<AtomicU32>) -> Result<SocketAddr, BoxError> {
    let required = ClientCertificates::required(identity.trust().clone());
    let tls = ServerTls::new(identity.clone())?.client_certificates(required);
    let server = Server::default().https("127.0.0.1:0", tls).bind()?;
    let &[address] = server.local_addrs() else { return Err("one listener".into()) };
    let orders = ServiceBuilder::new()
        .layer(AllowLayer::new([PeerRule::SpiffeId(SHOP.parse()?)]))
        .layer(DeadlineLayer::server(Duration::from_secs(15)))
        .service_fn(move |request: http::Request<Body>| {
            let unwell = unwell.clone();
            async move { Ok::<_, Status>(route(request, address, unwell).await) }
        });
    tokio::spawn(server.serve(orders));
    Ok(address)
}

/// What tonic generates for a service.
async fn route(
    request: http::Request<Body>,
    address: SocketAddr,
    unwell: Arc<AtomicU32>,
) -> HttpResponse<tonic::body::Body> {
    let mut grpc = server::Grpc::new(ProstCodec::<Order, Order>::default());
    match request.uri().path() {
        FIND => {
            let find = service_fn(move |request: Request<Order>| {
                let failing = unwell.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
                async move { if failing { Err(Status::unavailable("unwell")) } else { answer(&request, address).await } }
            });
            grpc.unary(find, request).await
        }
        WATCH => {
            let watch = service_fn(async |request: Request<Order>| {
                let id = request.into_inner().id;
                let texts = ["packed", "sent", "arrived"];
                let orders = texts.map(|text| Ok(Order { id, text: format!("order {id}: {text}") }));
                Ok::<_, Status>(Response::new(stream::iter(orders)))
            });
            grpc.server_streaming(watch, request).await
        }
        _ => Status::unimplemented("").into_http(),
    }
}

/// An order, in the words of who asks and how long it has.
async fn answer(request: &Request<Order>, address: SocketAddr) -> Result<Response<Order>, Status> {
    let id = request.get_ref().id;
    if id == 0 {
        sleep(Duration::from_secs(60)).await;
    }
    let caller = PeerIdentity::of(request.extensions()).map_or_else(|| "nobody".to_owned(), ToString::to_string);
    let left = Deadline::current().map(|deadline| deadline.left(Instant::now()).as_millis());
    let text = format!("order {id} for {caller}, from {address}, with {} ms left", left.unwrap_or_default());
    Ok(Response::new(Order { id, text }))
}
