//! Following the control plane: the stream's task, and the one writer of the routing table.

use std::time::Duration;

use data_plane::{
    discovery::{Assembly, Received, Snapshot},
    table::ServiceSpec,
};
use gateway_proto::{ServiceName, v1};

use super::Node;
use crate::{
    checks::{Checked, Ledger, claim},
    env::{Env, MS, SECOND, nanos},
    event::{ControlEvent, Event, NodeEvent, StreamId},
    journal::note,
    sabotage::Sabotage,
};

/// A stream that says nothing for this long is dead.
const SILENCE: Duration = SECOND.saturating_mul(15);
/// Refusals in a row that end a stream.
const MAX_REFUSALS: u32 = 3;

impl Node {
    /// The stream breaks, and both ends learn of it.
    pub(crate) fn cut(&mut self, env: &mut Env) {
        if let Some(stream) = self.stream {
            env.journal.count("a stream was cut");
            let latency = env.latency();
            env.after(latency, Event::Control(ControlEvent::StreamLost { stream }));
            self.stream_ended(env, stream);
        }
    }

    /// An answer to something that was never sent, or long ago, reaches the control plane.
    pub(crate) fn send_stale_ack(&mut self, env: &mut Env) {
        let Some(stream) = self.stream else { return };
        let nonce = env.below(10).to_string();
        let revision = self.snapshot.revision();
        let latency = env.latency();
        let ack = v1::Ack { nonce, revision, nack: None };
        env.after(latency, Event::Control(ControlEvent::Ack { stream, ack }));
    }

    pub(super) fn connect(&mut self, env: &mut Env) {
        let stream = env.next_stream();
        self.stream = Some(stream);
        self.assembly = Assembly::default();
        (self.heard, self.refusals) = (env.now, 0);
        let hello = v1::Hello {
            node: Some(v1::NodeIdentity { node_id: format!("n{}", self.number), ..Default::default() }),
            services: self.follows.clone(),
            resume_epoch: self.snapshot.epoch().to_owned(),
            resume_revision: self.snapshot.revision(),
            ..Default::default()
        };
        note!(env, "node {}: opens stream {stream} from {}", self.number, self.snapshot.revision());
        let latency = env.latency();
        let node = self.number;
        env.after(latency, Event::Control(ControlEvent::Hello { node, stream, hello }));
        env.after(SILENCE, Event::Node(node, NodeEvent::Silence { stream }));
    }

    pub(super) fn listen(&mut self, env: &mut Env, stream: StreamId) {
        if self.stream != Some(stream) {
            return;
        }
        let until = self.heard + nanos(SILENCE);
        if env.now < until {
            return env.at(until, Event::Node(self.number, NodeEvent::Silence { stream }));
        }
        env.journal.count("a data plane gave a silent stream up");
        self.stream_ended(env, stream);
    }

    pub(super) fn stream_ended(&mut self, env: &mut Env, stream: StreamId) {
        note!(env, "node {}: stream {stream} is over", self.number);
        self.stream = None;
        if !env.has(Sabotage::NeverReconnect) {
            let pause = env.between(MS, 500 * MS);
            env.after(pause, Event::Node(self.number, NodeEvent::Connect { life: self.life }));
        }
    }

    pub(super) fn receive(
        &mut self,
        env: &mut Env,
        ledger: &Ledger,
        stream: StreamId,
        message: v1::StreamSnapshotsResponse,
    ) -> Checked {
        self.heard = env.now;
        let before = self.snapshot.clone();
        let nonce = message.nonce.clone();
        let received = self.assembly.receive(&mut self.snapshot, message);
        if env.has(Sabotage::ApplyRefused) && matches!(received, Received::Refused(_)) {
            self.snapshot = Snapshot::new(before.epoch(), before.revision(), Vec::new());
        }
        note!(env, "node {}: nonce {nonce} -> {}", self.number, describe(&received));
        let after = &self.snapshot;
        a_refused_message_changes_nothing(&received, &before, after)?;
        a_revision_never_goes_back(&before, after)?;
        let follows = |name: &str| self.follows[0] == "*" || self.follows.iter().any(|one| one == name);
        ledger.a_data_plane_shows_the_registry_as_it_was(after, follows)?;
        let mut ack = v1::Ack { nonce, revision: after.revision(), nack: None };
        match received {
            Received::Applied { changed, .. } => {
                self.refusals = 0;
                // The disk may lag behind.
                if env.chance(0.7) {
                    self.disk = self.snapshot.clone();
                }
                self.route_by(env, &changed.into_iter().collect::<Vec<_>>())?;
            }
            Received::Unchanged | Received::Disputed(_) => self.refusals = 0,
            Received::Partial => {}
            Received::Refused(refusal) => {
                env.journal.count("a data plane refused a message");
                ack.nack = Some(refusal.to_nack());
                self.refusals += 1;
            }
        }
        let latency = env.latency();
        env.after(latency, Event::Control(ControlEvent::Ack { stream, ack }));
        if self.refusals == MAX_REFUSALS {
            env.journal.count("a data plane gave a stream up after refusals");
            self.cut(env);
        }
        Ok(())
    }

    /// Brings services as they are now into the routing table, under the run's policy.
    pub(super) fn route_by(&mut self, env: &Env, names: &[ServiceName]) -> Checked {
        let mut policy = env.plan.policy;
        if env.has(Sabotage::LiftBounds) {
            (policy.breaker.max_open_ratio, policy.breaker.observe_only) = (1.0, false);
        }
        if env.has(Sabotage::NeverFailOpen) {
            policy.breaker.fail_open_threshold = 0.0;
        }
        let specs = names.iter().filter_map(|name| self.snapshot.service(name));
        let mut changed: Vec<_> = specs.map(|spec| ServiceSpec { policy, ..(**spec).clone() }).collect();
        let absent = names.iter().filter(|name| self.snapshot.service(name).is_none());
        let mut gone: Vec<ServiceName> = absent.cloned().collect();
        if env.has(Sabotage::KeepRemoved) {
            gone.clear();
            changed.retain(|spec| self.lacks_nobody(spec));
        }
        self.table.apply(&changed, &gone, env.tick());
        self.breakers.follow(&self.snapshot, env.tick());
        for name in names {
            self.turns.entry(name.clone()).or_default().begin_anew();
            if let Some(service) = self.table.service(name.as_str()) {
                self.watch_dues(env, &service)?;
            }
        }
        Ok(())
    }

    /// Whether the specification has every replica that is routed to now.
    fn lacks_nobody(&self, spec: &ServiceSpec) -> bool {
        let routed = self.table.service(spec.name.as_str()).map(|service| service.replicas());
        let mut routed = routed.iter().flat_map(|replicas| replicas.iter());
        routed.all(|replica| spec.replicas.iter().any(|spec| spec.id == replica.key().replica))
    }
}

/// What a data plane refuses, and what is only a part, leaves its snapshot as it was.
fn a_refused_message_changes_nothing(received: &Received, before: &Snapshot, after: &Snapshot) -> Checked {
    use Received::{Applied, Disputed, Unchanged};
    let may_change = matches!(received, Applied { .. } | Disputed(_) | Unchanged);
    claim("a_refused_message_changes_nothing", may_change || before == after, || format!("{received:?}"))
}

/// Within one epoch, a data plane never goes back to an earlier revision.
fn a_revision_never_goes_back(before: &Snapshot, after: &Snapshot) -> Checked {
    let goes_on = before.epoch() != after.epoch() || before.revision() <= after.revision();
    claim("a_revision_never_goes_back", goes_on, || {
        format!("from {} to {}", before.revision(), after.revision())
    })
}

fn describe(received: &Received) -> String {
    match received {
        Received::Applied { changed, revision } => {
            format!("{} services at revision {revision}", changed.len())
        }
        Received::Partial => "a part".into(),
        Received::Unchanged => "nothing new".into(),
        Received::Disputed(_) => "nothing new, under another hash".into(),
        Received::Refused(refusal) => format!("refused, {}", refusal.reason()),
    }
}
