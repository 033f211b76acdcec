//! Wire messages of the registry become specs, or a [`Refusal`] that names the resource at fault.

use gateway_proto::{
    Address, Endpoint, Health, Invalid, Locality, Mode, Policy, Priority, ReplicaId, ReplicaKey, ServiceName,
    Weight,
    time::{is_valid, system_time},
    v1,
};

use super::{Refusal, draft::RevisedPolicy};
use crate::table::ReplicaSpec;

pub(super) fn service_name(text: &str) -> Result<ServiceName, Refusal> {
    ServiceName::parse(text).map_err(|invalid| refuse(&format!("service {text:?}"), &invalid))
}

/// Reads the resolved policy of `owner`, if it has one.
pub(super) fn policy(owner: &str, wire: Option<&v1::Policy>) -> Result<Option<RevisedPolicy>, Refusal> {
    wire.map(|wire| match Policy::parse(&known(wire.clone())) {
        Ok(policy) => Ok(RevisedPolicy { policy, revision: wire.revision }),
        Err(invalid) => Err(refuse(owner, &invalid.within("policy"))),
    })
    .transpose()
}

/// A choice that only a newer control plane knows must not stop all updates: it is left at its default. A value out of its
/// range is refused all the same, for it is no choice of anybody who means well.
fn known(mut wire: v1::Policy) -> v1::Policy {
    if let Some(balancing) = &mut wire.balancing {
        balancing.algorithm = balancing.algorithm.filter(|it| v1::BalancingAlgorithm::try_from(*it).is_ok());
    }
    if let Some(check) = &mut wire.health_check {
        check.r#type = check.r#type.filter(|it| v1::HealthCheckType::try_from(*it).is_ok());
    }
    if let Some(concurrency) = &mut wire.concurrency {
        concurrency.adaptive = concurrency.adaptive.filter(|it| v1::AdaptiveLimit::try_from(*it).is_ok());
    }
    wire
}

pub(super) fn key(wire: &v1::ReplicaRemoval) -> Result<ReplicaKey, Refusal> {
    ReplicaKey::parse(&wire.service, &wire.replica_id)
        .map_err(|invalid| refuse(&format!("replica {:?}/{:?}", wire.service, wire.replica_id), &invalid))
}

pub(super) fn replica(wire: &v1::Replica) -> Result<ReplicaSpec, Refusal> {
    let read = || -> Result<ReplicaSpec, Invalid> {
        let endpoint = wire.endpoint.clone().unwrap_or_default();
        let is_understood = v1::EndpointProtocol::try_from(endpoint.protocol).is_ok();
        Ok(ReplicaSpec {
            id: ReplicaId::parse(&wire.replica_id)?,
            endpoint: if is_understood {
                Endpoint::parse(&endpoint)?
            } else {
                Address::parse(&endpoint.address)?.into()
            },
            weight: Weight::parse(wire.weight)?,
            // A protocol that only a newer control plane knows must not stop all updates, as with what follows.
            health: if is_understood { health(wire.health) } else { Health::Unhealthy },
            incarnation: wire.incarnation,
            priority: Priority::parse(wire.priority)?,
            locality: Locality::parse(wire.locality.clone().unwrap_or_default())?,
            mode: mode(wire.mode),
            revision: wire.revision,
            drain_deadline: wire
                .drain
                .as_ref()
                .and_then(|drain| drain.deadline_time)
                .filter(is_valid)
                .map(system_time),
            is_permanent: wire.lease.as_ref().is_some_and(|lease| lease.permanent),
            forced: None,
            reset: None,
        })
    };
    read().map_err(|invalid| refuse(&format!("replica {:?}/{:?}", wire.service, wire.replica_id), &invalid))
}

/// A health that only a newer control plane knows must not stop all updates, so it is no error. The contract names
/// those that are sent requests, so it is read as not ready.
fn health(number: i32) -> Health {
    Health::parse(number).map_or(Health::Unhealthy, |health| health.unwrap_or(Health::Healthy))
}

/// As [`health`]: what only a newer control plane knows is read as a mode without new requests.
fn mode(number: i32) -> Mode {
    Mode::parse(number).unwrap_or(Mode::Draining)
}

pub(super) fn refuse(resource: &str, invalid: &Invalid) -> Refusal {
    Refusal::InvalidResource(format!("{resource}: {invalid}"))
}
