use proptest::prelude::*;

use super::*;

const AT: SystemTime = SystemTime::UNIX_EPOCH;

fn row(service: &str, replica: &str, requests: i64) -> v1::ReplicaStats {
    v1::ReplicaStats {
        service: service.into(),
        replica_id: replica.into(),
        request_count: requests,
        failure_count: 1,
        retry_count: 2,
        inflight_count: 3,
        ..Default::default()
    }
}

fn report(rows: Vec<v1::ReplicaStats>) -> StatsReport {
    parse_stats(rows, Some(prost_types::Duration { seconds: 1, nanos: 0 })).unwrap().unwrap()
}

fn wish(service: &str, per_replica: bool) -> Wish {
    Wish { service: ServiceName::parse(service).ok(), per_replica, ..Wish::default() }
}

fn names(rows: &[v1::ReplicaStats]) -> Vec<String> {
    rows.iter().map(|row| format!("{}/{} {}", row.service, row.replica_id, row.request_count)).collect()
}

#[test]
fn each_reader_has_what_it_asked_for_since_it_looked_last() {
    let now = Instant::now();
    let mut stats = Stats::default();
    let services = stats.begin(wish("", false), now);
    let orders = stats.begin(wish("orders", true), now);
    let rows = || {
        report(vec![row("orders", "", 9), row("orders", "a", 4), row("billing", "", 5), row("idle", "", 0)])
    };
    assert_eq!(stats.add(&rows(), false, AT), 0);
    assert_eq!(names(&stats.take(services, now).0), ["billing/ 5", "orders/ 9"]);
    stats.add(&rows(), false, AT);
    assert_eq!(names(&stats.take(services, now).0), ["billing/ 5", "orders/ 9"]);
    assert_eq!(names(&stats.take(orders, now).0), ["orders/ 18", "orders/a 8"]);
    assert_eq!(stats.take(orders, now).0, []);
    stats.add(&rows(), false, AT);
    stats.end(orders);
    stats.end(services);
    assert_eq!((stats.row_count, stats.readers.len()), (0, 0));
    assert_eq!(stats.take(orders, now).0, []);
}

#[test]
fn counts_are_summed_over_data_planes_and_what_is_in_flight_is_the_mean_of_the_interval() {
    let now = Instant::now();
    let mut stats = Stats::default();
    let reader = stats.begin(wish("orders", false), now);
    // Two data planes report twice each, within two seconds.
    for _ in 0..4 {
        stats.add(&report(vec![row("orders", "", 10)]), false, AT);
    }
    let (rows, interval) = stats.take(reader, now + Duration::from_secs(2));
    assert_eq!(interval, Duration::from_secs(2));
    let sums = (rows[0].request_count, rows[0].failure_count, rows[0].retry_count, rows[0].inflight_count);
    assert_eq!(sums, (40, 4, 8, 6));
    assert_eq!((rows[0].latency_p50, rows[0].latency_p99), (None, None));
}

#[test]
fn more_rows_than_there_is_room_for_are_dropped_and_counted() {
    let now = Instant::now();
    let mut stats = Stats::default();
    let readers: Vec<_> = (0..6).map(|_| stats.begin(wish("", true), now)).collect();
    let mut dropped = 0;
    for batch in 0..6 {
        let rows = (0..2000).map(|index| row("orders", &format!("r-{batch}-{index}"), 1));
        dropped += stats.add(&report(rows.collect()), false, AT);
    }
    // Five readers had room for ten thousand rows each; the sixth for none.
    assert_eq!((stats.row_count, dropped), (50_000, 6 * 12_000 - 50_000));
    let kept: usize = readers.iter().map(|id| stats.take(*id, now).0.len()).sum();
    assert_eq!((kept, stats.row_count), (50_000, 0));
}

#[test]
fn a_data_plane_that_sends_more_rows_than_allowed_is_cut_and_a_wrong_row_is_refused() {
    let report = report(vec![row("orders", "a", 1); 2001]);
    assert_eq!((report.rows.len(), report.cut), (2000, 1));
    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let field = |rows, interval| parse_stats(rows, interval).unwrap_err().violations()[0].field.clone();
    assert_eq!(field(vec![row("orders", "", 1), row("Orders", "", 1)], second), "stats[1].service");
    assert_eq!(field(vec![row("orders", "A", 1)], second), "stats[0].replica_id");
    assert_eq!(field(vec![row("orders", "", 1)], None), "stats_interval");
    assert_eq!(field(vec![], Some(prost_types::Duration { seconds: -1, nanos: 0 })), "stats_interval");
    assert_eq!(parse_stats(vec![], None), Ok(None));
}

#[test]
fn numbers_that_nobody_can_mean_do_no_harm() {
    let now = Instant::now();
    let mut stats = Stats::default();
    let reader = stats.begin(wish("orders", false), now);
    let mad = v1::ReplicaStats {
        request_count: i64::MAX,
        failure_count: i64::MIN,
        inflight_count: i32::MAX,
        latency_bucket_counts: vec![i64::MAX; 500],
        ..row("orders", "", 0)
    };
    let forever = Some(prost_types::Duration { seconds: 315_576_000_000, nanos: 0 });
    for _ in 0..3 {
        stats.add(&parse_stats(vec![mad.clone()], forever).unwrap().unwrap(), false, AT);
    }
    let (rows, _) = stats.take(reader, now + Duration::from_secs(1));
    assert_eq!(
        (rows[0].request_count, rows[0].failure_count, rows[0].inflight_count),
        (i64::MAX, 0, i32::MAX)
    );
    assert!(rows[0].latency_p50.is_some());
}

#[test]
fn attention_ends_some_time_after_the_last_look() {
    let now = Instant::now();
    assert!(Attention::Somebody.is_paid(now));
    assert!(Attention::Until(now + LINGER).is_paid(now));
    assert!(!Attention::Until(now + LINGER).is_paid(now + LINGER));
    assert!(!Attention::Nobody.is_paid(now));
}

/// The contract's bucket of a latency.
fn bucket(micros: f64) -> usize {
    let index = (4.0 * micros.log2()).floor();
    if index < 0.0 { 0 } else { (index as usize).min(119) }
}

proptest! {
    #[test]
    fn a_quantile_is_within_ten_percent_of_the_exact_one(
        mut micros in prop::collection::vec(1.0..1e8_f64, 1..200), share in prop::sample::select(vec![0.5, 0.95, 0.99])
    ) {
        let mut counts = vec![0_i64; 120];
        for one in &micros {
            counts[bucket(*one)] += 1;
        }
        let found = Latencies::from_wire(&counts).quantile(share).unwrap().as_secs_f64() * 1e6;
        micros.sort_by(f64::total_cmp);
        let rank = (share * micros.len() as f64).ceil() as usize;
        let exact = micros[rank - 1];
        prop_assert!((found / exact - 1.0).abs() <= 0.10, "{found} instead of {exact}");
    }

    #[test]
    fn sums_of_latencies_are_the_latencies_of_all(one in prop::collection::vec(0..9_i64, 0..130), other in prop::collection::vec(0..9_i64, 0..130)) {
        let mut sum = Latencies::from_wire(&one);
        sum.add(&Latencies::from_wire(&other));
        let length = one.len().max(other.len()).min(120);
        let all: Vec<i64> = (0..length).map(|i| one.get(i).unwrap_or(&0) + other.get(i).unwrap_or(&0)).collect();
        prop_assert_eq!(sum, Latencies::from_wire(&all));
    }
}
