//! Whether a service is served, from what is concluded of each of its replicas.

use std::time::SystemTime;

use super::MAX_SHOWN;
use crate::{time::timestamp, v1};

/// Sums up replicas, and keeps the worst.
#[derive(Debug)]
pub struct ServiceExplanation {
    response: v1::ExplainServiceResponse,
}

impl ServiceExplanation {
    /// No replica yet.
    pub fn new(service: &str, revision: i64, now: SystemTime) -> Self {
        Self {
            response: v1::ExplainServiceResponse {
                service: service.to_owned(),
                revision,
                explain_time: Some(timestamp(now)),
                ..Default::default()
            },
        }
    }

    /// Takes in what was concluded of a replica.
    pub fn add(&mut self, replica: v1::ExplainReplicaResponse) {
        use v1::ReplicaVerdict as Verdict;
        let response = &mut self.response;
        response.replica_count += 1;
        match replica.verdict() {
            Verdict::TakesRequests => response.taking_count += 1,
            Verdict::PartlyOut => response.partly_out_count += 1,
            Verdict::Out => response.out_count += 1,
            Verdict::StandsBy => response.standing_by_count += 1,
            Verdict::Unknown | Verdict::Removed | Verdict::Unspecified => response.unknown_count += 1,
        }
        let is_well = replica.verdict() == Verdict::TakesRequests
            && replica.conclusion() == v1::Conclusion::Unspecified;
        if is_well {
            return;
        }
        response.replicas.push(v1::ReplicaLine {
            replica_id: replica.replica_id,
            verdict: replica.verdict,
            conclusion: replica.conclusion,
            summary: replica.summary,
        });
        if response.replicas.len() >= 2 * MAX_SHOWN {
            self.keep_the_worst();
        }
    }

    /// Takes in on how many data planes it fails open.
    pub fn fails_open_on(&mut self, node_count: i32) {
        self.response.fail_open_node_count = node_count;
    }

    /// The sentence over all of it, and what to do.
    pub fn finish(mut self) -> v1::ExplainServiceResponse {
        self.keep_the_worst();
        let response = &mut self.response;
        response.summary = summary(response);
        let service = &response.service;
        let step = |command: String, purpose: &str| v1::NextStep { command, purpose: purpose.into() };
        let worst = response.replicas.first();
        let worst = worst.map(|line| {
            step(format!("gwctl explain {service}/{}", line.replica_id), "the worst of them in full")
        });
        let rest = match response.replica_count {
            0 => step(format!("gwctl register {service} HOST:PORT"), "give it a replica"),
            _ => step(format!("gwctl get replicas {service}"), "all of its replicas"),
        };
        response.next_steps = worst.into_iter().chain([rest]).collect();
        self.response
    }

    fn keep_the_worst(&mut self) {
        let rank = |line: &v1::ReplicaLine| match line.verdict() {
            v1::ReplicaVerdict::Out => 0,
            v1::ReplicaVerdict::PartlyOut => 1,
            v1::ReplicaVerdict::Unknown | v1::ReplicaVerdict::Removed | v1::ReplicaVerdict::Unspecified => 2,
            v1::ReplicaVerdict::TakesRequests => 3,
            v1::ReplicaVerdict::StandsBy => 4,
        };
        // Stable, so that those of one kind stay in the order of their ids.
        self.response.replicas.sort_by_key(rank);
        self.response.replicas.truncate(MAX_SHOWN);
    }
}

fn summary(response: &v1::ExplainServiceResponse) -> String {
    let total = response.replica_count;
    let parts = [
        (response.partly_out_count, "out on some data planes"),
        (response.out_count, "out"),
        (response.standing_by_count, "standing by"),
        (response.unknown_count, "not known to any data plane"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let rest = parts.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ");
    let of = |count: i32| format!("{count} of {total} {}", if total == 1 { "replica" } else { "replicas" });
    let served = match (total, response.taking_count + response.partly_out_count) {
        (0, _) => "not served: it has no replica".into(),
        (_, 0) if response.standing_by_count > 0 => {
            format!("not settled: no data plane asks a replica of the best tier: {rest}")
        }
        (_, 0) => format!("not served: {rest}"),
        (1, _) if rest.is_empty() => "served: its only replica takes requests everywhere".into(),
        (_, _) if rest.is_empty() => format!("served: all {total} replicas take requests everywhere"),
        (_, _) => format!("served by {} everywhere; {rest}", of(response.taking_count)),
    };
    let panics = match response.fail_open_node_count {
        0 => return served,
        1 => "1 data plane, which asks".to_owned(),
        nodes => format!("{nodes} data planes, which ask"),
    };
    format!(
        "{served}; PANIC: too few let traffic through on {panics} those with open breakers, or failing checks, too"
    )
}
