//! A data plane, described: how far it has come, what it refuses or holds, its breakers that are not closed, and its events.

use std::time::SystemTime;

use gateway_proto::{
    NodeId,
    json::to_json,
    nearest::nearest,
    v1::{Breaker, BreakerState, Event, ListNodesResponse, Node},
};
use serde_json::json;

use super::{EVENT_LIMIT, NO_EVENTS, events_table, jsons, page::Page, steps};
use crate::{
    age::{self, NONE, or_none},
    commands::get::{late, node_state_cell, outdated, retry, state_cell, why, window},
    control::{Control, Scope, quoted},
    error::{Error, Exit},
    moves,
    output::{Format, Output},
    partial::{self, or_without},
    table::Table,
};

/// Breakers that have a row.
const MAX_BREAKERS: usize = 20;

/// What is known of a data plane.
#[derive(Debug, Clone, Default)]
struct About {
    node: Node,
    /// The list that it is from, for what that says of the whole.
    listed: ListNodesResponse,
    /// Its own, in every state.
    breakers: Vec<Breaker>,
    events: Vec<Event>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

pub(super) async fn run(id: &NodeId, control: &Control, output: &Output) -> Result<(), Error> {
    let listed = control.nodes().await?;
    let Some(node) = listed.nodes.iter().find(|node| node.node_id == id.as_str()).cloned() else {
        return Err(unknown(id, &listed.nodes));
    };
    if output.format == Format::Name {
        return output.data(format_args!("{id}\n"));
    }
    let filter = format!("node_id = {}", quoted(id.as_str()));
    let everybody = Scope::default();
    let mut missing = Vec::new();
    let breakers = control.breakers_of(&everybody, true, &filter).await;
    let mut breakers = or_without(breakers, "breakers", &mut missing).breakers;
    // An older control plane knows no filter of breakers.
    breakers.retain(|row| row.node_id == id.as_str());
    let events = control.events(&everybody, &filter, EVENT_LIMIT).await;
    let events = or_without(events, "events", &mut missing).events;
    let about = About { node, listed, breakers, events, missing };
    match output.format {
        Format::Json => output.value(&about.to_json()),
        _ => output.data(render(&about, SystemTime::now())),
    }
}

fn unknown(id: &NodeId, nodes: &[Node]) -> Error {
    let mut error = Error::new(Exit::NotFound, format!("no data plane \"{id}\" is known"));
    let meant = nearest(id.as_str(), nodes.iter().map(|node| node.node_id.as_str()));
    error.hints.extend(meant.map(|id| format!("did you mean \"{id}\"?")));
    error.hint("gwctl get nodes")
}

impl About {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "node": to_json(&self.node),
            "revision": self.listed.revision.to_string(),
            "silentControlPlanes": jsons(&self.listed.silent_control_planes),
            "breakers": jsons(&self.breakers),
            "events": jsons(&self.events),
            "notShown": self.missing,
        })
    }
}

fn render(about: &About, now: SystemTime) -> String {
    let mut page = Page::of(facts(about, now));
    let open: Vec<_> =
        about.breakers.iter().filter(|breaker| breaker.state() != BreakerState::Closed).collect();
    let closed = about.breakers.len() - open.len();
    let when_empty = match about.breakers.len() {
        0 => "it has reported none yet".to_owned(),
        1 => "its only breaker is closed".to_owned(),
        all => format!("all {all} are closed"),
    };
    page.section("Breakers that are not closed", breaker_table(&open, now), &when_empty);
    if open.len() > MAX_BREAKERS {
        page.remark(&format!("... and {} more (gwctl get breakers --per-node)", open.len() - MAX_BREAKERS));
    }
    if !open.is_empty() && closed > 0 {
        page.remark(&format!("... {closed} closed"));
    }
    page.section("Events, newest first", events_table(about.events.iter(), now), NO_EVENTS);
    let id = &about.node.node_id;
    let next = steps([
        ("gwctl check".to_owned(), "whether all is as it should be"),
        ("gwctl get nodes -w".to_owned(), "watch how far each has come"),
        (format!("gwctl events -w --filter 'node_id = {id}'"), "watch what happens on it"),
    ]);
    page.ending(&about.missing, next)
}

fn facts(about: &About, now: SystemTime) -> Vec<(&'static str, String)> {
    let About { node, listed, .. } = about;
    let mut facts = vec![
        ("Data plane", node.node_id.clone()),
        ("State", node_state_cell(node.state()).text().to_owned()),
        ("Revision", revision(node, listed.revision)),
    ];
    if let Some(nack) = &node.nack {
        facts.push((
            "Refuses",
            format!("revision {}: {} ({})", node.sent_revision, nack.message, nack.reason),
        ));
    }
    facts.extend([
        ("Connected", format!("{} ago, from {}", age::since(now, node.connect_time), or_none(&node.address))),
        (
            "Reported",
            node.last_report_time.map_or(NONE.into(), |at| format!("{} ago", age::since(now, Some(at)))),
        ),
        ("Version", or_none(&node.version).to_owned()),
    ]);
    if !node.control_plane.is_empty() {
        facts.push(("Follows", format!("the control plane at {}", node.control_plane)));
    }
    facts.extend(node.left.as_ref().map(|left| ("Has left", moves::words(left, now))));
    if node.held_replica_count > 0 {
        let held = node.held_replica_count;
        facts.push((
            "Holds",
            format!("{held} replicas that the registry no longer has (its guard against mass removal)"),
        ));
    }
    facts.extend(late(node).map(|late| {
        let late = age::short(late);
        let why = "more replicas than --health-check-rate is enough for, or checks that hang";
        ("Checks", format!("begin {late} late: {why}"))
    }));
    let alone = ListNodesResponse { nodes: vec![node.clone()], ..listed.clone() };
    facts.extend(outdated(&alone).map(|why| ("Outdated", why)));
    facts.extend(partial::notes(&listed.silent_control_planes).map(|note| ("Silent", note)));
    facts
}

/// `12 of 12`, `9 of 12: 3 behind`.
fn revision(node: &Node, head: i64) -> String {
    match head - node.acked_revision {
        ..=0 => format!("{} of {head}", node.acked_revision),
        behind => format!("{} of {head}: {behind} behind", node.acked_revision),
    }
}

fn breaker_table(breakers: &[&Breaker], now: SystemTime) -> Table {
    let mut table = Table::new(["SERVICE", "REPLICA", "STATE", "SINCE", "RETRY", "WINDOW", "TRIPS", "WHY"]);
    for breaker in breakers.iter().take(MAX_BREAKERS) {
        table.push(vec![
            (&breaker.service).into(),
            (&breaker.replica_id).into(),
            state_cell(breaker.state()),
            age::since(now, breaker.state_change_time).into(),
            retry(breaker, now).into(),
            window(breaker).into(),
            breaker.trip_count.to_string().into(),
            why(breaker).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{
        time::{duration, timestamp},
        v1::{Nack, NodeState},
    };

    use super::*;

    fn at(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    fn plain(about: &About) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        anstream::adapter::strip_str(&render(about, now)).to_string()
    }

    fn node() -> Node {
        Node {
            node_id: "dp-1".into(),
            version: "0.1.0".into(),
            address: "127.0.0.1:5123".into(),
            control_plane: "10.0.0.1:7400".into(),
            state: NodeState::Nacked.into(),
            acked_revision: 9,
            sent_revision: 12,
            connect_time: at(910),
            last_report_time: at(999),
            nack: Some(Nack { reason: "INVALID_RESOURCE".into(), message: "orders/r-1: no port".into() }),
            held_replica_count: 4,
            health_check_lateness: Some(duration(Duration::from_secs(28))),
            ..Default::default()
        }
    }

    #[test]
    fn one_that_refuses_shows_what_how_far_behind_it_is_and_which_breakers_are_open() {
        let breaker = |id: &str, state: BreakerState| Breaker {
            service: "orders".into(),
            replica_id: id.into(),
            node_id: "dp-1".into(),
            state: state.into(),
            state_change_time: at(984),
            retry_time: at(1004),
            reason: "failure_ratio 0.62 >= 0.50 (31 of 50)".into(),
            window_request_count: 50,
            window_failure_count: 31,
            trip_count: 3,
            ..Default::default()
        };
        let about = About {
            node: node(),
            listed: ListNodesResponse { revision: 12, ..Default::default() },
            breakers: vec![breaker("r-1", BreakerState::Open), breaker("r-2", BreakerState::Closed)],
            ..About::default()
        };
        assert_eq!(
            plain(&about),
            "\
Data plane    dp-1
State         NACKED
Revision      9 of 12: 3 behind
Refuses       revision 12: orders/r-1: no port (INVALID_RESOURCE)
Connected     1m ago, from 127.0.0.1:5123
Reported      1s ago
Version       0.1.0
Follows       the control plane at 10.0.0.1:7400
Holds         4 replicas that the registry no longer has (its guard against mass removal)
Checks        begin 28s late: more replicas than --health-check-rate is enough for, or checks that hang

Breakers that are not closed
  SERVICE   REPLICA   STATE   SINCE   RETRY   WINDOW              TRIPS   WHY
  orders    r-1       OPEN    16s     4s      50 req, 31 failed   3       failure_ratio 0.62 >= 0.50 (31 of 50)
  ... 1 closed

Events, newest first
  none since the control plane started

Next
  gwctl check                                 whether all is as it should be
  gwctl get nodes -w                          watch how far each has come
  gwctl events -w --filter 'node_id = dp-1'   watch what happens on it
"
        );
    }

    #[test]
    fn a_typing_mistake_finds_the_one_that_was_meant() {
        let error = unknown(&NodeId::parse("dp1").unwrap(), &[node()]);
        assert_eq!((error.exit, error.headline.as_str()), (Exit::NotFound, "no data plane \"dp1\" is known"));
        assert_eq!(error.hints, ["did you mean \"dp-1\"?", "gwctl get nodes"]);
    }
}
