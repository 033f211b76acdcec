//! What this data plane sees of the replicas, told to the control plane it follows.
//!
//! One stream: the full state first, then transitions at once and counts at the interval the control plane asks for.
//! Each message says by which revision of the registry the rows are right that were told so far: so a control
//! plane knows that "nothing in flight" was counted after a drain.
//! Reports never hold up a request: the [`Journal`] between them is bounded, and what it loses is counted and followed
//! by the full state.

mod checks;
pub(crate) mod journal;
mod ledger;
pub(crate) mod rows;
mod session;
mod stats;
mod what_if;

use std::{sync::Arc, time::Duration};

use gateway_proto::{
    NodeId,
    v1::{self, observability_service_client::ObservabilityServiceClient},
};
use gateway_runtime::{Shutdown, root_cause};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    clock::Clock,
    control_plane::{ControlPlane, Reconnect},
    discovery::{Position, View},
    health::CheckCounts,
    table::Table,
};
use journal::{Batch, Journal};
use session::Session;

/// A control plane that takes no message for this long is left.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
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
    #[error("another control plane is followed now")]
    Moved,
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
    /// In which process.
    pub(crate) process_id: String,
    /// What is reported.
    pub(crate) table: Arc<Table>,
    /// What it goes by.
    pub(crate) view: View,
    /// Dates it.
    pub(crate) clock: Clock,
    /// Transitions to report.
    pub(crate) journal: Arc<Journal>,
    /// How late health checks begin.
    pub(crate) checks: Arc<CheckCounts>,
    /// Begun when no other process of this id has requests in flight: until then, nobody knows which are.
    pub(crate) alone: Shutdown,
}

impl Reporter {
    /// Reports until `stop` begins; then what is left to tell is told, if the control plane takes it.
    pub(crate) async fn run(&self, stop: &Shutdown) {
        let mut reconnect = Reconnect::default();
        let hold = self.control_plane.hold();
        loop {
            tokio::select! {
                () = hold.released() => {}
                () = stop.begun() => return self.say_goodbye().await,
            }
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = stop.begun() => return self.say_goodbye().await,
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
            if hold.is_held() {
                continue;
            }
            let pause = reconnect.failed(Instant::now(), rand::random(), self.control_plane.count());
            // Discovery warns when the control plane is lost.
            tracing::debug!(url = %self.control_plane.url(), reason = %ended, ?pause, "report stream ended");
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.begun() => return self.say_goodbye().await,
            }
        }
    }

    /// Ends without a stream under way: nobody would know otherwise that nothing is in flight here any more.
    async fn say_goodbye(&self) {
        if self.control_plane.hold().is_held() {
            // Under this id, another process goes on.
            return;
        }
        let told = async {
            match self.connect().await {
                Ok((session, responses)) => session.tell_the_rest(responses).await,
                Err(ended) => ended,
            }
        };
        if let Err(_) | Ok(Ended::Unreachable(_) | Ended::Failed(_) | Ended::NotTaken | Ended::Moved) =
            timeout(session::FAREWELL, told).await
        {
            tracing::debug!(url = %self.control_plane.url(), "the control plane was not told of the end");
        }
    }

    /// By what the rows are that are read from now on; unknown while a worker may pick by something older.
    fn position(&self) -> Option<Position> {
        let position = self.view.applied.borrow().clone();
        (self.alone.has_begun() && self.table.are_drains_taken_on()).then_some(position)
    }

    /// Completes when there is another position than `told`, but not before `at`. Cancel safe.
    async fn moved_on(&self, told: &Position, at: Instant) {
        sleep_until(at).await;
        self.alone.begun().await;
        let mut applied = self.view.applied.clone();
        // Its owner may be gone, and then nothing moves any more.
        if applied.wait_for(|applied| applied != told).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.table.drains_taken_on().await;
    }

    /// Completes when attempts at draining replicas have ended, but not before `at`. Cancel safe.
    async fn drained_some(&self, at: Instant) {
        sleep_until(at).await;
        self.table.drained_some().await;
    }

    /// Opens a stream and tells the full state.
    async fn connect(&self) -> Result<(Session<'_>, Streaming<v1::ReportNodeStatusResponse>), Ended> {
        let moves = self.control_plane.moves();
        let channel = match self.control_plane.connect_beside().await {
            Ok(channel) => channel,
            Err(error) => return Err(Ended::Unreachable(root_cause(&error))),
        };
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        let mut session = Session::new(self, outgoing, moves);
        let mut client = ObservabilityServiceClient::new(channel);
        let call = timeout(
            SEND_TIMEOUT,
            client.report_node_status(self.control_plane.request(ReceiverStream::new(requests))),
        );
        // Together, because the control plane may read the first message before it answers the call.
        let (answer, told) = tokio::join!(call, session.tell_all(Batch::default()));
        let responses = answer.map_err(|_| Ended::NotTaken)??.into_inner();
        told?;
        Ok((session, responses))
    }
}

#[cfg(test)]
mod tests;
