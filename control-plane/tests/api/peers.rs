//! Two control planes of one registry: what data planes report to one is told by both, and what is missing is named.
//!
//! Each has a store in memory of its own, of one epoch, and is told the same changes: so they are as two on one store.

use std::net::{SocketAddr, TcpListener};

use control_plane::{
    peers::{Address, Settings},
    registry::{Mutation, Revision},
    store::{Commit, Loaded, Memory, Store, StoreError},
};
use gateway_proto::v1::{self, BreakerState};
use tokio::time::timeout;

use crate::{
    discovery::{Node, hello},
    plane::{PATIENCE, Plane, eventually, request, seconds},
    reporter::{Reporter, report},
};

/// A store of a given epoch.
struct Shared(Memory, &'static str);

impl Store for Shared {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(Loaded { epoch: self.1.into(), ..self.0.load().await? })
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        self.0.commit(base, group).await
    }
}

/// Ports that are free now.
fn ports() -> [u16; 2] {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    [free(), free()].map(|listener| listener.local_addr().unwrap().port())
}

/// One of those at `ports`, by the name of `a` or `b`.
async fn start(ports: [u16; 2], index: usize, epoch: &'static str) -> Plane {
    let plane = Plane::start_on_with(Shared(Memory::new(), epoch), |config| {
        config.listen = Some(SocketAddr::from(([127, 0, 0, 1], ports[index])));
        let addresses = ports.map(|port| Address::parse(&format!("127.0.0.1:{port}"), false).unwrap());
        // Everybody is given the same list, with himself in it.
        config.peers = Settings::at(addresses.into()).advertising(["a:1", "b:1"][index]);
    })
    .await;
    for id in ["r-1", "r-2"] {
        let wish = request("orders", &format!("10.0.0.1:{}", if id == "r-1" { 1 } else { 2 }));
        let permanent = v1::RegisterRequest { replica_id: id.into(), permanent: true, ..wish };
        plane.register(permanent).await;
    }
    plane
}

async fn pair() -> ([u16; 2], Plane, Plane) {
    let ports = ports();
    let (a, b) = (start(ports, 0, "e").await, start(ports, 1, "e").await);
    for plane in [&a, &b] {
        eventually(async || silent(plane).await.is_empty().then_some(())).await;
    }
    (ports, a, b)
}

async fn nodes(plane: &Plane) -> v1::ListNodesResponse {
    plane.observability().list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner()
}

async fn silent(plane: &Plane) -> Vec<String> {
    nodes(plane).await.silent_control_planes.into_iter().map(|silent| silent.reason).collect()
}

async fn node(plane: &Plane, id: &str) -> Option<v1::Node> {
    nodes(plane).await.nodes.into_iter().find(|node| node.node_id == id)
}

async fn rows(plane: &Plane) -> Vec<(String, String, BreakerState)> {
    let list = v1::ListBreakersRequest { per_node: true, ..Default::default() };
    let listed = plane.observability().list_breakers(list).await.unwrap().into_inner();
    listed
        .breakers
        .into_iter()
        .map(|row| (row.node_id.clone(), row.replica_id.clone(), row.state()))
        .collect()
}

fn numbered(node: &str, stream_number: i64) -> v1::Hello {
    let identity = hello(node).node.map(|node| v1::NodeIdentity { stream_number, ..node });
    v1::Hello { node: identity, ..hello(node) }
}

#[tokio::test]
async fn what_a_data_plane_reports_to_one_control_plane_is_told_by_the_other() {
    let (_, a, b) = pair().await;
    let mut followed = Node::connect(&a, numbered("n1", 1)).await;
    followed.full().await;
    let reporter = Reporter::connect(&a, report("n1", &[("r-1", BreakerState::Open)])).await;
    let there = eventually(async || {
        let node = node(&b, "n1").await?;
        (node.state() == v1::NodeState::Synced && node.open_breaker_count == 1).then_some(node)
    })
    .await;
    assert_eq!(
        (there.control_plane.as_str(), there.version.as_str()),
        (nodes(&b).await.peers[0].address.as_str(), "1")
    );
    assert_eq!(node(&a, "n1").await.unwrap().control_plane, "a:1");
    assert_eq!(rows(&b).await, [("n1".into(), "r-1".into(), BreakerState::Open)]);

    // What changes comes, too, to those who watch.
    let mut watch =
        b.observability().watch_breakers(v1::WatchBreakersRequest::default()).await.unwrap().into_inner();
    let mut next = async || timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(next().await.breaker.unwrap().state(), BreakerState::Open);
    let closed = report("n1", &[("r-1", BreakerState::Closed)]);
    reporter.send(v1::ReportNodeStatusRequest { full: false, node: None, ..closed }).await;
    while next().await.breaker.is_none_or(|row| row.state() != BreakerState::Closed) {}

    // Both know why, and both know what happened.
    let wish = v1::ExplainReplicaRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        ..Default::default()
    };
    let told = b.observability().explain_replica(wish).await.unwrap().into_inner();
    assert_eq!((told.nodes.len(), told.nodes[0].node_id.as_str()), (1, "n1"));
    let events =
        b.observability().list_events(v1::ListEventsRequest::default()).await.unwrap().into_inner().events;
    let connected: Vec<_> = events.iter().filter(|event| event.event_type == "NODE_CONNECTED").collect();
    assert_eq!(connected.len(), 1, "{events:?}");
    assert!(connected[0].control_plane.starts_with("127.0.0.1:"), "{connected:?}");
    let registered = events.iter().filter(|event| event.event_type == "REPLICA_REGISTERED").count();
    assert_eq!(registered, 2, "each control plane knows of these by itself");
}

#[tokio::test]
async fn a_data_plane_that_goes_on_at_another_control_plane_is_one_data_plane() {
    let (_, a, b) = pair().await;
    let mut first = Node::connect(&a, numbered("n1", 1)).await;
    first.full().await;
    let reports = Reporter::connect(&a, report("n1", &[("r-1", BreakerState::Open)])).await;
    eventually(async || (rows(&b).await.len() == 1).then_some(())).await;
    // Its streams at the first one have not ended yet, as when that one hangs.
    let mut second = Node::connect(&b, numbered("n1", 2)).await;
    second.full().await;
    let _reports = Reporter::connect(&b, report("n1", &[("r-2", BreakerState::Closed)])).await;
    for plane in [&a, &b] {
        eventually(async || {
            (rows(plane).await == [("n1".into(), "r-2".into(), BreakerState::Closed)]).then_some(())
        })
        .await;
        assert_eq!(nodes(plane).await.nodes.len(), 1);
    }
    let stale = report("n1", &[("r-1", BreakerState::Open)]);
    reports.send(v1::ReportNodeStatusRequest { node: None, ..stale }).await;
    drop((first, reports));
    // What it says last at the first one counts for nothing, nor does its end there.
    let gone = v1::ListEventsRequest::default();
    let events = a.observability().list_events(gone).await.unwrap().into_inner().events;
    assert!(events.iter().all(|event| event.event_type != "NODE_DISCONNECTED"), "{events:?}");
    for plane in [&a, &b] {
        assert_eq!(rows(plane).await, [("n1".into(), "r-2".into(), BreakerState::Closed)]);
        assert_eq!(node(plane, "n1").await.unwrap().state(), v1::NodeState::Synced);
    }
}

#[tokio::test]
async fn while_a_control_plane_is_silent_every_answer_says_so() {
    let (ports, a, b) = pair().await;
    let mut followed = Node::connect(&b, numbered("n2", 1)).await;
    followed.full().await;
    let _reporter = Reporter::connect(&b, report("n2", &[("r-1", BreakerState::Open)])).await;
    eventually(async || (rows(&a).await.len() == 1).then_some(())).await;
    b.stop().await;
    let reason = eventually(async || silent(&a).await.pop()).await;
    assert!(!reason.is_empty());
    let there = node(&a, "n2").await.unwrap();
    assert_eq!(there.state(), v1::NodeState::Unknown);
    let mut client = a.observability();
    let listed = client.list_breakers(v1::ListBreakersRequest::default()).await.unwrap().into_inner();
    assert_eq!((listed.breakers.len(), listed.unreachable_node_ids), (1, vec!["n2".to_owned()]));
    let address = format!("127.0.0.1:{}", ports[1]);
    let is_named = |silent: &[v1::SilentControlPlane]| {
        assert_eq!(silent.len(), 1);
        assert_eq!(silent[0].address, address);
        assert!(silent[0].last_heard_time.is_some());
    };
    is_named(&listed.silent_control_planes);
    let events = client.list_events(v1::ListEventsRequest::default()).await.unwrap().into_inner();
    is_named(&events.silent_control_planes);
    assert_eq!(events.events[0].event_type, "CONTROL_PLANE_SILENT");
    let wish = v1::ExplainReplicaRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        ..Default::default()
    };
    is_named(&client.explain_replica(wish).await.unwrap().into_inner().silent_control_planes);
    let wish = v1::ExplainServiceRequest { service: "orders".into() };
    is_named(&client.explain_service(wish).await.unwrap().into_inner().silent_control_planes);
    let breaker = Some(v1::BreakerPolicy { consecutive_failure_count: Some(3), ..Default::default() });
    let wish = v1::WhatIfRequest { service: "orders".into(), breaker };
    is_named(&client.what_if(wish).await.unwrap().into_inner().silent_control_planes);
    let mut stats = client.watch_stats(v1::WatchStatsRequest::default()).await.unwrap().into_inner();
    is_named(&stats.message().await.unwrap().unwrap().silent_control_planes);
    let mut watch = client.watch_breakers(v1::WatchBreakersRequest::default()).await.unwrap().into_inner();
    loop {
        let message = watch.message().await.unwrap().unwrap();
        if message.change_type() == v1::ChangeType::Bookmark {
            is_named(&message.silent_control_planes);
            break;
        }
    }
    let metrics = a.http("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.2;
    assert!(metrics.contains("gateway_peer_control_planes{state=\"silent\"} 1"), "{metrics}");

    // It comes back without the data plane, which has gone elsewhere or for good: nothing of it is left.
    let b = start(ports, 1, "e").await;
    eventually(async || silent(&a).await.is_empty().then_some(())).await;
    eventually(async || rows(&a).await.is_empty().then_some(())).await;
    assert!(node(&a, "n2").await.is_none());
    b.stop().await;
}

#[tokio::test]
async fn a_drain_is_over_when_the_data_planes_of_all_control_planes_say_so_and_not_while_one_is_silent() {
    let (ports, a, b) = pair().await;
    let (mut one, mut other) =
        (Node::connect(&a, numbered("n1", 1)).await, Node::connect(&b, numbered("n2", 1)).await);
    one.full().await;
    let (_, _) = other.full().await;
    let idle = |node: &str, revision: i64| v1::ReportNodeStatusRequest {
        epoch: "e".into(),
        revision,
        ..report(node, &[("r-1", BreakerState::Closed)])
    };
    let reporters = (Reporter::connect(&a, idle("n1", 2)).await, Reporter::connect(&b, idle("n2", 2)).await);
    eventually(async || (nodes(&a).await.nodes.len() == 2).then_some(())).await;

    let drain = v1::DrainReplicaRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        drain_timeout: seconds(600),
        ..Default::default()
    };
    a.registry().drain_replica(drain.clone()).await.unwrap();
    let watch = v1::WatchDrainRequest { service: "orders".into(), replica_id: "r-1".into() };
    let mut receipts = a.registry().watch_drain(watch.clone()).await.unwrap().into_inner();
    let mut until = async |is_it: &dyn Fn(&v1::DrainStatus) -> bool| loop {
        let next = timeout(PATIENCE, receipts.message()).await.expect("a receipt comes").unwrap().unwrap();
        if next.status.as_ref().is_some_and(is_it) {
            return next.status.unwrap();
        }
    };
    one.delta().await;
    reporters.0.send(v1::ReportNodeStatusRequest { node: None, full: false, ..idle("n1", 3) }).await;
    // The other control plane has not come to it, and so its data plane has not either.
    let waiting = until(&|status| status.rollout.as_ref().unwrap().acked_node_count == 1).await;
    assert_eq!((waiting.rollout.unwrap().pending_node_ids, waiting.is_idle), (vec!["n2".to_owned()], false));
    let behind = until(&|status| !status.rollout.as_ref().unwrap().silent_control_planes.is_empty()).await;
    assert_eq!(behind.rollout.unwrap().silent_control_planes[0].reason, "it is at revision 2 of 3");

    // As the store would tell it.
    b.registry().drain_replica(drain).await.unwrap();
    other.delta().await;
    let busy = v1::ReportNodeStatusRequest { node: None, full: false, ..idle("n2", 3) };
    let busy_row = v1::Breaker { inflight_count: 7, ..busy.breakers[0].clone() };
    reporters.1.send(v1::ReportNodeStatusRequest { breakers: vec![busy_row], ..busy.clone() }).await;
    let busy_there = until(&|status| status.inflight_request_count == 7).await;
    assert_eq!((busy_there.rollout.unwrap().acked_node_count, busy_there.is_idle), (2, false));

    // Now nobody knows.
    b.stop().await;
    let unknown = until(&|status| !status.rollout.as_ref().unwrap().silent_control_planes.is_empty()).await;
    assert!(!unknown.is_idle);

    // It is there again, and its data plane has nothing in flight.
    let b = start(ports, 1, "e").await;
    let again = v1::DrainReplicaRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        drain_timeout: seconds(600),
        ..Default::default()
    };
    b.registry().drain_replica(again).await.unwrap();
    let mut other = Node::connect(&b, numbered("n2", 2)).await;
    other.full().await;
    let _reporter = Reporter::connect(&b, idle("n2", 3)).await;
    until(&|status| status.is_idle).await;
    b.stop().await;
}

#[tokio::test]
async fn counts_of_all_data_planes_are_summed_up_while_somebody_looks_and_only_then() {
    let (_, a, b) = pair().await;
    let rows = [("r-1", BreakerState::Closed)];
    let (mut one, mut other) =
        (Reporter::connect(&a, report("n1", &rows)).await, Reporter::connect(&b, report("n2", &rows)).await);
    assert!(!one.order().await.detailed_stats && !other.order().await.detailed_stats);
    let mut watch =
        a.observability().watch_stats(v1::WatchStatsRequest::default()).await.unwrap().into_inner();
    assert!(one.order().await.detailed_stats && other.order().await.detailed_stats);
    let mut latency_bucket_counts = vec![0; 41];
    latency_bucket_counts[40] = 10;
    let counts = v1::ReplicaStats {
        service: "orders".into(),
        request_count: 10,
        failure_count: 1,
        latency_bucket_counts,
        ..Default::default()
    };
    for reporter in [&one, &other] {
        let counted = v1::ReportNodeStatusRequest {
            stats: vec![counts.clone()],
            stats_interval: seconds(1),
            ..Default::default()
        };
        reporter.send(counted).await;
    }
    let mut sum = 0;
    while sum < 20 {
        let message = timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
        sum += message.stats.iter().map(|row| row.request_count).sum::<i64>();
        assert!(
            message.stats.iter().all(|row| row.latency_p50.is_some() && row.latency_bucket_counts.is_empty())
        );
        if sum == 20 {
            assert_eq!(message.node_count, 2);
        }
    }
    assert_eq!(sum, 20);
}

#[tokio::test]
async fn each_control_plane_lists_what_services_were_asked_on_all_data_planes_without_anybody_watching() {
    let (_, a, b) = pair().await;
    let rows = [("r-1", BreakerState::Closed)];
    let (mut one, mut other) =
        (Reporter::connect(&a, report("n1", &rows)).await, Reporter::connect(&b, report("n2", &rows)).await);
    assert!(!one.order().await.detailed_stats && !other.order().await.detailed_stats);
    // One fails all that it is asked and the other none, so that their sum tells of both.
    for (reporter, failure_count) in [(&one, 50), (&other, 0)] {
        let counts = v1::ReplicaStats {
            service: "orders".into(),
            request_count: 50,
            failure_count,
            ..Default::default()
        };
        let counted = v1::ReportNodeStatusRequest {
            stats: vec![counts],
            stats_interval: seconds(1),
            ..Default::default()
        };
        reporter.send(counted).await;
    }
    for plane in [&a, &b] {
        let success = async || {
            let request = v1::GetServiceRequest { service: "orders".into() };
            plane.registry().get_service(request).await.unwrap().into_inner().service?.success_ratio
        };
        // What came in two spans of ten seconds may weigh differently.
        eventually(async || success().await.filter(|success| (0.01..0.99).contains(success))).await;
    }
    // Nobody has asked for more than that.
    for reporter in [&mut one, &mut other] {
        let order = timeout(std::time::Duration::ZERO, reporter.answers.message()).await;
        assert!(order.is_err(), "{order:?}");
    }
}

#[tokio::test]
async fn data_planes_of_all_control_planes_answer_what_would_have_been() {
    let (_, a, b) = pair().await;
    let mut reporter = Reporter::connect(&b, report("n2", &[("r-1", BreakerState::Closed)])).await;
    reporter.order().await;
    eventually(async || node(&a, "n2").await).await;
    let breaker = Some(v1::BreakerPolicy { consecutive_failure_count: Some(3), ..Default::default() });
    let wish = v1::WhatIfRequest { service: "orders".into(), breaker };
    let mut client = a.observability();
    let asked = tokio::spawn(async move { client.what_if(wish).await.unwrap().into_inner() });
    let question = reporter.order().await.what_if.expect("it is asked");
    let replay = v1::Replay { outcome_count: 5, ..Default::default() };
    let answer = v1::WhatIfAnswer {
        question_id: question.question_id,
        replicas: vec![v1::ReplicaReplay { replica_id: "r-1".into(), now: Some(replay), then: Some(replay) }],
        recording: true,
        ..Default::default()
    };
    reporter.send(v1::ReportNodeStatusRequest { what_if_answer: Some(answer), ..Default::default() }).await;
    let told = asked.await.unwrap();
    assert_eq!((told.node_count, told.now.unwrap().outcome_count, told.missing_node_ids), (1, 5, vec![]));
}

#[tokio::test]
async fn events_that_are_told_again_to_another_control_plane_are_there_once() {
    let (_, a, b) = pair().await;
    let told = |batch_number: i64| v1::ReportNodeStatusRequest {
        events: vec![v1::Event {
            event_type: "BREAKER_OPENED".into(),
            service: "orders".into(),
            replica_id: "r-1".into(),
            message: format!("of batch {batch_number}"),
            ..Default::default()
        }],
        batch_number,
        ..report("n1", &[("r-1", BreakerState::Open)])
    };
    let process = |report: v1::ReportNodeStatusRequest| {
        let node = report.node.map(|node| v1::NodeIdentity { process_id: "p-1".into(), ..node });
        v1::ReportNodeStatusRequest { node, ..report }
    };
    let mut reporter = Reporter::connect(&a, process(told(7))).await;
    while reporter.order().await.taken_batch_number != 7 {}
    let opened = async |plane: &Plane| {
        let listed = plane.observability().list_events(v1::ListEventsRequest::default()).await.unwrap();
        let events = listed.into_inner().events.into_iter();
        let opened = events.filter(|event| event.event_type == "BREAKER_OPENED");
        opened.map(|event| (event.message, event.repeat_count)).collect::<Vec<_>>()
    };
    eventually(async || (opened(&b).await.len() == 1).then_some(())).await;
    drop(reporter);
    // It never learnt that the first one had been taken.
    let mut node = Node::connect(&b, numbered("n1", 1)).await;
    // Reports that begin before it follows are taken for those of an older process.
    node.update().await;
    let mut reporter = Reporter::connect(&b, process(told(7))).await;
    while reporter.order().await.taken_batch_number != 7 {}
    reporter.send(v1::ReportNodeStatusRequest { node: None, full: false, ..told(8) }).await;
    while reporter.order().await.taken_batch_number != 8 {}
    for plane in [&a, &b] {
        // Like events fold: the second one has repeated the first one once.
        eventually(async || (opened(plane).await == [("of batch 8".to_owned(), 1)]).then_some(())).await;
    }
}

#[tokio::test]
async fn a_data_plane_that_comes_from_one_that_was_ahead_is_waited_for_and_gets_what_is_new() {
    let (_, _a, b) = pair().await;
    let ahead = v1::Hello { resume_epoch: "e".into(), resume_revision: 3, ..numbered("n1", 1) };
    let mut node = Node::connect(&b, ahead).await;
    for port in [3, 4] {
        b.register(request("orders", &format!("10.0.0.1:{port}"))).await;
    }
    let (response, delta) = node.delta().await;
    assert_eq!((response.revision, delta.base_revision, delta.upsert_replicas.len()), (4, 3, 1));
}

#[tokio::test]
async fn a_control_plane_of_another_registry_is_told_from_one_of_this() {
    let ports = ports();
    let (a, b) = (start(ports, 0, "e").await, start(ports, 1, "f").await);
    let reason =
        eventually(async || silent(&a).await.pop().filter(|reason| reason.contains("registry"))).await;
    assert_eq!(
        reason,
        "it has another registry (epoch f, here e): control planes of one gateway share a store"
    );
    let _node = Node::connect(&b, numbered("n2", 1)).await;
    eventually(async || node(&b, "n2").await).await;
    assert!(nodes(&a).await.nodes.is_empty());
}

#[tokio::test]
async fn a_change_waits_for_data_planes_of_all_control_planes() {
    let (_, a, b) = pair().await;
    let mut other = Node::connect(&b, numbered("n2", 1)).await;
    other.full().await;
    eventually(async || node(&a, "n2").await.filter(|node| node.state() == v1::NodeState::Synced)).await;
    let set = |reason: &str| v1::OverrideBreakerRequest {
        service: "orders".into(),
        replica_id: "r-1".into(),
        state: BreakerState::ForcedOpen.into(),
        ttl: seconds(60),
        reason: reason.into(),
        wait_timeout: seconds(15),
        ..Default::default()
    };
    let mut client = a.observability();
    let waiting = tokio::spawn(async move { client.override_breaker(set("x")).await.unwrap().into_inner() });
    b.observability()
        .override_breaker(v1::OverrideBreakerRequest { wait_timeout: None, ..set("x") })
        .await
        .unwrap();
    other.delta().await;
    let rollout = timeout(PATIENCE, waiting).await.unwrap().unwrap().rollout.unwrap();
    assert_eq!((rollout.node_count, rollout.acked_node_count, rollout.silent_control_planes), (1, 1, vec![]));
}
