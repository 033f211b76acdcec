//! By which revision of the registry the rows are right that were told.

use std::time::SystemTime;

use super::*;

/// Long enough that nothing here is told by the interval.
const RARELY: Duration = Duration::from_secs(10);

fn draining(number: u16) -> ReplicaSpec {
    ReplicaSpec { mode: Mode::Draining, drain_deadline: Some(SystemTime::now() + RARELY), ..replica(number) }
}

fn position(report: &v1::ReportNodeStatusRequest) -> (&str, i64) {
    (&report.epoch, report.revision)
}

/// The replica's attempts under way, by the report.
fn inflight(report: &v1::ReportNodeStatusRequest) -> Vec<(&str, i32)> {
    report.breakers.iter().map(|row| (row.replica_id.as_str(), row.inflight_count)).collect()
}

async fn within_the_interval(stream: &mut ReportStream) -> v1::ReportNodeStatusRequest {
    let report = timeout(RARELY / 2, stream.report()).await;
    report.expect("it is told at once").expect("the stream goes on")
}

/// A data plane whose stream has told its full state, at revision 1, and tells counts rarely.
async fn reporting(control_plane: &mut FakeControlPlane) -> (DataPlane, ReportStream) {
    let data_plane = DataPlane::new(2);
    data_plane.moved_to(1);
    data_plane.start(control_plane);
    let mut stream = control_plane.report_stream().await;
    let full = stream.report().await.unwrap();
    assert_eq!((full.full, position(&full)), (true, ("e", 1)));
    stream.ask_for(duration(RARELY)).await;
    // The first interval may be over before the other one is known.
    data_plane.attempt(Outcome::Success);
    until(&mut stream, |report| !report.breakers.is_empty()).await;
    (data_plane, stream)
}

#[tokio::test]
async fn a_new_revision_is_told_at_once_even_without_rows() {
    let mut control_plane = FakeControlPlane::start().await;
    let (data_plane, mut stream) = reporting(&mut control_plane).await;
    for revision in 2..10 {
        data_plane.moved_to(revision);
        let report = within_the_interval(&mut stream).await;
        assert_eq!((position(&report), &report.breakers[..]), (("e", revision), &[][..]));
    }
}

#[tokio::test]
async fn what_changed_by_a_new_revision_is_told_with_it() {
    let mut control_plane = FakeControlPlane::start().await;
    let (data_plane, mut stream) = reporting(&mut control_plane).await;
    let picked = data_plane.pick();
    let busy = picked.replica.key().replica.to_string();
    data_plane.apply([replica(1), replica(2)]);
    data_plane.moved_to(2);
    let report = within_the_interval(&mut stream).await;
    assert_eq!((position(&report), inflight(&report)), (("e", 2), vec![(busy.as_str(), 1)]));
    data_plane.settle(picked, Outcome::Success);
}

#[tokio::test]
async fn the_end_of_the_last_request_at_a_draining_replica_is_told_at_once() {
    let mut control_plane = FakeControlPlane::start().await;
    let (data_plane, mut stream) = reporting(&mut control_plane).await;
    let requests = [data_plane.pick(), data_plane.pick(), data_plane.pick(), data_plane.pick()];
    data_plane.apply([draining(1), replica(2)]);
    data_plane.moved_to(2);
    let report = within_the_interval(&mut stream).await;
    assert_eq!((position(&report), inflight(&report)), (("e", 2), vec![("r-0001", 2), ("r-0002", 2)]));
    for picked in requests {
        data_plane.settle(picked, Outcome::Success);
    }
    let report = within_the_interval(&mut stream).await;
    assert_eq!((position(&report), inflight(&report)), (("e", 2), vec![("r-0001", 0)]), "and no other row");
}

#[tokio::test]
async fn a_revision_is_told_only_when_no_worker_picks_by_an_older_one() {
    let mut control_plane = FakeControlPlane::start().await;
    let (data_plane, mut stream) = reporting(&mut control_plane).await;
    let mut worker = data_plane.table.follow_drains(0);
    let drains = worker.next().await;
    worker.taken_on(&drains);
    data_plane.apply([draining(1), replica(2)]);
    data_plane.moved_to(2);
    // The worker has not heard of it yet. Everything else goes on as before.
    let (service, now) = (data_plane.table.service("orders").unwrap(), data_plane.clock.now());
    for _ in 0..Policy::default().breaker.consecutive_failure_count {
        let picked = service.pick(0, now, &[], Draw::default()).unwrap();
        service.settle(0, &picked.replica, picked.permit, Outcome::Failure(Fault::Reset), now, 0.5);
    }
    let report = within_the_interval(&mut stream).await;
    assert_eq!((position(&report), report.events.len()), (("e", 1), 1));

    let drains = worker.next().await;
    worker.taken_on(&drains);
    let report = within_the_interval(&mut stream).await;
    assert_eq!(position(&report), ("e", 2));
}

#[tokio::test]
async fn a_state_in_several_messages_is_of_no_revision_before_the_last() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(2500);
    data_plane.moved_to(7);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    let mut positions = Vec::new();
    for _ in 0..3 {
        let report = stream.report().await.unwrap();
        positions.push((report.epoch, report.revision));
    }
    assert_eq!(positions, [(String::new(), 0), (String::new(), 0), ("e".into(), 7)]);
}
