//! A list made of its changes.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::Change;
use crate::config::Endpoint;

/// How many changes make one list at the most, so that a stream that is never empty does not hold it back for ever.
const AT_ONCE: usize = 4096;

pub(super) struct Changes {
    stream: Pin<Box<dyn Stream<Item = Change> + Send>>,
    weights: BTreeMap<SocketAddr, u32>,
    /// Something changed that was not yielded yet.
    changed: bool,
    ended: bool,
}

impl Changes {
    pub(super) fn new(stream: impl Stream<Item = Change> + Send + 'static) -> Self {
        Self { stream: Box::pin(stream), weights: BTreeMap::new(), changed: false, ended: false }
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<Endpoint>>> {
        let mut taken = 0;
        while !self.ended {
            if taken == AT_ONCE {
                cx.waker().wake_by_ref();
                break;
            }
            match self.stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(change)) => self.apply(&change),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
            taken += 1;
        }
        if std::mem::take(&mut self.changed) {
            let list = self.weights.iter().map(|(&address, &weight)| Endpoint { address, weight });
            return Poll::Ready(Some(list.collect()));
        }
        if self.ended { Poll::Ready(None) } else { Poll::Pending }
    }

    fn apply(&mut self, change: &Change) {
        let differs = match change {
            Change::Insert(Endpoint { address, weight }) => self.weights.insert(*address, *weight) != Some(*weight),
            Change::Remove(address) => self.weights.remove(address).is_some(),
        };
        self.changed |= differs;
    }
}
