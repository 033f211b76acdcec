//! Replicas that are waited for in vain, by callers of whom none has as much time as an attempt.

use gateway_proto::Policy;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u32) -> Tick {
    START.plus(seconds * SECOND)
}

/// A service with one replica, whose attempts may take ten seconds.
fn service_of_one(incarnation: i64) -> ServiceSpec {
    let mut policy = Policy::default();
    policy.timeout.per_try = 10 * SECOND;
    ServiceSpec { policy, ..orders([ReplicaSpec { incarnation, ..replica("a") }]) }
}

/// A caller waits for its replica from then on, for so long.
fn wait(service: &Service, since: Tick, seconds: u32) -> Option<Duration> {
    service.waited_in_vain(&service.replicas()[0], since, since.plus(seconds * SECOND))
}

#[test]
fn when_all_have_waited_for_as_long_as_one_may_each_further_wait_is_a_failure_until_something_is_heard() {
    let (_table, service) = table_with(&service_of_one(1), 2);
    for second in 0..9 {
        assert_eq!(wait(&service, at(second), 1), None, "{second}");
    }
    assert_eq!(wait(&service, at(9), 1), Some(10 * SECOND));
    assert_eq!(wait(&service, at(20), 1), Some(11 * SECOND));
    // By another worker.
    service.heard(1, &service.replicas()[0], Outcome::Success, SECOND, at(22));
    assert_eq!(wait(&service, at(15), 9), None, "two seconds since then");
    assert_eq!(wait(&service, at(24), 8), Some(10 * SECOND));
}

#[test]
fn a_crowd_that_waits_at_once_waits_no_longer_than_one_of_them() {
    let (_table, service) = table_with(&service_of_one(1), 1);
    assert!((0..1000).all(|_| wait(&service, at(0), 9).is_none()));
    assert!(wait(&service, at(9), 1).is_some());
}

#[test]
fn silence_is_no_sign_of_life_and_whatever_else_comes_is() {
    for (outcome, is_sign) in [
        (Outcome::Success, true),
        (Outcome::Overloaded, true),
        (Outcome::Failure(Fault::Status(500)), true),
        (Outcome::Failure(Fault::Reset), true),
        (Outcome::Failure(Fault::ResponseTimeout), false),
        (Outcome::Failure(Fault::ConnectTimeout), false),
        (Outcome::Failure(Fault::Unanswered(SECOND)), false),
        (Outcome::Neutral, false),
    ] {
        let (_table, service) = table_with(&service_of_one(1), 1);
        assert_eq!(wait(&service, at(0), 9), None);
        service.heard(0, &service.replicas()[0], outcome, SECOND, at(9));
        assert_eq!(wait(&service, at(9), 1).is_none(), is_sign, "{outcome:?}");
    }
}

#[test]
fn a_new_process_is_not_blamed_for_those_who_waited_for_the_one_before() {
    let (table, service) = table_with(&service_of_one(1), 1);
    assert_eq!(wait(&service, at(0), 9), None);
    table.apply(&[service_of_one(2)], &[], at(9));
    assert_eq!(wait(&service, at(0), 18), None);
    assert!(wait(&service, at(18), 1).is_some());
}
