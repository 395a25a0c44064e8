//! Upgrades: WebSocket by a real client, and what a tunnel does at its ends.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::support::{Conn, Ingress, Raw, manifest::everything_to, soon};

/// A WebSocket server that sends every message back.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    // Pings are answered by the library itself.
                    let echo = message.is_text() || message.is_binary();
                    if echo && socket.send(message).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    addr
}

async fn connect(ingress: &Ingress) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(ingress.http).await.unwrap();
    let (socket, response) =
        soon("upgrade", tokio_tungstenite::client_async("ws://a.example/chat", stream)).await.unwrap();
    assert_eq!(response.status(), 101);
    socket
}

#[tokio::test]
async fn messages_pass_both_ways() {
    let ingress = Ingress::start(&everything_to(&[echo_server().await])).await;
    let mut socket = connect(&ingress).await;
    for text in ["one", "two", ""] {
        socket.send(Message::text(text)).await.unwrap();
        let back = soon("echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(back, Message::text(text));
    }
    socket.send(Message::Ping("x".into())).await.unwrap();
    assert_eq!(soon("pong", socket.next()).await.unwrap().unwrap(), Message::Pong("x".into()));
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn a_big_message_arrives_whole() {
    let ingress = Ingress::start(&everything_to(&[echo_server().await])).await;
    let (mut sink, mut source) = connect(&ingress).await.split();
    let big = Message::binary(vec![7_u8; 8 << 20]);
    let sent = big.clone();
    let sending = tokio::spawn(async move { sink.send(sent).await });
    let back = crate::support::within("echo", std::time::Duration::from_secs(60), source.next()).await;
    assert!(back.unwrap().unwrap() == big);
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn many_sockets_live_side_by_side() {
    let ingress = Ingress::start(&everything_to(&[echo_server().await])).await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        sockets.push(connect(&ingress).await);
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.send(Message::text(number.to_string())).await.unwrap();
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(soon("echo", socket.next()).await.unwrap().unwrap(), Message::text(number.to_string()));
    }
}

const UPGRADE: &str = "GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test]
async fn a_half_closed_tunnel_still_flows_the_other_way() {
    // The backend says its piece only after it has seen the client's end.
    let raw = Raw::start(|mut peer| async move {
        peer.head().await?;
        peer.write(SWITCH).await?;
        let mut said = String::new();
        peer.stream.read_to_string(&mut said).await?;
        peer.write(format!("heard {said}")).await
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send(UPGRADE).await.unwrap();
    assert_eq!(conn.response().await.unwrap().status, 101);
    conn.send("last words").await.unwrap();
    conn.stream.shutdown().await.unwrap();
    assert_eq!(conn.rest().await, "heard last words");
}

#[tokio::test]
async fn a_tunnel_half_closed_by_the_backend_still_flows_to_it() {
    let raw = Raw::start(|mut peer| async move {
        peer.head().await?;
        peer.write(format!("{SWITCH}bye")).await?;
        peer.stream.shutdown().await?;
        peer.drain().await
    })
    .await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send(UPGRADE).await.unwrap();
    assert_eq!(conn.response().await.unwrap().status, 101);
    assert_eq!(conn.rest().await, "bye");
    conn.send("still here").await.unwrap();
    crate::support::until("the rest arrives", crate::support::PATIENCE, || raw.received().ends_with("still here"))
        .await;
}

#[tokio::test]
async fn an_upgrade_reaches_the_backend_with_its_fields() {
    let raw = Raw::answers(SWITCH).await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send(UPGRADE).await.unwrap();
    let response = conn.response().await.unwrap();
    let upgrade = response.value("upgrade").map(str::to_ascii_lowercase);
    assert_eq!((response.status, upgrade.as_deref()), (101, Some("websocket")));
    assert_eq!(response.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let seen = raw.request().to_ascii_lowercase();
    for line in ["upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-version: 13\r\n"] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let raw = Raw::answers("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    for _ in 0..2 {
        conn.send(UPGRADE).await.unwrap();
        let response = conn.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (403, "no"));
    }
}

#[tokio::test]
async fn bytes_sent_before_the_switch_are_no_tunnel() {
    // The backend answers without switching: what follows the upgrade request is a request, not the tunnel's content.
    let raw = Raw::ok().await;
    let ingress = Ingress::start(&everything_to(&[raw.addr])).await;
    let mut conn = Conn::open(ingress.http).await.unwrap();
    conn.send(format!("{UPGRADE}GET /next HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")).await.unwrap();
    assert_eq!(conn.response().await.unwrap().status, 200);
    // Served as a request of its own, with all that is done to one, or not at all.
    let _ = conn.response().await;
    assert!(!raw.received().contains("192.0.2.1"), "{}", raw.received());
}

#[tokio::test]
async fn an_open_tunnel_survives_a_reload() {
    let addr = echo_server().await;
    let ingress = Ingress::start(&everything_to(&[addr])).await;
    let mut socket = connect(&ingress).await;
    let nobody = everything_to(&[]).replace("  - http:", "  - host: elsewhere.example\n    http:");
    ingress.replace("world.yaml", &nobody);
    crate::support::eventually("the new table", crate::support::RELOAD, || async {
        let status = crate::support::get(ingress.http, "a.example", "/").await.status;
        if status == 404 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(soon("echo", socket.next()).await.unwrap().unwrap(), Message::text("still here"));
}
