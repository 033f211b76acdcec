//! The store on an etcd in memory: watches that fall silent, leases, fences, and an etcd that is not what it was.

use gateway_proto::{Address, LeaseId, ReplicaKey, ServiceName};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{fake::Fake, *};
use crate::{
    effects::Effects,
    leases::{Leases, Renewal},
    metrics::Metrics,
    observe::{Cursor, Observation},
    publish::Publisher,
    registry::{Candidates, Command, Decision, Limits, Proof, Registration, Said, Target, View, decide},
    writer::{Commands, WriteError, Writer},
};

/// A store on it.
pub(super) async fn store(fake: &Fake) -> Etcd {
    Etcd::open(&fake.location().parse().unwrap(), &EtcdFiles::default()).await.unwrap()
}

/// Registers a replica for good, as the one with this number.
pub(super) fn registration(number: u16) -> Mutation {
    leased(number, None)
}

/// The same with a lease of this time to live.
pub(super) fn leased(number: u16, ttl: Option<Duration>) -> Mutation {
    let address = Address::parse(&format!("10.0.0.1:{number}")).unwrap();
    let wish =
        Registration { ttl, ..Registration::permanent(ServiceName::parse("orders").unwrap(), address) };
    decided(&View::default(), &Command::Register(wish), number)
}

/// What comes of a command, with ids drawn from this number.
fn decided(view: &View, command: &Command, number: u16) -> Mutation {
    let fresh = Candidates::from_random(number.into(), number.into());
    let limits = Limits { replicas: 99, replicas_per_service: 99 };
    match decide(view, &limits, command, &fresh, clock::wall()) {
        Ok(Decision::Commit(mutation)) => mutation,
        other => panic!("{other:?}"),
    }
}

/// Waits for news that ask for everything to be read again.
async fn asked_to_read_again(store: &mut Etcd) {
    let news = async { while !matches!(store.news().await, News::ReadAgain(_)) {} };
    tokio::time::timeout(Duration::from_secs(20), news).await.expect("the store has noticed");
}

#[tokio::test]
async fn changes_of_another_control_plane_are_told_by_the_watch() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    assert_eq!(other.load().await.unwrap().revision, base);
    let Ok(Commit::Durable(revisions)) = one.commit(base, &[registration(1)]).await else { panic!() };
    let News::Changed { groups, .. } = other.news().await else { panic!() };
    assert_eq!((groups[0].0, groups[0].1[0].revision), (base, revisions[0]));
}

#[tokio::test]
async fn a_watch_that_has_fallen_silent_does_not_keep_a_control_plane_from_changing_anything() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    other.load().await.unwrap();
    fake.fall_silent(2).await;
    let Ok(Commit::Durable(revisions)) = one.commit(base, &[registration(1)]).await else { panic!() };
    // The last change that it could tell of: nothing follows by which the gap would show.
    assert_eq!(other.commit(base, &[registration(2)]).await, Ok(Commit::Overtaken(Vec::new())));
    fake.speak();
    asked_to_read_again(&mut other).await;
    let loaded = other.load().await.unwrap();
    assert_eq!((loaded.revision, loaded.items.len()), (revisions[0], 1));
    assert!(matches!(other.commit(loaded.revision, &[registration(2)]).await, Ok(Commit::Durable(_))));
}

#[tokio::test]
async fn a_watch_that_has_fallen_silent_is_found_out_by_the_next_comparison() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    other.load().await.unwrap();
    fake.fall_silent(2).await;
    let Ok(Commit::Durable(revisions)) = one.commit(base, &[registration(1)]).await else { panic!() };
    // As every few minutes.
    assert_eq!(other.load().await.unwrap().revision, base, "what was told is compared");
    fake.speak();
    asked_to_read_again(&mut other).await;
    assert_eq!(other.load().await.unwrap().revision, revisions[0]);
}

#[tokio::test]
async fn a_control_plane_that_ends_in_good_order_is_not_among_those_that_are_there_from_then_on() {
    let fake = Fake::start().await;
    let (one, mut other) = (store(&fake).await, store(&fake).await);
    other.load().await.unwrap();
    let (own, mut known) = (one.peers().unwrap(), other.peers().unwrap().follow());
    own.publish("p-a", "a:1");
    let are_known = async |known: &mut tokio::sync::watch::Receiver<Known>, count: usize| {
        let known = known.wait_for(|known| known.len() == count);
        tokio::time::timeout(Duration::from_secs(20), known).await.expect("in time").unwrap().clone()
    };
    assert_eq!(are_known(&mut known, 1).await["p-a"], "a:1");
    own.withdraw().await;
    assert!(are_known(&mut known, 0).await.is_empty());
}

/// The commits that are told next: the one on which each was made, and its own revision.
async fn told(store: &mut Etcd) -> Vec<(Revision, Revision)> {
    let news = tokio::time::timeout(Duration::from_secs(20), store.news());
    let News::Changed { groups, .. } = news.await.expect("in time") else { panic!() };
    groups.into_iter().map(|(base, committed)| (base, committed[0].revision)).collect()
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_told_once_to_whoever_made_it_too() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    assert_eq!(other.load().await.unwrap().revision, base);
    fake.lose(1);
    let lost = one.commit(base, &[registration(1)]).await;
    assert!(matches!(lost, Err(StoreError::Unanswered(_))), "{lost:?}");
    // As when its watch has broken, too.
    one.watching = None;
    let made = one.load().await.unwrap();
    assert_eq!(made.items.len(), 1);
    // Its cause comes with it.
    assert_eq!(retold(&mut one).await, [made.revision]);
    assert_eq!(told(&mut other).await, [(base, made.revision)]);
    let Ok(Commit::Durable(revisions)) = one.commit(made.revision, &[registration(2)]).await else {
        panic!()
    };
    assert_eq!(told(&mut one).await, [(made.revision, revisions[0])], "and the first one no more");
}

#[tokio::test]
async fn what_became_of_a_change_whose_answer_was_lost_is_told_by_a_watch_that_goes_on() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    other.load().await.unwrap();
    assert_eq!(one.resume(base).await, Ok(Some(base)), "nothing has happened");
    fake.lose(1);
    assert!(one.commit(base, &[registration(1)]).await.is_err());
    let head = one.resume(base).await.unwrap().expect("the watch goes on");
    assert!(head > base);
    assert_eq!(told(&mut one).await, [(base, head)]);
    assert_eq!(told(&mut other).await, [(base, head)]);
    // Nor is anything read where others were faster.
    let Ok(Commit::Durable(revisions)) = other.commit(head, &[registration(2)]).await else { panic!() };
    assert_eq!(one.resume(head).await, Ok(Some(revisions[0])));
    one.watching = None;
    assert_eq!(one.resume(head).await, Ok(None));
}

/// The commits that are told next, which were read before.
async fn retold(store: &mut Etcd) -> Vec<Revision> {
    let news = tokio::time::timeout(Duration::from_secs(20), store.news());
    let News::Retold(committed) = news.await.expect("in time") else { panic!() };
    committed.into_iter().map(|committed| committed.revision).collect()
}

#[tokio::test]
async fn each_of_several_changes_whose_answers_were_lost_is_told_and_none_twice() {
    let fake = Fake::start().await;
    let mut one = store(&fake).await;
    let mut head = one.load().await.unwrap().revision;
    let mut lost = Vec::new();
    for number in [1, 3, 5] {
        fake.lose(1);
        let unanswered = one.commit(head, &[registration(number)]).await;
        assert!(matches!(unanswered, Err(StoreError::Unanswered(_))), "{unanswered:?}");
        one.watching = None;
        head = one.load().await.unwrap().revision;
        lost.push(head);
        // Known, and told by whoever made it: it lies between those that are still to be told.
        let Ok(Commit::Durable(revisions)) = one.commit(head, &[registration(number + 1)]).await else {
            panic!()
        };
        head = revisions[0];
    }
    let mut told = Vec::new();
    while told.len() < 3 {
        match tokio::time::timeout(Duration::from_secs(20), one.news()).await.expect("in time") {
            News::Retold(committed) => told.extend(committed.into_iter().map(|entry| entry.revision)),
            News::Changed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, lost);
}

#[tokio::test]
async fn what_etcd_has_forgotten_before_it_was_told_is_told_as_missed() {
    let fake = Fake::start().await;
    let mut one = store(&fake).await;
    let base = one.load().await.unwrap().revision;
    fake.lose(1);
    assert!(one.commit(base, &[registration(1)]).await.is_err());
    one.watching = None;
    fake.compact();
    let made = one.load().await.unwrap().revision;
    let news = tokio::time::timeout(Duration::from_secs(20), one.news()).await.expect("in time");
    assert!(matches!(news, News::Missed { up_to, .. } if up_to == made), "{news:?}");
}

/// A control plane on it, as far as it writes.
async fn writing(fake: &Fake) -> (Effects, Commands, AbortOnDropHandle<()>) {
    let mut store = store(fake).await;
    let loaded = store.load().await.unwrap();
    let effects = Effects {
        publisher: Arc::new(Publisher::new(loaded.epoch, View::new(loaded.revision, loaded.items))),
        leases: Arc::new(Leases::with_outlet(clock::now(), store.outlet())),
        observation: Arc::new(Observation::new(1)),
        metrics: Arc::new(Metrics::new()),
    };
    let limits = Limits { replicas: 99, replicas_per_service: 99 };
    let (mut writer, commands, _) = Writer::new(store, effects.clone(), limits, 9);
    let task = tokio::spawn(async move { writer.run(&CancellationToken::new()).await.unwrap() });
    (effects, commands, AbortOnDropHandle::new(task))
}

fn wish(port: u16) -> Command {
    let address = Address::parse(&format!("10.0.0.1:{port}")).unwrap();
    Command::Register(Registration::permanent(ServiceName::parse("orders").unwrap(), address))
}

#[tokio::test]
async fn nobody_waits_for_long_for_a_watch_that_does_not_tell_what_became_of_a_change() {
    let fake = Fake::start().await;
    let (_effects, commands, _one) = writing(&fake).await;
    fake.fall_silent(1).await;
    fake.lose(1);
    assert_eq!(commands.submit(wish(1)).await, Err(WriteError::Interrupted));
    let began = clock::now();
    assert_eq!(commands.submit(wish(2)).await, Err(WriteError::StoreUnavailable));
    assert!(clock::now() - began < TOLD_WITHIN, "{:?}", clock::now() - began);
    fake.speak();
    let taken = async {
        while commands.submit(wish(2)).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.expect("what it does not tell is read");
}

#[tokio::test]
async fn of_a_change_whose_answer_was_lost_every_control_plane_tells_people_once() {
    let fake = Fake::start().await;
    let (one, commands, _one) = writing(&fake).await;
    let (other, _commands, _other) = writing(&fake).await;
    fake.lose(1);
    assert_eq!(commands.submit(wish(1)).await, Err(WriteError::Interrupted));
    commands.submit(wish(2)).await.unwrap();
    for effects in [one, other] {
        let told = || {
            let events =
                effects.observation.read_events(|timeline| timeline.since(Cursor::After(0), 99)).events;
            let told =
                events.iter().map(|event| (event.event_type.clone(), event.metadata["address"].clone()));
            told.collect::<Vec<_>>()
        };
        let all_told = async {
            while told().len() < 2 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), all_told).await;
        assert!(in_time.is_ok(), "only {:?} are told", told());
        let mut told = told();
        told.sort();
        let registered = |address: &str| ("REPLICA_REGISTERED".to_owned(), address.to_owned());
        assert_eq!(told, [registered("10.0.0.1:1"), registered("10.0.0.1:2")]);
    }
}

#[tokio::test]
async fn a_change_for_which_etcd_could_not_be_asked_was_not_made() {
    let fake = Fake::start().await;
    let mut store = store(&fake).await;
    let base = store.load().await.unwrap().revision;
    drop(fake);
    let live = store.client.live().await.unwrap();
    store.client.give_up(&live, true);
    let refused = store.commit(base, &[registration(1)]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}

/// Long enough that nothing of it is over while a test lasts.
pub(super) const TTL: Duration = Duration::from_secs(60);

/// A store with one replica that has a lease, whose renewals go there from the table that is yielded, too.
async fn with_a_lease(fake: &Fake) -> (Etcd, Leases, LeaseId, ReplicaKey) {
    let mut store = store(fake).await;
    let base = store.load().await.unwrap().revision;
    assert!(matches!(store.commit(base, &[leased(1, Some(TTL))]).await, Ok(Commit::Durable(_))));
    let loaded = store.load().await.unwrap();
    let record = loaded.items[0].as_replica().unwrap();
    let (lease, key) = (record.lease.unwrap().id, record.key.clone());
    let leases = Leases::with_outlet(clock::now(), store.outlet());
    leases.grant(lease, key.clone(), TTL, clock::now());
    (store, leases, lease, key)
}

#[tokio::test]
async fn renewals_that_a_member_leaves_without_an_answer_are_asked_again_on_the_next_stream() {
    let fake = Fake::start().await;
    let (_store, leases, lease, key) = with_a_lease(&fake).await;
    fake.stall(1);
    leases.renew(lease, &key, clock::now()).unwrap();
    fake.is_asked(lease, 2).await;
}

#[tokio::test]
async fn a_renewal_that_is_too_old_to_be_told_opens_no_stream_on_which_there_is_nothing_to_say() {
    let fake = Fake::start().await;
    let (store, _, lease, key) = with_a_lease(&fake).await;
    let (renewals, receiver) = mpsc::channel(9);
    let keeping = super::keeper::run(store.client.clone(), store.keys.clone(), receiver);
    let _keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
    let heard =
        |ago| Renewal { lease, key: key.clone(), ttl: TTL, heard: clock::now() - ago, is_dropped: false };
    for _ in 0..9 {
        renewals.try_send(heard(TTL)).unwrap();
    }
    let begun = clock::now();
    renewals.send(heard(Duration::ZERO)).await.unwrap();
    fake.is_asked(lease, 1).await;
    // Each stream in vain would take a second and a half, and the connection with it.
    assert!(clock::now() - begun < Duration::from_secs(1));
}

#[tokio::test]
async fn a_lease_that_etcd_has_dropped_is_begun_anew_although_no_renewal_is_answered() {
    let fake = Fake::start().await;
    let (store, leases, lease, key) = with_a_lease(&fake).await;
    fake.stall(usize::MAX);
    leases.kept(lease);
    let tag = LeaseTag::of(lease).get();
    let is_there = || fake.has_under(tag);
    store.client.revoke(tag).await.unwrap();
    assert!(!is_there());
    leases.dropped(lease, clock::now());
    let again = async {
        while !is_there() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("in time");
    assert!(leases.renew(lease, &key, clock::now()).is_some());
}

#[tokio::test]
async fn past_a_fence_nobody_changes_anything_but_who_has_put_it_there_until_it_is_taken_away() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    other.load().await.unwrap();
    let fence = Fence::Moving { to: "redb:a".into() };
    one.fence(Some(fence.clone()), None).await.unwrap();
    // Whether the watch has told of it or not.
    assert_eq!(other.commit(base, &[registration(1)]).await, Ok(Commit::Overtaken(Vec::new())));
    assert_eq!(other.is_at(base).await, Ok(false));
    asked_to_read_again(&mut other).await;
    assert_eq!(other.load().await, Err(StoreError::Fenced(fence.clone())));
    assert_eq!(other.fence(Some(fence.clone()), None).await, Err(StoreError::Fenced(fence)));
    assert_eq!(one.load().await.unwrap().revision, base);
    assert!(matches!(one.commit(base, &[registration(1)]).await, Ok(Commit::Durable(_))));
    one.fence(None, None).await.unwrap();
    let loaded = other.load().await.unwrap();
    assert_eq!(loaded.items.len(), 1);
    assert!(matches!(other.commit(loaded.revision, &[registration(2)]).await, Ok(Commit::Durable(_))));
}

#[tokio::test]
async fn a_control_plane_that_watches_is_told_of_a_fence_and_of_what_has_become_of_it() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    other.load().await.unwrap();
    let to = || "redb:a".to_owned();
    for fence in [Fence::Moving { to: to() }, Fence::Moved { to: to() }] {
        one.fence(Some(fence.clone()), None).await.unwrap();
        asked_to_read_again(&mut other).await;
        assert_eq!(other.load().await, Err(StoreError::Fenced(fence)));
    }
}

#[tokio::test]
async fn whoever_has_moved_all_of_a_store_changes_it_no_more_either_until_it_is_reopened() {
    let fake = Fake::start().await;
    let mut one = store(&fake).await;
    let base = one.load().await.unwrap().revision;
    let (moving, moved) = (Fence::Moving { to: "redb:a".into() }, Fence::Moved { to: "redb:a".into() });
    assert_eq!(one.fence(Some(moving), None).await, Ok(true));
    assert_eq!(one.fence(Some(moved.clone()), Some(base)).await, Ok(true));
    assert_eq!(one.commit(base, &[registration(1)]).await, Ok(Commit::Overtaken(Vec::new())));
    assert_eq!(one.load().await, Err(StoreError::Fenced(moved)));
    assert_eq!(one.fence(None, None).await, Ok(true));
    assert_eq!(one.load().await.unwrap().revision, base);
    assert!(matches!(one.commit(base, &[registration(1)]).await, Ok(Commit::Durable(_))));
}

#[tokio::test]
async fn a_fence_that_somebody_else_took_away_is_put_back_by_nobody_who_copied_what_was_there_before() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (store(&fake).await, store(&fake).await);
    let base = one.load().await.unwrap().revision;
    let to = || "redb:a".to_owned();
    assert_eq!(one.fence(Some(Fence::Moving { to: to() }), None).await, Ok(true));
    assert_eq!(other.load().await, Err(StoreError::Fenced(Fence::Moving { to: to() })));
    assert_eq!(other.fence(None, None).await, Ok(true));
    assert!(one.load().await.is_err(), "it is not closed any more");
    assert_eq!(one.fence(Some(Fence::Moved { to: to() }), None).await, Ok(false));
    assert_eq!(one.commit(base, &[registration(1)]).await, Ok(Commit::Overtaken(Vec::new())));
    let base = other.load().await.unwrap().revision;
    assert!(matches!(other.commit(base, &[registration(1)]).await, Ok(Commit::Durable(_))));
    // Nor is the one taken away that somebody else has put there since.
    assert_eq!(other.fence(Some(Fence::Moving { to: "redb:b".into() }), None).await, Ok(true));
    let theirs = StoreError::Fenced(Fence::Moving { to: "redb:b".into() });
    assert_eq!(one.fence(None, None).await, Err(theirs.clone()));
    assert_eq!(one.fence(Some(Fence::Moved { to: to() }), None).await, Err(theirs));
    assert_eq!(other.fence(None, None).await, Ok(true));
    assert_eq!(one.fence(None, None).await, Ok(true), "there is none");
}

#[tokio::test]
async fn a_store_that_somebody_changed_past_the_fence_is_not_said_to_have_moved() {
    let fake = Fake::start().await;
    let (mut one, mut heedless) = (store(&fake).await, store(&fake).await);
    let (base, fence) = (one.load().await.unwrap().revision, Fence::Moving { to: "redb:a".into() });
    one.fence(Some(fence.clone()), None).await.unwrap();
    // As a version is that knows of no fences.
    heedless.own_fence = one.own_fence;
    assert!(matches!(heedless.commit(base, &[registration(1)]).await, Ok(Commit::Durable(_))));
    let moved = Fence::Moved { to: "redb:a".into() };
    assert_eq!(one.fence(Some(moved.clone()), Some(base)).await, Ok(false));
    let now = one.load().await.unwrap().revision;
    assert_eq!(one.fence(Some(moved), Some(now)).await, Ok(true));
}

#[tokio::test]
async fn a_reopened_store_keeps_a_fence_that_was_not_there_when_somebody_looked() {
    let fake = Fake::start().await;
    let (mut mover, mut other) = (store(&fake).await, store(&fake).await);
    let to = || "redb:a".to_owned();
    mover.fence(Some(Fence::Moving { to: to() }), None).await.unwrap();
    assert_eq!(other.load().await, Err(StoreError::Fenced(Fence::Moving { to: to() })));
    mover.fence(Some(Fence::Moved { to: to() }), None).await.unwrap();
    let moved = StoreError::Fenced(Fence::Moved { to: to() });
    assert_eq!(other.fence(None, None).await, Err(moved.clone()), "it was being moved, and has moved by now");
    assert_eq!(other.load().await, Err(moved));
    assert_eq!(other.fence(None, None).await, Ok(true));
}

#[tokio::test]
async fn control_planes_that_start_together_all_find_the_store_that_one_of_them_makes() {
    for calls in 0..5 {
        let (fake, keys) = (Fake::start().await, Keys::new("gw"));
        let meta = Meta::new("theirs".into()).encode();
        let theirs = vec![(keys.meta(), meta), (keys.head(), entry::encode(0, &[]))];
        fake.do_after(calls, creation(theirs));
        let loaded = store(&fake).await.load().await.unwrap();
        assert!(loaded.items.is_empty(), "{loaded:?}");
    }
}

#[tokio::test]
async fn keys_of_somebody_else_are_still_taken_for_no_store_of_ours() {
    let fake = Fake::start().await;
    let location = fake.location().parse().unwrap();
    let client = Client::new(&location, &EtcdFiles::default(), Contact::new(clock::now())).unwrap();
    client.txn(creation(vec![(Keys::new("gw").head(), Vec::new())])).await.unwrap();
    let refused = Etcd::open(&location, &EtcdFiles::default()).await.unwrap_err();
    assert!(refused.to_string().contains("nothing that says that it is ours"), "{refused}");
}

/// Two stores on it that know the same, and the revision at which they do.
async fn two_that_agree(fake: &Fake) -> (Etcd, Etcd, Revision) {
    let (mut one, mut other) = (store(fake).await, store(fake).await);
    let base = one.load().await.unwrap().revision;
    let Ok(Commit::Durable(revisions)) = one.commit(base, &[registration(1)]).await else { panic!() };
    assert_eq!(other.load().await.unwrap().revision, revisions[0]);
    (one, other, revisions[0])
}

#[tokio::test]
async fn an_etcd_that_is_as_it_was_earlier_is_read_again_by_whoever_changes_something() {
    let fake = Fake::start().await;
    let (mut one, mut other, early) = two_that_agree(&fake).await;
    let Ok(Commit::Durable(later)) = one.commit(early, &[registration(2)]).await else { panic!() };
    let Ok(Commit::Durable(late)) = one.commit(later[0], &[registration(3)]).await else { panic!() };
    fake.restore(early);
    assert_eq!(other.commit(late[0], &[registration(4)]).await, Ok(Commit::Overtaken(Vec::new())));
    asked_to_read_again(&mut other).await;
    assert_eq!(other.load().await.unwrap().revision, early);
    // Where it has gone on meanwhile, and not as far as before.
    assert!(matches!(other.commit(early, &[registration(5)]).await, Ok(Commit::Durable(_))));
    assert_eq!(one.is_at(late[0]).await, Ok(false));
    asked_to_read_again(&mut one).await;
    assert_eq!(one.load().await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn an_etcd_that_is_as_it_was_earlier_is_read_again_although_nothing_is_changed() {
    let fake = Fake::start().await;
    let (mut one, _, early) = two_that_agree(&fake).await;
    assert!(matches!(one.commit(early, &[registration(2)]).await, Ok(Commit::Durable(_))));
    fake.restore(early);
    asked_to_read_again(&mut one).await;
    assert_eq!(one.load().await.unwrap().revision, early);
}

#[tokio::test]
async fn the_same_keys_in_another_cluster_are_read_again_and_are_another_store() {
    let fake = Fake::start().await;
    let (mut one, ..) = two_that_agree(&fake).await;
    let before = one.load().await.unwrap().epoch;
    fake.move_to_cluster(2);
    asked_to_read_again(&mut one).await;
    assert_ne!(one.load().await.unwrap().epoch, before);
}

#[tokio::test]
async fn a_watch_that_has_fallen_silent_is_found_out_although_nothing_is_changed_here() {
    let fake = Fake::start().await;
    let (mut one, mut other, base) = two_that_agree(&fake).await;
    one.load().await.unwrap();
    fake.fall_silent(2).await;
    let Ok(Commit::Durable(revisions)) = one.commit(base, &[registration(2)]).await else { panic!() };
    asked_to_read_again(&mut other).await;
    fake.speak();
    assert_eq!(other.load().await.unwrap().revision, revisions[0]);
}

#[tokio::test]
async fn a_watch_leaves_a_member_together_with_everything_else() {
    let fake = Fake::start().await;
    let mut store = store(&fake).await;
    store.load().await.unwrap();
    fake.is_watched(1).await;
    let live = store.client.live().await.unwrap();
    store.client.give_up(&live, true);
    fake.is_watched(2).await;
}

#[tokio::test]
async fn etcd_keeps_no_lease_of_a_replica_that_is_gone_or_has_another_one() {
    let fake = Fake::start().await;
    let (mut store, _, _, key) = with_a_lease(&fake).await;
    fake.keeps(1).await;
    let loaded = store.load().await.unwrap();
    let view = View::new(loaded.revision, loaded.items);
    let again = Registration {
        ttl: Some(TTL),
        replica: Some(key.replica.clone()),
        ..Registration::permanent(key.service.clone(), Address::parse("10.0.0.1:1").unwrap())
    };
    let again = decided(&view, &Command::Register(again), 2);
    assert!(matches!(store.commit(view.revision(), &[again]).await, Ok(Commit::Durable(_))));
    fake.keeps(1).await;
    let loaded = store.load().await.unwrap();
    let lease = loaded.items[0].as_replica().unwrap().lease.unwrap().id;
    assert!(fake.has_under(LeaseTag::of(lease).get()), "the one that it has now");
    let view = View::new(loaded.revision, loaded.items);
    let (target, proof) = (Target::Key(key), Proof::Lease(lease));
    let gone = Command::Deregister { target, proof, said: Said::default(), block: None };
    let gone = decided(&view, &gone, 3);
    assert!(matches!(store.commit(view.revision(), &[gone]).await, Ok(Commit::Durable(_))));
    fake.keeps(0).await;
}
