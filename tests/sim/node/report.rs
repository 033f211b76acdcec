//! What a data plane tells the control plane: of its checks and of requests that failed.
//!
//! The checks are the simulation's own: what is judged here is what the registry makes of them.

use std::collections::BTreeMap;

use gateway_proto::{
    ReplicaKey,
    v1::{self, BreakerState, HealthCheckState},
};

use super::Node;
use crate::{
    env::{Env, Phase, SECOND},
    event::{ControlEvent, Event, NodeEvent},
    owner::Owner,
};

/// Checks in a row that must fail.
const FALL: u32 = 3;

/// What a data plane knows of the replicas that it checks.
#[derive(Default)]
pub(super) struct Checks(BTreeMap<ReplicaKey, Checked>);

#[derive(Clone, Copy, Default)]
struct Checked {
    incarnation: i64,
    failed_in_a_row: u32,
    total: i64,
    failed: i64,
}

impl Node {
    /// Checks every replica, and says what came of it.
    pub(super) fn check_and_report(&mut self, env: &mut Env, owners: &[Owner], life: u32) {
        if life != self.life || env.phase >= Phase::Leaving {
            return;
        }
        env.after(SECOND, Event::Node(self.number, NodeEvent::Check { life }));
        let mut before = std::mem::take(&mut self.checks.0);
        let mut rows = Vec::new();
        for service in self.snapshot.services() {
            for replica in &service.replicas {
                let key = ReplicaKey { service: service.name.clone(), replica: replica.id.clone() };
                let known = before.remove(&key).filter(|known| known.incarnation == replica.incarnation);
                let mut checked = known.unwrap_or_default();
                checked.incarnation = replica.incarnation;
                let there = owners.iter().find(|owner| owner.address == replica.endpoint.address);
                let passes = env.now >= self.blind_until && there.is_some_and(|owner| owner.accepts(env));
                checked.total += 1;
                checked.failed += i64::from(!passes);
                checked.failed_in_a_row = if passes { 0 } else { checked.failed_in_a_row + 1 };
                rows.push(row(&key, &checked, env.now < self.lies_until));
                self.checks.0.insert(key, checked);
            }
        }
        if self.stream.is_some() {
            let latency = env.report_latency();
            let report = ControlEvent::Report { node: self.number, rows };
            env.after(latency, Event::Control(report));
        }
    }
}

/// A liar says that nothing ever answered it, and that it has asked very often.
fn row(key: &ReplicaKey, checked: &Checked, lies: bool) -> v1::Breaker {
    let Checked { incarnation, failed_in_a_row, total, failed } = *checked;
    let (state, total, failed) = match (lies, failed_in_a_row) {
        (true, _) => (HealthCheckState::Failing, total * 1000, total * 1000),
        (false, 0) => (HealthCheckState::Passing, total, failed),
        (false, row) if row >= FALL => (HealthCheckState::Failing, total, failed),
        // It goes on passing, or has not been checked often enough.
        (false, row) if i64::from(row) < total => (HealthCheckState::Passing, total, failed),
        (false, _) => (HealthCheckState::Pending, total, failed),
    };
    v1::Breaker {
        service: key.service.to_string(),
        replica_id: key.replica.to_string(),
        state: BreakerState::Closed.into(),
        incarnation,
        health_check: Some(v1::HealthCheck {
            state: state.into(),
            check_count: total,
            failure_count: failed,
            last_failure: "connect refused".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}
