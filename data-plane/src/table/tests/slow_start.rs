//! Replicas that take over their share bit by bit.

use super::*;

/// Nine steps of a second.
const SLOW: Duration = Duration::from_secs(9);

fn slowly(algorithm: Algorithm) -> Balancing {
    Balancing { slow_start: SLOW, ..by(algorithm) }
}

fn share(service: &Service, now: Tick, id: &str) -> f64 {
    shares_of(service, now, 0..11_000)[id] as f64 / 11_000.0
}

fn secs(secs: u64) -> Tick {
    after(1000 * secs)
}

#[test]
fn what_a_data_plane_finds_when_it_starts_has_its_whole_share() {
    let (table, service) = table_with(&balanced(slowly(Algorithm::RoundRobin), ["a", "b"].map(replica)), 1);
    assert_eq!(asked(&service, START, 4), ["a", "b", "a", "b"]);
    // The same said again changes nothing.
    table.apply(&[balanced(slowly(Algorithm::RoundRobin), ["a", "b"].map(replica))], &[], START);
    assert_eq!(asked(&service, START, 4), ["a", "b", "a", "b"]);
}

#[test]
fn a_replica_that_joins_goes_from_a_tenth_of_its_weight_to_all_of_it() {
    for algorithm in Algorithm::ALL {
        let exact = algorithm == Algorithm::RoundRobin;
        let balancing = Balancing { hash_load_factor: 0.0, ..slowly(algorithm) };
        let (table, service) = table_with(&balanced(balancing, ["a"].map(replica)), 1);
        table.apply(&[balanced(balancing, ["a", "b"].map(replica))], &[], secs(1));
        for (now, due) in [(1, 1.0 / 11.0), (5, 5.0 / 15.0), (10, 0.5), (11, 0.5)] {
            let share = share(&service, secs(now), "b");
            let off = if exact { 0.001 } else { 0.08 };
            assert!((share - due).abs() < off, "{algorithm:?} after {now} s: {share} instead of {due}");
        }
    }
}

#[test]
fn one_that_is_alone_has_everything_and_those_that_join_together_have_equal_shares() {
    let balancing = slowly(Algorithm::RoundRobin);
    let (table, service) = table_with(&balanced(balancing, []), 1);
    table.apply(&[balanced(balancing, ["a"].map(replica))], &[], secs(1));
    assert_eq!(asked(&service, secs(1), 2), ["a", "a"]);
    let (table, service) = table_with(&balanced(balancing, []), 1);
    table.apply(&[balanced(balancing, ["a", "b"].map(replica))], &[], secs(1));
    assert_eq!(asked(&service, secs(1), 4), ["a", "b", "a", "b"]);
}

#[test]
fn a_new_process_and_one_that_is_ready_at_last_start_slowly_and_an_undrained_one_does_too() {
    let balancing = slowly(Algorithm::RoundRobin);
    for before in [
        ReplicaSpec { incarnation: 0, ..replica("b") },
        ReplicaSpec { health: Health::Starting, ..replica("b") },
        ReplicaSpec { mode: Mode::Drained, ..replica("b") },
    ] {
        let (table, service) = table_with(&balanced(balancing, [replica("a"), before]), 1);
        table.apply(&[balanced(balancing, ["a", "b"].map(replica))], &[], secs(1));
        assert!((share(&service, secs(1), "b") - 1.0 / 11.0).abs() < 0.001);
    }
}

#[test]
fn a_change_of_weight_or_health_that_keeps_it_ready_does_not_start_it_anew() {
    let balancing = slowly(Algorithm::RoundRobin);
    let (table, service) = table_with(&balanced(balancing, ["a", "b"].map(replica)), 1);
    let degraded = ReplicaSpec { health: Health::Degraded, revision: 2, ..replica("b") };
    table.apply(&[balanced(balancing, [replica("a"), degraded])], &[], secs(1));
    assert_eq!(asked(&service, secs(1), 4), ["a", "b", "a", "b"]);
}

#[test]
fn one_that_its_breaker_readmits_starts_slowly_and_one_that_an_operator_resets_does_not() {
    let balancing = slowly(Algorithm::RoundRobin);
    let (_table, service) = table_with(&balanced(balancing, ["a", "b"].map(replica)), 1);
    trip(&service, START, "b");
    let due = secs(2);
    for _ in 0..2 {
        assert_eq!(ask(&service, due, Outcome::Success), "b", "a probe");
    }
    assert_eq!(state_of(&service, due, "b"), State::Closed);
    assert!((share(&service, due, "b") - 1.0 / 11.0).abs() < 0.001);
    assert!((share(&service, secs(11), "b") - 0.5).abs() < 0.001);

    let (table, service) = table_with(&balanced(balancing, ["a", "b"].map(replica)), 1);
    trip(&service, START, "b");
    let order = v1::OverrideEntry { revision: 2, ..Default::default() };
    let reset = ReplicaSpec { reset: Some(Arc::new(order)), ..replica("b") };
    table.apply(&[balanced(balancing, [replica("a"), reset])], &[], secs(1));
    assert!((share(&service, secs(1), "b") - 0.5).abs() < 0.001);
}

#[test]
fn shares_grow_under_many_workers_without_anybody_being_asked_out_of_turn() {
    const WORKERS: usize = 4;
    const EACH: usize = 250;
    // One is at work on a step while the others go on by the shares of the one before.
    let share = |step: u64| (WORKERS * EACH) as f64 * step as f64 / (10 + step) as f64;
    let balancing = slowly(Algorithm::RoundRobin);
    let (table, service) = table_with(&balanced(balancing, ["a"].map(replica)), WORKERS);
    table.apply(&[balanced(balancing, ["a", "b"].map(replica))], &[], secs(1));
    let asked = || service.replica(&ReplicaId::parse("b").unwrap()).unwrap().counters().attempts;
    let mut before = 0;
    for step in 1..=10_u64 {
        let now = secs(step);
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let service = &service;
                scope.spawn(move || {
                    for _ in 0..EACH {
                        let picked = service.pick(worker, now, &[], Draw::default()).unwrap();
                        service.settle(worker, &picked.replica, picked.permit, Outcome::Success, now, 0.5);
                    }
                });
            }
        });
        let of_step = (asked() - before) as f64;
        before = asked();
        let (least, most) = (share(step.max(2) - 1) - 4.0, share(step) + 4.0);
        assert!((least..=most).contains(&of_step), "{of_step} at step {step}, not {least} to {most}");
    }
    // Whoever began the last step has finished it.
    assert_eq!(asked_of_both(&service, secs(10)), [500, 500]);
}

/// How many of the next thousand requests go to each of two.
fn asked_of_both(service: &Service, now: Tick) -> [u64; 2] {
    let shares = shares_of(service, now, 0..1000);
    ["a", "b"].map(|id| shares[id])
}
