//! Breaker transitions on their way from the request path to whoever reports them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use gateway_proto::{Address, ReplicaKey, v1};
use tokio::sync::mpsc;

use super::replica::Failure;
use crate::routing::{Change, Tick};

/// How many transitions may wait. A thousand replicas tripping at once fit.
const CAPACITY: usize = 4096;

/// One step of one replica's breaker.
#[derive(Debug, Clone)]
pub struct Transition {
    /// Whose breaker.
    pub key: ReplicaKey,
    /// Where the replica listens.
    pub address: Address,
    /// Which registration of it.
    pub incarnation: i64,
    /// When.
    pub at: Tick,
    /// From what to what, by which rule and numbers.
    pub change: Change,
    /// The operator's decision by which it was forced, or which is over now that it is released.
    pub order: Option<Arc<v1::OverrideEntry>>,
    /// The failures before it, newest first, if a rule opened it.
    pub failures: Vec<Failure>,
}

/// The bounded queue's sending end.
#[derive(Debug)]
pub(super) struct TransitionSink {
    sender: mpsc::Sender<Transition>,
    dropped: AtomicU64,
}

impl TransitionSink {
    pub(super) fn new() -> (Self, mpsc::Receiver<Transition>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (Self { sender, dropped: AtomicU64::new(0) }, receiver)
    }

    /// Queues a transition, or counts it as dropped: a request never waits for a report.
    pub(super) fn send(&self, transition: Transition) {
        if self.sender.try_send(transition).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}
