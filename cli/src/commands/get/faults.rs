//! `gwctl get faults`: what is injected into requests on purpose, until when, by whom and why.

use std::time::SystemTime;

use gateway_proto::{
    policy::{FaultInjection, Partial},
    time::timestamp,
    v1::{FaultOrigin, ListPoliciesResponse, Policy},
};

use super::View;
use crate::{
    age::{self, or_none},
    control::Control,
    error::Error,
    output::Listing,
    table::{CAUTION, Cell, Table},
};

pub(super) async fn list(control: &Control, view: View) -> Result<Listing, Error> {
    let now = SystemTime::now();
    let response = control.policies().await?;
    let policies: Vec<_> = in_force(&response.policies, now).map(|(policy, _)| policy.clone()).collect();
    let table = view.with_rows.then(|| table(&policies, now));
    let names: Vec<_> = policies.iter().map(|policy| policy.service.clone()).collect();
    let empty = policies.is_empty().then(|| "no faults are injected".to_owned());
    let response = ListPoliciesResponse { policies, ..response };
    Ok(Listing::new(&response, "policies", names, table).with_notes(empty))
}

/// Policies that inject faults now, with those.
pub(crate) fn in_force(
    policies: &[Policy],
    now: SystemTime,
) -> impl Iterator<Item = (&Policy, FaultInjection)> {
    policies.iter().filter_map(move |policy| {
        let fault = Partial::parse(policy).ok()?.fault()?;
        fault.is_in_force(now).then_some((policy, fault))
    })
}

/// Who injects it, for how long still, and why: `ana, 11m left: "game day"`.
pub(crate) fn fault_terms(policy: &Policy, fault: &FaultInjection, now: SystemTime) -> String {
    let origin = policy.fault_origin.clone().unwrap_or_default();
    let author = if origin.author.is_empty() { "somebody" } else { &origin.author };
    let terms = format!("{author}, {} left", age::until(now, Some(timestamp(fault.end_time.0))));
    if origin.reason.is_empty() { terms } else { format!("{terms}: \"{}\"", origin.reason) }
}

fn table(policies: &[Policy], now: SystemTime) -> Table {
    let mut table = Table::new(vec!["SERVICE", "FAULTS", "LEFT", "UNTIL", "AGE", "BY", "REASON"]);
    for (policy, fault) in in_force(policies, now) {
        let end = Some(timestamp(fault.end_time.0));
        let FaultOrigin { author, reason, create_time } = policy.fault_origin.clone().unwrap_or_default();
        table.push(vec![
            (&policy.service).into(),
            Cell::styled(&fault.to_string(), CAUTION),
            age::until(now, end).into(),
            age::time_of_day(end).into(),
            age::since(now, create_time).into(),
            or_none(&author).into(),
            or_none(&reason).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{time::duration, v1::FaultPolicy};

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(100_000)
    }

    fn policy(service: &str, ratio: f64, left: i64) -> Policy {
        let mut end = timestamp(now());
        end.seconds += left;
        let fault = FaultPolicy {
            delay: Some(duration(Duration::from_millis(200))),
            delay_ratio: Some(ratio),
            abort_ratio: Some(0.05),
            header: Some("x-chaos=1".into()),
            end_time: Some(end),
            ..Default::default()
        };
        let origin = FaultOrigin {
            author: "ana".into(),
            reason: "game day".into(),
            create_time: Some(timestamp(now() - Duration::from_secs(240))),
        };
        Policy {
            service: service.into(),
            fault: Some(fault),
            fault_origin: Some(origin),
            updated_by: "ben".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_row_says_what_is_injected_until_when_by_whom_and_why() {
        let policies = [policy("*", 0.1, 660), policy("orders", 0.1, 0), Policy::default()];
        let text = table(&policies, now()).to_string();
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "\
SERVICE   FAULTS                                                  LEFT   UNTIL       AGE   BY    REASON
*         delay 200ms of 0.1, abort 503 of 0.05, with x-chaos=1   11m    03:57:40Z   4m    ana   game day
"
        );
    }

    #[test]
    fn a_fault_is_told_with_who_injects_it_and_not_with_who_changed_the_policy_last() {
        let policy = policy("orders", 0.1, 660);
        let policies = [policy];
        let (policy, fault) = in_force(&policies, now()).next().unwrap();
        assert_eq!(fault_terms(policy, &fault, now()), "ana, 11m left: \"game day\"");
    }
}
