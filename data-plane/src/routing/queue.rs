//! Who waits for a place, and whose turn it is when one is free.
//!
//! It knows neither clocks nor tasks: `W` is whatever wakes a waiter. A free place is told by [`Queue::call`], which calls
//! one waiter. Who is called looks for a place and says what came of it: [`Queue::took`], [`Queue::found_none`], or
//! [`Queue::leave`]. A call is never lost: it ends with a place taken, or is passed on to the next who may have use for it,
//! until all have looked.
//!
//! **Who goes first.** The first to come, as long as that serves everybody in time. Once the oldest has waited for half of
//! what it may, more comes than can be served, and the order that is fair would serve each one just before it, or its client,
//! gives up. Then the newest goes first, whose client is the likeliest to be still there, until the oldest have gone (this is
//! the adaptive LIFO of Maurer, "Fail at Scale", ACM Queue 13(8), 2015; that there is a bound on how long one waits stands in
//! for the rest of what it says).
//!
//! **Who does not even wait.** Whoever finds the queue full, and whoever would wait for longer than it has: as long as the
//! first to come goes first, its place and the pace of late tell how long that takes. Only one that even twice that pace
//! would not serve is refused, because a pace is an estimate.

use std::{collections::BTreeMap, time::Duration};

use super::Tick;

/// Numbers waiters in the order in which they came.
pub type Ticket = u64;

/// Waiters, bounded by who lets them in. Not a lock: to be kept in one.
#[derive(Debug)]
pub struct Queue<W> {
    /// Those whose turn it is not.
    waiting: BTreeMap<Ticket, Waiter<W>>,
    /// Those who look for a place now.
    called: BTreeMap<Ticket, Waiter<W>>,
    next: Ticket,
    /// How many have been refused by a replica that others may use.
    choosy: usize,
    /// Whether there were any since nobody waited.
    was_choosy: bool,
    newest_first: bool,
    /// One more than places that were told to be free.
    calls: u64,
    /// Of those, how many found nobody to call while others still looked. A newcomer may look at once for each.
    owed: usize,
    pace: Pace,
}

#[derive(Debug)]
struct Waiter<W> {
    entered: Tick,
    /// Who it has no use for: numbers of replicas that it has tried.
    tried: Box<[usize]>,
    /// The newest of the calls after which it has looked.
    seen: u64,
    wake: Option<W>,
}

/// What a newcomer brings along, and may expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How many may wait at once.
    pub max_pending: usize,
    /// How long anybody may wait.
    pub max_queue_time: Duration,
    /// Until when this one may.
    pub until: Tick,
}

/// Why somebody does not even wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As many wait as may, which may be none.
    Full {
        /// How many.
        pending: usize,
    },
    /// Its turn would come too late.
    TooLate {
        /// How many are before it.
        pending: usize,
        /// When its turn would come, by the pace of late.
        expected: Duration,
    },
}

/// What has seen no call.
const NEVER: u64 = 0;

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            called: BTreeMap::new(),
            next: 0,
            choosy: 0,
            was_choosy: false,
            newest_first: false,
            calls: 1,
            owed: 0,
            pace: Pace::default(),
        }
    }
}

impl<W> Queue<W> {
    /// How many wait, those included who look for a place now.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.called.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.called.is_empty()
    }

    /// Whether somebody waits before whom a newcomer must not take a place. Those who wait although others would find one,
    /// because they have tried who has it, are no such.
    pub fn has_precedence(&self) -> bool {
        !self.called.is_empty() || self.waiting.len() > self.choosy
    }

    /// Lets somebody wait who has `tried` these replicas. Unless others have precedence, it is called at once: what was free
    /// before it stood here was told to nobody.
    ///
    /// # Errors
    /// [`Refused`] when it had better not wait.
    pub fn enter(&mut self, now: Tick, tried: Box<[usize]>, terms: Terms) -> Result<Ticket, Refused> {
        let pending = self.len();
        if pending >= terms.max_pending || terms.max_queue_time.is_zero() {
            return Err(Refused::Full { pending });
        }
        self.look_at_the_oldest(now, terms.max_queue_time);
        if !self.newest_first
            && let Some(expected) = self.pace.expected(pending + 1)
            && now.plus(expected / 2) > terms.until
        {
            return Err(Refused::TooLate { pending, expected });
        }
        let ticket = self.next;
        self.next += 1;
        let looks_now = self.owed > 0 || !self.has_precedence();
        self.owed = self.owed.saturating_sub(1);
        self.choosy += usize::from(!tried.is_empty());
        self.was_choosy |= !tried.is_empty();
        let seen = if looks_now { self.calls } else { NEVER };
        let waiter = Waiter { entered: now, tried, seen, wake: None };
        let whereto = if looks_now { &mut self.called } else { &mut self.waiting };
        whereto.insert(ticket, waiter);
        Ok(ticket)
    }

    /// Whether this one is to look for a place now. If not, `wake` is kept for when it is.
    pub fn is_called(&mut self, ticket: Ticket, wake: impl FnOnce() -> W) -> bool {
        match self.waiting.get_mut(&ticket) {
            Some(waiter) => {
                waiter.wake = Some(wake());
                false
            }
            None => true,
        }
    }

    /// A place is free, at the replica of that number if it is of use there only: whom to wake, if anybody.
    #[must_use = "who is called has to be woken"]
    pub fn call(&mut self, at: Option<usize>) -> Option<W> {
        self.calls += 1;
        self.call_next(self.calls, at)
    }

    /// So many places are free, of use to anybody: whom to wake. Who comes while those look has the rest.
    #[must_use = "who is called has to be woken"]
    pub fn call_many(&mut self, places: usize) -> Vec<W> {
        let called = places.min(self.waiting.len());
        let woken = (0..called).filter_map(|_| self.call(None)).collect();
        if !self.called.is_empty() {
            self.owed = self.owed.saturating_add(places - called);
        }
        woken
    }

    /// This one has taken a place, or needs none any more. Whom to wake, if anybody.
    #[must_use = "who is called has to be woken"]
    pub fn took(&mut self, ticket: Ticket, now: Tick, max_queue_time: Duration) -> Option<W> {
        let waiter = self.remove(ticket)?;
        self.pace.took(now);
        self.look_at_the_oldest(now, max_queue_time);
        // It may have taken another place than the one that it was called for: one that was told to be free since, and that
        // those who waited had no use for. Then the first is still free, and some of them may have use for that.
        let may_be_another = self.choosy > 0 || !waiter.tried.is_empty();
        // Who came while others looked has not looked itself. Nothing is free for it, unless choosy ones have left it over.
        let has_left_some = self.was_choosy && self.called.is_empty();
        let call = match (may_be_another, has_left_some) {
            (true, _) => waiter.seen,
            (false, true) => NEVER + 1,
            (false, false) => return None,
        };
        // Whether anybody is found or not, no place is owed to newcomers by this.
        let owed = self.owed;
        let woken = self.call_next(call, None);
        self.owed = owed;
        woken
    }

    /// This one has looked for a place and found none: it goes on waiting where it stood. Whom to wake, if anybody.
    #[must_use = "who is called has to be woken"]
    pub fn found_none(&mut self, ticket: Ticket) -> Option<W> {
        let waiter = self.called.remove(&ticket)?;
        let (call, is_choosy) = (waiter.seen, !waiter.tried.is_empty());
        self.waiting.insert(ticket, waiter);
        if is_choosy {
            return self.call_next(call, None);
        }
        // What one who may go anywhere does not find is not there.
        self.owed = 0;
        None
    }

    /// This one waits no more. Whom to wake, if anybody: if it was called, somebody else has use for that.
    #[must_use = "who is called has to be woken"]
    pub fn leave(&mut self, ticket: Ticket) -> Option<W> {
        let was_called = self.called.contains_key(&ticket);
        let waiter = self.remove(ticket)?;
        if was_called { self.call_next(waiter.seen, None) } else { None }
    }

    /// Calls the first who has not looked since this call, and for whom a place at that replica would be of use.
    fn call_next(&mut self, call: u64, at: Option<usize>) -> Option<W> {
        let is_for = |waiter: &Waiter<W>| {
            waiter.seen < call && at.is_none_or(|at| self.choosy == 0 || !waiter.tried.contains(&at))
        };
        let found = if self.newest_first {
            self.waiting.iter().rev().find(|(_, waiter)| is_for(waiter))
        } else {
            self.waiting.iter().find(|(_, waiter)| is_for(waiter))
        };
        let Some((&ticket, _)) = found else {
            self.owed = self.owed.saturating_add(usize::from(!self.called.is_empty()));
            return None;
        };
        let mut waiter = self.waiting.remove(&ticket)?;
        // It will see all there is.
        waiter.seen = self.calls;
        let wake = waiter.wake.take();
        self.called.insert(ticket, waiter);
        wake
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Waiter<W>> {
        let waiter = self.called.remove(&ticket).or_else(|| self.waiting.remove(&ticket))?;
        self.choosy -= usize::from(!waiter.tried.is_empty());
        if self.called.is_empty() {
            self.owed = 0;
        }
        if self.is_empty() {
            self.pace = Pace::default();
            (self.newest_first, self.was_choosy) = (false, false);
        }
        Some(waiter)
    }

    fn look_at_the_oldest(&mut self, now: Tick, max_queue_time: Duration) {
        let first = |of: &BTreeMap<Ticket, Waiter<W>>| of.values().next().map(|waiter| waiter.entered);
        let oldest = first(&self.waiting).into_iter().chain(first(&self.called)).min();
        self.newest_first = oldest.is_some_and(|entered| now.since(entered) > max_queue_time / 2);
    }
}

/// How fast waiters get places, while there are any.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Tick>,
    /// Nanoseconds from one to the next, of which earlier ones are forgotten slowly.
    spacing: f64,
    count: u32,
}

impl Pace {
    /// What is learnt from fewer is nothing.
    const LEAST: u32 = 8;
    /// The weight of the newest.
    const SHARE: f64 = 1.0 / 8.0;

    fn took(&mut self, now: Tick) {
        if let Some(last) = self.last.replace(now) {
            let spacing = now.since(last).as_nanos() as f64;
            let share = if self.count == 0 { 1.0 } else { Self::SHARE };
            self.spacing += (spacing - self.spacing) * share;
            self.count = self.count.saturating_add(1);
        }
    }

    /// How long it takes until so many more have places, if that can be told.
    fn expected(&self, places: usize) -> Option<Duration> {
        let nanos = self.spacing * places as f64;
        (self.count >= Self::LEAST).then(|| Duration::from_nanos(nanos as u64))
    }
}

#[cfg(test)]
mod tests;
