//! `gwctl describe replica`: everything that is known of one replica, and what to do next.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use gateway_proto::{
    Health,
    json::to_json,
    v1::{Breaker, BreakerState, Event, ListBreakersResponse, Replica},
};
use serde_json::json;

use super::{
    events::{self, When},
    get::{attempts, retry, state_cell, window},
};
use crate::{
    age::{self, NONE},
    control::{Control, Scope},
    error::Error,
    output::{Format, Output},
    table::{Cell, Table},
    target::Target,
    terminal::printable,
};

/// Events shown of one replica.
const EVENT_LIMIT: usize = 10;

/// What to describe.
#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Lease, health, breakers on each data plane, last errors and events of one replica
    #[command(visible_aliases = ["replicas", "rep", "r"])]
    Replica {
        /// The replica; a unique beginning of its id is enough
        #[arg(value_name = "SERVICE/REPLICA")]
        target: Target,
    },
}

/// Describes what was asked for.
///
/// # Errors
/// When it does not exist, and what the control plane refuses.
pub(crate) async fn run(noun: Noun, control: &Control, output: &Output) -> Result<(), Error> {
    let Noun::Replica { target } = noun;
    let replicas = control.replicas(Some(&target.service)).await?.replicas;
    let replica = target.find(&replicas)?;
    let scope = Scope::from(replica);
    let breakers = control.breakers(&scope, true).await?;
    let events = control.events(&scope, EVENT_LIMIT).await?.events;
    match output.format {
        Format::Json => output.data(format_args!(
            "{:#}\n",
            json!({
                "replica": to_json(replica),
                "breakers": breakers.breakers.iter().map(to_json).collect::<Vec<_>>(),
                "unreachableNodeIds": breakers.unreachable_node_ids,
                "events": events.iter().map(to_json).collect::<Vec<_>>(),
            })
        )),
        Format::Name => output.data(format_args!("{}/{}\n", replica.service, replica.replica_id)),
        Format::Table | Format::Wide => output.data(render(replica, &breakers, &events, SystemTime::now())),
    }
}

fn render(replica: &Replica, breakers: &ListBreakersResponse, events: &[Event], now: SystemTime) -> String {
    let mut text = String::new();
    for (name, value) in facts(replica, now) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<14}{}", printable(&value));
    }
    section(
        &mut text,
        "Breakers",
        breaker_table(&breakers.breakers, now),
        "no data plane has reported one yet",
    );
    for node in &breakers.unreachable_node_ids {
        let _ = writeln!(text, "  {} has not reported lately: what it last said is shown", printable(node));
    }
    let errors = error_table(&breakers.breakers);
    if !errors.is_empty() {
        section(&mut text, "Last errors, newest first", errors, "");
    }
    let events = events::table(events.iter(), When::Ago(now)).with_headings(false);
    section(&mut text, "Events, newest first", events, "none since the control plane started");
    text.push_str("\nNext\n");
    text.push_str(&next_steps(replica, &breakers.breakers).to_string());
    text
}

fn section(text: &mut String, title: &str, table: Table, when_empty: &str) {
    let _ = writeln!(text, "\n{title}");
    if table.is_empty() {
        let _ = writeln!(text, "  {when_empty}");
    }
    let _ = write!(text, "{}", table.indented(2));
}

fn facts(replica: &Replica, now: SystemTime) -> Vec<(&'static str, String)> {
    let address = replica.endpoint.as_ref().map_or(NONE, |endpoint| &endpoint.address);
    let mut facts = vec![
        ("Replica", format!("{}/{}", replica.service, replica.replica_id)),
        ("Address", format!("{address}   weight {}", replica.weight)),
        ("Health", health(replica, now)),
        ("Lease", lease(replica, now)),
        (
            "Registered",
            format!("{} ago   incarnation {}", age::since(now, replica.create_time), replica.incarnation),
        ),
    ];
    if !replica.version.is_empty() {
        facts.push(("Version", replica.version.clone()));
    }
    if !replica.labels.is_empty() {
        let mut pairs: Vec<_> = replica.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.sort_unstable();
        facts.push(("Labels", pairs.join(" ")));
    }
    facts
}

fn health(replica: &Replica, now: SystemTime) -> String {
    let name = match Health::parse(replica.health) {
        Ok(Some(health)) => health.to_string().to_uppercase(),
        Ok(None) | Err(_) => "UNKNOWN".into(),
    };
    let mut text = format!("{name} for {}", age::since(now, replica.state_change_time));
    if !replica.state_reason.is_empty() {
        text = format!("{text}: {}", replica.state_reason);
    }
    text
}

fn lease(replica: &Replica, now: SystemTime) -> String {
    match &replica.lease {
        None => NONE.into(),
        Some(lease) if lease.permanent => "permanent: no heartbeats are expected".into(),
        Some(lease) => {
            let ttl = lease.ttl.and_then(|ttl| Duration::try_from(ttl).ok()).unwrap_or_default();
            format!(
                "ttl {}, renewed {} ago, expires in {}",
                age::short(ttl),
                age::since(now, lease.last_renew_time),
                age::until(now, lease.expire_time)
            )
        }
    }
}

fn breaker_table(breakers: &[Breaker], now: SystemTime) -> Table {
    let mut table = Table::new(["NODE", "STATE", "SINCE", "RETRY", "WINDOW", "ATTEMPTS", "TRIPS", "WHY"]);
    for breaker in breakers {
        table.push(vec![
            (&breaker.node_id).into(),
            state_cell(breaker.state()),
            age::since(now, breaker.state_change_time).into(),
            retry(breaker, now).into(),
            window(breaker).into(),
            attempts(breaker).into(),
            breaker.trip_count.to_string().into(),
            why(breaker),
        ]);
    }
    table
}

/// The last trip's reason is worth knowing also when the breaker has closed since.
fn why(breaker: &Breaker) -> Cell {
    match breaker.state() {
        _ if breaker.reason.is_empty() => NONE.into(),
        BreakerState::Closed => format!("last: {}", breaker.reason).into(),
        _ => (&breaker.reason).into(),
    }
}

fn error_table(breakers: &[Breaker]) -> Table {
    let mut table = Table::new(["NODE", "ERRORS"]).with_headings(false);
    for breaker in breakers.iter().filter(|breaker| !breaker.last_errors.is_empty()) {
        table.push(vec![(&breaker.node_id).into(), folded(&breaker.last_errors).into()]);
    }
    table
}

/// `connect refused (x3), 503 from replica`: runs of the same error are written once.
fn folded(errors: &[String]) -> String {
    let runs = errors.chunk_by(|one, next| one == next).map(|run| match run {
        [one] => one.clone(),
        _ => format!("{} (x{})", run[0], run.len()),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// Commands for the next question, most pressing first.
fn next_steps(replica: &Replica, breakers: &[Breaker]) -> Table {
    let Replica { service, replica_id, .. } = replica;
    let mut table = Table::new(["COMMAND", "WHY"]).with_headings(false).indented(2);
    let mut step = |command: String, why: &str| table.push(vec![command.into(), why.into()]);
    if breakers.iter().any(|breaker| breaker.state() != BreakerState::Closed) {
        step(format!("gwctl get replicas {service}"), "who takes its share meanwhile");
    }
    step(format!("gwctl events -w --replica {service}/{replica_id}"), "watch what happens to it");
    step(format!("gwctl deregister {service}/{replica_id}"), "remove it for good");
    table
}

#[cfg(test)]
mod tests {
    use gateway_proto::{
        time::{duration, timestamp},
        v1::{Endpoint, EventSeverity, HealthStatus, Lease},
    };

    use super::*;

    fn at(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    fn replica() -> Replica {
        Replica {
            service: "orders".into(),
            replica_id: "r-c0fe".into(),
            endpoint: Some(Endpoint { address: "10.0.0.13:8080".into() }),
            weight: 100,
            version: "2026.11.3".into(),
            labels: [("team", "checkout"), ("env", "\x1b[31mprod")].map(|(k, v)| (k.into(), v.into())).into(),
            health: HealthStatus::Unhealthy.into(),
            state_change_time: at(984),
            state_reason: "disk full".into(),
            lease: Some(Lease {
                ttl: Some(duration(Duration::from_secs(30))),
                expire_time: at(1028),
                last_renew_time: at(998),
                permanent: false,
            }),
            incarnation: 3,
            create_time: at(1000 - 600),
            ..Default::default()
        }
    }

    fn open_breaker() -> Breaker {
        Breaker {
            node_id: "dp-1".into(),
            state: BreakerState::Open.into(),
            state_change_time: at(984),
            retry_time: at(1004),
            reason: "failure_ratio 0.62 >= 0.50 (31 of 50)".into(),
            window_request_count: 50,
            window_failure_count: 31,
            attempt_count: 1204,
            failure_count: 44,
            trip_count: 3,
            last_errors: ["503 from replica", "503 from replica", "connect refused"].map(Into::into).into(),
            ..Default::default()
        }
    }

    fn plain(replica: &Replica, breakers: &ListBreakersResponse, events: &[Event]) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        anstream::adapter::strip_str(&render(replica, breakers, events, now)).to_string()
    }

    #[test]
    fn a_replica_that_is_out_shows_rule_numbers_history_and_what_to_do() {
        let breakers = ListBreakersResponse {
            breakers: vec![open_breaker()],
            unreachable_node_ids: vec!["dp-2".into()],
            ..Default::default()
        };
        let event = Event {
            event_time: at(984),
            severity: EventSeverity::Warning.into(),
            event_type: "BREAKER_OPENED".into(),
            service: "orders".into(),
            replica_id: "r-c0fe".into(),
            node_id: "dp-1".into(),
            message: "failure_ratio 0.62 >= 0.50 (31 of 50)".into(),
            ..Default::default()
        };
        assert_eq!(
            plain(&replica(), &breakers, &[event]),
            "\
Replica       orders/r-c0fe
Address       10.0.0.13:8080   weight 100
Health        UNHEALTHY for 16s: disk full
Lease         ttl 30s, renewed 2s ago, expires in 28s
Registered    10m ago   incarnation 3
Version       2026.11.3
Labels        env=\\u{1b}[31mprod team=checkout

Breakers
  NODE   STATE   SINCE   RETRY   WINDOW              ATTEMPTS          TRIPS   WHY
  dp-1   OPEN    16s     4s      50 req, 31 failed   1204, 44 failed   3       failure_ratio 0.62 >= 0.50 (31 of 50)
  dp-2 has not reported lately: what it last said is shown

Last errors, newest first
  dp-1   503 from replica (x2), connect refused

Events, newest first
  16s ago   warn   BREAKER_OPENED   orders/r-c0fe   dp-1   failure_ratio 0.62 >= 0.50 (31 of 50)

Next
  gwctl get replicas orders                 who takes its share meanwhile
  gwctl events -w --replica orders/r-c0fe   watch what happens to it
  gwctl deregister orders/r-c0fe            remove it for good
"
        );
    }

    #[test]
    fn sections_without_rows_say_so() {
        let permanent = Replica {
            lease: Some(Lease { permanent: true, ..Default::default() }),
            health: HealthStatus::Healthy.into(),
            state_reason: String::new(),
            ..replica()
        };
        let text = plain(&permanent, &ListBreakersResponse::default(), &[]);
        assert!(text.contains("Health        HEALTHY for 16s\n"), "{text}");
        assert!(text.contains("Lease         permanent: no heartbeats are expected\n"), "{text}");
        assert!(text.contains("\nBreakers\n  no data plane has reported one yet\n"), "{text}");
        assert!(text.contains("\nEvents, newest first\n  none since the control plane started\n"), "{text}");
        assert!(!text.contains("Last errors"), "{text}");
    }
}
