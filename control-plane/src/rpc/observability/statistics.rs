//! Rates and latencies, one message for each interval.

use std::{sync::Arc, time::Duration};

use gateway_proto::{
    Invalid,
    time::{duration, parse_duration, timestamp},
    v1,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tonic::Status;

use crate::{
    clock,
    edge::Edge,
    observe::{Wish, parse_service},
    refusal::Refusal,
    rpc::registry::count,
    writer::WriteError,
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Reads what is to be summed up, and how often.
pub(super) fn parse(wire: &v1::WatchStatsRequest) -> Result<(Wish, Duration), Invalid> {
    let service = parse_service(&wire.service)?;
    let interval = wire.interval.map(|interval| parse_duration("interval", interval)).transpose()?;
    let interval = interval.unwrap_or(DEFAULT_INTERVAL).clamp(INTERVALS.0, INTERVALS.1);
    Ok((Wish { service, per_replica: wire.per_replica, ..Wish::default() }, interval))
}

/// Tells what happened in each interval, until the reader leaves.
///
/// # Errors
/// When the shutdown begins.
pub(super) async fn watch(
    edge: Arc<Edge>,
    wish: Wish,
    every: Duration,
    outbound: mpsc::Sender<Result<v1::WatchStatsResponse, Status>>,
) -> Result<(), Status> {
    let shutting_down = || Status::from(Refusal::from(WriteError::ShuttingDown));
    let reader = edge.effects.observation.read_stats(wish);
    let mut ticks = interval_at(Instant::now() + every, every);
    // A reader that was slow gets what happened meanwhile in one message, and the next one an interval later.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = outbound.closed() => return Ok(()),
            () = edge.shutdown.begun() => return Err(shutting_down()),
        }
        let (stats, interval, nodes) = reader.take();
        let message = Ok(v1::WatchStatsResponse {
            end_time: Some(timestamp(clock::wall())),
            interval: Some(duration(interval)),
            stats,
            node_count: count(nodes),
            silent_control_planes: edge.effects.observation.silent_control_planes(),
        });
        tokio::select! {
            sent = outbound.send(message) => if sent.is_err() { return Ok(()) },
            () = edge.shutdown.begun() => return Err(shutting_down()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_kept_within_what_makes_sense_and_a_second_by_default() {
        let interval = |seconds: Option<i64>| {
            let interval = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
            parse(&v1::WatchStatsRequest { interval, ..Default::default() })
                .map(|(_, interval)| interval.as_secs())
        };
        for (given, taken) in [(None, 1), (Some(0), 1), (Some(5), 5), (Some(1000), 60)] {
            assert_eq!(interval(given), Ok(taken));
        }
        assert_eq!(interval(Some(-1)).unwrap_err().violations()[0].field, "interval");
        let nameless = v1::WatchStatsRequest { service: "Orders".into(), ..Default::default() };
        assert_eq!(parse(&nameless).unwrap_err().violations()[0].field, "service");
    }
}
