//! What the control plane has already been told, so that only differences are sent. Pure.

use std::{collections::HashMap, time::SystemTime};

use gateway_proto::{NodeId, ReplicaKey, v1};

use super::rows::{self, Measured};
use crate::{
    routing::{Tick, View},
    table::{Backlog, Replica, ReplicaCounters, Service, Services, SideBySide},
};

/// Remembers what was last sent of each replica of the table, and nothing of others.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    told: HashMap<ReplicaKey, Told>,
    /// Numbers the walks over the table: what the last one did not see is gone.
    walk: u64,
}

#[derive(Debug)]
struct Told {
    what: Fingerprint,
    walk: u64,
}

/// All that a row is made of, except for what never changes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    view: View,
    counters: ReplicaCounters,
    asked_regardless: bool,
    limit: Option<u64>,
    pending: usize,
    checks: u64,
    stands_by: bool,
    port_checked: bool,
    nobody_else: bool,
    slow_start: Option<u64>,
    backlog: Option<Backlog>,
    incarnation: i64,
    /// Of what an operator has decided for it; 0 when nobody has.
    override_revision: i64,
}

impl Ledger {
    /// The rows of everything in the table that changed since it was last told.
    pub(super) fn walk(
        &mut self,
        node_id: &NodeId,
        services: &Services,
        now: Tick,
        date: impl Fn(Tick) -> SystemTime,
    ) -> Vec<v1::Breaker> {
        self.walk += 1;
        let mut changed = Vec::new();
        for service in services.values() {
            let beside = service.side_by_side(now);
            for replica in service.replicas().iter() {
                self.look(node_id, (service, &beside), replica, now, &date, &mut changed);
            }
        }
        let walk = self.walk;
        self.told.retain(|_, told| told.walk == walk);
        changed
    }

    /// Whether nothing is in flight any more at a replica of which something else was told last.
    pub(super) fn has_become_idle(&self, key: &ReplicaKey, services: &Services) -> bool {
        let was_busy = self.told.get(key).is_some_and(|told| told.what.counters.inflight > 0);
        was_busy
            && services
                .get(&key.service)
                .and_then(|service| service.replica(&key.replica))
                .is_some_and(|replica| replica.counters().inflight == 0)
    }

    /// The rows of the named replicas only, if they changed; those that are gone are left out.
    pub(super) fn look_at<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a ReplicaKey>,
        node_id: &NodeId,
        services: &Services,
        now: Tick,
        date: impl Fn(Tick) -> SystemTime,
    ) -> Vec<v1::Breaker> {
        let mut changed = Vec::new();
        // Many replicas of one service may trip at once.
        let mut looked_at = HashMap::new();
        for key in keys {
            let Some(service) = services.get(&key.service) else { continue };
            if let Some(replica) = service.replica(&key.replica) {
                let beside = looked_at.entry(&key.service).or_insert_with(|| service.side_by_side(now));
                self.look(node_id, (service, beside), &replica, now, &date, &mut changed);
            }
        }
        changed
    }

    fn look(
        &mut self,
        node_id: &NodeId,
        (service, beside): (&Service, &SideBySide),
        replica: &Replica,
        now: Tick,
        date: impl Fn(Tick) -> SystemTime,
        changed: &mut Vec<v1::Breaker>,
    ) {
        let measured = Measured::of(service, replica, beside, now);
        let what = Fingerprint {
            view: measured.view,
            counters: measured.counters,
            asked_regardless: measured.asked_regardless,
            limit: measured.limit,
            pending: measured.pending,
            checks: measured.checks,
            stands_by: measured.stands_by,
            port_checked: measured.port_checked,
            nobody_else: measured.nobody_else,
            slow_start: measured.measures.slow_start.map(|(part, _)| part),
            backlog: measured.measures.backlog,
            incarnation: replica.incarnation(),
            override_revision: replica.spec().forced.as_ref().map_or(0, |forced| forced.entry.revision),
        };
        let before = match self.told.get_mut(replica.key()) {
            Some(told) => {
                told.walk = self.walk;
                Some(std::mem::replace(&mut told.what, what))
            }
            None => {
                self.told.insert(replica.key().clone(), Told { what, walk: self.walk });
                None
            }
        };
        if before != Some(what) {
            let mut row = rows::breaker(node_id, replica, &measured, &date);
            if before.is_some_and(|before| before.counters.failures == what.counters.failures) {
                // As told before.
                row.last_failures.clear();
            }
            changed.push(row);
        }
    }
}
