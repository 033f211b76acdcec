//! Breakers, row by row or merged over data planes: which a list shows, and what a watch tells.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gateway_proto::{Invalid, NodeId, v1};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tonic::Status;

use super::{observability::BREAKERS, page::Page, registry::parse_key};
use crate::{
    clock,
    edge::Edge,
    observe::{Change, Dirty, Matrix, RowName, Scope},
    query::Filter,
    refusal::Refusal,
    writer::WriteError,
};

/// Replicas or rows looked at while reports wait.
const AT_ONCE: usize = 256;
/// What changes within this time is told together, each breaker once: people and tools look, and none reads faster.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Which breakers are asked for.
#[derive(Debug)]
pub(super) struct Query {
    scope: Scope,
    node: Option<NodeId>,
    /// A set: asking for millions must not make every row slow.
    states: BTreeSet<v1::BreakerState>,
    per_node: bool,
}

/// What a look at part of the matrix found.
struct Scanned {
    rows: Vec<v1::Breaker>,
    /// The last name looked at; `None`: there are no more.
    reached: Option<RowName>,
}

impl Query {
    /// Reads a list's filters.
    pub(super) fn parse(wire: &v1::ListBreakersRequest) -> Result<Self, Invalid> {
        let scope = Scope::parse(&wire.service, &wire.replica_id)?;
        let node = match wire.node_id.as_str() {
            "" => None,
            id => Some(NodeId::parse(id)?),
        };
        let state = |number: &i32| match v1::BreakerState::try_from(*number) {
            Err(_) | Ok(v1::BreakerState::Unspecified) => {
                Err(Invalid::new("states", format!("{number} is no state of a breaker")))
            }
            Ok(state) => Ok(state),
        };
        let states = wire.states.iter().map(state).collect::<Result<_, _>>()?;
        Ok(Self { scope, node, states, per_node: wire.per_node })
    }

    /// Reads a watch's filters.
    pub(super) fn parse_watch(wire: &v1::WatchBreakersRequest) -> Result<Self, Invalid> {
        let scope = Scope::parse(&wire.service, &wire.replica_id)?;
        Ok(Self { scope, node: None, states: BTreeSet::new(), per_node: wire.per_node })
    }

    /// Looks at up to [`AT_ONCE`] names after `after`.
    fn scan(&self, matrix: &Matrix, after: Option<&RowName>) -> Scanned {
        let mut scanned = Scanned { rows: Vec::new(), reached: None };
        let mut looked = 0;
        for (key, replica) in matrix.from(&self.scope, after.map(|(key, _)| key)) {
            let is_first = after.is_some_and(|(last, _)| last == key);
            let last_node = after.and_then(|(_, node)| node.as_ref()).filter(|_| is_first);
            if !self.per_node {
                if is_first {
                    continue;
                }
                let row = replica.merged(key, |node| self.admits_node(node));
                scanned.rows.extend(row.filter(|row| self.admits_state(row)));
                scanned.reached = Some((key.clone(), None));
                // Each data plane's row is looked at.
                looked += 1 + replica.nodes().len() / 16;
            } else if let Some(node) = replica.nodes().last() {
                let rows = replica.rows(key).filter(|(node, _)| last_node.is_none_or(|last| *node > last));
                let rows = rows.filter(|(node, row)| self.admits_node(node) && self.admits_state(row));
                scanned.rows.extend(rows.map(|(_, row)| row));
                scanned.reached = Some((key.clone(), Some(node.clone())));
                looked += replica.nodes().len();
            }
            if looked >= AT_ONCE {
                return scanned;
            }
        }
        scanned.reached = None;
        scanned
    }

    fn admits_node(&self, node: &NodeId) -> bool {
        self.node.as_ref().is_none_or(|only| only == node)
    }

    fn admits_state(&self, row: &v1::Breaker) -> bool {
        self.states.is_empty() || self.states.contains(&row.state())
    }
}

/// One page of breakers.
pub(super) async fn list(
    edge: &Edge,
    wire: &v1::ListBreakersRequest,
) -> Result<v1::ListBreakersResponse, Refusal> {
    let query = Query::parse(wire)?;
    let filter = Filter::parse(&BREAKERS, &wire.filter)?;
    let arguments = ["breakers", &format!("{query:?}"), &wire.filter];
    let page = Page::parse(wire.page_size, &wire.page_token, &arguments)?;
    let observation = &edge.effects.observation;
    let after = page.after().map(parse_row_name).transpose()?;
    let look = |after: Option<&RowName>| {
        let Scanned { rows, reached } = observation.read(|_, matrix| query.scan(matrix, after));
        (rows, reached)
    };
    let rows = page.admitted(after, look, |row| filter.admits(row)).await;
    let (breakers, next_page_token) = page.cut(rows.into_iter(), row_name);
    let unreachable_node_ids = observation.read(|nodes, _| nodes.unreachable(clock::now()));
    let silent_control_planes = observation.silent_control_planes();
    Ok(v1::ListBreakersResponse { breakers, next_page_token, unreachable_node_ids, silent_control_planes })
}

type Outbound = mpsc::Sender<Result<v1::WatchBreakersResponse, Status>>;

/// A watch of breakers. It keeps nothing of what it told: the matrix knows what changed since a number.
pub(super) struct Watch {
    edge: Arc<Edge>,
    query: Query,
    outbound: Outbound,
}

impl Watch {
    pub(super) fn new(edge: Arc<Edge>, query: Query, outbound: Outbound) -> Self {
        Self { edge, query, outbound }
    }

    /// Tells the set and then its changes, until the reader leaves.
    ///
    /// # Errors
    /// When the shutdown begins.
    pub(super) async fn follow(self) -> Result<(), Status> {
        tokio::select! {
            () = self.tell() => Ok(()),
            () = self.outbound.closed() => Ok(()),
            () = self.edge.shutdown.begun() => Err(Refusal::from(WriteError::ShuttingDown).into()),
        }
    }

    async fn tell(&self) {
        let mut changes = self.edge.effects.observation.follow_breakers();
        let mut since = self.tell_all().await;
        loop {
            // The sender lives as long as the control plane. What changes from now on is seen below, or wakes this again.
            let _ = changes.changed().await;
            let next = Instant::now() + WATCH_INTERVAL;
            let dirty = self
                .edge
                .effects
                .observation
                .read(|_, matrix| matrix.dirty_since(since, &self.query.scope, self.query.per_node));
            since = match dirty {
                Dirty::Rows(rows, reached) => {
                    self.tell_changes(rows).await;
                    reached
                }
                Dirty::TooMuch => {
                    self.send(v1::ChangeType::Reset, None).await;
                    self.tell_all().await
                }
            };
            sleep_until(next).await;
        }
    }

    /// Tells every breaker there is. Yields the change that was the last one when it began: what changed since is told
    /// again.
    async fn tell_all(&self) -> Change {
        let observation = &self.edge.effects.observation;
        let since = observation.read(|_, matrix| matrix.last_change());
        let mut after = None;
        loop {
            let scanned = observation.read(|_, matrix| self.query.scan(matrix, after.as_ref()));
            for row in scanned.rows {
                self.send(v1::ChangeType::Added, Some(row)).await;
            }
            after = scanned.reached;
            if after.is_none() {
                self.send(v1::ChangeType::Bookmark, None).await;
                return since;
            }
        }
    }

    async fn tell_changes(&self, names: Vec<(RowName, bool)>) {
        let mut is_news = false;
        for names in names.chunks(AT_ONCE) {
            let rows: Vec<_> = self.edge.effects.observation.read(|_, matrix| {
                names.iter().map(|(name, was_known)| (name, *was_known, matrix.row(name))).collect()
            });
            for (name, was_known, row) in rows {
                let (change_type, breaker) = match (row, was_known) {
                    (Some(row), true) => (v1::ChangeType::Modified, row),
                    (Some(row), false) => (v1::ChangeType::Added, row),
                    (None, true) => (v1::ChangeType::Deleted, nameplate(name)),
                    // It came and went.
                    (None, false) => continue,
                };
                is_news = true;
                self.send(change_type, Some(breaker)).await;
            }
        }
        if is_news {
            self.send(v1::ChangeType::Bookmark, None).await;
        }
    }

    /// Waits for the reader to take it. That it has left shows elsewhere.
    async fn send(&self, change_type: v1::ChangeType, breaker: Option<v1::Breaker>) {
        let is_bookmark = change_type == v1::ChangeType::Bookmark;
        let silent_control_planes = match is_bookmark {
            true => self.edge.effects.observation.silent_control_planes(),
            false => Vec::new(),
        };
        let change_type = change_type.into();
        let message = v1::WatchBreakersResponse { change_type, breaker, silent_control_planes };
        let _ = self.outbound.send(Ok(message)).await;
    }
}

/// A breaker that is gone, by its names.
fn nameplate((key, node): &RowName) -> v1::Breaker {
    v1::Breaker {
        service: key.service.to_string(),
        replica_id: key.replica.to_string(),
        node_id: node.as_ref().map(NodeId::to_string).unwrap_or_default(),
        ..Default::default()
    }
}

/// What a page token says of a row.
fn row_name(row: &v1::Breaker) -> String {
    format!("{}/{}/{}", row.service, row.replica_id, row.node_id)
}

/// Reads what [`row_name`] wrote.
fn parse_row_name(name: &str) -> Result<RowName, Refusal> {
    let (key, node) = name.rsplit_once('/').ok_or(Refusal::PageToken)?;
    let node = match node {
        "" => None,
        id => Some(NodeId::parse(id).map_err(|_| Refusal::PageToken)?),
    };
    Ok((parse_key(key)?, node))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::observe::Report;

    #[test]
    fn a_state_that_is_asked_for_a_million_times_is_looked_for_once() {
        let wire = v1::ListBreakersRequest { states: vec![1; 1_000_000], ..Default::default() };
        assert_eq!(Query::parse(&wire).unwrap().states, [v1::BreakerState::Closed].into());
    }

    #[test]
    fn looks_at_parts_of_the_matrix_add_up_to_all_of_it() {
        let mut matrix = Matrix::default();
        let row = |number: usize| v1::Breaker {
            service: format!("s{}", number % 3),
            replica_id: format!("r{number:04}"),
            state: v1::BreakerState::Closed.into(),
            ..Default::default()
        };
        for (id, count) in [("n1", 2500), ("n2", 700)] {
            let node = NodeId::parse(id).unwrap();
            let wire =
                v1::ReportNodeStatusRequest { breakers: (0..count).map(row).collect(), ..Default::default() };
            matrix.report(&node, Report::parse(&node, wire, UNIX_EPOCH).unwrap().breakers, UNIX_EPOCH);
        }
        let scan = |wire: v1::ListBreakersRequest| {
            let query = Query::parse(&wire).unwrap();
            let (mut after, mut names, mut looks) = (None, Vec::new(), 0);
            loop {
                let scanned = query.scan(&matrix, after.as_ref());
                names.extend(scanned.rows.iter().map(row_name));
                looks += 1;
                after = scanned.reached;
                if after.is_none() {
                    assert!(names.is_sorted());
                    return (names.len(), looks);
                }
            }
        };
        let all = v1::ListBreakersRequest::default();
        assert_eq!(scan(all.clone()), (2500, 10));
        assert_eq!(scan(v1::ListBreakersRequest { per_node: true, ..all.clone() }), (3200, 13));
        let one = v1::ListBreakersRequest { service: "s1".into(), ..all.clone() };
        assert_eq!(scan(one.clone()), (833, 4));
        assert_eq!(scan(v1::ListBreakersRequest { node_id: "n2".into(), ..one }).0, 233);
        assert_eq!(scan(v1::ListBreakersRequest { states: vec![3], ..all }).0, 0);
    }
}
