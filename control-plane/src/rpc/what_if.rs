//! What breakers would have done by other rules: asks every data plane that reports, and adds up what comes in time.

use std::time::Duration;

use gateway_proto::{Check, Invalid, Policy, ServiceName, policy::Partial, v1};
use tokio::time::{Instant, timeout_at};

use crate::{edge::Edge, observe::WhatIf, refusal::Refusal};

/// Data planes have this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a replay of each replica by itself cannot answer.
const NOT_REPLAYED: [&str; 4] = [
    "breaker.max_open_ratio",
    "breaker.peer_latency_factor",
    "breaker.fail_open_threshold",
    "breaker.observe_only",
];

/// Asks them.
pub(super) async fn ask(edge: &Edge, wire: v1::WhatIfRequest) -> Result<v1::WhatIfResponse, Refusal> {
    let mut check = Check::default();
    let service = check.take(ServiceName::parse(&wire.service));
    let change = check.take(parse(wire.breaker));
    check.finish()?;
    let (Some(service), Some(change)) = (service, change) else { unreachable!("nothing was refused") };
    let found = edge
        .effects
        .publisher
        .read(|view| view.service(&service).map(|_| view.policies().resolve(Some(&service))));
    let policy = found.ok_or_else(|| Refusal::ServiceNotFound(service.clone()))?;
    let mut proposed = policy.to_wire();
    change.settings().for_each(|(field, value)| field.write(&mut proposed, value));
    // Each setting is in its range; together they may still not go.
    Policy::parse(&proposed)?;
    let observation = &edge.effects.observation;
    let mut all = WhatIf::of(observation.reporting());
    let asked = observation.questions().ask(service.to_string(), proposed.breaker.unwrap_or_default());
    let limit = crate::observe::MAX_OPEN_QUESTIONS;
    let mut asked = asked.ok_or(Refusal::Quota { what: "too many ask what would have been", limit })?;
    let end = Instant::now() + PATIENCE;
    while !all.is_complete() {
        match timeout_at(end, asked.next()).await {
            Ok(Some(answered)) => all.add(answered),
            Ok(None) | Err(_) => break,
        }
    }
    let silent_control_planes = observation.silent_control_planes();
    Ok(v1::WhatIfResponse { silent_control_planes, ..all.finish(service.as_str()) })
}

fn parse(breaker: Option<v1::BreakerPolicy>) -> Result<Partial, Invalid> {
    let change = Partial::parse(&v1::Policy { breaker, ..Default::default() })?;
    if change.is_empty() {
        return Err(Invalid::new(
            "breaker",
            "must set what would be otherwise, e.g. consecutive_failure_count",
        ));
    }
    // An answer by the others alone would read as if these changed nothing.
    let left_out = change.settings().map(|(field, _)| field.path()).find(|path| NOT_REPLAYED.contains(path));
    match left_out {
        Some(path) => Err(Invalid::new(
            path,
            "is not replayed, for it goes by several replicas at once or keeps breakers from opening: leave it out",
        )),
        None => Ok(change),
    }
}
