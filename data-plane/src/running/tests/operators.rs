//! What operators do to replicas, from the snapshot stream to clients, reports and metrics.

use std::time::UNIX_EPOCH;

use gateway_proto::time::timestamp;

use super::*;
use crate::fake_control_plane::{ReportStream, SnapshotStream};

/// A data plane that follows a control plane, with both of its streams.
async fn following(
    control_plane: &mut FakeControlPlane,
) -> (Running, Shutdown, SnapshotStream, ReportStream) {
    let url = control_plane.url();
    let (running, shutdown) =
        begin(&["--control-plane", url.as_str(), "--no-cache", "--node-id", "dp-1"]).await;
    let snapshots = control_plane.snapshot_stream().await;
    (running, shutdown, snapshots, control_plane.report_stream().await)
}

async fn reported(
    reports: &mut ReportStream,
    wanted: impl Fn(&v1::ReportNodeStatusRequest) -> bool,
) -> v1::ReportNodeStatusRequest {
    loop {
        let report = reports.report().await.expect("the stream goes on");
        if wanted(&report) {
            return report;
        }
    }
}

fn draining(mut replica: v1::Replica, revision: i64) -> v1::Replica {
    let deadline_time = Some(timestamp(SystemTime::now() + Duration::from_secs(600)));
    replica.mode = v1::ReplicaMode::Draining.into();
    replica.drain = Some(v1::Drain { deadline_time, ..Default::default() });
    replica.revision = revision;
    replica
}

#[tokio::test]
async fn a_drain_is_reported_with_what_is_in_flight_and_with_its_end() {
    let (go_on, mut gate) = tokio::sync::mpsc::channel::<()>(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        gate.recv().await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    });
    let mut control_plane = FakeControlPlane::start().await;
    let (running, shutdown, mut snapshots, mut reports) = following(&mut control_plane).await;
    let replica = wire::replica("orders", "r-1", port);
    snapshots.send(wire::full(7, vec![wire::service("orders", vec![replica.clone()])])).await;
    reported(&mut reports, |report| report.revision == 7).await;
    let listen = running.listen();
    let request = tokio::spawn(async move { request(listen, "POST", "/orders/x").await });
    reported(&mut reports, |report| report.breakers.iter().any(|row| row.inflight_count == 1)).await;

    let delta = v1::Delta { upsert_replicas: vec![draining(replica, 8)], ..Default::default() };
    snapshots.send(wire::delta(7, 8, delta)).await;
    let report = reported(&mut reports, |report| report.revision == 8).await;
    assert!(report.breakers.iter().all(|row| row.inflight_count == 1), "{report:?}");
    assert_eq!(get(listen, "/orders/x").await.0, 503, "nobody else is there");
    let text = get(running.admin_listen(), "/metrics").await.1;
    assert!(text.contains("gateway_replica_modes{service=\"orders\",mode=\"draining\"} 1"), "{text}");

    go_on.send(()).await.unwrap();
    assert_eq!(request.await.unwrap(), (200, "hi".into()));
    let report =
        reported(&mut reports, |report| report.breakers.iter().any(|row| row.inflight_count == 0)).await;
    assert_eq!((report.epoch.as_str(), report.revision), ("e", 8));
    end(running, &shutdown).await;
}

#[tokio::test]
async fn a_forced_breaker_shows_in_the_list_and_in_metrics_with_whoever_forced_it() {
    let mut control_plane = FakeControlPlane::start().await;
    let (running, shutdown, mut snapshots, mut reports) = following(&mut control_plane).await;
    let mut message = wire::full(7, vec![wire::service("orders", vec![wire::replica("orders", "r-1", 1)])]);
    let entry = v1::OverrideEntry {
        override_id: "o-1".into(),
        service: "orders".into(),
        replica_id: "r-1".into(),
        kind: v1::OverrideKind::BreakerOpen.into(),
        author: "alice".into(),
        create_time: Some(timestamp(UNIX_EPOCH)),
        expire_time: Some(timestamp(SystemTime::now() + Duration::from_secs(600))),
        revision: 7,
        ..Default::default()
    };
    if let Some(v1::stream_snapshots_response::Update::Full(full)) = &mut message.update {
        full.overrides.push(entry);
    }
    let ack = snapshots.send(message).await;
    assert_eq!(ack.nack, None);
    let report = reported(&mut reports, |report| !report.events.is_empty()).await;
    assert_eq!(report.events[0].actor, "alice");
    let (status, problem) = get(running.listen(), "/orders/x").await;
    assert!(status == 503 && problem.contains("breaker_forced_open"), "{problem}");
    let row = &json(running.admin_listen(), "/breakers").await["breakers"][0];
    assert_eq!(
        (&row["state"], &row["activeOverride"]["author"]),
        (&"BREAKER_STATE_FORCED_OPEN".into(), &"alice".into())
    );
    let text = get(running.admin_listen(), "/metrics").await.1;
    for line in [
        "gateway_breakers{service=\"orders\",state=\"forced_open\"} 1",
        "gateway_breakers{service=\"orders\",state=\"forced_closed\"} 0",
        "gateway_replica_breaker_state{service=\"orders\",replica=\"r-1\",state=\"forced_open\"} 1",
        "gateway_breaker_transitions_total{service=\"orders\",from=\"closed\",to=\"forced_open\",trigger=\"forced\"} 1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
    }
    end(running, &shutdown).await;
}

#[tokio::test]
async fn what_the_guard_holds_is_reported_once_and_counted() {
    let mut control_plane = FakeControlPlane::start().await;
    let (running, shutdown, mut snapshots, mut reports) = following(&mut control_plane).await;
    let ids = ["r-1", "r-2", "r-3", "r-4"];
    let replicas = ids.iter().zip(1..).map(|(id, port)| wire::replica("orders", id, port));
    snapshots.send(wire::full(7, vec![wire::service("orders", replicas.collect())])).await;
    // A registry that has forgotten everything, and says nothing of why.
    snapshots.send(wire::full(8, vec![])).await;
    let report = reported(&mut reports, |report| report.held_replicas.is_some()).await;
    let held = report.held_replicas.unwrap();
    let named: Vec<_> = held.replicas.iter().map(|held| held.replica_id.as_str()).collect();
    assert_eq!((named, held.total_count), (ids.to_vec(), 4));
    assert!(held.replicas[0].missing_time.is_some());
    let text = get(running.admin_listen(), "/metrics").await.1;
    assert!(text.contains("gateway_guard_held_replicas 4"), "{text}");

    snapshots.send(wire::full(9, vec![])).await;
    let report = reported(&mut reports, |report| report.revision == 9).await;
    assert_eq!(report.held_replicas, None, "it is the same list");
    end(running, &shutdown).await;
}
