//! `gwctl wait`: until something is so, for scripts: a service is ready, a replica drained or gone, a breaker closed, every data
//! plane in sync.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use gateway_proto::{
    Mode, ServiceName, reason,
    v1::{Breaker, BreakerState, Node, NodeState, Replica},
};
use serde_json::json;

use super::is_ready;
use crate::{
    cli::Global,
    control::{Control, Scope},
    endpoint::Origin,
    error::{Error, Exit},
    output::{Format, Output},
    progress::Progress,
    target::Target,
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// Longest wait where nobody says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Flags of `gwctl wait`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
--timeout is the longest wait, 60s when it is not given. Exit code 7 when it is over; 3 when it can no longer come true, and when it is not known: without the role reader, that a \
replica is deleted is known only of one that was there a short while ago.")]
pub(crate) struct Args {
    /// What has to be so; left out for synced
    #[arg(value_name = "SERVICE[/REPLICA]", required_unless_present("synced"))]
    subject: Option<Subject>,
    /// ready, drained, deleted, synced, or breaker=closed (or open, half-open, forced-open, forced-closed)
    #[arg(long = "for", value_name = "CONDITION", default_value = "ready")]
    condition: Condition,
    /// The same as --for synced: every connected data plane has the registry's revision
    #[arg(long)]
    synced: bool,
    /// Of a service: so many replicas have to be ready
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: usize,
}

/// A service, or one of its replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Service(ServiceName),
    Replica(Target),
}

impl FromStr for Subject {
    type Err = gateway_proto::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('/') {
            text.parse().map(Self::Replica)
        } else {
            ServiceName::parse(text).map(Self::Service)
        }
    }
}

impl Subject {
    fn service(&self) -> &ServiceName {
        match self {
            Self::Service(name) => name,
            Self::Replica(target) => &target.service,
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(name) => name.fmt(f),
            Self::Replica(target) => target.fmt(f),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Ready,
    Drained,
    Deleted,
    Synced,
    Breaker(BreakerState),
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ready" => Ok(Self::Ready),
            "drained" => Ok(Self::Drained),
            "deleted" => Ok(Self::Deleted),
            "synced" => Ok(Self::Synced),
            "breaker=closed" => Ok(Self::Breaker(BreakerState::Closed)),
            "breaker=open" => Ok(Self::Breaker(BreakerState::Open)),
            "breaker=half-open" => Ok(Self::Breaker(BreakerState::HalfOpen)),
            "breaker=forced-open" => Ok(Self::Breaker(BreakerState::ForcedOpen)),
            "breaker=forced-closed" => Ok(Self::Breaker(BreakerState::ForcedClosed)),
            _ => Err("is ready, drained, deleted, synced or breaker=STATE, e.g. breaker=closed".into()),
        }
    }
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It is so.
    Met(String),
    /// It is not so yet.
    NotYet(String),
}

/// What earlier looks have shown.
#[derive(Debug)]
struct Known {
    /// Whether lists of replicas are for whoever asks, as far as is known.
    may_list: bool,
    /// The replica that was there, of one whose end is waited for.
    id: Option<String>,
}

/// Looks until it is so.
///
/// # Errors
/// [`Exit::WaitOver`] when the time is over, [`Exit::NotFound`] when it can no longer come true, and what is refused.
pub(crate) async fn run(
    args: Args,
    mut global: Global,
    origin: Origin,
    output: &Output,
) -> Result<(), Error> {
    let patience = if global.timeout_is_given { global.timeout } else { PATIENCE };
    let condition = if args.synced { Condition::Synced } else { args.condition };
    let deadline = Instant::now() + patience;
    let mut progress = Progress::new(output);
    let mut connected: Option<Control> = None;
    let mut known = Known { may_list: true, id: None };
    loop {
        global.timeout =
            deadline.saturating_duration_since(Instant::now()).clamp(INTERVAL, Duration::from_secs(10));
        let looked = async {
            let control = match &connected {
                Some(control) => control.clone(),
                None => connected.insert(Control::connect(&global, origin).await?).clone(),
            };
            look(&control, args.subject.as_ref(), condition, args.count, &mut known).await
        };
        let last = match looked.await {
            Ok(Found::Met(text)) => {
                drop(progress);
                return tell(&args, condition, &text, output);
            }
            Ok(Found::NotYet(text)) => text,
            // One that is not there yet may come.
            Err(error) if error.exit == Exit::Unreachable => {
                connected = None;
                error.headline
            }
            Err(error) => return Err(error),
        };
        if Instant::now() + INTERVAL > deadline {
            drop(progress);
            let waited = humantime::format_duration(patience);
            return Err(Error::new(Exit::WaitOver, format!("waited {waited} in vain: {last}"))
                .hint("wait longer with --timeout, or look with  gwctl explain"));
        }
        progress.tell(&last);
        tokio::time::sleep(INTERVAL).await;
    }
}

fn tell(args: &Args, condition: Condition, text: &str, output: &Output) -> Result<(), Error> {
    let name = args.subject.as_ref().filter(|_| condition != Condition::Synced).map(ToString::to_string);
    match output.format {
        Format::Json => output.value(&json!({"met": true, "subject": name, "found": text})),
        Format::Name => output.data(name.map(|name| format!("{name}\n")).unwrap_or_default()),
        Format::Table | Format::Wide => output.data(format_args!("{}\n", crate::terminal::printable(text))),
    }
}

async fn look(
    control: &Control,
    subject: Option<&Subject>,
    condition: Condition,
    count: usize,
    known: &mut Known,
) -> Result<Found, Error> {
    let Some(subject) = subject.filter(|_| condition != Condition::Synced) else {
        return Ok(synced(&control.nodes().await?.nodes));
    };
    let found = match subject {
        Subject::Service(service) => control.replicas(Some(service)).await.map(|listed| listed.replicas),
        Subject::Replica(target) => {
            control.seek(target, &mut known.may_list).await.map(|replica| vec![replica])
        }
    };
    let is_end = condition == Condition::Deleted;
    let concerned = match found {
        // Another one whose id begins with what was typed is not meant once that was somebody's.
        Ok(found) if matches!(subject, Subject::Replica(_)) && is_end => {
            let id = known.id.get_or_insert_with(|| found[0].replica_id.clone());
            found.into_iter().filter(|replica| replica.replica_id == *id).collect()
        }
        Ok(found) => found,
        // What was typed may be the beginning of an id whose replica is there.
        Err(error)
            if error.exit == Exit::NotFound
                && is_end
                && !known.may_list
                && known.id.is_none()
                && !error.is_of(reason::REPLICA_REMOVED) =>
        {
            return Err(
                error.because("none was there a short while ago, so whether one has gone is not known")
            );
        }
        // A service is there while it has a replica.
        Err(error) if error.exit == Exit::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let concerned: Vec<&Replica> = concerned.iter().collect();
    if let Condition::Breaker(state) = condition {
        let breakers = control.breakers(&Scope::from(Some(subject.service())), false).await?.breakers;
        return Ok(breakers_are(subject, &concerned, &breakers, state));
    }
    replicas_are(subject, &concerned, condition, count)
}

fn replicas_are(
    subject: &Subject,
    concerned: &[&Replica],
    condition: Condition,
    count: usize,
) -> Result<Found, Error> {
    let of =
        |replicas: usize| if replicas == 1 { "1 replica".to_owned() } else { format!("{replicas} replicas") };
    let is_service = matches!(subject, Subject::Service(_));
    match condition {
        Condition::Ready => {
            let ready = concerned.iter().filter(|replica| is_ready(replica)).count();
            let wanted = if is_service { count } else { 1 };
            let text = match concerned {
                [] => format!("{subject} is not registered"),
                _ if is_service => format!("{subject}: {ready} of {} ready", of(concerned.len())),
                _ if ready == 1 => format!("{subject} is ready"),
                _ => format!("{subject} is not ready"),
            };
            Ok(if ready >= wanted { Found::Met(text) } else { Found::NotYet(text) })
        }
        Condition::Drained => {
            if concerned.is_empty() {
                return Err(Error::new(
                    Exit::NotFound,
                    format!("{subject} is not registered: it cannot be drained any more"),
                )
                .hint(format!("gwctl events --service {}", subject.service())));
            }
            let drained =
                concerned.iter().filter(|replica| Mode::parse(replica.mode) == Ok(Mode::Drained)).count();
            let text = format!("{subject}: {drained} of {} drained", of(concerned.len()));
            Ok(if drained == concerned.len() { Found::Met(text) } else { Found::NotYet(text) })
        }
        Condition::Deleted if concerned.is_empty() => Ok(Found::Met(format!("{subject} is not registered"))),
        Condition::Deleted => Ok(Found::NotYet(format!("{subject}: {} registered", of(concerned.len())))),
        Condition::Synced | Condition::Breaker(_) => unreachable!("these are not about replicas alone"),
    }
}

fn breakers_are(
    subject: &Subject,
    concerned: &[&Replica],
    breakers: &[Breaker],
    state: BreakerState,
) -> Found {
    let name = state.as_str_name().trim_start_matches("BREAKER_STATE_").to_lowercase().replace('_', "-");
    let of_concerned: Vec<_> = breakers
        .iter()
        .filter(|breaker| concerned.iter().any(|replica| replica.replica_id == breaker.replica_id))
        .collect();
    let so = of_concerned.iter().filter(|breaker| breaker.state() == state).count();
    let text = format!("{subject}: {so} of {} breakers {name}", concerned.len());
    // Without a report nobody knows.
    if so == concerned.len() && so > 0 { Found::Met(text) } else { Found::NotYet(text) }
}

fn synced(nodes: &[Node]) -> Found {
    let connected = nodes.iter().filter(|node| node.state() != NodeState::Disconnected).count();
    let synced = nodes.iter().filter(|node| node.state() == NodeState::Synced).count();
    let text = format!("{synced} of {connected} connected data planes in sync");
    if connected > 0 && synced == connected { Found::Met(text) } else { Found::NotYet(text) }
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::{HealthStatus, ReplicaMode};

    use super::*;

    fn replica(id: &str, health: HealthStatus, mode: ReplicaMode) -> Replica {
        Replica { replica_id: id.into(), health: health.into(), mode: mode.into(), ..Default::default() }
    }

    fn is_met(found: Result<Found, Error>) -> bool {
        matches!(found, Ok(Found::Met(_)))
    }

    #[test]
    fn a_service_is_ready_with_as_many_replicas_as_are_wanted() {
        let subject: Subject = "orders".parse().unwrap();
        let ready = replica("r-1", HealthStatus::Healthy, ReplicaMode::Serving);
        let starting = replica("r-2", HealthStatus::Starting, ReplicaMode::Serving);
        let draining = replica("r-3", HealthStatus::Healthy, ReplicaMode::Draining);
        let all = [&ready, &starting, &draining];
        assert!(is_met(replicas_are(&subject, &all, Condition::Ready, 1)));
        let found = replicas_are(&subject, &all, Condition::Ready, 2);
        assert_eq!(found, Ok(Found::NotYet("orders: 1 of 3 replicas ready".into())));
        assert!(!is_met(replicas_are(&subject, &[], Condition::Ready, 1)));
    }

    #[test]
    fn what_is_gone_is_deleted_and_can_no_longer_be_drained() {
        let subject: Subject = "orders/r-1".parse().unwrap();
        let drained = replica("r-1", HealthStatus::Healthy, ReplicaMode::Drained);
        assert!(is_met(replicas_are(&subject, &[&drained], Condition::Drained, 1)));
        assert!(!is_met(replicas_are(&subject, &[&drained], Condition::Deleted, 1)));
        assert!(is_met(replicas_are(&subject, &[], Condition::Deleted, 1)));
        assert_eq!(replicas_are(&subject, &[], Condition::Drained, 1).unwrap_err().exit, Exit::NotFound);
    }

    #[test]
    fn a_breaker_that_nobody_reports_is_in_no_state() {
        let subject: Subject = "orders".parse().unwrap();
        let (one, two) = (
            replica("r-1", HealthStatus::Healthy, ReplicaMode::Serving),
            replica("r-2", HealthStatus::Healthy, ReplicaMode::Serving),
        );
        let breaker = |id: &str, state: BreakerState| Breaker {
            replica_id: id.into(),
            state: state.into(),
            ..Default::default()
        };
        let closed = [breaker("r-1", BreakerState::Closed)];
        let found = breakers_are(&subject, &[&one, &two], &closed, BreakerState::Closed);
        assert_eq!(found, Found::NotYet("orders: 1 of 2 breakers closed".into()));
        assert!(matches!(breakers_are(&subject, &[&one], &closed, BreakerState::Closed), Found::Met(_)));
        assert!(matches!(breakers_are(&subject, &[], &closed, BreakerState::Closed), Found::NotYet(_)));
    }

    #[test]
    fn data_planes_are_in_sync_when_there_are_some_and_all_of_them_are() {
        let node = |state: NodeState| Node { state: state.into(), ..Default::default() };
        assert!(matches!(synced(&[]), Found::NotYet(_)));
        assert!(matches!(synced(&[node(NodeState::Synced), node(NodeState::Disconnected)]), Found::Met(_)));
        assert!(matches!(synced(&[node(NodeState::Synced), node(NodeState::Lagging)]), Found::NotYet(_)));
    }
}
