//! What followers report of replicas that requests would go to, in the rhythm of a data plane: all of it when a stream begins, a
//! transition at once and again until it is confirmed, the revision whenever that changes, and every interval what has grown.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use gateway_proto::{
    time::{duration, parse_duration, timestamp},
    v1::{
        Breaker, BreakerRule, BreakerState, Event, EventSeverity, FailedAttempt, NodeIdentity, Replica,
        ReplicaStats, ReportNodeStatusRequest, Trip,
        observability_service_client::ObservabilityServiceClient,
    },
};
use rand::Rng;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::{replica::lock, stage::SECOND};

/// A control plane that takes no report for so long is left.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 pings, and how long each may take.
const PINGS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
/// Messages in flight to the transport.
const OUTGOING: usize = 4;
/// Between two messages that tell of a revision.
const POSITION_PAUSE: Duration = Duration::from_millis(50);
/// Between two streams, at most.
const PAUSE: Duration = Duration::from_millis(100);
/// Requests a second that a follower would send to each replica, as long as that answers.
const RATE: f64 = 10.0;
/// A breaker opens after so many failures, and for so long.
const FAILURES: i32 = 5;
const OPEN: Duration = Duration::from_secs(30);
/// Of a histogram of the contract, the one of a millisecond.
const LATENCY_BUCKET: usize = 40;

/// What a follower holds, and from which control plane.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// Counts the control planes that it has gone through.
    pub(crate) current: usize,
    pub(crate) epoch: String,
    pub(crate) revision: i64,
}

/// What the followers of a drill report, and how their streams have fared.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    replicas: Arc<[Replica]>,
    began: (Instant, SystemTime),
    /// Followers of lower numbers find that the first replica does not answer any more.
    broken: watch::Sender<usize>,
    streams: Arc<Mutex<Streams>>,
}

/// How the streams of reports have fared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams {
    pub(crate) begun: u64,
    pub(crate) lost: Vec<Lost>,
}

/// A stream that ended otherwise than by a move of its follower's, or that could not begin.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    /// The number of the control plane.
    pub(crate) control: usize,
    pub(crate) at: Instant,
    pub(crate) why: Status,
}

impl Lost {
    /// Whether the control plane wants all of it anew, as it does when the snapshot stream of one that comes from another control
    /// plane has begun after its reports.
    pub(crate) fn is_superseded(&self) -> bool {
        self.why.code() == Code::Aborted
    }
}

impl Reports {
    /// Of these replicas, all of one service.
    pub(crate) fn of(replicas: Vec<Replica>) -> Self {
        let began = (Instant::now(), SystemTime::now());
        Self { replicas: replicas.into(), began, broken: watch::Sender::new(0), streams: Arc::default() }
    }

    /// From now on, so many followers have the breaker of the first replica open.
    pub(crate) fn open_at(&self, followers: usize) {
        self.broken.send_replace(followers);
    }

    /// The one whose breaker opens.
    pub(crate) fn broken(&self) -> &Replica {
        &self.replicas[0]
    }

    pub(crate) fn streams(&self) -> Streams {
        lock(&self.streams).clone()
    }
}

/// Reports for one follower.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) number: usize,
    pub(crate) node: NodeIdentity,
    pub(crate) urls: Vec<String>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) reports: Reports,
}

/// How its breaker opened.
#[derive(Debug, Clone, Copy)]
struct Opened {
    at: Instant,
    wall: SystemTime,
    is_confirmed: bool,
}

impl Reporter {
    /// Reports for ever, to where the snapshots come from.
    pub(crate) async fn report(&self) {
        let mut opened = None;
        loop {
            let current = self.standing.borrow().current;
            if let Err(why) = self.report_once(current, &mut opened).await {
                let lost = Lost { control: current % self.urls.len(), at: Instant::now(), why };
                lock(&self.reports.streams).lost.push(lost);
            }
            let pause = PAUSE.mul_f64(rand::rng().random_range(0.0..1.0));
            tokio::time::sleep(pause).await;
        }
    }

    /// Reports until another control plane is followed.
    async fn report_once(&self, current: usize, opened: &mut Option<Opened>) -> Result<(), Status> {
        let url = self.urls[current % self.urls.len()].clone();
        let endpoint = Channel::from_shared(url).expect("an address makes a URL");
        let endpoint =
            endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).keep_alive_while_idle(true);
        let endpoint = endpoint.http2_keep_alive_interval(PINGS.0).keep_alive_timeout(PINGS.1);
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        let (mut moves, mut position) = (self.standing.clone(), self.standing.clone());
        let all = self.reports.replicas.iter();
        let first = ReportNodeStatusRequest {
            node: Some(self.node.clone()),
            full: true,
            breakers: all.map(|replica| self.row(replica, *opened)).collect(),
            ..self.by(&position.borrow_and_update())
        };
        // There is room for the first one.
        let _ = outgoing.try_send(first);
        let mut client = ObservabilityServiceClient::new(channel);
        let begun = timeout(SEND_TIMEOUT, client.report_node_status(ReceiverStream::new(requests))).await;
        let mut responses = begun.map_err(|_| Status::deadline_exceeded("not taken"))??.into_inner();
        lock(&self.reports.streams).begun += 1;
        let mut broken = self.reports.broken.subscribe();
        let mut is_told = opened.is_some_and(|opened| opened.is_confirmed);
        let (mut interval, mut told_at) = (SECOND, Instant::now());
        let (mut due, mut next_position_at) = (told_at + interval, told_at);
        loop {
            let breaks = async { drop(broken.wait_for(|count| self.number < *count).await) };
            let moves_on = async {
                sleep_until(next_position_at).await;
                drop(position.changed().await);
            };
            let leaves = async { drop(moves.wait_for(|standing| standing.current != current).await) };
            let message = tokio::select! {
                response = responses.message() => {
                    let response = response?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                    let wanted = response.report_interval.and_then(|wire| parse_duration("report_interval", wire).ok());
                    interval = wanted.unwrap_or(interval);
                    due = due.min(Instant::now() + interval);
                    if let Some(opened) = opened {
                        opened.is_confirmed |= response.taken_batch_number > 0;
                    }
                    continue;
                }
                () = breaks, if !is_told => {
                    is_told = true;
                    let new = Opened { at: Instant::now(), wall: SystemTime::now(), is_confirmed: false };
                    let opened = *opened.get_or_insert(new);
                    ReportNodeStatusRequest {
                        breakers: vec![self.row(self.reports.broken(), Some(opened))],
                        events: vec![self.event(opened)],
                        batch_number: 1,
                        ..self.by(&self.standing.borrow())
                    }
                }
                () = moves_on => {
                    next_position_at = Instant::now() + POSITION_PAUSE;
                    self.by(&self.standing.borrow())
                }
                () = sleep_until(due) => {
                    let since = std::mem::replace(&mut told_at, Instant::now());
                    due = told_at + interval;
                    // An open breaker's counts stay as they were.
                    let growing = &self.reports.replicas[usize::from(opened.is_some())..];
                    ReportNodeStatusRequest {
                        breakers: growing.iter().map(|replica| self.row(replica, *opened)).collect(),
                        stats: vec![self.stats(growing.len(), told_at - since)],
                        stats_interval: Some(duration(told_at - since)),
                        ..self.by(&self.standing.borrow())
                    }
                }
                () = leaves => return Ok(()),
            };
            let sent = timeout(SEND_TIMEOUT, outgoing.send(message)).await;
            let sent = sent.map_err(|_| Status::deadline_exceeded("not taken"))?;
            if sent.is_err() {
                // Why, the last of the responses says.
                while responses.message().await?.is_some() {}
                return Err(Status::unavailable("the stream ended"));
            }
        }
    }

    /// A message that says by which revision it is.
    fn by(&self, standing: &Standing) -> ReportNodeStatusRequest {
        ReportNodeStatusRequest {
            epoch: standing.epoch.clone(),
            revision: standing.revision,
            ..Default::default()
        }
    }

    /// What it has seen of a replica by now.
    fn row(&self, replica: &Replica, opened: Option<Opened>) -> Breaker {
        let (began, began_wall) = self.reports.began;
        let opened = opened.filter(|_| std::ptr::eq(replica, self.reports.broken()));
        let until = opened.map_or_else(Instant::now, |opened| opened.at);
        let attempts = ((until - began).as_secs_f64() * RATE) as i64;
        let row = Breaker {
            service: replica.service.clone(),
            replica_id: replica.replica_id.clone(),
            address: replica.endpoint.as_ref().map(|endpoint| endpoint.address.clone()).unwrap_or_default(),
            node_id: self.node.node_id.clone(),
            state: BreakerState::Closed.into(),
            state_change_time: Some(timestamp(began_wall)),
            incarnation: replica.incarnation,
            window_request_count: attempts.min((RATE * 10.0) as i64),
            attempt_count: attempts,
            registration_attempt_count: attempts,
            inflight_count: 1,
            ..Default::default()
        };
        let Some(Opened { wall, .. }) = opened else { return row };
        let failure = |_| FailedAttempt {
            failure_time: Some(timestamp(wall)),
            error: "connect refused".into(),
            request_id: format!("{}-1", self.node.node_id),
        };
        Breaker {
            state: BreakerState::Open.into(),
            state_change_time: Some(timestamp(wall)),
            out_time: Some(timestamp(wall)),
            retry_time: Some(timestamp(wall + OPEN)),
            rule: BreakerRule::ConsecutiveFailures.into(),
            reason: reason(),
            window_failure_count: FAILURES.into(),
            attempt_count: attempts + i64::from(FAILURES),
            registration_attempt_count: attempts + i64::from(FAILURES),
            failure_count: FAILURES.into(),
            registration_failure_count: FAILURES.into(),
            consecutive_failure_count: FAILURES,
            inflight_count: 0,
            trip_count: 1,
            trip_streak: 1,
            generation: 1,
            last_errors: vec!["connect refused".into(); FAILURES as usize],
            last_failures: (0..FAILURES).map(failure).collect(),
            last_trip: Some(Trip {
                trip_time: Some(timestamp(wall)),
                rule: BreakerRule::ConsecutiveFailures.into(),
                observed: FAILURES.into(),
                threshold: FAILURES.into(),
                sample_count: FAILURES.into(),
                open_time: Some(duration(OPEN)),
                generation: 1,
                reason: reason(),
                incarnation: row.incarnation,
                ..Default::default()
            }),
            ..row
        }
    }

    fn event(&self, opened: Opened) -> Event {
        let replica = self.reports.broken();
        let metadata =
            [("from", "closed"), ("to", "open"), ("rule", "consecutive_failures"), ("generation", "1")];
        Event {
            event_time: Some(timestamp(opened.wall)),
            severity: EventSeverity::Warning.into(),
            event_type: "BREAKER_OPENED".into(),
            service: replica.service.clone(),
            replica_id: replica.replica_id.clone(),
            node_id: self.node.node_id.clone(),
            actor: self.node.node_id.clone(),
            message: format!("breaker opened: {}; next probe in {:.1}s", reason(), OPEN.as_secs_f64()),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Default::default()
        }
    }

    /// What clients asked of the service meanwhile, while so many replicas answered.
    fn stats(&self, replicas: usize, interval: Duration) -> ReplicaStats {
        let requests = (interval.as_secs_f64() * RATE * replicas as f64).round() as i64;
        let mut latency_bucket_counts = vec![0; LATENCY_BUCKET];
        latency_bucket_counts.push(requests);
        ReplicaStats {
            service: self.reports.broken().service.clone(),
            request_count: requests,
            latency_bucket_counts,
            ..Default::default()
        }
    }
}

fn reason() -> String {
    format!("consecutive_failures {FAILURES} >= {FAILURES}: connect refused")
}
