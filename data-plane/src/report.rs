//! What this data plane sees of the replicas, told to the control plane it follows.
//!
//! One stream: the full state first, then transitions at once and counts at the interval the control plane asks for.
//! Reports never hold up a request: the [`Journal`] between them is bounded, and what it loses is counted and followed
//! by the full state.

pub(crate) mod journal;
mod ledger;
pub(crate) mod rows;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gateway_proto::{
    NodeId,
    time::parse_duration,
    v1::{self, observability_service_client::ObservabilityServiceClient},
};
use gateway_runtime::{Shutdown, root_cause};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use crate::{
    clock::Clock,
    control_plane::{ControlPlane, Reconnect},
    table::Table,
};
use journal::{Batch, Journal};
use ledger::Ledger;

/// Until the control plane asks for another.
const INTERVAL: Duration = Duration::from_secs(1);
/// Whatever the control plane asks for, reports come neither in a flood nor so rarely that it takes us for dead.
const INTERVAL_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// With nothing to tell, a report says that we are alive this often.
const QUIET: Duration = Duration::from_secs(5);
/// A control plane that takes no message for this long is left.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// At the end, the control plane has this long to read what was told last.
const FAREWELL: Duration = Duration::from_secs(2);
/// Rows, counts and events in one message, of each at most: control planes take no more events, and together they
/// stay well under a message's limit of 4 MiB.
const MAX_ROWS: usize = 1000;
/// Messages in flight to the transport.
const OUTGOING: usize = 4;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Unreachable(String),
    #[error("{}: {}", .0.code(), .0.message())]
    Failed(#[from] Status),
    #[error("the control plane ended the stream")]
    Closed,
    #[error("the control plane took no report for {SEND_TIMEOUT:?}")]
    NotTaken,
}

/// Reports for one data plane.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// Where to. Discovery chooses among several; reports follow it.
    pub(crate) control_plane: Arc<ControlPlane>,
    /// Who we are.
    pub(crate) node_id: NodeId,
    /// Of which version.
    pub(crate) version: &'static str,
    /// What is reported.
    pub(crate) table: Arc<Table>,
    /// Dates it.
    pub(crate) clock: Clock,
    /// Transitions to report.
    pub(crate) journal: Arc<Journal>,
}

impl Reporter {
    /// Reports until `stop` begins; then what is left to tell is told, if the control plane takes it.
    pub(crate) async fn run(&self, stop: &Shutdown) {
        let mut reconnect = Reconnect::default();
        loop {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = stop.begun() => return,
            };
            let ended = match connected {
                Ok((session, responses)) => {
                    reconnect.succeeded();
                    session.report(responses, stop).await
                }
                Err(ended) => ended,
            };
            if stop.has_begun() {
                return;
            }
            let pause = reconnect.failed(Instant::now(), rand::random());
            // Discovery warns when the control plane is lost.
            tracing::debug!(url = %self.control_plane.url(), reason = %ended, ?pause, "report stream ended");
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.begun() => return,
            }
        }
    }

    /// Opens a stream and tells the full state.
    async fn connect(&self) -> Result<(Session<'_>, Streaming<v1::ReportNodeStatusResponse>), Ended> {
        let channel = match self.control_plane.connect().await {
            Ok(channel) => channel,
            Err(error) => return Err(Ended::Unreachable(root_cause(&error))),
        };
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        let mut session = Session {
            reporter: self,
            ledger: Ledger::default(),
            outgoing,
            introduced: false,
            sent: Instant::now(),
        };
        let mut client = ObservabilityServiceClient::new(channel);
        let call = timeout(SEND_TIMEOUT, client.report_node_status(ReceiverStream::new(requests)));
        // Together, because the control plane may read the first message before it answers the call.
        let (answer, told) = tokio::join!(call, session.tell_all(Batch::default()));
        let responses = answer.map_err(|_| Ended::NotTaken)??.into_inner();
        told?;
        Ok((session, responses))
    }
}

/// One stream of reports.
struct Session<'a> {
    reporter: &'a Reporter,
    ledger: Ledger,
    outgoing: mpsc::Sender<v1::ReportNodeStatusRequest>,
    /// Whether the control plane knows whose reports these are.
    introduced: bool,
    sent: Instant,
}

impl Session<'_> {
    async fn report(
        mut self,
        mut responses: impl Stream<Item = Result<v1::ReportNodeStatusResponse, Status>> + Unpin,
        stop: &Shutdown,
    ) -> Ended {
        let mut interval = INTERVAL;
        let mut due = Instant::now() + interval;
        loop {
            let told = tokio::select! {
                response = responses.next() => match response {
                    Some(Ok(response)) => {
                        interval = read_interval(&response);
                        due = due.min(Instant::now() + interval);
                        Ok(())
                    }
                    Some(Err(status)) => return status.into(),
                    None => return Ended::Closed,
                },
                () = self.reporter.journal.recorded() => self.tell_transitions().await,
                () = sleep_until(due) => {
                    due = Instant::now() + interval;
                    self.tell_changes().await
                }
                () = stop.begun() => return self.tell_the_rest(responses).await,
            };
            if let Err(ended) = told {
                return ended;
            }
        }
    }

    /// Waiting transitions with the breakers they changed; after a loss, the full state.
    async fn tell_transitions(&mut self) -> Result<(), Ended> {
        let batch = self.reporter.journal.take(MAX_ROWS);
        if batch.dropped > 0 {
            return self.tell_all(batch).await;
        }
        if batch.transitions.is_empty() {
            return Ok(());
        }
        let Reporter { table, clock, node_id, .. } = self.reporter;
        let keys: BTreeSet<_> = batch.transitions.iter().map(|transition| &transition.key).collect();
        let date = |tick| clock.date(tick);
        let changed = self.ledger.look_at(keys.into_iter(), node_id, &table.services(), clock.now(), date);
        let report = v1::ReportNodeStatusRequest { events: self.events(&batch), ..Default::default() };
        self.send(report, changed).await
    }

    /// Whatever changed, or a sign of life.
    async fn tell_changes(&mut self) -> Result<(), Ended> {
        let changed = self.walk();
        if changed.is_empty() && self.sent.elapsed() < QUIET {
            return Ok(());
        }
        self.send(v1::ReportNodeStatusRequest::default(), changed).await
    }

    async fn tell_all(&mut self, batch: Batch) -> Result<(), Ended> {
        self.ledger = Ledger::default();
        let changed = self.walk();
        let report = v1::ReportNodeStatusRequest {
            full: true,
            events: self.events(&batch),
            dropped_event_count: i64::try_from(batch.dropped).unwrap_or(i64::MAX),
            ..Default::default()
        };
        self.send(report, changed).await
    }

    /// Tells what is left and ends the stream. Waits for the control plane to end its side too, which it does when it has
    /// read everything: leaving earlier could cut off what is still under way.
    async fn tell_the_rest<R>(mut self, mut responses: impl Stream<Item = R> + Unpin) -> Ended {
        if let Err(ended) = self.tell_transitions().await {
            return ended;
        }
        if let Err(ended) = self.tell_changes().await {
            return ended;
        }
        drop(self.outgoing);
        match timeout(FAREWELL, async { while responses.next().await.is_some() {} }).await {
            Ok(()) => Ended::Closed,
            Err(_) => Ended::NotTaken,
        }
    }

    fn walk(&mut self) -> Vec<v1::Breaker> {
        let Reporter { table, clock, node_id, .. } = self.reporter;
        self.ledger.walk(node_id, &table.services(), clock.now(), |tick| clock.date(tick))
    }

    fn events(&self, batch: &Batch) -> Vec<v1::Event> {
        let Reporter { clock, node_id, .. } = self.reporter;
        let transitions = batch.transitions.iter();
        transitions.map(|transition| rows::event(node_id, transition, |tick| clock.date(tick))).collect()
    }

    /// Sends `report` with the rows that `changed`, in as many messages as they need. Later ones add to what the first began.
    async fn send(
        &mut self,
        mut report: v1::ReportNodeStatusRequest,
        mut changed: Vec<v1::Breaker>,
    ) -> Result<(), Ended> {
        if !self.introduced {
            let Reporter { node_id, version, .. } = self.reporter;
            report.node = Some(v1::NodeIdentity { node_id: node_id.to_string(), version: (*version).into() });
            self.introduced = true;
        }
        loop {
            report.breakers = first_of(&mut changed);
            let sent = timeout(SEND_TIMEOUT, self.outgoing.send(std::mem::take(&mut report))).await;
            sent.map_err(|_| Ended::NotTaken)?.map_err(|_| Ended::Closed)?;
            self.sent = Instant::now();
            if changed.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Takes the first [`MAX_ROWS`] out.
fn first_of(rows: &mut Vec<v1::Breaker>) -> Vec<v1::Breaker> {
    let rest = rows.split_off(rows.len().min(MAX_ROWS));
    std::mem::replace(rows, rest)
}

/// How often the control plane wants counts, within what is good for both.
fn read_interval(response: &v1::ReportNodeStatusResponse) -> Duration {
    let wanted = response.report_interval.and_then(|wire| parse_duration("report_interval", wire).ok());
    wanted.map_or(INTERVAL, |wanted| wanted.clamp(INTERVAL_RANGE.0, INTERVAL_RANGE.1))
}

#[cfg(test)]
mod tests;
