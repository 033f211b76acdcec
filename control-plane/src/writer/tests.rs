use std::{sync::Mutex, time::Duration};

use gateway_proto::{Address, Health, LeaseId, ReplicaId, ReplicaKey, ServiceName};
use gateway_runtime::panics::caught;

use super::*;
use crate::{
    leases::{Leases, SWEEP_INTERVAL},
    observe::{Cursor, Observation},
    publish::{CatchUp, Filter, Publisher},
    registry::{LeaseTerms, Mutation, Proof, Registration, Revision, Said, Target, View},
    store::{Commit, Fence, Loaded, Memory, StoreError},
};

mod doubt;
mod moving;

/// A store that does what the test tells it, and tells what was asked of it.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    memory: Memory,
    groups: Vec<usize>,
    /// Those that each group has granted, whatever became of it.
    leases: Vec<LeaseId>,
    fault: Option<Fault>,
    is_away: bool,
    /// What is read of it never comes.
    hangs: bool,
    /// Whether it can be read and takes nothing.
    is_read_only: bool,
    loads: usize,
}

#[derive(Clone, Copy)]
enum Fault {
    /// The store could not even be asked.
    Unasked,
    /// It was asked, and did nothing.
    Lost,
    Full,
    /// The change is durable, and after that there is no room.
    LateFull,
    /// The change is durable and reported as failed.
    Ambiguous,
    /// Somebody else's change was faster.
    Overtaken,
    /// A defect shows before anything is durable.
    Panic,
    /// A defect shows when the change is durable and nobody knows.
    LatePanic,
}

impl Scripted {
    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.0.lock().unwrap());
    }

    fn memory(&self) -> Memory {
        std::mem::take(&mut self.0.lock().unwrap().memory)
    }
}

impl Store for Scripted {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        if self.0.lock().unwrap().is_away {
            return Err(StoreError::Unavailable("away".into()));
        }
        self.set(|script| script.loads += 1);
        let hangs = self.0.lock().unwrap().hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
        let mut memory = self.memory();
        let loaded = memory.load().await;
        self.set(|script| script.memory = memory);
        loaded
    }

    async fn commit(&mut self, _base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        let fault = {
            let mut script = self.0.lock().unwrap();
            script.groups.push(group.len());
            let records = group.iter().flat_map(Mutation::writes).filter_map(|write| write.record());
            script.leases.extend(records.filter_map(|record| record.lease).map(|lease| lease.id));
            if script.is_read_only { Some(Fault::Unasked) } else { script.fault.take() }
        };
        let failed = Err(StoreError::Unanswered("broken".into()));
        match fault {
            Some(Fault::Unasked) => return Err(StoreError::Unavailable("away".into())),
            Some(Fault::Lost) => return failed,
            Some(Fault::Overtaken) => return Ok(Commit::Overtaken(Vec::new())),
            Some(Fault::Full) => return Err(StoreError::Full("disk".into())),
            Some(Fault::Panic) => panic!("a defect in the store"),
            Some(Fault::Ambiguous | Fault::LateFull | Fault::LatePanic) | None => {}
        }
        let mut memory = self.memory();
        let revisions = memory.commit(0, group).await;
        self.set(|script| script.memory = memory);
        assert!(!matches!(fault, Some(Fault::LatePanic)), "a defect in the store");
        match fault {
            Some(Fault::LateFull) => Err(StoreError::FullUnanswered("disk".into())),
            Some(_) => failed,
            None => revisions,
        }
    }

    async fn fence(&mut self, fence: Option<Fence>, base: Option<Revision>) -> Result<bool, StoreError> {
        let fault = self.0.lock().unwrap().fault.take();
        let mut memory = self.memory();
        if !matches!(fault, Some(Fault::Lost)) {
            memory.fence(fence, base).await?;
        }
        self.set(|script| script.memory = memory);
        match fault {
            Some(Fault::Overtaken) => Ok(false),
            Some(Fault::LatePanic) => panic!("a defect in the store"),
            Some(_) => Err(StoreError::Unavailable("broken".into())),
            None => Ok(true),
        }
    }
}

struct Bench {
    store: Scripted,
    effects: Effects,
    commands: Commands,
    refusing: watch::Receiver<Option<WriteError>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), Failure>>,
}

async fn bench(queue_len: usize) -> Bench {
    let mut store = Scripted::default();
    let loaded = store.load().await.unwrap();
    let effects = Effects {
        publisher: Arc::new(Publisher::new(loaded.epoch, View::new(loaded.revision, loaded.items))),
        leases: Arc::new(Leases::new(clock::now())),
        observation: Arc::new(Observation::new(1)),
        metrics: Arc::new(Metrics::new()),
    };
    let limits = Limits { replicas: 1000, replicas_per_service: 1000 };
    let (mut writer, commands, refusing) = Writer::new(store.clone(), effects.clone(), limits, queue_len);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    // As its supervisor does.
    let task = tokio::spawn(async move {
        loop {
            if let Ok(ended) = caught(writer.run(&stopping)).await {
                return ended;
            }
        }
    });
    Bench { store, effects, commands, refusing, stop, task }
}

impl Bench {
    fn revision(&self) -> Revision {
        self.effects.publisher.read(View::revision)
    }

    fn replica_count(&self) -> usize {
        self.effects.publisher.read(View::replica_count)
    }
}

fn register(port: u16) -> Command {
    let address = Address::parse(&format!("10.0.0.1:{port}")).unwrap();
    let mut wish = Registration::permanent(ServiceName::parse("orders").unwrap(), address);
    wish.ttl = Some(Registration::DEFAULT_TTL);
    Command::Register(wish)
}

fn until(until: Option<Instant>) -> Conditions {
    Conditions { until, ..Conditions::default() }
}

fn lease_of(answer: Result<Answer, WriteError>) -> LeaseTerms {
    match answer {
        Ok(Answer::Registered { record, .. }) => record.lease.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_happened_is_told_completely_and_in_order_however_busy_the_writer_is() {
    let bench = bench(1000).await;
    let ports = 1..=700;
    let answers = bench.commands.submit_all(ports.clone().map(register).collect()).await;
    assert!(answers.iter().all(Result::is_ok));
    bench.store.set(|script| assert!(script.groups.len() > 1, "{:?}", script.groups));
    let told =
        bench.effects.observation.read_events(|timeline| timeline.since(Cursor::After(0), 9999)).events;
    let messages: Vec<_> = told.iter().map(|event| event.message.clone()).collect();
    let expected: Vec<_> = ports.map(|port| format!("registered at 10.0.0.1:{port}, lease of 15s")).collect();
    assert_eq!(messages, expected);
}

#[tokio::test]
async fn commands_that_wait_together_share_one_transaction() {
    let bench = bench(100).await;
    let commands = (1..=50).map(register).collect();
    // On one thread the writer runs only when all of them are in the queue.
    let outcomes = bench.commands.submit_all(commands).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(bench.store.0.lock().unwrap().groups, [50]);
    assert_eq!(bench.revision(), 50);
}

#[tokio::test]
async fn a_command_that_depends_on_another_one_starts_the_next_transaction() {
    let bench = bench(100).await;
    let outcomes = bench.commands.submit_all(vec![register(1), register(2), register(1)]).await;
    let leases: Vec<_> = outcomes.into_iter().map(lease_of).collect();
    assert_eq!(bench.store.0.lock().unwrap().groups, [2, 1]);
    assert_eq!(bench.replica_count(), 2);
    // The later registration of the same address holds the only valid lease.
    assert!(bench.effects.leases.get(leases[0].id).is_none());
    assert!(bench.effects.leases.get(leases[2].id).is_some());
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let bench = bench(1).await;
    let (first, second) =
        tokio::join!(bench.commands.submit(register(1)), bench.commands.submit(register(2)));
    assert!(first.is_ok());
    assert_eq!(second, Err(WriteError::Overloaded));
}

#[tokio::test]
async fn a_registration_that_nobody_waits_for_any_more_throws_out_nobody_who_registered_since() {
    let bench = bench(10).await;
    // On one thread the writer runs only when this does not.
    let hung_up = {
        let mut waiting = std::pin::pin!(bench.commands.submit(register(1)));
        std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await
    };
    let turn = Turn::default();
    let late = bench.commands.submit_in(turn.clone(), register(2), until(Some(clock::now())));
    let soon = Some(clock::now() + Duration::from_secs(60));
    let in_time = bench.commands.submit_in(turn, register(3), until(soon));
    let (late, in_time) = tokio::join!(late, in_time);
    assert!(hung_up && in_time.is_ok());
    assert_eq!(late, Err(WriteError::Overloaded));
    assert_eq!(bench.replica_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_somebody_was_faster_than_is_decided_anew_only_while_its_caller_waits() {
    for (patience, is_made) in [(Duration::from_millis(1), false), (Duration::from_secs(60), true)] {
        let bench = bench(10).await;
        bench.store.set(|script| script.fault = Some(Fault::Overtaken));
        let conditions = until(Some(clock::now() + patience));
        let answer = bench.commands.submit_in(Turn::default(), register(1), conditions).await;
        assert_eq!((answer.is_ok(), bench.replica_count()), (is_made, usize::from(is_made)));
        assert_eq!(bench.store.0.lock().unwrap().groups.len(), 1 + usize::from(is_made));
    }
}

#[tokio::test]
async fn who_was_let_register_where_nobody_was_takes_nobodys_place_who_came_first() {
    let bench = bench(10).await;
    let wish = |port: u16| {
        let Command::Register(wish) = register(port) else { unreachable!() };
        Command::Register(Registration { replica: Some(ReplicaId::parse("r-1").unwrap()), ..wish })
    };
    let admitted_on = |present: Option<&Record>| Conditions {
        admitted_on: Some(Present::of(present)),
        ..Conditions::default()
    };
    // Both before either is decided, and so in one group.
    let first = bench.commands.submit_in(Turn::default(), wish(1), admitted_on(None));
    let second = bench.commands.submit_in(Turn::default(), wish(2), admitted_on(None));
    let (first, second) = tokio::join!(first, second);
    let Ok(Answer::Registered { record, .. }) = first else { panic!("{first:?}") };
    assert_eq!(second, Err(WriteError::Overtaken));
    // However often he was told of meanwhile, it is he.
    for health in [Health::Unhealthy, Health::Healthy] {
        let (key, lease) = (record.key.clone(), record.lease.map(|lease| lease.id));
        let report = Command::ReportHealth { key, lease, health, reason: health.to_string() };
        bench.commands.submit(report).await.unwrap();
    }
    let again = bench.commands.submit_in(Turn::default(), wish(2), admitted_on(Some(&record))).await;
    assert!(again.is_ok(), "{again:?}");
    let late = bench.commands.submit_in(Turn::default(), wish(3), admitted_on(Some(&record))).await;
    assert_eq!((late, bench.replica_count()), (Err(WriteError::Overtaken), 1));
}

#[tokio::test]
async fn whoever_hangs_up_after_asking_for_a_removal_takes_it_back_no_more() {
    let bench = bench(10).await;
    let lease = lease_of(bench.commands.submit(register(1)).await);
    let target =
        Target::Address(ServiceName::parse("orders").unwrap(), Address::parse("10.0.0.1:1").unwrap());
    let leave =
        Command::Deregister { target, proof: Proof::Lease(lease.id), said: Said::default(), block: None };
    {
        let mut waiting = std::pin::pin!(bench.commands.submit(leave));
        std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
    }
    bench.commands.submit(register(2)).await.unwrap();
    assert_eq!(bench.replica_count(), 1);
}

/// A replica whose lease has lapsed, at port 1.
async fn lapsed(bench: &Bench) -> (ReplicaKey, LeaseId) {
    let Ok(Answer::Registered { record, .. }) = bench.commands.submit(register(1)).await else {
        panic!("it is new")
    };
    let lease = record.lease.unwrap().id;
    fall_silent(bench);
    assert_eq!(bench.effects.leases.get(lease), None);
    (record.key.clone(), lease)
}

/// Lets a whole time to live pass, with all its sweeps.
fn fall_silent(bench: &Bench) {
    let now = clock::now();
    for sweep in 1..=60 {
        bench.effects.leases.sweep(now + sweep * SWEEP_INTERVAL);
    }
}

fn expire((key, lease): &(ReplicaKey, LeaseId)) -> Command {
    Command::Expire { key: key.clone(), lease: *lease, silent_for: Registration::DEFAULT_TTL }
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_removal_may_be_durable_is_neither_held_nor_renewed_until_that_is_known() {
    for (fault, is_durable) in [(Fault::Lost, false), (Fault::Ambiguous, true)] {
        let mut bench = bench(10).await;
        let suspect = lapsed(&bench).await;
        let (key, lease) = &suspect;
        bench.store.set(|script| (script.fault, script.is_away) = (Some(fault), true));
        assert_eq!(bench.commands.submit(expire(&suspect)).await, Err(WriteError::Interrupted));
        let leases = Arc::clone(&bench.effects.leases);
        assert!(!leases.hold(*lease), "its owner could renew, and lose its replica all the same");
        assert_eq!(leases.renew(*lease, key, clock::now()), None);
        bench.refusing.borrow_and_update();
        bench.store.set(|script| script.is_away = false);
        bench.refusing.changed().await.unwrap();
        assert_eq!(bench.replica_count(), usize::from(!is_durable));
        assert_eq!(leases.hold(*lease), !is_durable, "the guard decides anew on what is there");
        assert_eq!(leases.renew(*lease, key, clock::now()).is_some(), !is_durable);
    }
}

#[tokio::test]
async fn a_replica_that_was_heard_of_before_its_removal_is_decided_stays() {
    let bench = bench(10).await;
    let suspect = lapsed(&bench).await;
    assert!(bench.effects.leases.hold(suspect.1));
    assert!(bench.effects.leases.renew(suspect.1, &suspect.0, clock::now()).is_some());
    let answer = bench.commands.submit(expire(&suspect)).await;
    assert!(matches!(answer, Ok(Answer::Replica(_))), "{answer:?}");
    assert!(bench.effects.leases.get(suspect.1).is_some());
    assert_eq!(bench.replica_count(), 1);
}

#[tokio::test]
async fn a_held_replica_whose_removal_was_decided_before_a_stall_stays() {
    let bench = bench(10).await;
    let suspect = lapsed(&bench).await;
    assert!(bench.effects.leases.hold(suspect.1));
    bench.effects.leases.sweep(clock::now() + 3 * Registration::DEFAULT_TTL);
    let answer = bench.commands.submit(expire(&suspect)).await;
    assert!(matches!(answer, Ok(Answer::Replica(_))), "{answer:?}");
    assert!(bench.effects.leases.renew(suspect.1, &suspect.0, clock::now()).is_some());
    assert_eq!(bench.replica_count(), 1);
}

#[tokio::test]
async fn a_lost_replicas_address_goes_to_nobody_once_its_owner_was_heard_of() {
    let bench = bench(10).await;
    let (key, lease) = lapsed(&bench).await;
    let other = || {
        let Command::Register(wish) = register(1) else { unreachable!() };
        Command::Register(Registration { replica: Some(ReplicaId::parse("other").unwrap()), ..wish })
    };
    assert!(bench.effects.leases.hold(lease));
    let hold = Command::Hold { key: key.clone(), lease, silent_for: Registration::DEFAULT_TTL };
    bench.commands.submit(hold).await.unwrap();
    // It renews, and its record says that it is lost until the writer comes to that.
    assert!(bench.effects.leases.renew(lease, &key, clock::now()).is_some());
    let refused = bench.commands.submit(other()).await;
    assert!(matches!(refused, Err(WriteError::Refused(RegistryError::AddressInUse { .. }))), "{refused:?}");
    assert!(bench.effects.leases.get(lease).is_some());
    // Once it is silent again, another may have its place.
    fall_silent(&bench);
    assert!(bench.effects.leases.hold(lease));
    assert!(bench.commands.submit(other()).await.is_ok());
    assert_eq!(bench.effects.publisher.read(|view| view.get(&key).cloned()), None);
    assert_eq!(bench.effects.leases.renew(lease, &key, clock::now()), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_is_used_again_without_anybody_asking() {
    let mut bench = bench(10).await;
    bench.store.set(|script| (script.fault, script.is_away) = (Some(Fault::Lost), true));
    bench.commands.submit(register(1)).await.unwrap_err();
    bench.refusing.borrow_and_update();
    bench.store.set(|script| script.is_away = false);
    bench.refusing.changed().await.unwrap();
    assert_eq!(*bench.refusing.borrow(), None);
    assert!(bench.commands.submit(register(1)).await.is_ok());
}

#[tokio::test]
async fn a_change_that_was_durable_after_all_is_known_before_anything_else_is_decided() {
    let bench = bench(10).await;
    bench.store.set(|script| script.fault = Some(Fault::Ambiguous));
    assert_eq!(bench.commands.submit(register(1)).await, Err(WriteError::Interrupted));
    // The caller's second try finds its first one.
    let Ok(Answer::Registered { record, created }) = bench.commands.submit(register(1)).await else {
        panic!("the store is back")
    };
    assert_eq!((record.revision, created), (2, false));
    assert_eq!(bench.replica_count(), 1);
    assert!(bench.effects.leases.get(record.lease.unwrap().id).is_some());
}

#[tokio::test]
async fn whoever_is_not_told_whether_a_change_was_made_learns_it_by_asking_again_with_the_same_id() {
    for (fault, is_made) in [(Fault::Ambiguous, true), (Fault::Lost, false)] {
        let bench = bench(10).await;
        let wish = || {
            let Command::Register(wish) = register(1) else { unreachable!() };
            Command::Register(Registration { request: Some(7), ..wish })
        };
        bench.store.set(|script| script.fault = Some(fault));
        assert_eq!(bench.commands.submit(wish()).await, Err(WriteError::Interrupted));
        let first = bench.store.0.lock().unwrap().leases[0];
        let lease = lease_of(bench.commands.submit(wish()).await);
        assert_eq!((lease.id == first, bench.revision()), (is_made, 1), "it is registered once");
    }
}

#[tokio::test]
async fn of_a_change_that_was_made_although_nobody_could_be_told_people_are_told_once() {
    for fault in [Fault::Ambiguous, Fault::LatePanic, Fault::Lost] {
        let bench = bench(10).await;
        bench.store.set(|script| script.fault = Some(fault));
        let lost = bench.commands.submit_all(vec![register(1), register(2)]).await;
        assert_eq!(lost, [Err(WriteError::Interrupted), Err(WriteError::Interrupted)]);
        bench.commands.submit(register(3)).await.unwrap();
        let told =
            bench.effects.observation.read_events(|timeline| timeline.since(Cursor::After(0), 99)).events;
        let ports: Vec<_> = told.iter().map(|event| event.metadata["address"].as_str()).collect();
        match fault {
            Fault::Lost => assert_eq!(ports, ["10.0.0.1:3"]),
            _ => assert_eq!(ports, ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]),
        }
    }
}

#[tokio::test]
async fn a_panic_interrupts_what_was_in_hand_and_what_waits_is_served_afterwards() {
    let bench = bench(10).await;
    let first = lease_of(bench.commands.submit(register(1)).await);
    bench.store.set(|script| script.fault = Some(Fault::Panic));
    let interrupted = bench.commands.submit_all(vec![register(2), register(3)]).await;
    assert_eq!(interrupted, [Err(WriteError::Interrupted), Err(WriteError::Interrupted)]);
    assert!(bench.commands.submit(register(4)).await.is_ok());
    assert_eq!((bench.revision(), bench.replica_count()), (2, 2));
    assert!(bench.effects.leases.get(first.id).is_some(), "what was acknowledged is not touched");
}

#[tokio::test]
async fn what_became_durable_before_a_panic_is_known_before_anything_else_is_decided() {
    let mut bench = bench(10).await;
    bench.store.set(|script| script.fault = Some(Fault::LatePanic));
    bench.refusing.borrow_and_update();
    assert_eq!(bench.commands.submit(register(1)).await, Err(WriteError::Interrupted));
    // The caller's second try finds its first one.
    let Ok(Answer::Registered { record, created }) = bench.commands.submit(register(1)).await else {
        panic!("the writer is back")
    };
    assert_eq!((record.revision, created, bench.replica_count()), (2, false, 1));
    assert!(bench.effects.leases.get(record.lease.unwrap().id).is_some());
    assert_eq!(*bench.refusing.borrow(), None);
    // Nothing is built on what memory held when it panicked: who is behind gets everything.
    assert_eq!(bench.effects.publisher.catch_up(0, &Filter::All), CatchUp::TooFar);
}

#[tokio::test]
async fn a_panic_does_not_keep_the_writer_from_ending() {
    let bench = bench(10).await;
    bench.store.set(|script| script.fault = Some(Fault::Panic));
    let waiting = tokio::spawn({
        let commands = bench.commands.clone();
        async move { commands.submit(register(1)).await }
    });
    tokio::task::yield_now().await;
    bench.stop.cancel();
    assert_eq!(waiting.await.unwrap(), Err(WriteError::Interrupted));
    assert_eq!(bench.task.await.unwrap(), Ok(()));
    assert_eq!(bench.commands.submit(register(2)).await, Err(WriteError::ShuttingDown));
}

#[tokio::test]
async fn a_store_that_became_another_one_ends_the_process() {
    let bench = bench(10).await;
    bench.commands.submit(register(1)).await.unwrap();
    bench.store.set(|script| (script.fault, script.memory) = (Some(Fault::Lost), Memory::new()));
    bench.commands.submit(register(2)).await.unwrap_err();
    assert_eq!(bench.task.await.unwrap().unwrap_err().code(), 1);
}

#[tokio::test]
async fn removal_and_a_stale_lease_leave_no_lease_behind() {
    let bench = bench(10).await;
    let first = lease_of(bench.commands.submit(register(1)).await);
    let target =
        Target::Address(ServiceName::parse("orders").unwrap(), Address::parse("10.0.0.1:1").unwrap());
    let command =
        Command::Deregister { target, proof: Proof::Lease(first.id), said: Said::default(), block: None };
    bench.commands.submit(command).await.unwrap();
    assert_eq!(bench.effects.leases.get(first.id), None);
}

#[tokio::test]
async fn when_it_stops_it_finishes_what_is_waiting_and_refuses_what_comes_later() {
    let bench = bench(10).await;
    let waiting = tokio::spawn({
        let commands = bench.commands.clone();
        async move { commands.submit(register(1)).await }
    });
    tokio::task::yield_now().await;
    bench.stop.cancel();
    assert!(waiting.await.unwrap().is_ok());
    assert_eq!(bench.task.await.unwrap(), Ok(()));
    assert_eq!(bench.commands.submit(register(2)).await, Err(WriteError::ShuttingDown));
}

#[tokio::test]
async fn a_registration_that_was_overtaken_keeps_the_lease_that_it_was_given() {
    let bench = bench(9).await;
    bench.store.set(|script| script.fault = Some(Fault::Overtaken));
    let lease = lease_of(bench.commands.submit(register(1)).await).id;
    bench.store.set(|script| assert_eq!(script.leases, [lease, lease]));
}
