//! Simulation of the whole system: the real pure parts of both planes in one thread, under virtual time, with every
//! chance drawn from one seed.
//!
//! The registry, leases, publisher, stream sessions, snapshots, routing table, breakers, budgets and retry decisions
//! are the real ones; networks, disks, processes, replicas, clients and people are simulated ([`world::World`]). A seed
//! decides how large the system is and what goes wrong in it ([`plan::Plan`], [`disturb::Trouble`]). While it runs, the
//! invariants in [`checks`] are compared with what must be true; when one does not hold, the seed and its last steps
//! are printed. The same seed always gives the same run.
//!
//! `GW_SIM_SEEDS` is how many fresh seeds are tried (default 100, 0 for none); `GW_SIM_SEED` is the one that `replay`
//! runs, printing every step.

mod checks;
mod control;
mod disturb;
mod durable;
mod env;
mod event;
mod journal;
mod node;
mod owner;
mod plan;
mod run;
mod sabotage;
mod sabotage_tests;
mod situations;
mod world;

use std::time::{SystemTime, UNIX_EPOCH};

use self::run::{run, run_aloud};

/// Fresh seeds of one run of the tests, unless `GW_SIM_SEEDS` says otherwise: some 30 s in the dev profile.
const FRESH_SEEDS: u64 = 100;

#[test]
fn fresh_seeds_hold_every_invariant() {
    let count = number("GW_SIM_SEEDS").unwrap_or(FRESH_SEEDS);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("the epoch is over");
    // Microseconds are short enough to type and never the same twice.
    let first = u64::try_from(clock.as_micros()).expect("it is not yet the year 586,000");
    println!("fresh seeds from {first} to {}", first + count);
    for seed in first..first + count {
        assert_holds(seed);
    }
}

#[test]
fn replay() {
    if let Some(seed) = number("GW_SIM_SEED") {
        let report = run_aloud(seed);
        assert!(report.violation.is_none(), "{report}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 7] {
        let [first, second] = [(), ()].map(|()| run(seed, None));
        assert_eq!((first.hash, first.steps), (second.hash, second.steps), "seed {seed}");
    }
    assert_ne!(run(3, None).hash, run(7, None).hash, "other seeds give other runs");
}

/// Runs a seed and prints what came of it; fails with the seed and its last steps.
fn assert_holds(seed: u64) {
    let report = run(seed, None);
    assert!(report.violation.is_none(), "{report}");
    println!("{report}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}
