//! What may be held against leases and old answers beside faults: more would find defects where there are none, less would find none.

use std::time::Duration;

use gateway_tests::{
    history::{
        Fact::{self, Finds, FindsNobody, Registers, Renews},
        Lease, Operation, Verdict, judge,
    },
    lapses::{FRESH, Faults, GOES, Moment, REACHES, SETTLES, Sign, nanos},
};

const TTL: Duration = Duration::from_secs(3);

fn at(millis: u64) -> Moment {
    nanos(Duration::from_millis(millis))
}

fn sign(called: u64, returned: u64, fact: Fact) -> Sign {
    let ended = at(returned);
    Sign { operation: Operation { called: at(called), returned: Some(ended), fact }, ended }
}

/// Asked for, and not answered until the other moment.
fn unanswered(called: u64, ended: u64, fact: Fact) -> Sign {
    Sign { operation: Operation { called: at(called), returned: None, fact }, ended: at(ended) }
}

/// With one fault, from when until when it lasts.
fn fault(began: u64, over: u64) -> Faults {
    let mut faults = Faults::default();
    faults.add(at(began), at(over));
    faults
}

fn lease(faults: &Faults, signs: &[Sign]) -> Lease {
    faults.leases(TTL, signs)[&1]
}

#[test]
fn a_lease_lasts_from_the_last_call_and_is_over_some_time_after_the_last_answer() {
    let signs = [sign(1000, 1200, Registers(1)), sign(2000, 2300, Renews(1)), sign(1500, 2500, Renews(1))];
    let calm = Faults::default();
    let expected = |called, answered: u64| Lease {
        lasts_until: at(called) + nanos(TTL),
        gone_by: at(answered) + nanos(TTL + GOES),
    };
    assert_eq!(lease(&calm, &signs[..1]), expected(1000, 1200));
    assert_eq!(lease(&calm, &signs), expected(2000, 2500));
    // In whatever order it was noted; of another lease it is no sign.
    let others = [signs[1], signs[0], sign(2600, 2700, Renews(2)), sign(2600, 2700, Finds(1))];
    assert_eq!(lease(&calm, &others), expected(2000, 2300));
}

#[test]
fn a_renewal_that_nobody_answered_may_have_been_taken_and_holds_nothing() {
    let signs = [sign(1000, 1200, Registers(1)), unanswered(2000, 8000, Renews(1))];
    let expected = Lease { lasts_until: at(1000) + nanos(TTL), gone_by: at(8000) + nanos(TTL + GOES) };
    assert_eq!(lease(&Faults::default(), &signs), expected);
    // Of a registration that nobody answered, nobody knows when it was made.
    let lost = [unanswered(1000, 7000, Registers(1))];
    let expected = Lease { lasts_until: at(1000) + nanos(TTL), gone_by: Moment::MAX };
    assert_eq!(lease(&Faults::default(), &lost), expected);
}

#[test]
fn a_renewal_holds_nothing_where_a_fault_may_have_kept_it_from_etcd_and_a_registration_does() {
    let signs = [sign(10_000, 10_100, Registers(1)), sign(12_000, 12_100, Renews(1))];
    let until = |faults: &Faults| lease(faults, &signs).lasts_until - nanos(TTL);
    assert_eq!(until(&fault(9000, 20_000)), at(10_000));
    // On its way when it began, and when all were still looking for each other.
    let reached = 12_100 + u64::try_from(REACHES.as_millis()).unwrap();
    assert_eq!(until(&fault(reached, 20_000)), at(10_000));
    assert_eq!(until(&fault(reached + 1, 20_000)), at(12_000));
    let settled = 12_000 - u64::try_from(SETTLES.as_millis()).unwrap();
    assert_eq!(until(&fault(5000, settled)), at(10_000));
    assert_eq!(until(&fault(5000, settled - 1)), at(12_000));
}

#[test]
fn a_fault_gives_all_that_was_there_a_full_time_to_live() {
    let signs = [sign(1000, 1000, Registers(1))];
    let takes = nanos(TTL + GOES);
    let after = |faults: &Faults| lease(faults, &signs).gone_by - takes;
    assert_eq!(after(&fault(2000, 5000)), at(5000) + nanos(SETTLES));
    // Over before, or begun when it must be gone.
    assert_eq!(after(&fault(0, 0)), at(0) + nanos(SETTLES));
    assert_eq!(after(&fault(8001, 9000)), at(1000));
    // One after the other.
    let mut both = fault(2000, 5000);
    both.add(at(13_000), at(14_000));
    both.add(at(60_000), at(61_000));
    assert_eq!(after(&both), at(14_000) + nanos(SETTLES));
}

#[test]
fn a_look_is_as_old_as_the_fault_that_it_was_made_in_and_as_is_asked() {
    let from = |faults: &Faults, called, oldest| faults.seen_from(at(called), Duration::from_millis(oldest));
    let fresh = nanos(FRESH);
    assert_eq!(from(&Faults::default(), 20_000, 60_000), at(20_000) - fresh);
    assert_eq!(from(&Faults::default(), 20_000, 100), at(19_900));
    assert_eq!(from(&Faults::default(), 20_000, 0), at(20_000));
    let faults = fault(11_000, 18_000);
    assert_eq!(from(&faults, 17_000, 60_000), at(11_000) - fresh);
    assert_eq!(from(&faults, 17_000, 1000), at(16_000));
    // Before it, and long after it, it makes no difference.
    assert_eq!(from(&faults, 10_999, 60_000), at(10_999) - fresh);
    assert_eq!(from(&faults, 30_000, 60_000), at(30_000) - fresh);
}

#[test]
fn one_that_was_renewed_and_is_gone_too_soon_is_found() {
    let registered = sign(1000, 1100, Registers(1));
    let renewed = sign(2500, 2600, Renews(1));
    let judged = |faults: &Faults, looked| {
        let signs = [registered, renewed];
        let look = sign(looked, looked + 1, FindsNobody).operation;
        let all = [registered.operation, renewed.operation, look];
        judge(&all, &faults.leases(TTL, &signs), 1000)
    };
    let is_found = |faults: &Faults, looked| matches!(judged(faults, looked), Verdict::Contradictory { .. });
    // Half of the time to live after the renewal, as by the registration alone.
    assert!(is_found(&Faults::default(), 4100));
    assert!(!is_found(&Faults::default(), 5500));
    assert!(!is_found(&fault(2550, 2700), 4100));
}
