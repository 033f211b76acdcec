use gateway_proto::v1::{self, BreakerState};
use tokio::time::timeout;

use crate::{
    plane::{PATIENCE, explain, seconds},
    reporter::{Reporter, plane_with, report},
};

fn counts(service: &str, replica: &str, requests: i64) -> v1::ReplicaStats {
    let mut latency_bucket_counts = vec![0; 41];
    // Between 2^(40/4) and 2^(41/4) microseconds: 1.024 ms and 1.218 ms.
    latency_bucket_counts[40] = requests;
    v1::ReplicaStats {
        service: service.into(),
        replica_id: replica.into(),
        request_count: requests,
        failure_count: 1,
        inflight_count: 2,
        latency_bucket_counts,
        ..Default::default()
    }
}

fn counted(stats: Vec<v1::ReplicaStats>) -> v1::ReportNodeStatusRequest {
    v1::ReportNodeStatusRequest { stats, stats_interval: seconds(1), ..Default::default() }
}

#[tokio::test]
async fn data_planes_count_in_detail_while_somebody_watches_and_the_sums_are_told() {
    let plane = plane_with(&["a"]).await;
    let mut one = Reporter::connect(&plane, report("n1", &[("a", BreakerState::Closed)])).await;
    assert!(!one.order().await.detailed_stats);
    let watch = v1::WatchStatsRequest { service: "orders".into(), per_replica: true, ..Default::default() };
    let mut stream = plane.observability().watch_stats(watch).await.unwrap().into_inner();
    let order = one.order().await;
    assert_eq!((order.detailed_stats, order.report_interval), (true, seconds(1)));
    // One that comes later is told at once.
    let mut two = Reporter::connect(&plane, report("n2", &[("a", BreakerState::Closed)])).await;
    assert!(two.order().await.detailed_stats);

    for node in [&one, &two] {
        let rows = vec![counts("orders", "", 50), counts("orders", "a", 60), counts("billing", "", 9)];
        node.send(counted(rows)).await;
    }
    let mut rows = Vec::new();
    while rows.iter().map(|row: &v1::ReplicaStats| row.request_count).sum::<i64>() < 220 {
        let message = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.node_count, 2);
        assert!(message.end_time.is_some() && message.interval.unwrap().seconds >= 1, "{message:?}");
        rows.extend(message.stats);
    }
    assert!(rows.iter().all(|row| row.service == "orders"), "{rows:?}");
    let total = |replica: &str| {
        let of = rows.iter().filter(|row| row.replica_id == replica);
        of.fold((0, 0), |sum, row| (sum.0 + row.request_count, sum.1 + row.failure_count))
    };
    assert_eq!((total(""), total("a")), ((100, 2), (120, 2)));
    for row in &rows {
        assert_eq!(row.latency_bucket_counts, Vec::<i64>::new());
        let p99 = row.latency_p99.unwrap();
        assert!(p99.seconds == 0 && (1_024_000..1_218_000).contains(&p99.nanos), "{p99:?}");
    }
}

#[tokio::test]
async fn a_wrong_wish_is_refused_and_wrong_counts_end_the_stream() {
    let plane = plane_with(&["a"]).await;
    let bad = v1::WatchStatsRequest { service: "Orders".into(), ..Default::default() };
    let status = plane.observability().watch_stats(bad).await.unwrap_err();
    assert_eq!(explain(&status).2, "service");
    let mut node = Reporter::connect(&plane, report("n1", &[])).await;
    node.order().await;
    node.send(v1::ReportNodeStatusRequest { stats: vec![counts("orders", "", 1)], ..Default::default() })
        .await;
    let status = timeout(PATIENCE, node.answers.message()).await.unwrap().unwrap_err();
    assert_eq!(explain(&status).2, "stats_interval");
}
