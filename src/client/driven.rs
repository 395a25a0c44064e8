//! A connection that a task drives, and how requests are given to it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Lets no request be given to a connection while that ends.
///
/// hyper passes a request to the connection's task through a channel. When the task ends it gives back what is still in
/// there, but for what is being put there in that moment: that stays, unanswered, for as long as there is a sender, which
/// its own request keeps (<https://github.com/hyperium/hyper/issues/4122>). So the two take turns.
#[derive(Clone, Default)]
pub(super) struct Door(Arc<Mutex<()>>);

impl Door {
    /// Held while a request is given to the connection.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, dropped only while nobody gives it a request.
pub(super) struct Driven<C> {
    connection: Option<Pin<Box<C>>>,
    door: Door,
}

impl<C> Driven<C> {
    pub(super) fn new(connection: C, door: Door) -> Self {
        Self { connection: Some(Box::pin(connection)), door }
    }

    /// The connection, to be polled.
    pub(super) fn get(&mut self) -> Option<Pin<&mut C>> {
        self.connection.as_mut().map(Pin::as_mut)
    }
}

impl<C> Drop for Driven<C> {
    fn drop(&mut self) {
        let _held = self.door.hold();
        self.connection = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Tells, when dropped, whether a request could be given at that moment.
    struct Connection(Door, mpsc::Sender<bool>);

    impl Drop for Connection {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.0.try_lock().is_ok());
        }
    }

    #[test]
    fn while_a_connection_ends_it_is_given_no_request() {
        let (door, (told, dropped)) = (Door::default(), mpsc::channel());
        drop(Driven::new(Connection(door.clone(), told), door));
        assert_eq!(dropped.recv(), Ok(false), "it could be given a request while it ended");
    }
}
