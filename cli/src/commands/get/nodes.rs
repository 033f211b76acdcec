//! `gwctl get nodes`: one row a data plane, with the revision it has and the one it should have.

use std::time::{Duration, SystemTime};

use gateway_proto::{
    time::non_negative,
    v1::{ListNodesResponse, Node, NodeState},
};

use super::View;
use crate::{
    age::{self, NONE, or_none},
    control::{Control, Filter},
    error::Error,
    moves,
    output::Listing,
    partial,
    table::{ALARM, CAUTION, Cell, GOOD, Table},
};

pub(super) async fn list(filter: &Filter, control: &Control, view: View) -> Result<Listing, Error> {
    let response = control.nodes_of(&filter.expression).await?;
    let table = view.with_rows.then(|| table(&response, SystemTime::now()));
    let names = response.nodes.iter().map(|node| node.node_id.clone());
    let empty = match filter.expression.as_str() {
        "" => "no data plane has connected yet: start gw-data-plane, or gwctl dev",
        _ => "no data plane passes the filter",
    };
    let empty = response.nodes.is_empty().then(|| empty.to_owned());
    let silent = partial::notes(&response.silent_control_planes).collect::<Vec<_>>();
    Ok(Listing::new(&response, "nodes", names, table)
        .with_notes(empty)
        .with_notes(refusals(&response.nodes))
        .with_notes(outdated(&response))
        .with_notes(silent))
}

fn table(response: &ListNodesResponse, now: SystemTime) -> Table {
    let headings = [
        "NODE",
        "STATE",
        "REVISION",
        "OPEN BREAKERS",
        "HELD",
        "CHECKS LATE",
        "REPORTED",
        "CONNECTED",
        "VERSION",
        "FROM",
        "CONTROL PLANE",
        "LEFT",
    ];
    let mut table = Table::new(headings);
    for node in &response.nodes {
        table.push(vec![
            (&node.node_id).into(),
            state_cell(node.state()),
            format!("{}/{}", node.acked_revision, response.revision).into(),
            node.open_breaker_count.to_string().into(),
            held(node),
            late(node).map_or(NONE.into(), |late| Cell::styled(&age::short(late), CAUTION)),
            age::since(now, node.last_report_time).into(),
            age::since(now, node.connect_time).into(),
            or_none(&node.version).into(),
            or_none(&node.address).into(),
            or_none(&node.control_plane).into(),
            node.left.as_ref().map_or(NONE.into(), |left| moves::words(left, now)).into(),
        ]);
    }
    table
}

/// Replicas that the registry no longer has and the data plane's guard against mass removal holds.
fn held(node: &Node) -> Cell {
    match node.held_replica_count {
        0 => "0".into(),
        count => Cell::styled(&count.to_string(), CAUTION),
    }
}

/// How late a data plane's health checks begin, where it says so, and says anything.
pub(in crate::commands) fn late(node: &Node) -> Option<Duration> {
    let is_silent = matches!(node.state(), NodeState::Disconnected | NodeState::Unknown);
    node.health_check_lateness.filter(|_| !is_silent).and_then(non_negative).filter(|late| !late.is_zero())
}

pub(in crate::commands) fn state_cell(state: NodeState) -> Cell {
    match state {
        NodeState::Synced => Cell::styled("synced", GOOD),
        NodeState::Lagging => Cell::styled("lagging", CAUTION),
        NodeState::Nacked => Cell::styled("NACKED", ALARM),
        NodeState::Disconnected => Cell::styled("DISCONNECTED", ALARM),
        NodeState::Unknown => Cell::styled("UNKNOWN", ALARM),
        NodeState::Outdated => Cell::styled("OUTDATED", ALARM),
        NodeState::Unspecified => NONE.into(),
    }
}

/// That the control plane which answers does not know what the registry is now.
pub(in crate::commands) fn outdated(response: &ListNodesResponse) -> Option<String> {
    let is_outdated = response.nodes.iter().any(|node| node.state() == NodeState::Outdated);
    is_outdated.then(|| {
        format!(
            "the control plane at {} has lost touch with its store: its data planes go on with what it knew last, and go over to \
             another one that has not, if there is one",
            response.control_plane
        )
    })
}

/// Why data planes refuse what they were sent.
fn refusals(nodes: &[Node]) -> impl Iterator<Item = String> {
    nodes.iter().filter_map(|node| {
        let nack = node.nack.as_ref()?;
        Some(format!(
            "{} refuses revision {} ({}): {}",
            node.node_id, node.sent_revision, nack.reason, nack.message
        ))
    })
}

#[cfg(test)]
mod tests {
    use gateway_proto::{
        time::{duration, timestamp},
        v1::{LeftControlPlane, Nack},
    };

    use super::*;

    #[test]
    fn a_row_shows_how_far_a_data_plane_is_and_a_refusal_says_why() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let node = |id: &str, state: NodeState, acked_revision| Node {
            node_id: id.into(),
            version: "0.1.0".into(),
            address: "127.0.0.1:5123".into(),
            control_plane: "10.0.0.1:7400".into(),
            state: state.into(),
            acked_revision,
            sent_revision: 12,
            connect_time: Some(timestamp(now - Duration::from_secs(90))),
            last_report_time: Some(timestamp(now - Duration::from_secs(1))),
            ..Default::default()
        };
        let nack = Nack { reason: "INVALID_RESOURCE".into(), message: "orders/r-1: no port".into() };
        let left = LeftControlPlane {
            url: "http://10.0.0.2:7400".into(),
            reason: "outdated".into(),
            leave_time: Some(timestamp(now - Duration::from_secs(90))),
        };
        let late = Some(duration(Duration::from_secs(28)));
        let nodes = vec![
            Node { health_check_lateness: late, ..node("dp-1", NodeState::Synced, 12) },
            Node { nack: Some(nack), held_replica_count: 4, ..node("dp-2", NodeState::Nacked, 11) },
            Node { left: Some(left), ..node("dp-3", NodeState::Synced, 12) },
        ];
        let response = ListNodesResponse { nodes, revision: 12, ..Default::default() };
        assert_eq!(
            anstream::adapter::strip_str(&table(&response, now).to_string()).to_string(),
            "\
NODE   STATE    REVISION   OPEN BREAKERS   HELD   CHECKS LATE   REPORTED   CONNECTED   VERSION   FROM             CONTROL PLANE   LEFT
dp-1   synced   12/12      0               0      28s           1s         1m          0.1.0     127.0.0.1:5123   10.0.0.1:7400   -
dp-2   NACKED   11/12      0               4      -             1s         1m          0.1.0     127.0.0.1:5123   10.0.0.1:7400   -
dp-3   synced   12/12      0               0      -             1s         1m          0.1.0     127.0.0.1:5123   10.0.0.1:7400   \
http://10.0.0.2:7400, 1m ago: it had lost touch with its store
"
        );
        let away = Node { health_check_lateness: late, ..node("dp-4", NodeState::Disconnected, 12) };
        assert_eq!(super::late(&away), None, "nobody knows how late they are now");
        assert_eq!(outdated(&response), None);
        let nodes = vec![node("dp-4", NodeState::Outdated, 12)];
        let outdated = outdated(&ListNodesResponse {
            nodes,
            control_plane: "10.0.0.1:7400".into(),
            ..Default::default()
        });
        assert!(outdated.unwrap().starts_with("the control plane at 10.0.0.1:7400 has lost touch"));
        assert_eq!(
            refusals(&response.nodes).collect::<Vec<_>>(),
            ["dp-2 refuses revision 12 (INVALID_RESOURCE): orders/r-1: no port"]
        );
    }
}
