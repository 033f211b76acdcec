//! Commands in groups end where commands one by one do, whatever they are.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use crate::registry::{
    Answer, Committed, Decision, Group, Item, Lost, Record, RegistryError, Revision, Step, View,
    arbitrary::{LIMITS, at, choices, command, fresh},
    decide,
};

/// Leaves out the numbers that only order registrations: they depend on what a command was decided on.
fn without_order(item: Item) -> Item {
    let Item::Replica(record) = item else { return item };
    let lost = record.lost.map(|lost| Box::new(Lost { incarnation: 0, ..*lost }));
    Record { incarnation: 0, first_incarnation: 0, lost, ..*record }.into()
}

fn items(view: &View) -> Vec<Item> {
    view.items().map(without_order).collect()
}

fn comparable(answer: Answer) -> Answer {
    let record = |record: Arc<Record>| match without_order(Record::clone(&record).into()) {
        Item::Replica(record) => Arc::new(*record),
        other => unreachable!("{other:?}"),
    };
    match answer {
        Answer::Registered { record: of, created } => Answer::Registered { record: record(of), created },
        Answer::Replica(of) => Answer::Replica(record(of)),
        // When nothing is to be done, the revision is that of the moment.
        Answer::Deregistered { removed: false, .. } => Answer::Deregistered { removed: false, revision: 0 },
        Answer::OverrideEnded { ended: false, .. } => Answer::OverrideEnded { ended: false, revision: 0 },
        Answer::Policies { policies, .. } if policies.is_empty() => {
            Answer::Policies { policies, revision: 0 }
        }
        other => other,
    }
}

fn revision_of(item: &Item) -> Revision {
    match item {
        Item::Replica(record) => record.revision,
        Item::Policy(stored) => stored.revision,
        Item::Override(entry) => entry.revision,
        Item::Route(stored) => stored.revision,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn commands_of_every_kind_in_groups_end_where_commands_one_by_one_do(choices in choices(60)) {
        let (mut serial, mut grouped) = (View::default(), View::default());
        let mut commands = Vec::new();
        let mut expected: Vec<Result<Answer, RegistryError>> = Vec::new();
        for (index, choice) in choices.iter().enumerate() {
            let command = command(&serial, *choice);
            let decided = decide(&serial, &LIMITS, &command, &fresh(index), at(index));
            expected.push(decided.map(|decision| match decision {
                Decision::Nothing(answer) => comparable(answer),
                Decision::Commit(mutation) => {
                    let revision = serial.revision() + 1;
                    let answer = comparable(mutation.answer(revision));
                    serial.apply(Committed { revision, mutation });
                    answer
                }
            }));
            commands.push(command);
        }
        let mut answers = vec![None; commands.len()];
        let mut next = 0;
        while next < commands.len() {
            let mut group = Group::default();
            let mut joined = Vec::new();
            while let Some(command) = commands.get(next) {
                match group.offer(&grouped, &LIMITS, command, &fresh(next), at(next), |_, _| true) {
                    Step::Joined => joined.push(next),
                    Step::Nothing(answer) => answers[next] = Some(Ok(comparable(answer))),
                    Step::Refused(error) => answers[next] = Some(Err(error)),
                    Step::Conflict => {
                        prop_assert!(!group.mutations().is_empty(), "it would wait for ever: {command:?}");
                        break;
                    }
                }
                next += 1;
            }
            for (index, mutation) in joined.into_iter().zip(group.into_mutations()) {
                // What was decided before the group still holds when it is its turn.
                let present: BTreeMap<_, _> =
                    grouped.items().map(|item| (item.key(), revision_of(&item))).collect();
                for write in mutation.writes() {
                    prop_assert_eq!(write.expected, present.get(&write.key).copied(), "{:?}", write.key);
                }
                let revision = grouped.revision() + 1;
                answers[index] = Some(Ok(comparable(mutation.answer(revision))));
                grouped.apply(Committed { revision, mutation });
            }
        }
        for (index, (answer, expected)) in answers.into_iter().zip(expected).enumerate() {
            match (answer, expected) {
                // Which of several that leave no room is named may depend on what comes before it in the group.
                (Some(Err(refused)), Err(expected)) if expected.quota().is_some() => {
                    prop_assert!(refused.quota().is_some(), "{refused:?}: {:?}", &commands[index]);
                }
                (answer, expected) => prop_assert_eq!(answer, Some(expected), "{:?}", &commands[index]),
            }
        }
        prop_assert_eq!(items(&grouped), items(&serial));
        prop_assert_eq!(grouped.revision(), serial.revision());
    }
}
