//! `gwctl drain`: stops new requests to a replica, and tells when every data plane has stopped and nothing is in flight.

use std::{
    fmt::Write as _,
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{
    Mode, ReplicaKey,
    time::{duration, exact},
    v1::{DrainReplicaRequest, DrainReplicaResponse, DrainStatus, Replica, Rollout, WatchDrainResponse},
};
use rand::Rng as _;
use tokio::time::timeout_at;

use super::is_ready;
use crate::{
    age,
    authorship::Authorship,
    control::Control,
    error::{Error, Exit},
    output::{Format, Output},
    rollout::count,
    target::Target,
};

/// Longest pause before a broken stream of receipts is opened again.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Flags of `gwctl drain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The replica; a unique beginning of its id is enough
    #[arg(value_name = "SERVICE/REPLICA")]
    target: Target,
    #[command(flatten)]
    authorship: Authorship,
    /// Cut requests in flight after this, 0s to 1h; left out, as the service's policy says
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    drain_timeout: Option<Duration>,
    /// Drain it even when no other replica of the service is ready
    #[arg(long)]
    allow_last: bool,
    /// Wait until nothing is in flight, at most this long, and tell each step
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with = "dry_run")]
    wait: Option<Duration>,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Drains the replica, and follows that when asked to.
///
/// # Errors
/// When it does not exist, what the control plane refuses, and [`Exit::WaitOver`] when it still drains after the wait.
pub(crate) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    let began = Instant::now();
    let key = args.target.key(&control.replica(&args.target).await?)?;
    let request = DrainReplicaRequest {
        service: key.service.to_string(),
        replica_id: key.replica.to_string(),
        drain_timeout: args.drain_timeout.map(duration),
        reason: args.authorship.reason,
        author: args.authorship.who.author,
        validate_only: args.dry_run,
        allow_last: args.allow_last,
        ..Default::default()
    };
    let response = control.drain(request).await?;
    let is_table = matches!(output.format, Format::Table | Format::Wide);
    let response = match args.wait {
        Some(wait) => {
            follow(&key, response, Patience { began, wait }, control, is_table.then_some(output)).await?
        }
        None => {
            if is_table {
                let text = match args.dry_run {
                    true => foretold(&key, others_ready(&key, control).await?),
                    false => asked(&key, &response, SystemTime::now()),
                };
                output.data(text)?;
            }
            response
        }
    };
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => output.data(format_args!("{key}\n")),
        Format::Table | Format::Wide => Ok(()),
    }
}

/// How many other replicas of the service get requests; `None`: that is not for whoever asks.
async fn others_ready(key: &ReplicaKey, control: &Control) -> Result<Option<usize>, Error> {
    match control.replicas(Some(&key.service)).await {
        Ok(listed) => Ok(Some(count_others(key, &listed.replicas))),
        Err(error) if error.exit == Exit::Denied => Ok(None),
        Err(error) => Err(error),
    }
}

fn count_others(key: &ReplicaKey, replicas: &[Replica]) -> usize {
    let others = replicas.iter().filter(|replica| replica.replica_id != key.replica.as_str());
    others.filter(|replica| is_ready(replica)).count()
}

fn foretold(key: &ReplicaKey, others: Option<usize>) -> String {
    let remain = match others {
        None => String::new(),
        Some(0) => ": no ready replica would remain".to_owned(),
        Some(1) => ": 1 ready replica would remain".to_owned(),
        Some(others) => format!(": {others} ready replicas would remain"),
    };
    format!("{key} could be drained{remain}   dry run: nothing changed\n")
}

/// What there is to say of a drain that nobody waits for.
fn asked(key: &ReplicaKey, response: &DrainReplicaResponse, now: SystemTime) -> String {
    let replica = response.replica.clone().unwrap_or_default();
    let status = response.status.clone().unwrap_or_default();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match Mode::parse(replica.mode) {
        Ok(Mode::Drained) => writeln!(text, "{key} drained: {}   rev {}", flight(&status), replica.revision),
        _ => {
            let deadline = replica.drain.and_then(|drain| drain.deadline_time);
            writeln!(
                text,
                "{key} draining: {}; what is in flight is cut in {}   rev {}",
                stopped(status.rollout.as_ref()),
                age::until(now, deadline),
                replica.revision
            )
        }
    };
    let _ = writeln!(text, "  follow it: gwctl drain {key} --wait 1m\n  undo: gwctl undrain {key}");
    text
}

/// `2/2 data planes stopped sending`, or why nobody sends.
fn stopped(rollout: Option<&Rollout>) -> String {
    match count(rollout) {
        Some(count) => format!("{count} stopped sending"),
        None => "no data plane is connected".to_owned(),
    }
}

/// Control planes that do not say what is in flight on their data planes; empty without any.
fn silent(status: &DrainStatus) -> String {
    let silent = status.rollout.iter().flat_map(|rollout| &rollout.silent_control_planes);
    let silent =
        silent.map(|silent| format!("the control plane at {} is silent ({})", silent.address, silent.reason));
    silent.collect::<Vec<_>>().join(", ")
}

fn flight(status: &DrainStatus) -> String {
    format!("{} in flight", status.inflight_request_count)
}

/// How long somebody is ready to wait, and since when.
#[derive(Debug, Clone, Copy)]
struct Patience {
    began: Instant,
    wait: Duration,
}

/// Follows the receipts to the end of the drain; each step is printed to `output` at once. Cancel safe.
async fn follow(
    key: &ReplicaKey,
    first: DrainReplicaResponse,
    patience: Patience,
    control: &Control,
    output: Option<&Output>,
) -> Result<DrainReplicaResponse, Error> {
    let deadline = tokio::time::Instant::from_std(patience.began) + patience.wait;
    let mut receipts = Receipts::new(key);
    let mut last = WatchDrainResponse { replica: first.replica, status: first.status };
    loop {
        let mut step = |message: WatchDrainResponse| {
            let (lines, end) = receipts.take(&message, patience.began.elapsed());
            last = message;
            output.map_or(Ok(()), |output| output.data(lines)).map(|()| end)
        };
        let watched = async {
            // The stream tells the state at once, so one that broke is taken up where it stands.
            let mut stream = match control.watch_drain(key).await {
                Ok(stream) => stream,
                Err(error) if error.exit == Exit::NotFound => {
                    // It went before the watch began.
                    return step(WatchDrainResponse::default());
                }
                Err(error) => return Err(error),
            };
            while let Ok(Some(message)) = stream.message().await {
                if let Some(end) = step(message)? {
                    return Ok(Some(end));
                }
            }
            Ok::<_, Error>(None)
        };
        match timeout_at(deadline, watched).await {
            Ok(Ok(Some(End::Drained))) => break,
            Ok(Ok(Some(End::Undrained))) => {
                let headline = format!("{key} was returned to service meanwhile");
                return Err(Error::new(Exit::Conflict, headline)
                    .hint(format!("gwctl events --replica {key}   shows who did it")));
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) if error.exit == Exit::Unreachable => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(still_draining(key, &last, patience.wait)),
        }
        let pause = tokio::time::sleep(rand::rng().random_range(MAX_PAUSE / 10..=MAX_PAUSE));
        // Whether the pause or the wait ends first is for the next round to find.
        let _ = timeout_at(deadline, pause).await;
    }
    let WatchDrainResponse { replica, status } = last;
    Ok(DrainReplicaResponse { replica, status })
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing is in flight, its time is over, or it is gone.
    Drained,
    /// Somebody returned it to service.
    Undrained,
}

/// What has been told of a drain.
#[derive(Debug)]
struct Receipts<'a> {
    key: &'a ReplicaKey,
    has_told_stop: bool,
}

impl<'a> Receipts<'a> {
    fn new(key: &'a ReplicaKey) -> Self {
        Self { key, has_told_stop: false }
    }

    /// The lines that a message is worth, and whether it is the last.
    fn take(&mut self, message: &WatchDrainResponse, elapsed: Duration) -> (String, Option<End>) {
        let (key, took) = (self.key, format!("({:.1}s)", elapsed.as_secs_f64()));
        let Some(replica) = &message.replica else {
            let text = format!("{key} is gone: it was deregistered, or its lease lapsed {took}\n");
            return (text, Some(End::Drained));
        };
        let status = message.status.clone().unwrap_or_default();
        let mode = Mode::parse(replica.mode).unwrap_or_default();
        if mode == Mode::Serving {
            return (String::new(), Some(End::Undrained));
        }
        let mut text = String::new();
        let rollout = status.rollout.as_ref();
        let has_stopped = rollout.is_none_or(|rollout| rollout.acked_node_count >= rollout.node_count);
        if has_stopped && !self.has_told_stop {
            self.has_told_stop = true;
            let _ = writeln!(text, "{key} draining: {} {took}", stopped(rollout));
        }
        if mode == Mode::Draining {
            return (text, None);
        }
        let silent = silent(&status);
        let _ = match status.is_idle || status.inflight_request_count == 0 {
            true if !status.is_idle && !silent.is_empty() => {
                writeln!(
                    text,
                    "{key} drained: its time is over, and what is in flight is not known: {silent} {took}"
                )
            }
            true => writeln!(text, "{key} drained: 0 in flight {took}"),
            false => writeln!(text, "{key} drained: its time is over, with {} {took}", flight(&status)),
        };
        let _ = writeln!(text, "  undo: gwctl undrain {key}");
        (text, Some(End::Drained))
    }
}

fn still_draining(key: &ReplicaKey, last: &WatchDrainResponse, wait: Duration) -> Error {
    let status = last.status.clone().unwrap_or_default();
    let mut error =
        Error::new(Exit::WaitOver, format!("{key} still drains after {}: {}", exact(wait), flight(&status)));
    if let Some(rollout) =
        status.rollout.clone().filter(|rollout| rollout.acked_node_count < rollout.node_count)
    {
        error = error.because(format!(
            "{}: waiting for {}",
            stopped(Some(&rollout)),
            rollout.pending_node_ids.join(", ")
        ));
    }
    let unknown = silent(&status);
    if !unknown.is_empty() {
        error = error.because(format!("{unknown}: so it goes on until its time is over"));
    }
    if status.unreported_node_count > 0 {
        error = error.because(match status.unreported_node_count {
            1 => "1 data plane that stopped has not reported since".to_owned(),
            count => format!("{count} data planes that stopped have not reported since"),
        });
    }
    error
        .hint(format!("it goes on; wait longer with  gwctl drain {key} --wait 5m"))
        .hint(format!("or undo it with  gwctl undrain {key}"))
}

#[cfg(test)]
mod tests {
    use gateway_proto::{
        time::timestamp,
        v1::{Drain, HealthStatus, ReplicaMode},
    };

    use super::*;

    fn key() -> ReplicaKey {
        ReplicaKey::parse("orders", "r-d4e5").unwrap()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
    }

    fn replica(mode: ReplicaMode) -> Replica {
        Replica {
            service: "orders".into(),
            replica_id: "r-d4e5".into(),
            health: HealthStatus::Healthy.into(),
            mode: mode.into(),
            drain: Some(Drain {
                deadline_time: Some(timestamp(now() + Duration::from_secs(30))),
                ..Default::default()
            }),
            revision: 12,
            ..Default::default()
        }
    }

    fn status(acked: i32, inflight: i32) -> DrainStatus {
        let pending_node_ids = if acked < 2 { vec!["dp-2".to_owned()] } else { Vec::new() };
        DrainStatus {
            rollout: Some(Rollout {
                node_count: 2,
                acked_node_count: acked,
                pending_node_ids,
                ..Default::default()
            }),
            inflight_request_count: inflight,
            unreported_node_count: 0,
            is_idle: acked == 2 && inflight == 0,
            is_settling: false,
        }
    }

    fn message(mode: ReplicaMode, status: DrainStatus) -> WatchDrainResponse {
        WatchDrainResponse { replica: Some(replica(mode)), status: Some(status) }
    }

    fn told(messages: &[WatchDrainResponse]) -> (String, Option<End>) {
        let key = key();
        let mut receipts = Receipts::new(&key);
        let mut text = String::new();
        for (index, message) in (0..).zip(messages) {
            let (lines, end) = receipts.take(message, Duration::from_millis(200 + 1450 * index));
            text.push_str(&lines);
            if end.is_some() {
                return (text, end);
            }
        }
        (text, None)
    }

    #[test]
    fn a_drain_is_told_step_by_step_and_each_step_once() {
        let (text, end) = told(&[
            message(ReplicaMode::Draining, status(1, 3)),
            message(ReplicaMode::Draining, status(2, 3)),
            message(ReplicaMode::Draining, status(2, 1)),
            message(ReplicaMode::Drained, status(2, 0)),
        ]);
        assert_eq!(
            text,
            "\
orders/r-d4e5 draining: 2/2 data planes stopped sending (1.6s)
orders/r-d4e5 drained: 0 in flight (4.5s)
  undo: gwctl undrain orders/r-d4e5
"
        );
        assert_eq!(end, Some(End::Drained));
    }

    #[test]
    fn a_drain_whose_time_is_over_says_what_was_cut() {
        let (text, end) = told(&[message(ReplicaMode::Drained, status(2, 3))]);
        assert!(
            text.contains("orders/r-d4e5 drained: its time is over, with 3 in flight (0.2s)\n"),
            "{text}"
        );
        assert_eq!(end, Some(End::Drained));
    }

    #[test]
    fn a_replica_that_goes_or_comes_back_ends_the_wait() {
        let (text, end) = told(&[WatchDrainResponse::default()]);
        assert_eq!(text, "orders/r-d4e5 is gone: it was deregistered, or its lease lapsed (0.2s)\n");
        assert_eq!(end, Some(End::Drained));
        let (text, end) = told(&[message(ReplicaMode::Serving, status(0, 0))]);
        assert_eq!((text.as_str(), end), ("", Some(End::Undrained)));
    }

    #[test]
    fn a_drain_that_nobody_waits_for_says_how_far_it_is_and_how_to_follow_it() {
        let response = DrainReplicaResponse {
            replica: Some(replica(ReplicaMode::Draining)),
            status: Some(status(1, 3)),
        };
        assert_eq!(
            asked(&key(), &response, now()),
            "\
orders/r-d4e5 draining: 1/2 data planes stopped sending; what is in flight is cut in 30s   rev 12
  follow it: gwctl drain orders/r-d4e5 --wait 1m
  undo: gwctl undrain orders/r-d4e5
"
        );
    }

    #[test]
    fn a_dry_run_says_who_would_remain() {
        let other = |id: &str, mode: ReplicaMode| Replica { replica_id: id.into(), ..replica(mode) };
        let replicas = [
            replica(ReplicaMode::Serving),
            other("r-1", ReplicaMode::Serving),
            other("r-2", ReplicaMode::Draining),
            Replica { health: HealthStatus::Unhealthy.into(), ..other("r-3", ReplicaMode::Serving) },
        ];
        assert_eq!(
            foretold(&key(), Some(count_others(&key(), &replicas))),
            "orders/r-d4e5 could be drained: 1 ready replica would remain   dry run: nothing changed\n"
        );
    }

    #[test]
    fn a_wait_that_is_over_says_what_it_waited_for_and_how_to_go_on() {
        let last = message(ReplicaMode::Draining, DrainStatus { unreported_node_count: 1, ..status(1, 3) });
        let error = still_draining(&key(), &last, Duration::from_secs(60));
        assert_eq!(error.exit, Exit::WaitOver);
        assert_eq!(error.headline, "orders/r-d4e5 still drains after 1m: 3 in flight");
        assert_eq!(
            error.details,
            [
                "1/2 data planes stopped sending: waiting for dp-2",
                "1 data plane that stopped has not reported since"
            ]
        );
        assert_eq!(error.hints[1], "or undo it with  gwctl undrain orders/r-d4e5");
    }
}
