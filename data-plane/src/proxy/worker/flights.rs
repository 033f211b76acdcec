//! The attempts under way on one worker, so that those at a replica whose drain is over can be cut.
//!
//! An attempt that waits for its response head is woken and looks for itself; one whose response streams loses its
//! connection at once, whether its client reads or not. Each attempt has a place of its own while it lasts, which
//! costs neither an allocation nor a look at any other.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::{Rc, Weak},
    task::Waker,
};

use gateway_proto::ReplicaKey;

use crate::{
    proxy::{body::response_body::UpstreamBody, head::request_id::RequestId},
    routing::Tick,
    table::Replica,
};

/// A worker's attempts under way. There are never more places than there were attempts at once.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Flights {
    places: RefCell<Places>,
    /// Whose attempt has a place, or had it last. Written here once, for attempts are moved often and rarely need it.
    request_ids: RefCell<Vec<RequestId>>,
    /// Draining replicas whose deadline has passed.
    cut: RefCell<BTreeSet<ReplicaKey>>,
    /// Whether there are any, for every poll of every attempt asks.
    has_cut: Cell<bool>,
}

#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    /// The first of the free ones, which lead to each other.
    free: Option<usize>,
}

#[derive(Debug)]
enum Place {
    Free {
        next: Option<usize>,
    },
    Taken {
        /// From when on it is to be woken again and again.
        due: Tick,
        waker: Option<Waker>,
        body: Weak<RefCell<UpstreamBody>>,
    },
}

impl Flights {
    /// Takes a place for an attempt that begins. It has to be left by [`Flights::end`].
    pub(in crate::proxy) fn begin(&self, request_id: &RequestId) -> usize {
        let mut places = self.places.borrow_mut();
        let taken = Place::Taken { due: Tick::NEVER, waker: None, body: Weak::new() };
        let Some(index) = places.free else {
            places.all.push(taken);
            self.request_ids.borrow_mut().push(request_id.clone());
            return places.all.len() - 1;
        };
        self.request_ids.borrow_mut()[index].clone_from(request_id);
        if let Place::Free { next } = std::mem::replace(&mut places.all[index], taken) {
            places.free = next;
        }
        index
    }

    /// The id of the request whose attempt has this place.
    pub(in crate::proxy) fn request_id(&self, place: usize) -> RequestId {
        self.request_ids.borrow()[place].clone()
    }

    /// The attempt is over.
    pub(in crate::proxy) fn end(&self, place: usize) {
        let mut places = self.places.borrow_mut();
        let next = places.free.replace(place);
        places.all[place] = Place::Free { next };
    }

    /// Remembers whom to wake: to be called whenever the attempt's task is about to wait. It is woken at a look at all places
    /// from `until` on, too.
    pub(in crate::proxy) fn waits(&self, place: usize, until: Tick, by: &Waker) {
        if let Place::Taken { due, waker, .. } = &mut self.places.borrow_mut().all[place] {
            *due = until;
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(by)) {
                *waker = Some(by.clone());
            }
        }
    }

    /// Has the attempt be looked at from then on, whether its task moves or not.
    pub(in crate::proxy) fn is_due(&self, place: usize, at: Tick) {
        if let Place::Taken { due, .. } = &mut self.places.borrow_mut().all[place] {
            *due = at;
        }
    }

    /// Wakes those who wait until `now` or less. Of those whose response streams, probes [pass](UpstreamBody::pass), also where
    /// nobody reads on.
    pub(in crate::proxy) fn wake_due(&self, now: Tick) {
        let mut streaming = Vec::new();
        for (index, place) in self.places.borrow_mut().all.iter_mut().enumerate() {
            if let Place::Taken { due, waker, body } = place
                && *due <= now
            {
                *due = Tick::NEVER;
                match body.upgrade() {
                    Some(body) => streaming.push((index, body)),
                    None => waker.iter().for_each(Waker::wake_by_ref),
                }
            }
        }
        for (index, body) in streaming {
            let passes_at = body.borrow_mut().pass();
            if let Some(at) = passes_at {
                self.is_due(index, at);
            }
        }
    }

    /// The attempt's response head has come, and this is its body.
    pub(in crate::proxy) fn streams(&self, place: usize, streaming: &Rc<RefCell<UpstreamBody>>) {
        if let Place::Taken { body, .. } = &mut self.places.borrow_mut().all[place] {
            *body = Rc::downgrade(streaming);
        }
    }

    /// Whether attempts at this replica are to end now.
    pub(in crate::proxy) fn is_cut(&self, replica: &Replica) -> bool {
        self.has_cut.get() && replica.is_draining() && self.cut.borrow().contains(replica.key())
    }

    /// Ends what is under way at these replicas, which get no new attempts, and at no others.
    pub(in crate::proxy) fn cut(&self, replicas: BTreeSet<ReplicaKey>) {
        self.has_cut.set(!replicas.is_empty());
        let is_more = !self.cut.borrow().is_superset(&replicas);
        self.cut.replace(replicas);
        if !is_more {
            return;
        }
        let mut streaming = Vec::new();
        for place in &self.places.borrow().all {
            if let Place::Taken { waker, body, .. } = place {
                streaming.extend(body.upgrade());
                // Who waits for something else finds that nothing has changed.
                waker.iter().for_each(Waker::wake_by_ref);
            }
        }
        // Each one leaves its place as it ends, so nothing may be borrowed here.
        for body in streaming {
            body.borrow_mut().cut_if(|replica| self.is_cut(replica));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_there_are_no_more_than_attempts_at_once() {
        let flights = Flights::default();
        let id = RequestId::new;
        let first: Vec<_> = (0..3).map(|number| flights.begin(&id(number))).collect();
        assert_eq!(first, [0, 1, 2]);
        flights.end(1);
        flights.end(0);
        assert_eq!([3, 4, 5].map(|number| flights.begin(&id(number))), [0, 1, 3]);
        let ids = [0, 1, 2, 3].map(|place| flights.request_id(place));
        assert_eq!(ids, [id(3), id(4), id(2), id(5)], "each place has the id of whose attempt has it");
        assert_eq!(flights.places.borrow().all.len(), 4);
    }
}
