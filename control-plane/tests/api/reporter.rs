//! A data plane's side of one report stream.

use gateway_proto::v1::{self, BreakerState};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::plane::{PATIENCE, Plane, request};

pub(crate) struct Reporter {
    pub(crate) reports: mpsc::Sender<v1::ReportNodeStatusRequest>,
    pub(crate) answers: Streaming<v1::ReportNodeStatusResponse>,
}

impl Reporter {
    pub(crate) async fn connect(plane: &Plane, first: v1::ReportNodeStatusRequest) -> Self {
        let (reports, outbound) = mpsc::channel(8);
        reports.send(first).await.unwrap();
        let answers = plane.observability().report_node_status(ReceiverStream::new(outbound)).await.unwrap();
        Self { reports, answers: answers.into_inner() }
    }

    pub(crate) async fn send(&self, report: v1::ReportNodeStatusRequest) {
        self.reports.send(report).await.unwrap();
    }

    /// The next word of the control plane on how to report.
    pub(crate) async fn order(&mut self) -> v1::ReportNodeStatusResponse {
        timeout(PATIENCE, self.answers.message()).await.expect("something comes").unwrap().unwrap()
    }
}

pub(crate) fn row(id: &str, state: BreakerState) -> v1::Breaker {
    v1::Breaker {
        service: "orders".into(),
        replica_id: id.into(),
        state: state.into(),
        trip_count: 1,
        ..Default::default()
    }
}

/// A full report of one data plane: the states of replicas of `orders`.
pub(crate) fn report(node: &str, rows: &[(&str, BreakerState)]) -> v1::ReportNodeStatusRequest {
    let seen = |(id, state): &(&str, BreakerState)| v1::Breaker {
        reason: format!("as {node} sees it"),
        ..row(id, *state)
    };
    v1::ReportNodeStatusRequest {
        node: Some(v1::NodeIdentity { node_id: node.into(), version: "1".into(), ..Default::default() }),
        full: true,
        breakers: rows.iter().map(seen).collect(),
        ..Default::default()
    }
}

/// A control plane with replicas of `orders` by these ids.
pub(crate) async fn plane_with(ids: &[&str]) -> Plane {
    let plane = Plane::start().await;
    for (port, id) in (1..).zip(ids) {
        let wish = request("orders", &format!("10.0.0.1:{port}"));
        plane.register(v1::RegisterRequest { replica_id: (*id).into(), ..wish }).await;
    }
    plane
}
