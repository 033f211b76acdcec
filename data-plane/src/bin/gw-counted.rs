//! Does one thing of the request path many times, for `tests/bench/run counts` to count the instructions of: what is counted
//! is the function whose name begins with `counted_`, and nothing around it. Built with the feature `counted` alone.

use std::{hint::black_box, sync::Arc, time::Duration};

use data_plane::{
    proxy::counted::rewrite,
    routing::{Breaker, Draw, Outcome, Tick},
    table::{ReplicaSpec, Service, ServiceSpec, Table},
};
use gateway_proto::{Address, Policy, ReplicaId, ServiceName, policy::Breaker as BreakerPolicy};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TIMES: u32 = 1000;
/// Services, where there are many.
const MANY: usize = 10_000;
const NOW: Tick = Tick::from_nanos(5_000_000_000);
const LEASE: Duration = Duration::from_secs(11);

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("breaker") => breaker(),
        Some("pick") => pick(),
        Some("rewrite") => rewrite(TIMES),
        Some("find_one") => find(1),
        Some("find_many") => find(MANY),
        _ => panic!("which: breaker, pick, rewrite, find_one or find_many?"),
    }
    println!("{TIMES}");
}

fn breaker() {
    let (breaker, policy) = (Breaker::new(), Policy::default().breaker);
    for call in 0..TIMES {
        counted_breaker(&breaker, &policy, black_box(at(call)));
    }
}

#[inline(never)]
fn counted_breaker(breaker: &Breaker, policy: &BreakerPolicy, now: Tick) {
    let admission = breaker.admit(now, LEASE).expect("it is closed");
    black_box(breaker.record(admission.permit, Outcome::Success, now, policy, 0.5));
}

fn pick() {
    let (table, _) = Table::new(1);
    let name = ServiceName::parse("orders").expect("a valid name");
    let replicas = (1..=3).map(replica).collect();
    table.apply(&[ServiceSpec { name, policy: Policy::default(), replicas }], &[], NOW);
    let service = table.service("orders").expect("it was applied");
    for call in 0..TIMES {
        counted_pick(&service, black_box(at(call)));
    }
}

#[inline(never)]
fn counted_pick(service: &Arc<Service>, now: Tick) {
    let draw = Draw::of(0.5);
    let picked = service.pick(0, now, &[], draw).expect("all are closed");
    service.settle(0, &picked.replica, picked.permit, Outcome::Success, now, 0.5);
}

/// Finds each time another of so many services.
fn find(count: usize) {
    let (table, _) = Table::new(1);
    let name = |number: usize| format!("service-{number}");
    let services = (0..count).map(|number| {
        let name = ServiceName::parse(&name(number)).expect("a valid name");
        ServiceSpec { name, policy: Policy::default(), replicas: Vec::new() }
    });
    table.apply(&services.collect::<Vec<_>>(), &[], NOW);
    for call in 0..TIMES as usize {
        let name = name(call * 7919 % count);
        // The first look of a worker makes a handle of its own.
        black_box(table.service_or_departed(0, &name, NOW));
        match count {
            1 => counted_find_one(&table, black_box(&name)),
            _ => counted_find_many(&table, black_box(&name)),
        }
    }
}

#[inline(never)]
fn counted_find_one(table: &Table, name: &str) {
    black_box(table.service_or_departed(0, name, NOW).expect("it was applied"));
}

#[inline(never)]
fn counted_find_many(table: &Table, name: &str) {
    black_box(table.service_or_departed(0, name, NOW).expect("it was applied"));
}

fn at(call: u32) -> Tick {
    Tick::from_nanos(NOW.as_nanos() + u64::from(call))
}

fn replica(number: usize) -> ReplicaSpec {
    ReplicaSpec::listed(
        ReplicaId::parse(&format!("r-{number}")).expect("a valid id"),
        Address::parse(&format!("10.0.0.{number}:80")).expect("a valid address"),
    )
}
