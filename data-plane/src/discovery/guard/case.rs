//! What one update says of one service: who is gone, and whether that is believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use gateway_proto::{Address, Health, ReplicaId, ReplicaKey, ServiceName, v1::RemovalCause};

use super::{
    held::HeldService,
    judgement::{Judgement, LetGo},
};
use crate::{discovery::draft::Entry, table::ReplicaSpec};

/// One service before and after an update.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) before: Option<&'a Entry>,
    pub(super) after: Option<&'a Entry>,
    /// Why replicas are gone, where that was said.
    pub(super) causes: &'a BTreeMap<ReplicaKey, RemovalCause>,
    /// Whether an operator has released the guard of the service.
    pub(super) is_released: bool,
    pub(super) wall: SystemTime,
    /// The reading of the clock of confirmed time.
    pub(super) confirmed: Duration,
}

impl Case<'_> {
    /// Lets go of what is explained now, and holds what is gone and not explained.
    pub(super) fn judge(&self, held: &mut HeldService, judgement: &mut Judgement) {
        let gone: Vec<_> = self.previous().iter().filter(|replica| !self.has(&replica.id)).collect();
        if gone.is_empty() && held.replicas.is_empty() {
            return;
        }
        held.follow(self);
        let addresses: BTreeSet<&Address> =
            self.present().iter().map(|replica| &replica.endpoint.address).collect();
        let serving = self.previous().iter().filter(|replica| replica.is_serving()).count();
        let removed =
            gone.iter().filter(|replica| replica.is_serving() && self.is_removed(&replica.id)).count();
        let removed_held = held.replicas.keys().filter(|id| self.is_removed(id)).count();
        held.expected = held.expected.saturating_sub(removed + removed_held);
        held.let_go(self.name, judgement, |replica| match &replica.spec {
            spec if self.has(&spec.id) => Some(LetGo::Returned),
            spec if addresses.contains(&spec.endpoint.address) => Some(LetGo::AddressTaken),
            spec if self.is_removed(&spec.id) => Some(LetGo::Deregistered),
            _ => None,
        });

        // What drains gets no new requests, so to hold it would save none.
        let doubtful = gone.into_iter().filter(|replica| {
            replica.is_serving()
                && !self.is_removed(&replica.id)
                && !addresses.contains(&replica.endpoint.address)
        });
        let (mut lapsed, silent): (Vec<_>, Vec<_>) =
            doubtful.partition(|replica| self.has_lapsed(&replica.id));
        // The registry's own guard has had its say on these.
        lapsed.retain(|replica| replica.health != Health::Lost);
        let lapsed_held = held.replicas.keys().filter(|id| self.has_lapsed(id)).count();
        let (guard, held_count) = (held.policy.guard, held.replicas.len());
        let total = serving + held_count;
        let mut hold = Vec::new();
        if !silent.is_empty() && guard.holds(silent.len() + held_count, total) {
            hold.extend(silent);
        }
        if guard.holds_lapsed(lapsed.len() + lapsed_held, total) {
            hold.extend(lapsed);
        } else {
            let expired = |id: &ReplicaId| self.has_lapsed(id).then_some(LetGo::Expired);
            held.let_go(self.name, judgement, |replica| expired(&replica.spec.id));
        }
        if !hold.is_empty() && !self.is_released {
            held.expected = held.expected.max(serving - removed);
            hold.into_iter().for_each(|replica| held.hold(self, replica, judgement));
        }
    }

    /// In the order of their ids.
    fn previous(&self) -> &[ReplicaSpec] {
        self.before.map_or(&[], |entry| &entry.spec.replicas)
    }

    /// In the order of their ids.
    fn present(&self) -> &[ReplicaSpec] {
        self.after.map_or(&[], |entry| &entry.spec.replicas)
    }

    fn has(&self, id: &ReplicaId) -> bool {
        self.after.is_some_and(|entry| entry.spec.has(id))
    }

    fn is_removed(&self, id: &ReplicaId) -> bool {
        self.cause(id) == Some(RemovalCause::Deregistered)
    }

    /// Its lease lapsed, or nobody could reach it: in both cases the registry has judged by silence.
    fn has_lapsed(&self, id: &ReplicaId) -> bool {
        matches!(self.cause(id), Some(RemovalCause::Expired | RemovalCause::Evicted))
    }

    fn cause(&self, id: &ReplicaId) -> Option<RemovalCause> {
        let key = ReplicaKey { service: self.name.clone(), replica: id.clone() };
        self.causes.get(&key).copied()
    }
}
