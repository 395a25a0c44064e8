//! Accepts connections.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

use super::{
    connection::{self, Serve, Shared},
    io::{Abort, Socket},
};
use crate::connection::ConnectionInfo;

const BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Accepts and serves until dropped. Nothing that goes wrong with accepting ends it: out of file descriptors, for
/// example, is over as soon as a connection ends.
pub(super) async fn accept<S: Serve>(
    listener: Arc<TcpListener>,
    service: S,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
) {
    let mut backoff = BACKOFF;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, ?backoff, "cannot accept connections");
                sleep(backoff).await;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
                continue;
            }
        };
        backoff = BACKOFF;
        // After accepting, so that a listener that nobody calls keeps no slot.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        // Small answers must not wait for the acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        let info = ConnectionInfo::new(peer, local);
        let info = if shared.own { info.with_own_listener() } else { info };
        let abort = Abort::default();
        let stream = Socket::new(stream, abort.clone());
        tokio::spawn(connection::serve(stream, abort, info, service.clone(), shared.clone(), slot));
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
