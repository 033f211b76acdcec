//! One data plane's breakers as they must be, and the attempts that they have let through.

use std::{collections::BTreeMap, time::Duration};

use data_plane::{
    discovery::Snapshot,
    routing::{Change, Heard, Outcome, Reason, State, Tick, Withheld},
};
use gateway_proto::{ReplicaKey, policy};

use super::{Checked, breaker::Expected, claim, takes_requests};

/// The breakers of all replicas that a data plane knows.
pub(crate) struct Breakers {
    policy: policy::Breaker,
    by_key: BTreeMap<ReplicaKey, Expected>,
    /// Attempts under way at each breaker, those of replicas that are gone included.
    under_way: BTreeMap<u64, UnderWay>,
    made: u64,
    /// Of replicas that have left, with the time from which they are forgotten.
    departed: BTreeMap<ReplicaKey, (Expected, Tick)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct UnderWay {
    attempts: u64,
    /// Of these, the ones that have no response head.
    unanswered: u64,
}

/// One attempt's place in this bookkeeping.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    breaker: u64,
    era: u64,
    probe: bool,
    is_answered: bool,
}

/// What the gateway makes of a wait in vain, and by what it is to be judged.
pub(crate) struct Waited {
    pub(crate) since: Tick,
    pub(crate) now: Tick,
    /// For how long the replica was waited for, if that is held against it.
    pub(crate) told: Option<Duration>,
    /// How long one attempt may take.
    pub(crate) per_try: Duration,
    /// Whether exactly those are asked whose breakers let them through. Where checks or a policy say otherwise it is not known
    /// here who is.
    pub(crate) by_breakers: bool,
}

impl Breakers {
    pub(crate) fn new(policy: policy::Breaker) -> Self {
        Self {
            policy,
            by_key: BTreeMap::new(),
            under_way: BTreeMap::new(),
            made: 0,
            departed: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, key: &ReplicaKey) -> Option<&Expected> {
        self.by_key.get(key)
    }

    /// The data plane has taken over another snapshot.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, now: Tick) {
        let mut before = std::mem::take(&mut self.by_key);
        for service in snapshot.services() {
            for replica in &service.replicas {
                let key = ReplicaKey { service: service.name.clone(), replica: replica.id.clone() };
                let known = before.remove(&key);
                let mut breaker = known.unwrap_or_else(|| {
                    self.made += 1;
                    let new = Expected::closed(self.made, replica.incarnation, now);
                    match self.departed.remove(&key).filter(|(_, until)| now < *until) {
                        Some((past, _)) => new.following(&past, now),
                        None => new,
                    }
                });
                if breaker.incarnation != replica.incarnation {
                    breaker.incarnation = replica.incarnation;
                    breaker.start_over(now);
                }
                breaker.is_ready = takes_requests(replica);
                self.by_key.insert(key, breaker);
            }
        }
        // Who fails after every start is no better for having left in order.
        let until = now.plus(Duration::from_secs(600));
        self.departed.extend(before.into_iter().map(|(key, gone)| (key, (gone, until))));
    }

    /// An attempt was let through to a replica; `regardless` of its breaker, if so few others let traffic through.
    pub(crate) fn admitted(
        &mut self,
        key: &ReplicaKey,
        probe: bool,
        regardless: bool,
        change: Option<Change>,
        now: Tick,
        lease: Duration,
    ) -> Checked<Ticket> {
        let Some(breaker) = self.by_key.get_mut(key) else {
            return Err(super::Violation {
                invariant: "a_pick_is_registered_and_ready",
                detail: format!("{key} is unknown to this data plane"),
            });
        };
        let is_resting = matches!(breaker.state, State::Open | State::HalfOpen);
        if regardless && is_resting && !probe {
            claim("every_transition_is_told", change.is_none(), || format!("{key}: {change:?}"))?;
            // What becomes of it counts for nothing.
            let (breaker, era) = (breaker.number, u64::MAX);
            self.begin(breaker);
            return Ok(Ticket { breaker, era, probe, is_answered: false });
        }
        breaker.an_open_breaker_lets_probes_pass_only(key, probe, now)?;
        breaker.one_probe_at_a_time(key, probe, now)?;
        if probe {
            let reason = match (breaker.state, breaker.probe) {
                (State::Open, _) => Some(Reason::ProbeDue),
                (_, Some(_)) => Some(Reason::ProbeLost),
                _ => None,
            };
            claim("every_transition_is_told", change.map(|change| change.reason) == reason, || {
                format!("{key}: {change:?} instead of {reason:?}")
            })?;
            breaker.probe_sent(now.plus(lease));
        }
        let (breaker, era) = (breaker.number, breaker.era);
        self.begin(breaker);
        Ok(Ticket { breaker, era, probe, is_answered: false })
    }

    fn begin(&mut self, breaker: u64) {
        let under_way = self.under_way.entry(breaker).or_default();
        under_way.attempts += 1;
        under_way.unanswered += 1;
    }

    /// An attempt has its response head, or will not have one; `is_life` if that is a sign of life of its replica.
    pub(crate) fn answered(&mut self, key: &ReplicaKey, ticket: &mut Ticket, is_life: bool, now: Tick) {
        ticket.is_answered = true;
        if let Some(under_way) = self.under_way.get_mut(&ticket.breaker) {
            under_way.unanswered -= 1;
        }
        if is_life {
            self.shows_life(key, *ticket, now);
        }
    }

    /// Something has come of a replica.
    pub(crate) fn shows_life(&mut self, key: &ReplicaKey, ticket: Ticket, now: Tick) {
        if let Some(breaker) = self.by_key.get_mut(key).filter(|breaker| breaker.number == ticket.breaker) {
            breaker.heard_at = now;
            breaker.silence.is_broken(now);
        }
    }

    /// Somebody has left who waited for a replica. It is to blame if it was waited for as long as one attempt may take, one after
    /// the other, and nothing was heard of it meanwhile, but of a peer that gets requests.
    pub(crate) fn silence_is_judged(&mut self, key: &ReplicaKey, ticket: Ticket, waited: Waited) -> Checked {
        let Waited { since, now, told, per_try, by_breakers } = waited;
        let present = self.by_key.get_mut(key).filter(|breaker| breaker.number == ticket.breaker);
        let Some(breaker) = present else { return Ok(()) };
        let (sum, began) = breaker.silence.waited(since, now);
        let is_peer = |other: &&ReplicaKey| other.service == key.service && *other != key;
        let mut peers = self.by_key.iter().filter(|(other, _)| is_peer(other)).map(|(_, peer)| peer);
        let is_heard =
            peers.any(|peer| peer.is_ready && peer.state.lets_all_through() && peer.heard_at > began);
        let detail =
            || format!("{key}, waited for {sum:?} since {began:?}, a peer heard: {is_heard}, told {told:?}");
        claim(
            "only_who_is_silent_is_blamed_for_it",
            told.is_none_or(|told| told == sum && sum >= per_try),
            detail,
        )?;
        if !by_breakers {
            return Ok(());
        }
        let is_due = sum >= per_try && is_heard;
        claim("only_who_is_silent_is_blamed_for_it", told.is_none() || is_due, detail)?;
        claim("who_is_waited_for_in_vain_is_blamed", told.is_some() || !is_due, detail)
    }

    /// An attempt's outcome is in; `change` is what its breaker made of it; `somebody` whether others of its service let requests
    /// through, if that is sure.
    pub(crate) fn settled(
        &mut self,
        key: &ReplicaKey,
        ticket: Ticket,
        heard: Heard,
        change: Option<Change>,
        now: Tick,
        somebody: Option<bool>,
    ) -> Checked {
        if let Some(under_way) = self.under_way.get_mut(&ticket.breaker) {
            under_way.attempts -= 1;
            under_way.unanswered -= u64::from(!ticket.is_answered);
        }
        let policy = self.policy;
        let has_room = self.has_room(key);
        let present = self.by_key.get_mut(key).filter(|breaker| breaker.number == ticket.breaker);
        // What happens to a replica that is gone concerns nobody any more.
        let Some(breaker) = present else { return Ok(()) };
        let expected = match breaker.era == ticket.era {
            true if ticket.probe => breaker.probe_ended(heard, now, &policy).map(|reason| {
                let has_failed = !matches!(reason, Reason::ProbesSucceeded { .. });
                (reason, (has_failed && policy.observe_only).then_some(Withheld::ObserveOnly))
            }),
            true => breaker.count(heard, now, &policy).map(|reason| {
                let withheld = match (policy.observe_only, has_room) {
                    (true, _) => Some(Withheld::ObserveOnly),
                    (false, false) => Some(Withheld::MaxOpenRatio),
                    (false, true) => None,
                };
                (reason, withheld)
            }),
            false => None,
        };
        let is_told = |(_, withheld): &(_, Option<Withheld>)| {
            withheld.is_none() || ticket.probe || breaker.tells_withheld(now, policy.window)
        };
        let expected = expected.filter(is_told);
        breaker.a_breaker_changes_by_its_rules_only(key, heard, expected, change)?;
        let Some(change) = change else { return Ok(()) };
        breaker.take(
            key,
            change,
            now,
            &policy,
            if ticket.probe || heard.outcome != Outcome::Success { somebody } else { Some(true) },
        )
    }

    /// The next probe of that replica is due at `until`; `anybody` whether any of its service lets requests through, if that is sure.
    pub(crate) fn due(&mut self, key: &ReplicaKey, until: Tick, now: Tick, anybody: Option<bool>) -> Checked {
        let policy = self.policy;
        let known = self.by_key.get_mut(key);
        known.map_or(Ok(()), |known| {
            known.probes_are_hastened_where_nobody_is_left(key, until, now, &policy, anybody)
        })
    }

    /// Whether one more of the service's breakers may open by its rules.
    fn has_room(&self, key: &ReplicaKey) -> bool {
        let ready = || {
            let of_service = self.by_key.iter().filter(|(other, _)| other.service == key.service);
            of_service.map(|(_, breaker)| breaker).filter(|breaker| breaker.is_ready)
        };
        let out = ready().filter(|breaker| !breaker.state.lets_all_through()).count();
        self.policy.max_open_ratio >= 1.0 || out < self.policy.max_open_count(ready().count())
    }

    /// What is under way at a replica is counted exactly, and nothing when nothing is.
    pub(crate) fn permits_are_conserved(&self, key: &ReplicaKey, ticket: Ticket, inflight: u64) -> Checked {
        let expected = self.under_way.get(&ticket.breaker).copied().unwrap_or_default().attempts;
        claim("permits_are_conserved", inflight == expected, || {
            format!("{key} shows {inflight} attempts under way, {expected} are")
        })
    }

    /// Attempts under way at a replica of the present snapshot.
    pub(crate) fn inflight(&self, key: &ReplicaKey) -> u64 {
        self.under_way(key).attempts
    }

    /// Those of them that have no response head.
    pub(crate) fn unanswered(&self, key: &ReplicaKey) -> u64 {
        self.under_way(key).unanswered
    }

    fn under_way(&self, key: &ReplicaKey) -> UnderWay {
        let number = self.by_key.get(key).map(|breaker| breaker.number);
        number.and_then(|number| self.under_way.get(&number)).copied().unwrap_or_default()
    }
}
