//! What the control plane gets to know, and when.

use std::{collections::BTreeMap, time::SystemTime};

use gateway_proto::{Address, ControlPlaneUrl, Mode, Policy, ReplicaId, ServiceName, time::duration};
use http::StatusCode;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    ledger::{Ledger, Look},
    session::{INTERVAL, INTERVAL_RANGE, MAX_ROWS, read_interval},
    stats::StatsLedger,
    *,
};
use crate::{
    discovery::{Guard, Mirror, Snapshot, Source, Status as LinkStatus},
    fake_control_plane::{FakeControlPlane, ReportStream},
    routing::{Draw, Fault, Outcome, judge},
    table::{Forced, ForcedState, Picked, ReplicaSpec, ServiceSpec},
};

mod details;
mod following;
mod positions;

struct DataPlane {
    table: Arc<Table>,
    journal: Arc<Journal>,
    checks: Arc<CheckCounts>,
    clock: Clock,
    stop: Shutdown,
    view: View,
    applied: watch::Sender<Position>,
    alone: Shutdown,
    _mirror: watch::Sender<Mirror>,
}

impl DataPlane {
    /// One service, `orders`, with this many replicas.
    fn new(replicas: u16) -> Self {
        let (table, mut transitions) = Table::new(1);
        let journal = Arc::new(Journal::new(table.clone()));
        let recording = journal.clone();
        let stop = Shutdown::new();
        let stopping = stop.clone();
        tokio::spawn(async move { recording.record_all(&mut transitions, stopping).await });
        let clock = Clock::new();
        let node = NodeId::parse("dp-1").unwrap();
        let mirror = Mirror::new(node, Snapshot::default(), Guard::default(), clock.moment().wall);
        let (mirror, mirror_view) = watch::channel(mirror);
        let (applied, applied_view) = watch::channel(Position::default());
        let (_, status) = watch::channel(LinkStatus::new(Source::None, Duration::ZERO, Instant::now()));
        let view = View { mirror: mirror_view, applied: applied_view, status };
        let alone = Shutdown::new();
        alone.begin();
        let checks = Arc::default();
        let data_plane = Self { table, journal, checks, clock, stop, view, applied, alone, _mirror: mirror };
        data_plane.set_replicas(replicas);
        data_plane
    }

    fn set_replicas(&self, count: u16) {
        self.apply((1..=count).map(replica));
    }

    fn apply(&self, replicas: impl IntoIterator<Item = ReplicaSpec>) {
        self.apply_with(Policy::default(), replicas);
    }

    fn apply_with(&self, policy: Policy, replicas: impl IntoIterator<Item = ReplicaSpec>) {
        let name = ServiceName::parse("orders").unwrap();
        let spec = ServiceSpec { name, policy, replicas: replicas.into_iter().collect() };
        self.table.apply(&[spec], &[], self.clock.now());
    }

    /// What was applied is what the registry had at that revision.
    fn moved_to(&self, revision: i64) {
        self.applied.send_replace(Position { epoch: "e".into(), revision });
    }

    /// Begins a request to whoever is next.
    fn pick(&self) -> Picked {
        self.table.service("orders").unwrap().pick(0, self.clock.now(), &[], Draw::default()).unwrap()
    }

    fn settle(&self, picked: Picked, outcome: Outcome) {
        let service = self.table.service("orders").unwrap();
        service.settle(0, &picked.replica, picked.permit, outcome, self.clock.now(), 0.5);
    }

    /// Sends one request to whoever is next.
    fn attempt(&self, outcome: Outcome) {
        self.settle(self.pick(), outcome);
    }

    /// Opens the breaker of the only replica.
    fn trip(&self) {
        for _ in 0..Policy::default().breaker.consecutive_failure_count {
            self.attempt(Outcome::Failure(Fault::ConnectRefused));
        }
    }

    fn start(&self, control_plane: &FakeControlPlane) -> JoinHandle<()> {
        self.start_with(Arc::new(control_planes(&[control_plane])))
    }

    fn start_with(&self, control_plane: Arc<ControlPlane>) -> JoinHandle<()> {
        let reporter = Reporter {
            control_plane,
            node_id: NodeId::parse("dp-1").unwrap(),
            version: "test",
            process_id: "p-1".into(),
            alone: self.alone.clone(),
            table: self.table.clone(),
            view: self.view.clone(),
            clock: self.clock,
            journal: self.journal.clone(),
            checks: self.checks.clone(),
        };
        let stop = self.stop.clone();
        tokio::spawn(async move { reporter.run(&stop).await })
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop.begin();
    }
}

fn control_planes(all: &[&FakeControlPlane]) -> ControlPlane {
    let urls = all.iter().map(|one| ControlPlaneUrl::parse(&one.url()).unwrap());
    ControlPlane::new(urls.collect(), Default::default())
}

fn replica(number: u16) -> ReplicaSpec {
    ReplicaSpec {
        incarnation: 7,
        ..ReplicaSpec::listed(
            ReplicaId::parse(&format!("r-{number:04}")).unwrap(),
            Address::parse(&format!("127.0.0.1:{number}")).unwrap(),
        )
    }
}

/// Reads reports until one satisfies `wanted`.
async fn until(
    stream: &mut ReportStream,
    wanted: impl Fn(&v1::ReportNodeStatusRequest) -> bool,
) -> v1::ReportNodeStatusRequest {
    loop {
        let report = stream.report().await.expect("the stream goes on");
        if wanted(&report) {
            return report;
        }
    }
}

#[tokio::test]
async fn the_first_report_is_the_full_state_under_the_nodes_name() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(2);
    data_plane.attempt(judge(StatusCode::OK, false));
    data_plane.start(&control_plane);
    let report = control_plane.report_stream().await.report().await.unwrap();
    let node = v1::NodeIdentity {
        node_id: "dp-1".into(),
        version: "test".into(),
        process_id: "p-1".into(),
        ..Default::default()
    };
    assert_eq!((report.node, report.full), (Some(node), true));
    let rows: Vec<_> = report.breakers.iter().map(|row| (row.replica_id.as_str(), row.state())).collect();
    let closed = v1::BreakerState::Closed;
    assert_eq!(rows, [("r-0001", closed), ("r-0002", closed)]);
    let attempts: Vec<_> = report.breakers.iter().map(|row| row.attempt_count).collect();
    assert_eq!(attempts, [1, 0]);
}

#[tokio::test]
async fn a_transition_is_told_at_once_with_its_reason_and_the_row_it_changed() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    assert!(stream.report().await.unwrap().full);

    data_plane.trip();
    let report = until(&mut stream, |report| !report.events.is_empty()).await;
    let event = &report.events[0];
    assert_eq!((event.event_type.as_str(), event.severity()), ("BREAKER_OPENED", v1::EventSeverity::Warning));
    assert_eq!((event.service.as_str(), event.replica_id.as_str()), ("orders", "r-0001"));
    assert_eq!((event.node_id.as_str(), event.event_id.as_str()), ("dp-1", ""));
    assert_eq!(
        event.message,
        "breaker opened: consecutive_failures 5 >= 5: connect refused; next probe in 1.0s"
    );
    let metadata = [
        ("rule", "consecutive_failures"),
        ("observed", "5"),
        ("threshold", "5"),
        ("fault", "connect refused"),
        ("from", "closed"),
        ("to", "open"),
        ("trip_count", "1"),
        ("incarnation", "7"),
        ("address", "127.0.0.1:1"),
    ];
    for (key, value) in metadata {
        assert_eq!(event.metadata.get(key).map(String::as_str), Some(value), "{key}");
    }
    let row = &report.breakers[0];
    assert_eq!((row.state(), row.rule()), (v1::BreakerState::Open, v1::BreakerRule::ConsecutiveFailures));
    assert_eq!(row.reason, "consecutive_failures 5 >= 5: connect refused");
    assert_eq!(row.last_errors, vec!["connect refused"; 5]);
    let (opened, retry) = (row.state_change_time.unwrap(), row.retry_time.unwrap());
    let open_for = gateway_proto::time::system_time(retry)
        .duration_since(gateway_proto::time::system_time(opened))
        .unwrap();
    assert_eq!(open_for.as_millis().div_ceil(10), 100, "one second, told without any more traffic");
}

#[tokio::test]
async fn failures_are_told_again_only_when_there_are_new_ones() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    stream.ask_for(duration(Duration::from_millis(100))).await;
    assert_eq!(stream.report().await.unwrap().breakers.len(), 1);
    let picked = data_plane.pick();
    let service = data_plane.table.service("orders").unwrap();
    service.failed(0, &picked.replica, Fault::Reset, "abc-1", data_plane.clock.now());
    let with = |row: &v1::Breaker, failures, inflight| {
        (row.failure_count, row.inflight_count) == (failures, inflight)
    };
    let report = until(&mut stream, |report| report.breakers.iter().any(|row| with(row, 1, 1))).await;
    let failed = &report.breakers[0];
    let told: Vec<_> = failed.last_failures.iter().map(|failure| failure.request_id.as_str()).collect();
    assert_eq!((told, failed.failure_count, failed.last_errors.len()), (vec!["abc-1"], 1, 1));
    data_plane.settle(picked, Outcome::Success);
    let report = until(&mut stream, |report| report.breakers.iter().any(|row| with(row, 1, 0))).await;
    let succeeded = &report.breakers[0];
    assert_eq!(succeeded.last_failures, [], "as told before");
    assert_eq!((succeeded.failure_count, succeeded.last_errors.len()), (1, 1));
}

#[tokio::test]
async fn what_is_withheld_is_told_as_such_with_its_numbers() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    let mut policy = Policy::default();
    policy.breaker.observe_only = true;
    data_plane.apply_with(policy, [replica(1)]);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    data_plane.trip();
    let report = until(&mut stream, |report| !report.events.is_empty()).await;
    let event = &report.events[0];
    assert_eq!(event.event_type, "BREAKER_WITHHELD");
    assert_eq!(
        event.message,
        "breaker would have opened: consecutive_failures 5 >= 5: connect refused; the policy only observes"
    );
    for (key, value) in
        [("withheld", "observe_only"), ("rule", "consecutive_failures"), ("observed", "5"), ("to", "closed")]
    {
        assert_eq!(event.metadata.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[tokio::test]
async fn a_service_that_fails_open_is_told_when_it_begins_and_when_it_ends() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    let mut policy = Policy::default();
    policy.breaker.fail_open_threshold = 0.5;
    data_plane.apply_with(policy, [replica(1)]);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    data_plane.trip();
    let told = |report: &v1::ReportNodeStatusRequest, kind: &str| {
        report
            .events
            .iter()
            .any(|event| event.event_type == kind && event.service == "orders" && event.replica_id.is_empty())
    };
    let report = until(&mut stream, |report| told(report, "FAIL_OPEN_BEGAN")).await;
    let event = report.events.iter().find(|event| event.event_type == "FAIL_OPEN_BEGAN").unwrap();
    assert_eq!(event.message, "fails open: 0 of 1 let traffic through, so that all are asked");
    assert!(report.breakers.iter().any(|row| row.asked_regardless && row.state() == v1::BreakerState::Open));
    // Two that join are enough, without any breaker's transition.
    data_plane.apply_with(policy, (1..=3).map(replica));
    let report = until(&mut stream, |report| told(report, "FAIL_OPEN_ENDED")).await;
    assert!(report.events.iter().all(|event| event.event_type != "BREAKER_CLOSED"));
}

#[tokio::test]
async fn a_new_control_plane_learns_of_an_open_breaker_without_any_traffic() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    data_plane.trip();
    data_plane.start(&control_plane);
    for _ in 0..2 {
        // Each stream ends after its first report; the next one tells the full state anew.
        let report = control_plane.report_stream().await.report().await.unwrap();
        assert!(report.full);
        let row = &report.breakers[0];
        assert_eq!(row.state(), v1::BreakerState::Open);
        assert!(row.retry_time.is_some());
    }
}

#[tokio::test]
async fn reports_go_to_the_control_plane_that_is_followed() {
    let (mut one, mut other) = (FakeControlPlane::start().await, FakeControlPlane::start().await);
    let data_plane = DataPlane::new(1);
    let both = Arc::new(control_planes(&[&one, &other]));
    data_plane.start_with(both.clone());
    let mut stream = one.report_stream().await;
    assert!(stream.report().await.unwrap().full);
    // Discovery has left it although it is still there.
    both.advance();
    assert!(other.report_stream().await.report().await.unwrap().full);
    while stream.report().await.is_some() {}
}

#[tokio::test]
async fn transitions_that_were_not_confirmed_are_told_again_to_the_next_control_plane_and_others_are_not() {
    let (mut one, mut other) = (FakeControlPlane::start().await, FakeControlPlane::start().await);
    let data_plane = DataPlane::new(1);
    let both = Arc::new(control_planes(&[&one, &other]));
    data_plane.start_with(both.clone());
    let mut stream = one.report_stream().await;
    assert!(stream.report().await.unwrap().full);
    stream.confirm(0).await;
    data_plane.trip();
    let is_of = |kind: &str, report: &v1::ReportNodeStatusRequest| {
        report.events.iter().any(|event| event.event_type == kind)
    };
    let opened = until(&mut stream, |report| is_of("BREAKER_OPENED", report)).await;
    assert!(opened.batch_number > 0);
    stream.confirm(opened.batch_number).await;
    // A request that is let through as a probe, and fails.
    let service = data_plane.table.service("orders").unwrap();
    let later = data_plane.clock.now().plus(Duration::from_secs(2));
    let probe = service.pick(0, later, &[], Draw::default()).unwrap();
    service.settle(0, &probe.replica, probe.permit, Outcome::Failure(Fault::ConnectRefused), later, 0.5);
    let probed = until(&mut stream, |report| is_of("BREAKER_HALF_OPENED", report)).await;
    assert!(probed.batch_number > opened.batch_number);
    // It has read that, and goes without a word.
    both.advance();
    let mut stream = other.report_stream().await;
    let again = until(&mut stream, |report| !report.events.is_empty()).await;
    assert_eq!((again.batch_number, &again.events), (probed.batch_number, &probed.events));
}

#[tokio::test]
async fn only_counts_that_changed_are_told_at_the_interval_asked_for() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(2);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    assert_eq!(stream.report().await.unwrap().breakers.len(), 2);
    stream.ask_for(duration(Duration::from_millis(100))).await;
    data_plane.attempt(Outcome::Success);
    let report = stream.report().await.unwrap();
    assert!(!report.full && report.events.is_empty());
    let counts: Vec<_> =
        report.breakers.iter().map(|row| (row.replica_id.as_str(), row.attempt_count)).collect();
    assert_eq!(counts, [("r-0001", 1)]);
    assert_eq!(report.breakers.len(), 1, "its window holds one more");
}

#[tokio::test]
async fn a_state_too_large_for_one_message_comes_in_several() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(5000);
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    let (mut rows, mut fulls, mut nodes) = (0, 0, 0);
    while rows < 5000 {
        let report = stream.report().await.unwrap();
        assert!(report.breakers.len() <= MAX_ROWS && report.breakers.len() <= MAX_ROWS);
        rows += report.breakers.len();
        fulls += usize::from(report.full);
        nodes += usize::from(report.node.is_some());
    }
    assert_eq!((rows, fulls, nodes), (5000, 1, 1), "the later ones add to the first");
}

#[tokio::test]
async fn transitions_that_waited_too_long_are_counted_and_followed_by_the_full_state() {
    let data_plane = DataPlane::new(1);
    data_plane.trip();
    // Until the trip is in the journal.
    data_plane.journal.recorded().await;
    let transition = data_plane.journal.take(1).transitions.remove(0);
    for _ in 0..journal::CAPACITY + 3 {
        data_plane.journal.record(transition.clone());
    }
    let mut control_plane = FakeControlPlane::start().await;
    data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    assert!(stream.report().await.unwrap().full, "as on every stream");
    let report = stream.report().await.unwrap();
    assert_eq!((report.full, report.dropped_event_count, report.events.len()), (true, 3, MAX_ROWS));
    let mut events = report.events.len();
    while events < journal::CAPACITY {
        let report = stream.report().await.unwrap();
        assert_eq!((report.full, report.dropped_event_count), (false, 0));
        events += report.events.len();
    }
}

#[tokio::test]
async fn what_is_left_to_tell_is_told_before_the_end() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    let reporter = data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    assert!(stream.report().await.unwrap().full);
    data_plane.attempt(Outcome::Success);
    assert_eq!(stream.report().await.unwrap().breakers[0].attempt_count, 1, "it is past connecting");
    data_plane.attempt(Outcome::Success);
    data_plane.stop.begin();
    let last = stream.report().await.unwrap();
    assert_eq!((last.breakers[0].attempt_count, last.is_leaving), (2, false));
    assert!(stream.report().await.unwrap().is_leaving, "nobody needs to wait for it any more");
    assert_eq!(stream.report().await, None);
    drop(stream);
    reporter.await.unwrap();
}

#[tokio::test]
async fn one_that_is_told_to_end_before_it_reports_says_goodbye_all_the_same() {
    let mut control_plane = FakeControlPlane::start().await;
    let data_plane = DataPlane::new(1);
    data_plane.stop.begin();
    let reporter = data_plane.start(&control_plane);
    let mut stream = control_plane.report_stream().await;
    let mut last = stream.report().await.unwrap();
    assert_eq!(last.node.take().unwrap().process_id, "p-1");
    while let Some(report) = stream.report().await {
        last = report;
    }
    assert!(last.is_leaving);
    drop(stream);
    reporter.await.unwrap();
}

#[test]
fn a_removed_replica_is_told_of_again_when_it_comes_back() {
    let (table, _transitions) = Table::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let data_plane = DataPlane::new(2);
        let node_id = NodeId::parse("dp-1").unwrap();
        let mut ledger = Ledger::default();
        let mut told = |services: &crate::table::Services| {
            let now = data_plane.clock.now();
            ledger
                .walk(services, Look { node_id: &node_id, now, date: &|tick| data_plane.clock.date(tick) })
                .len()
        };
        assert_eq!(told(&data_plane.table.services()), 2);
        assert_eq!(told(&data_plane.table.services()), 0);
        assert_eq!(told(&table.services()), 0, "all gone");
        assert_eq!(told(&data_plane.table.services()), 2);
    });
}

#[test]
fn the_interval_stays_within_what_is_good_for_both() {
    let asked =
        |wire| read_interval(&v1::ReportNodeStatusResponse { report_interval: wire, ..Default::default() });
    assert_eq!(asked(None), INTERVAL);
    assert_eq!(asked(Some(duration(Duration::ZERO))), INTERVAL_RANGE.0);
    assert_eq!(asked(Some(duration(Duration::from_secs(3600)))), INTERVAL_RANGE.1);
    assert_eq!(asked(Some(prost_types::Duration { seconds: -1, nanos: 0 })), INTERVAL);
}
