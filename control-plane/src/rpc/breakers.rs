//! Which breakers a list shows, row by row or merged over data planes.

use std::collections::BTreeSet;

use gateway_proto::{Invalid, NodeId, ReplicaKey, v1};

use super::registry::parse_key;
use crate::{
    observe::{EventFilter, Matrix, merge},
    refusal::Refusal,
};

/// Which breakers are asked for.
#[derive(Debug)]
pub(super) struct Query {
    filter: EventFilter,
    node: Option<NodeId>,
    /// A set: asking for millions must not make every row slow.
    states: BTreeSet<v1::BreakerState>,
}

/// The last row of the page before.
pub(super) type RowName = (ReplicaKey, Option<NodeId>);

impl Query {
    /// Reads the request's filters.
    pub(super) fn parse(wire: &v1::ListBreakersRequest) -> Result<Self, Invalid> {
        let filter = EventFilter::parse(&wire.service, &wire.replica_id)?;
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
        Ok(Self { filter, node, states: wire.states.iter().map(state).collect::<Result<_, _>>()? })
    }

    /// One row for each replica that a data plane asked for has reported.
    pub(super) fn merged<'a>(
        &'a self,
        matrix: &'a Matrix,
        after: Option<&'a RowName>,
    ) -> impl Iterator<Item = v1::Breaker> + 'a {
        let after = after.map(|(key, _)| key);
        let replicas = matrix.from(after).filter(move |(key, _)| Some(*key) != after);
        let admitted = replicas.filter(|(key, _)| self.admits_replica(key));
        let merged = admitted.filter_map(|(_, nodes)| {
            merge(nodes.iter().filter(|(node, _)| self.admits_node(node)).map(|(_, row)| row))
        });
        merged.filter(|row| self.admits_state(row))
    }

    /// One row for each replica and data plane.
    pub(super) fn rows<'a>(
        &'a self,
        matrix: &'a Matrix,
        after: Option<&'a RowName>,
    ) -> impl Iterator<Item = v1::Breaker> + 'a {
        let replicas = matrix.from(after.map(|(key, _)| key));
        let admitted = replicas.filter(|(key, _)| self.admits_replica(key));
        let rows = admitted.flat_map(|(key, nodes)| nodes.iter().map(move |(node, row)| (key, node, row)));
        let rows = rows.filter(move |(key, node, _)| match after {
            Some((last, Some(last_node))) => (*key, *node) > (last, last_node),
            Some((last, None)) => *key > last,
            None => true,
        });
        let rows = rows.filter(|(_, node, row)| self.admits_node(node) && self.admits_state(row));
        rows.map(|(_, _, row)| row.clone())
    }

    fn admits_replica(&self, key: &ReplicaKey) -> bool {
        self.filter.service.as_ref().is_none_or(|service| *service == key.service)
            && self.filter.replica.as_ref().is_none_or(|replica| *replica == key.replica)
    }

    fn admits_node(&self, node: &NodeId) -> bool {
        self.node.as_ref().is_none_or(|only| only == node)
    }

    fn admits_state(&self, row: &v1::Breaker) -> bool {
        self.states.is_empty() || self.states.contains(&row.state())
    }
}

/// What a page token says of a row.
pub(super) fn row_name(row: &v1::Breaker) -> String {
    format!("{}/{}/{}", row.service, row.replica_id, row.node_id)
}

/// Reads what [`row_name`] wrote.
pub(super) fn parse_row_name(name: &str) -> Result<RowName, Refusal> {
    let (key, node) = name.rsplit_once('/').ok_or(Refusal::PageToken)?;
    let node = match node {
        "" => None,
        id => Some(NodeId::parse(id).map_err(|_| Refusal::PageToken)?),
    };
    Ok((parse_key(key)?, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_asked_for_a_million_times_is_looked_for_once() {
        let wire = v1::ListBreakersRequest { states: vec![1; 1_000_000], ..Default::default() };
        assert_eq!(Query::parse(&wire).unwrap().states, [v1::BreakerState::Closed].into());
    }
}
