//! What the control plane has already been told, so that only differences are sent. Pure.

use std::{collections::HashMap, time::SystemTime};

use gateway_proto::{NodeId, ReplicaKey, v1};

use super::rows;
use crate::{
    routing::{Tick, View},
    table::{Replica, ReplicaCounters, Service, Services},
};

/// Rows and counts that changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) breakers: Vec<v1::Breaker>,
    pub(super) stats: Vec<v1::ReplicaStats>,
}

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

/// All that a row and its counts are made of, except for what never changes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    view: View,
    counters: ReplicaCounters,
    incarnation: i64,
}

impl Ledger {
    /// Everything that changed in the whole table since it was last told.
    pub(super) fn walk(
        &mut self,
        node_id: &NodeId,
        services: &Services,
        now: Tick,
        date: impl Fn(Tick) -> SystemTime,
    ) -> Changes {
        self.walk += 1;
        let mut changes = Changes::default();
        for service in services.values() {
            for replica in service.replicas().iter() {
                self.look(node_id, service, replica, now, &date, &mut changes);
            }
        }
        let walk = self.walk;
        self.told.retain(|_, told| told.walk == walk);
        changes
    }

    /// What changed of the named replicas only; those that are gone are left out.
    pub(super) fn look_at<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a ReplicaKey>,
        node_id: &NodeId,
        services: &Services,
        now: Tick,
        date: impl Fn(Tick) -> SystemTime,
    ) -> Changes {
        let mut changes = Changes::default();
        for key in keys {
            let Some(service) = services.get(&key.service) else { continue };
            let replicas = service.replicas();
            if let Ok(index) = replicas.binary_search_by(|replica| replica.key().replica.cmp(&key.replica)) {
                self.look(node_id, service, &replicas[index], now, &date, &mut changes);
            }
        }
        changes
    }

    fn look(
        &mut self,
        node_id: &NodeId,
        service: &Service,
        replica: &Replica,
        now: Tick,
        date: impl Fn(Tick) -> SystemTime,
        changes: &mut Changes,
    ) {
        let what = Fingerprint {
            view: replica.breaker_view(now, &service.policy().breaker),
            counters: replica.counters(),
            incarnation: replica.incarnation(),
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
        if before.is_none_or(|before| before.differs_in_breaker(&what)) {
            changes.breakers.push(rows::breaker(node_id, service, replica, now, &date));
        }
        if before.is_none_or(|before| before.counters != what.counters) {
            changes.stats.push(rows::stats(replica, what.counters));
        }
    }
}

impl Fingerprint {
    /// Failures are part of the row by the newest errors it shows.
    fn differs_in_breaker(&self, other: &Self) -> bool {
        (self.view, self.incarnation, self.counters.failures)
            != (other.view, other.incarnation, other.counters.failures)
    }
}
