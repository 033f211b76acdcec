//! `gwctl breaker`: forces breakers open or closed for a time, has them forget, or hands them back to their rules.

use std::{str::FromStr, time::Duration};

use clap::Subcommand;
use gateway_proto::{
    Invalid, NodeId, ServiceName,
    time::duration,
    v1::{
        BreakerState, ListOverridesResponse, OverrideBreakerRequest, OverrideEntry, OverrideKind, Replica,
        ResetBreakerRequest, Rollout,
    },
};
use prost::{Message, Name};

use super::get::override_subject;
use crate::{
    age,
    authorship::{Author, Authorship},
    control::Control,
    error::{Error, Exit},
    output::{Format, Output},
    rollout::{Wait, reach},
    target::Target,
    terminal::printable,
};

/// Stands for every replica of a service, on the wire.
const EVERY: &str = "-";

/// What to do to breakers.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Send no requests, not even probes
    Open(Force),
    /// Send requests whatever happens: outcomes count and never trip it
    Close(Force),
    /// Forget the counts and close; the rules go on from there
    Reset {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        authorship: Authorship,
    },
    /// Hand back to the rules what was forced open or closed
    Auto {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        authorship: Authorship,
    },
}

/// Flags of `open` and `close`.
#[derive(Debug, clap::Args)]
pub(crate) struct Force {
    #[command(flatten)]
    which: Which,
    /// It ends by itself after this, 1s to 24h
    #[arg(long, visible_alias = "for", default_value = "15m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Why: shown for as long as it lasts
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    author: Author,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Which breakers.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The replica, where a unique beginning of its id is enough; or a service, with --all
    #[arg(value_name = "SERVICE/REPLICA | SERVICE")]
    named: Named,
    /// Every replica of the service, those to come included
    #[arg(long)]
    all: bool,
    /// On this data plane only, by its id; left out, on all, those to come included
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    #[command(flatten)]
    wait: Wait,
}

/// A replica or a service, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Replica(Target),
    Service(ServiceName),
}

impl FromStr for Named {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.contains('/') {
            true => text.parse().map(Self::Replica),
            false => ServiceName::parse(text).map(Self::Service),
        }
    }
}

/// Does to breakers what was asked for.
///
/// # Errors
/// When there is no such replica or service, what the control plane refuses, and [`Exit::Partial`] when not every data
/// plane has taken it on within the wait.
pub(crate) async fn run(verb: Verb, control: &Control, output: &Output) -> Result<(), Error> {
    match verb {
        Verb::Open(force) => set(BreakerState::ForcedOpen, force, control, output).await,
        Verb::Close(force) => set(BreakerState::ForcedClosed, force, control, output).await,
        Verb::Reset { which, authorship } => reset(&which, authorship, control, output).await,
        Verb::Auto { which, authorship } => hand_back(&which, authorship, control, output).await,
    }
}

async fn set(state: BreakerState, force: Force, control: &Control, output: &Output) -> Result<(), Error> {
    let Force { which, ttl, reason, author: Author { author }, dry_run } = force;
    let chosen = which.look_up(control).await?;
    let request = OverrideBreakerRequest {
        service: chosen.service.clone(),
        replica_id: chosen.replica_id.clone(),
        node_id: which.node_id(),
        state: state.into(),
        ttl: Some(duration(ttl)),
        reason,
        author,
        validate_only: dry_run,
        wait_timeout: Some(duration(which.wait.longest)),
    };
    let response = control.override_breaker(request).await?;
    let entry = response.active_override.clone().unwrap_or_default();
    let text = match dry_run {
        true => format!("{} could be {}   dry run: nothing changed\n", chosen.subject(), forced(state)),
        false => told_of_force(&chosen, state, ttl, &entry, response.rollout.as_ref()),
    };
    print(output, &chosen, &response, &text)?;
    which.wait.check(response.rollout.as_ref())
}

async fn reset(
    which: &Which,
    authorship: Authorship,
    control: &Control,
    output: &Output,
) -> Result<(), Error> {
    let chosen = which.look_up(control).await?;
    let request = ResetBreakerRequest {
        service: chosen.service.clone(),
        replica_id: chosen.replica_id.clone(),
        node_id: which.node_id(),
        reason: authorship.reason,
        author: authorship.who.author,
        wait_timeout: Some(duration(which.wait.longest)),
    };
    let response = control.reset_breaker(request).await?;
    let text = format!(
        "{} reset {}: counts forgotten, closed, the rules go on from here\n",
        chosen.subject(),
        reach(response.rollout.as_ref())
    );
    print(output, &chosen, &response, &text)?;
    which.wait.check(response.rollout.as_ref())
}

async fn hand_back(
    which: &Which,
    authorship: Authorship,
    control: &Control,
    output: &Output,
) -> Result<(), Error> {
    // What was forced may outlast its replica, so overrides know names that the registry does not.
    let before = control.overrides(which.service().as_str()).await?;
    let chosen = match which.look_up(control).await {
        Err(error) if error.exit == Exit::NotFound => which.look_up_in(&before).ok_or(error)?,
        looked_up => looked_up?,
    };
    let request = OverrideBreakerRequest {
        service: chosen.service.clone(),
        replica_id: chosen.replica_id.clone(),
        node_id: which.node_id(),
        state: BreakerState::Closed.into(),
        reason: authorship.reason,
        author: authorship.who.author,
        wait_timeout: Some(duration(which.wait.longest)),
        ..Default::default()
    };
    let response = control.override_breaker(request).await?;
    let is_it = |entry: &&OverrideEntry| chosen.is_of(entry, &which.node_id());
    let text = match before.overrides.iter().any(|entry| is_it(&entry)) {
        true => format!("{} automatic again {}\n", chosen.subject(), reach(response.rollout.as_ref())),
        false => format!("{}: no override of its own, nothing to hand back\n", chosen.as_typed()),
    };
    print(output, &chosen, &response, &text)?;
    let others = before.overrides.iter().filter(|entry| !is_it(entry) && chosen.meets(entry));
    for entry in others {
        output.note(format_args!(
            "still forced: {}; end that with  gwctl end-override {}",
            override_subject(entry),
            entry.override_id
        ));
    }
    which.wait.check(response.rollout.as_ref())
}

fn print<M: Message + Name>(output: &Output, chosen: &Chosen, response: &M, text: &str) -> Result<(), Error> {
    match output.format {
        Format::Json => output.message(response),
        Format::Name => output.data(chosen.names.iter().map(|name| format!("{name}\n")).collect::<String>()),
        Format::Table | Format::Wide => output.data(text),
    }
}

impl Which {
    fn service(&self) -> &ServiceName {
        match &self.named {
            Named::Replica(target) => &target.service,
            Named::Service(service) => service,
        }
    }

    /// Empty for all of them, as on the wire.
    fn node_id(&self) -> String {
        self.node.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    async fn look_up(&self, control: &Control) -> Result<Chosen, Error> {
        self.check()?;
        let replicas = control.replicas(Some(self.service())).await?.replicas;
        self.choose(&replicas)
    }

    /// One replica, or all of a service, and nothing that could be meant either way.
    fn check(&self) -> Result<(), Error> {
        match (&self.named, self.all) {
            (Named::Service(service), false) => {
                let headline = format!("{service} is a service: which of its replicas is meant?");
                Err(Error::new(Exit::Usage, headline)
                    .hint(format!("one of them: {service}/REPLICA, see  gwctl get replicas {service}"))
                    .hint(format!("every one of them: {service} --all")))
            }
            (Named::Replica(target), true) => {
                let headline = format!("{target} is one replica, and --all means every one");
                Err(Error::new(Exit::Usage, headline).hint(format!("write  {} --all", target.service)))
            }
            (Named::Service(_), true) | (Named::Replica(_), false) => Ok(()),
        }
    }

    fn choose(&self, replicas: &[Replica]) -> Result<Chosen, Error> {
        let service = self.service().to_string();
        Ok(match &self.named {
            Named::Replica(target) => {
                let key = target.key(target.find(replicas)?)?;
                Chosen { service, replica_id: key.replica.to_string(), names: vec![key.to_string()] }
            }
            Named::Service(_) => Chosen {
                names: replicas.iter().map(|r| format!("{service}/{}", r.replica_id)).collect(),
                service,
                replica_id: EVERY.to_owned(),
            },
        })
    }

    /// A replica that is gone, by the override that is left of it.
    fn look_up_in(&self, overrides: &ListOverridesResponse) -> Option<Chosen> {
        let remembered = overrides.overrides.iter().filter(|entry| is_forced(entry));
        let remembered: Vec<_> = remembered
            .map(|entry| Replica { replica_id: entry.replica_id.clone(), ..Default::default() })
            .filter(|replica| replica.replica_id != EVERY)
            .collect();
        match &self.named {
            Named::Replica(_) => self.choose(&remembered).ok(),
            Named::Service(service) => overrides.overrides.iter().any(is_forced).then(|| Chosen {
                service: service.to_string(),
                replica_id: EVERY.to_owned(),
                names: Vec::new(),
            }),
        }
    }
}

/// What was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chosen {
    service: String,
    /// [`EVERY`] for all of them.
    replica_id: String,
    /// The replicas that it concerns now.
    names: Vec<String>,
}

impl Chosen {
    /// The beginning of a sentence: `orders/r-1: breaker`, `payments: 2 breakers`.
    fn subject(&self) -> String {
        let Self { service, replica_id, names } = self;
        match (replica_id.as_str(), names.len()) {
            (EVERY, 1) => format!("{service}: 1 breaker"),
            (EVERY, count) => format!("{service}: {count} breakers"),
            _ => format!("{service}/{replica_id}: breaker"),
        }
    }

    /// How it is named to `gwctl breaker`.
    fn as_typed(&self) -> String {
        match self.replica_id.as_str() {
            EVERY => format!("{} --all", self.service),
            replica => format!("{}/{replica}", self.service),
        }
    }

    /// Whether a breaker is forced under exactly these names.
    fn is_of(&self, entry: &OverrideEntry, node: &str) -> bool {
        is_forced(entry)
            && (entry.service.as_str(), entry.replica_id.as_str(), entry.node_id.as_str())
                == (self.service.as_str(), self.replica_id.as_str(), node)
    }

    /// Whether an override forces a breaker that is meant here, too.
    fn meets(&self, entry: &OverrideEntry) -> bool {
        let is_for_all = self.replica_id == EVERY || entry.replica_id == EVERY;
        is_forced(entry)
            && entry.service == self.service
            && (is_for_all || entry.replica_id == self.replica_id)
    }
}

fn is_forced(entry: &OverrideEntry) -> bool {
    matches!(entry.kind(), OverrideKind::BreakerOpen | OverrideKind::BreakerClosed)
}

fn forced(state: BreakerState) -> &'static str {
    match state {
        BreakerState::ForcedOpen => "forced OPEN",
        _ => "forced closed",
    }
}

fn told_of_force(
    chosen: &Chosen,
    state: BreakerState,
    ttl: Duration,
    entry: &OverrideEntry,
    rollout: Option<&Rollout>,
) -> String {
    let effect = match state {
        BreakerState::ForcedOpen => "no requests, no probes",
        _ => "outcomes count, nothing trips",
    };
    let node = match entry.node_id.as_str() {
        "" => String::new(),
        node => format!(" --node {node}"),
    };
    let text = format!(
        "{} {} for {} (until {}) {}: {effect}",
        chosen.subject(),
        forced(state),
        humantime::format_duration(ttl),
        age::time_of_day(entry.expire_time),
        reach(rollout),
    );
    let undo = format!("  undo: gwctl breaker auto {}{node}", chosen.as_typed());
    format!("{}\n{}\n", printable(&text), printable(&undo))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use gateway_proto::time::timestamp;

    use super::*;

    fn which(named: &str, all: bool) -> Which {
        let wait = Wait { longest: Duration::from_secs(5) };
        Which { named: named.parse().unwrap(), all, node: None, wait }
    }

    fn replicas() -> [Replica; 2] {
        ["r-11aa", "r-22bb"].map(|id| Replica { replica_id: id.into(), ..Default::default() })
    }

    fn entry(kind: OverrideKind, replica: &str, node: &str) -> OverrideEntry {
        OverrideEntry {
            override_id: format!("breaker/payments/{replica}"),
            service: "payments".into(),
            replica_id: replica.into(),
            node_id: node.into(),
            kind: kind.into(),
            expire_time: Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(51_442))),
            ..Default::default()
        }
    }

    fn both() -> Rollout {
        Rollout { node_count: 2, acked_node_count: 2, ..Default::default() }
    }

    #[test]
    fn a_service_without_all_and_a_replica_with_it_are_questions_back() {
        let error = which("payments", false).check().unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(error.headline, "payments is a service: which of its replicas is meant?");
        assert_eq!(error.hints[1], "every one of them: payments --all");
        let error = which("payments/r-1", true).check().unwrap_err();
        assert_eq!(error.hints, ["write  payments --all"]);
        assert!(which("payments/r-1", false).check().is_ok());
        assert!(which("payments", true).check().is_ok());
    }

    #[test]
    fn a_force_says_for_how_long_where_with_which_effect_and_how_to_undo_it() {
        let all = which("payments", true).choose(&replicas()).unwrap();
        let ttl = Duration::from_secs(900);
        let open = entry(OverrideKind::BreakerOpen, EVERY, "");
        assert_eq!(
            told_of_force(&all, BreakerState::ForcedOpen, ttl, &open, Some(&both())),
            "\
payments: 2 breakers forced OPEN for 15m (until 14:17:22Z) on 2/2 data planes: no requests, no probes
  undo: gwctl breaker auto payments --all
"
        );
        let one = which("payments/r-1", false).choose(&replicas()).unwrap();
        let closed = entry(OverrideKind::BreakerClosed, "r-11aa", "dp-1");
        assert_eq!(
            told_of_force(&one, BreakerState::ForcedClosed, ttl, &closed, None),
            "\
payments/r-11aa: breaker forced closed for 15m (until 14:17:22Z) on no data plane: none is connected: outcomes count, nothing trips
  undo: gwctl breaker auto payments/r-11aa --node dp-1
"
        );
    }

    #[test]
    fn what_else_forces_the_same_breakers_is_found() {
        let one = which("payments/r-1", false).choose(&replicas()).unwrap();
        assert!(one.is_of(&entry(OverrideKind::BreakerOpen, "r-11aa", ""), ""));
        for other in [
            entry(OverrideKind::BreakerOpen, "r-11aa", "dp-1"),
            entry(OverrideKind::BreakerClosed, EVERY, ""),
        ] {
            assert!(!one.is_of(&other, "") && one.meets(&other), "{other:?}");
        }
        for foreign in [
            entry(OverrideKind::BreakerOpen, "r-22bb", ""),
            entry(OverrideKind::GuardReleased, "", ""),
            OverrideEntry { service: "orders".into(), ..entry(OverrideKind::BreakerOpen, EVERY, "") },
        ] {
            assert!(!one.meets(&foreign), "{foreign:?}");
        }
    }

    #[test]
    fn what_is_forced_can_be_handed_back_when_its_replica_is_gone() {
        let overrides = ListOverridesResponse {
            overrides: vec![
                entry(OverrideKind::RegistrationBlocked, "r-9", ""),
                entry(OverrideKind::BreakerOpen, "r-77", ""),
            ],
            ..Default::default()
        };
        let found = |named, all| which(named, all).look_up_in(&overrides);
        assert_eq!(found("payments/r-7", false).unwrap().replica_id, "r-77");
        assert_eq!(found("payments", true).unwrap().replica_id, EVERY);
        assert_eq!(found("payments/r-9", false), None);
    }
}
