//! One data plane's stream of reports: takes them in, and tells it how often and in how much detail to report.

use std::{future::pending, sync::Arc, time::Duration};

use gateway_proto::{time::duration, v1};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tonic::{Status, Streaming};

use crate::{
    auth::Caller,
    clock,
    edge::Edge,
    observe::{Attention, Report, Seat},
    refusal::Refusal,
    rpc::{HELLO_TIMEOUT, MAX_REPORT_BYTES, identity, next_message},
    writer::WriteError,
};

/// How often data planes are told to report counts.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

type Outbound = mpsc::Sender<Result<v1::ReportNodeStatusResponse, Status>>;

/// Takes in reports until the stream ends, a newer one of the same data plane begins, or the shutdown does.
pub(super) async fn take(
    edge: Arc<Edge>,
    mut inbound: Streaming<v1::ReportNodeStatusRequest>,
    outbound: Outbound,
    caller: Caller,
) -> Result<(), Status> {
    let shutting_down = || Status::from(Refusal::from(WriteError::ShuttingDown));
    let first = tokio::select! {
        first = timeout(HELLO_TIMEOUT, next_message(&mut inbound, MAX_REPORT_BYTES)) => match first {
            Ok(first) => first?,
            Err(_) => return Err(Refusal::TooSlow(HELLO_TIMEOUT).into()),
        },
        () = edge.shutdown.begun() => return Err(shutting_down()),
    };
    let Some(mut message) = first else { return Ok(()) };
    let peer = caller.from().map(|from| from.to_string()).unwrap_or_default();
    let identity = identity(message.node.take().unwrap_or_default(), peer);
    let identity = identity.map_err(|invalid| Refusal::from(invalid.within("node")))?;
    caller.admit_node(&identity.id, "ReportNodeStatus").map_err(Refusal::from)?;
    let observation = &edge.effects.observation;
    let seat = observation.begin_reports(identity).map_err(Refusal::from)?;
    let (attention, to_peer) = (observation.follow_attention(), outbound.clone());
    let mut questions = observation.questions().follow();
    let mut orders = Orders { attention, told: None, taken: 0, confirmed: 0, outbound };
    orders.give();
    orders.taken = message.batch_number;
    take_in(&edge, &seat, message)?;
    orders.give();
    loop {
        tokio::select! {
            next = next_message(&mut inbound, MAX_REPORT_BYTES) => match next? {
                Some(next) => {
                    let batch = next.batch_number;
                    take_in(&edge, &seat, next)?;
                    orders.taken = orders.taken.max(batch);
                }
                None => return Ok(()),
            },
            () = orders.change() => {}
            question = questions.recv() => orders.ask(question.ok()),
            () = seat.superseded() => return Err(Refusal::Superseded(seat.node().clone()).into()),
            () = to_peer.closed() => return Ok(()),
            () = edge.shutdown.begun() => return Err(shutting_down()),
        }
        // Also after a message: what found no room before may find some now.
        orders.give();
    }
}

fn take_in(edge: &Edge, seat: &Seat, message: v1::ReportNodeStatusRequest) -> Result<(), Refusal> {
    if message.dropped_event_count > 0 {
        let lost = message.dropped_event_count;
        tracing::warn!(node = %seat.node(), lost, "the data plane could not tell all its transitions");
    }
    let mut report = Report::parse(seat.node(), message, clock::wall())?;
    let publisher = &edge.effects.publisher;
    if let Some(stats) = &mut report.stats {
        publisher.read(|view| stats.keep_services(|service| view.service(service).is_some()));
    }
    seat.reported(report, publisher.epoch(), |key| publisher.read(|view| view.get(key).is_some()));
    Ok(())
}

fn response(
    detailed_stats: bool,
    what_if: Option<v1::WhatIfQuestion>,
    taken_batch_number: i64,
) -> v1::ReportNodeStatusResponse {
    v1::ReportNodeStatusResponse {
        report_interval: Some(duration(REPORT_INTERVAL)),
        detailed_stats,
        what_if,
        confirms_batches: true,
        taken_batch_number,
    }
}

/// What the data plane is told of how to report.
struct Orders {
    attention: watch::Receiver<Attention>,
    /// Whether it was told to count in detail; `None`: nothing was told yet.
    told: Option<bool>,
    /// The last message with events that was taken, and the last one of which it was told that.
    taken: i64,
    confirmed: i64,
    outbound: Outbound,
}

impl Orders {
    /// Tells it, if that is news. One that reads nothing is told when it does.
    fn give(&mut self) {
        let detailed_stats = self.attention.borrow_and_update().is_paid(clock::now());
        if self.told == Some(detailed_stats) && self.confirmed == self.taken {
            return;
        }
        let response = response(detailed_stats, None, self.taken);
        if self.outbound.try_send(Ok(response)).is_ok() {
            self.told = Some(detailed_stats);
            self.confirmed = self.taken;
        }
    }

    /// Asks it. One that reads nothing is not asked, and whoever waits for the answer is told so.
    fn ask(&mut self, question: Option<Arc<v1::WhatIfQuestion>>) {
        let (Some(question), Some(detailed_stats)) = (question, self.told) else { return };
        let _ = self.outbound.try_send(Ok(response(detailed_stats, Some((*question).clone()), self.taken)));
    }

    /// Completes when there may be news. Cancel safe.
    async fn change(&mut self) {
        let ends = match *self.attention.borrow() {
            Attention::Until(end) if self.told == Some(true) => Some(end),
            _ => None,
        };
        let ended = async {
            match ends {
                Some(end) => sleep_until(end.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            // The sender lives as long as the control plane.
            _ = self.attention.changed() => {}
            () = ended => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::LINGER;

    #[tokio::test(start_paused = true)]
    async fn a_data_plane_is_told_to_count_in_detail_and_some_time_after_the_last_look_to_stop() {
        let attention = watch::Sender::new(Attention::Nobody);
        let (outbound, mut told) = mpsc::channel(1);
        let mut orders =
            Orders { attention: attention.subscribe(), told: None, taken: 0, confirmed: 0, outbound };
        let mut next = || told.try_recv().ok().map(|order| order.unwrap().detailed_stats);
        orders.give();
        assert_eq!(next(), Some(false));
        attention.send_replace(Attention::Somebody);
        orders.change().await;
        orders.give();
        assert_eq!(next(), Some(true));
        attention.send_replace(Attention::Until(clock::now() + LINGER));
        orders.change().await;
        orders.give();
        assert_eq!(next(), None);
        // Time alone ends it.
        let before = clock::now();
        orders.change().await;
        orders.give();
        assert_eq!((next(), clock::now() - before >= LINGER), (Some(false), true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_data_plane_that_reads_nothing_is_told_the_last_word_when_it_does() {
        let attention = watch::Sender::new(Attention::Nobody);
        let (outbound, mut told) = mpsc::channel(1);
        let mut orders =
            Orders { attention: attention.subscribe(), told: None, taken: 0, confirmed: 0, outbound };
        orders.give();
        attention.send_replace(Attention::Somebody);
        orders.give();
        assert!(!told.recv().await.unwrap().unwrap().detailed_stats);
        orders.give();
        assert!(told.recv().await.unwrap().unwrap().detailed_stats);
    }

    #[tokio::test(start_paused = true)]
    async fn a_data_plane_is_told_which_events_have_been_taken_as_soon_as_it_reads() {
        let attention = watch::Sender::new(Attention::Nobody);
        let (outbound, mut told) = mpsc::channel(1);
        let mut orders =
            Orders { attention: attention.subscribe(), told: None, taken: 0, confirmed: 0, outbound };
        orders.give();
        for taken in [1, 2] {
            orders.taken = taken;
            orders.give();
        }
        let first = told.recv().await.unwrap().unwrap();
        assert_eq!((first.confirms_batches, first.taken_batch_number), (true, 0));
        orders.give();
        assert_eq!(told.recv().await.unwrap().unwrap().taken_batch_number, 2);
        orders.give();
        assert!(told.try_recv().is_err(), "once");
    }
}
