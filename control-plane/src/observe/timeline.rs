//! What happened, newest first: one bounded ring for everything and a small one for each replica.
//!
//! The small rings let a quiet replica keep its history while a busy one fills the large ring.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use gateway_proto::{Invalid, ReplicaId, ReplicaKey, ServiceName, v1};

/// Bounds of a timeline.
#[derive(Debug, Clone, Copy)]
pub struct TimelineLimits {
    /// Events kept over all.
    pub events: usize,
    /// Events kept for each replica beside that.
    pub events_per_replica: usize,
    /// Replicas that events are kept for; the one that was quiet longest makes room.
    pub replicas: usize,
}

impl Default for TimelineLimits {
    /// Some 10 MB when full.
    fn default() -> Self {
        Self { events: 10_000, events_per_replica: 32, replicas: 5000 }
    }
}

/// Numbers and keeps events.
#[derive(Debug)]
pub struct Timeline {
    /// What begins every id: grows from one process to the next, so that ids stay ordered and foreign ones show.
    prefix: u64,
    /// Number of the last event; 0 before the first.
    last: Position,
    ring: Ring,
    replicas: HashMap<ReplicaKey, Ring>,
    /// Replicas by their newest event.
    quietest: BTreeMap<Position, ReplicaKey>,
    limits: TimelineLimits,
}

type Ring = VecDeque<(Position, Arc<v1::Event>)>;

/// Number of an event in one timeline, from 1.
pub type Position = u64;

/// Which events to show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Of this service only.
    pub service: Option<ServiceName>,
    /// Of this replica of the service only.
    pub replica: Option<ReplicaId>,
}

/// Events after a cursor, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Since {
    /// The events.
    pub events: Vec<Arc<v1::Event>>,
    /// The position to go on from.
    pub reached: Position,
    /// Whether events between the cursor and these are lost.
    pub gap: bool,
}

/// A place to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// After this event.
    After(Position),
    /// After an event of an earlier process: everything that is kept, and a gap before it.
    Foreign,
}

impl EventFilter {
    /// Reads names; an empty service, or `-`, stands for all.
    ///
    /// # Errors
    /// [`Invalid`] for a bad name, and for a replica without its service.
    pub fn parse(service: &str, replica_id: &str) -> Result<Self, Invalid> {
        let service = match service {
            "" | "-" => None,
            name => Some(ServiceName::parse(name)?),
        };
        let replica = match replica_id {
            "" => None,
            _ if service.is_none() => return Err(Invalid::new("replica_id", "needs its service beside it")),
            id => Some(ReplicaId::parse(id)?),
        };
        Ok(Self { service, replica })
    }

    fn admits(&self, event: &v1::Event) -> bool {
        self.service.as_ref().is_none_or(|name| name.as_str() == event.service)
            && self.replica.as_ref().is_none_or(|id| id.as_str() == event.replica_id)
    }
}

impl Timeline {
    /// An empty timeline of a process that began at `started_ms`, milliseconds of Unix time.
    pub fn new(started_ms: u64, limits: TimelineLimits) -> Self {
        Self {
            prefix: started_ms,
            last: 0,
            ring: Ring::new(),
            replicas: HashMap::new(),
            quietest: BTreeMap::new(),
            limits,
        }
    }

    /// Numbers an event and keeps it.
    pub fn push(&mut self, mut event: v1::Event) -> Position {
        self.last += 1;
        event.event_id = format!("{:012x}-{:012x}", self.prefix, self.last);
        let event = Arc::new(event);
        append(&mut self.ring, self.last, &event, self.limits.events);
        if let Ok(key) = ReplicaKey::parse(&event.service, &event.replica_id) {
            self.remember(key, &event);
        }
        self.last
    }

    /// The number of the last event.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Up to `limit` events before `before`, or the newest, newest first.
    pub fn list(
        &self,
        filter: &EventFilter,
        before: Option<Position>,
        limit: usize,
    ) -> Vec<(Position, Arc<v1::Event>)> {
        let empty = Ring::new();
        let ring = match (&filter.service, &filter.replica) {
            (Some(service), Some(replica)) => {
                let key = ReplicaKey { service: service.clone(), replica: replica.clone() };
                self.replicas.get(&key).unwrap_or(&empty)
            }
            _ => &self.ring,
        };
        let end = ring.partition_point(|(position, _)| before.is_none_or(|before| *position < before));
        let matching = ring.range(..end).rev().filter(|(_, event)| filter.admits(event));
        matching.take(limit).cloned().collect()
    }

    /// Up to `limit` events after a cursor, oldest first.
    pub fn since(&self, cursor: Cursor, filter: &EventFilter, limit: usize) -> Since {
        let after = match cursor {
            Cursor::After(position) => position,
            Cursor::Foreign => 0,
        };
        let oldest = self.ring.front().map_or(self.last + 1, |(position, _)| *position);
        let gap = cursor == Cursor::Foreign || after + 1 < oldest;
        let start = self.ring.partition_point(|(position, _)| *position <= after);
        let mut events = Vec::new();
        let mut reached = after.max(self.last);
        for (position, event) in self.ring.range(start..).filter(|(_, event)| filter.admits(event)) {
            if events.len() == limit {
                break;
            }
            events.push(Arc::clone(event));
            // A full batch goes on after its own last event, a short one after all there is.
            if events.len() == limit {
                reached = *position;
            }
        }
        Since { events, reached, gap }
    }

    /// Reads an event's id.
    ///
    /// # Errors
    /// [`Invalid`] for the field `after_event_id` when it is no id of any timeline.
    pub fn cursor(&self, event_id: &str) -> Result<Cursor, Invalid> {
        let parts = event_id.split_once('-').and_then(|(prefix, position)| {
            Some((u64::from_str_radix(prefix, 16).ok()?, u64::from_str_radix(position, 16).ok()?))
        });
        match parts {
            Some((prefix, position)) if prefix == self.prefix && position <= self.last => {
                Ok(Cursor::After(position))
            }
            Some(_) => Ok(Cursor::Foreign),
            None => Err(Invalid::new("after_event_id", "is no event's id")),
        }
    }

    fn remember(&mut self, key: ReplicaKey, event: &Arc<v1::Event>) {
        let ring = self.replicas.entry(key.clone()).or_default();
        if let Some((newest, _)) = ring.back() {
            self.quietest.remove(newest);
        }
        append(ring, self.last, event, self.limits.events_per_replica);
        self.quietest.insert(self.last, key);
        if self.replicas.len() > self.limits.replicas
            && let Some((_, quiet)) = self.quietest.pop_first()
        {
            self.replicas.remove(&quiet);
        }
    }
}

fn append(ring: &mut Ring, position: Position, event: &Arc<v1::Event>, capacity: usize) {
    if ring.len() >= capacity {
        ring.pop_front();
    }
    ring.push_back((position, Arc::clone(event)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TimelineLimits = TimelineLimits { events: 4, events_per_replica: 2, replicas: 2 };

    fn timeline(replicas: &[&str]) -> Timeline {
        let mut timeline = Timeline::new(7, LIMITS);
        for id in replicas {
            let event = v1::Event { service: "a".into(), replica_id: (*id).into(), ..Default::default() };
            timeline.push(event);
        }
        timeline
    }

    fn positions(listed: &[(Position, Arc<v1::Event>)]) -> Vec<Position> {
        listed.iter().map(|(position, _)| *position).collect()
    }

    #[test]
    fn events_are_listed_newest_first_and_page_by_page() {
        let timeline = timeline(&["x", "x", "y", "x"]);
        let all = EventFilter::default();
        assert_eq!(positions(&timeline.list(&all, None, 3)), [4, 3, 2]);
        assert_eq!(positions(&timeline.list(&all, Some(2), 3)), [1]);
    }

    #[test]
    fn a_quiet_replica_keeps_its_events_while_a_busy_one_fills_the_ring() {
        let timeline = timeline(&["quiet", "x", "x", "x", "x", "x"]);
        let quiet = EventFilter::parse("a", "quiet").unwrap();
        assert_eq!(positions(&timeline.list(&quiet, None, 9)), [1]);
        assert_eq!(positions(&timeline.list(&EventFilter::default(), None, 9)), [6, 5, 4, 3]);
        assert_eq!(positions(&timeline.list(&EventFilter::parse("a", "x").unwrap(), None, 9)), [6, 5]);
    }

    #[test]
    fn the_replica_that_was_quiet_longest_makes_room() {
        let timeline = timeline(&["one", "two", "one", "three"]);
        assert_eq!(timeline.list(&EventFilter::parse("a", "two").unwrap(), None, 9).len(), 0);
        assert_eq!(timeline.list(&EventFilter::parse("a", "one").unwrap(), None, 9).len(), 2);
        assert_eq!(timeline.quietest.len(), timeline.replicas.len());
    }

    #[test]
    fn ids_are_ordered_and_lead_back_to_their_place() {
        let timeline = timeline(&["x", "x"]);
        let listed = timeline.list(&EventFilter::default(), None, 9);
        assert!(listed[0].1.event_id > listed[1].1.event_id);
        assert_eq!(timeline.cursor(&listed[1].1.event_id), Ok(Cursor::After(1)));
        assert_eq!(timeline.cursor("000000000006-000000000001"), Ok(Cursor::Foreign));
        assert!(timeline.cursor("yesterday").is_err());
    }

    #[test]
    fn a_cursor_that_is_too_old_or_foreign_yields_what_is_left_and_a_gap() {
        let timeline = timeline(&["x"; 6]);
        let all = EventFilter::default();
        let since = |cursor| {
            let since = timeline.since(cursor, &all, 9);
            (since.events.len(), since.reached, since.gap)
        };
        assert_eq!(since(Cursor::After(1)), (4, 6, true));
        assert_eq!(since(Cursor::Foreign), (4, 6, true));
        assert_eq!(since(Cursor::After(2)), (4, 6, false));
        assert_eq!(since(Cursor::After(6)), (0, 6, false));
    }

    #[test]
    fn events_after_a_cursor_come_in_bounded_batches_without_loss() {
        let timeline = timeline(&["x", "y", "x", "y"]);
        let filter = EventFilter::parse("a", "x").unwrap();
        let first = timeline.since(Cursor::After(0), &filter, 1);
        assert_eq!((first.events.len(), first.reached), (1, 1));
        let second = timeline.since(Cursor::After(first.reached), &filter, 1);
        assert_eq!((second.events.len(), second.reached), (1, 3));
        let third = timeline.since(Cursor::After(second.reached), &filter, 1);
        assert_eq!((third.events.len(), third.reached), (0, 4));
    }

    #[test]
    fn a_replica_without_its_service_is_no_filter() {
        assert_eq!(EventFilter::parse("-", ""), Ok(EventFilter::default()));
        assert_eq!(EventFilter::parse("", "x").unwrap_err().violations()[0].field, "replica_id");
    }
}
