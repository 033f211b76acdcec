//! Why a replica gets requests or does not, concluded from plain facts. Pure.
//!
//! Both planes answer with it: a control plane from what all data planes report, a data plane from its own table. Words are
//! added one by one ([`Explanation::add`]), so that thousands of data planes need the memory of fifty.
//!
//! What a data plane sees is evidence, weighed one by one; what follows from all of it:
//!
//! | the registry | data planes with enough traffic | so |
//! |---|---|---|
//! | lets nobody ask it | – | its owner or an operator decided |
//! | lets it be asked | an operator forced those that do not ask | an operator decided |
//! | | more see it fail than work | the replica is bad |
//! | | some see it fail, as many or more see it work | the way from those some is bad |
//! | | one sees it fail, nobody else has traffic | nobody can tell |
//! | | several see it fail, nobody sees it work | the replica is bad |
//! | | those that see it fail ask it all the same | the policy decided |

mod causes;
mod conclusion;
mod next;
mod service;
mod span;
mod standing;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

pub use self::{
    service::ServiceExplanation,
    standing::{Registered, enough_outcomes},
};
use crate::{policy, time::timestamp, v1};

/// Data planes, or replicas, that are told of one by one; the others are counted.
pub const MAX_SHOWN: usize = 50;
/// Data planes of a kind that a sentence names.
const MAX_NAMED: usize = 3;

/// What is known beside the words of data planes.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When all of this is so.
    pub now: SystemTime,
    /// The replica's names.
    pub service: String,
    /// Likewise.
    pub replica_id: String,
    /// The registry's word; `None`: it has no such replica.
    pub replica: Option<v1::Replica>,
    /// What became of it, if it had one lately.
    pub removed: Option<v1::RemovedReplica>,
    /// The rules in force.
    pub policy: policy::Breaker,
    /// How requests are shared out among its peers.
    pub balancing: policy::Balancing,
    /// What operators have decided that may concern it.
    pub overrides: Vec<v1::OverrideEntry>,
    /// The registry's revision.
    pub revision: i64,
}

/// Whether what an operator decided holds for a replica: alone, as one of all of its service, or with the service.
pub fn concerns(entry: &v1::OverrideEntry, service: &str, replica_id: &str) -> bool {
    entry.service == service && ["", "-", replica_id].contains(&entry.replica_id.as_str())
}

/// What one data plane says of the replica.
#[derive(Debug, Clone, Default)]
pub struct Word {
    /// Which one.
    pub node_id: String,
    /// Whether it is connected, and how far it has come.
    pub state: v1::NodeState,
    /// Whether it has not been heard of lately.
    pub is_silent: bool,
    /// What it has taken on.
    pub acked_revision: i64,
    /// When it reported last.
    pub report_time: Option<prost_types::Timestamp>,
    /// Its row; `None` when it has not spoken of the replica.
    pub breaker: Option<v1::Breaker>,
    /// Whether its guard holds a replica that the registry has no more, and since when, if that is known.
    pub held: Option<Option<prost_types::Timestamp>>,
    /// The control plane that it follows; empty: the one that answers has no name.
    pub control_plane: String,
    /// The one that it followed before.
    pub left: Option<v1::LeftControlPlane>,
}

/// Weighs words and keeps the worst.
#[derive(Debug)]
pub struct Explanation {
    facts: Facts,
    /// Whether and why the registry lets nobody ask it.
    registered: Registered,
    limit: usize,
    only: Option<String>,
    counts: v1::NodeCounts,
    worst: Vec<v1::NodeExplanation>,
    failing: Vec<String>,
    working: Vec<String>,
    untold: Vec<String>,
    forced_open: i32,
    /// That hold it, and whose breaker nobody here can see.
    holding_unseen: i32,
    forced_closed: i32,
    /// The worst of those that fail: it speaks for all.
    speaker: Option<v1::NodeExplanation>,
    causes: causes::Causes,
}

impl Explanation {
    /// Nobody has spoken yet. At most `limit` data planes will be told of one by one, or only the one of this id.
    pub fn new(facts: Facts, limit: usize, only: Option<&str>) -> Self {
        Self {
            registered: Registered::of(facts.replica.as_ref()),
            facts,
            limit,
            only: only.map(str::to_owned),
            counts: v1::NodeCounts::default(),
            worst: Vec::new(),
            failing: Vec::new(),
            working: Vec::new(),
            untold: Vec::new(),
            forced_open: 0,
            holding_unseen: 0,
            forced_closed: 0,
            speaker: None,
            causes: causes::Causes::default(),
        }
    }

    /// Takes in what a data plane says.
    pub fn add(&mut self, word: Word) {
        let node = standing::explain(&self.facts, &self.registered, word);
        self.count(&node);
        if self.limit > 0 {
            self.causes.add(&self.facts, self.registered, &node);
        }
        if standing::is_out(node.standing()) || node.evidence() == v1::Evidence::Fails {
            let is_worse = self.speaker.as_ref().is_none_or(|worst| rank(&node) < rank(worst));
            if is_worse {
                self.speaker = Some(node.clone());
            }
        }
        if self.only.as_ref().is_none_or(|only| *only == node.node_id) && self.limit > 0 {
            self.worst.push(node);
            if self.worst.len() >= 2 * self.limit {
                self.keep_the_worst();
            }
        }
    }

    /// What follows from all of it.
    pub fn finish(mut self) -> v1::ExplainReplicaResponse {
        self.keep_the_worst();
        let (verdict, conclusion, summary) = conclusion::conclude(&self);
        let next_steps = next::steps(&self, verdict, conclusion);
        let causes = causes::causes(&self);
        let overrides = self.concerning().cloned().collect();
        v1::ExplainReplicaResponse {
            service: self.facts.service,
            replica_id: self.facts.replica_id,
            verdict: verdict.into(),
            conclusion: conclusion.into(),
            summary,
            replica: self.facts.replica,
            removed: self.facts.removed,
            nodes: self.worst,
            node_counts: Some(self.counts),
            overrides,
            breaker_policy: policy::Policy { breaker: self.facts.policy, ..Default::default() }
                .to_wire()
                .breaker,
            next_steps,
            explain_time: Some(timestamp(self.facts.now)),
            revision: self.facts.revision,
            causes,
            // Who answers for others knows which.
            silent_control_planes: Vec::new(),
        }
    }

    /// Overrides of this replica, or of every one of its service, or of the service.
    fn concerning(&self) -> impl Iterator<Item = &v1::OverrideEntry> {
        let Facts { service, replica_id, overrides, .. } = &self.facts;
        overrides.iter().filter(move |entry| concerns(entry, service, replica_id))
    }

    fn count(&mut self, node: &v1::NodeExplanation) {
        use v1::NodeStanding as Standing;
        let counts = &mut self.counts;
        counts.total += 1;
        match node.standing() {
            Standing::Asks | Standing::AsksRegardless | Standing::Holds => counts.asking += 1,
            Standing::Probes | Standing::Rests | Standing::ForcedOpen | Standing::CheckedOut => {
                counts.out += 1
            }
            Standing::StandsBy => counts.standing_by += 1,
            Standing::HeldBack => counts.held_back += 1,
            Standing::Untold => {
                counts.untold += 1;
                name(&mut self.untold, node);
            }
            Standing::Silent | Standing::Unspecified => {
                counts.silent += 1;
                return;
            }
        }
        let holds = node.standing() == Standing::Holds;
        counts.holding += i32::from(holds);
        self.holding_unseen += i32::from(holds && node.breaker.is_none());
        self.forced_open += i32::from(node.standing() == Standing::ForcedOpen);
        let state = node.breaker.as_ref().map(v1::Breaker::state);
        self.forced_closed += i32::from(state == Some(v1::BreakerState::ForcedClosed));
        match node.evidence() {
            v1::Evidence::Fails => {
                counts.failing += 1;
                name(&mut self.failing, node);
            }
            v1::Evidence::Works => {
                counts.working += 1;
                name(&mut self.working, node);
            }
            v1::Evidence::None | v1::Evidence::Unspecified => counts.without_evidence += 1,
        }
    }

    fn keep_the_worst(&mut self) {
        self.worst.sort_by(|one, other| rank(one).cmp(&rank(other)));
        self.worst.truncate(self.limit);
    }
}

fn name(names: &mut Vec<String>, node: &v1::NodeExplanation) {
    if names.len() < MAX_NAMED {
        names.push(node.node_id.clone());
    }
}

/// Sorts the worst first: who rests, then who was made to, then who is unsure, and the well last.
fn rank(node: &v1::NodeExplanation) -> (u8, u8, &str) {
    use v1::NodeStanding as Standing;
    let standing = match node.standing() {
        Standing::Rests => 0,
        Standing::CheckedOut | Standing::Probes => 1,
        Standing::ForcedOpen => 2,
        Standing::AsksRegardless | Standing::Holds => 3,
        Standing::Untold => 5,
        Standing::Silent | Standing::Unspecified => 6,
        Standing::HeldBack => 7,
        Standing::Asks if node.evidence() == v1::Evidence::Fails => 4,
        Standing::StandsBy => 8,
        Standing::Asks => 9,
    };
    (standing, u8::from(node.evidence() != v1::Evidence::Fails), &node.node_id)
}
