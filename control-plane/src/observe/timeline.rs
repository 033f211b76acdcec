//! What happened, newest first: one bounded ring for everything and a small one for each replica.
//!
//! The small rings let a quiet replica keep its history while a busy one fills the large ring. Like events fold into
//! one, which moves to the newest place: so a reader that goes on from its cursor is told of every repetition.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use gateway_proto::{Invalid, ReplicaKey, v1};

use super::{fold, scope::Scope};

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
    events: BTreeMap<Position, Kept>,
    /// The last one that made room for others.
    lost: Position,
    /// The newest event of each likeness that is kept, to fold the next one into.
    newest: HashMap<u64, Position>,
    replicas: HashMap<ReplicaKey, Ring>,
    /// Replicas by their newest event.
    quietest: BTreeMap<Position, ReplicaKey>,
    limits: TimelineLimits,
}

#[derive(Debug)]
struct Kept {
    event: Arc<v1::Event>,
    /// What it shares with like events.
    likeness: Option<u64>,
}

type Ring = VecDeque<(Position, Arc<v1::Event>)>;

/// Number of an event in one timeline, from 1.
pub type Position = u64;

/// Events after a cursor, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Since {
    /// The events, at most as many as were asked for.
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

impl Timeline {
    /// An empty timeline of a process that began at `started_ms`, milliseconds of Unix time.
    pub fn new(started_ms: u64, limits: TimelineLimits) -> Self {
        Self {
            prefix: started_ms,
            last: 0,
            events: BTreeMap::new(),
            lost: 0,
            newest: HashMap::new(),
            replicas: HashMap::new(),
            quietest: BTreeMap::new(),
            limits,
        }
    }

    /// Numbers an event and keeps it, together with the like one before it if there is one.
    pub fn push(&mut self, mut event: v1::Event) -> Position {
        let likeness = fold::likeness(&event);
        let like = likeness.and_then(|likeness| self.newest.get(&likeness)).copied();
        if let Some((position, earlier)) =
            like.and_then(|position| Some((position, &self.events.get(&position)?.event)))
            && fold::repeats(earlier, &event)
        {
            event = fold::fold(earlier, event);
            self.take(position);
        }
        self.last += 1;
        event.event_id = format!("{:012x}-{:012x}", self.prefix, self.last);
        let event = Arc::new(event);
        self.events.insert(self.last, Kept { event: Arc::clone(&event), likeness });
        if let Some(likeness) = likeness {
            self.newest.insert(likeness, self.last);
        }
        if self.events.len() > self.limits.events
            && let Some((oldest, gone)) = self.events.pop_first()
        {
            self.lost = oldest;
            self.forget_likeness(oldest, &gone);
        }
        if let Ok(key) = ReplicaKey::parse(&event.service, &event.replica_id) {
            self.remember(key, &event);
        }
        self.last
    }

    /// The number of the last event.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Up to `limit` events in scope before `before`, or the newest, newest first. Those of one replica come from its own
    /// history. At most `limit` events are looked at, so there may be more than are yielded: go on from the last position,
    /// until there is none.
    pub fn before(&self, scope: &Scope, before: Option<Position>, limit: usize) -> Looked {
        let before = before.unwrap_or(Position::MAX);
        let mut looked = Looked { events: Vec::new(), reached: None };
        let mut look = |position: Position, event: &Arc<v1::Event>| {
            looked.reached = Some(position);
            if scope.admits(event) {
                looked.events.push((position, Arc::clone(event)));
            }
        };
        match scope.replica() {
            Some(key) => {
                let empty = Ring::new();
                let ring = self.replicas.get(&key).unwrap_or(&empty);
                let end = ring.partition_point(|(position, _)| *position < before);
                ring.range(..end).rev().take(limit).for_each(|(position, event)| look(*position, event));
            }
            None => {
                let events = self.events.range(..before).rev().take(limit);
                events.for_each(|(position, kept)| look(*position, &kept.event));
            }
        }
        looked
    }

    /// Up to `limit` events after a cursor, oldest first.
    pub fn since(&self, cursor: Cursor, limit: usize) -> Since {
        let after = match cursor {
            Cursor::After(position) => position,
            Cursor::Foreign => 0,
        };
        let gap = cursor == Cursor::Foreign || after < self.lost;
        let events = self.events.range(after.saturating_add(1)..).take(limit);
        let (positions, events): (Vec<_>, Vec<_>) =
            events.map(|(position, kept)| (*position, Arc::clone(&kept.event))).unzip();
        // A full batch goes on after its own last event, a short one after all there is.
        let reached =
            positions.last().copied().filter(|_| positions.len() == limit).unwrap_or(after.max(self.last));
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

    /// Takes an event out of its place.
    fn take(&mut self, position: Position) {
        let Some(kept) = self.events.remove(&position) else { return };
        self.forget_likeness(position, &kept);
        let event = &kept.event;
        let Ok(key) = ReplicaKey::parse(&event.service, &event.replica_id) else { return };
        let Some(ring) = self.replicas.get_mut(&key) else { return };
        ring.retain(|(known, _)| *known != position);
        if self.quietest.remove(&position).is_some()
            && let Some((newest, _)) = ring.back()
        {
            self.quietest.insert(*newest, key);
        } else if ring.is_empty() {
            self.replicas.remove(&key);
        }
    }

    fn forget_likeness(&mut self, position: Position, kept: &Kept) {
        if let Some(likeness) = kept.likeness
            && self.newest.get(&likeness) == Some(&position)
        {
            self.newest.remove(&likeness);
        }
    }

    fn remember(&mut self, key: ReplicaKey, event: &Arc<v1::Event>) {
        let ring = self.replicas.entry(key.clone()).or_default();
        if let Some((newest, _)) = ring.back() {
            self.quietest.remove(newest);
        }
        if ring.len() >= self.limits.events_per_replica {
            ring.pop_front();
        }
        ring.push_back((self.last, Arc::clone(event)));
        self.quietest.insert(self.last, key);
        if self.replicas.len() > self.limits.replicas
            && let Some((_, quiet)) = self.quietest.pop_first()
        {
            self.replicas.remove(&quiet);
        }
    }
}

/// What a look at part of the timeline found.
#[derive(Debug, Clone, PartialEq)]
pub struct Looked {
    /// The events in scope, newest first.
    pub events: Vec<(Position, Arc<v1::Event>)>,
    /// The oldest position looked at; `None`: there was nothing to look at.
    pub reached: Option<Position>,
}

#[cfg(test)]
mod tests;
