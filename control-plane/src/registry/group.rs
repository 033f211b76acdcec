//! Commands that can be committed together.
//!
//! Every command of a group is decided on the same view, the one before the group. So a command that reads what an
//! earlier one of the group writes has to wait for the next group; what is left is independent of order.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use gateway_proto::{Address, ReplicaKey, ServiceName};

use super::{
    Answer, Candidates, Cause, Command, Decision, Limits, Mutation, OverrideId, RegistryError, Target, View,
    decide::{decide, find, key_of},
};

/// The mutations of one transaction, in the order of their commands.
#[derive(Debug, Default)]
pub struct Group {
    mutations: Vec<Mutation>,
    written: HashSet<Place>,
    /// Services of which a replica is written.
    touched: HashSet<ServiceName>,
    created: HashMap<ServiceName, usize>,
    created_count: usize,
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

/// What a command reads and may write.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Place {
    Replica(ReplicaKey),
    Address(ServiceName, Address),
    /// Every replica of a service: whether one is the last ready one depends on all others.
    Roster(ServiceName),
    /// All policies: each must fit those it inherits from, and those that inherit from it.
    Policies,
    Override(OverrideId),
}

impl Group {
    /// Decides a command and takes its mutation in.
    pub fn offer(
        &mut self,
        view: &View,
        limits: &Limits,
        command: &Command,
        fresh: &Candidates,
        at: SystemTime,
    ) -> Step {
        let places = places(view, command, fresh);
        if places.iter().any(|place| self.is_taken(place)) {
            return Step::Conflict;
        }
        match decide(view, limits, command, fresh, at) {
            Ok(Decision::Nothing(answer)) => Step::Nothing(answer),
            // The group may hold a removal that makes room.
            Err(RegistryError::QuotaExceeded { .. }) if !self.mutations.is_empty() => Step::Conflict,
            Err(error) => Step::Refused(error),
            Ok(Decision::Commit(mutation)) => self.take(view, limits, places, mutation),
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

    fn take(&mut self, view: &View, limits: &Limits, places: Vec<Place>, mutation: Mutation) -> Step {
        let created = mutation.main.key.as_replica().filter(|_| mutation.main.cause == Cause::Registered);
        if let Some(key) = created {
            if !self.has_room(view, limits, &key.service) {
                return Step::Conflict;
            }
            *self.created.entry(key.service.clone()).or_default() += 1;
            self.created_count += 1;
        }
        let replicas = mutation.writes().filter_map(|write| write.key.as_replica());
        self.touched.extend(replicas.map(|key| key.service.clone()));
        self.written.extend(places);
        self.mutations.push(mutation);
        Step::Joined
    }

    fn is_taken(&self, place: &Place) -> bool {
        let of_roster = |service: &ServiceName| self.written.contains(&Place::Roster(service.clone()));
        self.written.contains(place)
            || match place {
                Place::Roster(service) => self.touched.contains(service),
                Place::Replica(key) => of_roster(&key.service),
                Place::Address(service, _) => of_roster(service),
                Place::Policies | Place::Override(_) => false,
            }
    }

    /// Whether the quotas hold for one replica more than the group creates already.
    fn has_room(&self, view: &View, limits: &Limits, service: &ServiceName) -> bool {
        let pending = self.created.get(service).copied().unwrap_or(0);
        let count = view.service(service).map_or(0, |entry| entry.replicas().len());
        view.replica_count() + self.created_count < limits.replicas
            && count + pending < limits.replicas_per_service
    }
}

fn places(view: &View, command: &Command, fresh: &Candidates) -> Vec<Place> {
    let (mut places, key) = match command {
        Command::Register(wish) => {
            let key = key_of(view, wish, fresh);
            (vec![Place::Address(wish.service.clone(), wish.address.clone())], Some(key))
        }
        Command::Deregister { target: target @ Target::Address(service, address), .. } => {
            let key = find(view, target).map(|record| record.key.clone());
            (vec![Place::Address(service.clone(), address.clone())], key)
        }
        Command::Drain(wish) => (vec![Place::Roster(wish.key.service.clone())], Some(wish.key.clone())),
        Command::Deregister { target: Target::Key(key), .. }
        | Command::ReportHealth { key, .. }
        | Command::Expire { key, .. }
        | Command::Hold { key, .. }
        | Command::Recover { key, .. }
        | Command::Undrain { key, .. }
        | Command::FinishDrain { key, .. } => (Vec::new(), Some(key.clone())),
        Command::UpdatePolicy(_) | Command::DeletePolicy { .. } => (vec![Place::Policies], None),
        Command::Override(wish) => (vec![Place::Override(wish.target.id())], None),
        Command::EndOverride { id, .. } => (vec![Place::Override(id.clone())], None),
    };
    if let Some(key) = key {
        // Its present address is freed by a removal and by a move.
        if let Some(record) = view.get(&key) {
            places.push(Place::Address(key.service.clone(), record.address.clone()));
        }
        places.push(Place::Replica(key));
    }
    places
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::registry::{Registration, Said};

    const LIMITS: Limits = Limits { replicas: 3, replicas_per_service: 2 };

    fn register(service: &str, port: u16) -> Command {
        let address = Address::parse(&format!("10.0.0.1:{port}")).unwrap();
        Command::Register(Registration::permanent(ServiceName::parse(service).unwrap(), address))
    }

    fn offer(group: &mut Group, command: &Command, bits: u64) -> Step {
        let fresh = Candidates::from_random(bits, bits.into());
        group.offer(&View::default(), &LIMITS, command, &fresh, UNIX_EPOCH)
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
        let mut offer = |command| group.offer(&view, &LIMITS, &command, &fresh, UNIX_EPOCH);
        assert!(matches!(offer(register("a", 3)), Step::Refused(RegistryError::QuotaExceeded { .. })));
        assert_eq!(offer(removal), Step::Joined);
        assert_eq!(offer(register("a", 3)), Step::Conflict);
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
