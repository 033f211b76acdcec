//! Which services have changed, for those who follow the table in their own time.
//!
//! Each change of the table is noted by the names of the services that it was about. Who follows remembers how far it has come,
//! and looks at what has changed since then, at each service once, however often that did. So what a change costs whoever
//! follows depends on what changed, and not on what there is. Memory is bounded: who falls further behind looks at everything.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use gateway_proto::ServiceName;

/// So many names are remembered: a second of a busy registry, and some hundred kilobytes at the most.
pub(super) const CAPACITY: usize = 4096;

/// How far somebody has followed. `Default`: not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen(u64);

/// What there is to look at for who has seen so much.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// These services, which are there or gone.
    These(BTreeSet<ServiceName>),
    /// What has changed is not remembered any more.
    Anything,
}

/// The names of services that changed, newest last.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    names: VecDeque<ServiceName>,
    /// Names that were noted so far, remembered or not.
    count: u64,
}

impl Changes {
    /// Notes a change of these services: to be called once it can be seen.
    pub(super) fn note<'a>(&self, names: impl ExactSizeIterator<Item = &'a ServiceName>) {
        let mut noted = self.noted();
        noted.count += names.len() as u64;
        let forgotten = names.len().saturating_sub(CAPACITY);
        for name in names.skip(forgotten) {
            if noted.names.len() == CAPACITY {
                noted.names.pop_front();
            }
            noted.names.push_back(name.clone());
        }
    }

    /// What has changed since, and how far that goes: what is looked at after this call is no older.
    pub(super) fn since(&self, seen: Seen) -> (Changed, Seen) {
        let noted = self.noted();
        let count = noted.count;
        let unseen = usize::try_from(noted.count - seen.0).unwrap_or(usize::MAX);
        let known = noted.names.len().checked_sub(unseen);
        let names: Option<Vec<_>> = known.map(|known| noted.names.range(known..).cloned().collect());
        // Sorted when workers may note again.
        drop(noted);
        (names.map_or(Changed::Anything, |names| Changed::These(names.into_iter().collect())), Seen(count))
    }

    /// How far all of it goes.
    pub(super) fn seen(&self) -> Seen {
        Seen(self.noted().count)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        // After a panic between the two, more seems to be forgotten than is.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> ServiceName {
        ServiceName::parse(&format!("s-{number}")).unwrap()
    }

    fn note(changes: &Changes, numbers: impl IntoIterator<Item = usize>) {
        let names: Vec<_> = numbers.into_iter().map(name).collect();
        changes.note(names.iter());
    }

    fn these(numbers: impl IntoIterator<Item = usize>) -> Changed {
        Changed::These(numbers.into_iter().map(name).collect())
    }

    #[test]
    fn who_follows_is_told_once_of_each_service_that_changed_since_it_looked_last() {
        let changes = Changes::default();
        let (nothing, start) = changes.since(Seen::default());
        assert_eq!(nothing, these([]));
        note(&changes, [1, 2, 1]);
        let (changed, seen) = changes.since(start);
        assert_eq!(changed, these([1, 2]));
        assert_eq!(changes.since(seen), (these([]), seen));
        note(&changes, [3]);
        assert_eq!(changes.since(seen).0, these([3]));
        assert_eq!(changes.since(start).0, these([1, 2, 3]), "each follows for itself");
    }

    #[test]
    fn who_has_fallen_behind_looks_at_everything_and_then_at_what_changes() {
        let changes = Changes::default();
        let (_, start) = changes.since(Seen::default());
        (0..CAPACITY).for_each(|number| note(&changes, [number]));
        assert_eq!(changes.since(start).0, these(0..CAPACITY), "as much as is remembered");
        note(&changes, [0]);
        let (changed, seen) = changes.since(start);
        assert_eq!(changed, Changed::Anything);
        note(&changes, [7]);
        assert_eq!(changes.since(seen).0, these([7]));
    }

    #[test]
    fn a_change_of_more_than_is_remembered_is_one_of_everything_and_memory_stays_bounded() {
        let changes = Changes::default();
        let (_, start) = changes.since(Seen::default());
        note(&changes, 0..3 * CAPACITY);
        let (changed, seen) = changes.since(start);
        assert_eq!((changed, changes.noted().names.len()), (Changed::Anything, CAPACITY));
        assert_eq!(changes.since(seen).0, these([]));
    }
}
