//! A data plane's process around its real parts: the stream's task and the table's one writer.

mod follow;
mod forward;
mod report;
mod request;
mod verdict;

use std::{collections::BTreeMap, sync::Arc};

use data_plane::{
    discovery::{Assembly, Snapshot},
    routing::Change,
    table::{Service, Table, Transition},
};
use gateway_proto::ServiceName;
use tokio::sync::mpsc;

use self::{report::Checks, request::Request};
use crate::{
    checks::{Breakers, BudgetBook, Checked, Ledger, Turns, claim},
    env::{Env, MS},
    event::{Event, NodeEvent, NodeId, RequestId, StreamId},
    journal::note,
    owner::Owner,
};

/// One data plane.
pub(crate) struct Node {
    number: NodeId,
    /// The services that it follows: names, or `*`.
    follows: Vec<String>,
    /// Which run of the process.
    life: u32,
    pub(crate) snapshot: Snapshot,
    assembly: Assembly,
    table: Arc<Table>,
    transitions: mpsc::Receiver<Transition>,
    stream: Option<StreamId>,
    heard: u64,
    refusals: u32,
    /// What a restart finds.
    disk: Snapshot,
    requests: BTreeMap<RequestId, Request>,
    breakers: Breakers,
    books: Vec<(Arc<Service>, BudgetBook)>,
    turns: BTreeMap<ServiceName, Turns>,
    started: u64,
    checks: Checks,
    /// It reaches no replica before this nanosecond, by its checks.
    pub(crate) blind_until: u64,
    /// What it reports until then is made up.
    pub(crate) lies_until: u64,
}

/// What a restart finds on the data plane's disk.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cache {
    Saved,
    Lost,
}

impl Node {
    /// A data plane that holds nothing and is about to connect.
    pub(crate) fn new(env: &mut Env, number: NodeId) -> Self {
        let follows = if env.chance(0.7) { vec!["*".to_owned()] } else { vec!["s0".to_owned()] };
        env.after(MS, Event::Node(number, NodeEvent::Client));
        Self::begin(env, number, 0, follows, Snapshot::default())
    }

    fn begin(env: &mut Env, number: NodeId, life: u32, follows: Vec<String>, disk: Snapshot) -> Self {
        let (table, transitions) = Table::new(1);
        env.after(MS, Event::Node(number, NodeEvent::Connect { life }));
        let mut node = Self {
            number,
            follows,
            life,
            snapshot: disk.clone(),
            assembly: Assembly::default(),
            table,
            transitions,
            stream: None,
            heard: env.now,
            refusals: 0,
            disk,
            requests: BTreeMap::new(),
            breakers: Breakers::new(env.plan.policy.breaker),
            books: Vec::new(),
            turns: BTreeMap::new(),
            started: env.now,
            checks: Checks::default(),
            blind_until: 0,
            lies_until: 0,
        };
        if env.plan.eviction.is_some() {
            env.after(MS, Event::Node(number, NodeEvent::Check { life }));
        }
        let all: Vec<_> = node.snapshot.services().map(|service| service.name.clone()).collect();
        node.route_by(env, &all).expect("no breaker is open yet");
        node
    }

    /// Ends the process as `kill -9` does, and starts another.
    pub(crate) fn restart(&mut self, env: &mut Env, cache: Cache) {
        env.journal.count("a data plane was restarted");
        note!(env, "node {}: killed and started again, cache {cache:?}", self.number);
        let disk = match cache {
            Cache::Saved => std::mem::take(&mut self.disk),
            Cache::Lost => Snapshot::default(),
        };
        *self = Self::begin(env, self.number, self.life + 1, std::mem::take(&mut self.follows), disk);
    }

    pub(crate) fn handle(
        &mut self,
        env: &mut Env,
        ledger: &Ledger,
        owners: &[Owner],
        event: NodeEvent,
    ) -> Checked {
        match event {
            NodeEvent::Connect { life } => {
                if life == self.life && self.stream.is_none() {
                    self.connect(env);
                }
                Ok(())
            }
            NodeEvent::Update { stream, message } => {
                if self.stream == Some(stream) {
                    return self.receive(env, ledger, stream, *message);
                }
                Ok(())
            }
            NodeEvent::StreamEnds { stream } => {
                if self.stream == Some(stream) {
                    self.stream_ended(env, stream);
                }
                Ok(())
            }
            NodeEvent::Silence { stream } => {
                self.listen(env, stream);
                Ok(())
            }
            NodeEvent::Check { life } => {
                self.check_and_report(env, owners, life);
                Ok(())
            }
            NodeEvent::Client => self.client(env),
            NodeEvent::Attempt { request } => self.attempt(env, request),
            NodeEvent::Reach { request, attempt } => self.reach(env, owners, request, attempt),
            NodeEvent::Head { request, attempt, head } => self.head(env, owners, request, attempt, head),
            NodeEvent::Body { request, whole } => self.body(env, request, whole),
            NodeEvent::Leave { request } => self.leave(env, request),
        }
    }

    /// The transition that a breaker has just made.
    fn transition(&mut self) -> Option<Change> {
        self.transitions.try_recv().ok().map(|transition| transition.change)
    }

    /// With no request under way, no replica shows any.
    pub(crate) fn permits_have_come_back(&self) -> Checked {
        for service in self.table.services().values() {
            for replica in &*service.replicas() {
                let shown = replica.counters().inflight;
                let expected = self.breakers.inflight(replica.key());
                claim("permits_are_conserved", shown == expected, || {
                    format!("{} shows {shown} attempts under way, {expected} are", replica.key())
                })?;
            }
        }
        claim("requests_end", self.requests.is_empty(), || format!("{} do not", self.requests.len()))
    }
}
