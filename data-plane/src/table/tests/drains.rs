//! Replicas that get no new requests any more, and who is told.

use std::{task::Poll, time::SystemTime};

use super::*;

fn draining(id: &str) -> ReplicaSpec {
    ReplicaSpec { mode: Mode::Draining, drain_deadline: Some(SystemTime::UNIX_EPOCH), ..replica(id) }
}

fn keys(drains: &Drains) -> Vec<String> {
    drains.replicas.iter().map(|draining| draining.key.to_string()).collect()
}

/// Whether a future is done at its first poll.
fn is_ready(future: impl Future<Output = ()>) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::pin!(future).poll(&mut context) == Poll::Ready(())
}

#[test]
fn a_draining_or_drained_replica_gets_no_pick_no_probe_and_no_retry() {
    let (table, service, _) = table_of(&["a", "b", "c"]);
    trip(&service, START, "b");
    let tried = [Arc::clone(&service.replicas()[0])];
    for mode in [Mode::Draining, Mode::Drained] {
        let drained = |id| ReplicaSpec { mode, ..draining(id) };
        table.apply(&[orders([replica("a"), drained("b"), drained("c")])], &[], START);
        assert_eq!(asked(&service, after(5000), 3), ["a"; 3]);
        assert!(!service.has_untried(after(5000), &tried));
        assert_eq!(service.pick(0, after(5000), &tried, Draw::default()).unwrap_err(), Unavailable::AllTried);
    }
    table.apply(&[orders([draining("a")])], &[], START);
    assert_eq!(service.pick(0, START, &[], Draw::default()).unwrap_err(), Unavailable::NoneReady);
}

#[test]
fn an_undrained_replica_takes_its_turn_again() {
    let (table, service, _) = table_of(&["a", "b"]);
    table.apply(&[orders([replica("a"), draining("b")])], &[], START);
    table.apply(&[orders([replica("a"), replica("b")])], &[], START);
    assert_eq!(asked(&service, START, 4), ["a", "b", "a", "b"]);
    assert_eq!(keys(&table.drains()), [""; 0]);
}

#[test]
fn the_list_names_those_that_drain_with_their_deadlines() {
    let (table, ..) = table_of(&["a", "b"]);
    table.apply(&[orders([draining("a"), replica("b")])], &[], START);
    let drains = table.drains();
    assert_eq!(keys(&drains), ["orders/a"]);
    assert_eq!(drains.replicas[0].deadline, Some(SystemTime::UNIX_EPOCH));
    assert_eq!(drains.replicas[0].endpoint.address.to_string(), "a.example:80");
    table.apply(&[], &[ServiceName::parse("orders").unwrap()], START);
    assert_eq!(keys(&table.drains()), [""; 0]);
}

#[tokio::test]
async fn a_worker_hears_of_each_list_and_whoever_waits_hears_of_the_worker() {
    let (table, ..) = table_of(&["a", "b"]);
    assert!(is_ready(table.drains_taken_on()), "nobody works yet");
    let mut worker = table.follow_drains(0);
    let drains = worker.next().await;
    worker.taken_on(&drains);
    assert!(is_ready(table.drains_taken_on()));

    table.apply(&[orders([draining("a"), replica("b")])], &[], START);
    assert!(!is_ready(table.drains_taken_on()));
    let drains = worker.next().await;
    assert_eq!(keys(&drains), ["orders/a"]);
    worker.taken_on(&drains);
    assert!(is_ready(table.drains_taken_on()));

    // What is no drain is nobody's business.
    table.apply(&[orders([draining("a"), replica("b"), replica("c")])], &[], START);
    assert!(is_ready(table.drains_taken_on()));

    table.apply(&[orders([])], &[], START);
    assert!(!is_ready(table.drains_taken_on()));
    drop(worker);
    assert!(is_ready(table.drains_taken_on()), "a worker that ended holds up nobody");
}

#[tokio::test]
async fn whoever_waits_is_woken_when_the_last_worker_has_taken_a_list_on() {
    let (table, _) = Table::new(2);
    let mut workers = [table.follow_drains(0), table.follow_drains(1)];
    table.apply(&[orders([draining("a")])], &[], START);
    let waiting = tokio::spawn({
        let table = Arc::clone(&table);
        async move { table.drains_taken_on().await }
    });
    for worker in &mut workers {
        assert!(!waiting.is_finished());
        let drains = worker.next().await;
        worker.taken_on(&drains);
        tokio::task::yield_now().await;
    }
    waiting.await.unwrap();
}

#[test]
fn the_end_of_an_attempt_at_a_draining_replica_is_told() {
    let (table, service, _) = table_of(&["a", "b"]);
    let picked = service.pick(0, START, &[], Draw::default()).unwrap();
    let other = service.pick(0, START, &[], Draw::default()).unwrap();
    table.apply(&[orders([draining("a"), replica("b")])], &[], START);
    service.settle(0, &other.replica, other.permit, Outcome::Success, START, 0.5);
    assert!(!is_ready(table.drained_some()), "it was at another one");
    service.judge(&picked.replica, picked.permit, Outcome::Success, START, START, 0.5);
    assert!(!is_ready(table.drained_some()), "its answer still comes");
    assert_eq!(service.replicas()[0].counters().inflight, 1);
    service.end(0, &picked.replica, false);
    assert!(is_ready(table.drained_some()));
    assert_eq!(service.replicas()[0].counters().inflight, 0);
}
