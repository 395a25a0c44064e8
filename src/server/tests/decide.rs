//! What becomes of a connection, by its first message.

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::{
    tls::{Anything, certificate},
    *,
};
use crate::{
    server::{Arrival, Decision, DrainReport, Server, Stream, StreamHandler},
    tls::{Certificates, ServerTls, default_provider},
};

/// Says what it knows, then says everything back.
fn back() -> StreamHandler {
    StreamHandler::new(|mut stream: Stream| async move {
        let name = stream.connection().tls().map(|tls| format!("{:?} {:?};", tls.server_name, tls.alpn));
        let _ = stream.write_all(name.unwrap_or_default().as_bytes()).await;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
}

fn start() -> (SocketAddr, Drain, JoinHandle<DrainReport>) {
    let tls = ServerTls::new(Certificates::new([&certificate(&["a.test"])]).unwrap()).unwrap();
    let streams = ServerTls::for_streams(Certificates::new([&certificate(&["b.test"])]).unwrap()).unwrap();
    let server = Server::new(ServerConfig { drain_timeout: seconds(1), ..ServerConfig::default() })
        .decide(move |arrival: &Arrival<'_>| match arrival.hello.map(|hello| hello.server_name()) {
            None => Decision::Hello,
            Some(Some("https.test")) => Decision::Https(tls.clone()),
            Some(Some("ended.test")) => Decision::TlsStream(streams.clone(), back()),
            Some(Some("passed.test")) => Decision::Stream(back()),
            Some(_) => Decision::Close("nobody has it".into()),
        })
        .http("127.0.0.1:0")
        .bind()
        .unwrap();
    let (address, drain) = (server.local_addrs()[0], server.drain());
    (address, drain, tokio::spawn(server.serve(echo())))
}

/// A ClientHello for this name, as a client would send it.
fn hello(name: &str) -> Vec<u8> {
    let mut config = rustls::ClientConfig::builder_with_provider(default_provider().unwrap())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

async fn connect(address: SocketAddr, name: &str) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connector = tls::client(rustls::ALL_VERSIONS, &["http/1.1"]);
    tls::connect(&connector, address, name).await
}

#[tokio::test]
async fn one_port_ends_tls_for_some_passes_it_on_for_others_and_speaks_http_for_the_rest() {
    let (address, ..) = start();
    let mut https = connect(address, "https.test").await.unwrap();
    https.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").await.unwrap();
    assert!(read_to_end(&mut https).await.ends_with("\r\n\r\nhi"));

    let mut ended = connect(address, "ended.test").await.unwrap();
    ended.write_all(b"hello").await.unwrap();
    ended.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut ended).await, "Some(\"ended.test\") None;hello");

    // Every byte comes back, those that were read to decide among them, however they were cut.
    let sent = [hello("passed.test"), b"\0and more".to_vec()].concat();
    let mut passed = TcpStream::connect(address).await.unwrap();
    for part in sent.chunks(7) {
        passed.write_all(part).await.unwrap();
        passed.flush().await.unwrap();
    }
    passed.shutdown().await.unwrap();
    let mut received = Vec::new();
    passed.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, sent);
}

#[tokio::test]
async fn what_is_closed_gets_no_alert() {
    let (address, ..) = start();
    for first in [hello("other.test"), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![22, 3, 1, 0, 1, 9]] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&first).await.unwrap();
        assert_eq!(read_to_end(&mut client).await, "", "{first:?}");
    }
    connect(address, "other.test").await.unwrap_err();
}

#[tokio::test]
async fn a_drain_waits_for_streams_and_cuts_them_in_the_end() {
    let (address, drain, served) = start();
    let sent = hello("passed.test");
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&sent).await.unwrap();
    let mut received = vec![0; sent.len()];
    client.read_exact(&mut received).await.unwrap();
    drain.begin();
    client.write_all(b"on").await.unwrap();
    client.read_exact(&mut received[..2]).await.unwrap();
    assert_eq!(&received[..2], b"on", "it goes on while the server drains");
    assert_eq!(served.await.unwrap().cut, 1);
    assert_eq!(read_to_end(&mut client).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_does_not_come_is_not_waited_for_forever() {
    let (mut client, io) = duplex(1 << 10);
    let drain = Drain::new();
    let mut shared = Shared::clone(&shared(ServerConfig::default(), &drain));
    shared.decide = Some(Arc::new(|_: &Arrival<'_>| Decision::Hello));
    tokio::spawn(connection::serve(io, Abort::default(), info(), echo(), Arc::new(shared), ()));
    client.write_all(&hello("a.test")[..40]).await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(read_to_end(&mut client).await, "");
    assert_eq!(began.elapsed().as_secs(), 30);
}
