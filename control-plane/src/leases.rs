//! Deadlines of leases, by lease id.
//!
//! A renewal touches one entry and neither the writer nor the store, so that heartbeats stay cheap however many
//! replicas there are. Nothing expires here: [`Leases::sweep`] marks what lapsed, and only the writer removes a
//! replica, after the store has. Between the two the lease cannot be renewed any more, so no owner is told "alive"
//! while its replica goes; while the removal is in the store's hands, it cannot be held either, for it may be durable and
//! nobody have heard of that yet.
//!
//! Time is an argument everywhere: the table reads no clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use gateway_proto::{LeaseId, ReplicaKey};

use crate::registry::Suspect;

/// How often lapsed leases are looked for: what a lease may outlive its time to live by, at most.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// A gap between sweeps from which on this process, not its clients, is taken to have been away: eight sweeps missed,
/// which no load explains, but a paused machine or a stopped process does. For a lease of less than twice this, half
/// its time to live: a longer gap could cost it all its renewals.
pub const STALL: Duration = Duration::from_secs(2);

/// The leases of all replicas that are not permanent.
#[derive(Debug)]
pub struct Leases {
    leases: DashMap<LeaseId, Lease>,
    /// The table's birth, from which `swept` counts.
    born: Instant,
    /// Nanoseconds from `born` to the last sweep. Atomic, because renewals compare with it without a lock.
    swept: AtomicU64,
}

/// One lease. Times are nanoseconds from the table's birth, which take half the room of an `Instant`.
#[derive(Debug)]
struct Lease {
    key: ReplicaKey,
    /// In nanoseconds.
    ttl: u64,
    renewed: u64,
    deadline: u64,
    state: State,
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
        Self { leases: DashMap::new(), born: now, swept: AtomicU64::new(0) }
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
        self.leases.insert(lease, Lease { key, ttl, renewed, deadline, state });
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
        let is_late = now >= entry.deadline && !is_stall(self.since_sweep(now), entry.ttl);
        if entry.state == State::Alive && is_late {
            entry.state = State::Lapsed;
        }
        if matches!(entry.state, State::Lapsed | State::Going) {
            return None;
        }
        entry.state = State::Alive;
        entry.renewed = now;
        entry.extend_from(now);
        Some(self.term(&entry))
    }

    /// What is known of a lease; `None` when it is unknown or has lapsed.
    pub fn get(&self, lease: LeaseId) -> Option<Term> {
        self.leases.get(&lease).filter(|entry| entry.state == State::Alive).map(|entry| self.term(&entry))
    }

    /// Holds a lease that has lapsed. Yields whether it is held now: not one that was given up.
    pub fn hold(&self, lease: LeaseId) -> bool {
        self.step(lease, &[State::Lapsed], State::Held)
    }

    /// Gives up a lease that has lapsed or is held: to be called before the store is asked to remove its replica. Yields
    /// whether it is given up now: not if it was renewed meanwhile, or is forgotten.
    pub fn give_up(&self, lease: LeaseId) -> bool {
        self.step(lease, &[State::Lapsed, State::Held], State::Going)
    }

    /// As [`Leases::give_up`], to expire the lease on an earlier judgement: not while one that is held is excused. The
    /// judgement may be older than a stall, over which nobody could be heard of.
    pub fn expire(&self, lease: LeaseId, now: Instant) -> bool {
        let now = self.since_birth(now);
        let Some(mut entry) = self.leases.get_mut(&lease) else { return false };
        let is_stalled = is_stall(self.since_sweep(now), entry.ttl);
        if entry.state == State::Lapsed || entry.state == State::Held && now >= entry.deadline && !is_stalled
        {
            entry.state = State::Going;
        }
        entry.state == State::Going
    }

    /// Takes back what was given up and not forgotten: to be called once the store has been read again after a failure,
    /// so that what is still there is known to stay.
    pub fn take_back(&self) {
        for mut entry in self.leases.iter_mut().filter(|entry| entry.state == State::Going) {
            entry.state = State::Lapsed;
        }
    }

    fn step(&self, lease: LeaseId, from: &[State], to: State) -> bool {
        let Some(mut entry) = self.leases.get_mut(&lease) else { return false };
        if from.contains(&entry.state) {
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
            } else if entry.state == State::Held {
                // It waits for its owner, or for the guard's word.
            } else if now >= entry.deadline {
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
            is_excused: entry.state == State::Held && self.since_birth(now) < entry.deadline,
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
    /// Never brings the deadline forward: a renewal that read the clock before a stall may come after it.
    fn extend_from(&mut self, now: u64) {
        self.deadline = self.deadline.max(now.saturating_add(self.ttl));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const TTL: Duration = Duration::from_secs(15);
    const MS: Duration = Duration::from_millis(1);
    const ID: LeaseId = LeaseId::from_random(1);

    fn key() -> ReplicaKey {
        ReplicaKey::parse("orders", "r-1").unwrap()
    }

    /// A table with one lease, and the moment it was granted.
    fn granted() -> (Leases, Instant) {
        let start = Instant::now();
        let leases = Leases::new(start);
        leases.grant(ID, key(), TTL, start);
        (leases, start)
    }

    /// Sweeps at the usual pace up to `end`.
    fn sweep_until(leases: &Leases, start: Instant, end: Instant) -> usize {
        let mut now = start;
        let mut lapsed = 0;
        while now < end {
            now = (now + SWEEP_INTERVAL).min(end);
            lapsed += leases.sweep(now).lapsed;
        }
        lapsed
    }

    #[test]
    fn a_lease_lives_until_its_deadline_and_not_at_it() {
        let (leases, start) = granted();
        assert_eq!(sweep_until(&leases, start, start + TTL - MS), 0);
        assert_eq!(leases.sweep(start + TTL).lapsed, 1);
        let expected = Suspect { key: key(), lease: ID, ttl: TTL, silent_for: TTL, is_excused: false };
        assert_eq!(leases.suspects(start + TTL), [expected]);
    }

    #[test]
    fn a_renewal_gives_one_full_time_to_live_from_then() {
        let (leases, start) = granted();
        let later = start + TTL - MS;
        sweep_until(&leases, start, later);
        let term = leases.renew(ID, &key(), later).unwrap();
        assert_eq!(term, Term { ttl: TTL, renewed: later, deadline: later + TTL });
        assert_eq!(sweep_until(&leases, later, later + TTL - MS), 0);
        assert_eq!(leases.sweep(later + TTL).lapsed, 1);
    }

    #[test]
    fn a_renewal_at_the_deadline_comes_too_late_even_before_the_sweep() {
        let (leases, start) = granted();
        sweep_until(&leases, start, start + TTL - MS);
        assert_eq!(leases.renew(ID, &key(), start + TTL), None);
        assert_eq!(leases.suspects(start + TTL).len(), 1);
    }

    #[test]
    fn a_lapsed_lease_never_comes_back() {
        let (leases, start) = granted();
        sweep_until(&leases, start, start + TTL);
        assert_eq!(leases.renew(ID, &key(), start + TTL), None);
        assert_eq!(leases.get(ID), None);
        // A stall later does not revive it either.
        leases.sweep(start + 10 * TTL);
        assert_eq!(leases.renew(ID, &key(), start + 10 * TTL), None);
        leases.forget(ID);
        assert_eq!(leases.suspects(start + 10 * TTL), []);
    }

    #[test]
    fn a_lease_renews_only_the_replica_it_was_granted_for() {
        let (leases, start) = granted();
        let other = ReplicaKey::parse("orders", "r-2").unwrap();
        assert_eq!(leases.renew(ID, &other, start), None);
        assert_eq!(leases.renew(LeaseId::from_random(2), &key(), start), None);
        assert!(leases.renew(ID, &key(), start).is_some());
    }

    #[test]
    fn after_a_stall_every_lease_gets_one_full_time_to_live() {
        let (leases, start) = granted();
        let woken = start + 3 * TTL;
        let sweep = leases.sweep(woken);
        assert_eq!(sweep, Sweep { lapsed: 0, suspects: 0, stalled_for: Some(3 * TTL) });
        assert_eq!(sweep_until(&leases, woken, woken + TTL - MS), 0);
        assert_eq!(leases.sweep(woken + TTL).lapsed, 1);
    }

    #[test]
    fn a_stall_of_half_a_short_time_to_live_is_long_enough_to_be_excused() {
        let start = Instant::now();
        let leases = Leases::new(start);
        let second = Duration::from_secs(1);
        leases.grant(ID, key(), second, start);
        sweep_until(&leases, start, start + second / 2);
        let woken = start + second + MS;
        assert_eq!(leases.sweep(woken).lapsed, 0);
        assert_eq!(sweep_until(&leases, woken, woken + second), 1);
    }

    #[test]
    fn a_renewal_that_comes_between_a_stall_and_its_first_sweep_is_taken() {
        let (leases, start) = granted();
        assert!(leases.renew(ID, &key(), start + 3 * TTL).is_some());
    }

    #[test]
    fn no_renewal_that_crosses_the_first_sweep_after_a_stall_is_refused() {
        let start = Instant::now();
        let leases = Leases::new(start);
        let ids = || (0..5000).map(LeaseId::from_random);
        ids().for_each(|id| leases.grant(id, key(), TTL, start));
        let both = Barrier::new(2);
        let wakings = || (1..=40).map(|round| start + round * 3 * TTL);
        let refused: usize = std::thread::scope(|scope| {
            let renewals = scope.spawn(|| {
                let renew_all = |now| {
                    both.wait();
                    ids().filter(|id| leases.renew(*id, &key(), now).is_none()).count()
                };
                wakings().map(renew_all).sum()
            });
            for now in wakings() {
                both.wait();
                leases.sweep(now);
            }
            renewals.join().unwrap()
        });
        assert_eq!(refused, 0);
    }

    #[test]
    fn a_renewal_never_brings_a_deadline_forward() {
        let (leases, start) = granted();
        let woken = start + 3 * TTL;
        leases.sweep(woken);
        // This one was on its way before the stall.
        let term = leases.renew(ID, &key(), start + MS).unwrap();
        assert_eq!(term, Term { ttl: TTL, renewed: start + MS, deadline: woken + TTL });
    }

    #[test]
    fn a_held_lease_comes_back_with_a_renewal_and_one_that_is_given_up_does_not() {
        let (leases, start) = granted();
        assert!(!leases.hold(ID), "it is alive");
        sweep_until(&leases, start, start + TTL);
        assert!(leases.hold(ID) && leases.hold(ID));
        assert_eq!((leases.get(ID), leases.sweep(start + TTL).suspects), (None, 1));
        let later = start + TTL + MS;
        assert_eq!(leases.renew(ID, &key(), later).map(|term| term.deadline), Some(later + TTL));
        assert_eq!((leases.suspects(later), leases.give_up(ID)), (vec![], false));
        sweep_until(&leases, later, later + TTL);
        assert!(leases.hold(ID) && leases.give_up(ID));
        assert_eq!(leases.renew(ID, &key(), later + TTL), None);
    }

    #[test]
    fn a_lease_that_was_given_up_is_neither_held_nor_renewed_until_it_is_known_what_became_of_it() {
        let (leases, start) = granted();
        assert!(!leases.give_up(ID), "it is alive");
        sweep_until(&leases, start, start + TTL);
        assert!(leases.give_up(ID) && leases.give_up(ID));
        assert!(!leases.hold(ID), "its replica may be gone already");
        leases.sweep(start + 10 * TTL);
        assert_eq!((leases.renew(ID, &key(), start + TTL), leases.get(ID)), (None, None));
        leases.take_back();
        assert_eq!((leases.renew(ID, &key(), start + TTL), leases.hold(ID)), (None, true));
        assert!(leases.give_up(ID), "one that is held, too");
        leases.forget(ID);
        leases.take_back();
        assert!(!leases.give_up(ID) && !leases.hold(ID));
    }

    #[test]
    fn a_held_lease_that_was_to_expire_before_a_stall_is_given_one_more_time_to_live() {
        let (leases, start) = granted();
        sweep_until(&leases, start, start + TTL);
        assert!(leases.hold(ID));
        let woken = start + 3 * TTL;
        assert!(!leases.expire(ID, woken), "nobody was heard of, whether or not a sweep has noticed");
        leases.sweep(woken);
        assert!(!leases.expire(ID, woken));
        sweep_until(&leases, woken, woken + TTL);
        assert!(leases.expire(ID, woken + TTL) && leases.expire(ID, woken + TTL));
        assert_eq!(leases.renew(ID, &key(), woken + TTL), None);
    }

    #[test]
    fn a_lapsed_lease_expires_whether_or_not_this_process_stood_still_and_one_that_lives_does_not() {
        let (leases, start) = granted();
        assert!(!leases.expire(ID, start), "it is alive");
        sweep_until(&leases, start, start + TTL);
        assert!(leases.expire(ID, start + 3 * TTL));
        leases.forget(ID);
        assert!(!leases.expire(ID, start + 3 * TTL));
    }

    #[test]
    fn a_lease_that_was_held_before_the_start_waits_for_its_owner() {
        let start = Instant::now();
        let leases = Leases::new(start);
        leases.grant_held(ID, key(), TTL, start);
        let excused = |at| leases.suspects(at)[0].is_excused;
        sweep_until(&leases, start, start + TTL);
        assert_eq!((leases.sweep(start + TTL).suspects, leases.get(ID)), (1, None));
        assert!(excused(start + TTL - MS) && !excused(start + TTL));
        // A stall gives it as long again.
        leases.sweep(start + 3 * TTL);
        assert!(excused(start + 4 * TTL - MS) && !excused(start + 4 * TTL));
        assert!(leases.renew(ID, &key(), start + 5 * TTL).is_some());
    }
}
