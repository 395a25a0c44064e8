//! The programs that `benches/mesh/run` compares: a service that calls another one, and the other one.
//!
//! ```text
//! mesh_node server ADDRESS [CERTIFICATES]
//! mesh_node client ADDRESS SECONDS CONCURRENCY PROTOCOL CERTIFICATES|- [PID...]
//! ```
//!
//! Without a folder of certificates it is a program as people write it, axum and hyper's client, and mutual TLS is for a
//! sidecar to do. With one, portcullis does in it what sidecars do: mutual TLS by SPIFFE ID on both sides, admission by
//! identity, balancing, outlier detection, circuit breaking, retries and deadlines.
//!
//! The client POSTs 1 KiB and reads the 1 KiB that come back. After a second it prints requests a second, CPU microseconds a
//! request of itself and the processes PID, and the latencies' median and 99th percentile in microseconds.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::post, serve::ListenerExt};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use portcullis::{
    Body, BoxError, Error,
    config::{self, CircuitBreaker, Endpoints, OutlierDetection, Protocol, UpstreamTls},
    identity::{AllowLayer, PeerRule},
    retry::RetryLayer,
    server::Server,
    timeout::DeadlineLayer,
    tls::{ClientCertificates, Identity, IdentityFiles, ServerTls},
    upstream::Upstream,
};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::{Service, ServiceBuilder, ServiceExt};

const CLIENT: &str = "spiffe://mesh.example/client";
const SERVER: &str = "spiffe://mesh.example/server";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["server", address] => {
            let listener = TcpListener::bind(address).await?.tap_io(|socket| drop(socket.set_nodelay(true)));
            axum::serve(listener, app()).await?;
        }
        ["server", address, certificates] => {
            let identity = identity(certificates, "server")?;
            let required = ClientCertificates::required(identity.trust().clone());
            let tls = ServerTls::new(identity)?.client_certificates(required);
            let layers = ServiceBuilder::new()
                .layer(AllowLayer::new([PeerRule::SpiffeId(CLIENT.parse()?)]))
                .layer(DeadlineLayer::server(Duration::from_secs(15)));
            Server::default().https(address, tls).serve_until_signal(app().layer(layers)).await?;
        }
        ["client", address, seconds, concurrency, protocol, certificates, pids @ ..] => {
            let run = Run {
                seconds: seconds.parse()?,
                concurrency: concurrency.parse()?,
                pids: pids.iter().copied().chain(["self"]).map(str::to_owned).collect(),
            };
            let (address, http2) = (address.parse()?, *protocol == "http2");
            match *certificates {
                "-" => run.measure(plain(address, http2)).await?,
                certificates => run.measure(portcullis(address, http2, certificates)?).await?,
            }
        }
        _ => return Err("expected `server` or `client`: see the source".into()),
    }
    Ok(())
}

fn app() -> Router {
    Router::new().route("/echo", post(async |body: Bytes| body))
}

fn identity(certificates: &str, name: &str) -> Result<Identity, BoxError> {
    let file = |name: &str| Path::new(certificates).join(name);
    let files = IdentityFiles::new(file(&format!("{name}.pem")), file(&format!("{name}.key")), file("ca.pem"));
    Ok(Identity::from_pem_files(&files)?)
}

/// hyper's own client with its pool, as under reqwest.
fn plain(
    address: SocketAddr,
    http2: bool,
) -> impl Service<Bytes, Response = Response<hyper::body::Incoming>, Error: Into<BoxError>, Future: Send>
+ Clone
+ Send
+ 'static {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build::<_, Full<Bytes>>(connector);
    let uri = format!("http://{address}/echo");
    ServiceBuilder::new()
        .map_request(move |body| Request::post(uri.as_str()).body(Full::new(body)).unwrap_or_default())
        .service(client)
}

fn portcullis(
    address: SocketAddr,
    http2: bool,
    certificates: &str,
) -> Result<
    impl Service<Bytes, Response = Response<Body>, Error = Error, Future: Send> + Clone + Send + 'static,
    BoxError,
> {
    let upstream = config::Upstream {
        protocol: if http2 { Protocol::Http2 } else { Protocol::Http1 },
        tls: Some(UpstreamTls { spiffe_id: Some(SERVER.parse()?), ..UpstreamTls::default() }),
        circuit_breaker: Some(CircuitBreaker::default()),
        outlier_detection: Some(OutlierDetection::default()),
        ..config::Upstream::new("server", Endpoints::fixed([address]))
    };
    let upstream = Upstream::mtls(upstream, &identity(certificates, "client")?)?;
    Ok(ServiceBuilder::new()
        .map_request(|body: Bytes| Request::post("https://server/echo").body(Body::from(body)).unwrap_or_default())
        .layer(DeadlineLayer::client(Duration::from_secs(15)))
        .layer(RetryLayer::new())
        .service(upstream))
}

struct Run {
    seconds: f64,
    concurrency: usize,
    pids: Vec<String>,
}

impl Run {
    async fn measure<S, B>(self, service: S) -> Result<(), BoxError>
    where
        S: Service<Bytes, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let latencies = Arc::new(Mutex::new(Vec::<u32>::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..self.concurrency {
            let (service, latencies, stop) = (service.clone(), latencies.clone(), stop.clone());
            callers.spawn(async move {
                let payload = Bytes::from_static(&[b'x'; 1024]);
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    let response = service.clone().oneshot(payload.clone()).await.map_err(Into::into)?;
                    let status = response.status();
                    let body = response.into_body().collect().await.map_err(Into::into)?.to_bytes();
                    if !status.is_success() || body != payload {
                        return Err::<(), BoxError>(format!("{status}, {} bytes", body.len()).into());
                    }
                    lock(&latencies).push(began.elapsed().as_micros() as u32);
                }
                Ok(())
            });
        }
        let measured = async {
            sleep(Duration::from_secs(1)).await;
            lock(&latencies).clear();
            let (began, before) = (Instant::now(), self.cpu_seconds()?);
            sleep(Duration::from_secs_f64(self.seconds)).await;
            let mut latencies = std::mem::take(&mut *lock(&latencies));
            let (took, cpu) = (began.elapsed().as_secs_f64(), self.cpu_seconds()? - before);
            latencies.sort_unstable();
            let rank = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(0);
            let requests = latencies.len() as f64;
            println!("{:.0} {:.2} {} {}", requests / took, cpu * 1e6 / requests, rank(0.5), rank(0.99));
            Ok::<_, BoxError>(())
        };
        tokio::select! {
            measured = measured => measured?,
            // A caller ends now only by an error.
            Some(ended) = callers.join_next() => ended??,
        }
        stop.store(true, Relaxed);
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// The time that all processes had on a CPU, user and system.
    fn cpu_seconds(&self) -> Result<f64, BoxError> {
        // USER_HZ, which Linux shows to programs as 100 everywhere.
        const TICKS: f64 = 100.0;
        let mut sum = 0;
        for pid in &self.pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The second field is a name in parentheses; the 14th and 15th are what is looked for.
            let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
            let fields: Vec<u64> = fields.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
            sum += fields.iter().sum::<u64>();
        }
        Ok(sum as f64 / TICKS)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
