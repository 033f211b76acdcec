//! What breakers would have done by other rules: what data planes are asked, and the sum of what they answer.
//!
//! Each data plane replays what it has recorded itself, so that the answers are small. Nothing waits without a bound: so
//! many questions at once, one answer from each data plane, and a data plane that is slow misses it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use gateway_proto::{
    Invalid, NodeId, ReplicaId,
    explain::MAX_SHOWN,
    time::{self, system_time},
    v1,
};
use prost_types::Timestamp;
use tokio::sync::{broadcast, mpsc};

/// Questions that are open at once.
pub const MAX_OPEN: usize = 8;
/// Replicas in one answer.
const MAX_REPLICAS: usize = 1000;
/// Answers to one question that wait to be added up; each data plane gives one.
const MAX_WAITING: usize = 64;
/// Data planes that an answer names.
const MAX_NAMED: usize = 100;

/// Open questions.
#[derive(Debug)]
pub struct Questions {
    asked: broadcast::Sender<Arc<v1::WhatIfQuestion>>,
    /// What is asked of those who follow other control planes, too.
    asked_elsewhere: broadcast::Sender<Arc<v1::WhatIfQuestion>>,
    open: Mutex<HashMap<i64, mpsc::Sender<Answered>>>,
    last: AtomicI64,
}

/// An open question, until it is dropped.
#[derive(Debug)]
pub(crate) struct Open<'a> {
    questions: &'a Questions,
    id: i64,
    answers: mpsc::Receiver<Answered>,
}

/// One data plane's answer, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// Whose.
    pub node: NodeId,
    id: i64,
    recording: bool,
    earliest: Option<Timestamp>,
    latest: Option<Timestamp>,
    replicas: Vec<(ReplicaId, v1::Replay, v1::Replay)>,
}

impl Default for Questions {
    fn default() -> Self {
        let (asked, _) = broadcast::channel(MAX_OPEN);
        let (asked_elsewhere, _) = broadcast::channel(MAX_OPEN);
        Self { asked, asked_elsewhere, open: Mutex::default(), last: AtomicI64::new(0) }
    }
}

impl Questions {
    /// What is asked from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<v1::WhatIfQuestion>> {
        self.asked.subscribe()
    }

    /// What is asked from now on for other control planes to ask, too.
    pub(crate) fn follow_elsewhere(&self) -> broadcast::Receiver<Arc<v1::WhatIfQuestion>> {
        self.asked_elsewhere.subscribe()
    }

    /// Asks all data planes that report, here and to other control planes. `None` when too many questions are open.
    pub(crate) fn ask(&self, service: String, breaker: v1::BreakerPolicy) -> Option<Open<'_>> {
        let (open, question) = self.ask_here(service, breaker)?;
        let _ = self.asked_elsewhere.send(question);
        Some(open)
    }

    /// Asks those only that report here.
    pub(crate) fn ask_here(
        &self,
        service: String,
        breaker: v1::BreakerPolicy,
    ) -> Option<(Open<'_>, Arc<v1::WhatIfQuestion>)> {
        let question_id = self.last.fetch_add(1, Relaxed) + 1;
        let (sender, answers) = mpsc::channel(MAX_WAITING);
        {
            let mut open = self.open();
            if open.len() >= MAX_OPEN {
                return None;
            }
            open.insert(question_id, sender);
        }
        let question = Arc::new(v1::WhatIfQuestion { question_id, service, breaker: Some(breaker) });
        // Nobody may be there to hear it.
        let _ = self.asked.send(Arc::clone(&question));
        Some((Open { questions: self, id: question_id, answers }, question))
    }

    /// Hands an answer to whoever asked; one that nobody waits for is dropped.
    pub(crate) fn answer(&self, answered: Answered) {
        let asker = self.open().get(&answered.id).cloned();
        if let Some(asker) = asker {
            let _ = asker.try_send(answered);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<i64, mpsc::Sender<Answered>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open<'_> {
    /// The next answer. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Answered> {
        self.answers.recv().await
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.questions.open().remove(&self.id);
    }
}

impl Answered {
    /// The same as an answer to another question.
    pub(crate) fn to_wire(&self, question_id: i64) -> v1::WhatIfAnswer {
        let replica = |(id, now, then): &(ReplicaId, v1::Replay, v1::Replay)| v1::ReplicaReplay {
            replica_id: id.to_string(),
            now: Some(*now),
            then: Some(*then),
        };
        v1::WhatIfAnswer {
            question_id,
            replicas: self.replicas.iter().map(replica).collect(),
            earliest_time: self.earliest,
            latest_time: self.latest,
            recording: self.recording,
        }
    }

    /// Checks an answer of `node`.
    ///
    /// # Errors
    /// [`Invalid`] naming the entry at fault.
    pub fn parse(node: &NodeId, wire: v1::WhatIfAnswer) -> Result<Self, Invalid> {
        if wire.replicas.len() > MAX_REPLICAS {
            return Err(Invalid::new("replicas", format!("are more than {MAX_REPLICAS} in one answer")));
        }
        let replicas = wire.replicas.into_iter().enumerate().map(|(index, replica)| {
            let id = ReplicaId::parse(&replica.replica_id)
                .map_err(|invalid| invalid.within(&format!("replicas[{index}]")))?;
            Ok((id, counts(replica.now), counts(replica.then)))
        });
        Ok(Self {
            node: node.clone(),
            id: wire.question_id,
            recording: wire.recording,
            earliest: wire.earliest_time.filter(time::is_valid),
            latest: wire.latest_time.filter(time::is_valid),
            replicas: replicas.collect::<Result<_, Invalid>>()?,
        })
    }
}

/// Counts as they may be believed: none below zero, and no part larger than the whole.
fn counts(wire: Option<v1::Replay>) -> v1::Replay {
    let wire = wire.unwrap_or_default();
    let outcome_count = wire.outcome_count.max(0);
    let failure_count = wire.failure_count.clamp(0, outcome_count);
    v1::Replay {
        trip_count: wire.trip_count.clamp(0, outcome_count),
        failed_probe_count: wire.failed_probe_count.clamp(0, outcome_count),
        shed_failure_count: wire.shed_failure_count.clamp(0, failure_count),
        shed_success_count: wire.shed_success_count.clamp(0, outcome_count - failure_count),
        outcome_count,
        failure_count,
    }
}

/// Adds answers up.
#[derive(Debug, Default)]
pub struct WhatIf {
    replicas: BTreeMap<ReplicaId, (v1::Replay, v1::Replay)>,
    earliest: Option<Timestamp>,
    latest: Option<Timestamp>,
    node_count: i32,
    unrecording: Vec<String>,
    /// Who has not answered.
    missing: BTreeSet<NodeId>,
}

impl WhatIf {
    /// Of these data planes.
    pub fn of(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self { missing: nodes.into_iter().collect(), ..Self::default() }
    }

    /// Whether all have answered.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Takes an answer in. A second one of the same data plane counts for nothing.
    pub fn add(&mut self, answered: Answered) {
        if !self.missing.remove(&answered.node) {
            return;
        }
        if !answered.recording {
            self.unrecording.push(answered.node.to_string());
        }
        if answered.replicas.is_empty() {
            return;
        }
        self.node_count += 1;
        let order = |at: &Timestamp| system_time(*at);
        self.earliest = [self.earliest, answered.earliest].into_iter().flatten().min_by_key(order);
        self.latest = [self.latest, answered.latest].into_iter().flatten().max_by_key(order);
        for (id, now, then) in answered.replicas {
            let (all_now, all_then) = self.replicas.entry(id).or_default();
            *all_now = sum(*all_now, now);
            *all_then = sum(*all_then, then);
        }
    }

    /// The sum, and what it cannot know.
    pub fn finish(self, service: &str) -> v1::WhatIfResponse {
        let total = |of: fn(&(v1::Replay, v1::Replay)) -> v1::Replay| {
            self.replicas.values().map(of).fold(v1::Replay::default(), sum)
        };
        let (now, then) = (total(|replica| replica.0), total(|replica| replica.1));
        let replica_count = i32::try_from(self.replicas.len()).unwrap_or(i32::MAX);
        let summary = self.summary(&now, &then);
        let named = |names: Vec<String>| names.into_iter().take(MAX_NAMED).collect::<Vec<_>>();
        let mut replicas: Vec<_> = self.replicas.into_iter().collect();
        replicas.sort_by_key(|(_, (now, then))| Reverse((now.trip_count - then.trip_count).abs()));
        let replicas = replicas.into_iter().take(MAX_SHOWN).map(|(id, (now, then))| v1::ReplicaReplay {
            replica_id: id.to_string(),
            now: Some(now),
            then: Some(then),
        });
        v1::WhatIfResponse {
            service: service.to_owned(),
            summary,
            now: Some(now),
            then: Some(then),
            replicas: replicas.collect(),
            replica_count,
            earliest_time: self.earliest,
            latest_time: self.latest,
            node_count: self.node_count,
            unrecording_node_ids: named(self.unrecording),
            missing_node_ids: named(self.missing.iter().map(NodeId::to_string).collect()),
            limits: LIMITS.map(str::to_owned).to_vec(),
            // Who asked knows.
            silent_control_planes: Vec::new(),
        }
    }

    fn summary(&self, now: &v1::Replay, then: &v1::Replay) -> String {
        if now.outcome_count == 0 {
            let total = self.unrecording.len() + self.missing.len();
            return match (total, self.unrecording.len()) {
                (0, _) => "nothing is recorded: there was no request to replay".into(),
                (_, 0) => "nobody answered in time".into(),
                _ => "nothing is recorded: start data planes with --record-outcomes 4096".into(),
            };
        }
        let times =
            if then.trip_count == 1 { "once".to_owned() } else { format!("{} times", then.trip_count) };
        let good = then.outcome_count - then.failure_count;
        let share = 100.0 * then.shed_success_count as f64 / good.max(1) as f64;
        format!(
            "would have opened {times} (now: {}), {} of {} errors saved (now: {}), {share:.1} % of good requests shed",
            now.trip_count, then.shed_failure_count, then.failure_count, now.shed_failure_count
        )
    }
}

/// What a replay of what happened cannot know.
const LIMITS: [&str; 5] = [
    "outcomes after a trip are those that really happened: with less load the replica might have done better",
    "requests that were really not sent, because a breaker was open, have no outcome",
    "a request that is shed is asked of another replica where there is one; how that one would have fared is not known",
    "max_open_ratio, peer_latency_factor, fail_open_threshold and observe_only are left out: each replica is replayed alone",
    "where nobody else is left, a breaker really rests for less than it does here, and all really rest for a fifth more or less",
];

fn sum(one: v1::Replay, other: v1::Replay) -> v1::Replay {
    v1::Replay {
        trip_count: one.trip_count.saturating_add(other.trip_count),
        failed_probe_count: one.failed_probe_count.saturating_add(other.failed_probe_count),
        shed_failure_count: one.shed_failure_count.saturating_add(other.shed_failure_count),
        shed_success_count: one.shed_success_count.saturating_add(other.shed_success_count),
        outcome_count: one.outcome_count.saturating_add(other.outcome_count),
        failure_count: one.failure_count.saturating_add(other.failure_count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> NodeId {
        NodeId::parse(id).unwrap()
    }

    fn replay(trips: i64, shed_failures: i64, shed_successes: i64) -> v1::Replay {
        v1::Replay {
            trip_count: trips,
            failed_probe_count: 0,
            shed_failure_count: shed_failures,
            shed_success_count: shed_successes,
            outcome_count: 1000,
            failure_count: 200,
        }
    }

    fn answer(id: i64, replicas: &[(&str, v1::Replay, v1::Replay)]) -> v1::WhatIfAnswer {
        let replicas = replicas.iter().map(|(id, now, then)| v1::ReplicaReplay {
            replica_id: (*id).into(),
            now: Some(*now),
            then: Some(*then),
        });
        v1::WhatIfAnswer {
            question_id: id,
            replicas: replicas.collect(),
            earliest_time: Some(Timestamp { seconds: id, nanos: 0 }),
            latest_time: Some(Timestamp { seconds: 100 + id, nanos: 0 }),
            recording: true,
        }
    }

    fn answered(id: &str, wire: v1::WhatIfAnswer) -> Answered {
        Answered::parse(&node(id), wire).unwrap()
    }

    #[test]
    fn answers_add_up_and_who_gave_none_is_named() {
        let mut all = WhatIf::of(["n1", "n2", "n3", "n4"].map(node));
        all.add(answered("n1", answer(1, &[("a", replay(0, 0, 0), replay(2, 150, 4))])));
        all.add(answered(
            "n2",
            answer(2, &[("a", replay(1, 50, 1), replay(1, 50, 1)), ("b", replay(0, 0, 0), replay(0, 0, 0))]),
        ));
        all.add(answered("n3", v1::WhatIfAnswer::default()));
        all.add(answered("n1", answer(1, &[("a", replay(9, 9, 9), replay(9, 9, 9))])));
        assert!(!all.is_complete());
        let told = all.finish("orders");
        assert_eq!(
            told.summary,
            "would have opened 3 times (now: 1), 200 of 600 errors saved (now: 50), 0.2 % of good requests shed"
        );
        let ids: Vec<_> = told.replicas.iter().map(|replica| replica.replica_id.as_str()).collect();
        assert_eq!((ids, told.replica_count, told.node_count), (vec!["a", "b"], 2, 2));
        assert_eq!((told.earliest_time.unwrap().seconds, told.latest_time.unwrap().seconds), (1, 102));
        assert_eq!(
            (told.unrecording_node_ids, told.missing_node_ids),
            (vec!["n3".to_owned()], vec!["n4".to_owned()])
        );
        assert!(!told.limits.is_empty());
    }

    #[test]
    fn without_outcomes_the_summary_says_why() {
        let summary = |all: WhatIf| all.finish("orders").summary;
        assert!(summary(WhatIf::of([])).contains("no request to replay"));
        assert_eq!(summary(WhatIf::of([node("n1")])), "nobody answered in time");
        let mut unrecording = WhatIf::of([node("n1")]);
        unrecording.add(answered("n1", v1::WhatIfAnswer::default()));
        assert!(summary(unrecording).contains("--record-outcomes"));
    }

    #[test]
    fn counts_that_cannot_be_are_cut_and_names_that_cannot_be_are_refused() {
        let lie = v1::Replay {
            trip_count: 99,
            failed_probe_count: -1,
            shed_failure_count: 9,
            shed_success_count: 9,
            outcome_count: 10,
            failure_count: 4,
        };
        let (_, now, _) = answered("n1", answer(1, &[("a", lie, lie)])).replicas.remove(0);
        assert_eq!((now.trip_count, now.failed_probe_count), (10, 0));
        assert_eq!((now.shed_failure_count, now.shed_success_count), (4, 6));
        assert!(Answered::parse(&node("n1"), answer(1, &[("A b", lie, lie)])).is_err());
        let many = v1::WhatIfAnswer { replicas: vec![Default::default(); 1001], ..Default::default() };
        assert!(Answered::parse(&node("n1"), many).is_err());
    }

    #[tokio::test]
    async fn a_question_reaches_who_follows_and_its_answer_who_asked_and_only_so_many_are_open() {
        let questions = Questions::default();
        let mut followed = questions.follow();
        let mut open: Vec<_> = (0..MAX_OPEN)
            .map(|_| questions.ask("orders".into(), v1::BreakerPolicy::default()).unwrap())
            .collect();
        assert!(questions.ask("orders".into(), v1::BreakerPolicy::default()).is_none());
        let heard = followed.recv().await.unwrap();
        questions.answer(answered("n1", answer(heard.question_id, &[])));
        questions.answer(answered("n1", answer(777, &[])));
        assert_eq!(open[0].next().await.unwrap().node, node("n1"));
        open.clear();
        assert!(questions.ask("orders".into(), v1::BreakerPolicy::default()).is_some());
    }
}
