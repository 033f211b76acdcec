//! Whose check is due when, how many may be under way, and how many may begin in a second. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use gateway_proto::{ReplicaId, ReplicaKey, ServiceName};

use crate::routing::{Rate, Tick};

/// Checks under way at once.
pub(super) const MAX_UNDER_WAY: usize = 128;
/// Of one service, so that one whose checks all take their whole timeout does not hold up the others.
pub(super) const MAX_OF_A_SERVICE: usize = 32;

/// Who is checked, and when next. However many wait, each step takes logarithmic time: a service of which thousands are
/// overdue takes none from the others.
///
/// Two things are scarce, and each is shared out by a rule of its own. *Places*: no service takes more than it leaves free, so
/// that there is one at once for a service that has none, and the last ones are for those alone. The *rate*: first checks come
/// before all others, and services take turns, so that one of few replicas has them on time, whatever the others wait for.
#[derive(Debug)]
pub(super) struct Schedule {
    lanes: HashMap<ServiceName, Lane>,
    /// Services that have any to check, and room for it, by how many they have under way.
    turns: [BTreeSet<(Turn, ServiceName)>; MAX_OF_A_SERVICE],
    /// Since when each service has had one due, or when it will.
    oldest: BTreeSet<(Tick, ServiceName)>,
    /// How many are checked, and how many checks are under way.
    checked: usize,
    total: usize,
    rate: Rate,
    /// When the next one would be due if all kept to the rate.
    paced: Tick,
}

/// Who is checked of one service, whose checks wait, and how many are under way.
#[derive(Debug, Default)]
struct Lane {
    entries: BTreeMap<ReplicaId, Entry>,
    /// First ones of their registration: each decides alone whether a replica is asked.
    firsts: BTreeSet<(Tick, ReplicaId)>,
    repeats: BTreeSet<(Tick, ReplicaId)>,
    under_way: usize,
    /// When one began last.
    began: Tick,
}

/// When it is a service's turn: of those whose time has come, the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    is_repeat: bool,
    /// When its next one is due, or when it had its last turn, if that is later: services with many overdue go round.
    at: Tick,
}

impl Lane {
    fn queue(&mut self, kind: Kind) -> &mut BTreeSet<(Tick, ReplicaId)> {
        match kind {
            Kind::First => &mut self.firsts,
            Kind::Repeat => &mut self.repeats,
        }
    }

    /// How many are under way, and when it is its turn; `None` if there may be no other.
    fn turn(&self) -> Option<(usize, Turn)> {
        let is_repeat = self.firsts.is_empty();
        let (due, _) = self.firsts.first().or(self.repeats.first())?;
        let turn = Turn { is_repeat, at: self.began.max(*due) };
        (self.under_way < MAX_OF_A_SERVICE).then_some((self.under_way, turn))
    }

    fn oldest(&self) -> Option<Tick> {
        self.firsts.first().into_iter().chain(self.repeats.first()).map(|(due, _)| *due).min()
    }

    fn pop(&mut self) -> Option<ReplicaId> {
        self.firsts.pop_first().or_else(|| self.repeats.pop_first()).map(|(_, id)| id)
    }

    /// Has a replica checked, whose first check is due at `now` if it is new or is checked for something else.
    fn want(&mut self, id: ReplicaId, incarnation: i64, mark: Mark, now: Tick) {
        let Some(entry) = self.entries.get_mut(&id) else {
            self.entries
                .insert(id.clone(), Entry { incarnation, mark, state: State::Waiting(Kind::First, now) });
            self.firsts.insert((now, id));
            return;
        };
        let is_other = (entry.incarnation, entry.mark) != (incarnation, mark);
        (entry.incarnation, entry.mark) = (incarnation, mark);
        match entry.state {
            State::Waiting(Kind::Repeat, due) if is_other => {
                entry.state = State::Waiting(Kind::First, now);
                self.repeats.remove(&(due, id.clone()));
                self.firsts.insert((now, id));
            }
            State::Waiting(..) => {}
            State::UnderWay { again } => entry.state = State::UnderWay { again: again || is_other },
            State::Unwanted => entry.state = State::UnderWay { again: true },
        }
    }

    /// Has a replica checked no more.
    fn release(&mut self, id: &ReplicaId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        match entry.state {
            State::Waiting(kind, due) => {
                self.entries.remove(id);
                self.queue(kind).remove(&(due, id.clone()));
            }
            State::UnderWay { .. } | State::Unwanted => entry.state = State::Unwanted,
        }
    }
}

/// Which of two queues one waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    First,
    Repeat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// The registration that is checked.
    incarnation: i64,
    /// What it was checked for last.
    mark: Mark,
    state: State,
}

/// What a check depends on: when it is another one, there is no point in waiting for the next turn.
pub(super) type Mark = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Kind, Tick),
    /// Its check has not ended. `again`: and what it would say does not matter any more.
    UnderWay {
        again: bool,
    },
    /// Its check has not ended, and nobody wants it checked any more.
    Unwanted,
}

impl Schedule {
    /// One of nobody, at this rate of checks.
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            lanes: HashMap::new(),
            turns: Default::default(),
            oldest: BTreeSet::new(),
            checked: 0,
            total: 0,
            rate,
            paced: Tick::ORIGIN,
        }
    }

    /// From now on these replicas of a service are checked, and no others of it. Whoever is new, or is checked for something else,
    /// has its first check due at `now`.
    pub(super) fn set(
        &mut self,
        service: &ServiceName,
        wanted: impl IntoIterator<Item = (ReplicaId, i64, Mark)>,
        now: Tick,
    ) {
        self.change(service, |lane| {
            let mut gone: BTreeSet<ReplicaId> = lane.entries.keys().cloned().collect();
            for (id, incarnation, mark) in wanted {
                gone.remove(&id);
                lane.want(id, incarnation, mark, now);
            }
            gone.iter().for_each(|id| lane.release(id));
        });
    }

    /// The services of which any replica is checked.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.lanes.keys()
    }

    /// Takes out one whose check is due at `now` and may begin: a first one if there is any, of the service that has waited
    /// longest for its turn. To be followed by [`Schedule::ended`].
    pub(super) fn begin(&mut self, now: Tick) -> Option<ReplicaKey> {
        let paced = self.rate.take(self.paced, now).ok()?;
        let (_, service) = self.turn().filter(|(turn, _)| turn.at <= now)?.clone();
        let replica = self.change(&service, |lane| {
            let replica = lane.pop()?;
            lane.entries.get_mut(&replica)?.state = State::UnderWay { again: false };
            lane.under_way += 1;
            lane.began = now;
            Some(replica)
        })?;
        self.total += 1;
        self.paced = paced;
        Some(ReplicaKey { service, replica })
    }

    /// Whose turn it is next, of those that have fewer under way than are left free; at the same moment, who has the fewest.
    fn turn(&self) -> Option<&(Turn, ServiceName)> {
        let most = MAX_OF_A_SERVICE.min(MAX_UNDER_WAY - self.total);
        self.turns[..most].iter().filter_map(BTreeSet::first).min_by_key(|(turn, _)| *turn)
    }

    /// A check has ended; the next one is due at `next`. Yields when it will really be, `None`: nobody wants it.
    pub(super) fn ended(&mut self, key: &ReplicaKey, now: Tick, next: Tick) -> Option<Tick> {
        let state = self.lanes.get(&key.service)?.entries.get(&key.replica)?.state;
        let due = match state {
            State::Waiting(_, due) => return Some(due),
            State::UnderWay { again: true } => Some((Kind::First, now)),
            State::UnderWay { again: false } => Some((Kind::Repeat, next)),
            State::Unwanted => None,
        };
        self.total -= 1;
        self.change(&key.service, |lane| {
            lane.under_way -= 1;
            match (due, lane.entries.get_mut(&key.replica)) {
                (Some((kind, due)), Some(entry)) => {
                    entry.state = State::Waiting(kind, due);
                    lane.queue(kind).insert((due, key.replica.clone()));
                }
                _ => drop(lane.entries.remove(&key.replica)),
            }
        });
        due.map(|(_, due)| due)
    }

    /// Changes who is checked, what waits, or is under way, of a service.
    fn change<T>(&mut self, service: &ServiceName, change: impl FnOnce(&mut Lane) -> T) -> T {
        let lane = self.lanes.entry(service.clone()).or_default();
        let (turn, oldest, checked) = (lane.turn(), lane.oldest(), lane.entries.len());
        let changed = change(lane);
        let (new_turn, new_oldest) = (lane.turn(), lane.oldest());
        self.checked = self.checked + lane.entries.len() - checked;
        if lane.entries.is_empty() {
            self.lanes.remove(service);
        }
        if turn != new_turn {
            if let Some((under_way, turn)) = turn {
                self.turns[under_way].remove(&(turn, service.clone()));
            }
            if let Some((under_way, turn)) = new_turn {
                self.turns[under_way].insert((turn, service.clone()));
            }
        }
        if oldest != new_oldest {
            if let Some(due) = oldest {
                self.oldest.remove(&(due, service.clone()));
            }
            self.oldest.extend(new_oldest.map(|due| (due, service.clone())));
        }
        changed
    }

    /// When to look again, at `now`: `None` while there is no room, or nobody to check.
    pub(super) fn next(&self, now: Tick) -> Option<Tick> {
        let (turn, _) = self.turn()?;
        let wait = self.rate.take(self.paced, now).err().unwrap_or_default();
        Some(turn.at.max(now.plus(wait)))
    }

    /// How many are checked, and how many checks are under way.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.checked, self.total)
    }

    /// How late the most overdue check is at `now`.
    pub(super) fn lateness(&self, now: Tick) -> Duration {
        self.oldest.first().map(|(due, _)| now.since(*due)).unwrap_or_default()
    }
}

#[cfg(test)]
impl Schedule {
    /// Everybody who is checked, of which registration, and for what.
    pub(super) fn wanted(&self) -> BTreeSet<(ReplicaKey, i64, Mark)> {
        let of_lane = |(service, lane): (&ServiceName, &Lane)| {
            let wanted = lane.entries.iter().filter(|(_, entry)| entry.state != State::Unwanted);
            let key = |replica: &ReplicaId| ReplicaKey { service: service.clone(), replica: replica.clone() };
            wanted.map(|(id, entry)| (key(id), entry.incarnation, entry.mark)).collect::<Vec<_>>()
        };
        self.lanes.iter().flat_map(of_lane).collect()
    }
}

#[cfg(test)]
mod tests;
