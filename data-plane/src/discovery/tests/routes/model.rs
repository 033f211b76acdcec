//! The guard and the overrides as the simplest thing they could be: whole seconds, whole numbers, one list of each.

use std::collections::BTreeMap;

use gateway_proto::v1::{HealthStatus, RemovalCause};

use super::HOLD_TIME;

/// Service and replica.
pub(super) type Key = (u8, u8);

/// What the registry says of a replica.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    pub(super) port: u16,
    pub(super) health: HealthStatus,
    pub(super) draining: bool,
}

/// All that the registry says: replicas, and until when operators' decisions about a service hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Said {
    pub(super) replicas: BTreeMap<Key, Fact>,
    pub(super) forced: BTreeMap<u8, u64>,
    pub(super) released: BTreeMap<u8, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    said: Said,
    /// With the reading of `confirmed` when it began.
    held: BTreeMap<Key, (Fact, u64)>,
    /// Of a service of which something is held: how many replicas there were.
    expected: BTreeMap<u8, usize>,
    /// And since which reading enough others have been there.
    replaced: BTreeMap<u8, u64>,
    confirmed: u64,
    heard: Option<u64>,
    now: u64,
}

/// Whether that many of that many are more than three tenths.
fn too_many(count: usize, total: usize) -> bool {
    10 * count > 3 * total
}

impl Model {
    pub(super) fn routed(&self) -> BTreeMap<Key, (u16, bool)> {
        let all = self.said.replicas.iter().chain(self.held.iter().map(|(key, (fact, _))| (key, fact)));
        let is_forced = |service: &u8| self.said.forced.get(service).is_some_and(|end| self.now < *end);
        all.map(|(key, fact)| (*key, (fact.port, is_forced(&key.0)))).collect()
    }

    pub(super) fn held_count(&self) -> usize {
        self.held.len()
    }

    pub(super) fn pass(&mut self, now: u64) {
        self.now = now;
    }

    pub(super) fn restart(&mut self) {
        self.heard = None;
        self.replaced.clear();
    }

    pub(super) fn confirm(&mut self, now: u64) {
        self.hear(now);
        self.settle();
    }

    pub(super) fn update(&mut self, said: &Said, causes: &BTreeMap<Key, RemovalCause>, now: u64) {
        self.hear(now);
        let before = std::mem::replace(&mut self.said, said.clone()).replicas;
        let after = said.replicas.clone();
        let held_before = self.held.clone();
        for service in 0..super::SERVICES {
            self.judge(service, &before, &after, causes);
        }
        // Addresses that are new to their service.
        let knew = |service: u8, port: u16| {
            let said = before.iter().any(|(key, fact)| key.0 == service && fact.port == port);
            said || held_before.iter().any(|(key, (fact, _))| key.0 == service && fact.port == port)
        };
        self.held.retain(|held, (fact, _)| {
            let mut there = after.iter().filter(|(key, other)| key.0 != held.0 && other.port == fact.port);
            !there.any(|(key, _)| !knew(key.0, fact.port))
        });
        self.settle();
    }

    fn judge(
        &mut self,
        service: u8,
        before: &BTreeMap<Key, Fact>,
        after: &BTreeMap<Key, Fact>,
        causes: &BTreeMap<Key, RemovalCause>,
    ) {
        let is = |key: &Key, cause: RemovalCause| causes.get(key) == Some(&cause);
        let serving = before.iter().filter(|(key, fact)| key.0 == service && !fact.draining);
        let serving: BTreeMap<Key, Fact> = serving.map(|(key, fact)| (*key, fact.clone())).collect();
        let has_port = |port: u16| after.iter().any(|(key, fact)| key.0 == service && fact.port == port);

        let deregistered = serving.keys().filter(|key| is(key, RemovalCause::Deregistered)).count();
        let held_deregistered =
            self.held.keys().filter(|key| key.0 == service && is(key, RemovalCause::Deregistered)).count();
        let expected = self.expected.entry(service).or_default();
        *expected = expected.saturating_sub(deregistered + held_deregistered);
        self.held.retain(|key, (fact, _)| {
            let explained =
                after.contains_key(key) || has_port(fact.port) || is(key, RemovalCause::Deregistered);
            key.0 != service || !explained
        });

        let doubtful = serving.iter().filter(|(key, fact)| {
            !after.contains_key(*key) && !has_port(fact.port) && !is(key, RemovalCause::Deregistered)
        });
        let has_lapsed = |key: &Key| is(key, RemovalCause::Expired) || is(key, RemovalCause::Evicted);
        let (lapsed, silent): (Vec<_>, Vec<_>) = doubtful.partition(|(key, _)| has_lapsed(key));
        let lapsed: Vec<_> =
            lapsed.into_iter().filter(|(_, fact)| fact.health != HealthStatus::Lost).collect();
        let held = self.held.keys().filter(|key| key.0 == service).count();
        let held_lapsed = self.held.keys().filter(|key| key.0 == service && has_lapsed(key)).count();
        let total = serving.len() + held;
        let mut hold = Vec::new();
        if !silent.is_empty() && too_many(silent.len() + held, total) {
            hold.extend(silent);
        }
        let lapses = lapsed.len() + held_lapsed;
        if lapses > 2 && too_many(lapses, total) {
            hold.extend(lapsed);
        } else {
            self.held.retain(|key, _| key.0 != service || !has_lapsed(key));
        }
        if !hold.is_empty() && !self.is_released(service) {
            let expected = self.expected.entry(service).or_default();
            *expected = (*expected).max(serving.len() - deregistered);
            for (key, fact) in hold {
                self.held.insert(*key, (fact.clone(), self.confirmed));
            }
        }
    }

    fn hear(&mut self, now: u64) {
        let since = self.heard.map_or(0, |heard| now - heard);
        self.confirmed += if since <= 15 { since } else { 0 };
        (self.heard, self.now) = (Some(now), now);
    }

    fn is_released(&self, service: u8) -> bool {
        self.said.released.get(&service).is_some_and(|end| self.now < *end)
    }

    fn settle(&mut self) {
        for service in 0..super::SERVICES {
            if !self.held.keys().any(|key| key.0 == service) {
                self.expected.remove(&service);
                self.replaced.remove(&service);
                continue;
            }
            let there = self.said.replicas.iter().filter(|(key, fact)| {
                key.0 == service && !fact.draining && fact.health == HealthStatus::Healthy
            });
            let expected = self.expected[&service];
            let absent = expected.saturating_sub(there.count());
            let since = match too_many(absent, expected) {
                true => {
                    self.replaced.remove(&service);
                    self.confirmed
                }
                false => *self.replaced.entry(service).or_insert(self.confirmed),
            };
            let all = self.is_released(service) || self.confirmed - since >= 60;
            let confirmed = self.confirmed;
            self.held.retain(|key, (_, at)| key.0 != service || !(all || confirmed - *at >= HOLD_TIME));
            if !self.held.keys().any(|key| key.0 == service) {
                self.expected.remove(&service);
                self.replaced.remove(&service);
            }
        }
    }
}
