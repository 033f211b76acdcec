//! What operators decide against the rules: breakers forced, reset and handed back, guards released.

use std::{sync::Arc, time::Duration};

use gateway_proto::{Check, Invalid, NodeId, ReplicaId, ServiceName, time::timestamp, v1};

use super::{asked, page::Page};
use crate::{
    auth::Caller,
    edge::Edge,
    observe::parse_service,
    refusal::Refusal,
    registry::{
        Answer, Aspect, Command, Override, OverrideId, OverrideKind, OverrideTarget, OverrideWish, View,
    },
};

/// How long a reset is kept for data planes that are away for a moment.
const RESET_TTL: Duration = Duration::from_secs(60);
/// How long a guard is released unless the caller says otherwise.
const RELEASE_TTL: Duration = Duration::from_secs(600);
/// Replicas that an answer names at most.
const MAX_NAMED: usize = 1000;

/// Forces breakers open or closed, or hands them back.
pub(super) async fn override_breaker(
    edge: &Edge,
    request: v1::OverrideBreakerRequest,
    caller: &Caller,
) -> Result<v1::OverrideBreakerResponse, Refusal> {
    let mut check = Check::default();
    let target = target(Aspect::Breaker, &request.service, &request.replica_id, &request.node_id);
    let target = check.take(target);
    let said = check.take(asked::said(&request.author, &request.reason, caller));
    let wait = check.take(asked::wait(request.wait_timeout));
    let kind = match request.state() {
        v1::BreakerState::ForcedOpen => Some(Some(OverrideKind::BreakerOpen)),
        v1::BreakerState::ForcedClosed => Some(Some(OverrideKind::BreakerClosed)),
        v1::BreakerState::Closed => Some(None),
        _ => check
            .take(Err(Invalid::new("state", "must be FORCED_OPEN, FORCED_CLOSED, or CLOSED to hand back"))),
    };
    let is_forced = matches!(kind, Some(Some(_)));
    if is_forced && request.reason.is_empty() {
        check.take::<()>(Err(Invalid::new(
            "reason",
            "is required: it is shown for as long as the override lasts",
        )));
    }
    let ttl = match request.ttl {
        Some(ttl) if is_forced => check.take(asked::ttl("ttl", ttl)),
        None if is_forced => {
            check.take(Err(Invalid::new("ttl", "is required: every override ends by itself, 1s..=24h")))
        }
        _ => Some(RESET_TTL),
    };
    check.finish()?;
    let (Some(target), Some(said), Some(wait), Some(kind), Some(ttl)) = (target, said, wait, kind, ttl)
    else {
        unreachable!("nothing was refused")
    };
    let command = match kind {
        Some(kind) => Command::Override(Box::new(OverrideWish { target, kind, ttl, said })),
        None => Command::EndOverride { id: target.id(), by: Ok(said) },
    };
    let (entry, revision) = match edge.submit(caller, command, request.validate_only).await? {
        Answer::Overridden(entry) => {
            let revision = entry.revision;
            (Some(entry), revision)
        }
        Answer::OverrideEnded { revision, .. } => (None, revision),
        other => unreachable!("an override is answered as such, not by {other:?}"),
    };
    let rollout = match request.validate_only {
        true => None,
        false => Some(edge.rollout(revision, wait).await),
    };
    Ok(v1::OverrideBreakerResponse { active_override: entry.map(|entry| entry.to_wire()), rollout })
}

/// Has breakers forget.
pub(super) async fn reset_breaker(
    edge: &Edge,
    request: v1::ResetBreakerRequest,
    caller: &Caller,
) -> Result<v1::ResetBreakerResponse, Refusal> {
    let mut check = Check::default();
    let target = target(Aspect::BreakerReset, &request.service, &request.replica_id, &request.node_id);
    let target = check.take(target);
    let said = check.take(asked::said(&request.author, &request.reason, caller));
    let wait = check.take(asked::wait(request.wait_timeout));
    check.finish()?;
    let (Some(target), Some(said), Some(wait)) = (target, said, wait) else {
        unreachable!("nothing was refused")
    };
    let wish = OverrideWish { target, kind: OverrideKind::BreakerReset, ttl: RESET_TTL, said };
    let revision = set(edge, caller, wish).await?.revision;
    Ok(v1::ResetBreakerResponse { rollout: Some(edge.rollout(revision, wait).await) })
}

/// Has the guard of a service hold nothing for a time.
pub(super) async fn release_guard(
    edge: &Edge,
    request: v1::ReleaseGuardRequest,
    caller: &Caller,
) -> Result<v1::ReleaseGuardResponse, Refusal> {
    let mut check = Check::default();
    let service = check.take(ServiceName::parse(&request.service));
    let said = check.take(asked::said(&request.author, &request.reason, caller));
    let ttl = request.ttl.map_or(Some(RELEASE_TTL), |ttl| check.take(asked::ttl("ttl", ttl)));
    check.finish()?;
    let (Some(service), Some(said), Some(ttl)) = (service, said, ttl) else {
        unreachable!("nothing was refused")
    };
    let is_registered = edge.effects.publisher.read(|view: &View| view.service(&service).is_some());
    // What the registry has forgotten, data planes may hold.
    if !is_registered && !edge.effects.observation.read(|nodes, _| nodes.may_hold(&service)) {
        return Err(Refusal::ServiceNotFound(service));
    }
    let lost = edge.effects.publisher.read(|view: &View| {
        let lost = view.lost().filter(|record| record.key.service == service);
        lost.take(MAX_NAMED).map(|record| record.key.replica.to_string()).collect()
    });
    let target = OverrideTarget { aspect: Aspect::Guard, service, replica: None, node: None };
    let wish = OverrideWish { target, kind: OverrideKind::GuardReleased, ttl, said };
    let entry = set(edge, caller, wish).await?;
    Ok(v1::ReleaseGuardResponse { replica_ids: lost, expire_time: Some(timestamp(entry.expires_at)) })
}

/// Lists overrides.
pub(super) fn list(
    edge: &Edge,
    request: &v1::ListOverridesRequest,
) -> Result<v1::ListOverridesResponse, Refusal> {
    let page = Page::parse(request.page_size, &request.page_token, &["overrides", &request.service])?;
    let service = parse_service(&request.service)?;
    let (entries, next_page_token, revision) = edge.effects.publisher.read(|view| {
        let entries = view.overrides_after(page.after().unwrap_or_default());
        let entries =
            entries.filter(|entry| service.as_ref().is_none_or(|name| entry.target.service == *name));
        let (entries, token) = page.cut(entries.cloned(), |entry| entry.id().to_string());
        (entries, token, view.revision())
    });
    let overrides = entries.iter().map(|entry| entry.to_wire()).collect();
    Ok(v1::ListOverridesResponse { overrides, next_page_token, revision })
}

/// Ends an override before its time.
pub(super) async fn end(
    edge: &Edge,
    request: v1::EndOverrideRequest,
    caller: &Caller,
) -> Result<v1::EndOverrideResponse, Refusal> {
    let mut check = Check::default();
    let id = check.take(OverrideId::parse(&request.override_id));
    let said = check.take(asked::said(&request.author, &request.reason, caller));
    check.finish()?;
    let (Some(id), Some(said)) = (id, said) else { unreachable!("nothing was refused") };
    match edge.submit(caller, Command::EndOverride { id, by: Ok(said) }, false).await? {
        Answer::OverrideEnded { ended, revision } => Ok(v1::EndOverrideResponse { ended, revision }),
        other => unreachable!("the end of an override is answered as such, not by {other:?}"),
    }
}

async fn set(edge: &Edge, caller: &Caller, wish: OverrideWish) -> Result<Arc<Override>, Refusal> {
    match edge.submit(caller, Command::Override(Box::new(wish)), false).await? {
        Answer::Overridden(entry) => Ok(entry),
        other => unreachable!("an override is answered as such, not by {other:?}"),
    }
}

fn target(aspect: Aspect, service: &str, replica: &str, node: &str) -> Result<OverrideTarget, Invalid> {
    let mut check = Check::default();
    let service = check.take(ServiceName::parse(service));
    let replica = match replica {
        "-" => Some(None),
        "" => check.take(Err(Invalid::new("replica_id", "is required; \"-\" stands for every replica"))),
        id => check.take(ReplicaId::parse(id)).map(Some),
    };
    let node = match node {
        "" => Some(None),
        id => check.take(NodeId::parse(id)).map(Some),
    };
    check.finish()?;
    let (Some(service), Some(replica), Some(node)) = (service, replica, node) else {
        unreachable!("nothing was refused")
    };
    Ok(OverrideTarget { aspect, service, replica, node })
}
