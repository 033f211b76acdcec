//! The queue's lock and its two fences, run in every order that the memory model allows (loom).
//!
//! The module is built here a second time, with loom's model of a lock and of atomics in the place of the real ones.

#![allow(dead_code, reason = "the module is the library's; what is not modelled here is not called")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

mod routing {
    pub(crate) use data_plane::routing::{Queue, Refused, Terms, Tick, Ticket};
}

mod sync {
    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering, fence},
    };
}

#[path = "../src/table/pending.rs"]
mod pending;

use std::{sync::Arc, time::Duration};

use loom::thread;

use pending::{Freed, Look, Pending};
use routing::{Terms, Tick, Ticket};
use sync::{AtomicUsize, Ordering};

const TERMS: Terms = Terms { max_pending: 9, max_queue_time: Duration::from_secs(9), until: Tick::NEVER };
const REPLICA: usize = 7;

/// One replica with room for one request, workers who count what they have there, and waiters who may be woken.
struct World {
    pending: Pending<usize>,
    /// What each worker has in flight: written by that worker only.
    inflight: [AtomicUsize; 2],
    woken: [AtomicUsize; 2],
}

impl World {
    /// Worker 0 has the one place, if it is `taken`.
    fn new(taken: usize) -> Arc<Self> {
        Arc::new(Self {
            pending: Pending::new(),
            inflight: [AtomicUsize::new(taken), AtomicUsize::new(0)],
            woken: [AtomicUsize::new(0), AtomicUsize::new(0)],
        })
    }

    fn sum(&self) -> usize {
        self.inflight.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn wake(&self, woken: Option<usize>) {
        if let Some(waiter) = woken {
            self.woken[waiter].store(1, Ordering::Relaxed);
        }
    }

    fn take(&self, worker: usize) -> bool {
        let has_room = self.sum() < 1;
        if has_room {
            let own = &self.inflight[worker];
            own.store(own.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        has_room
    }

    fn end(&self, worker: usize) {
        let own = &self.inflight[worker];
        own.store(own.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        let freed = || if self.sum() < 1 { Freed::At(REPLICA) } else { Freed::Nothing };
        self.wake(self.pending.freed(freed));
    }

    /// A newcomer looks, and waits if it has to. `None` when it has a place.
    fn come(&self, worker: usize, waiter: usize) -> Option<Ticket> {
        if self.pending.look_first(|| self.take(worker)) == Some(true) {
            return None;
        }
        let ticket = self.pending.enter(Tick::ORIGIN, Box::default(), TERMS).unwrap();
        self.run(worker, waiter, ticket)
    }

    /// A waiter's task runs until it has a place, or sleeps.
    fn run(&self, worker: usize, waiter: usize, ticket: Ticket) -> Option<Ticket> {
        while self.pending.is_called(ticket, || waiter) {
            let look = || if self.take(worker) { Look::Taken(()) } else { Look::Full };
            let (found, woken) = self.pending.look(ticket, Tick::ORIGIN, TERMS, look);
            self.wake(woken);
            if found.is_some() {
                return None;
            }
        }
        Some(ticket)
    }

    fn is_woken(&self, waiter: usize) -> bool {
        self.woken[waiter].load(Ordering::Relaxed) == 1
    }
}

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

#[test]
fn who_ends_and_who_finds_no_place_never_miss_each_other() {
    model(|| {
        let world = World::new(1);
        let other = Arc::clone(&world);
        let ender = thread::spawn(move || other.end(0));
        let asleep = world.come(1, 0);
        ender.join().unwrap();
        if let Some(ticket) = asleep {
            assert!(world.is_woken(0), "a place is free, somebody waits, and nobody was told");
            assert_eq!(world.run(1, 0, ticket), None);
        }
        assert_eq!((world.sum(), world.pending.length()), (1, 0));
    });
}

#[test]
fn of_two_who_come_at_once_one_has_the_place_and_the_other_waits() {
    model(|| {
        let world = World::new(0);
        let other = Arc::clone(&world);
        let first = thread::spawn(move || other.come(0, 0));
        let second = world.come(1, 1);
        let first = first.join().unwrap();
        assert!(first.is_none() != second.is_none());
        assert_eq!((world.sum(), world.pending.length()), (1, 1));
    });
}

#[test]
fn who_leaves_while_a_place_becomes_free_leaves_it_to_the_next() {
    model(|| {
        let world = World::new(1);
        let (first, second) = (world.come(1, 0).unwrap(), world.come(1, 1).unwrap());
        let (one, other) = (Arc::clone(&world), Arc::clone(&world));
        let ender = thread::spawn(move || one.end(0));
        let leaver = thread::spawn(move || {
            let woken = other.pending.leave(first);
            other.wake(woken);
        });
        ender.join().unwrap();
        leaver.join().unwrap();
        assert!(world.is_woken(1), "a place is free, and nobody was told");
        assert_eq!(world.run(1, 1, second), None);
    });
}
