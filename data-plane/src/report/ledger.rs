//! What the control plane has already been told, so that only differences are sent. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use gateway_proto::{NodeId, ReplicaId, ReplicaKey, ServiceName, v1};

use super::rows::{self, Measured};
use crate::{
    routing::{Tick, View},
    table::{Backlog, Replica, ReplicaCounters, Service, Services, SideBySide, Table, Traffic},
};

/// A service at rest is looked at in one of so many walks all the same: a breaker's window loses what is in it as time passes,
/// which nothing tells of.
pub(super) const RESTING: u64 = 10;

/// Remembers what was last sent of each replica of the table, and nothing of others.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    told: HashMap<ServiceName, Told>,
    /// Numbers the walks over the table: what the last one did not see is gone.
    walk: u64,
}

/// What was sent of one service.
#[derive(Debug, Default)]
struct Told {
    replicas: BTreeMap<ReplicaId, Fingerprint>,
    /// What had come to it when all of them were looked at and none had changed; `None`: one had, or something was in flight.
    rest: Option<Traffic>,
    walk: u64,
}

/// Who looks, and when. `date` places ticks on the wall clock.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) node_id: &'a NodeId,
    pub(super) now: Tick,
    pub(super) date: &'a dyn Fn(Tick) -> SystemTime,
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
    /// The rows of everything in the table that changed since it was last told. Services at rest are passed over after one look at
    /// what has come to them, and take turns in being looked at nevertheless.
    pub(super) fn walk(&mut self, services: &Services, look: Look<'_>) -> Vec<v1::Breaker> {
        self.walk += 1;
        let walk = self.walk;
        let mut changed = Vec::new();
        for service in services.values() {
            let is_turn = (service.id() + walk).is_multiple_of(RESTING);
            match self.told.get_mut(service.name()) {
                Some(told) if !is_turn && told.rest == Some(service.activity()) => told.walk = walk,
                _ => self.look_at_all_of(service, look, &mut changed),
            }
        }
        self.told.retain(|_, told| told.walk == walk);
        changed
    }

    /// The rows of these services of the table only, if they changed; those that are gone are forgotten.
    pub(super) fn look_at_services<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a ServiceName>,
        table: &Table,
        look: Look<'_>,
    ) -> Vec<v1::Breaker> {
        let mut changed = Vec::new();
        for name in names {
            match table.service(name.as_str()) {
                Some(service) => self.look_at_all_of(&service, look, &mut changed),
                None => drop(self.told.remove(name)),
            }
        }
        changed
    }

    /// The rows of these replicas of the table only, if they changed; those that are gone are left out.
    pub(super) fn look_at<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a ReplicaKey>,
        table: &Table,
        look: Look<'_>,
    ) -> Vec<v1::Breaker> {
        let mut changed = Vec::new();
        // Many replicas of one service may trip at once.
        let mut looked_at = HashMap::new();
        for key in keys {
            let of_service = looked_at.entry(&key.service).or_insert_with(|| {
                let service = table.service(key.service.as_str())?;
                let beside = service.side_by_side(look.now);
                Some((service, beside))
            });
            let Some((service, beside)) = of_service else { continue };
            if let Some(replica) = service.replica(&key.replica) {
                self.told_of(service).look(service, beside, &replica, look, &mut changed);
            }
        }
        changed
    }

    /// The services of which something was told.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.told.keys()
    }

    /// Whether nothing is in flight any more at a replica of which something else was told last.
    pub(super) fn has_become_idle(&self, key: &ReplicaKey, table: &Table) -> bool {
        let told = self.told.get(&key.service).and_then(|told| told.replicas.get(&key.replica));
        told.is_some_and(|what| what.counters.inflight > 0)
            && table
                .service(key.service.as_str())
                .and_then(|service| service.replica(&key.replica))
                .is_some_and(|replica| replica.counters().inflight == 0)
    }

    fn look_at_all_of(&mut self, service: &Service, look: Look<'_>, changed: &mut Vec<v1::Breaker>) {
        // Read first: what comes meanwhile is a reason to look again.
        let activity = service.activity();
        let (beside, replicas, before) = (service.side_by_side(look.now), service.replicas(), changed.len());
        let told = self.told_of(service);
        for replica in replicas.iter() {
            told.look(service, &beside, replica, look, changed);
        }
        let is_at_rest = changed.len() == before && activity.inflight() == 0 && service.pending() == 0;
        told.rest = is_at_rest.then_some(activity);
        if told.replicas.len() > replicas.len() {
            let has = |id: &ReplicaId| replicas.binary_search_by(|one| one.key().replica.cmp(id)).is_ok();
            told.replicas.retain(|id, _| has(id));
        }
    }

    fn told_of(&mut self, service: &Service) -> &mut Told {
        let told = self.told.entry(service.name().clone()).or_default();
        told.walk = self.walk;
        told
    }
}

impl Told {
    fn look(
        &mut self,
        service: &Service,
        beside: &SideBySide,
        replica: &Replica,
        look: Look<'_>,
        changed: &mut Vec<v1::Breaker>,
    ) {
        let measured = Measured::of(service, replica, beside, look.now);
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
        let id = &replica.key().replica;
        let before = match self.replicas.get_mut(id) {
            Some(told) => Some(std::mem::replace(told, what)),
            None => self.replicas.insert(id.clone(), what),
        };
        if before != Some(what) {
            let mut row = rows::breaker(look.node_id, replica, &measured, look.date);
            if before.is_some_and(|before| before.counters.failures == what.counters.failures) {
                // As told before.
                row.last_failures.clear();
            }
            changed.push(row);
        }
    }
}
