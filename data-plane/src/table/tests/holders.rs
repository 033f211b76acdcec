//! Who holds a service and its replicas, and for how long.

use super::*;

/// A request of a worker that has been sent to a replica.
fn held(service: &Service, worker: usize) -> crate::table::Picked {
    service.pick(worker, START, &[], Draw::default()).unwrap()
}

#[test]
fn each_worker_counts_by_itself_who_holds_a_replica() {
    let (_table, service) = table_with(&orders([replica("a")]), 2);
    let of_all = || Arc::strong_count(&service.replicas()[0]);
    let before = of_all();
    let [first, second, other] = [0, 0, 1].map(|worker| held(&service, worker));
    assert_eq!(of_all(), before, "however many requests hold it");
    assert!(Arc::ptr_eq(&first.replica, &second.replica), "one of the worker's own");
    assert!(!Arc::ptr_eq(&first.replica, &other.replica));
    let counted = [&first, &other].map(|picked| Arc::strong_count(&picked.replica));
    assert_eq!(counted, [4, 3], "each with its handle, which stands in the worker's list");
    // All the same, it is one replica.
    assert_eq!(other.replica.key(), first.replica.key());
    assert_eq!(service.replicas()[0].counters().inflight, 3);
    assert_eq!(first.replica.counters(), other.replica.counters());
}

#[test]
fn each_worker_counts_by_itself_who_holds_a_service_also_after_others_have_come() {
    let (table, service) = table_with(&orders([replica("a")]), 2);
    let held_by = |worker| table.service_held_by(worker, "orders").unwrap();
    let (first, other) = (held_by(0), held_by(1));
    let before = Arc::strong_count(&service);
    assert!(Arc::ptr_eq(&first, &held_by(0)) && !Arc::ptr_eq(&first, &other));
    let payments = ServiceSpec { name: ServiceName::parse("payments").unwrap(), ..orders([]) };
    table.apply(&[payments], &[], START);
    assert!(Arc::ptr_eq(&first, &held_by(0)), "nothing has become of it");
    table.apply(&[], &[ServiceName::parse("payments").unwrap()], START);
    assert!(Arc::ptr_eq(&other, &held_by(1)));
    assert_eq!(Arc::strong_count(&service), before);
    assert!(Arc::ptr_eq(&first, &table.service_or_departed(0, "orders", START).unwrap()));
}

#[test]
fn what_a_request_holds_outlives_its_registration_and_is_let_go_with_it() {
    let (table, service) = table_with(&orders([replica("a"), replica("b")]), 2);
    let known = Arc::downgrade(&service.replicas()[0]);
    let [first, second] = [0, 1].map(|worker| held(&service, worker));
    let mut moved = replica("a");
    moved.weight = Weight::parse(300).unwrap();
    table.apply(&[orders([moved])], &[], START);
    let renewed = held(&service, 0);
    assert_eq!((id_of(&renewed.replica), renewed.replica.weight().get()), ("a", 300));
    assert_eq!((id_of(&first.replica), first.replica.weight().get()), ("a", 100), "as it was picked");
    assert_eq!(service.replicas()[0].counters().inflight, 2, "and still is under way");
    for (worker, picked) in [(0, first), (1, second), (0, renewed)] {
        service.settle(worker, &picked.replica, picked.permit, Outcome::Success, START, 0.5);
    }
    assert_eq!(service.replicas()[0].counters().inflight, 0);
    drop((table, service));
    assert!(known.upgrade().is_none(), "no handle keeps what it is one of");
}
