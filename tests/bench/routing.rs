//! What a request pays for being routed: the breaker's admission and verdict, and a pick and its report by each algorithm.
//! Prints nanoseconds beside what is wanted, and asserts nothing: times are the machine's, too. What it costs by count is held by
//! `tests/bench/run counts`.
//!
//! Lives in memory, with one clock reading handed to all: what is measured is the routing core and its table. A pick is
//! reported as a request reports it: its response head, the verdict, and its end.
//!
//! What scales with cores takes each thread as long when others do the same beside it, as far as there are cores for them. There medians
//! of the rounds stand, and not the best: in that, on a machine that does something else, too, only one thread ran.

use std::{
    hint::black_box,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use data_plane::{
    routing::{Breaker, Draw, Heard, Outcome, Tick, balancing::hash},
    table::{Replica, ReplicaSpec, Service, ServiceSpec, Table},
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
/// What the breaker may cost a request.
const BREAKER: f64 = 25e-9;

fn main() {
    println!("{:<44}{:>10}  {:>10}  wanted", "the best of the rounds", "each", "");
    let breaker = least(breaker());
    let verdict = if breaker < BREAKER { "met" } else { "MISSED" };
    let wanted = format!("less than {}: {verdict}", nanos(BREAKER));
    line("breaker: admit + record of a success", breaker, "", &wanted);
    for replicas in [3, 100, 1000] {
        for algorithm in Algorithm::ALL {
            let (_, service) = service(algorithm, replicas, 1);
            for is_unrepeatable in [false, true] {
                let per_call = least(rounds(|| calls(&service, 0, is_unrepeatable)));
                let once = if is_unrepeatable { ", sent once" } else { "" };
                line(&format!("{}: pick + report of {replicas}{once}", algorithm.name()), per_call, "", "");
            }
        }
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("\n{:<44}{:>10}  {:>10}  wanted ({cores} cores)", "the median of the rounds", "each", "÷ alone");
    for algorithm in Algorithm::ALL {
        scales(&format!("{}: of 100", algorithm.name()), cores, |threads| {
            let (_, service) = service(algorithm, 100, threads);
            median(rounds(|| beside(threads, |worker| calls(&service, worker, false))))
        });
    }
    scales("found and held, in turn: of 100", cores, |threads| {
        let (table, _) = service(Algorithm::RoundRobin, 100, threads);
        median(rounds(|| beside(threads, |worker| requests(&table, worker))))
    });
}

/// Rows of what one thread pays by itself, and what each does of several side by side.
fn scales(what: &str, cores: usize, each: impl Fn(usize) -> f64) {
    let alone = each(1);
    line(&format!("{what}, 1 thread"), alone, "", "");
    for threads in [2, 4, 8, 16].into_iter().filter(|threads| *threads <= cores) {
        let together = each(threads);
        let ratio = format!("{:.2}", together / alone);
        line(&format!("{what}, {threads} threads"), together, &ratio, "1.00");
    }
}

/// One row of the table.
fn line(what: &str, seconds: f64, ratio: &str, wanted: &str) {
    println!("{what:<44}{:>10}  {ratio:>10}  {wanted}", nanos(seconds));
}

/// Seconds for each call, of all rounds.
fn rounds(round: impl Fn() -> f64) -> Vec<f64> {
    (0..ROUNDS).map(|_| round()).collect()
}

fn least(rounds: Vec<f64>) -> f64 {
    rounds.into_iter().fold(f64::INFINITY, f64::min)
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

/// Seconds for each of so many calls.
fn timed(calls: impl FnOnce()) -> f64 {
    let start = Instant::now();
    calls();
    start.elapsed().as_secs_f64() / CALLS as f64
}

/// What the slowest of these threads takes for each of its calls, all of them at once. That they have to be started is none of it.
fn beside(threads: usize, calls: impl Fn(usize) -> f64 + Sync) -> f64 {
    let begin = Barrier::new(threads);
    thread::scope(|scope| {
        let run = |worker| {
            let (begin, calls) = (&begin, &calls);
            scope.spawn(move || {
                begin.wait();
                calls(worker)
            })
        };
        let runs: Vec<_> = (0..threads).map(run).collect();
        runs.into_iter().map(|run| run.join().expect("it does not panic")).fold(0.0, f64::max)
    })
}

fn nanos(seconds: f64) -> String {
    format!("{:.1} ns", seconds * 1e9)
}

fn breaker() -> Vec<f64> {
    let (breaker, policy) = (Breaker::new(), Policy::default().breaker);
    let calls = || {
        for call in 0..CALLS {
            let now = Tick::from_nanos(NOW.as_nanos() + call);
            let admission = breaker.admit(black_box(now), LEASE).expect("it is closed");
            black_box(breaker.record(admission.permit, Outcome::Success, now, &policy, 0.5));
        }
    };
    rounds(|| timed(calls))
}

/// Seconds for a pick and its report, of requests one after the other.
fn calls(service: &Service, worker: usize, is_unrepeatable: bool) -> f64 {
    timed_by_lot(worker, |now, draw| {
        call(service, worker, now, Draw { is_unrepeatable, ..draw });
    })
}

/// Seconds for the same as a request does it: its service is found by name, and several of its parts hold that and the replica.
fn requests(table: &Table, worker: usize) -> f64 {
    timed_by_lot(worker, |now, draw| {
        let service = table.service_held_by(worker, "orders").expect("it was applied");
        let attempt = Arc::clone(&service);
        let replica = call(&attempt, worker, now, draw);
        black_box([Arc::clone(&replica), replica]);
    })
}

fn timed_by_lot(worker: usize, call: impl Fn(Tick, Draw)) -> f64 {
    let mut lot = worker as u64;
    timed(|| {
        for number in 0..CALLS {
            let now = Tick::from_nanos(NOW.as_nanos() + number);
            lot = lot.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            let random = (lot >> 11) as f64 / (1_u64 << 53) as f64;
            call(black_box(now), Draw { random, key: Some(lot), is_unrepeatable: false, is_beside: false });
        }
    })
}

fn call(service: &Service, worker: usize, now: Tick, draw: Draw) -> Arc<Replica> {
    const LATENCY: Duration = Duration::from_millis(5);
    let picked = service.pick(worker, now, &[], draw).expect("all are closed");
    service.heard(worker, &picked.replica, Outcome::Success, LATENCY, now);
    let heard = Heard { outcome: Outcome::Success, latency: Some(LATENCY) };
    service.judge(&picked.replica, picked.permit, heard, now, now, 0.5);
    service.end(worker, &picked.replica, true);
    picked.replica
}

fn service(algorithm: Algorithm, replicas: usize, workers: usize) -> (Arc<Table>, Arc<Service>) {
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
    (table, service)
}

fn replica(number: usize) -> ReplicaSpec {
    ReplicaSpec::listed(
        ReplicaId::parse(&format!("r-{number}")).expect("a valid id"),
        Address::parse(&format!("10.0.{}.{}:80", number / 250, number % 250)).expect("a valid address"),
    )
}
