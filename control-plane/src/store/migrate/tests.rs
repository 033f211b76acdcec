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
        Candidates, Command, Committed, Decision, Guard, Limits, Mutation, Record, Registration, Suspect,
        View,
        arbitrary::{carried_out, choices},
        decide,
    },
    store::{Commit, Memory, Redb},
};

async fn move_all<F: Store, T: Store>(from: &mut F, to: &mut T) -> Result<Moved, MoveError> {
    migrate(from, to, Locations { from: "the old one", to: "the new one" }).await
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
    let from = move_all(&mut Damaged, &mut Memory::new()).await;
    assert_eq!(from, Err(MoveError::From(why.clone())));
    assert_eq!(move_all(&mut Memory::new(), &mut Damaged).await, Err(MoveError::To(why)));
}

/// A store that others change until they meet its fence.
struct Shared {
    memory: Memory,
    /// What they do next, each group when the store is asked for something.
    changes: Vec<Vec<Mutation>>,
    fences: Vec<Option<Fence>>,
    meddling: Meddling,
}

/// What somebody does once all has been read behind the fence.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meddling {
    Nothing,
    /// Takes the fence away, and control planes change something.
    Reopens,
    /// Changes something, knowing of no fence.
    Ignores,
}

impl Shared {
    fn new(memory: Memory, changes: Vec<Vec<Mutation>>) -> Self {
        Self { memory, changes, fences: Vec::new(), meddling: Meddling::Nothing }
    }

    fn is_closed(&self) -> bool {
        self.fences.last().is_some_and(Option::is_some)
    }

    fn change(&mut self) {
        if !self.changes.is_empty() && (!self.is_closed() || self.meddling != Meddling::Nothing) {
            let group = self.changes.remove(0);
            self.memory.write(&group);
        }
    }
}

impl Store for Shared {
    async fn load(&mut self) -> Result<crate::store::Loaded, StoreError> {
        let loaded = self.memory.load().await;
        self.change();
        loaded
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        self.memory.commit(base, group).await
    }

    async fn fence(&mut self, fence: Option<Fence>, base: Option<Revision>) -> Result<bool, StoreError> {
        let was_closed = self.is_closed();
        self.change();
        let is_reopened = was_closed && self.meddling == Meddling::Reopens;
        let now = self.memory.load().await?.revision;
        let has_changed = base.is_some_and(|base| base != now);
        if fence.is_some() && (is_reopened || has_changed) {
            return Ok(false);
        }
        self.fences.push(fence);
        Ok(true)
    }
}

/// A store that fails when it is loaded for the third time, which is when all should be in it.
struct Failing(Memory, u32);

impl Store for Failing {
    async fn load(&mut self) -> Result<crate::store::Loaded, StoreError> {
        self.1 += 1;
        if self.1 == 3 { Err(StoreError::Unavailable("gone".into())) } else { self.0.load().await }
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        self.0.commit(base, group).await
    }
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_source_taking_changes() {
    let mut from = Shared::new(Memory::new(), Vec::new());
    let failed = move_all(&mut from, &mut Failing(Memory::new(), 0)).await;
    assert_eq!(failed, Err(MoveError::To(StoreError::Unavailable("gone".into()))));
    let to = "the new one".to_owned();
    assert_eq!(from.fences, [Some(Fence::Moving { to }), None]);
}

/// A store in which leases end between their grant and their use, for so many commits that follow.
struct Lapsing {
    memory: Memory,
    commits: usize,
    /// Somebody else has written to it.
    is_overtaken: bool,
}

impl Store for Lapsing {
    async fn load(&mut self) -> Result<crate::store::Loaded, StoreError> {
        self.memory.load().await
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        match self.commits.checked_sub(1) {
            Some(left) => {
                self.commits = left;
                Ok(Commit::Overtaken(Vec::new()))
            }
            None => self.memory.commit(base, group).await,
        }
    }

    async fn is_at(&mut self, _: Revision) -> Result<bool, StoreError> {
        Ok(!self.is_overtaken)
    }
}

#[tokio::test]
async fn a_move_goes_on_although_leases_end_while_they_are_copied_and_gives_up_where_somebody_else_writes() {
    for (commits, is_overtaken, refused) in [
        (3, false, None),
        (1, true, Some("somebody else writes to it")),
        (usize::MAX, false, Some("end as fast as they are granted")),
    ] {
        let mut from = Memory::new();
        registrations().iter().for_each(|group| drop(from.write(group)));
        let mut to = Lapsing { memory: Memory::new(), commits, is_overtaken };
        let moved = move_all(&mut Shared::new(from, Vec::new()), &mut to).await;
        match refused {
            None => assert_eq!((moved.unwrap().records, to.memory.load().await.unwrap().items.len()), (4, 4)),
            Some(why) => assert!(moved.unwrap_err().to_string().contains(why)),
        }
    }
}

#[tokio::test]
async fn a_store_is_not_moved_into_itself_and_takes_changes_as_before() {
    let mut from = Shared::new(Memory::new(), Vec::new());
    let mut same = Shared::new(from.memory.clone(), Vec::new());
    let failed = move_all(&mut from, &mut same).await.unwrap_err();
    assert!(failed.to_string().contains("it is the store that is to be copied"), "{failed}");
    assert!(from.fences.is_empty() && same.fences.is_empty());
}

#[tokio::test]
async fn a_move_that_fails_before_anything_is_written_leaves_the_target_as_it_was() {
    // All that is in it comes and goes behind the fence of an empty store.
    let mut from = Shared { meddling: Meddling::Ignores, ..Shared::new(Memory::new(), Vec::new()) };
    from.changes = vec![Vec::new(), Vec::new(), Vec::new(), registrations().remove(0)];
    let mut to = Shared::new(Memory::new(), Vec::new());
    let failed = move_all(&mut from, &mut to).await.unwrap_err();
    assert!(failed.to_string().contains("reopened or changed meanwhile"), "{failed}");
    assert_eq!(to.fences.len(), 2);
    assert!(!to.is_closed());
}

/// Four replicas, registered one after the other.
fn registrations() -> Vec<Vec<Mutation>> {
    let registered = |number: u16| {
        let address = Address::parse(&format!("10.0.0.1:{number}")).unwrap();
        let wish = Registration::permanent(ServiceName::parse("orders").unwrap(), address);
        let fresh = Candidates::from_random(number.into(), number.into());
        match decide(&View::default(), &LIMITS, &Command::Register(wish), &fresh, UNIX_EPOCH) {
            Ok(Decision::Commit(mutation)) => vec![mutation],
            other => panic!("{other:?}"),
        }
    };
    (1..=4).map(registered).collect()
}

#[tokio::test]
async fn a_store_that_was_changed_behind_the_fence_goes_on_and_the_new_one_stays_closed() {
    for meddling in [Meddling::Reopens, Meddling::Ignores] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("to.redb");
        let mut from = Shared { meddling, ..Shared::new(Memory::new(), registrations()) };
        let mut to = Redb::open(path.clone()).await.unwrap();
        let failed = move_all(&mut from, &mut to).await.unwrap_err();
        assert!(matches!(failed, MoveError::From(_)), "{failed:?}");
        assert!(failed.to_string().contains("reopened or changed meanwhile"), "{failed}");
        assert!(!from.is_closed(), "{:?}", from.fences);
        assert_eq!(from.memory.load().await.unwrap().items.len(), 4);
        drop(to);
        let closed = Redb::open(path).await.unwrap().load().await;
        assert_eq!(closed, Err(StoreError::Fenced(Fence::Filling { from: "the old one".into() })));
    }
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
        let Ok(Decision::Commit(mutation)) = decide(&self.view, &LIMITS, &command, &fresh, UNIX_EPOCH) else {
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
    let moved = move_all(&mut old.store, &mut fresh).await.unwrap();
    assert!(moved.from > 10 * moved.to, "{moved:?}");
    let mut new = Registry::start(fresh).await;
    let mut guard = Guard::default();
    assert_eq!(new.sweep(&mut guard).await, (0, 5));
    assert_eq!(new.sweep(&mut guard).await, (0, 5), "the other five have taken nobody's place");
    // What is lost when it is moved stays lost, and so after a restart.
    let mut moved_again = Memory::new();
    move_all(&mut new.store, &mut moved_again).await.unwrap();
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
            let mut again = from.clone();
            let old = from.load().await.unwrap();
            let mut to = Redb::open(folder.path().join("to.redb")).await.unwrap();
            let moved = move_all(&mut from, &mut to).await.unwrap();
            assert_eq!(from.load().await, Err(StoreError::Fenced(Fence::Moved { to: "the new one".into() })));
            let new = to.load().await.unwrap();
            assert_eq!((moved.records, moved.from, moved.to), (old.items.len(), old.revision, new.revision));
            assert_ne!(old.epoch, new.epoch);
            let (old, new) = (View::new(1, old.items), View::new(1, new.items));
            assert_eq!(contents(old.items()), contents(new.items()));
            if moved.records > 0 {
                let refused = move_all(&mut again, &mut to).await.unwrap_err();
                assert!(refused.to_string().contains("an empty one only"), "{refused}");
            }
        });
    }

    #[test]
    fn what_was_acknowledged_while_it_was_moved_is_there_and_what_was_removed_is_not(
        choices in choices(60), early in 0..60_usize, groups in 1..20_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mutations: Vec<_> =
            carried_out(&choices).into_iter().map(|(committed, _, _)| committed.mutation).collect();
        let (before, meanwhile) = mutations.split_at(early.min(mutations.len()));
        runtime.block_on(async {
            let mut memory = Memory::new();
            memory.write(before);
            let changes = meanwhile.chunks(groups).map(<[_]>::to_vec).collect();
            let mut from = Shared::new(memory, changes);
            let mut to = Redb::open(folder.path().join("to.redb")).await.unwrap();
            let moved = move_all(&mut from, &mut to).await.unwrap();
            let (old, new) = (from.memory.load().await.unwrap(), to.load().await.unwrap());
            assert_eq!((moved.records, moved.from, moved.to), (old.items.len(), old.revision, new.revision));
            assert_eq!(contents(old.items), contents(new.items));
            let to = || "the new one".to_owned();
            assert_eq!(from.fences, [Some(Fence::Moving { to: to() }), Some(Fence::Moved { to: to() })]);
        });
    }
}
