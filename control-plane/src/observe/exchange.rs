//! What control planes tell each other of what they observe: each of its own data planes, all of it first and then changes.
//!
//! Who tells keeps a [`Sent`] for each listener, who listens a [`Followed`] for each that it follows. Neither keeps what was
//! told: nodes, the matrix and the timeline know what changed since a number. Nothing that was heard from others is told on,
//! so nothing goes in circles.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use gateway_proto::{Invalid, NodeId, ReplicaKey, v1};
use tokio::sync::watch;

use super::{
    Answered, Change, Observation, Taken, Told, events, locked,
    matrix::BreakerReport,
    report::{cut_event, parse_breaker},
    seat::Stream,
    stats::parse_stats,
};
use crate::{clock, registry::Revision};

/// Data planes and names of held replicas in one message.
const MAX_NODES: usize = 500;
/// Breakers in one message: a megabyte at most.
const MAX_ROWS: usize = 500;
/// Events in one message.
const MAX_EVENTS: usize = 200;
/// Data planes that one control plane may tell of before it says that this is all: twice what any may follow.
const MAX_TOLD: usize = 200_000;

/// How far one listener has been told.
#[derive(Debug, Default)]
pub struct Sent {
    nodes: HashMap<NodeId, u64>,
    wanted: HashSet<NodeId>,
    /// Data planes of which all breakers are to be told, and those that are left of the first one.
    due: BTreeSet<NodeId>,
    under_way: Option<(NodeId, Vec<ReplicaKey>)>,
    change: Change,
    event: i64,
}

impl Sent {
    /// For a listener that knows events up to this number.
    pub fn after_event(event: i64) -> Self {
        Self { event, ..Self::default() }
    }

    /// Takes in whose breakers the listener wants, of the data planes that it was told of, and whose it does not any more.
    ///
    /// # Errors
    /// [`Invalid`] for a bad name, and for more than there can be.
    pub fn hear(&mut self, request: &v1::FollowObservationsRequest) -> Result<(), Invalid> {
        for id in &request.want_node_ids {
            let id = NodeId::parse(id).map_err(|invalid| invalid.within("want_node_ids"))?;
            // Of others it can know nothing, and names that it makes up would take room.
            if self.nodes.contains_key(&id) {
                self.due.insert(id.clone());
                self.wanted.insert(id);
            }
        }
        if self.wanted.len() > MAX_TOLD {
            return Err(Invalid::new("want_node_ids", format!("are more than {MAX_TOLD} in all")));
        }
        for id in &request.leave_node_ids {
            self.wanted.remove(id.as_str());
            self.due.remove(id.as_str());
        }
        Ok(())
    }
}

/// How far one control plane has been followed, on one stream.
#[derive(Debug, Default)]
pub struct Followed {
    wanted: HashSet<NodeId>,
    /// The data planes that it has told of, until it has told all.
    told: Option<HashSet<NodeId>>,
    has_begun: bool,
}

impl Observation {
    /// The next message for a listener, without a mark, and whether it has been told all then.
    pub(crate) fn tell_peer(&self, sent: &mut Sent) -> (v1::FollowObservationsResponse, bool) {
        let observed = self.lock();
        let mut is_all = true;
        let mut breakers = Vec::new();
        if sent.under_way.is_none()
            && let Some(node) = sent.due.pop_first()
        {
            // What changes from now on is told again.
            let keys: Vec<_> = observed.matrix.keys_of(&node).cloned().collect();
            breakers.push(v1::PeerBreakers { node_id: node.to_string(), full: true, ..Default::default() });
            sent.under_way = Some((node, keys));
        }
        let wire = |key: &ReplicaKey, node: &NodeId| observed.matrix.row(&(key.clone(), Some(node.clone())));
        if let Some((node, mut keys)) = sent.under_way.take() {
            let rest = keys.split_off(keys.len().min(MAX_ROWS));
            let rows = keys.iter().filter_map(|key| wire(key, &node)).collect();
            match breakers.last_mut() {
                Some(first) => first.breakers = rows,
                None => breakers.push(v1::PeerBreakers {
                    node_id: node.to_string(),
                    breakers: rows,
                    ..Default::default()
                }),
            }
            if rest.is_empty() {
                breakers.last_mut().expect("one was pushed").complete = true;
            } else {
                sent.under_way = Some((node, rest));
            }
            is_all = false;
        } else {
            match observed.matrix.news_of(sent.change, MAX_ROWS, |node| sent.wanted.contains(node)) {
                Some(news) => {
                    let mut by_node: HashMap<NodeId, v1::PeerBreakers> = HashMap::new();
                    for (key, node) in news.gone {
                        let name = v1::PeerBreakerName {
                            service: key.service.to_string(),
                            replica_id: key.replica.to_string(),
                        };
                        of(&mut by_node, &node).gone.push(name);
                    }
                    for (key, node) in news.rows {
                        let row = wire(&key, &node);
                        of(&mut by_node, &node).breakers.extend(row);
                    }
                    breakers.extend(by_node.into_values());
                    sent.change = news.reached;
                    is_all &= news.is_all;
                }
                None => {
                    sent.change = observed.matrix.last_change();
                    sent.due = sent.wanted.iter().cloned().collect();
                    is_all &= sent.due.is_empty();
                }
            }
        }
        let (mut nodes, mut gone_node_ids) = (Vec::new(), Vec::new());
        if is_all {
            let reports = |id: &NodeId| observed.seats.contains_key(&(id.clone(), Stream::Reports));
            (nodes, gone_node_ids) = observed.nodes.news(&mut sent.nodes, clock::now(), MAX_NODES, reports);
            is_all = nodes.len() < MAX_NODES && nodes.iter().all(|node| node.held_replicas.is_none());
        }
        drop(observed);
        let (events, last_event_number) = locked(&self.own_events).after(sent.event, MAX_EVENTS);
        is_all &= events.len() < MAX_EVENTS;
        sent.event = last_event_number;
        let message = v1::FollowObservationsResponse {
            nodes,
            gone_node_ids,
            breakers,
            events,
            last_event_number,
            ..Default::default()
        };
        (message, is_all)
    }

    /// Takes in a message of the control plane at `peer`. Yields whose breakers it is to tell from now on, and whose not.
    ///
    /// # Errors
    /// [`Invalid`] naming what is wrong in it; what came before that is taken in.
    pub(crate) fn hear_peer(
        &self,
        peer: &Arc<str>,
        followed: &mut Followed,
        message: v1::FollowObservationsResponse,
    ) -> Result<(Vec<String>, Vec<String>), Invalid> {
        if !std::mem::replace(&mut followed.has_begun, true) {
            followed.told = Some(HashSet::new());
        }
        let (now, wall) = (clock::now(), clock::wall());
        let mut observed = self.lock();
        let (mut want, mut leave) = (Vec::new(), Vec::new());
        for node in message.nodes {
            let told = Told::parse(node).map_err(|invalid| invalid.within("nodes"))?;
            let id = told.id.clone();
            match observed.nodes.told(peer, told, now) {
                Ok((taken, forgotten)) => {
                    observed.forget_rows_of(forgotten);
                    if taken == Taken::Moved || taken == Taken::Updated && !followed.wanted.contains(&id) {
                        want.push(id.to_string());
                        followed.wanted.insert(id.clone());
                    }
                }
                Err(full) => {
                    tracing::warn!(node = %id, limit = full.limit, "no room for a data plane of another control plane");
                }
            }
            if let Some(told) = &mut followed.told {
                told.insert(id);
            }
            if followed.told.as_ref().map_or(0, HashSet::len).max(followed.wanted.len()) > MAX_TOLD {
                return Err(Invalid::new("nodes", format!("are more than {MAX_TOLD} before the first mark")));
            }
        }
        for id in &message.gone_node_ids {
            let id = NodeId::parse(id).map_err(|invalid| invalid.within("gone_node_ids"))?;
            followed.wanted.remove(&id);
            if observed.nodes.gone(peer, &id) {
                observed.matrix.forget_node(&id);
            }
        }
        for breakers in message.breakers {
            let node = NodeId::parse(&breakers.node_id).map_err(|invalid| invalid.within("breakers"))?;
            if !observed.nodes.is_of(peer, &node) {
                continue;
            }
            for name in &breakers.gone {
                let key = ReplicaKey::parse(&name.service, &name.replica_id);
                observed.matrix.forget_row(&node, &key.map_err(|invalid| invalid.within("breakers.gone"))?);
            }
            // What only a newer control plane knows is left out: the rest of what it says is worth more.
            let rows =
                breakers.breakers.into_iter().filter_map(|row| parse_breaker(&node, row).ok()).collect();
            let report = BreakerReport { full: breakers.full, breakers: rows };
            let dropped = observed.matrix.report(&node, report, wall);
            if breakers.complete {
                observed.nodes.has_told_rows(peer, &node);
            }
            if dropped > 0 {
                tracing::warn!(%node, rows = dropped, "no room for more breakers: rows dropped");
            }
        }
        observed.peers.heard(peer, None, wall);
        let mut found = false;
        if let Some(mark) = message.mark {
            if let Some(told) = followed.told.take() {
                let absent = observed.nodes.of(peer).into_iter().filter(|id| !told.contains(id));
                for id in absent.collect::<Vec<_>>() {
                    if mark.knows_all_nodes {
                        observed.nodes.gone(peer, &id);
                        observed.matrix.forget_node(&id);
                    } else {
                        // It has begun anew and waits for those that followed it before, of which it may not know: they route on.
                        observed.nodes.orphan(&id, now);
                    }
                }
            }
            followed.wanted.retain(|id| {
                let is_its_own = observed.nodes.is_of(peer, id);
                if !is_its_own {
                    leave.push(id.to_string());
                }
                is_its_own
            });
            found = observed.peers.told(peer, mark.revision);
            if mark.knows_all_nodes {
                observed.nodes.knows_all();
            }
        }
        self.tell(observed);
        if found {
            tracing::info!(%peer, "following another control plane");
            self.record([events::peer_heard(peer)]);
        }
        let events = message.events.into_iter().map(cut_event);
        self.keep(events.map(|event| v1::Event { control_plane: peer.to_string(), ..event }));
        if let Some(stats) = parse_stats(message.stats, message.stats_interval)? {
            self.add_stats(&stats, true);
        }
        if let Some(v1::PeerWhatIfAnswer { node_id, answer: Some(answer) }) = message.what_if_answer {
            let node = NodeId::parse(&node_id).map_err(|invalid| invalid.within("what_if_answer"))?;
            self.questions.answer(Answered::parse(&node, answer)?);
        }
        Ok((want, leave))
    }

    /// Makes these the other control planes that there are. Each is missing until it has told all.
    pub(crate) fn expect_peers(&self, addresses: &[Arc<str>]) {
        let mut observed = self.lock();
        for gone in observed.peers.expect(addresses) {
            for id in observed.nodes.of(&gone) {
                observed.nodes.orphan(&id, clock::now());
            }
        }
        self.tell(observed);
    }

    /// Notes that the control plane at `peer` has answered, and who it says it is.
    pub(crate) fn meet_peer(&self, peer: &str, identity: &v1::PeerIdentity) {
        self.lock().peers.heard(peer, Some(identity), clock::wall());
    }

    /// Notes that the control plane at `peer` tells nothing any more, and why.
    pub(crate) fn lose_peer(&self, peer: &str, reason: &str) {
        let mut observed = self.lock();
        let was_heard = observed.peers.lost(peer, reason);
        observed.nodes.hush(peer);
        self.tell(observed);
        if was_heard {
            tracing::warn!(
                peer,
                reason,
                "another control plane is silent: what its data planes report may be over"
            );
            self.record([events::peer_silent(peer, reason)]);
        }
    }

    /// The other control planes that are missing in what is observed here.
    pub(crate) fn silent_control_planes(&self) -> Vec<v1::SilentControlPlane> {
        self.lock().peers.silent()
    }

    /// All of them.
    pub(crate) fn peer_control_planes(&self) -> Vec<v1::PeerControlPlane> {
        let observed = self.lock();
        let count = |peer: &str| i32::try_from(observed.nodes.of(peer).len()).unwrap_or(i32::MAX);
        observed.peers.to_wire(count)
    }

    /// Whether there are other control planes of this registry.
    pub(crate) fn has_peers(&self) -> bool {
        self.peer_counts() != (0, 0)
    }

    /// How many other control planes tell, and how many do not.
    pub(crate) fn peer_counts(&self) -> (usize, usize) {
        self.lock().peers.counts()
    }

    /// Follows whether somebody reads counts here.
    pub(crate) fn follow_readers(&self) -> watch::Receiver<bool> {
        self.reads_counts.subscribe()
    }

    /// Whether no data plane is missed in what this `process` of another control plane knows by itself and is told here.
    ///
    /// What followed the process before it is known here as that one's until this one has told all of its own.
    pub(crate) fn knows_all_nodes_beside(&self, process: &str) -> bool {
        let observed = self.lock();
        let is_known = observed.nodes.have_returned(clock::now()) && !observed.nodes.knows_by_the_silent();
        is_known && observed.peers.tells(process)
    }

    /// Whether what every other control plane that speaks knew at `revision` has come.
    pub(super) fn has_heard_all_at(&self, revision: Revision) -> bool {
        let observed = self.lock();
        observed.peers.hear_all_at(revision)
    }
}

fn of<'a>(by_node: &'a mut HashMap<NodeId, v1::PeerBreakers>, node: &NodeId) -> &'a mut v1::PeerBreakers {
    by_node
        .entry(node.clone())
        .or_insert_with(|| v1::PeerBreakers { node_id: node.to_string(), ..Default::default() })
}

#[cfg(test)]
mod tests;
