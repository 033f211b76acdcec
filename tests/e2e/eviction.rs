//! Permanent replicas that nobody can reach leave the registry, and only those.

use std::time::{Duration, Instant};

use gateway_proto::{
    time::duration,
    v1::{
        Breaker, BreakerState, EvictionPolicy, HealthCheck, HealthCheckPolicy, HealthCheckState,
        ListEventsRequest, NodeIdentity, Policy, Replica, ReportNodeStatusRequest, UpdatePolicyRequest,
    },
};
use gateway_tests::{Act, Gateway, Scripted, command, eventually, http1, throughout};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const AFTER: Duration = Duration::from_secs(2);

/// A gateway with two permanent replicas, checked often, evicted soon.
async fn gateway_with_two() -> (Gateway, Vec<Scripted>) {
    gateway_with_two_evicted_by(EvictionPolicy { after: Some(duration(AFTER)), failure_count: None }).await
}

async fn gateway_with_two_evicted_by(eviction: EvictionPolicy) -> (Gateway, Vec<Scripted>) {
    let gateway = Gateway::start().await;
    let replicas = two_evicted_by(&gateway, "orders", eviction).await;
    (gateway, replicas)
}

async fn two_evicted_by(gateway: &Gateway, service: &str, eviction: EvictionPolicy) -> Vec<Scripted> {
    let often = Some(duration(Duration::from_millis(100)));
    let check = HealthCheckPolicy {
        interval: often,
        fast_interval: often,
        slow_interval: often,
        timeout: Some(duration(Duration::from_secs(5))),
        ..Default::default()
    };
    let policy = Policy {
        service: service.into(),
        health_check: Some(check),
        eviction: Some(eviction),
        ..Default::default()
    };
    let request = UpdatePolicyRequest { policy: Some(policy), allow_missing: true, ..Default::default() };
    gateway.control.policies().update_policy(request).await.unwrap();
    let replicas: Vec<Scripted> = (0..2).map(|_| Scripted::start(|_, _| Act::ok(b"hello"))).collect();
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register(service, &format!("r-{number}"), replica.address()).await;
    }
    replicas
}

async fn until_evicted(gateway: &Gateway) {
    until_evicted_of(gateway, "orders").await;
}

async fn until_evicted_of(gateway: &Gateway, service: &str) {
    eventually("the dead replica is evicted", async || {
        let left: Vec<_> = gateway.replicas(service).await.into_iter().map(|one| one.replica_id).collect();
        if left == ["r-0"] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_permanent_replica_that_stays_dead_is_evicted_and_told_why_and_may_come_back() {
    let (gateway, mut replicas) = gateway_with_two().await;
    replicas[1].refuse().await;
    let died = Instant::now();
    until_evicted(&gateway).await;
    assert!(died.elapsed() >= AFTER, "{:?}", died.elapsed());
    let request = ListEventsRequest {
        service: "orders".into(),
        filter: "event_type = REPLICA_EVICTED".into(),
        ..Default::default()
    };
    let events = eventually("it is told", async || {
        let listed = gateway.control.observability().list_events(request.clone()).await;
        let events = listed.unwrap().into_inner().events;
        if events.is_empty() { Err("no event".to_owned()) } else { Ok(events) }
    })
    .await;
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.replica_id.as_str(), event.actor.as_str()), ("r-1", "registry"));
    assert!(event.message.ends_with("(1): connect refused"), "{event:?}");
    // Who lives registers again, and the last one that passes is never evicted.
    replicas[1].listen();
    gateway.register("orders", "r-1", replicas[1].address()).await;
    replicas[0].refuse().await;
    eventually("the other one is evicted", async || {
        let left: Vec<_> = gateway.replicas("orders").await.into_iter().map(|one| one.replica_id).collect();
        if left == ["r-1"] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let metrics = http1::get(gateway.control.address(), "/metrics").await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    assert!(metrics.contains("gateway_registry_evictions_total 2"), "{metrics}");
    replicas[1].refuse().await;
    eventually("gwctl shows that the last one stays", async || {
        let args = ["describe", "replica", "orders/r-1"];
        let shown = command::gwctl(&gateway.control.url(), &args).await.success();
        let is_held = shown.contains("HELD: no other replica of the service passes");
        if is_held { Ok(()) } else { Err(shown) }
    })
    .await;
    let held = gateway.event_types("orders", "").await;
    assert!(held.iter().any(|name| name == "EVICTION_HELD"), "{held:?}");
    assert_eq!(gateway.replicas("orders").await.len(), 1);
}

/// What a data plane says of a replica that it sees fail, `failures` requests of which have failed.
fn failing(replica: &Replica, failures: i64) -> Breaker {
    Breaker {
        service: replica.service.clone(),
        replica_id: replica.replica_id.clone(),
        address: replica.endpoint.clone().unwrap_or_default().address,
        incarnation: replica.incarnation,
        state: BreakerState::Open.into(),
        attempt_count: failures,
        failure_count: failures,
        health_check: Some(HealthCheck {
            state: HealthCheckState::Failing.into(),
            last_failure: "connect refused".into(),
            check_count: failures,
            failure_count: failures,
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn one_data_plane_that_lies_or_reaches_nobody_evicts_nobody_until_the_other_agrees() {
    let both = EvictionPolicy { after: Some(duration(AFTER)), failure_count: Some(5) };
    let (gateway, mut replicas) = gateway_with_two_evicted_by(both).await;
    // One that is dead for both of them: that it is evicted shows that they are heard, and that the time is over for all.
    let by_time = EvictionPolicy { after: Some(duration(AFTER)), failure_count: None };
    let mut dead = two_evicted_by(&gateway, "dead", by_time).await;
    let mut registered = gateway.replicas("orders").await;
    registered.extend(gateway.replicas("dead").await.into_iter().filter(|one| one.replica_id == "r-1"));
    let rows = |failures| registered.iter().map(|replica| failing(replica, failures)).collect::<Vec<_>>();
    let (say, said) = mpsc::channel(4);
    let node = Some(NodeIdentity { node_id: "dp-2".into(), ..Default::default() });
    let first = ReportNodeStatusRequest { node, full: true, breakers: rows(0), ..Default::default() };
    say.send(first).await.unwrap();
    let answers = gateway.control.observability().report_node_status(ReceiverStream::new(said)).await;
    let _answers = answers.unwrap().into_inner();
    let speak = async |failures| {
        let more = ReportNodeStatusRequest { breakers: rows(failures), ..Default::default() };
        say.send(more).await.unwrap();
    };
    speak(1_000_000).await;
    eventually("the control plane has heard it", async || {
        let seen = gateway.replicas("orders").await.pop().and_then(|replica| replica.observed);
        let run = seen.as_ref().map(|seen| (seen.consecutive_failure_count, seen.node_count));
        if run == Some((1_000_000, 2)) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    dead[1].refuse().await;
    until_evicted_of(&gateway, "dead").await;
    let left = gateway.replicas("orders").await;
    assert_eq!(left.len(), 2);
    let eviction = left.iter().find_map(|replica| replica.observed.as_ref()?.eviction_time);
    assert_eq!(eviction, None, "nobody is on the way to be evicted");
    speak(1_000_001).await;
    replicas[1].refuse().await;
    until_evicted(&gateway).await;
}

#[tokio::test]
async fn nobody_is_evicted_while_the_control_plane_has_no_data_plane() {
    let (mut gateway, mut replicas) = gateway_with_two().await;
    eventually("the replica passes its checks", async || {
        let row = gateway.breaker("orders", "r-1").await;
        let check = row.and_then(|row| row.health_check);
        match check.map(|check| check.state()) {
            Some(HealthCheckState::Passing) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    replicas[1].refuse().await;
    eventually("the replica fails its checks", async || {
        let row = gateway.breaker("orders", "r-1").await;
        let check = row.and_then(|row| row.health_check);
        match check.map(|check| check.state()) {
            Some(HealthCheckState::Failing) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    gateway.data.kill();
    throughout(2 * AFTER, async || {
        assert_eq!(gateway.replicas("orders").await.len(), 2, "nobody has seen it since");
    })
    .await;
    // Another data plane that says so, too, for as long as it takes.
    gateway.data.restart().await;
    until_evicted(&gateway).await;
}
