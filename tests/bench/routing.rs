//! What a request pays for being routed: the breaker's admission and verdict, and a pick and its report by each algorithm.
//! Prints nanoseconds, and holds nobody to them: times are the machine's, too. What it costs by count is held by
//! `tests/bench/run counts`. Before anything is timed, it fails if requests are not shared out as they are to be, for then something
//! else would be measured. With `--smoke` that is what it is for: of one round, no number says anything.
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

use clap::Parser;

use data_plane::{
    routing::{Breaker, Draw, Heard, Outcome, Tick, balancing::hash},
    table::{Replica, ReplicaSpec, Service, ServiceSpec, Table},
};
use gateway_proto::{
    Address, Policy, ReplicaId, ServiceName,
    policy::{Algorithm, Balancing},
};

/// Enough for each of the replicas to be somebody's.
const CALLS: u64 = 10_000;
const NOW: Tick = Tick::from_nanos(5_000_000_000);
const LEASE: Duration = Duration::from_secs(11);

/// What a request pays for being routed.
#[derive(Debug, Parser)]
struct Args {
    /// Time nothing that counts: one round shows that it runs
    #[arg(long)]
    smoke: bool,
    /// What cargo bench appends
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    for algorithm in Algorithm::ALL {
        is_shared_out(algorithm);
    }
    // Many short rounds, so that some are undisturbed by whatever else runs on the machine.
    let rounds = Rounds(if args.smoke { 1 } else { 400 });
    println!("{:<44}{:>10}", "the best of the rounds", "each");
    line("breaker: admit + record of a success", rounds.least(&breaker()), "");
    for replicas in [3, 100, 1000] {
        for algorithm in Algorithm::ALL {
            let (_, service) = service(algorithm, replicas, 1);
            for is_unrepeatable in [false, true] {
                let per_call = rounds.least(&|| calls(&service, 0, is_unrepeatable));
                let once = if is_unrepeatable { ", sent once" } else { "" };
                line(&format!("{}: pick + report of {replicas}{once}", algorithm.name()), per_call, "");
            }
        }
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("\n{:<44}{:>10}  {:>10}  ({cores} cores)", "the median of the rounds", "each", "÷ alone");
    for algorithm in Algorithm::ALL {
        scales(&format!("{}: of 100", algorithm.name()), cores, |threads| {
            let (_, service) = service(algorithm, 100, threads);
            rounds.median(&|| beside(threads, |worker| calls(&service, worker, false)))
        });
    }
    scales("found and held, in turn: of 100", cores, |threads| {
        let (table, _) = service(Algorithm::RoundRobin, 100, threads);
        rounds.median(&|| beside(threads, |worker| requests(&table, worker)))
    });
}

/// Rows of what one thread pays by itself, and what each does of several side by side.
fn scales(what: &str, cores: usize, each: impl Fn(usize) -> f64) {
    let alone = each(1);
    line(&format!("{what}, 1 thread"), alone, "");
    for threads in [2, 4, 8, 16].into_iter().filter(|threads| *threads <= cores) {
        let together = each(threads);
        let ratio = format!("{:.2}", together / alone);
        line(&format!("{what}, {threads} threads"), together, &ratio);
    }
}

/// One row of the table.
fn line(what: &str, seconds: f64, ratio: &str) {
    println!("{what:<44}{:>10}  {ratio:>10}", nanos(seconds));
}

/// How often everything is timed, each time in seconds for a call.
struct Rounds(usize);

impl Rounds {
    fn least(&self, round: &dyn Fn() -> f64) -> f64 {
        (0..self.0).map(|_| round()).fold(f64::INFINITY, f64::min)
    }

    fn median(&self, round: &dyn Fn() -> f64) -> f64 {
        let mut rounds: Vec<_> = (0..self.0).map(|_| round()).collect();
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2]
    }
}

/// Fails unless every replica is asked, each as often as any other where they take turns, and every attempt has ended.
fn is_shared_out(algorithm: Algorithm) {
    const REPLICAS: usize = 100;
    let (_, service) = service(algorithm, REPLICAS, 1);
    calls(&service, 0, false);
    let counts: Vec<_> = service.replicas().iter().map(|replica| replica.counters()).collect();
    let name = algorithm.name();
    let turn = CALLS / REPLICAS as u64;
    assert_eq!(counts.iter().map(|count| count.attempts).sum::<u64>(), CALLS, "{name}: attempts");
    assert!(counts.iter().all(|count| count.inflight == 0), "{name}: attempts have not ended");
    assert!(counts.iter().all(|count| count.attempts > 0), "{name}: somebody was never asked");
    if algorithm == Algorithm::RoundRobin {
        assert!(counts.iter().all(|count| count.attempts == turn), "{name}: somebody's turn was missed");
    }
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

/// Times a breaker of its own.
fn breaker() -> impl Fn() -> f64 {
    let (breaker, policy) = (Breaker::new(), Policy::default().breaker);
    move || {
        timed(|| {
            for call in 0..CALLS {
                let now = Tick::from_nanos(NOW.as_nanos() + call);
                let admission = breaker.admit(black_box(now), LEASE).expect("it is closed");
                black_box(breaker.record(admission.permit, Outcome::Success, now, &policy, 0.5));
            }
        })
    }
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
