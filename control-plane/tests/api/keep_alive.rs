use std::time::Duration;

use gateway_proto::v1::{self, keep_alive_result::Result as Outcome};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::plane::{PATIENCE, Plane, eventually, explain, request, seconds};

/// A client's side of one stream.
struct Owner {
    requests: mpsc::Sender<v1::KeepAliveRequest>,
    responses: Streaming<v1::KeepAliveResponse>,
}

impl Owner {
    async fn connect(plane: &Plane) -> Self {
        let (requests, outbound) = mpsc::channel(8);
        let responses = plane.registry().keep_alive(ReceiverStream::new(outbound)).await.unwrap();
        Self { requests, responses: responses.into_inner() }
    }

    async fn renew(&mut self, heartbeats: Vec<v1::HeartbeatRequest>) -> Vec<v1::KeepAliveResult> {
        self.requests.send(v1::KeepAliveRequest { heartbeats }).await.unwrap();
        self.next().await
    }

    async fn next(&mut self) -> Vec<v1::KeepAliveResult> {
        let next = timeout(PATIENCE, self.responses.message()).await.expect("an answer comes");
        next.unwrap().expect("the stream goes on").results
    }
}

async fn register(plane: &Plane, port: u16) -> v1::HeartbeatRequest {
    let wish =
        v1::RegisterRequest { lease_ttl: seconds(2), ..request("orders", &format!("10.0.0.1:{port}")) };
    let answer = plane.register(wish).await;
    let replica = answer.replica.unwrap();
    v1::HeartbeatRequest {
        service: replica.service,
        replica_id: replica.replica_id,
        lease_id: answer.lease_id,
        ..Default::default()
    }
}

fn lost(result: &v1::KeepAliveResult) -> &str {
    match &result.result {
        Some(Outcome::Lost(lost)) => &lost.reason,
        other => panic!("{other:?}"),
    }
}

fn is_renewed(result: &v1::KeepAliveResult) -> bool {
    matches!(&result.result, Some(Outcome::Renewed(renewed)) if renewed.expire_time.is_some())
}

#[tokio::test]
async fn a_drain_is_told_at_once_also_on_a_stream_that_never_rests() {
    let plane = Plane::start().await;
    let (busy, drained) = (register(&plane, 1).await, register(&plane, 2).await);
    let mut owner = Owner::connect(&plane).await;
    owner.renew(vec![busy.clone(), drained.clone()]).await;
    let drain = v1::DrainReplicaRequest {
        service: drained.service.clone(),
        replica_id: drained.replica_id.clone(),
        ..Default::default()
    };
    plane.registry().drain_replica(drain).await.unwrap();
    let asked = std::time::Instant::now();
    let is_told = |result: &v1::KeepAliveResult| {
        result.replica_id == drained.replica_id
            && matches!(&result.result, Some(Outcome::Renewed(renewed)) if renewed.mode() == v1::ReplicaMode::Draining)
    };
    // Only the other one is renewed, without a pause.
    while !owner.renew(vec![busy.clone()]).await.iter().any(is_told) {
        assert!(asked.elapsed() < PATIENCE, "it is never told");
    }
}

#[tokio::test]
async fn many_leases_are_kept_alive_on_one_stream_past_their_time() {
    let plane = Plane::start().await;
    let mut leases = Vec::new();
    for port in 8001..=8050 {
        leases.push(register(&plane, port).await);
    }
    let mut owner = Owner::connect(&plane).await;
    let started = std::time::Instant::now();
    // Twice their time to live, in the pace that the registry asks for.
    while started.elapsed() < Duration::from_secs(4) {
        let results = owner.renew(leases.clone()).await;
        assert_eq!(results.len(), leases.len());
        for (result, lease) in results.iter().zip(&leases) {
            assert_eq!((&result.service, &result.replica_id), (&lease.service, &lease.replica_id));
            assert!(is_renewed(result), "{result:?}");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    plane.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_no_more_is_told_with_the_reason_and_the_others_go_on() {
    let plane = Plane::start().await;
    let (alive, replaced, removed) =
        (register(&plane, 1).await, register(&plane, 2).await, register(&plane, 3).await);
    plane.register(request("orders", "10.0.0.1:2")).await;
    let removal = v1::DeregisterRequest {
        service: removed.service.clone(),
        replica_id: removed.replica_id.clone(),
        force: true,
        author: "ana".into(),
        reason: "rogue".into(),
        ..Default::default()
    };
    plane.registry().deregister(removal).await.unwrap();
    let unknown = v1::HeartbeatRequest { replica_id: "nobody".into(), ..alive.clone() };
    let wrong = v1::HeartbeatRequest { lease_id: "7".into(), ..alive.clone() };
    let mut owner = Owner::connect(&plane).await;
    let results = owner.renew(vec![replaced, removed, unknown, wrong, alive]).await;
    assert_eq!(lost(&results[0]), "LEASE_MISMATCH");
    assert_eq!(lost(&results[1]), "REPLICA_REMOVED");
    let Some(Outcome::Lost(why)) = &results[1].result else { panic!() };
    assert!(why.message.contains("deregistered by ana: rogue"), "{}", why.message);
    assert_eq!((lost(&results[2]), lost(&results[3])), ("LEASE_EXPIRED", "INVALID_FIELD"));
    assert!(is_renewed(&results[4]));
    plane.stop().await;
}

#[tokio::test]
async fn a_client_that_registers_again_goes_on_with_its_new_lease_on_the_same_stream() {
    let plane = Plane::start().await;
    let first = register(&plane, 1).await;
    let mut owner = Owner::connect(&plane).await;
    assert!(is_renewed(&owner.renew(vec![first.clone()]).await[0]));
    // Nobody renews it: it lapses, and the replica goes.
    let gone = v1::GetReplicaRequest { service: first.service.clone(), replica_id: first.replica_id.clone() };
    eventually(async || plane.registry().get_replica(gone.clone()).await.err()).await;
    assert_eq!(lost(&owner.renew(vec![first]).await[0]), "LEASE_EXPIRED");
    let second = register(&plane, 1).await;
    assert!(is_renewed(&owner.renew(vec![second]).await[0]));
    plane.stop().await;
}

#[tokio::test]
async fn health_that_comes_with_a_heartbeat_is_reported_once() {
    let plane = Plane::start().await;
    let lease = register(&plane, 1).await;
    let mut owner = Owner::connect(&plane).await;
    let sick = v1::HeartbeatRequest { health: v1::HealthStatus::Unhealthy.into(), ..lease.clone() };
    let got = v1::GetReplicaRequest { service: lease.service.clone(), replica_id: lease.replica_id.clone() };
    for _ in 0..2 {
        assert!(is_renewed(&owner.renew(vec![sick.clone()]).await[0]));
        // It is stored beside the stream, which answers without waiting for that.
        let replica = eventually(async || {
            let replica = plane.registry().get_replica(got.clone()).await.unwrap().into_inner().replica;
            replica.filter(|replica| replica.health() == v1::HealthStatus::Unhealthy)
        })
        .await;
        assert_eq!(replica.revision, 2);
    }
    // Unset leaves it as it is; the single call does the same.
    owner.renew(vec![lease.clone()]).await;
    let well = v1::HeartbeatRequest { health: v1::HealthStatus::Healthy.into(), ..lease.clone() };
    plane.registry().heartbeat(well).await.unwrap();
    let replica = plane.registry().get_replica(got).await.unwrap().into_inner().replica.unwrap();
    assert_eq!((replica.health(), replica.revision), (v1::HealthStatus::Healthy, 3));
    let claimed = v1::HeartbeatRequest { health: v1::HealthStatus::Lost.into(), ..lease };
    let refused = plane.registry().heartbeat(claimed).await.unwrap_err();
    assert_eq!(explain(&refused), (Code::InvalidArgument, "INVALID_FIELD".into(), "health".into()));
    plane.stop().await;
}

#[tokio::test]
async fn a_message_with_too_many_heartbeats_ends_the_stream_with_the_limit() {
    let plane = Plane::start().await;
    let lease = register(&plane, 1).await;
    let mut owner = Owner::connect(&plane).await;
    assert_eq!(owner.renew(vec![lease.clone(); 1000]).await.len(), 1000);
    owner.requests.send(v1::KeepAliveRequest { heartbeats: vec![lease; 1001] }).await.unwrap();
    let refused = timeout(PATIENCE, owner.responses.message()).await.unwrap().unwrap_err();
    assert_eq!(explain(&refused).2, "heartbeats");
    assert!(refused.message().contains("at most 1000"), "{}", refused.message());
    plane.stop().await;
}
