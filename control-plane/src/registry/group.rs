//! Commands that can be committed together.
//!
//! Every command of a group is decided on the same view, the one before the group. So a command that reads what an
//! earlier one of the group writes has to wait for the next group; what is left is independent of order.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{Address, LeaseId, ReplicaKey, ServiceName};

use super::{
    Answer, Candidates, Cause, Command, Decision, Holding, Key, Limits, Mutation, Override, OverrideId,
    OverrideTarget, Record, RecordWrite, Registration, RegistryError, SparseText, Target, View, Write,
    decide::{becomes_his, block_of, decide, find, key_of},
};

/// The mutations of one transaction, in the order of their commands.
#[derive(Debug, Default)]
pub struct Group {
    mutations: Vec<Mutation>,
    written: HashSet<Place>,
    created: Created,
    /// Whether it leaves room for what was refused before it.
    makes_room: bool,
    /// What has become somebody's with that, as far as it was not.
    registered: HashMap<SparseText, Holding>,
}

/// What the group's mutations add.
#[derive(Debug, Default)]
struct Created {
    replicas: usize,
    /// Replicas of a service that are not lost: new ones, and those that are found.
    living: HashMap<ServiceName, usize>,
    overrides: usize,
}

/// What became of a command that was offered to a group.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Its mutation is in the group, as the last one.
    Joined,
    /// It changes nothing: answer now.
    Nothing(Answer),
    /// It may not: answer now.
    Refused(RegistryError),
    /// It depends on the group's outcome: offer it to the next one.
    Conflict,
}

/// What a command reads or writes.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Place {
    Replica(ReplicaKey),
    Address(ServiceName, Address),
    /// A request that names itself, whatever it asks for.
    Request(u128),
    /// Any replica of a service: whether one is the last ready one depends on all others.
    Roster(ServiceName),
    /// All policies: each must fit those it inherits from, and those that inherit from it.
    Policies,
    Override(OverrideId),
    /// Which registrations in a service are blocked.
    Blocks(ServiceName),
    /// All routes: none may contradict another.
    Routes,
    /// What is somebody's: with less of it, he may have less beside.
    Holding(SparseText),
}

/// What a command depends on, and what it may write, which an earlier one of the group must not have written.
#[derive(Debug, Default)]
struct Places {
    read: Vec<Place>,
    written: Vec<Place>,
}

impl Group {
    /// Decides a command and takes its mutation in.
    ///
    /// A replica goes without its owner's word, because its lease lapsed or somebody else has its address, only if
    /// `give_up` yields that this lease cannot be renewed any more: it may have been a moment ago.
    pub fn offer(
        &mut self,
        view: &View,
        limits: &Limits,
        command: &Command,
        fresh: &Candidates,
        at: SystemTime,
        give_up: impl FnMut(&Record, LeaseId) -> bool,
    ) -> Step {
        let places = places(view, command, fresh);
        if places.read.iter().chain(&places.written).any(|place| self.written.contains(place)) {
            return Step::Conflict;
        }
        match decide(view, limits, command, fresh, at) {
            Ok(Decision::Nothing(answer)) => Step::Nothing(answer),
            Err(error) if error.quota().is_some() && self.makes_room => Step::Conflict,
            Err(error) => Step::Refused(error),
            Ok(Decision::Commit(mutation)) => match heard_of(view, &mutation, give_up) {
                None => self.take(view, limits, command, places.written, mutation),
                Some(record) if matches!(command, Command::Expire { .. }) => {
                    Step::Nothing(Answer::Replica(Arc::clone(record)))
                }
                Some(record) => Step::Refused(RegistryError::AddressInUse {
                    service: record.key.service.clone(),
                    address: record.endpoint.address.clone(),
                    owner: record.key.replica.clone(),
                }),
            },
        }
    }

    /// What to commit.
    pub fn mutations(&self) -> &[Mutation] {
        &self.mutations
    }

    /// What was to be committed.
    pub fn into_mutations(self) -> Vec<Mutation> {
        self.mutations
    }

    fn take(
        &mut self,
        view: &View,
        limits: &Limits,
        command: &Command,
        written: Vec<Place>,
        mutation: Mutation,
    ) -> Step {
        let has_room = self.has_room(view, limits, command, &mutation);
        // Without anything before it, it was decided on what is there.
        if !has_room && !self.mutations.is_empty() {
            return Step::Conflict;
        }
        self.created.count(view, &mutation);
        self.makes_room |= mutation.writes().any(|write| makes_room(view, write));
        for record in mutation.writes().filter_map(RecordWrite::record) {
            let has = |record: &Record| (record.registered_by.clone(), record.lost.is_some());
            let (name, is_lost) = has(record);
            if !name.is_empty()
                && view.get(&record.key).map(|before| has(before)) != Some((name.clone(), is_lost))
            {
                self.registered.entry(name).or_default().add(&record.key.service, is_lost);
            }
        }
        for write in mutation.writes() {
            let before = write.key.as_replica().and_then(|key| view.get(key));
            let loser = before.filter(|_| makes_room(view, write)).map(|record| &record.registered_by);
            self.written.extend(loser.map(|name| Place::Holding(name.clone())));
            match &write.key {
                Key::Replica(key) => {
                    self.written.insert(Place::Roster(key.service.clone()));
                    self.written.insert(Place::Replica(key.clone()));
                    // The request that registered it is known by it no more.
                    let mark = view.get(key).and_then(|record| record.request.as_deref());
                    self.written.extend(mark.map(|mark| Place::Request(mark.id)));
                }
                Key::Override(id) => {
                    self.written.insert(Place::Override(id.clone()));
                }
                Key::Policy(_) | Key::Route(_) => {}
            }
        }
        self.written.extend(written);
        self.mutations.push(mutation);
        Step::Joined
    }

    /// Whether the quotas hold for a mutation, beside what the group creates already.
    fn has_room(&self, view: &View, limits: &Limits, command: &Command, mutation: &Mutation) -> bool {
        let mut created = Created::default();
        created.count(view, mutation);
        let has_place = created.replicas == 0
            || created.living.keys().all(|service| {
                let pending = self.created.living.get(service).copied().unwrap_or(0);
                view.population(service).and(pending).excess(limits.replicas_per_service).is_none()
            });
        let replicas = view.replica_count() + self.created.replicas + created.replicas;
        let overrides = view.overrides().len() + self.created.overrides + created.overrides;
        // Whose place a registration takes: that of its own id's last one, else of who has its address.
        let mut present = mutation.writes().filter_map(|write| view.get(write.key.as_replica()?));
        let mut is_more = |wish| present.next().is_none_or(|predecessor| becomes_his(predecessor, wish));
        let is_his = match command {
            Command::Register(wish @ Registration { service, registrant, .. }) if is_more(wish) => {
                let pending = self.registered.get(&registrant.name);
                registrant.check(limits, service, view.held_by(&registrant.name), pending).is_ok()
            }
            _ => true,
        };
        has_place
            && is_his
            && (created.replicas == 0 || replicas <= limits.replicas)
            && (created.overrides == 0 || overrides <= Override::MAX)
    }
}

impl Created {
    /// Counts what a mutation adds. One that takes another's place adds nothing.
    fn count(&mut self, view: &View, mutation: &Mutation) {
        let is_removal =
            |write: &RecordWrite| write.key.as_replica().is_some() && write.write == Write::Remove;
        let takes_place = mutation.writes().any(is_removal);
        for record in mutation.writes().filter_map(RecordWrite::record) {
            let was_living = view.get(&record.key).is_some_and(|before| before.lost.is_none());
            if record.lost.is_none() && !was_living {
                *self.living.entry(record.key.service.clone()).or_default() += 1;
            }
        }
        for write in
            mutation.writes().filter(|write| write.expected.is_none() && write.write != Write::Remove)
        {
            match &write.key {
                Key::Replica(_) if !takes_place => self.replicas += 1,
                Key::Override(_) => self.overrides += 1,
                Key::Replica(_) | Key::Policy(_) | Key::Route(_) => {}
            }
        }
    }
}

/// Whether something may be taken after a change that was too much before it. Who is refused for his quota, over and over, would else
/// have the changes of others committed one by one, each in a group that ends where he comes.
fn makes_room(view: &View, write: &RecordWrite) -> bool {
    let Some(record) = write.record() else { return write.write == Write::Remove };
    let leaves = |before: &Arc<Record>| {
        record.lost.is_some() && before.lost.is_none() || record.registered_by != before.registered_by
    };
    view.get(&record.key).is_some_and(leaves)
}

/// A replica that the mutation takes for dead and whose owner was heard of.
fn heard_of<'a>(
    view: &'a View,
    mutation: &Mutation,
    mut give_up: impl FnMut(&Record, LeaseId) -> bool,
) -> Option<&'a Arc<Record>> {
    let is_for_dead = |cause: &Cause| matches!(cause, Cause::Expired { .. } | Cause::Superseded { .. });
    let dead = mutation.writes().filter(|write| is_for_dead(&write.cause));
    let mut dead = dead.filter_map(|write| view.get(write.key.as_replica()?));
    dead.find(|record| record.lease.is_some_and(|lease| !give_up(record, lease.id)))
}

fn places(view: &View, command: &Command, fresh: &Candidates) -> Places {
    let mut places = Places::default();
    let key = match command {
        Command::Register(wish) => {
            places.read.push(Place::Blocks(wish.service.clone()));
            places.written.push(Place::Address(wish.service.clone(), wish.endpoint.address.clone()));
            places.written.extend(wish.request.map(Place::Request));
            let has_quota = wish.registrant.quota.is_some();
            places.read.extend(has_quota.then(|| Place::Holding(wish.registrant.name.clone())));
            Some(key_of(view, wish, fresh))
        }
        Command::Deregister { target, block, .. } => {
            let (service, key) = match target {
                Target::Key(key) => (&key.service, Some(key.clone())),
                Target::Address(service, address) => {
                    places.written.push(Place::Address(service.clone(), address.clone()));
                    (service, find(view, target).map(|record| record.key.clone()))
                }
            };
            if block.is_some() {
                places.written.push(Place::Blocks(service.clone()));
                places.written.extend(key.as_ref().map(|key| Place::Override(block_of(key).id())));
            }
            key
        }
        Command::Drain(wish) => {
            // Its time is the policy's unless it names one.
            places.read.extend([Place::Roster(wish.key.service.clone()), Place::Policies]);
            Some(wish.key.clone())
        }
        Command::ReportHealth { key, .. }
        | Command::Expire { key, .. }
        | Command::Hold { key, .. }
        | Command::Recover { key, .. }
        | Command::Undrain { key, .. }
        | Command::FinishDrain { key, .. } => Some(key.clone()),
        Command::Evict(eviction) => Some(eviction.key.clone()),
        Command::UpdatePolicy(_)
        | Command::DeletePolicy { .. }
        | Command::ApplyPolicies(_)
        | Command::EndFault { .. } => {
            places.written.push(Place::Policies);
            None
        }
        Command::UpdateRoute(_) | Command::DeleteRoute { .. } => {
            places.written.push(Place::Routes);
            None
        }
        Command::Override(wish) => {
            // Its service, and its replica if it names one, must be there.
            places.read.push(Place::Roster(wish.target.service.clone()));
            places.written.push(Place::Override(wish.target.id()));
            None
        }
        Command::EndOverride { id, .. } => {
            let service = ServiceName::parse(OverrideTarget::service_in(id.as_str()));
            places.written.extend(service.map(Place::Blocks).ok());
            places.written.push(Place::Override(id.clone()));
            None
        }
    };
    if let Some(key) = key {
        // Its present address is freed by a removal and by a move.
        if let Some(record) = view.get(&key) {
            places.written.push(Place::Address(key.service.clone(), record.endpoint.address.clone()));
        }
        places.written.push(Place::Replica(key));
    }
    places
}

#[cfg(test)]
mod order_tests;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::registry::{Proof, Quota, Registrant, Registration, Said};

    const LIMITS: Limits = Limits { replicas: 3, replicas_per_service: 2 };

    fn register(service: &str, port: u16) -> Command {
        let address = Address::parse(&format!("10.0.0.1:{port}")).unwrap();
        Command::Register(Registration::permanent(ServiceName::parse(service).unwrap(), address))
    }

    #[test]
    fn what_somebody_may_have_is_not_told_by_what_he_has_no_more() {
        let record = |service: &str| {
            let key = ReplicaKey::parse(service, "r-1").unwrap();
            let address = Address::parse("10.0.0.1:80").unwrap();
            Record { registered_by: "ana".into(), ..Record::plain(key, address, UNIX_EPOCH) }
        };
        // More than he may have, as what has come to him otherwise.
        let view = View::new(1, [record("orders"), record("billing")]);
        let mut group = Group::default();
        let mut offer = |command: &Command, bits| {
            group.offer(&view, &LIMITS, command, &Candidates::from_random(bits, 0), UNIX_EPOCH, |_, _| true)
        };
        let leave = Command::Deregister {
            target: Target::Key(record("orders").key),
            proof: Proof::Force,
            said: Said::default(),
            block: None,
        };
        assert_eq!(offer(&leave, 1), Step::Joined);
        let Command::Register(mut wish) = register("orders", 81) else { panic!() };
        let quota = Quota { services: Some(1), ..Quota::default() };
        wish.registrant = Registrant { name: "ana".into(), quota: Some(quota) };
        assert_eq!(offer(&Command::Register(wish.clone()), 2), Step::Conflict);
        wish.registrant.name = "ben".into();
        assert_eq!(offer(&Command::Register(wish), 3), Step::Joined);
    }

    fn offer(group: &mut Group, command: &Command, bits: u64) -> Step {
        let fresh = Candidates::from_random(bits, bits.into());
        group.offer(&View::default(), &LIMITS, command, &fresh, UNIX_EPOCH, |_, _| true)
    }

    #[test]
    fn independent_commands_share_a_group() {
        let mut group = Group::default();
        assert_eq!(offer(&mut group, &register("a", 1), 1), Step::Joined);
        assert_eq!(offer(&mut group, &register("a", 2), 2), Step::Joined);
        assert_eq!(group.mutations().len(), 2);
    }

    #[test]
    fn the_same_address_twice_waits_for_the_next_group() {
        let mut group = Group::default();
        assert_eq!(offer(&mut group, &register("a", 1), 1), Step::Joined);
        assert_eq!(offer(&mut group, &register("a", 1), 2), Step::Conflict);
        assert_eq!(offer(&mut group, &register("b", 1), 3), Step::Joined);
    }

    #[test]
    fn a_removal_of_what_the_group_creates_waits_for_the_next_group() {
        let mut group = Group::default();
        assert_eq!(offer(&mut group, &register("a", 1), 1), Step::Joined);
        let key = group.mutations()[0].main.key.as_replica().cloned().unwrap();
        let by_key = Command::Deregister {
            target: Target::Key(key.clone()),
            proof: crate::registry::Proof::Force,
            said: Said::default(),
            block: None,
        };
        assert_eq!(offer(&mut group, &by_key, 2), Step::Conflict);
        let by_address = Command::Deregister {
            target: Target::Address(key.service, Address::parse("10.0.0.1:1").unwrap()),
            proof: crate::registry::Proof::Force,
            said: Said::default(),
            block: None,
        };
        assert_eq!(offer(&mut group, &by_address, 2), Step::Conflict);
    }

    #[test]
    fn two_candidates_of_the_same_bits_never_share_a_group() {
        let mut group = Group::default();
        assert_eq!(offer(&mut group, &register("a", 1), 1), Step::Joined);
        assert_eq!(offer(&mut group, &register("a", 2), 1), Step::Conflict);
    }

    #[test]
    fn a_registration_without_room_waits_for_a_removal_in_the_group() {
        let mut view = View::default();
        for (port, bits) in [(1, 1), (2, 2)] {
            let fresh = Candidates::from_random(bits, 0);
            let decided = decide(&view, &LIMITS, &register("a", port), &fresh, UNIX_EPOCH);
            let Ok(Decision::Commit(mutation)) = decided else { panic!("{decided:?}") };
            view.apply(crate::registry::Committed { revision: i64::from(port), mutation });
        }
        let removal = Command::Deregister {
            target: Target::Address(ServiceName::parse("a").unwrap(), Address::parse("10.0.0.1:1").unwrap()),
            proof: crate::registry::Proof::Force,
            said: Said::default(),
            block: None,
        };
        let fresh = Candidates::from_random(3, 3);
        let mut group = Group::default();
        let mut offer = |command| group.offer(&view, &LIMITS, &command, &fresh, UNIX_EPOCH, |_, _| true);
        assert!(matches!(offer(register("a", 3)), Step::Refused(RegistryError::QuotaExceeded { .. })));
        assert_eq!(offer(removal), Step::Joined);
        assert_eq!(offer(register("a", 3)), Step::Conflict);
    }

    #[test]
    fn whoever_is_refused_for_a_quota_does_not_end_the_group_of_others() {
        let mut view = View::default();
        for port in [1, 2] {
            let fresh = Candidates::from_random(port.into(), 0);
            let decided = decide(&view, &LIMITS, &register("a", port), &fresh, UNIX_EPOCH);
            let Ok(Decision::Commit(mutation)) = decided else { panic!("{decided:?}") };
            view.apply(crate::registry::Committed { revision: port.into(), mutation });
        }
        let mut group = Group::default();
        let mut offer = |command, bits| {
            let fresh = Candidates::from_random(bits, bits.into());
            group.offer(&view, &LIMITS, &command, &fresh, UNIX_EPOCH, |_, _| true)
        };
        assert_eq!(offer(register("b", 1), 3), Step::Joined);
        assert!(matches!(offer(register("a", 3), 4), Step::Refused(RegistryError::QuotaExceeded { .. })));
        let draining = Command::Drain(Box::new(crate::registry::DrainWish {
            key: view.replicas().next().unwrap().key.clone(),
            proof: crate::registry::Proof::Force,
            timeout: None,
            etag: String::new(),
            allow_last: true,
            said: Said::default(),
        }));
        assert_eq!(offer(draining, 5), Step::Joined, "it is still the same group");
    }

    #[test]
    fn a_group_never_creates_more_than_the_quotas_leave() {
        let mut group = Group::default();
        assert_eq!(offer(&mut group, &register("a", 1), 1), Step::Joined);
        assert_eq!(offer(&mut group, &register("a", 2), 2), Step::Joined);
        assert_eq!(offer(&mut group, &register("a", 3), 3), Step::Conflict);
        assert_eq!(offer(&mut group, &register("b", 1), 4), Step::Joined);
        assert_eq!(offer(&mut group, &register("c", 1), 5), Step::Conflict);
    }
}
