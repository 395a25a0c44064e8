//! One HTTP/1.1 connection, over hyper's.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::{
    body::Upload,
    connect::{Blocked, ConnectError, Io},
    driven::{Door, Driven},
    watch::Watch,
};
use crate::Outcome;

/// A response's head, status line included, and trailers.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// A connection that is not serving a request, or serves the one whose lease holds it. Closed when dropped.
pub(super) struct Http1 {
    pub(super) sender: SendRequest<Upload>,
    pub(super) door: Door,
    pub(super) watch: Arc<Watch>,
    /// Whether it has served a request before.
    pub(super) reused: bool,
    blocked: Blocked,
    kill: Option<oneshot::Sender<()>>,
}

impl Http1 {
    /// Starts the connection's task, on the current runtime.
    pub(super) async fn start(io: Io) -> Result<Self, ConnectError> {
        let blocked = io.blocked().clone();
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| ConnectError::caused(Outcome::ConnectFailed, e))?;
        let (kill, killed) = oneshot::channel();
        let door = Door::default();
        let mut connection = Driven::new(connection.with_upgrades(), door.clone());
        tokio::spawn(async move {
            let mut killed = pin!(killed);
            let mut alive = true;
            poll_fn(|cx| {
                if alive {
                    match killed.as_mut().poll(cx) {
                        Poll::Ready(Ok(())) => return Poll::Ready(()),
                        // Let go, not killed: it has been upgraded.
                        Poll::Ready(Err(_)) => alive = false,
                        Poll::Pending => {}
                    }
                }
                // Its errors reach the request or the body that they concern.
                connection.get().map_or(Poll::Ready(()), |connection| connection.poll(cx).map(drop))
            })
            .await;
        });
        Ok(Self { sender, door, watch: Arc::new(Watch::new()), reused: false, blocked, kill: Some(kill) })
    }

    /// Whether all of the request was sent: its body was read to the end, and does not lie in a buffer.
    pub(super) fn has_sent_all(&self) -> bool {
        !self.watch.is_uploading() && !self.blocked.get()
    }

    /// Lets the connection live on its own, after an upgrade.
    pub(super) fn release(mut self) {
        self.kill = None;
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
    }
}
