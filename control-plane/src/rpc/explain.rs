//! Why replicas get requests or do not: the facts for [`gateway_proto::explain`], which concludes.
//!
//! What data planes say is read in parts, so that reports never wait for a question about thousands of them.

use std::time::SystemTime;

use gateway_proto::{
    Check, Invalid, NodeId, ReplicaKey, ServiceName,
    explain::{Explanation, Facts, MAX_SHOWN, ServiceExplanation, Word, concerns},
    time::timestamp,
    v1,
};
use tokio::task::yield_now;

use super::registry::count;
use crate::{
    clock,
    edge::Edge,
    observe::{Matrix, Nodes, outdated},
    refusal::Refusal,
    registry::{Record, RegistryError, Removed, Revision, View},
};

/// Data planes looked at while reports wait.
const AT_ONCE: usize = 64;

/// One replica, registered or removed lately.
pub(super) async fn replica(
    edge: &Edge,
    wire: &v1::ExplainReplicaRequest,
) -> Result<v1::ExplainReplicaResponse, Refusal> {
    let mut check = Check::default();
    let key = check.take(ReplicaKey::parse(&wire.service, &wire.replica_id));
    let node = check.take(parse_node(&wire.node_id));
    check.finish()?;
    let (Some(key), Some(node)) = (key, node) else { unreachable!("nothing was refused") };
    if let Some(node) = &node
        && !edge.effects.observation.read(|nodes, _| nodes.contains(node))
    {
        return Err(Invalid::new(
            "node_id",
            format!("no data plane {node} is known here: ListNodes shows them"),
        )
        .into());
    }
    let (record, removed, common) = edge.effects.publisher.read(|view| {
        (view.get(&key).cloned(), view.removed(&key).cloned(), Common::read(view, &key.service))
    });
    let is_held = || edge.effects.observation.read(|nodes, _| nodes.is_held(&key));
    if record.is_none() && removed.is_none() && !is_held() {
        return Err(RegistryError::ReplicaNotFound(key).into());
    }
    let facts = common.facts(edge, &key, record.as_deref(), removed);
    let silent_control_planes = edge.effects.observation.silent_control_planes();
    let explained = explain(edge, &key, facts, MAX_SHOWN, node.as_ref()).await;
    Ok(v1::ExplainReplicaResponse { silent_control_planes, ..explained })
}

/// One service, with its replicas in short.
pub(super) async fn service(
    edge: &Edge,
    wire: &v1::ExplainServiceRequest,
) -> Result<v1::ExplainServiceResponse, Refusal> {
    let name = ServiceName::parse(&wire.service)?;
    let found = edge.effects.publisher.read(|view| {
        let records: Vec<_> = view.service(&name)?.replicas().cloned().collect();
        Some((records, Common::read(view, &name)))
    });
    let (records, common) = found.ok_or_else(|| Refusal::ServiceNotFound(name.clone()))?;
    let mut all = ServiceExplanation::new(name.as_str(), common.revision, common.now);
    for record in records {
        let facts = common.facts(edge, &record.key, Some(&record), None);
        all.add(explain(edge, &record.key, facts, 0, None).await);
    }
    all.fails_open_on(count(edge.effects.observation.read(|_, matrix| matrix.load(&name).fail_open_nodes)));
    let silent_control_planes = edge.effects.observation.silent_control_planes();
    Ok(v1::ExplainServiceResponse { silent_control_planes, ..all.finish() })
}

fn parse_node(id: &str) -> Result<Option<NodeId>, Invalid> {
    if id.is_empty() { Ok(None) } else { NodeId::parse(id).map(Some) }
}

/// What replicas of a service have in common.
struct Common {
    now: SystemTime,
    revision: Revision,
    policy: gateway_proto::Policy,
    overrides: Vec<v1::OverrideEntry>,
}

impl Common {
    fn read(view: &View, service: &ServiceName) -> Self {
        let overrides = view.overrides().map(|entry| entry.to_wire());
        Self {
            now: clock::wall(),
            revision: view.revision(),
            policy: view.policies().resolve(Some(service)),
            overrides: overrides.filter(|entry| entry.service == service.as_str()).collect(),
        }
    }

    fn facts(
        &self,
        edge: &Edge,
        key: &ReplicaKey,
        record: Option<&Record>,
        removed: Option<Removed>,
    ) -> Facts {
        let is_about =
            |entry: &&v1::OverrideEntry| concerns(entry, key.service.as_str(), key.replica.as_str());
        Facts {
            now: self.now,
            service: key.service.to_string(),
            replica_id: key.replica.to_string(),
            replica: record.map(|record| edge.replica(record)),
            removed: removed.filter(|_| record.is_none()).map(|removed| v1::RemovedReplica {
                remove_time: Some(timestamp(removed.at)),
                cause: removed.why.to_string(),
                lease_lapsed: removed.has_expired,
                removal_cause: removed.removal.into(),
                by_owner: removed.by_owner,
            }),
            policy: self.policy.breaker,
            balancing: self.policy.balancing,
            overrides: self.overrides.iter().filter(is_about).cloned().collect(),
            revision: self.revision,
        }
    }
}

async fn explain(
    edge: &Edge,
    key: &ReplicaKey,
    facts: Facts,
    limit: usize,
    only: Option<&NodeId>,
) -> v1::ExplainReplicaResponse {
    let revision = facts.revision;
    let mut all = Explanation::new(facts, limit, only.map(NodeId::as_str));
    let mut after = String::new();
    loop {
        let mut words =
            edge.effects.observation.read(|nodes, matrix| words(nodes, matrix, key, &after, revision));
        let is_outdated = !edge.effects.leases.store_silence(clock::now()).is_zero();
        for word in words.iter_mut().filter(|word| word.control_plane.is_empty()) {
            word.control_plane.clone_from(&edge.myself.address);
            if is_outdated {
                word.state = outdated(word.state);
            }
        }
        let is_last = words.len() < AT_ONCE;
        if let Some(last) = words.last() {
            after.clone_from(&last.node_id);
        }
        words.into_iter().for_each(|word| all.add(word));
        if is_last {
            return all.finish();
        }
        yield_now().await;
    }
}

/// What the next data planes say of the replica.
fn words(nodes: &Nodes, matrix: &Matrix, key: &ReplicaKey, after: &str, head: Revision) -> Vec<Word> {
    let now = clock::now();
    let word = |(id, node): (&NodeId, v1::Node)| Word {
        state: node.state(),
        is_silent: node.state() == v1::NodeState::Disconnected || !nodes.is_heard(id, now),
        acked_revision: node.acked_revision,
        report_time: node.last_report_time,
        breaker: matrix.row(&(key.clone(), Some(id.clone()))),
        held: nodes.held_since(id, key).map(|since| since.map(timestamp)),
        control_plane: node.control_plane,
        left: node.left,
        node_id: node.node_id,
    };
    nodes.list_after(after, head).take(AT_ONCE).map(word).collect()
}
