//! Replicas that get no new requests any more, on their way from the table to whoever has to act: workers let go of
//! connections and cut what is late, reports tell how much is still in flight.
//!
//! A pick and its count are made in one go by one worker's thread, by a view that may be a moment old. Once every worker
//! has said that it has taken a list on, no pick by an older view is to come, and every earlier one is counted: a
//! replica of that list that shows nothing in flight then will never show anything again.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    time::SystemTime,
};

use gateway_proto::{Endpoint, ReplicaKey, ServiceName};
use tokio::sync::{Notify, watch};

use super::spec::{ReplicaSpec, ServiceSpec};

/// What stands in a worker's place while nobody works there: later than every list.
const NOBODY: u64 = u64::MAX;

/// A replica that gets no new requests because somebody asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Draining {
    /// Service and id.
    pub key: ReplicaKey,
    /// Where it listens, and what it understands there.
    pub endpoint: Endpoint,
    /// When requests in flight are cut; `None`: never.
    pub deadline: Option<SystemTime>,
}

/// All of them at one moment.
#[derive(Debug, Default)]
pub struct Drains {
    /// In the order of their keys.
    pub replicas: Vec<Draining>,
    /// Numbers the lists.
    generation: u64,
}

/// Where the list is published and its takers answer.
#[derive(Debug)]
pub(super) struct DrainBoard {
    by_service: Mutex<BTreeMap<ServiceName, Vec<Draining>>>,
    published: watch::Sender<Arc<Drains>>,
    /// The newest list that each worker has taken on.
    taken_on: Box<[AtomicU64]>,
    someone_took_on: Notify,
    an_attempt_ended: Notify,
}

impl DrainBoard {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            by_service: Mutex::default(),
            published: watch::Sender::new(Arc::default()),
            taken_on: (0..workers.max(1)).map(|_| AtomicU64::new(NOBODY)).collect(),
            someone_took_on: Notify::new(),
            an_attempt_ended: Notify::new(),
        }
    }

    /// Publishes a new list if these changes make one: to be called once they are in the table.
    pub(super) fn apply(&self, changed: &[ServiceSpec], gone: &[ServiceName]) {
        let mut by_service = self.by_service();
        let mut differs = false;
        for service in changed {
            let draining = service.replicas.iter().filter(|replica| !replica.is_serving());
            let draining: Vec<Draining> =
                draining.map(|replica| Draining::new(&service.name, replica)).collect();
            if by_service.get(&service.name).map_or(&[][..], Vec::as_slice) == draining {
                continue;
            }
            differs = true;
            if draining.is_empty() {
                by_service.remove(&service.name);
            } else {
                by_service.insert(service.name.clone(), draining);
            }
        }
        for name in gone {
            differs |= by_service.remove(name).is_some();
        }
        if differs {
            let replicas = by_service.values().flatten().cloned().collect();
            self.published.send_modify(|drains| {
                *drains = Arc::new(Drains { replicas, generation: drains.generation + 1 });
            });
        }
    }

    /// The newest list.
    pub(super) fn drains(&self) -> Arc<Drains> {
        self.published.borrow().clone()
    }

    /// Whether every worker has taken the newest list on.
    pub(super) fn is_taken_on(&self) -> bool {
        let newest = self.published.borrow().generation;
        self.taken_on.iter().all(|taken| taken.load(Acquire) >= newest)
    }

    /// Completes when every worker has taken the newest list on. Cancel safe.
    pub(super) async fn taken_on(&self) {
        loop {
            let mut change = pin!(self.someone_took_on.notified());
            change.as_mut().enable();
            if self.is_taken_on() {
                return;
            }
            change.await;
        }
    }

    /// Tells that an attempt at a draining replica has ended.
    pub(super) fn attempt_ended(&self) {
        self.an_attempt_ended.notify_one();
    }

    /// Completes when an attempt at a draining replica has ended since the last call. For one caller; cancel safe.
    pub(super) async fn attempts_ended(&self) {
        self.an_attempt_ended.notified().await;
    }

    fn by_service(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Vec<Draining>>> {
        // Each service's entry is replaced whole.
        self.by_service.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Draining {
    fn new(service: &ServiceName, replica: &ReplicaSpec) -> Self {
        Self {
            key: ReplicaKey { service: service.clone(), replica: replica.id.clone() },
            endpoint: replica.endpoint.clone(),
            deadline: replica.drain_deadline,
        }
    }
}

/// A worker's end of the list. While it lives, others wait for this worker to take lists on.
#[derive(Debug)]
pub struct DrainFollower {
    board: Arc<super::outlets::Outlets>,
    worker: usize,
    drains: watch::Receiver<Arc<Drains>>,
}

impl DrainFollower {
    pub(super) fn new(board: Arc<super::outlets::Outlets>, worker: usize) -> Self {
        let worker = worker % board.drains.taken_on.len();
        board.drains.taken_on[worker].store(0, Release);
        let mut drains = board.drains.published.subscribe();
        // So that the first list is heard of as later ones are.
        drains.mark_changed();
        Self { board, worker, drains }
    }

    /// The next list; the first time, the present one. Cancel safe.
    pub async fn next(&mut self) -> Arc<Drains> {
        // The board outlives this, and with it the sender.
        let _ = self.drains.changed().await;
        self.drains.borrow_and_update().clone()
    }

    /// Tells that this worker picks by views no older than `drains`. To be called on the thread that picks.
    pub fn taken_on(&self, drains: &Drains) {
        self.answer(drains.generation);
    }

    fn answer(&self, generation: u64) {
        self.board.drains.taken_on[self.worker].store(generation, Release);
        self.board.drains.someone_took_on.notify_waiters();
    }
}

impl Drop for DrainFollower {
    fn drop(&mut self) {
        self.answer(NOBODY);
    }
}
