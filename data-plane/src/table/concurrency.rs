//! A service whose policy limits how much is under way at once: who may be asked, who waits, who is refused.
//!
//! What counts is what is in flight, whenever it began, over all workers. Picks take turns under the queue's lock, so that no
//! two take the same place; ends take none. Without limits none of this is reached.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use gateway_proto::policy::Concurrency;

use super::{
    durations::{Durations, Histogram},
    pending::{Freed, Look, Pending},
    replica::Replica,
    service::{Picked, Service},
    view::{Choice, Unavailable, View},
};
use crate::routing::{Draw, Refused, Terms, Tick, Ticket};

/// What a service keeps for its limits.
#[derive(Debug)]
pub(super) struct Limits {
    pending: Pending<Waker>,
    refusals: [AtomicU64; Refusal::ALL.len()],
    queue_times: Durations,
}

/// Why requests were refused for want of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// As many waited as may, or its turn would have come too late.
    Overloaded,
    /// It had waited for as long as it may.
    QueueTimeout,
}

impl Refusal {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Overloaded, Self::QueueTimeout];

    /// As metrics and answers name it.
    pub fn as_str(self) -> &'static str {
        ["overloaded", "queue_timeout"][self as usize]
    }
}

impl Limits {
    pub(super) fn new(workers: usize) -> Self {
        Self { pending: Pending::new(), refusals: Default::default(), queue_times: Durations::new(workers) }
    }
}

impl Service {
    /// As [`Service::pick`], by a view with limits. `waiter` is the one who looks, if it waits already.
    pub(super) fn pick_limited(
        &self,
        view: &View,
        worker: usize,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
        waiter: Option<Ticket>,
    ) -> Result<Picked, Unavailable> {
        let concurrency = &view.policy.concurrency;
        let look = || -> Result<Choice<'_>, Unavailable> {
            if self.inflight.read() >= concurrency.of_service() {
                return Err(view.none_free(now, tried));
            }
            let choice = view.pick(worker, now, tried, draw, || self.inflight.read())?;
            self.begin(worker, choice.0, tried, draw);
            Ok(choice)
        };
        let pending = &self.limits.pending;
        let looked = match waiter {
            None => pending.look_first(look).unwrap_or_else(|| Err(view.none_free(now, tried))),
            Some(ticket) => {
                let classed = || match look() {
                    Ok(choice) => Look::Taken(Ok(choice)),
                    Err(Unavailable::AllFull) => Look::Full,
                    Err(other) => Look::Over(Err(other)),
                };
                let (found, woken) = pending.look(ticket, now, terms(concurrency, now), classed);
                wake(woken);
                found.unwrap_or(Err(Unavailable::AllFull))
            }
        };
        if matches!(looked, Err(Unavailable::AllFull)) && self.end_measurements(view, now) {
            return self.pick_limited(view, worker, now, tried, draw, waiter);
        }
        Ok(self.picked(looked?, worker, now))
    }

    /// Whether a request that finds no place now may wait for one, as far as others wait already.
    pub fn may_wait(&self) -> bool {
        let concurrency = self.policy().concurrency;
        self.pending() < concurrency.max_pending as usize && !concurrency.max_queue_time.is_zero()
    }

    /// Lets a request that has `tried` some wait for a place, after [`Service::pick`] found none. It waits no longer than
    /// the policy lets it, nor than to its `deadline`.
    ///
    /// # Errors
    /// [`Refused`] when as many wait as may, and when its turn would come too late.
    pub fn wait(
        self: &Arc<Self>,
        now: Tick,
        deadline: Tick,
        tried: &[Arc<Replica>],
    ) -> Result<Waiting, Refused> {
        let concurrency = self.policy().concurrency;
        let mut terms = terms(&concurrency, now);
        terms.until = terms.until.min(deadline);
        let tried = tried.iter().map(|replica| replica.number()).collect();
        let ticket = self.limits.pending.enter(now, tried, terms)?;
        let service = Arc::clone(self);
        Ok(Waiting { service, ticket: Some(ticket), entered: now, until: terms.until })
    }

    /// Counts that a request was answered with this, for want of a place.
    pub fn refuse(&self, refusal: Refusal) {
        self.limits.refusals[refusal as usize].fetch_add(1, Relaxed);
    }

    /// A request at this replica is not in flight any more.
    #[inline(never)]
    pub(super) fn place_freed(&self, replica: &Replica) {
        wake(self.limits.pending.freed(|| {
            let concurrency = self.view.load().policy.concurrency;
            if self.inflight.read() >= concurrency.of_service() {
                return Freed::Nothing;
            }
            match concurrency.max_per_service {
                0 if replica.counts().inflight() >= replica.limit(&concurrency) => Freed::Nothing,
                0 => Freed::At(replica.number()),
                // What was in the way may have been the service's own limit, wherever there is room.
                _ => Freed::Anywhere,
            }
        }));
    }

    /// Another view is in force: calls those who wait to as many places as it has, and all of them when there is nothing
    /// more to wait for.
    pub(super) fn places_changed(&self) {
        if self.limits.pending.length() == 0 {
            return;
        }
        let view = self.view.load();
        let concurrency = &view.policy.concurrency;
        let inflight = self.inflight.read();
        let free = if view.is_limited && view.has_closed() {
            let of_replicas = view.free_places();
            of_replicas.min(concurrency.of_service().saturating_sub(inflight))
        } else {
            u64::MAX
        };
        self.offer(free);
    }

    /// So many places more.
    pub(super) fn offer(&self, places: u64) {
        if places > 0 {
            let places = usize::try_from(places).unwrap_or(usize::MAX);
            self.limits.pending.freed_many(places).into_iter().for_each(Waker::wake);
        }
    }

    /// How many requests wait for a place.
    pub fn pending(&self) -> usize {
        self.limits.pending.length()
    }

    /// How many requests may be in flight now to all of its replicas that are asked, those on standby left out; `None`
    /// without a limit.
    pub fn limit(&self) -> Option<u64> {
        let view = self.view.load();
        let limit = view.limit().min(view.policy.concurrency.of_service());
        (limit < u64::MAX).then_some(limit)
    }

    /// Whether the policy has any limit, so that requests may wait.
    pub fn is_limited(&self) -> bool {
        self.view.load().is_limited
    }

    /// How many requests were refused in that way since the start.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.limits.refusals[refusal as usize].load(Relaxed)
    }

    /// How long requests waited, those included that were refused after it.
    pub fn queue_times(&self) -> Histogram {
        self.limits.queue_times.read()
    }
}

/// A request that waits for a place. Dropped, it waits no more.
#[derive(Debug)]
pub struct Waiting {
    service: Arc<Service>,
    /// Until it has a place, or needs none.
    ticket: Option<Ticket>,
    entered: Tick,
    until: Tick,
}

impl Waiting {
    /// Until when it may.
    pub fn until(&self) -> Tick {
        self.until
    }

    /// Completes when there may be a place for it, which [`Waiting::pick`] then looks for. Cancel safe: a call is not lost.
    pub fn poll_called(&self, cx: &Context<'_>) -> Poll<()> {
        let is_called = self
            .ticket
            .is_none_or(|ticket| self.service.limits.pending.is_called(ticket, || cx.waker().clone()));
        if is_called { Poll::Ready(()) } else { Poll::Pending }
    }

    /// As [`Service::pick`], in its turn.
    ///
    /// # Errors
    /// [`Unavailable::AllFull`] when it has to wait on, which it may; anything else ends the wait.
    pub fn pick(
        &mut self,
        worker: usize,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
    ) -> Result<Picked, Unavailable> {
        let view = self.service.view.load();
        let picked = if view.is_limited {
            self.service.pick_limited(&view, worker, now, tried, draw, self.ticket)
        } else {
            self.service.pick(worker, now, tried, draw)
        };
        if !matches!(picked, Err(Unavailable::AllFull)) {
            self.leave();
            self.service.limits.queue_times.record(worker, now.since(self.entered));
        }
        picked
    }

    /// It has waited for as long as it may: yields how long it was.
    pub fn give_up(mut self, worker: usize, now: Tick) -> Duration {
        self.leave();
        let waited = now.since(self.entered);
        self.service.limits.queue_times.record(worker, waited);
        waited
    }

    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            wake(self.service.limits.pending.leave(ticket));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave();
    }
}

fn terms(concurrency: &Concurrency, now: Tick) -> Terms {
    Terms {
        max_pending: concurrency.max_pending as usize,
        max_queue_time: concurrency.max_queue_time,
        until: now.plus(concurrency.max_queue_time),
    }
}

fn wake(woken: Option<Waker>) {
    if let Some(waker) = woken {
        waker.wake();
    }
}
