//! From the registry to the data planes.
//!
//! [`Publisher`] owns what readers see: the view and the log of its last changes, always of one revision. Only the
//! writer changes it. Everything else here is pure: [`DeltaLog`] merges changes, [`parts`] cuts full snapshots,
//! [`Session`] says what one stream is sent next.

mod encoded;
mod filter;
mod log;
mod session;
mod snapshot;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use gateway_proto::{
    content::ContentHash,
    v1::{self, stream_snapshots_response::Update},
};
use prost::Message;
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
};

pub use self::{
    encoded::Encoded,
    filter::Filter,
    log::{DeltaLog, ReplicaStep},
    session::{ACK_TIMEOUT, Heard, MAX_BACKOFF, MIN_BACKOFF, Next, QUIET, SILENCE, Session},
    snapshot::{Content, parts},
};
use crate::registry::{Change, Committed, Event, Revision, View};

/// What a publisher keeps, and sends at once, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Changes kept for data planes that come back. Default 8192: some 5 MB when every replica is of ordinary size.
    pub log_capacity: usize,
    /// Encoded bytes of a delta; what would be more is sent as a full snapshot. Default 1 MiB: a quarter of what gRPC
    /// clients accept.
    pub delta_bytes: usize,
    /// Encoded bytes of a part of a full snapshot. Default 256 KiB: short enough for each of a thousand data planes to
    /// get its next one within the time after which it would take us for dead, also where the network is slow.
    pub part_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { log_capacity: 8192, delta_bytes: 1024 * 1024, part_bytes: 256 * 1024 }
    }
}

/// Merged deltas kept for the present revision: data planes that lag do so by few different bases.
const MAX_SHARED_DELTAS: usize = 32;

/// Changes that a shared full snapshot may be behind: the delta that follows it stays small against a part, so that
/// nobody who takes it is too far behind again.
const MAX_CHANGES_BEHIND: usize = 128;

/// What readers see of the registry.
///
/// Locks are held for no await; the one that the writer needs is held only to copy out what is asked for, and inside
/// it no other is taken.
#[derive(Debug)]
pub struct Publisher {
    epoch: String,
    bounds: Bounds,
    current: RwLock<Current>,
    head: watch::Sender<Revision>,
    shared: Mutex<Shared>,
    /// The full snapshot built last, of everything, for as long as a stream sends it: it is as large as the registry.
    full: Mutex<Option<(Revision, Weak<[Encoded]>)>>,
    /// Whose turn it is to build one: each takes a processor for a while.
    turn: Semaphore,
    /// The hash computed last, of everything.
    hash: Mutex<Option<(Revision, ContentHash)>>,
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
    catch_ups: Vec<(Revision, Filter, CatchUp)>,
}

/// A full snapshot in parts, and the revision of all of them.
pub type Full = (Revision, Arc<[Encoded]>);

/// How a data plane gets from its revision to the present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatchUp {
    /// By this delta.
    Delta(Revision, Encoded),
    /// It is there already: nothing it follows has changed.
    Nothing(Revision),
    /// Only by a full snapshot.
    TooFar,
}

impl Publisher {
    /// Publishes a view of the store whose epoch this is, within the default bounds.
    pub fn new(epoch: String, view: View) -> Self {
        Self::with_bounds(epoch, view, Bounds::default())
    }

    /// As [`Publisher::new`], within other bounds.
    pub fn with_bounds(epoch: String, view: View, bounds: Bounds) -> Self {
        let log = DeltaLog::new(view.revision(), bounds.log_capacity);
        let (head, _) = watch::channel(view.revision());
        let current = RwLock::new(Current { view, log });
        Self {
            epoch,
            bounds,
            current,
            head,
            shared: Mutex::default(),
            full: Mutex::default(),
            turn: Semaphore::new(1),
            hash: Mutex::default(),
        }
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
    pub fn apply(&self, committed: impl IntoIterator<Item = Committed>) -> Vec<Event> {
        let mut current = self.writing();
        let Current { view, log } = &mut *current;
        let mut events = Vec::new();
        for committed in committed {
            let applied = view.apply(committed);
            log.extend(applied.changes);
            events.extend(applied.events);
        }
        let revision = view.revision();
        drop(current);
        self.head.send_replace(revision);
        events
    }

    /// Puts what the store turned out to hold in the place of what was believed; `changes` are what leads there, as
    /// [`View::changes_to`] tells them. For the writer only.
    pub fn correct(&self, next: View, changes: Vec<Change>) {
        let mut current = self.writing();
        let revision = next.revision();
        if changes.is_empty() && revision == current.log.head() {
            return;
        }
        let is_news = revision > current.log.head();
        current.log.jump(changes, revision);
        current.view = next.remembering(&current.view);
        drop(current);
        if !is_news {
            self.forget_computed();
        }
        self.head.send_replace(revision);
    }

    /// As [`Publisher::correct`], when what was believed may be half-changed by a panic: no delta is made from it, and data
    /// planes that are not at this revision get full snapshots. For the writer only.
    pub fn replace(&self, next: View) {
        let revision = next.revision();
        let log = DeltaLog::new(revision, self.bounds.log_capacity);
        let mut current = self.writing();
        let view = next.remembering(&current.view);
        *current = Current { view, log };
        drop(current);
        self.forget_computed();
        self.head.send_replace(revision);
    }

    /// Drops what was computed from a view that was another one at the same revision.
    fn forget_computed(&self) {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Shared::default();
        *self.full.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.hash.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The hash of all that a data plane with this filter holds at `revision`; `None` when the registry has moved on.
    pub fn content_hash(&self, filter: &Filter, revision: Revision) -> Option<ContentHash> {
        if *filter == Filter::All {
            let known = *self.hash.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, hash)) = known.filter(|(of, _)| *of == revision) {
                return Some(hash);
            }
        }
        let hash = {
            let current = self.reading();
            (current.view.revision() == revision).then(|| filter.hash(&current.view))?
        };
        if *filter == Filter::All {
            *self.hash.lock().unwrap_or_else(PoisonError::into_inner) = Some((revision, hash));
        }
        Some(hash)
    }

    /// What leads a data plane with this filter from `base` to the present revision.
    pub fn catch_up(&self, base: Revision, filter: &Filter) -> CatchUp {
        let head = *self.head.borrow();
        let is_of = |(of, by, _): &&(Revision, Filter, CatchUp)| *of == base && by == filter;
        if let Some((_, _, known)) = self.shared(head).catch_ups.iter().find(is_of) {
            return known.clone();
        }
        let Some((revision, delta)) = self.delta(base) else { return CatchUp::TooFar };
        let catch_up = match filter.narrow(&delta) {
            None => CatchUp::Nothing(revision),
            Some(delta) if delta.encoded_len() > self.bounds.delta_bytes => CatchUp::TooFar,
            Some(delta) => CatchUp::Delta(revision, Encoded::new(Update::Delta(delta.into_owned()))),
        };
        let mut shared = self.shared(revision);
        if shared.revision == revision && shared.catch_ups.len() < MAX_SHARED_DELTAS {
            shared.catch_ups.push((base, filter.clone(), catch_up.clone()));
        }
        catch_up
    }

    /// What became of each replica since `base`, and the revision that leads to. `None`: `base` is out of reach.
    pub fn replicas_since(&self, base: Revision) -> Option<(Revision, Vec<ReplicaStep>)> {
        let current = self.reading();
        Some((current.log.head(), current.log.replicas_since(base)?))
    }

    /// A full snapshot in parts, all of one revision: the present one, or one from which a small delta leads there,
    /// but never one before `at_least`, for revisions do not go back.
    ///
    /// So all data planes that come at about the same time share one, also while the registry changes. Takes time in
    /// proportion to the registry, unless there is one to share.
    pub fn full(&self, filter: &Filter, at_least: Revision) -> Full {
        if let Some(known) = self.known_full(filter, at_least) {
            return known;
        }
        let (revision, content) = {
            let current = self.reading();
            (current.view.revision(), Content::of(&current.view, filter))
        };
        let parts =
            parts(&content, self.bounds.part_bytes).map(|part| Encoded::new(Update::Full(part))).collect();
        if *filter == Filter::All {
            *self.full.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((revision, Arc::downgrade(&parts)));
        }
        (revision, parts)
    }

    /// As [`Publisher::full`], and away from the threads that serve everybody else: when a thousand data planes come
    /// at once, one snapshot is built and the others wait for it. Cancel safe.
    pub async fn full_in_turn(self: &Arc<Self>, filter: &Filter, at_least: Revision) -> Full {
        if let Some(known) = self.known_full(filter, at_least) {
            return known;
        }
        let _turn = self.turn.acquire().await.expect("the semaphore is never closed");
        let (publisher, filter) = (Arc::clone(self), filter.clone());
        let built = spawn_blocking(move || publisher.full(&filter, at_least)).await;
        built.expect("building does not panic, and who waits for it outlives no runtime")
    }

    /// A full snapshot that is being sent already and still leads on.
    fn known_full(&self, filter: &Filter, at_least: Revision) -> Option<Full> {
        if *filter != Filter::All {
            return None;
        }
        let known = self.full.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (revision, parts) = known.and_then(|(revision, parts)| Some((revision, parts.upgrade()?)))?;
        let behind = self.reading().log.count_since(revision);
        let leads_on = revision >= at_least && behind.is_some_and(|count| count <= MAX_CHANGES_BEHIND);
        leads_on.then_some((revision, parts))
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
            (current.log.head(), Arc::new(current.log.since(base, &current.view)?))
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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use gateway_proto::Address;

    use super::*;
    use crate::registry::{Candidates, Command, Decision, Limits, Record, Registration, decide};

    fn publisher() -> Publisher {
        Publisher::new("e".into(), View::default())
    }

    /// Registers that many replicas, one revision each.
    fn change(publisher: &Publisher, count: usize) {
        let limits = Limits { replicas: 10_000, replicas_per_service: 10_000 };
        for _ in 0..count {
            let revision = publisher.read(View::revision) + 1;
            let address = Address::parse(&format!("r{revision}.example:80")).unwrap();
            let wish = Command::Register(Registration::permanent("orders".parse().unwrap(), address));
            let fresh = Candidates::from_random(revision.cast_unsigned(), 0);
            let decision = publisher.read(|view| decide(view, &limits, &wish, &fresh, UNIX_EPOCH));
            let Ok(Decision::Commit(mutation)) = decision else { panic!("{decision:?}") };
            publisher.apply([Committed { revision, mutation }]);
        }
    }

    fn decode(update: &Encoded) -> v1::Delta {
        match v1::StreamSnapshotsResponse::decode(update.bytes().clone()).unwrap().update {
            Some(Update::Delta(delta)) => delta,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_change_is_encoded_once_for_all_who_follow_the_same() {
        let publisher = publisher();
        change(&publisher, 2);
        let some = Filter::parse(&["orders".to_owned()]).unwrap();
        let other = Filter::parse(&["users".to_owned()]).unwrap();
        let delta = |base, filter| match publisher.catch_up(base, filter) {
            CatchUp::Delta(_, delta) => delta,
            other => panic!("{other:?}"),
        };
        for filter in [&Filter::All, &some] {
            let address = |base| delta(base, filter).bytes().as_ptr();
            assert_eq!(address(1), address(1));
            assert_ne!(address(0), address(1));
        }
        assert_eq!(publisher.catch_up(1, &other), CatchUp::Nothing(2));
        change(&publisher, 1);
        assert_eq!(decode(&delta(1, &some)).upsert_replicas.len(), 2);
    }

    #[test]
    fn a_full_snapshot_takes_no_memory_once_nobody_sends_it() {
        let publisher = publisher();
        let (_, sent) = publisher.full(&Filter::All, 0);
        let weak = Arc::downgrade(&sent);
        drop(sent);
        assert_eq!(weak.strong_count(), 0);
        assert!(publisher.known_full(&Filter::All, 0).is_none());
    }

    #[tokio::test]
    async fn data_planes_that_come_at_once_wait_for_the_same_full_snapshot() {
        let publisher = Arc::new(publisher());
        change(&publisher, 3);
        let full = || publisher.full_in_turn(&Filter::All, 0);
        let ((_, one), (_, two)) = tokio::join!(full(), full());
        assert!(Arc::ptr_eq(&one, &two));
    }

    #[test]
    fn full_snapshots_asked_for_at_about_the_same_time_are_one() {
        let publisher = publisher();
        change(&publisher, 1);
        let (revision, first) = publisher.full(&Filter::All, 0);
        change(&publisher, MAX_CHANGES_BEHIND);
        let (same, second) = publisher.full(&Filter::All, 0);
        assert_eq!((revision, same), (1, 1));
        assert!(Arc::ptr_eq(&first, &second));
        // What is missing in it follows as a delta.
        let CatchUp::Delta(head, delta) = publisher.catch_up(revision, &Filter::All) else { panic!() };
        assert_eq!((head, decode(&delta).upsert_replicas.len()), (1 + 128, MAX_CHANGES_BEHIND));
        change(&publisher, 1);
        assert_eq!(publisher.full(&Filter::All, 0).0, 1 + 128 + 1);
    }

    #[test]
    fn a_full_snapshot_is_never_older_than_what_the_data_plane_holds() {
        let publisher = publisher();
        change(&publisher, 3);
        let sent = publisher.full(&Filter::All, 0);
        assert_eq!(sent.0, 3);
        change(&publisher, 2);
        assert_eq!(publisher.full(&Filter::All, 3).0, 3);
        assert_eq!(publisher.full(&Filter::All, 4).0, 5);
    }

    #[test]
    fn after_a_correction_of_many_replicas_a_full_snapshot_from_before_it_is_not_used() {
        let (publisher, next) = (publisher(), publisher());
        let sent = publisher.full(&Filter::All, 0);
        assert_eq!(sent.0, 0);
        change(&next, MAX_CHANGES_BEHIND + 1);
        let records = next.read(|view| view.replicas().map(|record| (**record).clone()).collect::<Vec<_>>());
        let next = View::new(1, records);
        let changes = publisher.read(|view| view.changes_to(&next));
        publisher.correct(next, changes);
        assert_eq!(publisher.full(&Filter::All, 0).0, 1);
    }

    #[test]
    fn whoever_was_told_by_another_of_what_this_one_passed_over_gets_a_full_snapshot() {
        let publisher = publisher();
        change(&publisher, 1);
        // What came at 2 went at 3.
        let record = publisher.read(|view| Record::clone(view.replicas().next().unwrap()));
        let next = View::new(3, [record]);
        let changes = publisher.read(|view| view.changes_to(&next));
        publisher.correct(next, changes);
        assert_eq!(publisher.catch_up(2, &Filter::All), CatchUp::TooFar);
        assert_eq!(publisher.replicas_since(2), None);
        assert!(!matches!(publisher.catch_up(1, &Filter::All), CatchUp::TooFar), "it has seen the same");
        change(&publisher, 1);
        assert_eq!(publisher.catch_up(2, &Filter::All), CatchUp::TooFar);
        let CatchUp::Delta(4, delta) = publisher.catch_up(3, &Filter::All) else { panic!() };
        assert_eq!(decode(&delta).upsert_replicas.len(), 1);
    }

    #[test]
    fn nothing_that_was_computed_from_a_half_changed_registry_is_told_of_the_one_in_its_place() {
        let publisher = publisher();
        change(&publisher, 2);
        let hash = publisher.content_hash(&Filter::All, 2);
        let (_, sent) = publisher.full(&Filter::All, 0);
        publisher.replace(View::new(2, Vec::<Record>::new()));
        assert_ne!(publisher.content_hash(&Filter::All, 2), hash);
        let (revision, parts) = publisher.full(&Filter::All, 0);
        assert_eq!((revision, parts.len()), (2, 1));
        assert!(!Arc::ptr_eq(&sent, &parts));
    }
}
