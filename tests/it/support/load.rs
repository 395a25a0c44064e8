//! Steady load on a listener, from connections that are kept alive.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::task::JoinHandle;

use super::{Conn, PATIENCE, until};

/// GETs of `/` from `Host: a.example`, one after another on each connection, until told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    ok: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts this many connections.
    pub(crate) fn start(addr: SocketAddr, connections: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..connections).map(|_| tokio::spawn(client(addr, Arc::clone(&shared)))).collect();
        Self { shared, clients }
    }

    /// How many were answered with 200 so far.
    pub(crate) fn ok(&self) -> usize {
        self.shared.ok.load(Ordering::Relaxed)
    }

    /// Waits until this many more were answered, well or not.
    pub(crate) async fn go_on(&self, more: usize) {
        let done = || self.ok() + self.shared.failures.lock().unwrap().len();
        let goal = done() + more;
        until("load goes on", PATIENCE, || done() >= goal).await;
    }

    /// Stops, and panics unless every request was answered with 200. Says how many there were.
    pub(crate) async fn all_succeeded(self) -> usize {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        let failures = self.shared.failures.lock().unwrap();
        let ok = self.shared.ok.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {} failed: {:#?}", failures.len(), ok + failures.len(), first(&failures));
        assert!(ok > 0, "nothing was asked");
        ok
    }
}

fn first(failures: &[String]) -> &[String] {
    &failures[..failures.len().min(5)]
}

async fn client(addr: SocketAddr, shared: Arc<Shared>) {
    let mut conn = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let failure = match request(addr, &mut conn).await {
            Ok(()) => {
                shared.ok.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Err(failure) => failure,
        };
        conn = None;
        shared.failures.lock().unwrap().push(failure);
    }
}

async fn request(addr: SocketAddr, slot: &mut Option<Conn>) -> Result<(), String> {
    if slot.is_none() {
        *slot = Some(Conn::open(addr).await.map_err(|error| format!("connect: {error}"))?);
    }
    let Some(conn) = slot else { return Err("no connection".to_owned()) };
    let response = conn.get("a.example", "/").await.map_err(|error| format!("answer: {error}"))?;
    // A server may always announce that a connection ends; the next request goes over another.
    if response.value("connection") == Some("close") {
        *slot = None;
    }
    if response.status == 200 { Ok(()) } else { Err(format!("{}\n{}", response.head, response.text())) }
}
