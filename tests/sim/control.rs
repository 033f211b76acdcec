//! The control plane's process around its real parts: what the writer's and the streams' tasks do, one event at a time.

mod evictions;
mod expiry;
mod streams;
mod writer;

use std::collections::{BTreeMap, VecDeque};

use control_plane::{
    leases::{Leases, SWEEP_INTERVAL},
    publish::Publisher,
    registry::{Guard, View},
};
use gateway_proto::{LeaseId, ReplicaKey};

pub(crate) use self::evictions::SILENT;
use self::{
    evictions::Heard,
    streams::Stream,
    writer::{Commit, Waiting},
};
use crate::{
    checks::{Checked, Ledger},
    durable::Durable,
    env::{Env, MS, SECOND},
    event::{Ask, Call, Caller, ControlEvent, Event, OwnerEvent, Reply, StreamId},
    journal::note,
    sabotage::Sabotage,
};

/// The machine that the control plane runs on.
pub(crate) struct Control {
    pub(crate) durable: Durable,
    running: Option<Running>,
    /// The process stands still until this nanosecond.
    paused_until: u64,
    paused_since: u64,
    /// The process dies behind its next commit.
    pub(crate) is_doomed: bool,
    /// Which run of the process it is.
    run: u32,
}

/// What the process has in memory.
pub(crate) struct Running {
    pub(crate) publisher: Publisher,
    leases: Leases,
    guard: Guard,
    heard: Heard,
    waiting: VecDeque<Waiting>,
    /// How many of the sweeps' own changes are not made yet.
    own: usize,
    turn_is_due: bool,
    committing: Option<Commit>,
    /// A commit failed, so that nobody knows what is durable.
    in_doubt: bool,
    streams: BTreeMap<StreamId, Stream>,
}

impl Control {
    /// A machine with an empty disk, on which the control plane is about to start.
    pub(crate) fn new(env: &mut Env) -> Self {
        env.after(MS, Event::Control(ControlEvent::Start));
        let durable = Durable::new();
        Self { durable, running: None, paused_until: 0, paused_since: 0, is_doomed: false, run: 0 }
    }

    /// Starts the process from what is durable, unless it runs.
    fn start(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked {
        if self.running.is_some() {
            return Ok(());
        }
        let Ok(mut loaded) = self.durable.load(env) else {
            env.after(200 * MS, Event::Control(ControlEvent::Start));
            return Ok(());
        };
        if env.has(Sabotage::ForgetARecord) {
            loaded.items.pop();
        }
        ledger.a_restart_finds_exactly_what_is_durable(&loaded)?;
        self.run += 1;
        note!(env, "control plane: started at revision {}", loaded.revision);
        let view = View::new(loaded.revision, loaded.items);
        ledger.restarted(&loaded.epoch, env.now);
        let leases = Leases::new(env.instant());
        for record in view.replicas() {
            let Some(terms) = record.lease else { continue };
            match record.lost {
                Some(_) => leases.grant_held(terms.id, record.key.clone(), terms.ttl(), env.instant()),
                None => leases.grant(terms.id, record.key.clone(), terms.ttl(), env.instant()),
            }
        }
        ledger.took_effect(env.now, &view)?;
        self.running = Some(Running {
            publisher: Publisher::with_bounds(loaded.epoch, view, env.plan.bounds),
            leases,
            guard: Guard::default(),
            heard: Heard::default(),
            waiting: VecDeque::new(),
            own: 0,
            turn_is_due: false,
            committing: None,
            in_doubt: false,
            streams: BTreeMap::new(),
        });
        env.after(SWEEP_INTERVAL, Event::Control(ControlEvent::Sweep { run: self.run }));
        if env.plan.eviction.is_some() {
            env.after(SECOND, Event::Control(ControlEvent::Evict { run: self.run }));
        }
        Ok(())
    }

    /// Ends the process as `kill -9` does; it starts again after a while. A commit under way may or may not have become durable.
    pub(crate) fn crash(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked {
        let Some(running) = self.running.take() else { return Ok(()) };
        self.is_doomed = false;
        env.journal.count("the control plane crashed");
        note!(env, "control plane: killed");
        let down = env.between(100 * MS, 5 * SECOND);
        env.after(down, Event::Control(ControlEvent::Start));
        if let Some(commit) = running.committing.filter(|_| env.chance(0.5)) {
            env.journal.count("the control plane crashed behind a commit");
            let _unheard = self.durable.commit(env, ledger, &commit.commands(), &commit.mutations)?;
        }
        for (id, stream) in running.streams {
            streams::end(env, stream.node, id);
        }
        Ok(())
    }

    /// Replaces the disk by an empty one, while the process is down.
    pub(crate) fn lose_disk(&mut self, env: &mut Env, ledger: &mut Ledger) -> Checked {
        self.crash(env, ledger)?;
        env.journal.count("the disk was lost");
        note!(env, "control plane: the disk is replaced by an empty one");
        self.durable = Durable::new();
        ledger.disk_lost();
        Ok(())
    }

    /// Stops the process for a while, as a debugger, a hypervisor or a slow disk does.
    pub(crate) fn pause(&mut self, env: &mut Env, until: u64) {
        if env.now >= self.paused_until {
            self.paused_since = env.now;
        }
        self.paused_until = self.paused_until.max(until);
        env.journal.count("the control plane was paused");
        note!(env, "control plane: paused for {:?}", std::time::Duration::from_nanos(until - env.now));
    }

    /// Handles an event, or puts it off to the end of a pause.
    pub(crate) fn handle(&mut self, env: &mut Env, ledger: &mut Ledger, event: ControlEvent) -> Checked {
        if env.now < self.paused_until {
            if let ControlEvent::Call(Call { ask: Ask::Heartbeat { key, lease }, .. }) = &event {
                ledger.heartbeat_waits(env.now, self.paused_until - self.paused_since, key, *lease);
            }
            env.at(self.paused_until, Event::Control(event));
            return Ok(());
        }
        ledger.awake(env.now, self.paused_until);
        match event {
            ControlEvent::Start => self.start(env, ledger),
            ControlEvent::Call(call) => self.call(env, ledger, call),
            ControlEvent::WriterTurn { run } if run == self.run => self.writer_turn(env, ledger),
            ControlEvent::CommitEnds { run } if run == self.run => self.commit_ends(env, ledger),
            ControlEvent::Sweep { run } if run == self.run => self.sweep(env, ledger),
            ControlEvent::Evict { run } if run == self.run => self.evict(env, ledger),
            ControlEvent::Report { node, rows } => self.report(env, ledger, node, rows),
            ControlEvent::Hello { node, stream, hello } => {
                self.open_stream(env, node, stream, hello);
                Ok(())
            }
            ControlEvent::Ack { stream, ack } => {
                self.hear(env, stream, ack);
                Ok(())
            }
            ControlEvent::StreamDue { stream } => {
                self.stream_due(env, stream);
                Ok(())
            }
            ControlEvent::StreamLost { stream } => {
                self.forget_stream(stream);
                Ok(())
            }
            // Of an earlier run of the process.
            ControlEvent::WriterTurn { .. }
            | ControlEvent::CommitEnds { .. }
            | ControlEvent::Sweep { .. }
            | ControlEvent::Evict { .. } => Ok(()),
        }
    }

    fn call(&mut self, env: &mut Env, ledger: &mut Ledger, Call { from, ask }: Call) -> Checked {
        if self.running.is_none() {
            reply(env, from, Reply::Unavailable);
            return Ok(());
        }
        match ask {
            Ask::Change(command) => {
                self.enqueue(env, from, command);
                Ok(())
            }
            Ask::Heartbeat { key, lease } => self.heartbeat(env, ledger, from, key, lease),
        }
    }

    fn heartbeat(
        &mut self,
        env: &mut Env,
        ledger: &mut Ledger,
        from: Option<Caller>,
        key: ReplicaKey,
        lease: LeaseId,
    ) -> Checked {
        let Some(running) = &self.running else { return Ok(()) };
        let record = running.publisher.read(|view| view.get(&key).cloned());
        let holder = record.and_then(|record| record.lease);
        let mut renewed = running.leases.renew(lease, &key, env.instant()).is_some();
        let terms = holder.filter(|terms| terms.id == lease && env.has(Sabotage::ReviveLapsed));
        if let Some(terms) = terms.filter(|_| !renewed) {
            running.leases.grant(lease, key.clone(), terms.ttl(), env.instant());
            renewed = true;
        }
        let verdict = if renewed {
            Reply::Alive
        } else if holder.is_some_and(|terms| terms.id != lease) {
            env.journal.count("a heartbeat met another lease");
            Reply::LeaseMismatch
        } else {
            env.journal.count("a heartbeat came too late");
            Reply::LeaseEnded
        };
        note!(env, "control plane: heartbeat of {key} -> {verdict:?}");
        ledger.heard(env.now, &key, lease, renewed, holder)?;
        reply(env, from, verdict);
        Ok(())
    }
}

fn reply(env: &mut Env, to: Option<Caller>, reply: Reply) {
    let Some(Caller { owner, serial }) = to else { return };
    if env.is_troubled() && env.chance(env.plan.call_loss / 2.0) {
        env.journal.count("an answer was lost");
        return;
    }
    let latency = env.latency();
    env.after(latency, Event::Owner(owner, OwnerEvent::Answer { serial, reply }));
}
