use gateway_proto::v1::{self, BreakerState};
use tokio::time::timeout;

use crate::{
    plane::{PATIENCE, eventually, explain, seconds},
    reporter::{Reporter, plane_with, report, row},
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
async fn what_was_asked_lately_is_listed_without_anybody_watching() {
    let plane = plane_with(&["a", "b"]).await;
    let list = async |filter: &str| {
        let request = v1::ListServicesRequest { filter: filter.into(), ..Default::default() };
        plane.registry().list_services(request).await.unwrap().into_inner().services
    };
    let before = list("").await.remove(0);
    assert_eq!((before.request_rate, before.success_ratio), (None, None), "nobody tells");
    let rows = [("a", BreakerState::Closed), ("b", BreakerState::Closed)];
    let mut node = Reporter::connect(&plane, report("n1", &rows)).await;
    assert!(!node.order().await.detailed_stats);
    node.send(counted(vec![counts("orders", "", 50), counts("elsewhere", "", 9)])).await;
    let service = eventually(async || {
        let service = list("").await.remove(0);
        service.request_rate.is_some().then_some(service)
    })
    .await;
    // Of fifty requests within ten seconds; later, as much of them as is left.
    let rate = service.request_rate.unwrap();
    assert!(rate > 0.0 && rate <= 5.0, "{rate}");
    assert!((service.success_ratio.unwrap() - 0.98).abs() < 1e-9, "{:?}", service.success_ratio);
    for latency in [service.latency_p50, service.latency_p99] {
        let nanos = latency.unwrap().nanos;
        assert!((1_024_000..1_218_000).contains(&nanos), "{nanos}");
    }
    let one = plane.registry().get_service(v1::GetServiceRequest { service: "orders".into() }).await;
    assert!(one.unwrap().into_inner().service.unwrap().request_rate.is_some());
    for (filter, count) in [
        ("request_rate > 0 AND success_ratio < 0.99 AND latency_p99 < 2ms", 1),
        ("success_ratio < 0.9 OR latency_p50 >= 2ms", 0),
        ("request_rate : *", 1),
    ] {
        assert_eq!(list(filter).await.len(), count, "{filter}");
    }

    // Attempts at replicas are counted from one report to the next; how long they took only while somebody watches.
    let tried = v1::Breaker { attempt_count: 30, failure_count: 15, ..row("a", BreakerState::Closed) };
    node.send(v1::ReportNodeStatusRequest { breakers: vec![tried], ..Default::default() }).await;
    let seen = async || {
        let request = v1::ListReplicasRequest { service: "orders".into(), ..Default::default() };
        let replicas = plane.registry().list_replicas(request).await.unwrap().into_inner().replicas;
        replicas.into_iter().map(|replica| replica.observed.unwrap()).collect::<Vec<_>>()
    };
    let both = eventually(async || {
        let both = seen().await;
        (both[0].attempt_rate > Some(0.0)).then_some(both)
    })
    .await;
    assert_eq!(
        (both[0].attempt_rate.map(|rate| rate <= 3.0), both[0].success_ratio),
        (Some(true), Some(0.5))
    );
    assert_eq!((both[1].attempt_rate, both[1].success_ratio), (Some(0.0), None));
    assert!(both.iter().all(|seen| seen.latency_p99.is_none()));
    node.send(counted(vec![counts("orders", "a", 50)])).await;
    eventually(async || seen().await[0].latency_p99).await;
}

#[tokio::test]
async fn services_that_a_data_plane_makes_up_are_counted_nowhere() {
    let plane = plane_with(&["a"]).await;
    let mut node = Reporter::connect(&plane, report("n1", &[("a", BreakerState::Closed)])).await;
    node.order().await;
    let watch = v1::WatchStatsRequest::default();
    let mut stream = plane.observability().watch_stats(watch).await.unwrap().into_inner();
    node.send(counted(vec![counts("made-up", "", 9), counts("made-up", "a", 9), counts("orders", "", 50)]))
        .await;
    let mut rows = Vec::new();
    while rows.is_empty() {
        rows = timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap().stats;
    }
    assert_eq!(rows.iter().map(|row| row.service.as_str()).collect::<Vec<_>>(), ["orders"]);
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
