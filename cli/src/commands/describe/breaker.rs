//! A replica's breaker, described: its rules, by which it opened and with which numbers, and what it counts.

use std::time::SystemTime;

use gateway_proto::{
    NodeId,
    explain::concerns,
    json::to_json,
    v1::{Breaker, BreakerPolicy, BreakerState, Event, ListBreakersResponse, OverrideEntry, Replica},
};
use serde_json::json;

use super::{EVENT_LIMIT, NO_EVENTS, events_table, jsons, page::Page, replica::breaker_table, steps};
use crate::{
    age,
    commands::{
        explain::{failures, rules, trip_table},
        get::{override_subject, override_terms, retry, spoken, why},
    },
    control::{Control, Scope},
    error::{Error, Exit},
    output::{Format, Output},
    partial::{self, or_without},
    target::Target,
};

/// What is known of a breaker.
#[derive(Debug, Clone, Default)]
struct About {
    replica: Replica,
    /// Over all data planes; `None`: none has reported it.
    merged: Option<Breaker>,
    /// A row for each data plane, or for the one that was asked for.
    rows: ListBreakersResponse,
    rules: Option<BreakerPolicy>,
    overrides: Vec<OverrideEntry>,
    events: Vec<Event>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

pub(super) async fn run(
    target: &Target,
    node: Option<&NodeId>,
    control: &Control,
    output: &Output,
) -> Result<(), Error> {
    let replicas = control.replicas(Some(&target.service)).await?.replicas;
    let replica = target.find(&replicas)?.clone();
    let scope = Scope::from(&replica);
    let mut rows = control.breakers(&scope, true).await?;
    if let Some(node) = node {
        rows.breakers.retain(|row| row.node_id == node.as_str());
        if rows.breakers.is_empty() {
            let why = format!("data plane {node} has reported no breaker of {}", key(&replica));
            return Err(Error::new(Exit::NotFound, why).hint("gwctl get nodes"));
        }
    }
    if output.format == Format::Name {
        return output.data(format_args!("{}\n", key(&replica)));
    }
    let mut missing = Vec::new();
    let merged = control.breakers(&scope, false).await.map(|listed| listed.breakers.into_iter().next());
    let policy = control.resolved_policy(&replica.service).await.map(|resolved| resolved.policy);
    let overrides =
        or_without(control.overrides(&replica.service).await, "overrides", &mut missing).overrides;
    let about_it = |entry: &OverrideEntry| concerns(entry, &replica.service, &replica.replica_id);
    let events = control.events(&scope, "event_type = BREAKER_*", EVENT_LIMIT).await;
    let about = About {
        merged: or_without(merged, "the sum over data planes", &mut missing),
        rows,
        rules: or_without(policy, "rules", &mut missing).and_then(|policy| policy.breaker),
        overrides: overrides.into_iter().filter(about_it).collect(),
        events: or_without(events, "events", &mut missing).events,
        missing,
        replica,
    };
    match output.format {
        Format::Json => output.value(&about.to_json()),
        _ => output.data(render(&about, SystemTime::now())),
    }
}

fn key(replica: &Replica) -> String {
    format!("{}/{}", replica.service, replica.replica_id)
}

impl About {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "breaker": self.merged.as_ref().map(to_json),
            "breakers": jsons(&self.rows.breakers),
            "unreachableNodeIds": self.rows.unreachable_node_ids,
            "silentControlPlanes": jsons(&self.rows.silent_control_planes),
            "rules": self.rules.as_ref().map(to_json),
            "overrides": jsons(&self.overrides),
            "events": jsons(&self.events),
            "notShown": self.missing,
        })
    }
}

fn render(about: &About, now: SystemTime) -> String {
    let mut page = Page::of(facts(about, now));
    let rows = &about.rows.breakers;
    page.section("Data planes", breaker_table(rows, now), "none has reported it yet");
    partial::notes(&about.rows.silent_control_planes).for_each(|note| page.remark(&note));
    for node in &about.rows.unreachable_node_ids {
        page.remark(&format!("{node} has not reported lately: what it last said is shown"));
    }
    let trips = |row: &Breaker| {
        let (node, trips) = (row.node_id.clone(), [row.last_trip.clone(), row.last_failed_probe.clone()]);
        trips.into_iter().flatten().map(move |trip| (node.clone(), trip))
    };
    page.section_if_any("Opened last by", trip_table(rows.iter().flat_map(trips), now));
    let withheld = |row: &Breaker| Some((row.node_id.clone(), row.last_withheld_trip.clone()?));
    page.section_if_any("Would have opened by", trip_table(rows.iter().filter_map(withheld), now));
    page.section_if_any(
        "Last failures, newest first",
        failures(rows.iter().map(|row| (row.node_id.as_str(), row)), now),
    );
    page.section("Events, newest first", events_table(about.events.iter(), now), NO_EVENTS);
    let (name, service) = (key(&about.replica), &about.replica.service);
    let is_open = rows.iter().any(|row| row.state() != BreakerState::Closed);
    let mut next = steps([(format!("gwctl explain {name}"), "whether the replica or the way to it is bad")]);
    let mut step = |command: String, why: &str| next.push(vec![command.into(), why.into()]);
    for entry in &about.overrides {
        step(format!("gwctl end-override {}", entry.override_id), "hand it back to its rules");
    }
    if is_open {
        step(format!("gwctl breaker reset {name}"), "try it again now");
    }
    step(format!("gwctl policy what-if {service} breaker.SETTING=VALUE"), "what other rules would have done");
    page.ending(&about.missing, next)
}

fn facts(about: &About, now: SystemTime) -> Vec<(&'static str, String)> {
    let mut facts = vec![("Breaker", key(&about.replica))];
    facts.extend(about.replica.endpoint.as_ref().map(|endpoint| ("Address", spoken(endpoint))));
    if let Some(merged) = &about.merged {
        facts.push(("State", state(merged, now)));
        if merged.state() == BreakerState::Open {
            facts.push(("Next probe", retry(merged, now)));
        }
        if merged.state() != BreakerState::Closed {
            facts.push(("Why", why(merged)));
        }
        // Its breaker lets requests through, and it gets none all the same.
        if let Some(check) = merged.health_check.as_ref().filter(|check| check.keeps_out) {
            facts.push(("Kept out", format!("by its active checks: {}", check.last_failure)));
        }
    }
    facts.extend(about.rules.as_ref().map(|policy| ("Rules", rules(policy))));
    for entry in &about.overrides {
        facts.push(("Override", format!("{} ({})", override_subject(entry), override_terms(entry, now))));
    }
    facts
}

/// `OPEN for 16s on 1 of 2 data planes`, `closed on all 3 data planes`.
fn state(merged: &Breaker, now: SystemTime) -> String {
    let word = crate::commands::get::state_cell(merged.state()).text().to_owned();
    let Breaker { open_node_count: open, node_count: all, .. } = merged;
    let planes = |count: i32| if count == 1 { "data plane" } else { "data planes" };
    match open {
        0 if *all == 1 => format!("{word} on its only data plane"),
        0 => format!("{word} on all {all} data planes"),
        open => format!(
            "{word} for {}, not closed on {open} of {all} {}",
            age::since(now, merged.state_change_time),
            planes(*all)
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{
        Policy,
        time::{duration, timestamp},
        v1::{BreakerRule, Endpoint, FailedAttempt, HealthCheck, Trip},
    };

    use super::*;

    fn at(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    fn plain(about: &About) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        anstream::adapter::strip_str(&render(about, now)).to_string()
    }

    #[test]
    fn an_open_one_shows_its_rules_the_numbers_that_opened_it_and_which_requests_failed() {
        let row = Breaker {
            node_id: "dp-1".into(),
            state: BreakerState::Open.into(),
            state_change_time: at(984),
            retry_time: at(1004),
            reason: "failure_ratio 0.62 >= 0.50 (31 of 50)".into(),
            trip_count: 3,
            last_trip: Some(Trip {
                trip_time: at(984),
                rule: BreakerRule::FailureRatio.into(),
                observed: 0.62,
                threshold: 0.5,
                sample_count: 50,
                open_time: Some(duration(Duration::from_secs(20))),
                generation: 5,
                ..Default::default()
            }),
            last_failures: vec![FailedAttempt {
                failure_time: at(983),
                error: "connect refused".into(),
                request_id: "0198f2c4".into(),
            }],
            ..Default::default()
        };
        let about = About {
            replica: Replica {
                service: "orders".into(),
                replica_id: "r-1".into(),
                endpoint: Some(Endpoint { address: "10.0.0.13:8080".into(), ..Default::default() }),
                ..Default::default()
            },
            merged: Some(Breaker {
                node_id: String::new(),
                open_node_count: 1,
                node_count: 2,
                ..row.clone()
            }),
            rows: ListBreakersResponse { breakers: vec![row], ..Default::default() },
            rules: Policy::default().to_wire().breaker,
            ..About::default()
        };
        assert_eq!(
            plain(&about),
            "\
Breaker       orders/r-1
Address       10.0.0.13:8080
State         OPEN for 16s, not closed on 1 of 2 data planes
Next probe    4s
Why           failure_ratio 0.62 >= 0.50 (31 of 50)
Rules         opens after 5 failures in a row, or 0.50 of 20 or more in 10s; rests 1s to 1m, 2 good probes close it, more after a ratio

Data planes
  NODE   STATE   SINCE   RETRY   WINDOW            ATTEMPTS      TRIPS   WHY
  dp-1   OPEN    16s     4s      0 req, 0 failed   0, 0 failed   3       failure_ratio 0.62 >= 0.50 (31 of 50)

Opened last by
  NODE   RULE            OBSERVED   THRESHOLD   OUTCOMES   WHEN      RESTS FOR   GENERATION
  dp-1   failure_ratio   0.62       0.50        50         16s ago   20.0s       5

Last failures, newest first
  dp-1   17s ago   connect refused   x-request-id 0198f2c4

Events, newest first
  none since the control plane started

Next
  gwctl explain orders/r-1                            whether the replica or the way to it is bad
  gwctl breaker reset orders/r-1                      try it again now
  gwctl policy what-if orders breaker.SETTING=VALUE   what other rules would have done
"
        );
    }

    #[test]
    fn a_closed_one_says_on_how_many_data_planes_and_whether_checks_keep_it_out() {
        let check =
            HealthCheck { keeps_out: true, last_failure: "connect refused".into(), ..Default::default() };
        let merged = Breaker {
            state: BreakerState::Closed.into(),
            node_count: 3,
            health_check: Some(check),
            ..Default::default()
        };
        let only = Breaker { node_count: 1, health_check: None, ..merged.clone() };
        assert_eq!(state(&only, SystemTime::UNIX_EPOCH), "closed on its only data plane");
        let text = plain(&About { merged: Some(merged), ..About::default() });
        assert!(text.contains("\nKept out      by its active checks: connect refused\n"), "{text}");
        assert!(text.contains("\nState         closed on all 3 data planes\n"), "{text}");
        assert!(!text.contains("\nWhy ") && !text.contains("breaker reset"), "{text}");
        let text = plain(&About::default());
        assert!(text.contains("\nData planes\n  none has reported it yet\n"), "{text}");
    }
}
