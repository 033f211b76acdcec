//! What a service's breakers would have done by other rules, by what this data plane has recorded.

use std::{cmp::Reverse, time::SystemTime};

use gateway_proto::{Policy, ServiceName, policy::Breaker, time::timestamp, v1};

use super::rows::count;
use crate::{
    routing::{Replayed, Tick, replay, span},
    table::{Replica, Service, Table},
};

/// Replicas in one answer; a control plane takes no more.
const MAX_REPLICAS: usize = 1000;

/// The answer, of whatever was recorded. It takes about 100 ns for each outcome.
pub(super) fn answer(
    table: &Table,
    question: &v1::WhatIfQuestion,
    date: impl Fn(Tick) -> SystemTime,
) -> v1::WhatIfAnswer {
    let mut answer = v1::WhatIfAnswer {
        question_id: question.question_id,
        recording: table.recorded_outcomes() > 0,
        ..Default::default()
    };
    let wire = v1::Policy { breaker: question.breaker, ..Default::default() };
    let (Ok(name), Ok(policy)) = (ServiceName::parse(&question.service), Policy::parse(&wire)) else {
        return answer;
    };
    let Some(service) = table.service(name.as_str()) else { return answer };
    let replays = replays(&service, &policy.breaker);
    let (mut earliest, mut latest) = (None::<Tick>, None::<Tick>);
    for (_, (first, last), ..) in &replays {
        earliest = Some(earliest.map_or(*first, |known| known.min(*first)));
        latest = latest.max(Some(*last));
    }
    answer.earliest_time = earliest.map(|at| timestamp(date(at)));
    answer.latest_time = latest.map(|at| timestamp(date(at)));
    answer.replicas = replays
        .into_iter()
        .take(MAX_REPLICAS)
        .map(|(id, _, now, then)| v1::ReplicaReplay {
            replica_id: id,
            now: Some(to_wire(now)),
            then: Some(to_wire(then)),
        })
        .collect();
    answer
}

type ReplicaReplays = (String, (Tick, Tick), Replayed, Replayed);

fn replays(service: &Service, then: &Breaker) -> Vec<ReplicaReplays> {
    let now = service.policy().breaker;
    let of_replica = |replica: &std::sync::Arc<Replica>| {
        let recorded = replica.recorded();
        let span = span(&recorded)?;
        let id = replica.key().replica.to_string();
        Some((id, span, replay(&recorded, &now), replay(&recorded, then)))
    };
    let mut replays: Vec<_> = service.replicas().iter().filter_map(of_replica).collect();
    replays.sort_by_key(|(_, _, now, then)| Reverse(now.trips.abs_diff(then.trips)));
    replays
}

fn to_wire(replayed: Replayed) -> v1::Replay {
    v1::Replay {
        trip_count: count(replayed.trips),
        failed_probe_count: count(replayed.failed_probes),
        shed_failure_count: count(replayed.shed_failures),
        shed_success_count: count(replayed.shed_successes),
        outcome_count: count(replayed.samples),
        failure_count: count(replayed.failures),
    }
}
