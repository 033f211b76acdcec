//! What operators decide, wisely or not.

use control_plane::registry::{
    Aspect, Command, DrainWish, OverrideKind, OverrideTarget, OverrideWish, PolicyChange, PolicyWish, Proof,
    RouteWish, Said, Scope, Target,
};
use gateway_proto::{NodeId, RouteName, ServiceName, time::duration, v1};

use super::Trouble;
use crate::{
    env::{Env, MS, Phase, SECOND},
    event::{Ask, Call, Event, OwnerId},
    owner::{Held, send},
    world::World,
};

impl World {
    pub(super) fn operate(&mut self, trouble: Trouble, number: OwnerId) {
        let env = &mut self.env;
        let service = self.owners[number].service.clone();
        let past = &self.owners[number].past;
        let held: Option<Held> = (!past.is_empty()).then(|| past[env.below(past.len())].clone());
        let said = Said { author: "ana".into(), reason: "trouble".into() };
        let scope = if env.chance(0.3) { Scope::All } else { Scope::Service(service.clone()) };
        let target = |aspect| OverrideTarget { aspect, service: service.clone(), replica: None, node: None };
        let ttl = env.between(MS, 8 * SECOND);
        let command = match (trouble, held) {
            (Trouble::DrainReplica, Some(Held { key, .. })) => Command::Drain(Box::new(DrainWish {
                key,
                proof: Proof::Force,
                timeout: Some(ttl),
                etag: String::new(),
                allow_last: env.chance(0.2),
                said,
            })),
            (Trouble::Undrain, Some(Held { key, .. })) => {
                Command::Undrain { key, proof: Proof::Force, etag: String::new(), said }
            }
            (Trouble::BlockReplica, Some(Held { key, .. })) => {
                let (target, proof) = (Target::Key(key), Proof::Force);
                Command::Deregister { target, proof, said, block: Some(ttl) }
            }
            (Trouble::SetPolicy, _) => {
                let mut wish = |scope| PolicyWish {
                    scope,
                    change: policy(env),
                    mask: None,
                    etag: String::new(),
                    allow_missing: true,
                    must_be_missing: false,
                    allow_fault: true,
                    said: said.clone(),
                };
                let (one, both) = (wish(scope), [Scope::All, Scope::Service(service.clone())].map(wish));
                match env.chance(0.3) {
                    true => {
                        Command::ApplyPolicies(both.map(|wish| PolicyChange::Update(Box::new(wish))).into())
                    }
                    false => Command::UpdatePolicy(Box::new(one)),
                }
            }
            (Trouble::DeletePolicy, _) => Command::DeletePolicy { scope, etag: String::new(), said },
            (Trouble::SetRoute, _) => Command::UpdateRoute(Box::new(RouteWish {
                name: route_name(env),
                change: route(env, &service),
                mask: None,
                etag: String::new(),
                allow_missing: true,
                said,
            })),
            (Trouble::DeleteRoute, _) => {
                Command::DeleteRoute { name: route_name(env), etag: String::new(), said }
            }
            (Trouble::ReleaseGuard, _) => Command::Override(Box::new(OverrideWish {
                target: target(Aspect::Guard),
                kind: OverrideKind::GuardReleased,
                ttl,
                said,
            })),
            (Trouble::SetOverride | Trouble::EndOverride, held) => {
                let replica = held.filter(|_| env.chance(0.7)).map(|held| held.key.replica);
                let node = env.chance(0.3).then(|| NodeId::parse("n0").expect("a name"));
                let (aspect, kind) = env.pick(&[
                    (Aspect::Breaker, 0),
                    (Aspect::Breaker, 1),
                    (Aspect::BreakerReset, 2),
                    (Aspect::Guard, 3),
                ]);
                let kind = match kind {
                    0 => OverrideKind::BreakerOpen,
                    1 => OverrideKind::BreakerClosed,
                    2 => OverrideKind::BreakerReset,
                    _ => OverrideKind::GuardReleased,
                };
                let of_guard = aspect == Aspect::Guard;
                let target = OverrideTarget {
                    replica: replica.filter(|_| !of_guard),
                    node: node.filter(|_| !of_guard),
                    ..target(aspect)
                };
                match trouble {
                    Trouble::EndOverride => Command::EndOverride { id: target.id(), by: Ok(said) },
                    _ => Command::Override(Box::new(OverrideWish { target, kind, ttl, said })),
                }
            }
            _ => return,
        };
        send(env, Call { from: None, ask: Ask::Change(command) });
    }

    /// Brings back to service what operators drained, and removes what replicas that moved have left behind: the registry
    /// keeps it if it is permanent, or held and nobody comes in its place.
    pub(crate) fn tidy(&mut self) {
        if self.env.phase != Phase::Calm {
            return;
        }
        self.env.after(2 * SECOND, Event::Tidy);
        let said = Said::because("tidying");
        let addresses: Vec<_> = self.owners.iter().map(|owner| &owner.address).collect();
        let commands = self.ledger.replicas().filter_map(|record| {
            let (key, said) = (record.key.clone(), said.clone());
            if !addresses.contains(&&record.endpoint.address) {
                let (target, proof) = (Target::Key(key), Proof::Force);
                return Some(Command::Deregister { target, proof, said, block: None });
            }
            record.drain.as_ref().map(|_| Command::Undrain {
                key,
                proof: Proof::Force,
                etag: String::new(),
                said,
            })
        });
        for command in commands.collect::<Vec<_>>() {
            send(&mut self.env, Call { from: None, ask: Ask::Change(command) });
        }
    }
}

fn route_name(env: &mut Env) -> RouteName {
    env.pick(&["t0", "t1", "t2", "t3"]).parse().expect("a name")
}

/// A route of few words, so that many are in conflict.
fn route(env: &mut Env, service: &ServiceName) -> v1::Route {
    v1::Route {
        service: service.to_string(),
        host: env.pick(&["", "*.example"]).to_owned(),
        path_prefix: env.pick(&["", "/a"]).to_owned(),
        methods: if env.chance(0.3) { vec!["GET".to_owned()] } else { Vec::new() },
        priority: env.pick(&[0, 1]),
        ..Default::default()
    }
}

/// Some fields of a policy, some of which do not go together with those of others.
fn policy(env: &mut Env) -> v1::Policy {
    let mut policy = v1::Policy::default();
    if env.chance(0.5) {
        policy.retry = Some(v1::RetryPolicy {
            max_retry_count: Some(i32::try_from(env.below(4)).expect("small")),
            ..Default::default()
        });
    }
    if env.chance(0.5) {
        let (base, max) = (env.pick(&[1, 5, 30]), env.pick(&[1, 5, 30]));
        policy.breaker = Some(v1::BreakerPolicy {
            base_open: env.chance(0.7).then(|| duration(base * SECOND)),
            max_open: env.chance(0.7).then(|| duration(max * SECOND)),
            ..Default::default()
        });
    }
    if env.chance(0.5) {
        policy.guard = Some(v1::GuardPolicy {
            enabled: env.chance(0.3).then_some(false),
            max_removal_ratio: Some(env.pick(&[0.0, 0.3, 0.7])),
            ..Default::default()
        });
    }
    policy
}
