use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use control_plane::{
    registry::{Mutation, Revision},
    store::{Commit, Loaded, Memory, Store, StoreError},
};
use gateway_proto::v1;
use tokio::task::JoinSet;
use tonic::Code;

use crate::plane::{PATIENCE, Plane, explain, request, seconds};

/// A store in memory with a defect in its commits.
struct Defective {
    memory: Memory,
    commits: Arc<AtomicUsize>,
    panics: fn(usize) -> bool,
    /// Whether the change is durable when it shows.
    is_late: bool,
}

impl Defective {
    fn new(is_late: bool, panics: fn(usize) -> bool) -> Self {
        Self { memory: Memory::new(), commits: Arc::default(), panics, is_late }
    }
}

impl Store for Defective {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        self.memory.load().await
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        let is_defective = (self.panics)(self.commits.fetch_add(1, SeqCst) + 1);
        assert!(!is_defective || self.is_late, "a defect before the change is durable");
        let revisions = self.memory.commit(base, group).await;
        assert!(!is_defective, "a defect once the change is durable");
        revisions
    }
}

async fn events(plane: &Plane) -> Vec<v1::Event> {
    let list = v1::ListEventsRequest { page_size: 1000, ..Default::default() };
    plane.observability().list_events(list).await.unwrap().into_inner().events
}

async fn metric(plane: &Plane, name: &str) -> u64 {
    let (_, _, text) = plane.http("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().parse().unwrap()
}

#[tokio::test]
async fn a_writer_that_panics_loses_nothing_acknowledged_and_answers_nobody_wrongly() {
    for is_late in [false, true] {
        let plane = Plane::start_on(Defective::new(is_late, |commit| matches!(commit, 3 | 7))).await;
        let mut callers = JoinSet::new();
        for caller in 0..20 {
            let registry = plane.registry();
            callers.spawn(async move {
                let (mut answers, mut interrupted) = (Vec::new(), 0);
                // One after the other, so that there are ten commits at least.
                while answers.len() < 10 {
                    let number = 1000 + 10 * caller + answers.len();
                    let wish = v1::RegisterRequest {
                        replica_id: format!("r-{number}"),
                        lease_ttl: seconds(60),
                        ..request("orders", &format!("10.0.0.1:{number}"))
                    };
                    // As every client does that follows the contract: what is UNAVAILABLE is asked for again.
                    match registry.clone().register(wish).await {
                        Ok(answer) => answers.push(answer.into_inner()),
                        Err(status) => {
                            let (code, reason, _) = explain(&status);
                            assert_eq!((code, reason.as_str()), (Code::Unavailable, "INTERRUPTED"));
                            interrupted += 1;
                        }
                    }
                }
                (answers, interrupted)
            });
        }
        let outcomes = callers.join_all().await;
        let interrupted: usize = outcomes.iter().map(|(_, interrupted)| interrupted).sum();
        assert!(interrupted >= 2, "{interrupted}");
        assert_eq!(metric(&plane, "gateway_panics_total{task=\"writer\"}").await, 2);
        // Two like events within a short time are one that says so.
        let restarts = events(&plane).await;
        let restarts = restarts.iter().filter(|event| event.event_type == "TASK_RESTARTED");
        assert_eq!(restarts.map(|event| event.repeat_count + 1).sum::<i32>(), 2);

        // Every acknowledged lease is alive, and the registry holds each replica once.
        for answer in outcomes.into_iter().flat_map(|(answers, _)| answers) {
            let replica = answer.replica.unwrap();
            let beat = v1::HeartbeatRequest {
                service: replica.service,
                replica_id: replica.replica_id,
                lease_id: answer.lease_id,
                ..Default::default()
            };
            plane.registry().heartbeat(beat).await.unwrap();
        }
        let list =
            v1::ListReplicasRequest { service: "orders".into(), page_size: 1000, ..Default::default() };
        let listed = plane.registry().list_replicas(list).await.unwrap().into_inner();
        assert_eq!(listed.replicas.len(), 200);
        plane.stop().await;
    }
}

#[tokio::test]
async fn reads_heartbeats_and_readiness_go_on_around_a_writer_that_panics() {
    let plane = Plane::start_on(Defective::new(false, |commit| commit == 2)).await;
    let wish = v1::RegisterRequest { lease_ttl: seconds(60), ..request("orders", "10.0.0.1:80") };
    let answer = plane.register(wish).await;
    let replica = answer.replica.unwrap();
    let status = plane.registry().register(request("orders", "10.0.0.2:80")).await.unwrap_err();
    assert_eq!(explain(&status).1, "INTERRUPTED");
    // The writer is in its pause now, or back: neither matters to those who do not write.
    let beat = v1::HeartbeatRequest {
        service: replica.service.clone(),
        replica_id: replica.replica_id.clone(),
        lease_id: answer.lease_id,
        ..Default::default()
    };
    plane.registry().heartbeat(beat).await.unwrap();
    let get = v1::GetReplicaRequest { service: replica.service, replica_id: replica.replica_id };
    plane.registry().get_replica(get).await.unwrap();
    // What comes meanwhile waits for the writer.
    plane.register(request("orders", "10.0.0.3:80")).await;
    let ready = plane.http("GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(ready.0, 200);
    plane.stop().await;
}

#[tokio::test]
async fn a_writer_that_panics_again_and_again_ends_the_process_and_leaves_nobody_waiting() {
    let plane = Plane::start_on(Defective::new(false, |_| true)).await;
    let channel = plane.registry();
    let caller = tokio::spawn(async move {
        let mut answers = Vec::new();
        loop {
            let Err(status) = channel.clone().register(request("orders", "10.0.0.1:80")).await else {
                panic!("nothing can be made durable")
            };
            let (code, reason, _) = explain(&status);
            assert_eq!(code, Code::Unavailable, "{status}");
            let is_over = reason != "INTERRUPTED";
            answers.push(reason);
            if is_over {
                return answers;
            }
        }
    });
    let failure = tokio::time::timeout(PATIENCE, plane.running.finished()).await.unwrap().unwrap_err();
    assert_eq!(failure.code(), 1);
    let why =
        "task writer panicked more than 5 times within 60s, at last: a defect before the change is durable";
    assert!(failure.to_string().starts_with(why), "{failure}");
    let answers = caller.await.unwrap();
    assert!(answers.len() > 6, "{answers:?}");
}
