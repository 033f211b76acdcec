//! What a request pays for being routed: the breaker's admission and verdict, and a pick by each algorithm. Prints the
//! best of several rounds, in nanoseconds; asserts nothing.
//!
//! Lives in memory, with one clock reading handed to all: what is measured is the routing core and its table.

use std::{
    hint::black_box,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use data_plane::{
    routing::{Breaker, Draw, Outcome, Tick, balancing::hash},
    table::{ReplicaSpec, Service, ServiceSpec, Table},
};
use gateway_proto::{
    Address, Policy, ReplicaId, ServiceName,
    policy::{Algorithm, Balancing},
};

/// Many short rounds, so that some are undisturbed by whatever else runs on the machine.
const ROUNDS: usize = 400;
const CALLS: u64 = 10_000;
const NOW: Tick = Tick::from_nanos(5_000_000_000);
const LEASE: Duration = Duration::from_secs(11);

fn main() {
    println!("{:<44}{:>10}", "breaker: admit + record of a success", nanos(breaker()));
    for replicas in [3, 100, 1000] {
        for algorithm in Algorithm::ALL {
            let service = service(algorithm, replicas, 1);
            let per_call = best(|| calls(&service, 0));
            let name = format!("{}: pick + settle of {replicas}", algorithm.name());
            println!("{name:<44}{:>10}", nanos(per_call));
        }
    }
    // Of one thread's own calls: what does not grow with threads scales with cores. How far the cores themselves do, a service for
    // each thread tells: those have nothing in common.
    for threads in [1, 2, 4] {
        for algorithm in Algorithm::ALL {
            let own: Vec<_> = (0..threads).map(|_| service(algorithm, 100, 1)).collect();
            let apart = together(threads, |thread| calls(&own[thread], 0));
            let shared = service(algorithm, 100, threads);
            let shared = together(threads, |thread| calls(&shared, thread));
            let name = format!("{}: of 100, {threads} threads", algorithm.name());
            println!("{name:<44}{:>10}, a service each {:>10}", nanos(shared), nanos(apart));
        }
    }
}

/// The best round of so many threads that all do this, each with its number.
fn together(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    best(|| {
        thread::scope(|scope| {
            for thread in 0..threads {
                let work = &work;
                scope.spawn(move || work(thread));
            }
        });
    })
}

/// Seconds for each of the calls of one thread, in the best round.
fn best(round: impl Fn()) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed().as_secs_f64() / CALLS as f64
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn nanos(seconds: f64) -> String {
    format!("{:.1} ns", seconds * 1e9)
}

fn breaker() -> f64 {
    let (breaker, policy) = (Breaker::new(), Policy::default().breaker);
    best(|| {
        for call in 0..CALLS {
            let now = Tick::from_nanos(NOW.as_nanos() + call);
            let admission = breaker.admit(black_box(now), LEASE).expect("it is closed");
            black_box(breaker.record(admission.permit, Outcome::Success, now, &policy, 0.5));
        }
    })
}

fn calls(service: &Service, worker: usize) {
    let mut lot = worker as u64;
    for call in 0..CALLS {
        let now = Tick::from_nanos(NOW.as_nanos() + call);
        lot = lot.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        let draw =
            Draw { random: (lot >> 11) as f64 / (1_u64 << 53) as f64, key: Some(lot), ..Draw::default() };
        let picked = service.pick(worker, black_box(now), &[], draw).expect("all are closed");
        service.settle(worker, &picked.replica, picked.permit, Outcome::Success, now, 0.5);
    }
}

fn service(algorithm: Algorithm, replicas: usize, workers: usize) -> Arc<Service> {
    let (table, _) = Table::new(workers);
    let name = ServiceName::parse("orders").expect("a valid name");
    let mut replicas: Vec<_> = (0..replicas).map(replica).collect();
    replicas.sort_by(|one, other| one.id.cmp(&other.id));
    let policy = Policy { balancing: Balancing { algorithm, ..Balancing::default() }, ..Policy::default() };
    table.apply(&[ServiceSpec { name, policy, replicas }], &[], NOW);
    let service = table.service("orders").expect("it was applied");
    for replica in service.replicas().iter() {
        let spread = hash(replica.key().replica.as_str().as_bytes()) % 10;
        service.heard(0, replica, Outcome::Success, Duration::from_millis(5 + spread), NOW);
    }
    service
}

fn replica(number: usize) -> ReplicaSpec {
    ReplicaSpec::listed(
        ReplicaId::parse(&format!("r-{number}")).expect("a valid id"),
        Address::parse(&format!("10.0.{}.{}:80", number / 250, number % 250)).expect("a valid address"),
    )
}
