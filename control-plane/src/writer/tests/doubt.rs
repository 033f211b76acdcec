//! What callers are told while nobody knows what the store holds, and how often it is asked.

use super::*;
use crate::writer::doubt::{PATIENCE, RETRY_INTERVAL};

#[tokio::test]
async fn a_failed_commit_refuses_its_commands_and_changes_nothing() {
    let mut bench = bench(10).await;
    bench.commands.submit(register(1)).await.unwrap();
    bench.store.set(|script| (script.fault, script.is_away) = (Some(Fault::Unasked), true));
    let refused = bench.commands.submit_all(vec![register(2), register(3)]).await;
    assert_eq!(refused, [Err(WriteError::StoreUnavailable), Err(WriteError::StoreUnavailable)]);
    assert_eq!((bench.revision(), bench.replica_count()), (1, 1));
    assert_eq!(*bench.refusing.borrow_and_update(), Some(WriteError::StoreUnavailable));
    // While it is away everybody is refused without asking it to commit.
    assert_eq!(bench.commands.submit(register(4)).await, Err(WriteError::StoreUnavailable));
    assert_eq!(bench.store.0.lock().unwrap().groups, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_hand_while_a_store_is_read_that_does_not_answer_is_refused_soon() {
    let bench = bench(10).await;
    bench.store.set(|script| (script.fault, script.hangs) = (Some(Fault::Lost), true));
    let began = tokio::time::Instant::now();
    // The second one waits for what becomes of the first.
    let commands = bench.commands.submit_all(vec![register(2), register(2)]);
    let refused = tokio::time::timeout(Duration::from_secs(60), commands).await.expect("somebody answers");
    assert_eq!(refused, [Err(WriteError::Interrupted), Err(WriteError::StoreUnavailable)]);
    assert_eq!(bench.store.0.lock().unwrap().groups, [1], "the second one was in hand");
    assert!(began.elapsed() <= PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_may_have_been_made_before_the_disk_was_full_is_not_told_as_none() {
    let mut bench = bench(10).await;
    bench.store.set(|script| script.fault = Some(Fault::LateFull));
    let began = clock::now();
    assert_eq!(bench.commands.submit(register(1)).await, Err(WriteError::StoreFullUnanswered));
    bench.refusing.borrow_and_update();
    // What is asked for meanwhile has surely not been made.
    assert_eq!(bench.commands.submit(register(2)).await, Err(WriteError::StoreFull));
    bench.refusing.changed().await.unwrap();
    assert!(clock::now() - began >= RETRY_INTERVAL);
    assert_eq!(bench.effects.publisher.read(|view: &View| view.replica_count()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_can_be_read_and_not_written_to_is_read_no_more_than_once_a_second() {
    let bench = bench(10).await;
    bench.store.set(|script| (script.is_read_only, script.loads) = (true, 0));
    for port in 1..=100 {
        assert_eq!(bench.commands.submit(register(port)).await, Err(WriteError::StoreUnavailable));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let loads = bench.store.0.lock().unwrap().loads;
    assert!((2..=12).contains(&loads), "{loads}");
    bench.store.set(|script| script.is_read_only = false);
    tokio::time::sleep(RETRY_INTERVAL).await;
    assert!(bench.commands.submit(register(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_as_such_and_written_to_again_only_after_a_second() {
    let mut bench = bench(10).await;
    bench.store.set(|script| script.fault = Some(Fault::Full));
    let began = clock::now();
    assert_eq!(bench.commands.submit(register(1)).await, Err(WriteError::StoreFull));
    bench.refusing.borrow_and_update();
    assert_eq!(bench.commands.submit(register(2)).await, Err(WriteError::StoreFull));
    assert_eq!(bench.store.0.lock().unwrap().groups, [1], "it was asked again at once");
    bench.refusing.changed().await.unwrap();
    assert_eq!(*bench.refusing.borrow(), None);
    assert_eq!(clock::now() - began, RETRY_INTERVAL);
    assert!(bench.commands.submit(register(2)).await.is_ok());
}
