//! `GET /statistics`, in the form of the older router.

use gateway_proto::v1;
use serde_json::json;

use crate::{
    plane::{Plane, eventually, request},
    reporter::{Reporter, report},
    rest::get,
};

/// A data plane that has said this of one breaker.
async fn reporter(plane: &Plane, node: &str, breaker: v1::Breaker) -> Reporter {
    let first = v1::ReportNodeStatusRequest { breakers: vec![breaker], ..report(node, &[]) };
    Reporter::connect(plane, first).await
}

fn breaker(state: v1::BreakerState, attempt_count: i64, failure_count: i64) -> v1::Breaker {
    v1::Breaker {
        service: "orders".into(),
        replica_id: "r-1".into(),
        state: state.into(),
        attempt_count,
        failure_count,
        ..Default::default()
    }
}

async fn with_two_replicas() -> Plane {
    let plane = Plane::start().await;
    for (id, address) in [("r-1", "10.0.0.1:80"), ("r-2", "10.0.0.2:80")] {
        plane.register(v1::RegisterRequest { replica_id: id.into(), ..request("orders", address) }).await;
    }
    plane
}

#[tokio::test]
async fn statistics_sum_up_what_data_planes_saw_and_reading_them_changes_nothing() {
    let plane = with_two_replicas().await;
    let _first = reporter(&plane, "dp-1", breaker(v1::BreakerState::Closed, 10, 3)).await;
    let _second = reporter(&plane, "dp-2", breaker(v1::BreakerState::Open, 5, 5)).await;
    let expected = json!({
        "SUCCESS_COUNT": ["http://10.0.0.1:80 7", "http://10.0.0.2:80 0"],
        "ERROR_COUNT": ["http://10.0.0.1:80 8", "http://10.0.0.2:80 0"],
        "COOLDOWNS": ["http://10.0.0.1:80 true", "http://10.0.0.2:80 false"],
    });
    eventually(async || (get(&plane, "/statistics").await.json() == expected).then_some(())).await;
    assert_eq!(get(&plane, "/statistics").await.json(), expected, "reading it changed something");
    assert_eq!(get(&plane, "/statistics/orders").await.json(), expected);
    assert_eq!(get(&plane, "/statistics/carts").await.problem().1, "SERVICE_NOT_FOUND");
    assert_eq!(get(&plane, "/statistics?window=1h").await.problem().2, "window");
}

#[tokio::test]
async fn latencies_are_told_to_who_looks_for_a_while() {
    let plane = with_two_replicas().await;
    let reporter = reporter(&plane, "dp-1", breaker(v1::BreakerState::Closed, 1, 0)).await;
    let reporting = tokio::spawn(async move {
        // Ten requests of some 1 ms: bucket 40 begins at 2^10 microseconds.
        let mut buckets = vec![0; 41];
        buckets[40] = 10;
        let row = v1::ReplicaStats {
            service: "orders".into(),
            replica_id: "r-1".into(),
            request_count: 10,
            latency_bucket_counts: buckets,
            ..Default::default()
        };
        let report = v1::ReportNodeStatusRequest {
            stats: vec![row],
            stats_interval: crate::plane::seconds(1),
            ..Default::default()
        };
        while reporter.reports.send(report.clone()).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let latency = eventually(async || {
        let statistics = get(&plane, "/statistics/orders?window=1s").await.json();
        statistics["LATENCY"][0].as_str().map(str::to_owned)
    })
    .await;
    let (url, millis) = latency.split_once(' ').unwrap();
    let millis: f64 = millis.parse().unwrap();
    assert_eq!(url, "http://10.0.0.1:80");
    assert!((0.9..1.4).contains(&millis), "{millis}");
    reporting.abort();
}
