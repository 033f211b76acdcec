//! When a worker's connections are to be woken if nothing happens on them.
//!
//! In place of a timer for each: setting one is a store, and one task looks through them all a few times a second. They
//! are for limits of seconds that protect the gateway, not for time that a policy promises.

use std::{cell::RefCell, task::Waker, time::Duration};

use crate::routing::Tick;

/// How often they are looked through: nobody is woken later than by this.
pub(in crate::proxy) const PERIOD: Duration = Duration::from_millis(250);
/// So long before its end, an attempt gets a timer of its own, for its time is promised. Most are over before, and cost none.
pub(in crate::proxy) const AHEAD: Duration = Duration::from_millis(500);

/// A worker's deadlines. There are never more places than there were connections at once.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Deadlines {
    places: RefCell<Places>,
}

#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    /// The free ones.
    free: Vec<usize>,
}

#[derive(Debug)]
struct Place {
    due: Tick,
    waker: Option<Waker>,
}

/// A place, until this is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Reserved<'a> {
    deadlines: &'a Deadlines,
    place: usize,
}

impl Reserved<'_> {
    /// As [`Deadlines::set`].
    pub(in crate::proxy) fn set(&self, due: Tick, by: &Waker) {
        self.deadlines.set(self.place, due, by);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.deadlines.end(self.place);
    }
}

impl Deadlines {
    /// Takes a place for as long as it is held.
    pub(in crate::proxy) fn reserve(&self) -> Reserved<'_> {
        Reserved { deadlines: self, place: self.begin() }
    }

    /// Takes a place for a connection. It has to be left by [`Deadlines::end`].
    pub(in crate::proxy) fn begin(&self) -> usize {
        let mut places = self.places.borrow_mut();
        if let Some(place) = places.free.pop() {
            return place;
        }
        places.all.push(Place { due: Tick::NEVER, waker: None });
        places.all.len() - 1
    }

    /// The connection is over.
    pub(in crate::proxy) fn end(&self, place: usize) {
        let mut places = self.places.borrow_mut();
        places.all[place] = Place { due: Tick::NEVER, waker: None };
        places.free.push(place);
    }

    /// Has the task woken once `due` has passed, in place of what was set before.
    pub(in crate::proxy) fn set(&self, place: usize, due: Tick, by: &Waker) {
        let place = &mut self.places.borrow_mut().all[place];
        place.due = due;
        if !place.waker.as_ref().is_some_and(|waker| waker.will_wake(by)) {
            place.waker = Some(by.clone());
        }
    }

    /// Takes back what was set.
    pub(in crate::proxy) fn clear(&self, place: usize) {
        self.places.borrow_mut().all[place].due = Tick::NEVER;
    }

    /// Wakes those whose deadline has passed.
    pub(in crate::proxy) fn wake_due(&self, now: Tick) {
        for place in &mut self.places.borrow_mut().all {
            if place.due <= now {
                place.due = Tick::NEVER;
                place.waker.iter().for_each(Waker::wake_by_ref);
            }
        }
    }

    /// Wakes all: something has changed for each of them.
    pub(in crate::proxy) fn wake_all(&self) {
        for place in &self.places.borrow().all {
            place.waker.iter().for_each(Waker::wake_by_ref);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn at(secs: u64) -> Tick {
        Tick::ORIGIN.plus(Duration::from_secs(secs))
    }

    #[test]
    fn each_is_woken_once_when_its_own_time_has_passed() {
        let deadlines = Deadlines::default();
        let woken: Vec<Arc<Woken>> = (0..3).map(|_| Arc::default()).collect();
        let counts = || woken.iter().map(|woken| woken.0.load(Relaxed)).collect::<Vec<_>>();
        for (index, woken) in woken.iter().enumerate() {
            assert_eq!(deadlines.begin(), index);
            deadlines.set(index, at(10 + index as u64), &Arc::clone(woken).into());
        }
        deadlines.wake_due(at(9));
        assert_eq!(counts(), [0, 0, 0]);
        deadlines.clear(1);
        deadlines.wake_due(at(11));
        deadlines.wake_due(at(11));
        assert_eq!(counts(), [1, 0, 0]);
        deadlines.wake_all();
        assert_eq!(counts(), [2, 1, 1]);
        deadlines.end(0);
        assert_eq!(deadlines.begin(), 0, "a place is used again");
        deadlines.wake_due(at(12));
        assert_eq!(counts(), [2, 1, 2]);
    }
}
