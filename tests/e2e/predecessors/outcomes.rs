//! What is a failure, how failures are counted, and what is enough of them.

use std::time::Duration;

use gateway_proto::v1::{BreakerRule, BreakerState, HealthStatus, ReportHealthRequest};
use gateway_tests::{Act, Gateway, Scripted, command, eventually, http1::Connection};

use super::{ask, is_closed, live, obedient, set, shows};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn client_errors_never_open_a_breaker_and_server_errors_refusals_and_timeouts_do() {
    let gateway = Gateway::start_unchecked().await;
    set(
        &gateway,
        "*",
        &["breaker.consecutive_failure_count=3", "breaker.base_open=50s", "timeout.per_try=100ms"],
    )
    .await;
    let (obeys, refuses) = (obedient(), Scripted::refusing(|_, _| Act::ok(b"")));
    let (errs, hangs) = (obedient(), Scripted::start(|_, _| Act::Hang));
    for (service, replica) in [("right", &obeys), ("errs", &errs), ("refuses", &refuses), ("hangs", &hangs)] {
        gateway.register(service, "r-1", replica.address()).await;
    }
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for status in [400, 401, 403, 404, 409, 410, 418, 422] {
        assert_eq!(ask(&mut client, &format!("/right/{status}")).await, status);
    }
    for (service, status) in [("errs/500", 500), ("refuses/", 502), ("hangs/", 504)] {
        for _ in 0..3 {
            assert_eq!(ask(&mut client, &format!("/{service}")).await, status);
        }
        assert_eq!(ask(&mut client, &format!("/{service}")).await, 503, "its breaker is open");
    }
    for (service, why) in
        [("errs", "500 from replica"), ("refuses", "connect refused"), ("hangs", "no response in time")]
    {
        let open = gateway.breaker_becomes(service, "r-1", BreakerState::Open, LONG).await;
        assert_eq!(open.reason, format!("consecutive_failures 3 >= 3: {why}"));
    }
    let right = shows(&gateway, "right", "all is counted", |breaker| breaker.attempt_count == 8).await;
    assert_eq!((right.failure_count, right.state()), (0, BreakerState::Closed));
}

#[tokio::test]
async fn exactly_as_many_failures_as_the_policy_says_open_a_breaker_also_for_the_first_time() {
    let gateway = Gateway::start_unchecked().await;
    let replicas = [(); 2].map(|()| obedient());
    for (service, replica) in ["two", "five"].into_iter().zip(&replicas) {
        gateway.register(service, "r-1", replica.address()).await;
    }
    // Each service by its own, and one by the default.
    set(&gateway, "two", &["breaker.consecutive_failure_count=2"]).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for (service, threshold) in [("two", 2), ("five", 5)] {
        for _ in 1..threshold {
            assert_eq!(ask(&mut client, &format!("/{service}/500")).await, 500);
        }
        let counted = shows(&gateway, service, "one less than enough", |breaker| {
            breaker.consecutive_failure_count == threshold - 1
        });
        assert!(is_closed(&counted.await));
        let listed = ["get", "breakers", service, "--all", "-o", "json"];
        let listed = command::gwctl(&gateway.control.url(), &listed).await.json();
        assert_eq!(listed["breakers"][0]["consecutiveFailureCount"], threshold - 1, "{listed}");

        assert_eq!(ask(&mut client, &format!("/{service}/500")).await, 500);
        let open = gateway.breaker_becomes(service, "r-1", BreakerState::Open, LONG).await;
        assert_eq!((open.rule(), open.trip_count), (BreakerRule::ConsecutiveFailures, 1));
        assert_eq!(open.reason, format!("consecutive_failures {threshold} >= {threshold}: 500 from replica"));
    }
}

#[tokio::test]
async fn a_success_starts_the_count_over_and_failures_that_the_window_has_left_behind_are_forgotten() {
    let gateway = Gateway::start_unchecked().await;
    let replicas = [(); 2].map(|()| obedient());
    for (service, replica) in ["row", "spread"].into_iter().zip(&replicas) {
        gateway.register(service, "r-1", replica.address()).await;
    }
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for status in [500, 500, 500, 500, 200, 500, 500, 500, 500] {
        assert_eq!(ask(&mut client, &format!("/row/{status}")).await, status);
    }
    let row = shows(&gateway, "row", "all is counted", |breaker| breaker.failure_count == 8).await;
    assert_eq!((row.state(), row.consecutive_failure_count), (BreakerState::Closed, 4));

    // Three at a time, of which four within a second would be enough.
    let rule = ["breaker.consecutive_failure_count=10000", "breaker.min_request_count=4"];
    set(&gateway, "spread", &[&rule[..], &["breaker.window=1s", "breaker.failure_ratio=0.5"]].concat()).await;
    for _ in 0..3 {
        for _ in 0..3 {
            assert_eq!(ask(&mut client, "/spread/500").await, 500);
        }
        eventually("the window is empty", async || {
            let row = live(&gateway, "spread").await;
            if row["windowFailureCount"].as_str().is_none_or(|count| count == "0") {
                Ok(())
            } else {
                Err(row.to_string())
            }
        })
        .await;
    }
    let spread = shows(&gateway, "spread", "all is counted", |breaker| breaker.failure_count == 9).await;
    assert_eq!((spread.state(), spread.trip_count), (BreakerState::Closed, 0));
}

#[tokio::test]
async fn a_share_of_failures_within_the_window_opens_a_breaker_and_one_failure_less_does_not() {
    let gateway = Gateway::start_unchecked().await;
    let replica = obedient();
    gateway.register("orders", "r-1", replica.address()).await;
    let rule = [
        "breaker.window=1m",
        "breaker.min_request_count=12",
        "breaker.failure_ratio=0.5",
        "breaker.base_open=50s",
    ];
    set(&gateway, "orders", &rule).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    for status in [200, 500, 200, 500, 200, 500, 200, 500, 200, 500, 200] {
        assert_eq!(ask(&mut client, &format!("/orders/{status}")).await, status);
    }
    let five = shows(&gateway, "orders", "five are counted", |breaker| breaker.failure_count == 5).await;
    assert!(is_closed(&five), "{five:?}");
    assert_eq!(ask(&mut client, "/orders/500").await, 500);
    let open = gateway.breaker_becomes("orders", "r-1", BreakerState::Open, LONG).await;
    assert_eq!(open.reason, "failure_ratio 0.50 >= 0.50 (6 of 12)");
}

#[tokio::test]
async fn a_word_from_outside_takes_a_replica_out_and_repeating_it_changes_nothing() {
    let gateway = Gateway::start_unchecked().await;
    let (sick, well) = (obedient(), obedient());
    gateway.register("orders", "r-1", sick.address()).await;
    gateway.register("orders", "r-2", well.address()).await;
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    let report = async |health: HealthStatus| {
        let request = ReportHealthRequest {
            service: "orders".into(),
            replica_id: "r-1".into(),
            health: health.into(),
            reason: "answers 200 with nonsense".into(),
            ..Default::default()
        };
        let replica = gateway.control.registry().report_health(request).await.unwrap().into_inner().replica;
        gateway.synced().await;
        replica.unwrap().etag
    };
    let first = report(HealthStatus::Unhealthy).await;
    for _ in 0..3 {
        assert_eq!(report(HealthStatus::Unhealthy).await, first, "it is known");
    }
    for _ in 0..10 {
        assert_eq!(ask(&mut client, "/orders/200").await, 200);
    }
    assert_eq!((sick.seen().len(), well.seen().len()), (0, 10));
    report(HealthStatus::Healthy).await;
    for _ in 0..10 {
        assert_eq!(ask(&mut client, "/orders/200").await, 200);
    }
    assert_eq!(sick.seen().len(), 5);
}
