//! When each lease was last kept alive, as its owner could know it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use control_plane::{
    leases::SWEEP_INTERVAL,
    registry::{LeaseTerms, View},
};
use gateway_proto::{LeaseId, ReplicaKey};

use super::{Checked, Ledger, claim};
use crate::env::{SECOND, nanos};

/// A silence of the sweeps from which on no lease pays for it, however long it lasts otherwise.
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// A commit, and the wait for the one before, take less than this.
const COMMIT: Duration = SECOND;

/// All leases that are in force.
#[derive(Default)]
pub(super) struct LeaseBook {
    leases: BTreeMap<ReplicaKey, Entry>,
    swept: u64,
    /// Whatever is late before this is late for a reason that is no lease's.
    excused: u64,
}

struct Entry {
    terms: LeaseTerms,
    /// Granted, renewed, or excused last.
    kept: u64,
    /// A heartbeat has come in time and was not looked at, because the control plane stood still for long.
    waits: bool,
    /// It has ended, and only its replica's removal is still due.
    lapsed: bool,
    /// It has ended, and the guard keeps its replica until it is heard of again.
    held: bool,
    /// Its replica's removal is in the store's hands since then.
    given_up: Option<u64>,
    /// Renewed first after it was held.
    heard: u64,
}

impl LeaseBook {
    pub(super) fn restarted(&mut self, now: u64) {
        *self = Self { swept: now, excused: now, ..Self::default() };
    }

    pub(super) fn took_effect(&mut self, now: u64, view: &View) {
        let mut before = std::mem::take(&mut self.leases);
        for record in view.replicas() {
            let Some(terms) = record.lease else { continue };
            let known = before.remove(&record.key).filter(|entry| entry.terms == terms);
            let held = record.lost.is_some();
            // Who was lost before this process began was silent for all of its time by then.
            let kept = if held { 0 } else { now };
            let new = Entry { terms, kept, waits: false, lapsed: held, held, given_up: None, heard: now };
            let entry = known.unwrap_or(new);
            self.leases.insert(record.key.clone(), entry);
        }
    }

    /// A lease expires only after nothing was heard for all of its time, and not because the control plane stood still
    /// for more than half of it.
    pub(super) fn only_silence_ends_a_lease(&self, now: u64, key: &ReplicaKey) -> Checked {
        let Some(entry) = self.leases.get(key) else { return Ok(()) };
        let was_silent = now >= entry.kept + nanos(entry.terms.ttl()) && !entry.waits;
        claim("only_silence_ends_a_lease", was_silent, || {
            let silent = Duration::from_nanos(now - entry.kept);
            format!("{key} {:?}: silent for {silent:?}, a heartbeat waits: {}", entry.terms, entry.waits)
        })
    }

    /// A lost replica's address goes to another only while nothing is heard of its owner.
    pub(super) fn only_the_silent_lose_their_place(&self, key: &ReplicaKey) -> Checked {
        let Some(entry) = self.leases.get(key) else { return Ok(()) };
        claim("only_the_silent_lose_their_place", entry.held || entry.lapsed, || {
            format!("the owner of {key} had renewed its lease")
        })
    }
}

impl Ledger {
    /// A heartbeat arrives at a control plane that stands still, for `pause` in all.
    pub(crate) fn heartbeat_waits(&mut self, now: u64, pause: u64, key: &ReplicaKey, lease: LeaseId) {
        if let Some(entry) = self.leases.leases.get_mut(key).filter(|entry| entry.terms.id == lease) {
            let ttl = nanos(entry.terms.ttl());
            entry.waits |= pause >= ttl / 2 + nanos(SWEEP_INTERVAL) && now < entry.kept + ttl;
        }
    }

    /// The guard keeps the replica of a lease that has ended: not while its removal may be durable.
    pub(crate) fn held(&mut self, key: &ReplicaKey, lease: LeaseId) -> Checked {
        let Some(entry) = self.leases.leases.get_mut(key).filter(|entry| entry.terms.id == lease) else {
            return Ok(());
        };
        entry.held = true;
        claim("what_is_given_up_is_not_held", entry.given_up.is_none(), || format!("{key} was being removed"))
    }

    /// The store was read again: what is there stays.
    pub(crate) fn taken_back(&mut self) {
        self.leases.leases.values_mut().for_each(|entry| entry.given_up = None);
    }

    /// The store is asked to remove its replica.
    pub(crate) fn given_up(&mut self, now: u64, key: &ReplicaKey, lease: LeaseId) {
        if let Some(entry) = self.leases.leases.get_mut(key).filter(|entry| entry.terms.id == lease) {
            (entry.held, entry.given_up) = (false, Some(now));
        }
    }

    /// The control plane runs, and has not since `paused_until`.
    pub(crate) fn awake(&mut self, now: u64, paused_until: u64) {
        self.leases.excused = self.leases.excused.max(paused_until.min(now));
    }

    pub(crate) fn store_failed(&mut self, now: u64) {
        self.leases.excused = self.leases.excused.max(now);
    }

    /// The control plane has answered a heartbeat for a replica whose lease is `holder`.
    pub(crate) fn heard(
        &mut self,
        now: u64,
        key: &ReplicaKey,
        lease: LeaseId,
        renewed: bool,
        holder: Option<LeaseTerms>,
    ) -> Checked {
        let is_holder = holder.is_some_and(|terms| terms.id == lease);
        claim("a_stale_lease_renews_nothing", !renewed || is_holder, || {
            format!("{lease:?} renewed {key}, whose lease is {holder:?}")
        })?;
        let Some(entry) = self.leases.leases.get_mut(key).filter(|_| is_holder) else { return Ok(()) };
        claim("an_ended_lease_never_comes_back", !renewed || !entry.lapsed || entry.held, || {
            format!("the lease of {key} had ended")
        })?;
        claim("a_held_lease_is_renewed_whenever_its_owner_is_heard_of", renewed || !entry.held, || {
            format!("the lease of {key} is held")
        })?;
        let ttl = entry.terms.ttl();
        let in_time = now < entry.kept + nanos(ttl);
        let silence = Duration::from_nanos(now - entry.kept);
        let is_excused = now - self.leases.swept >= nanos(LONG_PAUSE.min(ttl / 2));
        claim("a_heartbeat_in_time_keeps_a_lease_alive", renewed || !in_time, || {
            format!("{key} was refused after {silence:?} of {ttl:?}")
        })?;
        let may = in_time || is_excused || entry.held;
        claim("a_heartbeat_too_late_keeps_nothing_alive", !renewed || may, || {
            format!("{key} was renewed after {silence:?} of {ttl:?}")
        })?;
        if renewed {
            if entry.held {
                entry.heard = now;
            }
            (entry.kept, entry.waits) = (now, false);
            (entry.lapsed, entry.held) = (false, false);
        } else {
            entry.lapsed = true;
        }
        Ok(())
    }

    /// The control plane has looked for lapsed leases. After a pause it renews those that it could not hear in time.
    pub(crate) fn swept(&mut self, now: u64) {
        let gap = now - self.leases.swept;
        self.leases.swept = now;
        for entry in self.leases.leases.values_mut().filter(|entry| !entry.lapsed || entry.held) {
            let ttl = entry.terms.ttl();
            if gap >= nanos(LONG_PAUSE.min(ttl / 2)) {
                (entry.kept, entry.waits) = (now, false);
            } else if !entry.held {
                entry.lapsed = now >= entry.kept + nanos(ttl);
            }
        }
    }

    /// A lease that nobody renews is gone, or held, after its time and one sweep; after a restart, a pause or a failing
    /// store, that much later. A replica that is lost is found as soon after its lease was renewed.
    pub(crate) fn no_lease_outlives_its_time(&self, now: u64, view: &View) -> Checked {
        for record in view.replicas() {
            let Some(entry) = self.leases.leases.get(&record.key) else { continue };
            if entry.held {
                continue;
            }
            if record.lost.is_some() && !entry.lapsed {
                let due = entry.heard.max(self.leases.excused);
                claim(
                    "a_lost_replica_that_renews_is_found",
                    now <= due + nanos(SWEEP_INTERVAL + COMMIT),
                    || {
                        format!(
                            "{} renewed its lease {:?} ago",
                            record.key,
                            Duration::from_nanos(now - entry.heard)
                        )
                    },
                )?;
            }
            let due = (entry.kept + nanos(entry.terms.ttl())).max(self.leases.excused);
            // One that was held is due from then on.
            let due = due.max(entry.given_up.unwrap_or(0));
            claim("no_lease_outlives_its_time", now <= due + nanos(SWEEP_INTERVAL + COMMIT), || {
                let late = Duration::from_nanos(now - due);
                format!("{} {:?} should have gone {late:?} ago", record.key, entry.terms)
            })?;
        }
        Ok(())
    }

    /// Overrides and drains end at their time, give or take what leases are given.
    pub(crate) fn what_has_an_end_ends(&self, now: u64, wall: SystemTime, view: &View) -> Checked {
        let grace =
            Duration::from_nanos(now.saturating_sub(self.leases.excused)).min(SWEEP_INTERVAL + COMMIT);
        if grace < SWEEP_INTERVAL + COMMIT {
            return Ok(());
        }
        let is_late = |end: SystemTime| wall.duration_since(end).is_ok_and(|late| late > grace);
        let entry = view.overrides().find(|entry| is_late(entry.expires_at));
        claim("no_override_outlives_its_time", entry.is_none(), || format!("{entry:?}"))?;
        let drain = view.drains().filter_map(|record| record.drain.as_deref());
        let drain = drain.filter(|drain| !drain.is_over).find(|drain| is_late(drain.deadline));
        claim("no_drain_outlives_its_deadline", drain.is_none(), || format!("{drain:?}"))
    }
}
