//! The queue of those who wait for a place, as threads share it.
//!
//! Counts of what is in flight have one writer each and no lock. That whoever frees a place and whoever finds none never miss
//! each other rests on two fences: the one first writes that it has ended and then reads whether anybody waits, the other
//! first writes that it waits and then reads what is in flight. At least one of them sees the other. `tests/pending.rs` has
//! both tried in every order that the memory model allows.

use super::sync::{AtomicUsize, Mutex, MutexGuard, Ordering, fence};
use crate::routing::{Queue, Refused, Terms, Tick, Ticket};

/// What came of looking for a place.
#[derive(Debug)]
pub(super) enum Look<T> {
    /// It is taken.
    Taken(T),
    /// None is free, and one may become so.
    Full,
    /// There is none to wait for.
    Over(T),
}

/// What has become free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    /// Nothing: more was in flight than may be.
    Nothing,
    /// A place at the replica of that number.
    At(usize),
    /// A place at any replica that has one.
    Anywhere,
}

/// A queue whose waiters wake by `W`, and how many they are.
#[derive(Debug)]
pub(super) struct Pending<W> {
    queue: Mutex<Queue<W>>,
    /// Its length, for those who do not look into it.
    length: AtomicUsize,
}

impl<W> Pending<W> {
    pub(super) fn new() -> Self {
        Self { queue: Mutex::new(Queue::default()), length: AtomicUsize::new(0) }
    }

    /// How many wait.
    pub(super) fn length(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Has a newcomer look for a place; `None` when others go before it. Nobody else looks meanwhile.
    pub(super) fn look_first<T>(&self, look: impl FnOnce() -> T) -> Option<T> {
        let queue = self.lock();
        (!queue.has_precedence()).then(look)
    }

    /// Lets somebody wait, who then has to see whether it is called.
    pub(super) fn enter(&self, now: Tick, tried: Box<[usize]>, terms: Terms) -> Result<Ticket, Refused> {
        let mut queue = self.lock();
        let entered = queue.enter(now, tried, terms);
        self.length.store(queue.len(), Ordering::Relaxed);
        entered
    }

    /// Whether it is to look for a place now. If not, `wake` is kept for when it is.
    pub(super) fn is_called(&self, ticket: Ticket, wake: impl FnOnce() -> W) -> bool {
        self.lock().is_called(ticket, wake)
    }

    /// Has it look for a place, called or not. Yields what it takes away, and whom to wake.
    pub(super) fn look<T>(
        &self,
        ticket: Ticket,
        now: Tick,
        terms: Terms,
        look: impl FnOnce() -> Look<T>,
    ) -> (Option<T>, Option<W>) {
        let mut queue = self.lock();
        fence(Ordering::SeqCst);
        let (found, woken) = match look() {
            Look::Taken(found) => (Some(found), queue.took(ticket, now, terms.max_queue_time)),
            Look::Full => (None, queue.found_none(ticket)),
            Look::Over(found) => (Some(found), queue.leave(ticket)),
        };
        self.length.store(queue.len(), Ordering::Relaxed);
        (found, woken)
    }

    /// It waits no more. Yields whom to wake.
    pub(super) fn leave(&self, ticket: Ticket) -> Option<W> {
        let mut queue = self.lock();
        let woken = queue.leave(ticket);
        self.length.store(queue.len(), Ordering::Relaxed);
        woken
    }

    /// To be called by whoever has just written that something in flight has ended: if anybody waits, looks what that has
    /// `freed`, and yields whom to wake.
    pub(super) fn freed(&self, freed: impl FnOnce() -> Freed) -> Option<W> {
        fence(Ordering::SeqCst);
        if self.length() == 0 {
            return None;
        }
        match freed() {
            Freed::Nothing => None,
            Freed::At(replica) => self.lock().call(Some(replica)),
            Freed::Anywhere => self.lock().call(None),
        }
    }

    /// So many places have become free at once: calls as many as there are for them. Yields whom to wake.
    pub(super) fn freed_many(&self, count: usize) -> Vec<W> {
        if self.length() == 0 {
            return Vec::new();
        }
        self.lock().call_many(count)
    }

    fn lock(&self) -> MutexGuard<'_, Queue<W>> {
        // Each change of the queue is made by itself: a panic elsewhere leaves it whole.
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
