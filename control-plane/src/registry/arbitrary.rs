//! Commands of every kind, sensible or not, for tests that try them at random.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway_proto::{
    Address, Health, LeaseId, NodeId, ReplicaId, ReplicaKey, RouteName, ServiceName, time::duration, v1,
};
use proptest::prelude::*;

use super::*;

pub(crate) const LIMITS: Limits = Limits { replicas: 6, replicas_per_service: 4 };

/// What a command is made of, once the view is known that it meets.
pub(crate) type Choice = (u8, u8, u8, u8);

/// Choices for up to `max` commands.
pub(crate) fn choices(max: usize) -> impl Strategy<Value = Vec<Choice>> {
    proptest::collection::vec((0..30_u8, 0..2_u8, 0..4_u8, any::<u8>()), 1..max)
}

/// When the command of this index comes: often enough within the time that requests and blocks are remembered.
pub(crate) fn at(index: usize) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + 20 * index as u64)
}

/// Ids for the command of this index.
pub(crate) fn fresh(index: usize) -> Candidates {
    Candidates::from_random(index as u64 + 1, index as u128 + 1)
}

/// The command that a choice means to somebody who knows `view`.
pub(crate) fn command(view: &View, (kind, service, id, bits): Choice) -> Command {
    let service = ServiceName::parse(["s0", "s1"][usize::from(service)]).unwrap();
    let key = ReplicaKey { service: service.clone(), replica: ReplicaId::parse(&format!("r{id}")).unwrap() };
    let record = view.get(&key);
    let bit = |place: u8| bits >> place & 1 == 1;
    let said = || Said { author: "ana".into(), reason: format!("bits {bits}").into() };
    let lease = record.and_then(|record| record.lease).map(|terms| terms.id);
    let lease = if bit(7) && bit(6) { None } else { lease }.unwrap_or(LeaseId::from_random(u128::MAX));
    let etag = match (bit(5) && bit(4), record) {
        (true, Some(record)) if bit(3) => record.to_wire().etag,
        (true, _) => "stale".to_owned(),
        (false, _) => String::new(),
    };
    let silent_for = Duration::from_secs(16);
    match kind {
        0..=6 => {
            let address = Address::parse(&format!("10.0.0.1:{}", 100 + u16::from(bits % 5))).unwrap();
            Command::Register(Registration {
                replica: bit(7).then_some(key.replica),
                ttl: (!bit(6)).then_some(Duration::from_secs(15)),
                health: if bit(5) { Health::Starting } else { Health::Healthy },
                request: bit(4).then_some(u128::from(bits % 3)),
                registrant: registrant(bits),
                ..Registration::permanent(service, address)
            })
        }
        7..=9 => {
            let target = match bit(0) {
                true => Target::Key(key),
                false => {
                    let port = 100 + u16::from(bits % 5);
                    Target::Address(service, Address::parse(&format!("10.0.0.1:{port}")).unwrap())
                }
            };
            let proof = match bits >> 1 & 3 {
                0 => Proof::None,
                1 => Proof::Lease(lease),
                _ => Proof::Force,
            };
            let block = (proof == Proof::Force && bit(3)).then(|| Duration::from_secs(u64::from(bits) + 1));
            Command::Deregister { target, proof, said: said(), block }
        }
        10..=11 => {
            let health = [Health::Healthy, Health::Unhealthy, Health::Degraded][usize::from(bits % 3)];
            Command::ReportHealth { key, lease: bit(2).then_some(lease), health, reason: String::new() }
        }
        12 => Command::Expire { key, lease, silent_for },
        13..=14 => Command::Hold { key, lease, silent_for },
        15 => Command::Recover { key, lease },
        16..=17 => Command::Drain(Box::new(DrainWish {
            key,
            proof: if bit(0) { Proof::Lease(lease) } else { Proof::Force },
            timeout: bit(1).then_some(Duration::from_secs(u64::from(bits))),
            etag,
            allow_last: bit(2),
            said: said(),
        })),
        18 => Command::Undrain {
            key,
            proof: if bit(0) { Proof::None } else { Proof::Force },
            etag,
            said: said(),
        },
        19 => {
            let begun =
                record.and_then(|record| record.drain.as_deref()).map_or(UNIX_EPOCH, |drain| drain.begun);
            Command::FinishDrain { key, begun, is_idle: bit(0) }
        }
        20..=22 => {
            let scope = if bit(0) { Scope::All } else { Scope::Service(service) };
            if kind == 22 {
                return Command::DeletePolicy { scope, etag: String::new(), said: said() };
            }
            Command::UpdatePolicy(Box::new(policy(scope, bits, said())))
        }
        29 => {
            let scopes = [Scope::All, Scope::Service(service), Scope::parse("s2").unwrap()];
            let changes = scopes.into_iter().enumerate().map(|(index, scope)| {
                let bits = bits.rotate_left(3 * u32::try_from(index).unwrap());
                match bits & 3 {
                    0 => PolicyChange::Delete { scope, etag: String::new(), said: said() },
                    _ => PolicyChange::Update(Box::new(policy(scope, bits, said()))),
                }
            });
            Command::ApplyPolicies(changes.skip(usize::from(bit(7))).collect())
        }
        26..=28 => {
            let name = RouteName::parse(&format!("t{id}")).unwrap();
            if kind == 28 {
                return Command::DeleteRoute { name, etag: String::new(), said: said() };
            }
            let change = v1::Route {
                service: service.to_string(),
                path_prefix: if bit(0) { "/a".into() } else { String::new() },
                methods: if bit(1) { vec!["GET".into()] } else { Vec::new() },
                priority: i32::from(bits >> 2 & 1),
                host: if bit(3) { "a.example".into() } else { String::new() },
                ..Default::default()
            };
            let (mask, etag) = (None, if bit(5) && bit(4) { "stale".to_owned() } else { String::new() });
            Command::UpdateRoute(Box::new(RouteWish {
                name,
                change,
                mask,
                etag,
                allow_missing: !bit(6),
                said: said(),
            }))
        }
        _ => {
            let aspect = [Aspect::Breaker, Aspect::BreakerReset, Aspect::Guard][usize::from(bits % 3)];
            let replica = Some(key.replica).filter(|_| bit(2) && aspect != Aspect::Guard);
            let node = bit(3).then(|| NodeId::parse("dp-1").unwrap()).filter(|_| aspect != Aspect::Guard);
            let target = OverrideTarget { aspect, service, replica, node };
            let kind_of = match aspect {
                Aspect::Breaker if bit(4) => OverrideKind::BreakerOpen,
                Aspect::Breaker => OverrideKind::BreakerClosed,
                Aspect::BreakerReset => OverrideKind::BreakerReset,
                _ => OverrideKind::GuardReleased,
            };
            if kind == 25 {
                // Any that is there, blocks included, or none.
                let present = view.overrides().nth(usize::from(bits % 4));
                let id = present.map_or_else(|| target.id(), |entry| entry.id());
                let revision = present.map_or(0, |entry| entry.revision) - i64::from(bit(6));
                return Command::EndOverride { id, by: if bit(5) { Ok(said()) } else { Err(revision) } };
            }
            let ttl = Duration::from_secs(u64::from(bits) + 1);
            Command::Override(Box::new(OverrideWish { target, kind: kind_of, ttl, said: said() }))
        }
    }
}

/// Nobody, or one of two who may have little.
fn registrant(bits: u8) -> Registrant {
    match bits % 4 {
        0 => Registrant::default(),
        1 => Registrant { name: "ana".into(), quota: Some(Quota { replicas: Some(2), services: Some(1) }) },
        2 => Registrant { name: "ben".into(), quota: Some(Quota::default()) },
        _ => Registrant { name: "ops".into(), quota: None },
    }
}

fn policy(scope: Scope, bits: u8, said: Said) -> PolicyWish {
    let bit = |place: u8| bits >> place & 1 == 1;
    let breaker = v1::BreakerPolicy {
        base_open: bit(1).then(|| duration(Duration::from_secs(u64::from(bits >> 4) + 1))),
        max_open: bit(2).then(|| duration(Duration::from_secs(u64::from(bits >> 3) + 1))),
        ..Default::default()
    };
    let drain_timeout = bit(3).then(|| duration(Duration::from_secs(u64::from(bits))));
    PolicyWish {
        scope,
        change: v1::Policy { breaker: Some(breaker), drain_timeout, ..Default::default() },
        mask: None,
        etag: String::new(),
        allow_missing: !bit(4),
        must_be_missing: bit(4) && bit(5),
        allow_fault: true,
        said,
    }
}

/// The mutations of these commands, carried out one by one, and the view after each.
pub(crate) fn carried_out(choices: &[Choice]) -> Vec<(Committed, Applied, View)> {
    let mut view = View::default();
    let mut steps = Vec::new();
    for (index, choice) in choices.iter().enumerate() {
        let command = command(&view, *choice);
        if let Ok(Decision::Commit(mutation)) = decide(&view, &LIMITS, &command, &fresh(index), at(index)) {
            let committed = Committed { revision: view.revision() + 1, mutation };
            let applied = view.apply(committed.clone());
            steps.push((committed, applied, view.clone()));
        }
    }
    steps
}
