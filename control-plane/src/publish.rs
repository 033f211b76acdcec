//! From the registry to the data planes.
//!
//! [`Publisher`] owns what readers see: the view and the log of its last changes, always of one revision. Only the
//! writer changes it. Everything else here is pure: [`DeltaLog`] merges changes, [`parts`] cuts full snapshots,
//! [`Session`] says what one stream is sent next.

mod filter;
mod log;
mod session;
mod snapshot;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use gateway_proto::v1;
use prost::Message;
use tokio::sync::watch;

pub use self::{
    filter::Filter,
    log::DeltaLog,
    session::{ACK_TIMEOUT, Heard, MAX_BACKOFF, MIN_BACKOFF, Next, QUIET, SILENCE, Session},
    snapshot::parts,
};
use crate::registry::{Committed, Event, Revision, View};

/// Changes kept for data planes that come back: some 5 MB when every replica is of ordinary size.
const LOG_CAPACITY: usize = 8192;
/// Merged deltas kept for the present revision: data planes that lag do so by few different bases.
const MAX_SHARED_DELTAS: usize = 32;

/// What readers see of the registry.
///
/// Locks are held for no await and do not nest; the one that the writer needs is held only to copy out what is asked
/// for.
#[derive(Debug)]
pub struct Publisher {
    epoch: String,
    current: RwLock<Current>,
    head: watch::Sender<Revision>,
    shared: Mutex<Shared>,
}

/// The view and the log, which always have the same revision.
#[derive(Debug)]
struct Current {
    view: View,
    log: DeltaLog,
}

/// What was computed for one data plane and serves the next one, too.
#[derive(Debug, Default)]
struct Shared {
    revision: Revision,
    deltas: Vec<(Revision, Arc<v1::Delta>)>,
    full: Option<Arc<[v1::FullSnapshot]>>,
}

/// How a data plane gets from its revision to the present one.
#[derive(Debug, Clone, PartialEq)]
pub enum CatchUp {
    /// By this delta.
    Delta(Revision, v1::Delta),
    /// It is there already: nothing it follows has changed.
    Nothing(Revision),
    /// Only by a full snapshot.
    TooFar,
}

impl Publisher {
    /// Publishes a view of the store whose epoch this is.
    pub fn new(epoch: String, view: View) -> Self {
        let log = DeltaLog::new(view.revision(), LOG_CAPACITY);
        let (head, _) = watch::channel(view.revision());
        Self { epoch, current: RwLock::new(Current { view, log }), head, shared: Mutex::default() }
    }

    /// The store's epoch.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Lets `read` look at the view. It must be quick, for the writer waits for it.
    pub fn read<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        read(&self.reading().view)
    }

    /// Follows the registry's revision.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.head.subscribe()
    }

    /// Takes in what the store made durable and lets every stream know, once. For the writer only.
    pub(crate) fn apply(&self, committed: impl IntoIterator<Item = Committed>) -> Vec<Event> {
        let mut current = self.writing();
        let Current { view, log } = &mut *current;
        let mut events = Vec::new();
        for committed in committed {
            let applied = view.apply(committed);
            log.extend([applied.change]);
            events.push(applied.event);
        }
        let revision = view.revision();
        drop(current);
        self.head.send_replace(revision);
        events
    }

    /// Puts what the store turned out to hold in the place of what was believed. For the writer only.
    pub(crate) fn correct(&self, next: View) {
        let mut current = self.writing();
        let changes = current.view.changes_to(&next);
        let revision = next.revision();
        current.log.extend(changes);
        // A log that does not end at the view's revision would lead data planes astray.
        if current.log.head() != revision {
            current.log = DeltaLog::new(revision, LOG_CAPACITY);
        }
        current.view = next;
        drop(current);
        self.head.send_replace(revision);
    }

    /// What leads a data plane with this filter from `base` to the present revision.
    pub fn catch_up(&self, base: Revision, filter: &Filter) -> CatchUp {
        let Some((revision, delta)) = self.delta(base) else { return CatchUp::TooFar };
        match filter.narrow(&delta) {
            None => CatchUp::Nothing(revision),
            Some(delta) if delta.encoded_len() > snapshot::MAX_PART_BYTES => CatchUp::TooFar,
            Some(delta) => CatchUp::Delta(revision, delta),
        }
    }

    /// The full snapshot in parts, all of one revision.
    pub fn full(&self, filter: &Filter) -> (Revision, Arc<[v1::FullSnapshot]>) {
        let (revision, records) = {
            let current = self.reading();
            (current.view.revision(), current.view.replicas().cloned().collect::<Vec<_>>())
        };
        if *filter != Filter::All {
            return (revision, parts(&records, filter, snapshot::MAX_PART_BYTES).into());
        }
        // Built with the lock held: when a thousand data planes come at once, one works and the others wait for it.
        let mut shared = self.shared(revision);
        if shared.revision != revision {
            drop(shared);
            return (revision, parts(&records, filter, snapshot::MAX_PART_BYTES).into());
        }
        let full =
            shared.full.get_or_insert_with(|| parts(&records, filter, snapshot::MAX_PART_BYTES).into());
        (revision, Arc::clone(full))
    }

    fn delta(&self, base: Revision) -> Option<(Revision, Arc<v1::Delta>)> {
        let head = *self.head.borrow();
        let known = {
            let shared = self.shared(head);
            let delta = shared.deltas.iter().find(|(known, _)| *known == base);
            delta.map(|(_, delta)| (shared.revision, Arc::clone(delta)))
        };
        if known.is_some() {
            return known;
        }
        let (revision, delta) = {
            let current = self.reading();
            (current.log.head(), Arc::new(current.log.since(base)?))
        };
        let mut shared = self.shared(revision);
        if shared.revision == revision && shared.deltas.len() < MAX_SHARED_DELTAS {
            shared.deltas.push((base, Arc::clone(&delta)));
        }
        Some((revision, delta))
    }

    /// What is shared at `revision`, or at a later one; what belonged to an earlier one is dropped.
    fn shared(&self, revision: Revision) -> MutexGuard<'_, Shared> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.revision < revision {
            *shared = Shared { revision, ..Shared::default() };
        }
        shared
    }

    // A panic under these locks is a bug that has been reported; what they guard is replaced as a whole or appended
    // to, so readers go on.
    fn reading(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }
}
