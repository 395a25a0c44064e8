//! A backend that speaks TLS, and tells who asked and by which name.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::pki::{Leaf, Pki, provider};

/// Answers every request over TLS with 200, the name that the client asked for (SNI) as `x-sni`, and as `x-client` how
/// many certificates the client showed.
#[derive(Debug)]
pub(crate) struct TlsBackend {
    pub(crate) addr: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    plaintext: AtomicUsize,
    requests: AtomicUsize,
}

impl TlsBackend {
    /// With this certificate; demands one of the authority `clients`, where there is one.
    pub(crate) async fn start(leaf: &Leaf, clients: Option<&Pki>) -> Self {
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = match clients {
            Some(pki) => {
                let roots = Arc::new(pki.roots());
                config.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(roots, provider()).build().unwrap(),
                )
            }
            None => config.with_no_client_auth(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(leaf.chain(), leaf.private_key()).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, SeqCst);
                connections.spawn(serve(acceptor.clone(), stream, Arc::clone(&shared)));
            }
        });
        Self { addr, counts, task }
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(SeqCst)
    }

    /// How many of them did not begin as TLS does.
    pub(crate) fn plaintext(&self) -> usize {
        self.counts.plaintext.load(SeqCst)
    }

    /// How many requests have arrived, over TLS.
    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.load(SeqCst)
    }
}

impl Drop for TlsBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, counts: Arc<Counts>) {
    /// The type of a TLS record that carries a handshake (RFC 8446 section 5.1).
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    if stream.peek(&mut first).await.is_ok_and(|count| count == 1) && first != [HANDSHAKE] {
        counts.plaintext.fetch_add(1, SeqCst);
        return;
    }
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let (_, session) = stream.get_ref();
    let name = session.server_name().unwrap_or_default().to_owned();
    let shown = session.peer_certificates().map_or(0, <[_]>::len);
    let service = hyper::service::service_fn(move |_: Request<Incoming>| {
        counts.requests.fetch_add(1, SeqCst);
        let response = Response::builder().header("x-sni", &name).header("x-client", shown);
        std::future::ready(Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap()))
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
