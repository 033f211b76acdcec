//! What to do next.

use super::{Explanation, span::left, standing::Registered};
use crate::v1::{self, Conclusion, NextStep, ReplicaVerdict as Verdict};

/// Commands, and times to wait, most pressing first.
pub(super) fn steps(all: &Explanation, verdict: Verdict, conclusion: Conclusion) -> Vec<NextStep> {
    let service = &all.facts.service;
    let key = format!("{service}/{}", all.facts.replica_id);
    let mut steps = Vec::new();
    let mut step = |command: String, purpose: &str| {
        steps.push(NextStep { command, purpose: purpose.to_owned() });
    };
    if verdict == Verdict::Removed {
        step(format!("gwctl events --replica {key}"), "what happened to it");
        step(format!("gwctl get replicas {service}"), "which replicas the service has now");
        for entry in all.concerning().filter(|entry| entry.kind() == v1::OverrideKind::RegistrationBlocked) {
            step(format!("gwctl end-override {}", entry.override_id), "let it register again");
        }
        return steps;
    }
    let row = all.speaker.as_ref().and_then(|node| node.breaker.as_ref());
    if let Some(row) = row.filter(|row| row.state() == v1::BreakerState::Open && all.counts.out > 0)
        && let Some(left) = left(all.facts.now, row.retry_time)
    {
        step(format!("wait {left}"), "for the next probe");
    }
    match conclusion {
        Conclusion::Replica | Conclusion::Undecided | Conclusion::Path => {
            if conclusion == Conclusion::Path {
                let node = all.failing.first().map_or("", String::as_str);
                step(
                    format!("gwctl explain {key} --node {node}"),
                    "what that data plane sees, and its last errors",
                );
            }
            let is_open = |row: &v1::Breaker| {
                matches!(row.state(), v1::BreakerState::Open | v1::BreakerState::HalfOpen)
            };
            match row.is_none_or(is_open) {
                true => step(format!("gwctl breaker reset {key}"), "try it again now, once it is mended"),
                false => step(
                    format!("gwctl policy get {service} --resolved"),
                    "what is checked; it is asked again by itself once its checks pass",
                ),
            }
            if verdict == Verdict::PartlyOut || conclusion == Conclusion::Replica {
                step(format!("gwctl drain {key}"), "keep requests away while it is mended");
            }
        }
        Conclusion::Owner | Conclusion::Operator => match all.registered {
            Registered::Draining { by_owner: false } => {
                step(format!("gwctl undrain {key}"), "return it to service");
            }
            Registered::Draining { by_owner: true } => {
                step(format!("gwctl undrain {key}"), "return it to service before it registers anew");
            }
            Registered::Starting | Registered::Unhealthy => {
                step(format!("gwctl events --replica {key}"), "what it reported, and when");
            }
            _ => {}
        },
        Conclusion::SnapshotGuard => {
            step(format!("gwctl release-guard {service}"), "let it and what else is held go, if it is gone");
            if all.holding_unseen > 0 {
                let command = format!("gwctl explain {key} --data-plane http://HOST:7401");
                step(command, "what the breaker is on a data plane that holds it");
            }
            step(format!("gwctl events --replica {key}"), "what happened to it");
        }
        Conclusion::Lease => {
            step(
                format!("gwctl release-guard {service}"),
                "let it and the other lost ones go, if they are gone",
            );
        }
        Conclusion::Policy => {
            step(
                format!("gwctl policy get {service} --resolved"),
                "which setting that is, and where it is from",
            );
        }
        Conclusion::NoDataPlane => step("gwctl check".into(), "what is wrong with the data planes"),
        Conclusion::Tier | Conclusion::Unspecified => {}
    }
    for entry in all.concerning().filter(|entry| entry.kind() != v1::OverrideKind::BreakerReset) {
        step(format!("gwctl end-override {}", entry.override_id), "hand it back to the rules");
    }
    step(format!("gwctl events -w --replica {key}"), "watch what happens to it");
    steps
}
