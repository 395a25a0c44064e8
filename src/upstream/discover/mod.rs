//! Where an upstream's endpoints come from: fixed lists, DNS, any stream.
//!
//! A [`Discover`] yields the whole list each time it is new. What it yielded last stays true until it yields again:
//! a look-up that fails or finds nothing, and a stream that ends, change nothing.
//!
//! # Example
//! ```
//! # tokio_test::block_on(async {
//! use portcullis::{config::Endpoints, upstream::discover::Discover};
//!
//! let mut discover = Discover::new(&Endpoints::fixed(["127.0.0.1:9001".parse().unwrap()]));
//! assert_eq!(discover.next().await.unwrap().len(), 1);
//! // A fixed list never changes.
//! assert_eq!(discover.next().await, None);
//! # });
//! ```

mod dns;
mod stream;

use std::{fmt, net::SocketAddr, pin::Pin};

use futures_core::Stream;

pub use self::dns::{Dns, Resolve, Resolving, SystemResolver};
use self::stream::Changes;
use crate::config::{Endpoint, Endpoints};

/// A source of endpoint lists.
pub struct Discover(Source);

enum Source {
    Fixed(Option<Vec<Endpoint>>),
    Dns(Box<Dns>),
    Snapshots(Pin<Box<dyn Stream<Item = Vec<Endpoint>> + Send>>),
    Changes(Changes),
    /// A stream that ended is never polled again.
    Ended,
}

/// One change of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// This endpoint is there, or has this weight now.
    Insert(Endpoint),
    /// The endpoint at this address is gone.
    Remove(SocketAddr),
}

impl Discover {
    /// What an upstream's configuration names; DNS by the system's resolver.
    #[must_use]
    pub fn new(config: &Endpoints) -> Self {
        match config {
            Endpoints::Static(endpoints) => Self::fixed(endpoints.clone()),
            Endpoints::Dns { host, port, refresh } => Self::dns(Dns::new(host, *port).refresh(*refresh)),
        }
    }

    /// These endpoints and no others.
    #[must_use]
    pub fn fixed(endpoints: Vec<Endpoint>) -> Self {
        Self(Source::Fixed(Some(endpoints)))
    }

    /// What a name resolves to.
    #[must_use]
    pub fn dns(dns: Dns) -> Self {
        Self(Source::Dns(Box::new(dns)))
    }

    /// Whole lists as they come.
    #[must_use]
    pub fn snapshots(stream: impl Stream<Item = Vec<Endpoint>> + Send + 'static) -> Self {
        Self(Source::Snapshots(Box::pin(stream)))
    }

    /// A list that changes one by one, beginning empty. Changes that are there at the same time make one new list.
    #[must_use]
    pub fn changes(stream: impl Stream<Item = Change> + Send + 'static) -> Self {
        Self(Source::Changes(Changes::new(stream)))
    }

    /// The list, where it is fixed: no waiting, no task.
    pub(super) fn take_fixed(&mut self) -> Option<Vec<Endpoint>> {
        match &mut self.0 {
            Source::Fixed(endpoints) => Some(endpoints.take().unwrap_or_default()),
            _ => None,
        }
    }

    /// Waits for the list to be new and returns all of it; `None` when it will never change again.
    ///
    /// Cancel safe: nothing is lost when the future is dropped, a look-up that was under way is begun again.
    pub async fn next(&mut self) -> Option<Vec<Endpoint>> {
        let next = match &mut self.0 {
            Source::Fixed(endpoints) => endpoints.take(),
            Source::Dns(dns) => return Some(dns.next().await),
            Source::Snapshots(stream) => std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await,
            Source::Changes(changes) => std::future::poll_fn(|cx| changes.poll_next(cx)).await,
            Source::Ended => None,
        };
        if next.is_none() {
            self.0 = Source::Ended;
        }
        next
    }
}

impl fmt::Debug for Discover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Fixed(_) => f.write_str("Discover::Fixed"),
            Source::Dns(dns) => f.debug_tuple("Discover").field(dns).finish(),
            Source::Snapshots(_) => f.write_str("Discover::Snapshots"),
            Source::Changes(_) => f.write_str("Discover::Changes"),
            Source::Ended => f.write_str("Discover::Ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use tokio::sync::mpsc;
    use tokio_test::{assert_pending, assert_ready_eq, task};

    use super::*;

    struct Receiver<T>(mpsc::UnboundedReceiver<T>);

    impl<T> Stream for Receiver<T> {
        type Item = T;
        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
            self.0.poll_recv(cx)
        }
    }

    /// Fails when it is polled after its end.
    struct Once(Option<Poll<()>>);

    impl Stream for Once {
        type Item = Vec<Endpoint>;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Vec<Endpoint>>> {
            assert!(self.0.take().is_some(), "polled after its end");
            Poll::Ready(None)
        }
    }

    fn endpoint(port: u16, weight: u32) -> Endpoint {
        Endpoint { address: SocketAddr::from(([127, 0, 0, 1], port)), weight }
    }

    fn next(discover: &mut Discover) -> Poll<Option<Vec<Endpoint>>> {
        task::spawn(discover.next()).poll()
    }

    #[test]
    fn changes_at_the_same_time_make_one_list_and_no_change_makes_none() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let send = |change| sender.send(change).unwrap();
        let mut discover = Discover::changes(Receiver(receiver));
        assert_pending!(next(&mut discover));
        send(Change::Insert(endpoint(2, 1)));
        send(Change::Insert(endpoint(1, 1)));
        send(Change::Insert(endpoint(3, 1)));
        send(Change::Remove(endpoint(3, 1).address));
        assert_ready_eq!(next(&mut discover), Some(vec![endpoint(1, 1), endpoint(2, 1)]));
        send(Change::Insert(endpoint(1, 1)));
        send(Change::Remove(endpoint(7, 1).address));
        assert_pending!(next(&mut discover));
        send(Change::Insert(endpoint(1, 5)));
        assert_ready_eq!(next(&mut discover), Some(vec![endpoint(1, 5), endpoint(2, 1)]));
        // The last change before the end is not lost, and to lose all endpoints is a change too.
        send(Change::Remove(endpoint(1, 1).address));
        send(Change::Remove(endpoint(2, 1).address));
        drop(sender);
        assert_ready_eq!(next(&mut discover), Some(vec![]));
        assert_ready_eq!(next(&mut discover), None);
        assert_ready_eq!(next(&mut discover), None);
    }

    #[test]
    fn a_busy_stream_of_changes_still_yields() {
        struct Endless(u32);
        impl Stream for Endless {
            type Item = Change;
            fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Change>> {
                self.0 += 1;
                Poll::Ready(Some(Change::Insert(endpoint(1, self.0))))
            }
        }
        let mut discover = Discover::changes(Endless(0));
        assert!(next(&mut discover).is_ready());
        assert!(next(&mut discover).is_ready());
    }

    #[test]
    fn snapshots_pass_as_they_come_and_an_ended_stream_is_left_alone() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut discover = Discover::snapshots(Receiver(receiver));
        sender.send(vec![endpoint(1, 1)]).unwrap();
        assert_ready_eq!(next(&mut discover), Some(vec![endpoint(1, 1)]));
        assert_pending!(next(&mut discover));

        let mut ended = Discover::snapshots(Once(Some(Poll::Pending)));
        assert_ready_eq!(next(&mut ended), None);
        assert_ready_eq!(next(&mut ended), None);
    }
}
