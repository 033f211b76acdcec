//! How replicas come back: those to which no connection came about, and those that had left.
//!
//! A breaker that has been open for long is open for up to a minute more when its replica is back. Whether anybody listens is
//! cheap to find out, so that is done every second by the task that makes the active checks. It decides nothing: the next
//! request is a probe at once, and if that fails the breaker rests for as long as it would have anyway.
//!
//! A replica that ends in order deregisters, and registers when it is there again. If it fails after every start it is no
//! better for that than one that dies, so for a while its breaker is remembered by its name.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use gateway_proto::{ReplicaId, v1};

use super::{History, Replica, Service, Trip};
use crate::routing::{Past, State, Tick};

/// For so long the breakers of replicas are remembered that have left.
const REMEMBERED: Duration = Duration::from_secs(600);
/// So many of a service are, those that left last.
const CAPACITY: usize = 256;

/// For so long after it has opened nobody knocks, so that no breaker rests for less than a moment; about the pause between two checks.
const REST: Duration = Duration::from_millis(800);

impl Service {
    /// Whether this replica's port is checked: no connection to it came about when it was asked last, its breaker keeps it out
    /// since, it would be asked otherwise, and no active check of it says more.
    pub fn is_port_checked(&self, replica: &Replica) -> bool {
        let is_out = matches!(replica.breaker().state(), State::Open | State::HalfOpen);
        if !is_out || !replica.last_fault().is_some_and(|fault| fault.is_unreached()) {
            return false;
        }
        let checks = self.policy().health_check;
        let has_none = checks.checks_any() && replica.check_method(&checks).is_none();
        has_none && replica.takes_requests() && !self.asks_regardless(replica) && !self.stands_by(replica)
    }

    /// Whether no other replica lets requests through, and no fallback answers them, so that its breaker rests for a moment only.
    pub fn has_nobody_but(&self, replica: &Replica) -> bool {
        self.view.load().has_nobody_but(replica)
    }

    /// Those of its replicas. Without an allocation while there is none.
    pub(crate) fn port_checked(&self) -> Vec<Arc<Replica>> {
        let view = self.view.load();
        view.resting().iter().filter(|replica| self.is_port_checked(replica)).cloned().collect()
    }

    /// Whether it would help at `now` to know that its port accepts: its next probe is not due by itself, and it has rested for a
    /// moment.
    pub(crate) fn waits_for_port(&self, replica: &Replica, now: Tick) -> bool {
        let due = replica.breaker().next_probe_at();
        let is_open = replica.breaker().state() == State::Open;
        is_open && due.is_some_and(|due| due > now) && now >= replica.history().changed_at.plus(REST)
    }

    /// Tells who makes the checks when others are to be knocked at than before.
    pub(super) fn follow_ports(&self) {
        let mut hasher = DefaultHasher::new();
        let ports = self.port_checked();
        ports.iter().for_each(|replica| replica.key().replica.hash(&mut hasher));
        let those = if ports.is_empty() { 0 } else { hasher.finish() };
        if self.ports.swap(those, Relaxed) != those {
            self.outlets.changes.note([self.name()].into_iter());
            self.outlets.check_changes.notify_one();
        }
    }

    /// Its port, of that registration, has accepted a connection: its next probe is due. Whether it was not before.
    pub(crate) fn port_accepts(&self, replica: &Replica, incarnation: i64, now: Tick) -> bool {
        if replica.incarnation() != incarnation || !self.is_port_checked(replica) {
            return false;
        }
        let is_hastened = replica.breaker().hasten(now);
        if is_hastened {
            self.view.load().look_again();
            self.stir();
        }
        is_hastened
    }
}

/// The breakers of a service's replicas that have left, each with the time from which it is forgotten; those that were as good as
/// new are not among them.
#[derive(Debug, Default)]
pub(super) struct Pasts(BTreeMap<ReplicaId, (Remembered, Tick)>);

/// What is known of a replica that has left.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) breaker: Past,
    /// How that had opened last.
    pub(super) trip: Option<Trip>,
    /// Since when it was out, if it was.
    pub(super) out_since: Option<Tick>,
    /// The order to reset that it obeyed last.
    pub(super) reset: Option<Arc<v1::OverrideEntry>>,
}

impl Pasts {
    /// Remembers the breaker of a replica that leaves at `now`.
    pub(super) fn keep(&mut self, replica: &Replica, now: Tick) {
        let Some(past) = replica.breaker().past() else { return };
        self.0.retain(|_, (_, until)| now < *until);
        let History { trip, out_since, .. } = replica.history();
        let remembered = Remembered { breaker: past, trip, out_since, reset: replica.last_reset() };
        self.0.insert(replica.key().replica.clone(), (remembered, now.plus(REMEMBERED)));
        if self.0.len() > CAPACITY {
            let oldest = self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(id, _)| id.clone());
            oldest.map(|id| self.0.remove(&id));
        }
    }

    /// That of the replica of this id, which is there again at `now`.
    pub(super) fn take(&mut self, id: &ReplicaId, now: Tick) -> Option<Remembered> {
        self.0.remove(id).filter(|(_, until)| now < *until).map(|(remembered, _)| remembered)
    }
}
