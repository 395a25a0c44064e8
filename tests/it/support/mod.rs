//! What the tests share: the program under test, doubles for its backends, a client that sends exact bytes, and
//! wrappers around real peers.
//!
//! Everything listens on 127.0.0.1, everything that waits is bounded, and nothing waits for a state by sleeping: it asks
//! for the state with [`eventually`] until it is there.

pub(crate) mod backend;
pub(crate) mod gateway_api;
pub(crate) mod ingress;
pub(crate) mod load;
pub(crate) mod manifest;
pub(crate) mod pki;
pub(crate) mod tls_backend;
pub(crate) mod tools;
pub(crate) mod wire;

use std::{
    future::Future,
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

pub(crate) use self::{
    backend::{Echo, Raw},
    ingress::Ingress,
    wire::{Conn, get},
};

/// How long anything may take that should take no time at all, on a machine busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a reload may take: the promise is a second, the rest is for a busy machine.
pub(crate) const RELOAD: Duration = Duration::from_secs(5);

/// A port of 127.0.0.1 that nobody listens on now and no other test of this process is given.
///
/// They lie below the ephemeral range, so that no outgoing connection takes one between this call and its use.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // Several runs of this binary at a time start at different places.
        let start = std::process::id().wrapping_mul(797);
        let port = u16::try_from(FIRST + start.wrapping_add(step) % COUNT).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Asks `state` until it says `Ok`; panics with its last `Err` when that takes longer than `within`.
pub(crate) async fn eventually<T, F>(what: &str, within: Duration, mut state: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let why = match state().await {
            Ok(value) => return value,
            Err(why) => why,
        };
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {within:?}; last seen: {why}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same, for a state that is a plain yes or no.
pub(crate) async fn until(what: &str, within: Duration, mut state: impl FnMut() -> bool) {
    eventually(what, within, || std::future::ready(if state() { Ok(()) } else { Err("not yet".to_owned()) })).await;
}

/// `future`, which must not take longer than [`PATIENCE`].
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(what, PATIENCE, future).await
}

/// `future`, which must not take longer than `limit`.
pub(crate) async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: took longer than {limit:?}"),
    }
}
