//! Active health checks: replicas are out, and back, without a request of any client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use gateway_proto::{
    time::duration,
    v1::{
        Breaker, BreakerState, HealthCheck, HealthCheckPolicy, HealthCheckState, HealthCheckType, Policy,
        UpdatePolicyRequest,
    },
};
use gateway_tests::{Act, ControlPlane, Gateway, Scripted, binaries, command, eventually, http1};

/// Sets how replicas of `orders` are checked, often, and waits until the data plane goes by it.
async fn check_by(gateway: &Gateway, check: HealthCheckPolicy) {
    let often = Some(duration(Duration::from_millis(100)));
    let check = HealthCheckPolicy {
        interval: often,
        fast_interval: often,
        slow_interval: often,
        timeout: Some(duration(Duration::from_secs(5))),
        ..check
    };
    let request = UpdatePolicyRequest {
        policy: Some(Policy { service: "orders".into(), health_check: Some(check), ..Default::default() }),
        allow_missing: true,
        ..Default::default()
    };
    gateway.control.policies().update_policy(request).await.unwrap();
    gateway.synced().await;
}

/// Waits until a replica's checks show this, and yields its row.
async fn becomes(gateway: &Gateway, replica: &str, state: HealthCheckState) -> (Breaker, HealthCheck) {
    eventually(&format!("checks show {replica} as {state:?}"), async || {
        let row = gateway.breaker("orders", replica).await;
        match row.as_ref().and_then(|row| row.health_check.clone()) {
            Some(check) if check.state() == state => Ok((row.unwrap_or_default(), check)),
            _ => Err(format!("{row:?}")),
        }
    })
    .await
}

async fn requests(gateway: &Gateway, count: usize) {
    for _ in 0..count {
        assert_eq!(http1::get(gateway.proxy(), "/orders/hello").await.status(), 200);
    }
}

/// What gwctl says.
async fn gwctl(gateway: &Gateway, args: &[&str]) -> String {
    let mut gwctl = binaries::gwctl();
    gwctl.args(["--endpoint", &gateway.control.url()]).args(args);
    command::run(gwctl).await.success()
}

#[tokio::test]
async fn a_permanent_replica_that_dies_is_out_without_a_request_and_back_when_it_listens_again() {
    let gateway = Gateway::start().await;
    check_by(&gateway, HealthCheckPolicy::default()).await;
    let mut replicas: Vec<Scripted> = (0..2).map(|_| Scripted::start(|_, _| Act::ok(b"hello"))).collect();
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    becomes(&gateway, "r-1", HealthCheckState::Passing).await;
    replicas[1].refuse().await;
    let (row, check) = becomes(&gateway, "r-1", HealthCheckState::Failing).await;
    assert_eq!((check.r#type(), check.last_failure.as_str()), (HealthCheckType::Tcp, "connect refused"));
    assert!(check.keeps_out && check.streak_count >= 3, "{check:?}");
    assert_eq!((row.state(), row.attempt_count), (BreakerState::Closed, 0), "{row:?}");
    requests(&gateway, 10).await;
    assert_eq!(replicas[0].seen().len(), 10);

    let replicas_shown = gwctl(&gateway, &["get", "replicas", "orders"]).await;
    assert!(replicas_shown.contains("FAILING"), "{replicas_shown}");
    let described = gwctl(&gateway, &["describe", "replica", "orders/r-1"]).await;
    assert!(described.contains("no new requests"), "{described}");
    assert!(described.contains("connect refused ("), "{described}");
    let admin = http1::get(gateway.data.admin(), "/breakers").await;
    let admin = String::from_utf8_lossy(admin.body()).into_owned();
    assert!(admin.contains("HEALTH_CHECK_STATE_FAILING"), "{admin}");
    let metrics = http1::get(gateway.data.admin(), "/metrics").await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    let gauge = "gateway_health_check_replicas{service=\"orders\",state=\"failing\"} 1";
    assert!(metrics.contains(gauge), "{metrics}");

    replicas[1].listen();
    let (_, check) = becomes(&gateway, "r-1", HealthCheckState::Passing).await;
    assert!(!check.keeps_out && check.last_failure.is_empty(), "{check:?}");
    requests(&gateway, 10).await;
    assert_eq!(replicas[1].seen().len(), 5);
    let events = gateway.event_types("orders", "r-1").await;
    let checks: Vec<_> = events.iter().filter(|name| name.starts_with("HEALTH_CHECK_")).collect();
    assert_eq!(checks, ["HEALTH_CHECK_FAILED", "HEALTH_CHECK_PASSED"], "{events:?}");
    assert!(!events.iter().any(|name| name.starts_with("BREAKER_")), "{events:?}");
}

#[tokio::test]
async fn an_http_check_goes_by_the_status_and_a_service_whose_checks_all_fail_is_asked_all_the_same() {
    let gateway = Gateway::start().await;
    let path = Some("/ready".to_owned());
    let http = Some(HealthCheckType::Http.into());
    check_by(&gateway, HealthCheckPolicy { r#type: http, path, ..Default::default() }).await;
    let is_ready = Arc::new([AtomicBool::new(true), AtomicBool::new(true)]);
    let replicas: Vec<Scripted> = (0..2)
        .map(|number| {
            let is_ready = Arc::clone(&is_ready);
            Scripted::start(move |seen, _| match seen.target() {
                "/ready" if !is_ready[number].load(SeqCst) => {
                    Act::Answer(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec())
                }
                _ => Act::ok(b"hello"),
            })
        })
        .collect();
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    becomes(&gateway, "r-0", HealthCheckState::Passing).await;
    is_ready[0].store(false, SeqCst);
    let (_, check) = becomes(&gateway, "r-0", HealthCheckState::Failing).await;
    assert_eq!(check.last_failure, "status 503, expected 200..=399");
    let hellos = |replica: &Scripted| replica.seen().iter().filter(|seen| seen.target() == "/hello").count();
    requests(&gateway, 6).await;
    assert_eq!((hellos(&replicas[0]), hellos(&replicas[1])), (0, 6));
    is_ready[1].store(false, SeqCst);
    becomes(&gateway, "r-1", HealthCheckState::Failing).await;
    requests(&gateway, 6).await;
    assert_eq!((hellos(&replicas[0]), hellos(&replicas[1])), (3, 9));
}

#[tokio::test]
async fn a_grpc_check_asks_the_health_service_for_the_service_that_is_named() {
    let gateway = Gateway::start().await;
    let grpc = Some(HealthCheckType::Grpc.into());
    check_by(&gateway, HealthCheckPolicy { r#type: grpc, ..Default::default() }).await;
    // What speaks gRPC and its health service here is another control plane: none takes itself for a replica.
    let folder = tempfile::tempdir().unwrap();
    let other = ControlPlane::start(&folder.path().join("r.redb")).await;
    gateway.register("orders", "r-0", other.address()).await;
    becomes(&gateway, "r-0", HealthCheckState::Passing).await;
    let grpc_service = Some("shop.v1.Nobody".to_owned());
    check_by(&gateway, HealthCheckPolicy { r#type: grpc, grpc_service, ..Default::default() }).await;
    let (_, check) = becomes(&gateway, "r-0", HealthCheckState::Failing).await;
    assert!(check.last_failure.starts_with("gRPC status NOT_FOUND"), "{check:?}");
}

#[tokio::test]
async fn health_checks_that_begin_late_are_shown_by_gwctl_until_they_are_on_time_again() {
    let gateway = Gateway::start_with(&[], &["--health-check-rate", "1"]).await;
    for port in 1..=15 {
        gateway.register("orders", &format!("r-{port}"), ([127, 0, 0, 1], port).into()).await;
    }
    let url = gateway.control.url();
    let late = async || gwctl(&gateway, &["get", "nodes", "--columns", "checks late", "--no-headers"]).await;
    // Fifteen first checks, of which one begins in a second.
    eventually("they are late", async || {
        let late = late().await;
        if late.trim().ends_with('s') { Ok(()) } else { Err(late) }
    })
    .await;
    let described = gwctl(&gateway, &["describe", "node", "dp-1"]).await;
    assert!(described.contains("Checks        begin "), "{described}");
    let checked = command::gwctl(&url, &["check"]).await.stdout;
    assert!(checked.contains("health checks of dp-1 begin "), "{checked}");
    let filter = ["get", "nodes", "--filter", "health_check_lateness >= 5s", "-o", "name"];
    assert_eq!(gwctl(&gateway, &filter).await.trim(), "dp-1");
    check_by(&gateway, HealthCheckPolicy { r#type: Some(HealthCheckType::Off.into()), ..Default::default() })
        .await;
    eventually("nobody is checked any more", async || {
        let late = late().await;
        if late.trim() == "-" { Ok(()) } else { Err(late) }
    })
    .await;
    let checked = command::gwctl(&url, &["check"]).await.stdout;
    assert!(!checked.contains("health checks of dp-1"), "{checked}");
}
