//! The registry against a model that a reader can check at a glance.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use gateway_proto::{Address, Health, LeaseId, ReplicaId, ReplicaKey, ServiceName, v1::RemovalCause};
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { replicas: 6, replicas_per_service: 4 };

/// What the model knows of one replica.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    address: u8,
    lease: Option<LeaseId>,
    health: Health,
}

#[derive(Debug, Clone)]
enum Action {
    Register { service: u8, id: Option<u8>, address: u8, leased: bool },
    Deregister { service: u8, id: u8, proof: Choice },
    Report { service: u8, id: u8, proof: Choice, healthy: bool },
    Expire { service: u8, id: u8, stale: bool },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Choice {
    None,
    Owner,
    Stale,
    Force,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let choice =
        prop_oneof![Just(Choice::None), Just(Choice::Owner), Just(Choice::Stale), Just(Choice::Force)];
    let action = prop_oneof![
        4 => (0..2_u8, proptest::option::of(0..4_u8), 0..4_u8, any::<bool>())
            .prop_map(|(service, id, address, leased)| Action::Register { service, id, address, leased }),
        2 => (0..2_u8, 0..4_u8, choice.clone())
            .prop_map(|(service, id, proof)| Action::Deregister { service, id, proof }),
        2 => (0..2_u8, 0..4_u8, choice, any::<bool>())
            .prop_map(|(service, id, proof, healthy)| Action::Report { service, id, proof, healthy }),
        1 => (0..2_u8, 0..4_u8, any::<bool>())
            .prop_map(|(service, id, stale)| Action::Expire { service, id, stale }),
    ];
    proptest::collection::vec(action, 1..60)
}

fn service(number: u8) -> ServiceName {
    ServiceName::parse(&format!("s{number}")).unwrap()
}

fn key(number: u8, id: u8) -> ReplicaKey {
    ReplicaKey { service: service(number), replica: ReplicaId::parse(&format!("r{id}")).unwrap() }
}

fn address(number: u8) -> Address {
    Address::parse(&format!("10.0.0.1:{}", 100 + u16::from(number))).unwrap()
}

/// The lease that a choice stands for; a stale one is of nobody.
fn lease(choice: Choice, known: Option<&Known>) -> Option<LeaseId> {
    match choice {
        Choice::Owner => known.and_then(|k| k.lease).or(Some(LeaseId::from_random(u128::MAX))),
        Choice::Stale => Some(LeaseId::from_random(u128::MAX)),
        Choice::None | Choice::Force => None,
    }
}

fn command(action: &Action, model: &BTreeMap<ReplicaKey, Known>) -> Command {
    match *action {
        Action::Register { service: s, id, address: a, leased } => {
            let mut wish = Registration::permanent(service(s), address(a));
            wish.replica = id.map(|id| key(s, id).replica);
            wish.ttl = leased.then_some(Duration::from_secs(15));
            Command::Register(wish)
        }
        Action::Deregister { service: s, id, proof } => {
            let key = key(s, id);
            let proof = match (proof, lease(proof, model.get(&key))) {
                (Choice::Force, _) => Proof::Force,
                (_, Some(lease)) => Proof::Lease(lease),
                (_, None) => Proof::None,
            };
            Command::Deregister { target: Target::Key(key), proof, said: Said::default(), block: None }
        }
        Action::Report { service: s, id, proof, healthy } => {
            let key = key(s, id);
            let lease = lease(proof, model.get(&key));
            let health = if healthy { Health::Healthy } else { Health::Unhealthy };
            Command::ReportHealth { key, lease, health, reason: String::new() }
        }
        Action::Expire { service: s, id, stale } => {
            let key = key(s, id);
            let choice = if stale { Choice::Stale } else { Choice::Owner };
            let lease = lease(choice, model.get(&key)).expect("both choices name a lease");
            Command::Expire { key, lease, silent_for: Duration::from_secs(16) }
        }
    }
}

/// What the model says the command does: the whole map afterwards, or `None` for a refusal.
fn expected(
    model: &BTreeMap<ReplicaKey, Known>,
    command: &Command,
    fresh: &Candidates,
) -> Option<BTreeMap<ReplicaKey, Known>> {
    let mut next = model.clone();
    let may = |known: &Known, lease: Option<LeaseId>| known.lease == lease;
    match command {
        Command::Register(wish) => {
            let number = u8::try_from(wish.endpoint.address.port() - 100).unwrap();
            let owner = model.iter().find(|(k, v)| k.service == wish.service && v.address == number);
            let replica = wish
                .replica
                .clone()
                .or(owner.map(|(k, _)| k.replica.clone()))
                .unwrap_or(fresh.replica.clone());
            let key = ReplicaKey { service: wish.service.clone(), replica };
            let peers = model.keys().filter(|k| k.service == wish.service).count();
            if owner.is_some_and(|(k, _)| *k != key) {
                return None;
            }
            if !model.contains_key(&key)
                && (model.len() >= LIMITS.replicas || peers >= LIMITS.replicas_per_service)
            {
                return None;
            }
            let lease = wish.ttl.map(|_| fresh.lease);
            next.insert(key, Known { address: number, lease, health: Health::Healthy });
        }
        Command::Deregister { target: Target::Key(key), proof, .. } => {
            let lease = if let Proof::Lease(id) = proof { Some(*id) } else { None };
            if model.get(key).is_some_and(|known| *proof != Proof::Force && !may(known, lease)) {
                return None;
            }
            next.remove(key);
        }
        Command::ReportHealth { key, lease, health, .. } => {
            let known = next.get_mut(key)?;
            if !may(known, *lease) {
                return None;
            }
            known.health = *health;
        }
        Command::Expire { key, lease, .. } => {
            if model.get(key).is_some_and(|known| known.lease == Some(*lease)) {
                next.remove(key);
            }
        }
        other => unreachable!("the model does not know {other:?}"),
    }
    Some(next)
}

fn known(view: &View) -> BTreeMap<ReplicaKey, Known> {
    let entry = |record: &std::sync::Arc<Record>| {
        let address = u8::try_from(record.endpoint.address.port() - 100).unwrap();
        let lease = record.lease.map(|terms| terms.id);
        (record.key.clone(), Known { address, lease, health: record.health })
    };
    view.replicas().map(entry).collect()
}

/// What two views alone do not tell.
fn without_cause(change: Change) -> Change {
    match change {
        Change::Replica(change) => {
            Change::Replica(ReplicaChange { removal: RemovalCause::Unspecified, ..change })
        }
        other => other,
    }
}

proptest! {
    #[test]
    fn the_registry_does_what_the_model_does(actions in actions()) {
        let mut view = View::default();
        let mut model = BTreeMap::new();
        let mut incarnations: BTreeMap<ReplicaKey, i64> = BTreeMap::new();
        for (index, action) in actions.iter().enumerate() {
            let fresh = Candidates::from_random(index as u64 + 1, index as u128 + 1);
            let command = command(action, &model);
            let decided = decide(&view, &LIMITS, &command, &fresh, UNIX_EPOCH);
            match (expected(&model, &command, &fresh), decided) {
                (None, Err(_)) => {}
                (Some(next), Ok(Decision::Nothing(_))) => prop_assert_eq!(&next, &model),
                (Some(next), Ok(Decision::Commit(mutation))) => {
                    let before = view.clone();
                    let revision = view.revision() + 1;
                    let present = view.get(mutation.main.key.as_replica().unwrap());
                    prop_assert_eq!(mutation.main.expected, present.map(|r| r.revision));
                    let applied = view.apply(Committed { revision, mutation });
                    prop_assert_eq!(applied.changes[0].revision(), revision);
                    // The change alone leads from the one view to the other.
                    let told: Vec<_> = applied.changes.into_iter().map(without_cause).collect();
                    prop_assert_eq!(before.changes_to(&view), told);
                    model = next;
                }
                (next, decided) => prop_assert!(false, "model {next:?}, registry {decided:?}"),
            }
            prop_assert_eq!(known(&view), model.clone());
            prop_assert_eq!(view.replica_count(), model.len());
            for record in view.replicas() {
                // One owner for each address, and the index knows it.
                prop_assert_eq!(view.owner(&record.key.service, &record.endpoint.address), Some(&record.key.replica));
                let last = incarnations.insert(record.key.clone(), record.incarnation);
                prop_assert!(last.is_none_or(|last| last <= record.incarnation));
            }
        }
        // What a restart would load is what is known.
        let restored = View::new(view.revision(), view.items());
        prop_assert!(view.changes_to(&restored).is_empty());
    }

    #[test]
    fn nobody_has_more_than_he_may_nor_a_service_also_by_taking_over_and_in_groups(
        steps in proptest::collection::vec((0..8_u8, 0..2_usize, 0..12_u8, any::<bool>()), 1..120),
        in_groups in any::<bool>(),
    ) {
        const ROOMY: Limits = Limits { replicas: 100, replicas_per_service: 3 };
        const MOST: usize = 2;
        let mut view = View::default();
        let mut waiting = std::collections::VecDeque::new();
        for (index, (kind, who, id, takes_place)) in steps.into_iter().enumerate() {
            let key = key(0, id);
            let lease = view.get(&key).and_then(|record| record.lease).map(|terms| terms.id);
            let silent_for = Duration::from_secs(16);
            let command = match (kind, lease) {
                (0..=1, Some(lease)) => Command::Hold { key, lease, silent_for },
                (2, Some(lease)) => Command::Recover { key, lease },
                _ => {
                    let mut wish = Registration::permanent(service(0), address(id));
                    wish.replica = Some(match takes_place {
                        true => ReplicaId::parse(&format!("n{index}")).unwrap(),
                        false => key.replica,
                    });
                    wish.ttl = Some(Duration::from_secs(15));
                    let quota = Some(Quota { replicas: Some(MOST), services: None });
                    wish.registrant = Registrant { name: ["ana", "ben"][who].into(), quota };
                    Command::Register(wish)
                }
            };
            waiting.push_back((command, Candidates::from_random(index as u64 + 1, index as u128 + 1)));
            if in_groups && waiting.len() < 4 {
                continue;
            }
            while !waiting.is_empty() {
                let mut group = Group::default();
                while let Some((command, fresh)) = waiting.front() {
                    if group.offer(&view, &ROOMY, command, fresh, UNIX_EPOCH, |_, _| true) == Step::Conflict {
                        break;
                    }
                    waiting.pop_front();
                }
                for mutation in group.into_mutations() {
                    let revision = view.revision() + 1;
                    view.apply(Committed { revision, mutation });
                }
            }
            let his = |name: &str| view.replicas().filter(|record| &*record.registered_by == name).count();
            prop_assert!(his("ana") <= 2 * MOST && his("ben") <= 2 * MOST);
            let all = view.replica_count();
            prop_assert!(all <= 2 * ROOMY.replicas_per_service);
            let (lost, population) = (view.lost().count(), view.population(&service(0)));
            prop_assert_eq!(population, Population { living: all - lost, lost });
            let counted = |name| view.held_by(name).map_or(0, |held| held.replicas() + held.lost());
            prop_assert_eq!((counted("ana"), counted("ben")), (his("ana"), his("ben")));
        }
    }

    #[test]
    fn commands_in_groups_end_where_commands_one_by_one_do(actions in actions()) {
        let (mut grouped, mut serial) = (View::default(), View::default());
        let mut model = BTreeMap::new();
        let mut commands = Vec::new();
        for (index, action) in actions.iter().enumerate() {
            let fresh = Candidates::from_random(index as u64 + 1, index as u128 + 1);
            let command = command(action, &model);
            model = expected(&model, &command, &fresh).unwrap_or(model);
            commands.push((command, fresh));
        }
        let mut refused = Vec::new();
        for (command, fresh) in &commands {
            match decide(&serial, &LIMITS, command, fresh, UNIX_EPOCH) {
                Ok(Decision::Commit(mutation)) => {
                    let revision = serial.revision() + 1;
                    serial.apply(Committed { revision, mutation });
                }
                Ok(Decision::Nothing(_)) => {}
                Err(error) => refused.push(error),
            }
        }
        let mut refused_in_groups = Vec::new();
        let mut waiting = commands.iter().peekable();
        while waiting.peek().is_some() {
            let mut group = Group::default();
            while let Some((command, fresh)) = waiting.peek() {
                match group.offer(&grouped, &LIMITS, command, fresh, UNIX_EPOCH, |_, _| true) {
                    Step::Conflict => break,
                    Step::Refused(error) => refused_in_groups.push(error),
                    Step::Joined | Step::Nothing(_) => {}
                }
                waiting.next();
            }
            for mutation in group.into_mutations() {
                // What was decided before the group still holds when it is its turn.
                let present = grouped.get(mutation.main.key.as_replica().unwrap());
                prop_assert_eq!(mutation.main.expected, present.map(|r| r.revision));
                let revision = grouped.revision() + 1;
                grouped.apply(Committed { revision, mutation });
            }
        }
        // Which of several quotas is named may depend on what comes before it in the group.
        let kinds = |refused: Vec<RegistryError>| -> Vec<_> {
            refused.into_iter().map(|error| error.quota().map_or_else(|| Err(error), |_| Ok("a quota"))).collect()
        };
        prop_assert_eq!(kinds(refused_in_groups), kinds(refused));
        prop_assert_eq!(known(&grouped), known(&serial));
        prop_assert_eq!(grouped.revision(), serial.revision());
    }
}
