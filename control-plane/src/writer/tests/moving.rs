//! What the writer does while the registry is moved to another store, and once it has moved.

use super::*;
use crate::writer::{Closing, Reopening};

const TO: &str = "etcd://a:2379/gw";

/// Says where the registry goes on.
fn moved() -> WriteError {
    WriteError::StoreMoved(TO.into())
}

async fn close(bench: &Bench) -> Closing {
    bench.commands.close(TO.into(), "ana".into()).await.unwrap()
}

async fn reopen(bench: &Bench) -> Result<Reopening, WriteError> {
    bench.commands.reopen("bob".into()).await
}

async fn until_available(bench: &mut Bench, wanted: bool) {
    bench.refusing.wait_for(|why| why.is_none() == wanted).await.unwrap();
}

/// Who did what to the store, as people are told.
fn told(bench: &Bench) -> Vec<(String, String)> {
    let read = |timeline: &crate::observe::Timeline| timeline.since(Cursor::After(0), 9999);
    let events = bench.effects.observation.read_events(read).events.into_iter();
    let events = events.filter(|event| event.event_type.starts_with("STORE_"));
    events.map(|event| (event.event_type.clone(), event.actor.clone())).collect()
}

fn by(names: &[(&str, &str)]) -> Vec<(String, String)> {
    names.iter().map(|(event, actor)| ((*event).to_owned(), (*actor).to_owned())).collect()
}

#[tokio::test]
async fn changes_are_refused_for_as_long_as_the_mover_is_there_and_renewals_go_on() {
    let mut bench = bench(10).await;
    let Ok(Answer::Registered { record, .. }) = bench.commands.submit(register(1)).await else { panic!() };
    let lease = record.lease.unwrap().id;
    let closing = close(&bench).await;
    until_available(&mut bench, false).await;
    assert_eq!(bench.commands.submit(register(2)).await, Err(WriteError::StoreMoves));
    assert!(bench.effects.leases.renew(lease, &record.key, clock::now()).is_some());
    assert!(bench.effects.leases.is_in_touch(lease, clock::now()));
    assert_eq!(bench.effects.leases.store_silence(clock::now()), Duration::ZERO);
    let second = bench.commands.close("etcd://b/gw".into(), "bob".into()).await;
    assert!(matches!(second, Err(WriteError::StoreMoves)), "{second:?}");
    assert_eq!(reopen(&bench).await, Ok(Reopening::UnderWay { to: TO.into() }), "the fence is its mover's");
    // He is gone, and nothing of it is left.
    drop(closing);
    until_available(&mut bench, true).await;
    lease_of(bench.commands.submit(register(2)).await);
    assert_eq!(reopen(&bench).await, Ok(Reopening::Needless));
    assert_eq!(told(&bench), by(&[("STORE_CLOSED", "ana"), ("STORE_REOPENED", "ana")]));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_has_moved_renews_nobody_and_lets_nobody_lapse_until_it_is_reopened() {
    let mut bench = bench(10).await;
    let Ok(Answer::Registered { record, .. }) = bench.commands.submit(register(1)).await else { panic!() };
    let (lease, leases) = (record.lease.unwrap(), Arc::clone(&bench.effects.leases));
    close(&bench).await.end().await.unwrap();
    let sweeping = Arc::clone(&leases);
    let sweeps = tokio::spawn(async move {
        loop {
            sweeping.sweep(clock::now());
            tokio::time::sleep(SWEEP_INTERVAL).await;
        }
    });
    // Long after its time to live, and many looks at the store later.
    tokio::time::sleep(10 * lease.ttl()).await;
    assert_eq!(*bench.refusing.borrow(), Some(moved()));
    assert_eq!(bench.commands.submit(register(2)).await, Err(moved()));
    assert!(!leases.is_in_touch(lease.id, clock::now()) && !leases.are_in_touch(clock::now()));
    assert!(leases.store_silence(clock::now()) > 9 * lease.ttl());
    assert!(leases.get(lease.id).is_some());
    let second = bench.commands.close(TO.into(), "bob".into()).await;
    assert!(matches!(&second, Err(refused) if *refused == moved()), "{second:?}");

    assert_eq!(reopen(&bench).await, Ok(Reopening::Done));
    until_available(&mut bench, true).await;
    assert!(leases.is_in_touch(lease.id, clock::now()));
    assert!(leases.renew(lease.id, &record.key, clock::now()).is_some());
    lease_of(bench.commands.submit(register(2)).await);
    sweeps.abort();
    let events = [("STORE_CLOSED", "ana"), ("STORE_MOVED", "ana"), ("STORE_REOPENED", "bob")];
    assert_eq!(told(&bench), by(&events));
}

#[tokio::test]
async fn a_mover_who_goes_before_he_is_answered_has_moved_nothing() {
    let mut bench = bench(10).await;
    let ending = close(&bench).await.end();
    drop(ending);
    until_available(&mut bench, true).await;
    // Polled once, so that the writer has it, and given up.
    let mut ending = Box::pin(close(&bench).await.end());
    assert!(futures_now(&mut ending).await);
    drop(ending);
    until_available(&mut bench, true).await;
    assert_eq!(reopen(&bench).await, Ok(Reopening::Needless));
}

/// Whether it is still pending after one poll.
async fn futures_now(future: &mut (impl Future<Output = Result<(), WriteError>> + Unpin)) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
    })
    .await
}

#[tokio::test]
async fn when_it_is_unknown_whether_the_store_says_that_all_has_moved_it_is_asked() {
    for (fault, has_moved) in [(Fault::Lost, false), (Fault::Overtaken, true), (Fault::Ambiguous, true)] {
        let mut bench = bench(10).await;
        let closing = close(&bench).await;
        bench.store.set(|script| script.fault = Some(fault));
        assert_eq!(closing.end().await, Err(WriteError::StoreUnavailable));
        if has_moved {
            assert_eq!(bench.commands.submit(register(1)).await, Err(moved()));
            assert_eq!(reopen(&bench).await, Ok(Reopening::Done));
        }
        until_available(&mut bench, true).await;
        lease_of(bench.commands.submit(register(1)).await);
    }
}

#[tokio::test]
async fn a_panic_ends_the_fence_and_its_mover_moves_nothing_any_more() {
    let mut bench = bench(10).await;
    let closing = close(&bench).await;
    bench.store.set(|script| script.fault = Some(Fault::LatePanic));
    assert_eq!(closing.end().await, Err(WriteError::Interrupted), "nobody knows what came of it");
    assert_eq!(bench.commands.submit(register(1)).await, Err(moved()), "the store does");
    assert_eq!(reopen(&bench).await, Ok(Reopening::Done));
    until_available(&mut bench, true).await;
    lease_of(bench.commands.submit(register(1)).await);
}

#[tokio::test]
async fn nothing_is_moved_while_nobody_knows_what_the_store_holds() {
    let mut bench = bench(10).await;
    bench.store.set(|script| (script.fault, script.is_away) = (Some(Fault::Lost), true));
    assert!(bench.commands.submit(register(1)).await.is_err());
    let refused = bench.commands.close(TO.into(), "ana".into()).await;
    assert!(matches!(refused, Err(WriteError::StoreUnavailable)), "{refused:?}");
    assert_eq!(reopen(&bench).await, Err(WriteError::StoreUnavailable));
    bench.store.set(|script| script.is_away = false);
    until_available(&mut bench, true).await;
    assert!(told(&bench).is_empty());
}
