//! One service, explained.

use std::fmt::Write as _;

use gateway_proto::v1::{ExplainServiceResponse, ReplicaLine};

use super::replica::{next_steps, section, verdict};
use crate::{
    table::{Cell, Table},
    terminal::printable,
};

/// Replicas that have a line; JSON has more.
const MAX_LINES: usize = 20;

pub(super) fn render(told: &ExplainServiceResponse) -> String {
    let mut text = format!("{}\n{}\n", printable(&told.service), printable(&told.summary));
    section(&mut text, "Replicas with something to explain", lines(&told.replicas));
    if told.replicas.len() > MAX_LINES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  ... and {} more (-o json)", told.replicas.len() - MAX_LINES);
    }
    section(&mut text, "Next", next_steps(&told.next_steps));
    text
}

/// Replicas with why each is asked or not.
pub(in crate::commands) fn lines(replicas: &[ReplicaLine]) -> Table {
    let mut table = Table::new(["REPLICA", "VERDICT", "WHY"]);
    for line in replicas.iter().take(MAX_LINES) {
        let (word, style) = verdict(line.verdict());
        table.push(vec![(&line.replica_id).into(), Cell::styled(word, style), (&line.summary).into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::{NextStep, ReplicaVerdict};

    use super::*;

    #[test]
    fn each_replica_that_is_out_has_a_line_with_its_reason() {
        let line = |number: usize| ReplicaLine {
            replica_id: format!("r-{number}"),
            verdict: ReplicaVerdict::Out.into(),
            summary: "out on dp-1 since 12s: forced open by ana".into(),
            ..Default::default()
        };
        let mut told = ExplainServiceResponse {
            service: "orders".into(),
            summary: "served by 2 of 3 replicas everywhere; 1 out".into(),
            replicas: vec![line(1)],
            next_steps: vec![NextStep {
                command: "gwctl explain orders/r-1".into(),
                purpose: "the worst of them in full".into(),
            }],
            ..Default::default()
        };
        let plain = |told: &ExplainServiceResponse| anstream::adapter::strip_str(&render(told)).to_string();
        assert_eq!(
            plain(&told),
            "\
orders
served by 2 of 3 replicas everywhere; 1 out

Replicas with something to explain
  REPLICA   VERDICT   WHY
  r-1       OUT       out on dp-1 since 12s: forced open by ana

Next
  gwctl explain orders/r-1   the worst of them in full
"
        );
        told.replicas = (0..50).map(line).collect();
        assert!(plain(&told).contains("\n  ... and 30 more (-o json)\n"));
    }
}
