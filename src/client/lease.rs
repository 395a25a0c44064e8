//! A connection, or a stream of one, in the hands of one request.

use std::sync::Arc;

use super::{http1::Http1, http2::Session, shared::Shared, watch::Watch};

pub(super) enum Conn {
    One(Http1),
    Two(Stream),
}

/// One stream's share of a session.
pub(super) struct Stream {
    pub(super) session: Arc<Session>,
    pub(super) watch: Arc<Watch>,
}

/// What a request holds of the pool until the response's body ends. Given back when dropped.
pub(super) struct Lease {
    shared: Arc<Shared>,
    conn: Option<Conn>,
    /// Whether an HTTP/1.1 connection is between two requests.
    clean: bool,
}

impl Lease {
    pub(super) fn new(shared: Arc<Shared>, conn: Conn) -> Self {
        Self { shared, conn: Some(conn), clean: true }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn conn(&mut self) -> Option<&mut Conn> {
        self.conn.as_mut()
    }

    /// A request is being written: unless [`done`](Self::done) is called, the connection is not used again.
    pub(super) fn begin(&mut self) {
        self.clean = false;
    }

    pub(super) fn watch(&self) -> Option<&Arc<Watch>> {
        match self.conn.as_ref()? {
            Conn::One(conn) => Some(&conn.watch),
            Conn::Two(stream) => Some(&stream.watch),
        }
    }

    /// The response was read to its end.
    pub(super) fn done(mut self) {
        if let Some(Conn::One(conn)) = &mut self.conn {
            self.clean = conn.has_sent_all();
            conn.reused = true;
        }
    }

    /// The connection now speaks something else.
    pub(super) fn upgraded(mut self) {
        if let Some(Conn::One(conn)) = self.take() {
            conn.release();
            self.shared.forget();
        }
    }

    /// Takes the connection, without the pool knowing.
    pub(super) fn take(&mut self) -> Option<Conn> {
        self.conn.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        if let Conn::Two(stream) = &conn {
            if stream.watch.is_uploading() {
                // What is left of the request would otherwise still be sent.
                stream.watch.abort_upload();
            }
            drop(stream.watch.take_offered());
        }
        self.shared.release(conn, self.clean);
    }
}
