use gateway_proto::{ReplicaId, ServiceName, v1};
use proptest::prelude::*;

use super::*;
use crate::observe::{Stats, stats::parse_stats};

fn at(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1_000_000.0 + seconds)
}

fn orders() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}

/// Takes in that so many requests were answered, so many of them badly, and each within 2 to 2.4 µs or within 8 to 9.5 µs.
fn add(stats: &mut Stats, (requests, failures): (i64, i64), (quick, slow): (i64, i64), seconds: f64) {
    let mut latency_bucket_counts = vec![0; 13];
    (latency_bucket_counts[4], latency_bucket_counts[12]) = (quick, slow);
    let row = v1::ReplicaStats {
        service: "orders".into(),
        request_count: requests,
        failure_count: failures,
        latency_bucket_counts,
        ..Default::default()
    };
    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    stats.add(&parse_stats(vec![row], second).unwrap().unwrap(), false, at(seconds));
}

#[test]
fn figures_show_from_the_first_report_on_and_are_gone_when_nothing_is_left_of_it() {
    let mut stats = Stats::default();
    let shown = |stats: &Stats, seconds| stats.lately(&orders(), None, at(seconds));
    assert_eq!(shown(&stats, 0.0), None);
    add(&mut stats, (50, 5), (49, 1), 3.0);
    let micros = |lately: Lately| [lately.p50, lately.p99].map(|span| span.unwrap().as_micros());
    let lately = shown(&stats, 3.0).unwrap();
    assert_eq!((lately.rate, lately.success, micros(lately)), (5.0, Some(0.9), [2, 8]));
    assert_eq!(shown(&stats, 9.9).unwrap().rate, 5.0, "all of them are within ten seconds");
    assert_eq!(shown(&stats, 15.0).unwrap().rate, 2.5, "half of them");
    assert_eq!(shown(&stats, 20.0), None);
    assert_eq!(shown(&stats, -1.0), None, "by a clock that was set back");
}

#[test]
fn of_the_span_before_as_much_counts_as_is_left_of_the_present_one() {
    let mut stats = Stats::default();
    add(&mut stats, (100, 0), (100, 0), 5.0);
    add(&mut stats, (100, 100), (0, 100), 11.0);
    let lately = stats.lately(&orders(), None, at(17.5)).unwrap();
    // A quarter of the first hundred, and all of the second.
    assert_eq!((lately.rate, lately.success), (12.5, Some(0.2)));
    assert_eq!(lately.p50.unwrap().as_micros(), 8);
    // A span without anything lies between.
    add(&mut stats, (10, 0), (10, 0), 31.0);
    let lately = stats.lately(&orders(), None, at(31.0)).unwrap();
    assert_eq!((lately.rate, lately.success), (1.0, Some(1.0)));
}

#[test]
fn one_that_only_has_requests_in_flight_has_no_figures_and_one_without_latencies_has_the_others() {
    let mut stats = Stats::default();
    add(&mut stats, (0, 0), (0, 0), 1.0);
    assert_eq!(stats.lately(&orders(), None, at(1.0)), None);
    add(&mut stats, (4, 1), (0, 0), 2.0);
    let lately = stats.lately(&orders(), None, at(2.0)).unwrap();
    assert_eq!((lately.success, lately.p50, lately.p99), (Some(0.75), None, None));
}

#[test]
fn by_a_clock_that_was_set_back_all_begins_anew() {
    let mut stats = Stats::default();
    add(&mut stats, (100, 0), (100, 0), 5.0);
    add(&mut stats, (10, 0), (10, 0), -3600.0);
    assert_eq!(stats.lately(&orders(), None, at(-3600.0)).unwrap().rate, 1.0);
}

#[test]
fn no_more_names_are_kept_than_there_is_room_for_and_what_was_quiet_makes_room() {
    let mut recent = Recent::default();
    let busy = Sum { requests: 1, ..Sum::default() };
    let name = |number: usize| (ServiceName::parse(&format!("s-{number}")).unwrap(), None);
    for number in 0..MAX_NAMES {
        recent.add(&name(number), &busy, at(0.0));
    }
    recent.add(&name(MAX_NAMES), &busy, at(9.0));
    assert_eq!((recent.services.sums.len(), recent.get(&name(MAX_NAMES), at(9.0))), (MAX_NAMES, None));
    recent.add(&name(MAX_NAMES), &busy, at(20.0));
    assert_eq!(recent.services.sums.len(), 1, "the others have been quiet for two spans");
    assert!(recent.get(&name(MAX_NAMES), at(20.0)).is_some());
    // Replicas take no service's place.
    let replica = |number: usize| ReplicaId::parse(&format!("r-{number}")).ok();
    for number in 0..=MAX_NAMES {
        recent.add(&(orders(), replica(number)), &busy, at(20.0));
    }
    recent.add(&(orders(), None), &busy, at(20.0));
    assert!(recent.get(&(orders(), None), at(20.0)).is_some());
    assert_eq!(recent.replicas.sums.len(), MAX_NAMES);
    recent.tidy(at(40.0));
    assert_eq!((recent.services.sums.len(), recent.replicas.sums.len()), (0, 0));
}

proptest! {
    /// What comes evenly shows as what it is, whenever one looks.
    #[test]
    fn a_steady_rate_shows_as_it_is(each in 1..100_i64, failures in 0..2_i64, looked in 0.0..10.0_f64) {
        let mut stats = Stats::default();
        // Reported ten times a second, up to when one looks.
        let reports = 200 + (looked * 10.0) as usize;
        for report in 0..reports {
            add(&mut stats, (each, failures), (each, 0), report as f64 / 10.0 + 0.05);
        }
        let lately = stats.lately(&orders(), None, at(20.0 + looked)).unwrap();
        let expected = each as f64 * 10.0;
        prop_assert!((lately.rate / expected - 1.0).abs() < 0.02, "{} instead of {expected}", lately.rate);
        prop_assert!((lately.success.unwrap() - (1.0 - failures as f64 / each as f64)).abs() < 1e-9);
    }
}
