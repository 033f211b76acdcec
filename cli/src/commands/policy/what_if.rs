//! `gwctl policy what-if`: what a service's breakers would have done by other rules.

use std::{fmt::Write as _, time::SystemTime};

use gateway_proto::{
    ServiceName,
    v1::{self, Replay, WhatIfRequest, WhatIfResponse},
};

use super::assignment::Assignment;
use crate::{
    age,
    control::Control,
    error::{Error, Exit},
    output::{Format, Output},
    table::Table,
    terminal::printable,
};

/// Replicas that have a line.
const MAX_LINES: usize = 20;

/// Flags of `gwctl policy what-if`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Service
    service: ServiceName,
    /// What would be otherwise, e.g. breaker.consecutive_failure_count=3
    #[arg(required = true, value_name = "SETTING=VALUE")]
    settings: Vec<Assignment>,
}

pub(super) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    let mut policy = v1::Policy::default();
    for setting in &args.settings {
        if !setting.field.path().starts_with("breaker.") {
            let why = format!("{} is no rule of a breaker: only those can be replayed", setting.field.path());
            return Err(Error::new(Exit::Usage, why));
        }
        setting.write(&mut policy);
    }
    let request = WhatIfRequest { service: args.service.to_string(), breaker: policy.breaker };
    let told = control.what_if(request).await?;
    match output.format {
        Format::Json => output.message(&told),
        Format::Name => output.data(
            told.replicas
                .iter()
                .map(|row| format!("{}/{}\n", told.service, row.replica_id))
                .collect::<String>(),
        ),
        Format::Table | Format::Wide => output.data(render(&told, SystemTime::now())),
    }
}

fn render(told: &WhatIfResponse, now: SystemTime) -> String {
    let mut text = format!("{}\n", printable(&told.summary));
    let outcomes = told.now.unwrap_or_default().outcome_count;
    if outcomes > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "rests on {outcomes} outcomes of {} on {}, {} to {} ago",
            counted(told.replica_count, "replica"),
            counted(told.node_count, "data plane"),
            age::since(now, told.earliest_time),
            age::since(now, told.latest_time)
        );
    }
    for (ids, what) in [
        (&told.unrecording_node_ids, "records no outcomes"),
        (&told.missing_node_ids, "did not answer in time"),
    ] {
        for id in ids {
            let _ = writeln!(text, "{} {what}", printable(id));
        }
    }
    let mut table =
        Table::new(["REPLICA", "OPENED", "NOW", "ERRORS SAVED", "NOW", "GOOD SHED", "NOW", "OUTCOMES"]);
    for row in told.replicas.iter().take(MAX_LINES) {
        let (now, then) = (row.now.unwrap_or_default(), row.then.unwrap_or_default());
        let saved = |replay: Replay| format!("{} of {}", replay.shed_failure_count, replay.failure_count);
        table.push(vec![
            (&row.replica_id).into(),
            then.trip_count.to_string().into(),
            now.trip_count.to_string().into(),
            saved(then).into(),
            now.shed_failure_count.to_string().into(),
            then.shed_success_count.to_string().into(),
            now.shed_success_count.to_string().into(),
            then.outcome_count.to_string().into(),
        ]);
    }
    if !table.is_empty() {
        let _ = write!(text, "\n{table}");
        text.push_str("\nNot known\n");
        for limit in &told.limits {
            let _ = writeln!(text, "  {}", printable(limit));
        }
    }
    text
}

/// `1 replica`, `2 replicas`.
fn counted(count: i32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use gateway_proto::time::timestamp;

    use super::*;

    #[test]
    fn the_answer_says_on_what_it_rests_and_what_it_cannot_know() {
        let replay = |trips, shed_failures| Replay {
            trip_count: trips,
            shed_failure_count: shed_failures,
            outcome_count: 1000,
            failure_count: 200,
            ..Default::default()
        };
        let at = |seconds| Some(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)));
        let told = WhatIfResponse {
            service: "orders".into(),
            summary: "would have opened 3 times (now: 0)".into(),
            now: Some(replay(0, 0)),
            then: Some(replay(3, 150)),
            replicas: vec![v1::ReplicaReplay {
                replica_id: "r-1".into(),
                now: Some(replay(0, 0)),
                then: Some(replay(3, 150)),
            }],
            replica_count: 1,
            node_count: 1,
            earliest_time: at(900),
            latest_time: at(990),
            missing_node_ids: vec!["dp-2".into()],
            limits: vec!["how it would have fared".into()],
            ..Default::default()
        };
        assert_eq!(
            anstream::adapter::strip_str(&render(&told, UNIX_EPOCH + Duration::from_secs(1000))).to_string(),
            "\
would have opened 3 times (now: 0)
rests on 1000 outcomes of 1 replica on 1 data plane, 1m to 10s ago
dp-2 did not answer in time

REPLICA   OPENED   NOW   ERRORS SAVED   NOW   GOOD SHED   NOW   OUTCOMES
r-1       3        0     150 of 200     0     0           0     1000

Not known
  how it would have fared
"
        );
    }
}
