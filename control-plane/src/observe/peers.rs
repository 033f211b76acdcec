//! The other control planes: which of them tell what their data planes report, and how far each has told it.
//!
//! What they tell is mixed into what is observed here, see [`super::Nodes`] and [`super::Matrix`], so that everything which
//! reads that says the same at every control plane. This says what is missing in it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{time::timestamp, v1};

use crate::registry::Revision;

/// Longer versions and names of processes are cut.
const MAX_NAME_CHARS: usize = 63;
/// Longer reasons are cut.
const MAX_REASON_CHARS: usize = 200;
/// Events of this control plane that are kept for others: some half a megabyte.
const MAX_EVENTS: usize = 1000;

/// The other control planes by their addresses.
#[derive(Debug, Default)]
pub struct Peers(BTreeMap<Arc<str>, Peer>);

#[derive(Debug)]
struct Peer {
    version: String,
    process: String,
    heard: Option<SystemTime>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// All that it knew when its registry was at this revision has come.
    Told(Revision),
    /// Why not.
    Silent(String),
}

impl Peers {
    /// Makes these the control planes that there are. Yields those that are no more.
    pub fn expect(&mut self, addresses: &[Arc<str>]) -> Vec<Arc<str>> {
        let gone: Vec<_> = self.0.keys().filter(|known| !addresses.contains(known)).cloned().collect();
        for address in &gone {
            self.0.remove(address);
        }
        for address in addresses {
            self.0.entry(Arc::clone(address)).or_insert_with(|| Peer {
                version: String::new(),
                process: String::new(),
                heard: None,
                state: State::Silent("it has not been reached yet".into()),
            });
        }
        gone
    }

    /// Notes that one was heard, and who it is if it said so.
    pub fn heard(&mut self, address: &str, identity: Option<&v1::PeerIdentity>, at: SystemTime) {
        let Some(peer) = self.0.get_mut(address) else { return };
        peer.heard = Some(at);
        if let Some(identity) = identity {
            let cut = |text: &str| text.chars().take(MAX_NAME_CHARS).collect();
            (peer.version, peer.process) = (cut(&identity.version), cut(&identity.process_id));
        }
    }

    /// Notes that it has told all that it knew at `revision`. Yields whether it was silent before.
    pub fn told(&mut self, address: &str, revision: Revision) -> bool {
        let Some(peer) = self.0.get_mut(address) else { return false };
        let was_silent = matches!(peer.state, State::Silent(_));
        peer.state = State::Told(revision);
        was_silent
    }

    /// Notes that it tells nothing any more, and why. Yields whether it did before.
    pub fn lost(&mut self, address: &str, reason: &str) -> bool {
        let Some(peer) = self.0.get_mut(address) else { return false };
        let reason = reason.chars().take(MAX_REASON_CHARS).collect();
        matches!(std::mem::replace(&mut peer.state, State::Silent(reason)), State::Told(_))
    }

    /// Whether this process of one has told all that it knew.
    pub fn tells(&self, process: &str) -> bool {
        self.0.values().any(|peer| peer.process == process && matches!(peer.state, State::Told(_)))
    }

    /// Those that tell nothing.
    pub fn silent(&self) -> Vec<v1::SilentControlPlane> {
        self.short_of(Revision::MIN)
    }

    /// Those of whose data planes nobody knows whether they are all known, as far as they may route by what was before
    /// `revision`: those that tell nothing, and those that have not come to it.
    pub fn short_of(&self, revision: Revision) -> Vec<v1::SilentControlPlane> {
        let short = self.0.iter().filter_map(|(address, peer)| {
            let reason = match &peer.state {
                State::Told(reached) if *reached >= revision => return None,
                State::Told(reached) => format!("it is at revision {reached} of {revision}"),
                State::Silent(reason) => reason.clone(),
            };
            let last_heard_time = peer.heard.map(timestamp);
            Some(v1::SilentControlPlane { address: address.to_string(), reason, last_heard_time })
        });
        short.collect()
    }

    /// Whether all have told all that they knew at `revision`.
    pub fn reach(&self, revision: Revision) -> bool {
        self.0.values().all(|peer| matches!(peer.state, State::Told(reached) if reached >= revision))
    }

    /// Whether all that speak have told all that they knew at `revision`.
    pub fn hear_all_at(&self, revision: Revision) -> bool {
        self.0.values().all(|peer| !matches!(peer.state, State::Told(reached) if reached < revision))
    }

    /// All of them. `node_count` says how many data planes follow one.
    pub fn to_wire(&self, node_count: impl Fn(&str) -> i32) -> Vec<v1::PeerControlPlane> {
        let wire = |(address, peer): (&Arc<str>, &Peer)| v1::PeerControlPlane {
            address: address.to_string(),
            version: peer.version.clone(),
            last_heard_time: peer.heard.map(timestamp),
            node_count: node_count(address),
        };
        self.0.iter().map(wire).collect()
    }

    /// How many tell, and how many do not.
    pub fn counts(&self) -> (usize, usize) {
        let silent = self.0.values().filter(|peer| matches!(peer.state, State::Silent(_))).count();
        (self.0.len() - silent, silent)
    }
}

/// What was noted here and is not known to other control planes by itself, numbered from 1.
#[derive(Debug, Default)]
pub(super) struct OwnEvents {
    events: VecDeque<v1::Event>,
    last: i64,
}

impl OwnEvents {
    /// Keeps it, in the place of the oldest if need be.
    pub(super) fn push(&mut self, event: v1::Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.last += 1;
    }

    /// Up to `limit` after number `after`, oldest first, and the number of the last one of them.
    pub(super) fn after(&self, after: i64, limit: usize) -> (Vec<v1::Event>, i64) {
        let first = self.last - i64::try_from(self.events.len()).unwrap_or(self.last);
        // A number of another process, or of what is kept no more.
        let after = if after > self.last { first } else { after.max(first) };
        let skipped = usize::try_from(after - first).unwrap_or(0);
        let events: Vec<_> = self.events.iter().skip(skipped).take(limit).cloned().collect();
        let reached = after + i64::try_from(events.len()).unwrap_or(0);
        (events, reached)
    }
}

/// Whether other control planes are told of what was noted beside the registry: not of what each of them finds by itself.
pub(super) fn is_own(event: &v1::Event) -> bool {
    let is_judged =
        ["GUARD_HOLDING", "GUARD_CLEARED", "EVICTION_HELD", "CONTROL_PLANE_SILENT", "CONTROL_PLANE_HEARD"];
    !event.node_id.is_empty() || !is_judged.contains(&event.event_type.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(addresses: &[&str]) -> Peers {
        let mut peers = Peers::default();
        peers.expect(&addresses.iter().map(|address| Arc::from(*address)).collect::<Vec<_>>());
        peers
    }

    fn reasons(silent: Vec<v1::SilentControlPlane>) -> Vec<(String, String)> {
        silent.into_iter().map(|silent| (silent.address, silent.reason)).collect()
    }

    #[test]
    fn without_others_nothing_is_missing() {
        assert!(Peers::default().reach(Revision::MAX) && Peers::default().silent().is_empty());
    }

    #[test]
    fn one_is_silent_until_it_has_told_all_and_again_when_it_is_lost() {
        let mut peers = peers(&["b:1"]);
        assert!(!peers.reach(0));
        assert!(peers.told("b:1", 5));
        assert!(!peers.told("b:1", 6));
        assert_eq!((peers.silent().len(), peers.reach(6), peers.reach(7)), (0, true, false));
        assert_eq!(reasons(peers.short_of(7)), [("b:1".into(), "it is at revision 6 of 7".into())]);
        assert!(peers.lost("b:1", "connection refused"));
        assert!(!peers.lost("b:1", "connection refused"));
        assert_eq!(reasons(peers.silent()), [("b:1".into(), "connection refused".into())]);
    }

    #[test]
    fn what_is_said_of_one_that_is_not_expected_any_more_counts_for_nothing() {
        let mut peers = peers(&["b:1", "c:1"]);
        assert_eq!(peers.expect(&[Arc::from("c:1")]), [Arc::from("b:1")]);
        assert!(!peers.told("b:1", 5));
        assert_eq!(peers.counts(), (0, 1));
    }

    #[test]
    fn events_are_told_once_and_those_that_are_kept_no_more_are_passed_over() {
        let mut own = OwnEvents::default();
        let event = |number: i64| v1::Event { message: number.to_string(), ..Default::default() };
        (1..=MAX_EVENTS as i64 + 2).for_each(|number| own.push(event(number)));
        let messages = |(events, reached): (Vec<v1::Event>, i64)| {
            (events.into_iter().map(|event| event.message).collect::<Vec<_>>(), reached)
        };
        assert_eq!(messages(own.after(0, 2)), (vec!["3".into(), "4".into()], 4));
        assert_eq!(messages(own.after(1001, 2)), (vec!["1002".into()], 1002));
        assert_eq!(messages(own.after(1002, 2)), (vec![], 1002));
        assert_eq!(messages(own.after(9999, 1)), (vec!["3".into()], 3), "of another process");
    }
}
