//! Deadlines of leases, by lease id.
//!
//! A renewal touches one entry and neither the writer nor the store, so that heartbeats stay cheap however many
//! replicas there are. Nothing expires here: [`Leases::sweep`] marks what lapsed, and only the writer removes a
//! replica, after the store has. Between the two the lease cannot be renewed any more, so no owner is told "alive"
//! while its replica goes; while the removal is in the store's hands, it cannot be held either, for it may be durable and
//! nobody have heard of that yet.
//!
//! Where control planes share a store, each answers for the leases that it hears of, and the store keeps all of them: a lease
//! that the store keeps lapses when the store says so, whoever renews it, and one that it does not keep yet, or no more,
//! lapses here at its deadline. Renewals go on to the store through the [`Outlet`], beside the answer.
//!
//! Time is an argument everywhere: the table reads no clock.

mod outlet;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use gateway_proto::{LeaseId, ReplicaKey};

pub use self::outlet::{Contact, LeaseTag, Outlet, Renewal};
use crate::registry::Suspect;

/// How often lapsed leases are looked for: what a lease may outlive its time to live by, at most.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// A gap between sweeps from which on this process, not its clients, is taken to have been away: eight sweeps missed,
/// which no load explains, but a paused machine or a stopped process does. For a lease of less than twice this, half
/// its time to live: a longer gap could cost it all its renewals.
pub const STALL: Duration = Duration::from_secs(2);

/// How long others have to say that they heard of the owner, once the store keeps a lease no more.
pub const SECOND_OPINION: Duration = Duration::from_secs(1);

/// As long as the store is told of owners who were heard of, one at least in this time, others that it has dropped wait for their turn.
pub const PROGRESS: Duration = Duration::from_secs(2);

/// And no longer than this for each one that it has dropped: it takes two commits for each, and a store that stood still may have
/// dropped a hundred thousand.
pub const REVIVAL: Duration = Duration::from_millis(20);

/// No time at all, for there is none so late.
const HERE: u64 = u64::MAX;

/// The leases of all replicas that are not permanent.
#[derive(Debug)]
pub struct Leases {
    leases: DashMap<LeaseId, Lease>,
    /// The table's birth, from which `swept` counts.
    born: Instant,
    /// Nanoseconds from `born` to the last sweep. Atomic, because renewals compare with it without a lock.
    swept: AtomicU64,
    /// Set where control planes share a store.
    outlet: Option<Outlet>,
    /// Nanoseconds from `born` to when the registry was found to go on elsewhere; [`HERE`]: it does so here.
    left: AtomicU64,
    /// The same of when what others write to the store was found to be unreadable here.
    blind: AtomicU64,
    /// Nanoseconds from `born` to when the store will have been told, at the latest, of all that it has dropped and others heard of.
    revived: AtomicU64,
    /// When it was told of one last, by the last sweep before that; 0: never.
    last_revival: AtomicU64,
}

/// One lease. Times are nanoseconds from the table's birth, which take half the room of an `Instant`.
#[derive(Debug)]
struct Lease {
    key: ReplicaKey,
    /// In nanoseconds.
    ttl: u64,
    renewed: u64,
    deadline: u64,
    /// When a renewal went on to the store last.
    forwarded: u64,
    state: State,
    /// Whether the store keeps it, so that the deadline here does not count.
    is_kept: bool,
    /// Whether the store has kept it and does so no more.
    is_dropped: bool,
}

/// Whether a lease keeps its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Until its deadline.
    Alive,
    /// No more, and a renewal comes too late. It is yet to be judged.
    Lapsed,
    /// It lapsed, and the guard against mass removal keeps the replica: a renewal brings it back.
    Held,
    /// Its replica's removal is in the store's hands.
    Going,
}

/// What is known of a living lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Granted time to live.
    pub ttl: Duration,
    /// When it was granted or renewed last.
    pub renewed: Instant,
    /// Alive while now is before this.
    pub deadline: Instant,
}

/// What a sweep found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sweep {
    /// Leases newly marked as lapsed.
    pub lapsed: usize,
    /// All that have lapsed and are not forgotten, those that are held included.
    pub suspects: usize,
    /// Set when this process was away for that long and leases got one full time to live instead.
    pub stalled_for: Option<Duration>,
}

impl Leases {
    /// An empty table, swept just now.
    pub fn new(now: Instant) -> Self {
        let [swept, revived, last_revival] = [(); 3].map(|()| AtomicU64::new(0));
        let [left, blind] = [(); 2].map(|()| AtomicU64::new(HERE));
        Self { leases: DashMap::new(), born: now, swept, outlet: None, left, blind, revived, last_revival }
    }

    /// An empty table whose renewals go on through the outlet, if there is one.
    pub fn with_outlet(now: Instant, outlet: Option<Outlet>) -> Self {
        Self { outlet, ..Self::new(now) }
    }

    /// Whether a renewal is known to reach the store, where there is a store that has to know: otherwise others may take for
    /// dead whom this process hears.
    pub fn are_in_touch(&self, now: Instant) -> bool {
        !self.have_left() && self.outlet.as_ref().is_none_or(|outlet| outlet.contact().is_fresh(now))
    }

    /// Notes that the registry goes on elsewhere: nobody is renewed here, so that owners go there, and nobody's lease lapses.
    pub fn leave(&self, now: Instant) {
        let _ = self.left.compare_exchange(HERE, self.since_birth(now), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes that what others write to the store cannot be read here: what is known gets old, and renewals go on.
    pub fn lose_sight(&self, now: Instant) {
        let _ =
            self.blind.compare_exchange(HERE, self.since_birth(now), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes that it goes on here, as at first, and is read. Each lease has up to one full time to live, for nobody could be heard of.
    pub fn come_back(&self) {
        self.left.store(HERE, Ordering::Relaxed);
        self.blind.store(HERE, Ordering::Relaxed);
    }

    /// Whether it does.
    pub fn have_left(&self) -> bool {
        self.left.load(Ordering::Relaxed) != HERE
    }

    /// How long the store that has to know has given no sign of life, once that is too long to be by chance: what is known here
    /// may be as old. Zero while it does, and where nobody else writes to it. Never zero once the registry goes on elsewhere, or what
    /// others write cannot be read.
    pub fn store_silence(&self, now: Instant) -> Duration {
        let silence = self.outlet.as_ref().map(|outlet| outlet.contact().silence(now)).unwrap_or_default();
        let since = |mark: &AtomicU64| match mark.load(Ordering::Relaxed) {
            HERE => Duration::ZERO,
            began => Duration::from_nanos(self.since_birth(now).saturating_sub(began).max(1)),
        };
        silence.max(since(&self.left)).max(since(&self.blind))
    }

    /// Whether a renewal of this lease is known to reach that store in time: the shorter the lease, the sooner it is not.
    pub fn is_in_touch(&self, lease: LeaseId, now: Instant) -> bool {
        let Some(outlet) = &self.outlet else { return !self.have_left() };
        if self.have_left() {
            return false;
        }
        match self.leases.get(&lease).map(|entry| Duration::from_nanos(entry.ttl)) {
            Some(ttl) => outlet.contact().is_fresh_for(ttl, now),
            None => outlet.contact().is_fresh(now),
        }
    }

    /// Starts a lease. One of the same id begins anew.
    pub fn grant(&self, lease: LeaseId, key: ReplicaKey, ttl: Duration, now: Instant) {
        self.insert(lease, key, ttl, now, State::Alive);
    }

    /// Takes in a lease that was held before this process began. Its owner, too, has one full time to live to be heard of
    /// before it can be given up.
    pub fn grant_held(&self, lease: LeaseId, key: ReplicaKey, ttl: Duration, now: Instant) {
        self.insert(lease, key, ttl, now, State::Held);
    }

    fn insert(&self, lease: LeaseId, key: ReplicaKey, ttl: Duration, now: Instant, state: State) {
        let (ttl, renewed) = (nanos(ttl), self.since_birth(now));
        let deadline = renewed.saturating_add(ttl);
        let (is_kept, is_dropped) = (false, false);
        let lease_of = Lease { key, ttl, renewed, deadline, forwarded: renewed, state, is_kept, is_dropped };
        self.leases.insert(lease, lease_of);
    }

    /// Extends a lease of `key` to one full time to live from `now`. O(1).
    ///
    /// `None`: this lease does not keep that replica alive. It is unknown, belongs to another replica, or has lapsed:
    /// at `now == deadline` it has. One that is held is alive again.
    pub fn renew(&self, lease: LeaseId, key: &ReplicaKey, now: Instant) -> Option<Term> {
        let mut entry = self.leases.get_mut(&lease)?;
        if entry.key != *key {
            return None;
        }
        // After a stall nobody could renew in time, so the first to come after it must not pay for it.
        let now = self.since_birth(now);
        let is_late = !entry.is_kept
            && now >= entry.deadline
            && !is_stall(self.since_sweep(now), entry.ttl)
            && !self.waits_for_its_turn(&entry, now);
        if entry.state == State::Alive && is_late {
            entry.state = State::Lapsed;
        }
        if matches!(entry.state, State::Lapsed | State::Going) {
            return None;
        }
        entry.state = State::Alive;
        entry.renewed = now;
        entry.extend_from(now);
        self.forward(lease, &mut entry, now);
        Some(self.term(&entry))
    }

    /// Has the store hear of a renewal, unless it has a moment ago. What finds no room is made up for by the next renewal.
    fn forward(&self, lease: LeaseId, entry: &mut Lease, now: u64) {
        let Some(outlet) = &self.outlet else { return };
        if entry.is_kept && now < entry.forwarded.saturating_add(entry.ttl / 8) {
            return;
        }
        let renewal = Renewal {
            key: entry.key.clone(),
            lease,
            ttl: Duration::from_nanos(entry.ttl),
            heard: self.born + Duration::from_nanos(entry.renewed),
            is_dropped: entry.is_dropped,
        };
        if outlet.send(renewal) {
            entry.forwarded = now;
        }
    }

    /// Notes that the store keeps a lease: somebody was heard of, whatever was thought here.
    pub fn kept(&self, lease: LeaseId) {
        if let Some(mut entry) = self.leases.get_mut(&lease) {
            if entry.is_dropped {
                self.last_revival.fetch_max(self.swept.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            entry.is_kept_from_now_on();
        }
    }

    /// Notes that the store keeps a lease no more. If its owner was heard of here within its time to live, the store is told so;
    /// otherwise others have a moment to do that before it lapses.
    pub fn dropped(&self, lease: LeaseId, now: Instant) {
        let now = self.since_birth(now);
        let Some(mut entry) = self.leases.get_mut(&lease).filter(|entry| entry.is_kept) else { return };
        (entry.is_kept, entry.is_dropped) = (false, true);
        let heard_until = entry.renewed.saturating_add(entry.ttl);
        if now < heard_until && entry.state == State::Alive {
            self.forward(lease, &mut entry, now);
        }
        let ttl = entry.ttl;
        let stall = if is_stall(self.since_sweep(now), ttl) { ttl } else { 0 };
        // A sweep may have noticed before us that nobody could be heard of, and have given it more time.
        let granted = entry.deadline.max(heard_until).max(now.saturating_add(stall));
        entry.deadline = granted.max(now.saturating_add(nanos(SECOND_OPINION)));
        self.one_more_is_dropped(now);
    }

    fn one_more_is_dropped(&self, now: u64) {
        let one_more = |revived: u64| Some(revived.max(now).saturating_add(nanos(REVIVAL)));
        let _ = self.revived.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    }

    /// Whether the store is still being told of owners who were heard of, so that this one's may be among those who wait for that.
    fn waits_for_its_turn(&self, lease: &Lease, now: u64) -> bool {
        let last_revival = self.last_revival.load(Ordering::Relaxed);
        lease.is_dropped
            && last_revival > 0
            && now.saturating_sub(last_revival) < nanos(PROGRESS)
            && now < self.revived.load(Ordering::Relaxed)
    }

    /// Puts what the store turned out to keep in the place of what was believed. With `is_anew`, because nobody could be heard
    /// of meanwhile: then each lease that the store does not keep has one full time to live from `now`.
    pub fn compare(&self, kept: &HashSet<LeaseId>, is_anew: bool, now: Instant) {
        let at = self.since_birth(now);
        let mut dropped = Vec::new();
        for mut entry in self.leases.iter_mut() {
            let is_kept = kept.contains(entry.key());
            if is_kept {
                entry.is_kept_from_now_on();
            } else if is_anew {
                entry.is_dropped |= std::mem::take(&mut entry.is_kept);
                if entry.state != State::Held {
                    entry.state = State::Alive;
                }
                entry.extend_from(at);
                self.one_more_is_dropped(at);
            } else if entry.is_kept {
                dropped.push(*entry.key());
            }
        }
        dropped.into_iter().for_each(|lease| self.dropped(lease, now));
    }

    /// What is known of a lease; `None` when it is unknown or has lapsed.
    pub fn get(&self, lease: LeaseId) -> Option<Term> {
        self.leases.get(&lease).filter(|entry| entry.state == State::Alive).map(|entry| self.term(&entry))
    }

    /// Holds a lease that has lapsed. Yields whether it is held now: not one that was given up.
    pub fn hold(&self, lease: LeaseId) -> bool {
        self.step(lease, State::Held, |lease| lease.state == State::Lapsed)
    }

    /// Gives up a lease that has lapsed or is held: to be called before the store is asked to remove its replica. Yields
    /// whether it is given up now: not if it was renewed meanwhile, or is forgotten.
    pub fn give_up(&self, lease: LeaseId) -> bool {
        self.step(lease, State::Going, |lease| matches!(lease.state, State::Lapsed | State::Held))
    }

    /// As [`Leases::give_up`], for its owner's silence alone: not while one that is held is excused. The judgement may be older than
    /// a stall, over which nobody could be heard of.
    pub fn expire(&self, lease: LeaseId, now: Instant) -> bool {
        let now = self.since_birth(now);
        self.step(lease, State::Going, |lease| match lease.state {
            State::Lapsed => true,
            State::Held => !lease.is_excused(now) && !is_stall(self.since_sweep(now), lease.ttl),
            State::Alive | State::Going => false,
        })
    }

    /// Takes back what was given up and not forgotten: to be called once the store has been read again after a failure,
    /// so that what is still there is known to stay.
    pub fn take_back(&self) {
        for mut entry in self.leases.iter_mut().filter(|entry| entry.state == State::Going) {
            entry.state = State::Lapsed;
        }
    }

    /// Brings a lease to another state if it may go there. Yields whether it is in it now.
    fn step(&self, lease: LeaseId, to: State, may: impl FnOnce(&Lease) -> bool) -> bool {
        let Some(mut entry) = self.leases.get_mut(&lease) else { return false };
        if may(&entry) {
            entry.state = to;
        }
        entry.state == to
    }

    /// Drops a lease that guards nothing any more.
    pub fn forget(&self, lease: LeaseId) {
        self.leases.remove(&lease);
    }

    /// Marks every lease whose deadline has come. To be called every [`SWEEP_INTERVAL`].
    ///
    /// When far more time has passed since the last call, this process stood still and heard nobody: then leases
    /// get one full time to live from `now`, see [`STALL`].
    pub fn sweep(&self, now: Instant) -> Sweep {
        let now = self.since_birth(now);
        let gap = self.since_sweep(now);
        let at = self.born + Duration::from_nanos(now);
        let has_left = self.have_left();
        let is_cut_off = |ttl| {
            let is_fresh = |outlet: &Outlet| outlet.contact().is_fresh_for(Duration::from_nanos(ttl), at);
            has_left || self.outlet.as_ref().is_some_and(|outlet| !is_fresh(outlet))
        };
        let mut sweep = Sweep::default();
        for mut entry in self.leases.iter_mut() {
            if entry.state != State::Alive {
                sweep.suspects += 1;
            }
            if matches!(entry.state, State::Lapsed | State::Going) {
                // Nothing brings it back.
            } else if is_stall(gap, entry.ttl) {
                entry.extend_from(now);
                sweep.stalled_for = Some(Duration::from_nanos(gap));
            } else if is_cut_off(entry.ttl) {
                // Their owners are turned away meanwhile.
                entry.extend_from(now);
            } else if entry.is_kept {
                // The store says when it lapses.
            } else if entry.state == State::Held {
                // It waits for its owner, or for the guard's word.
            } else if now >= entry.deadline && !self.waits_for_its_turn(&entry, now) {
                entry.state = State::Lapsed;
                sweep.lapsed += 1;
                sweep.suspects += 1;
            }
        }
        // Last: a renewal of a lease that this sweep has yet to come to must still see the gap.
        self.swept.store(now, Ordering::Relaxed);
        sweep
    }

    /// All leases that have lapsed and are not forgotten, those that are held included: what is to be judged.
    pub fn suspects(&self, now: Instant) -> Vec<Suspect> {
        let suspects = self.leases.iter().filter(|entry| entry.state != State::Alive);
        let suspects = suspects.map(|entry| Suspect {
            key: entry.key.clone(),
            lease: *entry.key(),
            ttl: Duration::from_nanos(entry.ttl),
            silent_for: now.saturating_duration_since(self.born + Duration::from_nanos(entry.renewed)),
            is_excused: entry.is_excused(self.since_birth(now)),
        });
        suspects.collect()
    }

    fn since_birth(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.born))
    }

    fn since_sweep(&self, now: u64) -> u64 {
        now.saturating_sub(self.swept.load(Ordering::Relaxed))
    }

    fn term(&self, lease: &Lease) -> Term {
        Term {
            ttl: Duration::from_nanos(lease.ttl),
            renewed: self.born + Duration::from_nanos(lease.renewed),
            deadline: self.born + Duration::from_nanos(lease.deadline),
        }
    }
}

/// Enough for 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn is_stall(gap: u64, ttl: u64) -> bool {
    gap >= nanos(STALL).min(ttl / 2)
}

impl Lease {
    fn is_kept_from_now_on(&mut self) {
        (self.is_kept, self.is_dropped, self.state) = (true, false, State::Alive);
    }

    /// Whether it is held, and its owner may still be heard of in time.
    fn is_excused(&self, now: u64) -> bool {
        self.state == State::Held && now < self.deadline
    }

    /// Never brings the deadline forward: a renewal that read the clock before a stall may come after it.
    fn extend_from(&mut self, now: u64) {
        self.deadline = self.deadline.max(now.saturating_add(self.ttl));
    }
}

#[cfg(test)]
mod tests;
