//! Who looks only where something may have changed tells the same as who looks everywhere.

use proptest::prelude::*;

use super::*;
use crate::{
    report::ledger::RESTING,
    routing::Tick,
    table::{
        Seen,
        changing::{Changing, Step, steps},
    },
};

fn look_by<T>(now: Tick, look: impl FnOnce(Look<'_>) -> T) -> T {
    let node_id = NodeId::parse("dp-1").unwrap();
    look(Look { node_id: &node_id, now, date: &|tick| SystemTime::UNIX_EPOCH + tick.since(Tick::ORIGIN) })
}

/// Of the rows told, the newest of each replica.
#[derive(Default, PartialEq, Debug)]
struct Seat(BTreeMap<(String, String), v1::Breaker>);

impl Seat {
    fn take(&mut self, rows: Vec<v1::Breaker>) {
        // Failures are told once; and one that went and came back just as it was between two looks is told no other time than before.
        let rows =
            rows.into_iter().map(|row| v1::Breaker { last_failures: vec![], state_change_time: None, ..row });
        self.0.extend(rows.map(|row| ((row.service.clone(), row.replica_id.clone()), row)));
    }

    /// The rows of replicas that are there.
    fn of(&self, table: &Table) -> Vec<&v1::Breaker> {
        let is_there = |service: &str, id: &str| {
            let service = table.service(service);
            service.is_some_and(|service| service.replica(&ReplicaId::parse(id).unwrap()).is_some())
        };
        self.0.iter().filter(|((service, id), _)| is_there(service, id)).map(|(_, row)| row).collect()
    }
}

proptest! {
    #[test]
    fn what_the_registry_changed_is_told_by_a_look_at_what_has_changed(steps in steps()) {
        let mut changing = Changing::new();
        let table = changing.table.clone();
        let (mut following, mut seen) = (Ledger::default(), Seen::default());
        let (mut told, mut expected) = (Seat::default(), Seat::default());
        // Requests and time are for the interval.
        let steps = steps.into_iter().filter(|step| !matches!(step, Step::Request(..) | Step::Time(_)));
        for step in steps.chain([Step::Look]) {
            if changing.step(step) {
                let (changed, now) = table.changed_since(seen, following.services());
                seen = now;
                told.take(look_by(changing.now, |look| following.look_at_services(&changed, &table, look)));
                expected.take(look_by(changing.now, |look| Ledger::default().walk(&table.services(), look)));
                prop_assert_eq!(told.of(&table), expected.of(&table));
                let services = table.services();
                prop_assert!(following.services().all(|name| services.contains_key(name)), "no others");
            }
        }
    }

    #[test]
    fn services_at_rest_are_passed_over_without_anything_being_missed(steps in steps()) {
        let mut changing = Changing::new();
        let table = changing.table.clone();
        let mut ledger = Ledger::default();
        let (mut told, mut expected) = (Seat::default(), Seat::default());
        // Time alone is told of by turns.
        let steps = steps.into_iter().filter(|step| !matches!(step, Step::Time(_)));
        for step in steps.chain([Step::Look]) {
            if changing.step(step) {
                told.take(look_by(changing.now, |look| ledger.walk(&table.services(), look)));
                expected.take(look_by(changing.now, |look| Ledger::default().walk(&table.services(), look)));
                prop_assert_eq!(told.of(&table), expected.of(&table));
            }
        }
    }

    #[test]
    fn what_time_changes_is_told_once_all_have_had_their_turn(steps in steps()) {
        let mut changing = Changing::new();
        let table = changing.table.clone();
        let mut ledger = Ledger::default();
        let (mut told, mut expected) = (Seat::default(), Seat::default());
        for step in steps {
            if changing.step(step) {
                told.take(look_by(changing.now, |look| ledger.walk(&table.services(), look)));
            }
        }
        changing.step(Step::Time(20_000));
        for _ in 0..RESTING {
            told.take(look_by(changing.now, |look| ledger.walk(&table.services(), look)));
        }
        expected.take(look_by(changing.now, |look| Ledger::default().walk(&table.services(), look)));
        prop_assert_eq!(told.of(&table), expected.of(&table));
    }
}
