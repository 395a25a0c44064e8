//! A certificate authority for tests.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Conn, soon};

/// A certificate authority whose own certificate is in a file that `curl --cacert` and `openssl -CAfile` read.
pub(crate) struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "portcullis tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    /// The authority's certificate, as a file.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The authority's certificate, in PEM.
    pub(crate) fn ca(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names; the subject's common name is the first of them.
    pub(crate) fn leaf(&self, names: &[&str]) -> Leaf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        self.sign(&params)
    }

    /// A certificate with these parameters.
    pub(crate) fn sign(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Leaf { certificate, key: key.serialize_pem() }
    }

    /// A TLS connection to this name at this address, which stays open; fails when the certificate does not fit.
    pub(crate) async fn connect(&self, addr: SocketAddr, name: &str) -> std::io::Result<Conn<TlsStream<TcpStream>>> {
        self.connect_as(None, addr, name).await
    }

    /// The same, with a certificate of the client's own to show where one is asked for. Whether it is taken is seen at the
    /// first answer.
    pub(crate) async fn connect_as(
        &self,
        client: Option<&Leaf>,
        addr: SocketAddr,
        name: &str,
    ) -> std::io::Result<Conn<TlsStream<TcpStream>>> {
        let config = rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(self.roots());
        let config = match client {
            Some(leaf) => config.with_client_auth_cert(leaf.chain(), leaf.private_key()).unwrap(),
            None => config.with_no_client_auth(),
        };
        let stream = soon("connect", TcpStream::connect(addr)).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Conn::over(soon("handshake", connector.connect(name, stream)).await?))
    }

    /// What a peer has that trusts this authority alone.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

impl Leaf {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()]
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// The cryptography of the tests' own peers.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The server's certificate on a connection.
pub(crate) fn certificate(conn: &Conn<TlsStream<TcpStream>>) -> CertificateDer<'static> {
    let certificates = conn.stream.get_ref().1.peer_certificates();
    certificates.and_then(|chain| chain.first()).expect("a certificate").clone().into_owned()
}
