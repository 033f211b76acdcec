//! Whether data planes route by what the registry holds, and still speak.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use gateway_proto::v1::{ListNodesResponse, Node, NodeState, PeerControlPlane};
use http::StatusCode;

use super::finding::{Finding, Outcome, counted, listed, told};
use crate::{age, commands::get::late, error::Error};

pub(super) const NAME: &str = "data-planes";

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// They report every second when there is something to say, and ack every few.
const SILENT_AFTER: Duration = Duration::from_secs(15);

/// What the list of data planes means.
pub(super) fn findings(response: &ListNodesResponse, now: SystemTime) -> Vec<Finding> {
    let nodes = &response.nodes;
    let silent = response.silent_control_planes.iter().map(|silent| {
        let what = format!("the control plane at {} is silent: {}", silent.address, silent.reason);
        Finding::warned("control-planes/silent", what)
            .because(
                "what its data planes report is missing here, or as it was told last; drains wait for it",
            )
            .hint("is it there, and among --peers on purpose?")
    });
    if nodes.is_empty() {
        let none = Finding::warned("data-planes/connected", "no data plane is connected")
            .hint("start gw-data-plane with --control-plane, or gwctl dev");
        return [none].into_iter().chain(silent).collect();
    }
    let mut findings = vec![synced(response)];
    findings.extend(silent);
    findings.extend(peer_versions(response));
    findings.extend(nodes.iter().filter_map(|node| trouble(node, response.revision, now)));
    findings.extend(nodes.iter().filter(|node| node.held_replica_count > 0).map(holds));
    findings.extend(nodes.iter().filter_map(checks_late));
    findings.extend(versions(nodes));
    findings
}

/// What a data plane says of itself.
pub(super) fn readiness(url: &str, answer: Result<(StatusCode, String), Error>) -> Vec<Finding> {
    const ID: &str = "data-planes/ready";
    let (status, text) = match answer {
        Ok(answer) => answer,
        Err(error) => return vec![Finding::of_error(ID, error)],
    };
    let mut findings: Vec<_> = told(ID, &text)
        .map(|finding| Finding { description: format!("{url}: {}", finding.description), ..finding })
        .collect();
    if findings.is_empty() {
        findings.push(match status {
            StatusCode::OK => Finding::passed(ID, format!("{url} is ready")),
            _ => Finding::failed(ID, format!("{url} is not ready (GET /readyz: {status})")),
        });
    } else if status != StatusCode::OK && findings.iter().all(|finding| finding.outcome == Outcome::Passed) {
        findings.push(Finding::failed(ID, format!("{url} is not ready (GET /readyz: {status})")));
    }
    findings
}

/// How many are as they should be; those that are not have findings of their own.
fn synced(response: &ListNodesResponse) -> Finding {
    const ID: &str = "data-planes/synced";
    let (nodes, revision) = (&response.nodes, response.revision);
    let synced = nodes.iter().filter(|node| node.state() == NodeState::Synced).count();
    let planes = counted(nodes.len(), "data plane");
    if synced == nodes.len() {
        return Finding::passed(ID, format!("{planes} connected, at revision {revision}"));
    }
    Finding::passed(ID, format!("{synced} of {planes} at revision {revision}"))
}

fn trouble(node: &Node, revision: i64, now: SystemTime) -> Option<Finding> {
    let id = &node.node_id;
    let heard = age::since(now, node.last_report_time);
    match node.state() {
        NodeState::Nacked => {
            let finding = Finding::failed(
                "data-planes/nacked",
                format!("{id} refuses revision {} and stays at {}", node.sent_revision, node.acked_revision),
            );
            let nack = node.nack.as_ref().map(|nack| format!("{}: {}", nack.reason, nack.message));
            Some(finding.because(nack.unwrap_or_default()).hint("gwctl get nodes"))
        }
        NodeState::Disconnected => Some(
            Finding::failed(
                "data-planes/disconnected",
                format!("{id} is not connected, last heard {heard} ago"),
            )
            .because(format!("while it runs, it routes by revision {}", node.acked_revision))
            .hint("one that was taken away on purpose is forgotten by itself"),
        ),
        // Its control plane has a finding of its own.
        NodeState::Unknown => None,
        NodeState::Outdated => Some(
            Finding::failed(
                "data-planes/outdated",
                format!("{id} follows {}, which has lost touch with its store", node.control_plane),
            )
            .because(format!(
                "it routes by revision {}, and the registry may be further",
                node.acked_revision
            ))
            .hint("give it another control plane: gw-data-plane --control-plane URL,URL"),
        ),
        NodeState::Lagging => Some(Finding::warned(
            "data-planes/lagging",
            format!("{id} is at revision {} of {revision}", node.acked_revision),
        )),
        NodeState::Synced | NodeState::Unspecified => {
            let silent = node.last_report_time.map(|at| age::elapsed(now, at))?;
            (silent > SILENT_AFTER).then(|| {
                Finding::warned(
                    "data-planes/silent",
                    format!("{id} is connected and has not reported for {heard}"),
                )
                .because("what is shown of its breakers is as old as that")
            })
        }
    }
}

fn holds(node: &Node) -> Finding {
    let held = counted(node.held_replica_count, "replica");
    Finding::warned(
        "data-planes/guard",
        format!("{} holds {held} that the registry no longer has", node.node_id),
    )
    .because("more went at once than its guard against mass removal believes")
    .hint("gwctl release-guard SERVICE   lets them go, if they are really gone")
}

fn checks_late(node: &Node) -> Option<Finding> {
    let late = age::short(late(node)?);
    Some(
        Finding::warned("data-planes/checks", format!("health checks of {} begin {late} late", node.node_id))
            .because("a replica that dies without a request is found out as much later")
            .hint("more replicas than it checks in time: gw-data-plane --health-check-rate")
            .hint("or checks that hang: gwctl describe replica SERVICE/REPLICA   shows each"),
    )
}

/// Control planes of other versions than the one that answers, together.
fn peer_versions(response: &ListNodesResponse) -> Vec<Finding> {
    let own = &response.control_plane_version;
    let is_other = |version: &str| !version.is_empty() && !own.is_empty() && version != own;
    let others = response.peers.iter().filter(|peer| is_other(&peer.version));
    let finding = |peer: &PeerControlPlane| {
        Finding::warned(
            "control-planes/version",
            format!(
                "the control plane at {} is {}, {} is {own}",
                peer.address, peer.version, response.control_plane
            ),
        )
        .hint("fine while an upgrade is under way")
    };
    others.map(finding).collect()
}

/// Data planes of other versions than this gwctl, together.
fn versions(nodes: &[Node]) -> Vec<Finding> {
    let mut others: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| !node.version.is_empty() && node.version != VERSION) {
        others.entry(&node.version).or_default().push(&node.node_id);
    }
    let finding = |(version, ids): (&str, Vec<&str>)| {
        let verb = if ids.len() == 1 { "runs" } else { "run" };
        Finding::warned(
            "data-planes/version",
            format!("{} {verb} {version}, gwctl is {VERSION}", listed(&ids)),
        )
    };
    others.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use gateway_proto::{
        time::{duration, timestamp},
        v1::Nack,
    };

    use super::{super::finding::Outcome, *};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn node(id: &str, state: NodeState, acked_revision: i64) -> Node {
        Node {
            node_id: id.into(),
            version: VERSION.into(),
            state: state.into(),
            acked_revision,
            sent_revision: 12,
            last_report_time: Some(timestamp(now() - Duration::from_secs(1))),
            ..Default::default()
        }
    }

    fn found(nodes: Vec<Node>) -> Vec<(Outcome, String)> {
        let response = ListNodesResponse { nodes, revision: 12, ..Default::default() };
        findings(&response, now()).into_iter().map(|finding| (finding.outcome, finding.description)).collect()
    }

    #[test]
    fn data_planes_that_are_up_to_date_are_one_line() {
        assert_eq!(
            found(vec![node("dp-1", NodeState::Synced, 12), node("dp-2", NodeState::Synced, 12)]),
            [(Outcome::Passed, "2 data planes connected, at revision 12".to_owned())]
        );
    }

    #[test]
    fn a_gateway_without_data_planes_routes_nothing() {
        assert_eq!(found(vec![]), [(Outcome::Warned, "no data plane is connected".to_owned())]);
    }

    #[test]
    fn each_that_refuses_lags_or_is_silent_is_named() {
        let nack = Nack { reason: "INVALID_RESOURCE".into(), message: "orders/r-1: no port".into() };
        let silent = Some(timestamp(now() - Duration::from_secs(41)));
        let nodes = vec![
            node("dp-1", NodeState::Synced, 12),
            node("dp-2", NodeState::Lagging, 9),
            Node { nack: Some(nack), ..node("dp-3", NodeState::Nacked, 11) },
            Node { last_report_time: silent, ..node("dp-4", NodeState::Disconnected, 10) },
            Node { last_report_time: silent, ..node("dp-5", NodeState::Synced, 12) },
        ];
        let response = ListNodesResponse { nodes, revision: 12, ..Default::default() };
        let findings = findings(&response, now());
        let found: Vec<_> =
            findings.iter().map(|finding| (finding.outcome, finding.description.as_str())).collect();
        assert_eq!(
            found,
            [
                (Outcome::Passed, "2 of 5 data planes at revision 12"),
                (Outcome::Warned, "dp-2 is at revision 9 of 12"),
                (Outcome::Failed, "dp-3 refuses revision 12 and stays at 11"),
                (Outcome::Failed, "dp-4 is not connected, last heard 41s ago"),
                (Outcome::Warned, "dp-5 is connected and has not reported for 41s"),
            ]
        );
        assert_eq!(findings[2].details, ["INVALID_RESOURCE: orders/r-1: no port"]);
    }

    #[test]
    fn health_checks_that_begin_late_are_a_warning_while_their_data_plane_speaks() {
        let late = Some(duration(Duration::from_secs(28)));
        let nodes = vec![
            Node { health_check_lateness: late, ..node("dp-1", NodeState::Synced, 12) },
            Node { health_check_lateness: late, ..node("dp-2", NodeState::Unknown, 12) },
        ];
        assert_eq!(found(nodes)[1..], [(Outcome::Warned, "health checks of dp-1 begin 28s late".to_owned())]);
    }

    #[test]
    fn a_guard_that_holds_and_versions_that_differ_are_told() {
        let nodes = vec![
            Node { held_replica_count: 4, ..node("dp-1", NodeState::Synced, 12) },
            Node { version: "0.0.1".into(), ..node("dp-2", NodeState::Synced, 12) },
            Node { version: "0.0.1".into(), ..node("dp-3", NodeState::Synced, 12) },
        ];
        assert_eq!(
            found(nodes)[1..],
            [
                (Outcome::Warned, "dp-1 holds 4 replicas that the registry no longer has".to_owned()),
                (Outcome::Warned, format!("dp-2, dp-3 run 0.0.1, gwctl is {VERSION}")),
            ]
        );
    }
}
