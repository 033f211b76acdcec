//! Fixed seeds, and what they go through: a simulation in which nothing happens would hold every invariant.

use std::collections::BTreeMap;

use crate::run::run;

/// Seeds that are always run: enough to meet every situation, and among them some that found a short lease that paid
/// for a pause of the control plane.
const SEEDS: std::ops::Range<u64> = 0..50;
/// Found that a request which outlived its service was sent on to a replica that had been deregistered.
const OUTLIVED: [u64; 3] = [124, 126, 179];
/// Found that a data plane from which no delta led on was given the full snapshot of the same revision for ever.
const CIRCLE: [u64; 1] = [1_795_234_683_800_261];

/// Found that a replica which was held while the control plane stood still went as soon as it was drained.
const DRAINED: [u64; 1] = [1_795_866_739_355_019];
/// Found that a replica which was let go while the store was away, and heard of again, was counted as gone.
const CAME_BACK: [u64; 1] = [3228];

/// Loses replicas and finds them again.
const FOUND: [u64; 2] = [207, 225];

/// What must occur in them.
const SITUATIONS: &[&str] = &[
    "REPLICA_REGISTERED",
    "REPLICA_REPLACED",
    "REPLICA_DEREGISTERED",
    "LEASE_EXPIRED",
    "HEALTH_CHANGED",
    "OVERRIDE_ENDED",
    "OVERRIDE_SET",
    "POLICY_DELETED",
    "POLICY_UPDATED",
    "REPLICA_DRAINED",
    "REPLICA_EVICTED",
    "REPLICA_DRAINING",
    "REPLICA_FOUND",
    "REPLICA_LOST",
    "REPLICA_UNDRAINED",
    "a registration was repeated",
    "a service was cut off from the control plane",
    "the disk was full",
    "a breaker closed",
    "a breaker opened",
    "a breaker opened for slowness",
    "an eviction was held",
    "an opening was withheld",
    "a change concerned nobody",
    "a client left",
    "a command waited for the next group",
    "a commit failed",
    "a commit's answer was lost",
    "a data plane gave a silent stream up",
    "a data plane lied",
    "a data plane reached nobody by its checks",
    "a data plane refused a message",
    "a data plane was restarted",
    "a data plane was too far behind",
    "a delta was sent",
    "a delta was spoilt",
    "a doubtful commit turned out to be durable",
    "a full snapshot was sent",
    "a heartbeat came too late",
    "a heartbeat met another lease",
    "a message came twice",
    "a part was sent",
    "a probe was sent",
    "a replica was asked although it rests",
    "a replica was waited for in vain",
    "a request kept away from where others wait",
    "a request met no ready replica",
    "a request met open breakers only",
    "a request ran out of replicas",
    "a request ran out of time",
    "a request succeeded",
    "a request was retried",
    "a retry was forbidden: budget exhausted",
    "a retry was forbidden: no other replica",
    "a retry was forbidden: not idempotent",
    "a retry was forbidden: not replayable",
    "a retry was forbidden: retries used",
    "a stale answer was ignored",
    "a stall renewed all leases",
    "a stream was resumed",
    "a stream was severed silently",
    "an update was refused",
    "commands shared a commit",
    "the control plane crashed",
    "the control plane crashed behind a commit",
    "the control plane was paused",
    "the disk was lost",
    "the registry refused a command",
    "the store could not be read",
    "the writer's queue was full",
];

#[test]
fn fixed_seeds_hold_every_invariant_and_meet_every_situation() {
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in SEEDS.chain(OUTLIVED).chain(CIRCLE).chain(DRAINED).chain(CAME_BACK).chain(FOUND) {
        let report = run(seed, None);
        assert!(report.violation.is_none(), "{report}");
        for (situation, count) in report.tally {
            *tally.entry(situation).or_default() += count;
        }
    }
    println!("{tally:#?}");
    let missing: Vec<_> = SITUATIONS.iter().filter(|situation| !tally.contains_key(**situation)).collect();
    assert!(missing.is_empty(), "no fixed seed meets {missing:?}");
}
