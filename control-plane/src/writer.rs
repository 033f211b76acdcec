//! The one owner of the registry.
//!
//! Commands wait in a bounded queue. The writer drains what is there, decides what can be decided together, makes it
//! durable in one transaction, applies and publishes it once, then answers each caller. So an answer means: durable,
//! and on its way to every data plane. Nothing else changes the registry.
//!
//! Where other control planes share the store, a group is committed on the revision that it was decided on. If somebody else
//! was faster, his changes are taken in first and everything is decided anew; answers that change nothing are given only
//! once the store says that what they were decided on is still so. What others do is applied and told as it becomes known.
//!
//! After a failed commit its outcome is unknown: everybody is refused until the store has been read again. So it is
//! after a panic: whoever runs the writer runs it again, and it believes nothing of what it knew.

mod doubt;
mod moving;
mod others;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use gateway_proto::Address;
use gateway_runtime::Failure;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::moving::{Closing, Reopening};
use self::{
    doubt::Doubt,
    moving::{Ask, Closed, heard_of},
    others::MAX_OVERTAKEN,
};
use crate::{
    clock,
    effects::{By, Effects},
    metrics::{Metrics, Registered},
    registry::{
        Answer, Candidates, Command, Committed, Event, Group, Limits, Record, RegistryError, Revision, Step,
        View, unproven,
    },
    store::{Commit, Store},
    turns::Turn,
};

/// Commands committed together at most: enough to make an fsync cheap for each, few enough to answer soon.
const MAX_GROUP: usize = 256;

/// Why a command changed nothing, or is not known to have changed anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// A rule of the registry forbids it.
    #[error(transparent)]
    Refused(#[from] RegistryError),
    /// The store was not asked, or did not take it. To repeat it is safe.
    #[error("the store is unavailable: try again soon")]
    StoreUnavailable,
    /// What the store holds moves to another one.
    #[error("the registry moves to another store: try again soon")]
    StoreMoves,
    /// What the store holds has moved to this one.
    #[error("the registry has moved to {0}, where it goes on: ask a control plane on that one")]
    StoreMoved(String),
    /// The store has no room.
    #[error("the store has no space left: free some on its disk")]
    StoreFull,
    /// The same, noticed when the change may have been made already.
    #[error(
        "the store has no space left, and the change may have been made: free some on its disk, and try again"
    )]
    StoreFullUnanswered,
    /// Too many commands wait, or for longer than their callers do.
    #[error("too many changes are waiting: try again soon")]
    Overloaded,
    /// What its caller was let change was changed meanwhile by somebody else: whether he may still is to be looked at anew.
    #[error("what is to be changed was changed meanwhile: try again")]
    Overtaken,
    /// The store was asked and has not answered, or the writer panicked with it in hand. What became of it is unknown, and to
    /// repeat it is safe.
    #[error("the change was interrupted and may have been made: try again")]
    Interrupted,
    /// The control plane is ending.
    #[error("the control plane is shutting down: try again")]
    ShuttingDown,
}

/// Where commands are handed in. Clones share one queue.
#[derive(Debug, Clone)]
pub(crate) struct Commands {
    queue: mpsc::Sender<Envelope>,
    moves: mpsc::Sender<Ask>,
    metrics: Arc<Metrics>,
}

/// A command on its way, and who waits for its outcome.
#[derive(Debug)]
struct Envelope {
    command: Command,
    reply: oneshot::Sender<Result<Answer, WriteError>>,
    conditions: Conditions,
    /// The same however often it is decided: the store may have been told of them.
    fresh: Option<Candidates>,
    /// Its caller's, for as long as it takes.
    _turn: Turn,
}

/// On what a command is carried out. The default: on nothing.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    /// For how long its caller waits for it, if he says.
    pub(crate) until: Option<Instant>,
    /// What its caller was let change without proof that it is his.
    pub(crate) admitted_on: Option<Present>,
}

/// What is looked at of whoever is there, if somebody is, before another takes his place: who has registered him, and where he is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present(Option<(String, Address)>);

impl Present {
    pub(crate) fn of(record: Option<&Record>) -> Self {
        Self(record.map(|record| (record.registered_by.to_string(), record.endpoint.address.clone())))
    }
}

/// The writer's task, before it runs.
#[derive(Debug)]
pub(crate) struct Writer<S> {
    store: S,
    effects: Effects,
    limits: Limits,
    queue: mpsc::Receiver<Envelope>,
    moves: mpsc::Receiver<Ask>,
    /// Why changes are refused, if they are, for whoever asks without a change: health checks, owners and data planes.
    refusing: watch::Sender<Option<WriteError>>,
    /// Set after a failed commit, or a panic: what the store holds is unknown.
    doubt: Option<Doubt>,
    /// Commits that have failed in a row.
    failed_commits: u32,
    /// Set while changes are refused for somebody who moves the registry to another store.
    closed: Option<Closed>,
    /// Whether [`Writer::run`] has begun and not ended: at its beginning, that it panicked.
    is_running: bool,
    /// Set by a panic: what is in memory may be half-changed, and nothing is built on it.
    is_shaken: bool,
    /// What people are still to be told of the last group. When more commands wait, that is done while the store works
    /// on the next group, which it does on another thread: it takes as long as deciding and applying together.
    untold: Vec<Event>,
    /// The store has it, and has not answered yet, or never will.
    in_hand: Group,
}

impl Envelope {
    /// Whether it is a registration for which nobody waits any more: its caller has gone, or his time is over, as that of all who
    /// wait for a process that stands still. He may have registered since, at another control plane, too, and this one would
    /// throw out what came of that: alone among commands it shows no lease, and asks for something for its own caller only.
    ///
    /// His time is counted from when this process has read his call, which is all that it can know. What waited in a socket while the
    /// process stood still has all of its time left then: it is found out only if its caller has hung up and that has been read, too,
    /// and else by its request id, or not at all.
    fn is_abandoned(&self, now: Instant) -> bool {
        matches!(self.command, Command::Register(_))
            && (self.reply.is_closed() || self.conditions.until.is_some_and(|until| until <= now))
    }
}

impl Commands {
    /// As [`Commands::submit_in`], in nobody's turn.
    #[cfg(test)]
    pub(crate) async fn submit(&self, command: Command) -> Result<Answer, WriteError> {
        self.submit_in(Turn::default(), command, Conditions::default()).await
    }

    /// Hands a command in and waits for its outcome, until which its caller's turn lasts.
    ///
    /// Not waiting on (dropping the future) withdraws a registration that is not decided yet, and no other command, nor does the
    /// turn end.
    ///
    /// # Errors
    /// [`WriteError`]; a full queue refuses at once.
    pub(crate) async fn submit_in(
        &self,
        turn: Turn,
        command: Command,
        conditions: Conditions,
    ) -> Result<Answer, WriteError> {
        let is_registration = matches!(command, Command::Register(_));
        let (reply, outcome) = oneshot::channel();
        let envelope = Envelope { command, reply, conditions, fresh: None, _turn: turn };
        let result = match self.queue.try_send(envelope) {
            Ok(()) => outcome.await.unwrap_or(Err(WriteError::Interrupted)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(WriteError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(WriteError::ShuttingDown),
        };
        match &result {
            Ok(Answer::Registered { created: true, .. }) => self.metrics.registered(Registered::Created),
            Ok(Answer::Registered { created: false, .. }) => self.metrics.registered(Registered::Replaced),
            // It is handed in again.
            Err(WriteError::Overtaken) => {}
            Err(error) if is_registration => {
                self.metrics.registered(Registered::Refused);
                if let WriteError::Refused(refused) = error
                    && let Some(quota) = refused.quota()
                {
                    self.metrics.exceeded(quota);
                }
            }
            _ => {}
        }
        result
    }

    /// Hands several commands in, waiting for room in the queue, and then for all outcomes, in order.
    pub(crate) async fn submit_all(&self, commands: Vec<Command>) -> Vec<Result<Answer, WriteError>> {
        self.submit_all_in(Turn::default(), commands).await
    }

    /// As [`Commands::submit_all`], in a caller's turn, which lasts until the last outcome is there, waited for or not.
    pub(crate) async fn submit_all_in(
        &self,
        turn: Turn,
        commands: Vec<Command>,
    ) -> Vec<Result<Answer, WriteError>> {
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            let (reply, outcome) = oneshot::channel();
            let conditions = Conditions::default();
            let envelope = Envelope { command, reply, conditions, fresh: None, _turn: turn.clone() };
            let sent = self.queue.send(envelope).await;
            outcomes.push(sent.map(|()| outcome).map_err(|_| WriteError::ShuttingDown));
        }
        let mut results = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            results.push(match outcome {
                Ok(outcome) => outcome.await.unwrap_or(Err(WriteError::Interrupted)),
                Err(refused) => Err(refused),
            });
        }
        results
    }
}

impl<S: Store> Writer<S> {
    /// A writer on a store whose content is published already, and the way to it.
    pub(crate) fn new(
        store: S,
        effects: Effects,
        limits: Limits,
        queue_len: usize,
    ) -> (Self, Commands, watch::Receiver<Option<WriteError>>) {
        let (sender, queue) = mpsc::channel(queue_len);
        let (asks, moves) = mpsc::channel(1);
        let (refusing, why_refused) = watch::channel(None);
        let commands = Commands { queue: sender, moves: asks, metrics: Arc::clone(&effects.metrics) };
        (
            Self {
                store,
                effects,
                limits,
                queue,
                moves,
                refusing,
                doubt: None,
                failed_commits: 0,
                closed: None,
                is_running: false,
                is_shaken: false,
                untold: Vec::new(),
                in_hand: Group::default(),
            },
            commands,
            why_refused,
        )
    }

    /// Runs until `stop`, then finishes what is in the queue. Called again after a panic, it asks the store first; the
    /// commands that it had in hand then are answered with [`WriteError::Interrupted`], those in the queue are served.
    ///
    /// # Errors
    /// A fatal [`Failure`] when the store turns out to be another one than before.
    pub(crate) async fn run(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        if std::mem::replace(&mut self.is_running, true) {
            self.doubt = Some(Doubt { until: clock::now(), refusal: WriteError::StoreUnavailable });
            self.is_shaken = true;
            self.closed = None;
            self.tell_refusal();
        }
        let ended = self.take_commands(stop).await;
        self.is_running = false;
        ended
    }

    async fn take_commands(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        let mut batch = Vec::with_capacity(MAX_GROUP);
        loop {
            if self.queue.is_empty() {
                self.tell();
            }
            let retry = self.doubt.as_ref().map(|doubt| tokio::time::Instant::from_std(doubt.until));
            let retry =
                async { tokio::time::sleep_until(retry.unwrap_or_else(tokio::time::Instant::now)).await };
            tokio::select! {
                count = self.queue.recv_many(&mut batch, MAX_GROUP) => match count {
                    0 => {
                        self.name_followers().await;
                        return Ok(());
                    }
                    _ => self.handle(batch.drain(..).collect()).await?,
                },
                news = self.store.news(), if self.doubt.is_none() => self.hear(news).await?,
                () = retry, if self.doubt.is_some() => self.recover(&mut VecDeque::new()).await?,
                Some(ask) = self.moves.recv() => self.answer_mover(ask).await?,
                end = heard_of(&mut self.closed) => self.follow_mover(end).await,
                () = stop.cancelled(), if !self.queue.is_closed() => {
                    self.queue.close();
                    self.moves.close();
                }
            }
        }
    }

    /// Leaves word of the data planes that may be routing to the process after this one, which is to know whom to wait for.
    async fn name_followers(&mut self) {
        let Some(followers) = self.effects.observation.followers() else { return };
        if self.doubt.is_none()
            && let Err(error) = self.store.name_followers(followers).await
        {
            tracing::warn!(%error, "the next process is not told which data planes to expect");
        }
    }

    async fn handle(&mut self, mut pending: VecDeque<Envelope>) -> Result<(), Failure> {
        let mut overtaken = 0;
        while !pending.is_empty() {
            if self.doubt.as_ref().is_some_and(|doubt| clock::now() >= doubt.until) {
                self.recover(&mut pending).await?;
            }
            if let Some(refusal) = self.refusal() {
                for envelope in pending.drain(..) {
                    answer(envelope.reply, Err(refusal.clone()));
                }
                return Ok(());
            }
            let batch = self.decide(&mut pending);
            if self.settle(batch, &mut pending).await {
                overtaken = 0;
                continue;
            }
            overtaken += 1;
            if overtaken > MAX_OVERTAKEN {
                // None of it has become durable, so what was to go stays.
                self.effects.leases.take_back();
                for envelope in pending.drain(..) {
                    answer(envelope.reply, Err(WriteError::Overloaded));
                }
                return Ok(());
            }
            self.catch_up(overtaken).await?;
        }
        Ok(())
    }

    /// Tells people what has become durable.
    fn tell(&mut self) {
        self.effects.tell(&std::mem::take(&mut self.untold));
    }

    /// Takes as many commands as can be decided together.
    fn decide(&self, pending: &mut VecDeque<Envelope>) -> Batch {
        let base = self.revision();
        let (mut group, mut decided) = (Group::default(), Vec::new());
        while group.mutations().len() < self.store.max_group()
            && let Some(mut envelope) = pending.pop_front()
        {
            if envelope.is_abandoned(clock::now()) {
                answer(envelope.reply, Err(WriteError::Overloaded));
                continue;
            }
            let command = &envelope.command;
            // Known at once: nobody need ask the store to look at it anew.
            if let Some(admitted_on) = &envelope.conditions.admitted_on
                && self.effects.publisher.read(|view| present(view, command)) != *admitted_on
            {
                answer(envelope.reply, Err(WriteError::Overtaken));
                continue;
            }
            let draw = || Candidates::from_random(rand::random(), rand::random());
            let fresh = &*envelope.fresh.get_or_insert_with(draw);
            let at = clock::wall();
            let Effects { publisher, leases, .. } = &self.effects;
            let give_up = |_: &Record, lease| match command {
                Command::Expire { .. } => leases.expire(lease, clock::now()),
                _ => leases.give_up(lease),
            };
            let step = publisher.read(|view| group.offer(view, &self.limits, command, fresh, at, give_up));
            let outcome = match step {
                Step::Joined => None,
                Step::Nothing(outcome) => Some(Ok(outcome)),
                Step::Refused(error) => Some(Err(error.into())),
                Step::Conflict => {
                    pending.push_front(envelope);
                    break;
                }
            };
            match outcome {
                // Nobody else can have changed what it was decided on.
                Some(outcome) if !self.store.is_shared() => answer(envelope.reply, outcome),
                outcome => decided.push((envelope, outcome)),
            }
        }
        Batch { base, group, decided }
    }

    /// Makes a batch durable and answers it. `false`: somebody else was faster, and what is not answered is back in `pending`.
    async fn settle(&mut self, batch: Batch, pending: &mut VecDeque<Envelope>) -> bool {
        let Batch { base, group, decided } = batch;
        if decided.is_empty() {
            return true;
        }
        if group.mutations().is_empty() {
            self.tell();
            return match self.store.is_at(base).await {
                Ok(true) => {
                    answer_all(decided, Vec::new());
                    true
                }
                Ok(false) => {
                    put_back(decided, pending);
                    false
                }
                Err(error) => {
                    self.begin_doubt(&error, decided);
                    true
                }
            };
        }
        let started = clock::now();
        self.in_hand = group;
        let (effects, untold) = (&self.effects, &mut self.untold);
        // In this order: the store is at work by the time this thread is.
        let (result, ()) = tokio::join!(self.store.commit(base, self.in_hand.mutations()), async {
            effects.tell(&std::mem::take(untold));
        });
        self.effects.metrics.committed(clock::now() - started);
        match result {
            Ok(Commit::Durable(revisions)) => {
                self.failed_commits = 0;
                let committed: Vec<_> = revisions
                    .into_iter()
                    .zip(std::mem::take(&mut self.in_hand).into_mutations())
                    .map(|(revision, mutation)| Committed { revision, mutation })
                    .collect();
                let answers: Vec<_> =
                    committed.iter().map(|entry| entry.mutation.answer(entry.revision)).collect();
                self.untold = self.effects.apply(committed, By::Us);
                if self.queue.is_empty() {
                    self.tell();
                }
                put_back(answer_all(decided, answers), pending);
                true
            }
            Ok(Commit::Overtaken(heard_of)) => {
                self.failed_commits = 0;
                self.in_hand = Group::default();
                self.effects.hear(&heard_of);
                put_back(decided, pending);
                false
            }
            Err(error) => {
                self.failed_commits += 1;
                self.begin_doubt(&error, decided);
                true
            }
        }
    }
}

/// Commands that were decided together on the registry as it was at `base`.
struct Batch {
    base: Revision,
    group: Group,
    decided: Vec<Decided>,
}

/// A command, and its outcome unless that is up to the store.
type Decided = (Envelope, Option<Result<Answer, WriteError>>);

/// Whom a command would change without proof that he is its caller's.
fn present(view: &View, command: &Command) -> Present {
    Present::of(unproven(view, command).map(Arc::as_ref))
}

/// Answers what has an outcome, and those in the group with what became durable of it. Yields the others.
fn answer_all(decided: Vec<Decided>, durable: Vec<Answer>) -> Vec<Decided> {
    let mut durable = durable.into_iter();
    let mut left = Vec::new();
    for (envelope, outcome) in decided {
        match outcome.or_else(|| durable.next().map(Ok)) {
            Some(outcome) => answer(envelope.reply, outcome),
            None => left.push((envelope, None)),
        }
    }
    left
}

/// Puts commands back to where they came from, in order.
fn put_back(decided: Vec<Decided>, pending: &mut VecDeque<Envelope>) {
    for (envelope, _) in decided.into_iter().rev() {
        pending.push_front(envelope);
    }
}

fn answer(reply: oneshot::Sender<Result<Answer, WriteError>>, outcome: Result<Answer, WriteError>) {
    // A caller that has gone learns the outcome when it asks again.
    let _ = reply.send(outcome);
}

#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod tests;
