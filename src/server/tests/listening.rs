//! Addresses that come and go.

use std::io;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::server::{Listening, Server};

async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn start<S: Serve>(
    config: ServerConfig,
    service: S,
) -> (SocketAddr, Listening, JoinHandle<crate::server::DrainReport>, Drain) {
    let server = Server::new(config).http("127.0.0.1:0").bind().unwrap();
    let (own, listening, drain) = (server.local_addrs()[0], server.listening(), server.drain());
    (own, listening, tokio::spawn(server.serve(service)), drain)
}

async fn ask(address: SocketAddr) -> io::Result<String> {
    let mut client = TcpStream::connect(address).await?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    if answer.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

#[tokio::test]
async fn what_is_added_serves_what_is_kept_goes_on_and_what_goes_finishes() {
    let gate = Gate::default();
    let (own, listening, ..) = start(ServerConfig::default(), gate.service());
    let (one, two) = (free().await, free().await);
    listening.replace([one, two]).unwrap();

    // One request in flight on each, and an idle connection on the first.
    let mut idle = TcpStream::connect(one).await.unwrap();
    let on_one = tokio::spawn(ask(one));
    gate.came().await;
    let on_two = tokio::spawn(ask(two));
    gate.came().await;
    let three = free().await;
    listening.replace([two, three]).unwrap();
    assert!(!listening.addresses().contains(&one));

    assert_eq!(read_to_end(&mut idle).await, "", "what was idle there is closed");
    assert_eq!(gate.waiting(), 2, "what is in flight goes on");
    gate.open();
    gate.open();
    for answer in [on_one, on_two] {
        assert!(answer.await.unwrap().unwrap().ends_with("done"));
    }
    for address in [own, two, three] {
        let answer = tokio::spawn(ask(address));
        gate.came().await;
        gate.open();
        assert!(answer.await.unwrap().unwrap().starts_with("HTTP/1.1 200"), "{address}");
    }
    ask(one).await.unwrap_err();
}

#[tokio::test]
async fn what_cannot_be_bound_changes_nothing() {
    let (own, listening, ..) = start(ServerConfig::default(), echo());
    let (kept, new, holder) = (free().await, free().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    listening.replace([kept]).unwrap();
    let taken = holder.local_addr().unwrap();
    let error = listening.replace([new, taken]).unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert_eq!(listening.addresses(), [kept]);
    ask(kept).await.unwrap();
    ask(new).await.unwrap_err();
    // Its own are not bound again, nor what all addresses include.
    let all = SocketAddr::from(([0, 0, 0, 0], free().await.port()));
    listening.replace([own, kept, all, SocketAddr::from(([127, 0, 0, 3], all.port()))]).unwrap();
    assert_eq!(listening.addresses().len(), 2);
    ask(SocketAddr::from(([127, 0, 0, 3], all.port()))).await.unwrap();
}

#[tokio::test]
async fn an_address_may_come_back_before_it_is_closed() {
    let (_, listening, served, drain) = start(ServerConfig::default(), echo());
    let address = free().await;
    // The server runs on this thread, and hears of nothing in between.
    for _ in 0..3 {
        listening.replace([address]).unwrap();
        listening.replace([]).unwrap();
    }
    listening.replace([address]).unwrap();
    ask(address).await.unwrap();
    listening.replace([]).unwrap();
    listening.replace([address]).unwrap();
    ask(address).await.unwrap();
    // It is the server's: it ends with that, whoever may still replace addresses.
    drain.begin();
    served.await.unwrap();
    ask(address).await.unwrap_err();
    drop(listening);
}

#[tokio::test]
async fn a_listener_may_be_optional() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap();
    let listener = || crate::server::Listener::new(taken);
    Server::default().listen(listener()).bind().unwrap_err();
    let server = Server::default().listen(listener().optional(true)).http("127.0.0.1:0").bind().unwrap();
    assert_eq!(server.local_addrs().len(), 1);
}

#[tokio::test]
async fn a_drain_waits_for_what_was_removed_as_well() {
    let gate = Gate::default();
    let (own, listening, served, drain) = start(ServerConfig::default(), gate.service());
    let one = free().await;
    listening.replace([one]).unwrap();
    let answer = tokio::spawn(ask(one));
    gate.came().await;
    listening.replace([]).unwrap();
    drain.begin();
    while TcpStream::connect(own).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // Nobody would accept what comes there now.
    let late = free().await;
    listening.replace([late]).unwrap();
    TcpStream::connect(late).await.unwrap_err();
    gate.open();
    assert!(answer.await.unwrap().unwrap().ends_with("done"));
    assert_eq!(served.await.unwrap().cut, 0);
}

#[tokio::test]
async fn what_is_optional_is_done_without_as_long_as_something_is_left() {
    let (_, listening, ..) = start(ServerConfig::default(), echo());
    let (kept, new, holder) = (free().await, free().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let taken = holder.local_addr().unwrap();
    listening.replace([kept]).unwrap();
    let prepared = listening.prepare([kept, new, taken], |address| *address == taken).unwrap();
    assert_eq!(prepared.lacking().iter().map(|(address, _)| *address).collect::<Vec<_>>(), [taken]);
    prepared.commit();
    let mut both = [kept, new];
    both.sort();
    assert_eq!(listening.addresses(), both);
    ask(new).await.unwrap();

    // Nothing else is left; or it is not optional.
    assert_eq!(listening.prepare([taken], |_| true).err().unwrap().0, taken);
    assert_eq!(listening.prepare([kept, taken], |address| *address == kept).err().unwrap().0, taken);
    assert_eq!(listening.addresses(), both);

    // All addresses cannot be had: what they would have included is bound by itself.
    let all = SocketAddr::from(([0, 0, 0, 0], taken.port()));
    let within = SocketAddr::from(([127, 0, 0, 3], taken.port()));
    listening.prepare([kept, all, within], |_| true).unwrap().commit();
    let mut left = [kept, within];
    left.sort();
    assert_eq!(listening.addresses(), left);
    ask(within).await.unwrap();
    // Its own are in the way as well, as long as they stay; one that is to go is not exchanged for nothing.
    drop(holder);
    let prepared = listening.prepare([kept, all, within], |_| true).unwrap();
    assert_eq!(prepared.lacking().iter().map(|(address, _)| *address).collect::<Vec<_>>(), [all]);
    prepared.commit();
    assert_eq!(listening.prepare([kept, all], |_| true).err().unwrap().0, all);
    assert_eq!(listening.addresses(), left);

    // Free again, it is bound.
    listening.prepare([kept, taken], |_| true).unwrap().commit();
    ask(taken).await.unwrap();
}
