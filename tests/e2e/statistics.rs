//! Rates and latencies: counted by data planes while somebody watches, summed up by the control plane.

use std::time::Duration;

use gateway_proto::v1::{ReplicaStats, WatchStatsRequest};
use gateway_tests::{Act, Gateway, Load, Scripted};
use tokio::time::timeout;

#[tokio::test]
async fn rates_and_latencies_of_services_and_replicas_are_told_while_somebody_watches() {
    let gateway = Gateway::start().await;
    // As slow as can be told apart from the rest.
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone".to_vec();
    let slow = Scripted::start(move |_, _| Act::AnswerAfter(Duration::from_millis(100), answer.clone()));
    let quick = Scripted::start(|_, _| Act::ok(b"done"));
    gateway.register("orders", "quick", quick.address()).await;
    gateway.register("orders", "slow", slow.address()).await;
    let load = Load::start(gateway.proxy(), "/orders/x", 100);

    let watch = WatchStatsRequest { service: "orders".into(), per_replica: true, ..Default::default() };
    let mut stream = gateway.control.observability().watch_stats(watch).await.unwrap().into_inner();
    let row = |rows: &[ReplicaStats], id: &str| rows.iter().find(|row| row.replica_id == id).cloned();
    let told = async {
        loop {
            let message = stream.message().await.unwrap().expect("the stream goes on");
            let of = ["", "quick", "slow"].map(|id| row(&message.stats, id));
            if let ([Some(service), Some(quick), Some(slow)], 1) = (of, message.node_count)
                && quick.latency_p50.is_some()
                && slow.latency_p50.is_some()
            {
                return (service, quick, slow);
            }
        }
    };
    let (service, quick_row, slow_row) = timeout(Duration::from_secs(30), told).await.expect("counts come");
    load.stop().await.assert_flawless();

    // They take turns, so each has half of what the service has, give or take what was under way.
    let (requests, attempts) = (service.request_count, quick_row.request_count + slow_row.request_count);
    assert!((requests - attempts).abs() <= 20, "{requests} requests, {attempts} attempts");
    assert!((quick_row.request_count - slow_row.request_count).abs() <= 20, "{quick_row:?} {slow_row:?}");
    let millis = |row: &ReplicaStats| {
        let p50 = row.latency_p50.unwrap();
        p50.seconds * 1000 + i64::from(p50.nanos) / 1_000_000
    };
    assert!(millis(&slow_row) >= 90, "{slow_row:?}");
    assert!(millis(&quick_row) < millis(&slow_row), "{quick_row:?} {slow_row:?}");
    assert_eq!((service.failure_count, slow_row.failure_count), (0, 0));
}
