//! The writer's task: drain, decide together, commit, apply, publish, answer.

use std::time::Instant;

use control_plane::{
    leases::Leases,
    registry::{
        Answer, Candidates, Command, Committed, Group, Key, LeaseTerms, Limits, Mutation, Proof, Record,
        Step, View,
    },
};

use super::{Control, Running, reply};
use crate::{
    checks::{Checked, Ledger},
    env::{Env, MS},
    event::{Caller, ControlEvent, Event, Reply},
    journal::note,
    sabotage::Sabotage,
};

/// Low enough to be met by some runs.
const LIMITS: Limits = Limits { replicas: 14, replicas_per_service: 6 };
/// Commands that may wait.
const QUEUE: usize = 16;

/// A command that nobody has decided on.
pub(super) struct Waiting {
    from: Option<Caller>,
    /// As it was asked.
    command: Command,
    /// Whether a sweep asked it.
    is_own: bool,
}

impl Waiting {
    /// What a sweep found to be due.
    pub(super) fn own(command: Command) -> Self {
        Self { from: None, command, is_own: true }
    }
}

/// A group on its way to the disk.
pub(super) struct Commit {
    waiting: Vec<Waiting>,
    pub(super) mutations: Vec<Mutation>,
}

impl Commit {
    pub(super) fn commands(&self) -> Vec<Command> {
        self.waiting.iter().map(|waiting| waiting.command.clone()).collect()
    }
}

impl Control {
    pub(super) fn enqueue(&mut self, env: &mut Env, from: Option<Caller>, command: Command) {
        let Some(running) = &mut self.running else { return };
        if running.waiting.len() >= QUEUE {
            env.journal.count("the writer's queue was full");
            return reply(env, from, Reply::Unavailable);
        }
        running.waiting.push_back(Waiting { from, command, is_own: false });
        self.schedule_turn(env);
    }

    pub(super) fn schedule_turn(&mut self, env: &mut Env) {
        let Some(running) = &mut self.running else { return };
        if !running.turn_is_due && running.committing.is_none() {
            running.turn_is_due = true;
            let delay = if running.in_doubt { 200 * MS } else { MS };
            env.after(delay, Event::Control(ControlEvent::WriterTurn { run: self.run }));
        }
    }

    pub(super) fn writer_turn(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.turn_is_due = false;
        if running.in_doubt {
            match self.durable.load(env) {
                Ok(loaded) => {
                    let next = View::new(loaded.revision, loaded.items);
                    running.correct(env, ledger, next)?;
                }
                Err(_) => {
                    env.journal.count("the store could not be read");
                    ledger.store_failed(env.now);
                    for waiting in std::mem::take(&mut running.waiting) {
                        running.refused(env, waiting, Reply::Unavailable);
                    }
                    self.schedule_turn(env);
                    return Ok(());
                }
            }
            self.pump_all(env);
        }
        self.decide(env, ledger)
    }

    /// Decides as many commands as can be committed together.
    fn decide(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked {
        let Some(running) = &mut self.running else { return Ok(()) };
        let mut group = Group::default();
        let mut joined: Vec<Waiting> = Vec::new();
        while let Some(waiting) = running.waiting.pop_front() {
            let (replica, lease) = env.bits();
            let fresh = Candidates::from_random(replica, lease);
            let command = decided_on(env, &waiting.command);
            let at = env.wall();
            let give_up = |record: &Record, lease| {
                let is_excused = || {
                    let suspects = running.leases.suspects(env.instant());
                    suspects.iter().any(|suspect| suspect.lease == lease && suspect.is_excused)
                };
                let is_kept = env.has(Sabotage::KeepWhatGoes) && !is_excused();
                let is_given_up = || match command {
                    Command::Expire { .. } => running.leases.expire(lease, env.instant()),
                    _ => running.leases.give_up(lease),
                };
                let is_going = is_kept || is_given_up();
                if is_going {
                    ledger.given_up(env.now, &record.key, lease);
                }
                is_going
            };
            let step =
                running.publisher.read(|view| group.offer(view, &LIMITS, &command, &fresh, at, give_up));
            match step {
                Step::Joined => joined.push(waiting),
                Step::Nothing(answer) => {
                    ledger.an_answer_is_durable(&waiting.command, &answer)?;
                    running.answered(env, waiting, answer);
                }
                Step::Refused(error) => {
                    env.journal.count("the registry refused a command");
                    note!(env, "writer: {error}");
                    running.refused(env, waiting, Reply::Refused(error));
                }
                Step::Conflict => {
                    env.journal.count("a command waited for the next group");
                    running.waiting.push_front(waiting);
                    break;
                }
            }
        }
        if joined.is_empty() {
            return Ok(());
        }
        if joined.len() > 1 {
            env.journal.count("commands shared a commit");
        }
        let commit = Commit { waiting: joined, mutations: group.into_mutations() };
        if env.has(Sabotage::AckBeforeCommit) {
            let next = running.publisher.read(View::revision) + 1;
            for (waiting, (mutation, revision)) in
                commit.waiting.iter().zip(commit.mutations.iter().zip(next..))
            {
                let answer = mutation.answer(revision);
                ledger.an_answer_is_durable(&waiting.command, &answer)?;
            }
        }
        running.committing = Some(commit);
        let duration = match env.now < self.durable.slow_until && env.is_troubled() {
            true => env.between(100 * MS, 900 * MS),
            false => env.between(MS / 5, 20 * MS),
        };
        env.after(duration, Event::Control(ControlEvent::CommitEnds { run: self.run }));
        Ok(())
    }

    pub(super) fn commit_ends(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked {
        if self.is_doomed {
            return self.crash(env, ledger);
        }
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some(commit) = running.committing.take() else { return Ok(()) };
        let result = self.durable.commit(env, ledger, &commit.commands(), &commit.mutations)?;
        if env.now < self.durable.slow_until {
            ledger.store_failed(env.now);
        }
        match result {
            Ok(revisions) => {
                note!(env, "writer: {} at {revisions:?}", describe(&commit));
                running.apply(env, ledger, &commit, &revisions)?;
                for ((waiting, mutation), revision) in
                    commit.waiting.into_iter().zip(&commit.mutations).zip(revisions)
                {
                    let answer = mutation.answer(revision);
                    ledger.an_answer_is_durable(&waiting.command, &answer)?;
                    running.answered(env, waiting, answer);
                }
                self.pump_all(env);
            }
            Err(_) => {
                running.in_doubt = !env.has(Sabotage::TrustFailedCommits);
                ledger.store_failed(env.now);
                for waiting in commit.waiting {
                    running.refused(env, waiting, Reply::Unavailable);
                }
            }
        }
        self.schedule_turn(env);
        Ok(())
    }
}

impl Running {
    /// A command has its answer.
    fn answered(&mut self, env: &mut Env, waiting: Waiting, answer: Answer) {
        self.own -= usize::from(waiting.is_own);
        if let Command::Expire { lease, .. } | Command::Hold { lease, .. } = waiting.command
            && matches!(answer, Answer::Expired { .. } | Answer::Moot)
        {
            self.leases.forget(lease);
        }
        reply(env, waiting.from, Reply::Done(answer));
    }

    /// A command may not be carried out, or not now.
    fn refused(&mut self, env: &mut Env, waiting: Waiting, why: Reply) {
        self.own -= usize::from(waiting.is_own);
        reply(env, waiting.from, why);
    }

    fn apply(&mut self, env: &mut Env, ledger: &mut Ledger, commit: &Commit, revisions: &[i64]) -> Checked {
        for write in commit.mutations.iter().flat_map(Mutation::writes) {
            let Some(key) = write.key.as_replica() else { continue };
            let before = self.publisher.read(|view| view.get(key).and_then(|record| record.lease));
            settle_lease(env, &self.leases, before, write.record(), env.instant());
        }
        let committed = commit.mutations.iter().zip(revisions);
        let committed = committed
            .map(|(mutation, revision)| Committed { revision: *revision, mutation: mutation.clone() });
        for event in self.publisher.apply(committed) {
            env.journal.count(event.kind.name());
            if let Some(key) = event.removed() {
                self.heard.matrix.forget_replica(&key);
            }
        }
        self.publisher.read(|view| ledger.took_effect(env.now, view))
    }

    /// Puts what the disk turned out to hold in the place of what was believed.
    fn correct(&mut self, env: &mut Env, ledger: &mut Ledger, next: View) -> Checked {
        let changes = self.publisher.read(|view| view.changes_to(&next));
        if !changes.is_empty() {
            env.journal.count("a doubtful commit turned out to be durable");
        }
        note!(env, "writer: the store is read again, {} changes are new", changes.len());
        for change in changes.iter().filter_map(|change| change.as_replica()) {
            let before = self.publisher.read(|view| view.get(&change.key).and_then(|record| record.lease));
            settle_lease(env, &self.leases, before, change.record.as_deref(), env.instant());
        }
        self.publisher.correct(next, changes);
        self.leases.take_back();
        ledger.taken_back();
        self.in_doubt = false;
        self.publisher.read(|view| ledger.took_effect(env.now, view))
    }
}

/// Voids the lease before and grants the one after, unless they are the same.
fn settle_lease(
    env: &Env,
    leases: &Leases,
    before: Option<LeaseTerms>,
    after: Option<&Record>,
    now: Instant,
) {
    let granted = after.and_then(|record| record.lease.map(|terms| (record, terms)));
    if before == granted.map(|(_, terms)| terms) {
        return;
    }
    if let Some(terms) = before {
        leases.forget(terms.id);
    }
    if let Some((record, terms)) = granted {
        let ttl = if env.has(Sabotage::GrantLess) { terms.ttl() * 3 / 4 } else { terms.ttl() };
        leases.grant(terms.id, record.key.clone(), ttl, now);
    }
}

/// The command that the registry gets to see.
fn decided_on(env: &Env, command: &Command) -> Command {
    match command.clone() {
        Command::Deregister { target, proof: Proof::Lease(_), said, block }
            if env.has(Sabotage::TakeAnyLease) =>
        {
            Command::Deregister { target, proof: Proof::Force, said, block }
        }
        Command::Drain(mut wish) if env.has(Sabotage::DrainTheLast) => {
            wish.allow_last = true;
            Command::Drain(wish)
        }
        command => command,
    }
}

fn describe(commit: &Commit) -> String {
    let each = commit.mutations.iter().flat_map(Mutation::writes).map(|write| {
        let cause = format!("{:?}", write.cause);
        let cause = cause.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default().to_owned();
        match &write.key {
            Key::Replica(key) => format!("{key} {cause}"),
            Key::Policy(scope) => format!("policy of {scope} {cause}"),
            Key::Override(id) => format!("{id} {cause}"),
            Key::Route(name) => format!("route {name} {cause}"),
        }
    });
    each.collect::<Vec<_>>().join(", ")
}
