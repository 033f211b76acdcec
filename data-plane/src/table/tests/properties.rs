//! Whom a request asks, on random histories of the registry, of operators and of outcomes.
//!
//! Each breaker is believed about its own state, for it has a model of its own; what follows from the states is
//! judged here by rules that know neither views nor cursors.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Debug, Clone)]
enum Step {
    Mode(usize, Mode),
    Health(usize, Health),
    Tier(usize, i32),
    Force(usize, Option<ForcedState>),
    Reset(usize),
    Register(usize),
    Remove(usize),
    Pass(u64),
    Ask(Outcome),
}

fn step() -> impl Strategy<Value = Step> {
    let one = 0..IDS.len();
    let mode = prop_oneof![2 => Just(Mode::Serving), 1 => Just(Mode::Draining), 1 => Just(Mode::Drained)];
    let health =
        prop_oneof![2 => Just(Health::Healthy), 1 => Just(Health::Lost), 1 => Just(Health::Starting)];
    let forced = prop_oneof![
        2 => Just(None),
        1 => Just(Some(ForcedState::Open)),
        1 => Just(Some(ForcedState::Closed)),
    ];
    let outcome = prop_oneof![
        3 => Just(Outcome::Success),
        3 => Just(Outcome::Failure(Fault::Reset)),
        1 => Just(Outcome::Neutral),
    ];
    prop_oneof![
        1 => (one.clone(), mode).prop_map(|(index, mode)| Step::Mode(index, mode)),
        1 => (one.clone(), health).prop_map(|(index, health)| Step::Health(index, health)),
        1 => (one.clone(), 0..3).prop_map(|(index, tier)| Step::Tier(index, tier)),
        1 => (one.clone(), forced).prop_map(|(index, forced)| Step::Force(index, forced)),
        1 => one.clone().prop_map(Step::Reset),
        1 => one.clone().prop_map(Step::Register),
        1 => one.prop_map(Step::Remove),
        2 => (0..3_000_u64).prop_map(Step::Pass),
        24 => outcome.prop_map(Step::Ask),
    ]
}

/// What the registry and operators say, as steps change it.
struct Registry {
    specs: BTreeMap<&'static str, ReplicaSpec>,
    revision: i64,
}

impl Registry {
    fn spec(&mut self, index: usize) -> &mut ReplicaSpec {
        self.specs.entry(IDS[index]).or_insert_with(|| replica(IDS[index]))
    }

    fn take(&mut self, step: &Step) {
        self.revision += 1;
        let revision = self.revision;
        match *step {
            Step::Mode(index, mode) => self.spec(index).mode = mode,
            Step::Health(index, health) => self.spec(index).health = health,
            Step::Tier(index, tier) => self.spec(index).priority = Priority::parse(tier).unwrap(),
            Step::Force(index, forced) => {
                let entry = Arc::new(v1::OverrideEntry::default());
                self.spec(index).forced = forced.map(|state| Forced { state, entry });
            }
            Step::Reset(index) => {
                let entry = v1::OverrideEntry { revision, ..Default::default() };
                self.spec(index).reset = Some(Arc::new(entry));
            }
            Step::Register(index) => self.spec(index).incarnation += 1,
            Step::Remove(index) => {
                self.specs.remove(IDS[index]);
            }
            Step::Pass(_) | Step::Ask(_) => {}
        }
    }
}

/// One replica that takes requests, before a pick.
struct Askable {
    id: String,
    priority: Priority,
    lets_all_through: bool,
    is_due: bool,
}

fn askable(service: &Service, now: Tick) -> Vec<Askable> {
    let replicas = service.replicas();
    let taking = replicas.iter().filter(|replica| replica.takes_requests());
    taking
        .map(|replica| Askable {
            id: replica.key().replica.to_string(),
            priority: replica.priority(),
            lets_all_through: replica.breaker().state().lets_all_through(),
            is_due: replica.breaker().next_probe_at().is_some_and(|due| due <= now),
        })
        .collect()
}

/// The tier in use, and who takes turns in it.
fn sharing(askable: &[Askable]) -> (Option<Priority>, Vec<String>) {
    let open = || askable.iter().filter(|one| one.lets_all_through);
    let tier = open().map(|one| one.priority).min();
    (tier, open().filter(|one| Some(one.priority) == tier).map(|one| one.id.clone()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_asks_whom_states_modes_and_tiers_allow_and_they_take_exact_turns(
        steps in prop::collection::vec(step(), 1..300),
        algorithm in prop::sample::select(&Algorithm::ALL[..]),
    ) {
        let (table, service, _transitions) = table_of(&[]);
        let mut registry = Registry { specs: BTreeMap::new(), revision: 0 };
        let mut now = START;
        let mut requests = 0;
        // Turns since the set of those that take turns, or their tier, was another.
        let mut turns: (Option<Priority>, BTreeMap<String, u32>) = Default::default();
        for step in steps {
            let (tier, sharing) = sharing(&askable(&service, now));
            if (turns.0, turns.1.keys().collect()) != (tier, sharing.iter().collect::<Vec<_>>()) {
                turns = (tier, sharing.into_iter().map(|id| (id, 0)).collect());
            }
            let Step::Ask(outcome) = step else {
                registry.take(&step);
                if let Step::Pass(millis) = step {
                    now = now.plus(Duration::from_millis(millis));
                }
                table.apply(&[balanced(by(algorithm), registry.specs.values().cloned())], &[], now);
                continue;
            };
            let askable = askable(&service, now);
            let due = askable.iter().find(|one| one.is_due && tier.is_none_or(|tier| one.priority <= tier));
            let before = registry.specs.clone();
            requests += 1;
            match service.pick(0, now, &[], draw(requests)) {
                Ok(picked) => {
                    let id = picked.replica.key().replica.to_string();
                    prop_assert_eq!(picked.replica.spec(), &before[id.as_str()], "as the registry has it");
                    prop_assert_eq!(picked.permit.is_probe(), due.is_some(), "a due probe goes first");
                    if !picked.permit.is_probe() {
                        prop_assert!(turns.1.contains_key(&id), "{} has no turn", id);
                        *turns.1.entry(id).or_default() += 1;
                        let (least, most) = (turns.1.values().min(), turns.1.values().max());
                        let in_turn = most.zip(least).is_some_and(|(most, least)| most - least <= 1);
                        prop_assert!(in_turn || algorithm != Algorithm::RoundRobin, "{:?}", turns);
                    }
                    service.settle(0, &picked.replica, picked.permit, outcome, now, 0.5);
                }
                Err(unavailable) => {
                    prop_assert!(turns.1.is_empty() && due.is_none(), "{:?} in vain", unavailable);
                    let expected = match askable.len() {
                        0 => Unavailable::NoneReady,
                        count if askable.iter().all(|one| !one.lets_all_through) && forced_open(&service) == count => {
                            Unavailable::AllForcedOpen { count }
                        }
                        resting => {
                            let Unavailable::AllOpen { retry_at, .. } = unavailable else {
                                return Err(TestCaseError::fail(format!("{unavailable:?}")));
                            };
                            Unavailable::AllOpen { resting, retry_at }
                        }
                    };
                    prop_assert_eq!(unavailable, expected);
                }
            }
        }
    }
}

/// How many of those that take requests an operator holds out.
fn forced_open(service: &Service) -> usize {
    let replicas = service.replicas();
    let taking = replicas.iter().filter(|replica| replica.takes_requests());
    taking.filter(|replica| replica.breaker().state() == State::ForcedOpen).count()
}
