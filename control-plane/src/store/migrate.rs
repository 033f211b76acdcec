//! Everything from one store into another one, which is empty.

use super::{Commit, Store, StoreError};
use crate::registry::{Cause, Item, Mutation, RecordWrite, Revision};

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Replicas, policies, overrides and routes.
    pub records: usize,
    /// Of the store that they came from.
    pub from: Revision,
    /// Of the store that they are in.
    pub to: Revision,
}

/// Which of the two stores could not do it, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The one that is copied.
    #[error(transparent)]
    From(StoreError),
    /// The one that is filled.
    #[error(transparent)]
    To(StoreError),
}

/// Copies all that `from` holds into `to`. Nothing is changed in `from`. Leases keep their ids, so owners go on renewing them; each
/// has one full time to live from the start of a control plane on `to`. Incarnations stay what they are, and go on from the
/// greatest of them: revisions of the two stores do not compare.
///
/// Not cancel safe: `to` holds a part then, and is refused the next time.
///
/// # Errors
/// [`MoveError`] of either store; when `to` is not empty, or somebody else writes to it.
pub async fn migrate<F: Store, T: Store>(from: &mut F, to: &mut T) -> Result<Moved, MoveError> {
    let loaded = from.load().await.map_err(MoveError::From)?;
    let target = to.load().await.map_err(MoveError::To)?;
    let refused = |why: String| Err(MoveError::To(StoreError::Unavailable(why)));
    if !target.items.is_empty() {
        return refused(format!(
            "it holds {} records, and records are moved into an empty one only: name another one, or remove what a copy that was \
             interrupted has left",
            target.items.len()
        ));
    }
    let at = crate::clock::wall();
    let mutations = loaded.items.into_iter().map(|item| Mutation::one(moved(item), at));
    let mutations: Vec<_> = mutations.collect();
    let (mut base, mut done) = (target.revision, 0);
    while done < mutations.len() {
        let end = mutations.len().min(done + to.max_group());
        match to.commit(base, &mutations[done..end]).await.map_err(MoveError::To)? {
            Commit::Durable(revisions) => {
                done += revisions.len();
                base = revisions.last().copied().unwrap_or(base);
            }
            Commit::Overtaken(_) => {
                return refused(
                    "somebody else writes to it: stop the control planes that use it already, remove what is there, and begin again"
                        .into(),
                );
            }
        }
    }
    Ok(Moved { records: mutations.len(), from: loaded.revision, to: base })
}

/// The write that begins an item where it was not.
fn moved(mut item: Item) -> RecordWrite {
    if let Item::Replica(record) = &mut item
        && let Some(drain) = record.drain.as_deref_mut()
    {
        // Data planes confirm it anew, by the revisions of the store that they will hear of.
        drain.revision = 0;
    }
    RecordWrite::put(item, None, Cause::Registered)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, UNIX_EPOCH},
    };

    use gateway_proto::{Address, ReplicaId, ServiceName};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock,
        registry::{
            Candidates, Command, Committed, Decision, Guard, Limits, Record, Registration, Suspect, View,
            arbitrary::{carried_out, choices},
            decide,
        },
        store::{Memory, Redb},
    };

    /// What it is, whenever it came.
    fn timeless(items: impl IntoIterator<Item = Item>) -> Vec<Item> {
        let items = items.into_iter().map(|mut item| {
            if let Item::Replica(record) = &mut item
                && let Some(drain) = record.drain.as_deref_mut()
            {
                drain.revision = 1;
            }
            item.at(1)
        });
        items.collect()
    }

    /// A store that cannot be read.
    struct Damaged;

    impl Store for Damaged {
        async fn load(&mut self) -> Result<crate::store::Loaded, StoreError> {
            Err(StoreError::Unavailable("damaged".into()))
        }

        async fn commit(&mut self, _: Revision, _: &[Mutation]) -> Result<Commit, StoreError> {
            Err(StoreError::Unavailable("damaged".into()))
        }
    }

    #[tokio::test]
    async fn the_store_that_cannot_be_used_is_the_one_that_is_blamed() {
        let why = StoreError::Unavailable("damaged".into());
        let from = migrate(&mut Damaged, &mut Memory::new()).await;
        assert_eq!(from, Err(MoveError::From(why.clone())));
        assert_eq!(migrate(&mut Memory::new(), &mut Damaged).await, Err(MoveError::To(why)));
    }

    const TTL: Duration = Duration::from_secs(15);
    const LIMITS: Limits = Limits { replicas: 100, replicas_per_service: 100 };

    /// A registry that carries commands out in its store.
    struct Registry<S> {
        store: S,
        view: View,
        drawn: u64,
    }

    impl<S: Store> Registry<S> {
        /// As a control plane begins with a store.
        async fn start(mut store: S) -> Self {
            let loaded = store.load().await.unwrap();
            Self { store, view: View::new(loaded.revision, loaded.items), drawn: 0 }
        }

        async fn run(&mut self, command: Command) {
            self.drawn += 1;
            let fresh = Candidates::from_random(self.drawn, rand::random());
            let Ok(Decision::Commit(mutation)) = decide(&self.view, &LIMITS, &command, &fresh, UNIX_EPOCH)
            else {
                panic!("nothing comes of {command:?}")
            };
            let committed =
                self.store.commit(self.view.revision(), std::slice::from_ref(&mutation)).await.unwrap();
            let Commit::Durable(revisions) = committed else { panic!("{committed:?}") };
            self.view.apply(Committed { revision: revisions[0], mutation });
        }

        async fn register(&mut self, number: u16) {
            let address = Address::parse(&format!("10.0.0.1:{}", number + 1)).unwrap();
            let replica = Some(ReplicaId::parse(&format!("r{number:02}")).unwrap());
            let wish = Registration::permanent(ServiceName::parse("orders").unwrap(), address);
            self.run(Command::Register(Registration { replica, ttl: Some(TTL), ..wish })).await;
        }

        /// Leases of the first five lapse. Does as the guard says, and yields how many go and how many are held.
        async fn sweep(&mut self, guard: &mut Guard) -> (usize, usize) {
            let first = |record: &&Arc<Record>| record.key.replica.as_str() < "r05";
            let suspects = self.view.replicas().filter(first).map(|record| Suspect {
                key: record.key.clone(),
                lease: record.lease.unwrap().id,
                ttl: TTL,
                silent_for: TTL,
                is_excused: false,
            });
            let judged = guard.judge(&self.view, suspects.collect(), clock::now(), UNIX_EPOCH).remove(0);
            let sizes = (judged.expire.len(), judged.hold.len());
            for Suspect { key, lease, silent_for, .. } in judged.hold {
                if self.view.get(&key).unwrap().lost.is_none() {
                    self.run(Command::Hold { key, lease, silent_for }).await;
                }
            }
            sizes
        }
    }

    #[tokio::test]
    async fn who_was_moved_is_no_newcomer_to_those_who_are_lost_later() {
        let mut old = Registry::start(Memory::new()).await;
        // A store in which much has happened.
        for _ in 0..20 {
            for number in 0..10 {
                old.register(number).await;
            }
        }
        let mut fresh = Memory::new();
        let moved = migrate(&mut old.store, &mut fresh).await.unwrap();
        assert!(moved.from > 10 * moved.to, "{moved:?}");
        let mut new = Registry::start(fresh).await;
        let mut guard = Guard::default();
        assert_eq!(new.sweep(&mut guard).await, (0, 5));
        assert_eq!(new.sweep(&mut guard).await, (0, 5), "the other five have taken nobody's place");
        // What is lost when it is moved stays lost, and so after a restart.
        let mut moved_again = Memory::new();
        migrate(&mut new.store, &mut moved_again).await.unwrap();
        let mut newest = Registry::start(moved_again).await;
        let mut guard = Guard::default();
        assert_eq!(newest.sweep(&mut guard).await, (0, 5));
        for number in 10..15 {
            newest.register(number).await;
        }
        assert_eq!(newest.sweep(&mut guard).await, (5, 0), "five have come in their place");
        let before = new.view.latest_incarnation();
        assert!(newest.view.replicas().filter(|record| record.incarnation > before).count() == 5);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_was_moved_is_all_there_and_nothing_moves_into_what_is_in_use(choices in choices(60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mutations: Vec<_> =
                carried_out(&choices).into_iter().map(|(committed, _, _)| committed.mutation).collect();
            runtime.block_on(async {
                let mut from = Memory::new();
                from.write(&mutations);
                let mut to = Redb::open(folder.path().join("to.redb")).await.unwrap();
                let moved = migrate(&mut from, &mut to).await.unwrap();
                let (old, new) = (from.load().await.unwrap(), to.load().await.unwrap());
                assert_eq!((moved.records, moved.from, moved.to), (old.items.len(), old.revision, new.revision));
                assert_ne!(old.epoch, new.epoch);
                let (old, new) = (View::new(1, old.items), View::new(1, new.items));
                assert_eq!(timeless(old.items()), timeless(new.items()));
                if moved.records > 0 {
                    let refused = migrate(&mut from, &mut to).await.unwrap_err();
                    assert!(refused.to_string().contains("an empty one only"), "{refused}");
                }
            });
        }
    }
}
