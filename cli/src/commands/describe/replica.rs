//! A replica, described: everything that is known of it, and what to do next.

use std::time::SystemTime;

use gateway_proto::{
    explain::concerns,
    json::to_json,
    v1::{
        Breaker, BreakerState, Event, ListBreakersResponse, Node, NodeState, OverrideEntry, Replica,
        ResolvePolicyResponse,
    },
};
use serde_json::json;

use super::{EVENT_LIMIT, NO_EVENTS, events_table, jsons, page::Page};
use crate::{
    age,
    commands::get::{self, attempts, retry, state_cell, window},
    control::{Control, Scope},
    error::Error,
    moves,
    output::{Format, Output},
    partial::{self, or_without},
    table::Table,
    target::Target,
};

mod checks;
pub(in crate::commands) mod facts;
mod next;

use facts::facts;
use next::next_steps;

/// Describes it.
///
/// # Errors
/// When it does not exist, and when replicas cannot be read.
pub(super) async fn run(target: &Target, control: &Control, output: &Output) -> Result<(), Error> {
    let replicas = control.replicas(Some(&target.service)).await?.replicas;
    let replica = target.find(&replicas)?;
    if output.format == Format::Name {
        return output.data(format_args!("{}/{}\n", replica.service, replica.replica_id));
    }
    let scope = Scope::from(replica);
    let mut missing = Vec::new();
    let overrides =
        or_without(control.overrides(&replica.service).await, "overrides", &mut missing).overrides;
    let breakers = or_without(control.breakers(&scope, true).await, "breakers", &mut missing);
    let mut nodes = or_without(control.nodes().await, "data planes", &mut missing).nodes;
    nodes.retain(|node| breakers.breakers.iter().any(|breaker| breaker.node_id == node.node_id));
    let about = About {
        breakers,
        nodes,
        overrides: overrides
            .into_iter()
            .filter(|entry| concerns(entry, &replica.service, &replica.replica_id))
            .collect(),
        policy: or_without(control.resolved_policy(&replica.service).await, "policy", &mut missing),
        events: or_without(control.events(&scope, "", EVENT_LIMIT).await, "events", &mut missing).events,
        missing,
    };
    match output.format {
        Format::Json => output.value(&about.to_json(replica)),
        _ => output.data(render(replica, &about, SystemTime::now())),
    }
}

/// What is known of a replica beside the registry's own entry.
#[derive(Debug, Clone, Default)]
struct About {
    breakers: ListBreakersResponse,
    /// Those that concern it, or every replica of its service.
    overrides: Vec<OverrideEntry>,
    policy: ResolvePolicyResponse,
    events: Vec<Event>,
    /// Data planes that have reported a breaker of it.
    nodes: Vec<Node>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

impl About {
    fn to_json(&self, replica: &Replica) -> serde_json::Value {
        json!({
            "replica": to_json(replica),
            "breakers": jsons(&self.breakers.breakers),
            "unreachableNodeIds": self.breakers.unreachable_node_ids,
            "silentControlPlanes": jsons(&self.breakers.silent_control_planes),
            "overrides": jsons(&self.overrides),
            "policy": to_json(&self.policy),
            "nodes": jsons(&self.nodes),
            "events": jsons(&self.events),
            "notShown": self.missing,
        })
    }
}

fn render(replica: &Replica, about: &About, now: SystemTime) -> String {
    let mut page = Page::of(facts(replica, about, now));
    let breakers = &about.breakers;
    let rows = breaker_table(&breakers.breakers, now);
    page.section("Breakers", rows, "no data plane has reported one yet");
    partial::notes(&breakers.silent_control_planes).for_each(|note| page.remark(&note));
    follows(&about.nodes, now).for_each(|note| page.remark(&note));
    for node in &breakers.unreachable_node_ids {
        page.remark(&format!("{node} has not reported lately: what it last said is shown"));
    }
    page.section_if_any("Health checks", checks::table(&breakers.breakers, now));
    page.section_if_any("Last errors, newest first", error_table(&breakers.breakers));
    page.section("Events, newest first", events_table(about.events.iter(), now), NO_EVENTS);
    page.ending(&about.missing, next_steps(replica, about))
}

/// Whose control plane lacks what others know, and who has come from another one lately.
fn follows(nodes: &[Node], now: SystemTime) -> impl Iterator<Item = String> {
    nodes.iter().flat_map(move |node| {
        let Node { node_id, control_plane, .. } = node;
        let lost = (node.state() == NodeState::Outdated).then(|| {
            format!("{node_id} follows {control_plane}, which has lost touch with its store: it may lack what has changed since")
        });
        let left = moves::lately(node.left.as_ref(), now)
            .map(|left| format!("{node_id} follows {control_plane}: it has left {left}"));
        lost.into_iter().chain(left)
    })
}

pub(super) fn breaker_table(breakers: &[Breaker], now: SystemTime) -> Table {
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
            why(breaker, now).into(),
        ]);
    }
    table
}

/// Why it is as it is. How it opened last is worth knowing also when it has closed since, as what is over.
fn why(breaker: &Breaker, now: SystemTime) -> String {
    match (breaker.state(), &breaker.last_trip) {
        (BreakerState::Closed, Some(trip)) => {
            format!("last opened {} ago: {}", age::since(now, trip.trip_time), trip.reason)
        }
        (BreakerState::HalfOpen, _) if !breaker.reason.is_empty() => breaker.reason.clone(),
        _ => get::why(breaker),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{
        time::{duration, timestamp},
        v1::{
            Drain, Endpoint, EventSeverity, HealthCheck, HealthCheckState, HealthCheckType, HealthStatus,
            Lease, ObservedHealth, OverrideKind, ReplicaMode, Trip,
        },
    };

    use super::*;

    fn at(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    fn replica() -> Replica {
        Replica {
            service: "orders".into(),
            replica_id: "r-c0fe".into(),
            endpoint: Some(Endpoint { address: "10.0.0.13:8080".into(), ..Default::default() }),
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

    fn plain(replica: &Replica, about: &About) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        anstream::adapter::strip_str(&render(replica, about, now)).to_string()
    }

    fn open() -> ListBreakersResponse {
        ListBreakersResponse {
            breakers: vec![open_breaker()],
            unreachable_node_ids: vec!["dp-2".into()],
            ..Default::default()
        }
    }

    #[test]
    fn a_data_plane_that_follows_a_control_plane_without_its_store_or_has_left_one_is_told() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let node = |id: &str, state: NodeState| Node {
            node_id: id.into(),
            control_plane: "10.0.0.1:7400".into(),
            state: state.into(),
            ..Default::default()
        };
        let left = gateway_proto::v1::LeftControlPlane {
            url: "http://10.0.0.2:7400".into(),
            reason: "outdated".into(),
            leave_time: at(880),
        };
        let nodes = [
            node("dp-1", NodeState::Outdated),
            Node { left: Some(left), ..node("dp-2", NodeState::Synced) },
            node("dp-3", NodeState::Synced),
        ];
        assert_eq!(
            follows(&nodes, now).collect::<Vec<_>>(),
            [
                "dp-1 follows 10.0.0.1:7400, which has lost touch with its store: it may lack what has changed since",
                "dp-2 follows 10.0.0.1:7400: it has left http://10.0.0.2:7400, 2m ago: it had lost touch with its store",
            ]
        );
    }

    #[test]
    fn why_a_closed_breaker_opened_last_is_told_as_what_is_over() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let trip = Trip { trip_time: at(700), reason: open_breaker().reason, ..Default::default() };
        let closed = Breaker { state: BreakerState::Closed.into(), last_trip: Some(trip), ..open_breaker() };
        assert_eq!(why(&closed, now), "last opened 5m ago: failure_ratio 0.62 >= 0.50 (31 of 50)");
        let forced = Breaker { state: BreakerState::ForcedOpen.into(), ..closed.clone() };
        assert_eq!(why(&forced, now), "an operator's word");
        assert_eq!(why(&Breaker { last_trip: None, ..closed }, now), age::NONE);
    }

    #[test]
    fn a_replica_that_is_out_shows_rule_numbers_history_and_what_to_do() {
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
        let origins =
            [("breaker.failure_ratio", "orders"), ("timeout.request", "*"), ("drain_timeout", "default")];
        let policy = ResolvePolicyResponse {
            origins: origins.map(|(path, from)| (path.to_owned(), from.to_owned())).into(),
            ..Default::default()
        };
        let about = About { breakers: open(), policy, events: vec![event], ..Default::default() };
        assert_eq!(
            plain(&replica(), &about),
            "\
Replica       orders/r-c0fe
Address       10.0.0.13:8080   weight 100
Health        UNHEALTHY for 16s: disk full
Mode          serving
Lease         ttl 30s, renewed 2s ago, expires in 28s
Registered    10m ago   incarnation 3
Version       2026.11.3
Labels        env=\\u{1b}[31mprod team=checkout
Policy        breaker.failure_ratio from orders, timeout.request from *, the rest by default

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
  gwctl breaker reset orders/r-c0fe         try it again now
  gwctl drain orders/r-c0fe                 stop sending it requests
  gwctl events -w --replica orders/r-c0fe   watch what happens to it
  gwctl deregister orders/r-c0fe            remove it for good
"
        );
    }

    #[test]
    fn what_active_checks_show_is_told_for_each_data_plane() {
        let check = HealthCheck {
            r#type: HealthCheckType::Http.into(),
            state: HealthCheckState::Failing.into(),
            state_change_time: at(984),
            keeps_out: true,
            last_check_time: at(998),
            last_failure: "status 503, expected 200..=399".into(),
            streak_count: 4,
            next_check_time: at(1003),
            ..Default::default()
        };
        let passing = HealthCheck {
            state: HealthCheckState::Passing.into(),
            keeps_out: false,
            last_failure: String::new(),
            streak_count: 200,
            next_check_time: at(999),
            ..check.clone()
        };
        let breakers = vec![
            Breaker { node_id: "dp-1".into(), health_check: Some(check), ..Default::default() },
            Breaker { node_id: "dp-2".into(), health_check: Some(passing), ..Default::default() },
        ];
        let about =
            About { breakers: ListBreakersResponse { breakers, ..Default::default() }, ..Default::default() };
        let text = plain(&replica(), &about);
        let table = "\
Health checks
  NODE   TYPE   STATE     SINCE   LAST   NEXT   EFFECT            RESULT
  dp-1   http   FAILING   16s     2s     3s     no new requests   status 503, expected 200..=399 (4 in a row)
  dp-2   http   passing   16s     2s     -      -                 passed
";
        assert!(text.contains(table), "{text}");
    }

    #[test]
    fn a_replica_that_is_about_to_be_evicted_shows_when_and_one_that_is_held_shows_why() {
        let with = |eviction_time, held: &str| {
            let eviction_held_reason = held.to_owned();
            let observed =
                ObservedHealth { node_count: 1, eviction_time, eviction_held_reason, ..Default::default() };
            plain(&Replica { observed: Some(observed), ..replica() }, &About::default())
        };
        let soon = with(at(1300), "");
        assert!(soon.contains("\nEviction      in 5m, unless its health checks pass somewhere\n"), "{soon}");
        let held = with(at(970), "no other replica of the service passes");
        let line = "\nEviction      due since 30s, HELD: no other replica of the service passes\n";
        assert!(held.contains(line), "{held}");
        assert!(!with(None, "").contains("Eviction"));
    }

    #[test]
    fn a_lost_replica_that_somebody_drains_and_forces_shows_all_of_that() {
        let lost = Replica {
            health: HealthStatus::Lost.into(),
            reported_health: HealthStatus::Healthy.into(),
            state_reason: "9 of 10 leases lapsed together".into(),
            mode: ReplicaMode::Draining.into(),
            drain: Some(Drain {
                begin_time: at(980),
                deadline_time: at(1027),
                reason: "kernel update".into(),
                author: "ana".into(),
                ..Default::default()
            }),
            observed: Some(ObservedHealth {
                node_count: 2,
                open_node_count: 1,
                attempt_count: 1204,
                failure_count: 44,
                inflight_count: 3,
                inflight_limit: 50,
                pending_count: 7,
                ..Default::default()
            }),
            priority: 1,
            ..replica()
        };
        let forced = OverrideEntry {
            override_id: "breaker/orders/r-c0fe".into(),
            service: "orders".into(),
            replica_id: "r-c0fe".into(),
            kind: OverrideKind::BreakerOpen.into(),
            expire_time: at(1660),
            author: "ana".into(),
            reason: "bad deploy".into(),
            ..Default::default()
        };
        let text = plain(&lost, &About { overrides: vec![forced], ..Default::default() });
        for line in [
            "Address       10.0.0.13:8080   weight 100   priority 1",
            "Health        LOST for 16s: 9 of 10 leases lapsed together; it reported itself healthy before",
            "Mode          DRAINING for 20s by ana, what is in flight is cut in 27s: \"kernel update\"",
            "Observed      3 of 50 in flight (7 of the service's wait), 1204 attempts since data planes started, 44 failed, breaker not closed on 1 of 2 data planes",
            "Override      orders/r-c0fe: breaker OPEN (ana, 11m left: \"bad deploy\")",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n\n{text}");
        }
        for (command, why) in [
            ("gwctl release-guard orders", "let it and the other lost ones go, if they are gone"),
            ("gwctl drain orders/r-c0fe --wait 1m", "follow its drain"),
            ("gwctl undrain orders/r-c0fe", "return it to service"),
            ("gwctl end-override breaker/orders/r-c0fe", "hand it back to the rules"),
        ] {
            let is_it = |line: &str| line.trim_start().starts_with(command) && line.ends_with(why);
            assert!(text.lines().any(is_it), "{command}\n\n{text}");
        }
    }

    #[test]
    fn sections_without_rows_say_so() {
        let permanent = Replica {
            lease: Some(Lease { permanent: true, ..Default::default() }),
            health: HealthStatus::Healthy.into(),
            state_reason: String::new(),
            ..replica()
        };
        let text = plain(&permanent, &About::default());
        assert!(text.contains("Health        HEALTHY for 16s\n"), "{text}");
        assert!(text.contains("Lease         permanent: no heartbeats are expected\n"), "{text}");
        assert!(text.contains("Policy        the defaults\n"), "{text}");
        assert!(text.contains("\nBreakers\n  no data plane has reported one yet\n"), "{text}");
        assert!(text.contains("\nEvents, newest first\n  none since the control plane started\n"), "{text}");
        assert!(!text.contains("Last errors"), "{text}");
    }

    #[test]
    fn overrides_of_other_replicas_are_not_shown() {
        let entry = |service: &str, replica: &str| OverrideEntry {
            service: service.into(),
            replica_id: replica.into(),
            ..Default::default()
        };
        for shown in [entry("orders", "r-c0fe"), entry("orders", "-"), entry("orders", "")] {
            assert!(concerns(&shown, "orders", "r-c0fe"), "{shown:?}");
        }
        assert!(!concerns(&entry("orders", "r-1"), "orders", "r-c0fe"));
        assert!(!concerns(&entry("payments", "-"), "orders", "r-c0fe"));
    }
}
