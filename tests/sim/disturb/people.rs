//! What goes wrong with replicas, and what owners and operators do to them.

use control_plane::registry::{Command, Proof, Said, Target};
use gateway_proto::{Health, ReplicaId};

use super::Trouble;
use crate::{
    env::{Env, MS, SECOND, nanos},
    event::{Ask, Call, Event, Head, OwnerEvent, OwnerId},
    owner::{Condition, Held, address, send},
    world::World,
};

impl World {
    pub(super) fn trouble_owner(&mut self, trouble: Trouble, number: OwnerId) {
        let peer = self.peer_of(number);
        let env = &mut self.env;
        let owner = &mut self.owners[number];
        match trouble {
            Trouble::CrashOwner => {
                owner.crash(env);
                owner.condition = env.pick(&[Condition::Healthy, Condition::Unreachable]);
                let away = env.between(100 * MS, 10 * SECOND);
                env.after(away, Event::Owner(number, OwnerEvent::Start));
            }
            Trouble::StartOwner => owner.start(env),
            Trouble::RenameOwner => {
                owner.crash(env);
                owner.id = if env.chance(0.5) { None } else { Some(fresh_id(env)) };
                owner.start(env);
            }
            Trouble::MoveOwner => {
                owner.crash(env);
                self.ports += 1;
                owner.address = address(self.ports);
                owner.start(env);
            }
            Trouble::StealId => {
                owner.id = peer;
                owner.register(env);
            }
            Trouble::OwnerLeaves => {
                owner.leave(env);
                let away = env.between(SECOND, 10 * SECOND);
                env.after(away, Event::Owner(number, OwnerEvent::Start));
            }
            Trouble::FreezeOwner => {
                let frozen = env.between(100 * MS, 8 * SECOND);
                owner.frozen_until = env.now + nanos(frozen);
            }
            Trouble::WorsenReplica => owner.condition = worse(env),
            Trouble::WorsenService => {
                let service = owner.service.clone();
                let fates = [Head::Reset, Head::Status { status: 503, retry_after: false, whole: true }];
                let condition = Condition::Sometimes(env.pick(&[0.3, 0.5]), env.pick(&fates));
                for owner in self.owners.iter_mut().filter(|owner| owner.service == service) {
                    owner.condition = condition;
                }
            }
            Trouble::HealReplica => owner.condition = Condition::Healthy,
            Trouble::CutService => {
                let service = owner.service.clone();
                let until = env.now + nanos(env.between(SECOND, 12 * SECOND));
                env.journal.count("a service was cut off from the control plane");
                for owner in self.owners.iter_mut().filter(|owner| owner.service == service) {
                    owner.cut_until = until;
                }
            }
            Trouble::ReplaceOwner => {
                owner.crash(env);
                self.ports += 1;
                owner.address = address(self.ports);
                (owner.id, owner.cut_until) = (Some(fresh_id(env)), env.now);
                owner.start(env);
            }
            Trouble::DrainByOwner => {
                let timeout = env.between(MS, 5 * SECOND);
                owner.drain(env, timeout);
            }
            _ => {
                let all = [Health::Starting, Health::Healthy, Health::Degraded, Health::Unhealthy];
                let health = env.pick(&all);
                owner.report(env, health);
            }
        }
    }

    /// Calls that nobody should make, or that only an operator may.
    pub(super) fn meddle(&mut self, trouble: Trouble, number: OwnerId) {
        let env = &mut self.env;
        let past = &self.owners[number].past;
        if past.is_empty() {
            return;
        }
        let Held { key, lease } = past[env.below(past.len())].clone();
        let proof = lease.map_or(Proof::None, Proof::Lease);
        let target = match env.chance(0.3) {
            true => Target::Address(key.service.clone(), self.owners[number].address.clone()),
            false => Target::Key(key.clone()),
        };
        let ask = match (trouble, lease) {
            (Trouble::ForceDeregister, _) => {
                let said = Said::because("operator");
                Ask::Change(Command::Deregister { target, proof: Proof::Force, said, block: None })
            }
            (Trouble::StaleDeregister, _) => {
                Ask::Change(Command::Deregister { target, proof, said: Said::default(), block: None })
            }
            (Trouble::StaleHeartbeat, Some(lease)) => Ask::Heartbeat { key, lease },
            _ => {
                let reason = "meddling".into();
                Ask::Change(Command::ReportHealth { key, lease, health: Health::Unhealthy, reason })
            }
        };
        send(env, Call { from: None, ask });
    }

    /// The id of another replica of the owner's service, if it has one.
    fn peer_of(&mut self, number: OwnerId) -> Option<ReplicaId> {
        let service = &self.owners[number].service;
        let peers = self.owners.iter().filter(|owner| owner.service == *service);
        let ids: Vec<_> = peers.filter_map(|owner| owner.id.clone()).collect();
        if ids.is_empty() {
            return None;
        }
        let index = self.env.below(ids.len());
        Some(ids[index].clone())
    }

    /// Mends everything that does not mend itself.
    pub(crate) fn calm(&mut self) {
        let env = &mut self.env;
        self.control.is_doomed = false;
        for node in &mut self.nodes {
            (node.blind_until, node.lies_until) = (env.now, env.now);
        }
        for (number, owner) in self.owners.iter_mut().enumerate() {
            owner.condition = Condition::Healthy;
            (owner.frozen_until, owner.cut_until) = (env.now, env.now);
            // Whatever was reported of it: it registers anew, and as healthy.
            owner.held = None;
            let soon = env.between(MS, SECOND);
            env.after(soon, Event::Owner(number, OwnerEvent::Start));
        }
        env.after(SECOND, Event::Tidy);
    }
}

fn fresh_id(env: &mut Env) -> ReplicaId {
    let number = env.below(1000);
    ReplicaId::parse(&format!("x{number}")).expect("a label")
}

fn worse(env: &mut Env) -> Condition {
    let share = env.pick(&[0.1, 0.5, 1.0]);
    let status = |status, retry_after| Head::Status { status, retry_after, whole: true };
    let fates = [
        status(500, false),
        status(503, false),
        status(504, false),
        status(503, true),
        status(429, false),
        Head::Status { status: 200, retry_after: false, whole: false },
        Head::Reset,
        Head::Refused,
        Head::RefusedStream,
    ];
    let fate = env.pick(&fates);
    env.pick(&[
        Condition::Sometimes(share, fate),
        Condition::Sometimes(share, fate),
        Condition::Hangs,
        Condition::Unreachable,
    ])
}
