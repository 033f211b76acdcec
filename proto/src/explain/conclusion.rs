//! What follows from the registry's word and those of data planes: a verdict, who is to blame, one sentence.

use super::{
    Explanation,
    span::{ago, data_planes, left, listed, said},
    standing::{
        Registered, Waiting, although_it_fails, enough_outcomes, reason, since as since_when, why_regardless,
    },
};
use crate::v1::{self, Conclusion, ReplicaVerdict as Verdict};

pub(super) fn conclude(all: &Explanation) -> (Verdict, Conclusion, String) {
    if let Some(removed) = all.facts.removed.as_ref().filter(|_| all.counts.holding == 0) {
        return gone(all, removed);
    }
    if let Some(held_back) = held_back(all) {
        return held_back;
    }
    let counts = &all.counts;
    let spoken = counts.asking + counts.out + counts.standing_by;
    if spoken == 0 {
        return nobody(all);
    }
    let told = told(all);
    if counts.out == 0 {
        return match counts.asking {
            0 => (
                Verdict::StandsBy,
                Conclusion::Tier,
                format!("stands by: {}{told}", Waiting::of(&all.facts).why),
            ),
            _ => {
                let (conclusion, summary) = asked(all);
                let is_seen = all.holding_unseen < counts.asking;
                let verdict = if is_seen { Verdict::TakesRequests } else { Verdict::Unknown };
                (verdict, conclusion, summary + &told)
            }
        };
    }
    let verdict = if counts.asking + counts.standing_by == 0 { Verdict::Out } else { Verdict::PartlyOut };
    let (conclusion, why) = blame(all);
    (verdict, conclusion, format!("{}: {why}{told}", out_where(all, spoken)))
}

/// How it went, as far as that is known.
fn removal(all: &Explanation, removed: &v1::RemovedReplica) -> String {
    let ago = ago(all.facts.now, removed.remove_time).map(|ago| format!(" {ago} ago")).unwrap_or_default();
    format!("removed{ago}: {}", removed.cause)
}

fn gone(all: &Explanation, removed: &v1::RemovedReplica) -> (Verdict, Conclusion, String) {
    let conclusion = match removed.lease_lapsed {
        true => Conclusion::Lease,
        false if removed.by_owner => Conclusion::Owner,
        false => Conclusion::Operator,
    };
    (Verdict::Removed, conclusion, removal(all, removed))
}

/// Why the registry lets nobody ask it, if so.
fn held_back(all: &Explanation) -> Option<(Verdict, Conclusion, String)> {
    let replica = all.facts.replica.as_ref()?;
    let now = all.facts.now;
    let since = ago(now, replica.state_change_time).map(|ago| format!(" since {ago}")).unwrap_or_default();
    let reported = said("", None, &replica.state_reason);
    let (conclusion, summary) = match all.registered {
        Registered::Serving | Registered::Lost | Registered::Not => return None,
        Registered::Draining { by_owner } => {
            let drain = replica.drain.clone().unwrap_or_default();
            let word = match replica.mode() {
                v1::ReplicaMode::Drained => "drained",
                _ => "draining",
            };
            let since = ago(now, drain.begin_time).map(|ago| format!(" since {ago}")).unwrap_or_default();
            let by = if by_owner && drain.author.is_empty() { "its owner" } else { &drain.author };
            let conclusion = if by_owner { Conclusion::Owner } else { Conclusion::Operator };
            (conclusion, format!("out everywhere{since}: {word}{}", said(by, None, &drain.reason)))
        }
        Registered::Starting => {
            let summary = format!("out everywhere{since}: it has not reported itself healthy yet{reported}");
            (Conclusion::Owner, summary)
        }
        Registered::Unhealthy => {
            (Conclusion::Owner, format!("out everywhere{since}: it reported itself unhealthy{reported}"))
        }
    };
    Some((Verdict::Out, conclusion, summary))
}

/// No data plane that is heard of knows it.
fn nobody(all: &Explanation) -> (Verdict, Conclusion, String) {
    let counts = &all.counts;
    let summary = match (counts.total, counts.untold) {
        (0, _) => "nobody asks it: no data plane is connected".to_owned(),
        (_, 0) => format!("nobody can tell: {} not heard of lately", are(counts.silent)),
        (_, untold) => format!("nobody asks it yet: {} not reported it so far", have(untold)),
    };
    (Verdict::Unknown, Conclusion::NoDataPlane, summary)
}

fn are(count: i32) -> String {
    if count == 1 { "1 data plane is".into() } else { format!("{count} data planes are") }
}

fn have(count: i32) -> String {
    if count == 1 { "1 data plane has".into() } else { format!("{count} data planes have") }
}

/// What the sentence ends with when not everybody is in it.
fn told(all: &Explanation) -> String {
    let counts = &all.counts;
    let mut text = String::new();
    // Who has not heard of what the registry has no more has nothing to hear.
    if counts.untold > 0 && all.registered != Registered::Not {
        text += &format!(
            "; {} not told of it yet",
            verb(listed(&all.untold, counts.untold), counts.untold, "has", "have")
        );
    }
    if counts.silent > 0 {
        text += &format!("; {} not heard of lately", are(counts.silent));
    }
    text
}

fn verb(subject: String, count: i32, one: &str, many: &str) -> String {
    format!("{subject} {}", if count == 1 { one } else { many })
}

/// It is asked wherever it could be: whether there is more to say.
fn asked(all: &Explanation) -> (Conclusion, String) {
    let counts = &all.counts;
    let place = match counts.asking + counts.standing_by {
        1 => "on 1 data plane".to_owned(),
        asking => format!("on {asking} data planes"),
    };
    let begins = format!("takes requests {place}");
    let worst = all.speaker.as_ref().and_then(|node| node.breaker.as_ref());
    let regardless = all.worst_asks_regardless();
    if regardless {
        let row = worst.cloned().unwrap_or_default();
        let (should, why) = (reason(&row), why_regardless(&all.facts, &row));
        return (Conclusion::Policy, format!("{begins}, although it should be out ({should}): {why}"));
    }
    if all.forced_closed > 0 {
        let entry = all.concerning().find(|entry| entry.kind() == v1::OverrideKind::BreakerClosed);
        let entry = entry.cloned().unwrap_or_default();
        let terms = said(&entry.author, left(all.facts.now, entry.expire_time), &entry.reason);
        let seen = if counts.failing > 0 {
            format!(
                "; {} fail",
                verb(listed(&all.failing, counts.failing), counts.failing, "sees it", "see it")
            )
        } else {
            String::new()
        };
        return (Conclusion::Operator, format!("{begins}: forced closed{terms}{seen}"));
    }
    if counts.failing > 0 {
        let who = verb(listed(&all.failing, counts.failing), counts.failing, "sees", "see");
        let why = worst.map_or("", |row| although_it_fails(&all.facts, row));
        return (Conclusion::Policy, format!("{begins}, although {who} it fail, {why}"));
    }
    if counts.holding > 0 {
        let gone = all.facts.removed.as_ref().map(|removed| removal(all, removed));
        let gone = gone.unwrap_or_else(|| "the registry has it no more".into());
        let held = match counts.holding {
            1 => "the guard of 1 data plane holds it".to_owned(),
            holding => format!("the guards of {holding} data planes hold it"),
        };
        // A control plane keeps no breakers of what it does not have.
        let begins = match all.holding_unseen {
            0 => format!("{begins} all the same"),
            _ => "takes requests all the same, unless its breaker is open".into(),
        };
        return (Conclusion::SnapshotGuard, format!("{begins}: {gone}; {held}"));
    }
    if all.registered == Registered::Lost {
        let why =
            "its lease lapsed together with many others, so the guard holds it as LOST and breakers decide";
        return (Conclusion::Lease, format!("{begins}: {why}"));
    }
    (Conclusion::Unspecified, begins)
}

fn out_where(all: &Explanation, spoken: i32) -> String {
    let out = all.counts.out;
    let since = all.speaker.as_ref().and_then(|node| node.breaker.as_ref());
    let since = since.and_then(|row| ago(all.facts.now, since_when(row)));
    let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
    let place = match (out == spoken, spoken) {
        (true, 1) => all.speaker.as_ref().map_or_else(|| "1 data plane".into(), |node| node.node_id.clone()),
        (true, spoken) => format!("all {spoken} data planes"),
        (false, spoken) => format!("{out} of {}", data_planes(spoken)),
    };
    format!("out on {place}{since}")
}

/// Who is to blame where it is out.
fn blame(all: &Explanation) -> (Conclusion, String) {
    let counts = &all.counts;
    if all.forced_open == counts.out {
        return (Conclusion::Operator, forced(all));
    }
    let (failing, working) = (counts.failing, counts.working);
    let seen = seen(all);
    let who = verb(listed(&all.failing, failing), failing, "sees it", "see it");
    match (failing, working) {
        (0, _) => (Conclusion::Undecided, seen),
        (1, 0) => {
            let enough = enough_outcomes(&all.facts.policy);
            let others = match counts.total - counts.silent {
                1 => "there is no other data plane to compare with".to_owned(),
                _ => format!("no other data plane has had {enough} outcomes in the window"),
            };
            let why = format!(
                "{who} fail ({seen}); whether the replica or the way to it is bad, nobody can tell: {others}"
            );
            (Conclusion::Undecided, why)
        }
        (failing, 0) => (
            Conclusion::Replica,
            format!("the replica is bad: all {failing} data planes with enough traffic see it fail ({seen})"),
        ),
        (failing, working) if failing > working => {
            let total = failing + working;
            (
                Conclusion::Replica,
                format!(
                    "the replica is bad: {failing} of {total} data planes with enough traffic see it fail ({seen})"
                ),
            )
        }
        (failing, working) => {
            let others = verb(listed(&all.working, working), working, "sees it", "see it");
            let from = listed(&all.failing, failing);
            (
                Conclusion::Path,
                format!(
                    "the way from {from} to it is bad, not the replica: {who} fail ({seen}), {others} work"
                ),
            )
        }
    }
}

/// What the worst of them saw, and when it looks again.
fn seen(all: &Explanation) -> String {
    let row = all.speaker.as_ref().and_then(|node| node.breaker.clone()).unwrap_or_default();
    let next = match (row.state(), left(all.facts.now, row.retry_time)) {
        (v1::BreakerState::Open, Some(left)) if row.port_checked => {
            format!("; next probe in {left}, or when its port accepts")
        }
        (v1::BreakerState::Open, Some(left)) => format!("; next probe in {left}"),
        (v1::BreakerState::Open, None) => "; the next request is a probe".into(),
        _ => String::new(),
    };
    reason(&row) + &next
}

fn forced(all: &Explanation) -> String {
    let row = all.speaker.as_ref().and_then(|node| node.breaker.as_ref());
    let entry = row.and_then(|row| row.active_override.clone()).unwrap_or_default();
    format!("forced open{}", said(&entry.author, left(all.facts.now, entry.expire_time), &entry.reason))
}

impl Explanation {
    fn worst_asks_regardless(&self) -> bool {
        self.speaker.as_ref().is_some_and(|node| node.standing() == v1::NodeStanding::AsksRegardless)
    }
}
