//! Faults that are injected on purpose, described: what, until when, by whom and why, and how to end it.

use std::time::SystemTime;

use gateway_proto::{
    json::to_json,
    policy::FaultInjection,
    time::timestamp,
    v1::{Event, Policy},
};
use serde_json::json;

use super::{EVENT_LIMIT, NO_EVENTS, events_table, jsons, page::Page, steps};
use crate::{
    age::{self, or_none},
    commands::{get::in_force, policy::Scope},
    control::{self, Control},
    error::{Error, Exit},
    output::{Format, Output},
    partial::or_without,
};

pub(super) async fn run(scope: &Scope, control: &Control, output: &Output) -> Result<(), Error> {
    let policies = control.policies().await?.policies;
    let now = SystemTime::now();
    let Some((policy, fault)) = in_force(&policies, now).find(|(policy, _)| policy.service == scope.as_str())
    else {
        let mut error = Error::new(Exit::NotFound, format!("no faults are injected for \"{scope}\""));
        if let Scope::Service(name) = scope {
            error.details.extend(control.doubt_about(name.as_str()).await);
        }
        return Err(error.hint("gwctl get faults"));
    };
    let mut missing = Vec::new();
    let of = match scope {
        Scope::All => control::Scope::default(),
        Scope::Service(name) => control::Scope::from(Some(name)),
    };
    let filter = "event_type = FAULT_INJECTION_*";
    let events = or_without(control.events(&of, filter, EVENT_LIMIT).await, "events", &mut missing).events;
    match output.format {
        Format::Name => output.data(format_args!("{scope}\n")),
        Format::Json => {
            output.value(&json!({"policy": to_json(policy), "events": jsons(&events), "notShown": missing}))
        }
        _ => output.data(render(scope, (policy, &fault), &events, &missing, now)),
    }
}

fn render(
    scope: &Scope,
    (policy, fault): (&Policy, &FaultInjection),
    events: &[Event],
    missing: &[String],
    now: SystemTime,
) -> String {
    let origin = policy.fault_origin.clone().unwrap_or_default();
    let end = Some(timestamp(fault.end_time.0));
    let whom = match scope {
        Scope::All => "every service that injects none of its own".to_owned(),
        Scope::Service(name) => name.to_string(),
    };
    let mut page = Page::of([
        ("Faults", fault.to_string()),
        ("For", whom),
        ("Ends", format!("in {}, at {}", age::until(now, end), age::time_of_day(end))),
        ("Set", format!("{} ago by {}", age::since(now, origin.create_time), or_none(&origin.author))),
        ("Reason", or_none(&origin.reason).to_owned()),
    ]);
    page.section("Events, newest first", events_table(events.iter(), now), NO_EVENTS);
    let next = steps([(format!("gwctl fault clear {}", scope.quoted()), "end that now")]);
    page.ending(missing, next)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{
        time::duration,
        v1::{FaultOrigin, FaultPolicy},
    };

    use super::*;

    #[test]
    fn it_says_what_is_injected_for_whom_until_when_by_whom_and_why() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let policy = Policy {
            service: "*".into(),
            fault: Some(FaultPolicy {
                delay: Some(duration(Duration::from_millis(200))),
                delay_ratio: Some(0.1),
                end_time: Some(timestamp(now + Duration::from_secs(660))),
                ..Default::default()
            }),
            fault_origin: Some(FaultOrigin {
                author: "ana".into(),
                reason: "game day".into(),
                create_time: Some(timestamp(now - Duration::from_secs(240))),
            }),
            ..Default::default()
        };
        let policies = [policy];
        let (policy, fault) = in_force(&policies, now).next().unwrap();
        let text = render(&Scope::All, (policy, &fault), &[], &[], now);
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "\
Faults        delay 200ms of 0.1
For           every service that injects none of its own
Ends          in 11m, at 03:57:40Z
Set           4m ago by ana
Reason        game day

Events, newest first
  none since the control plane started

Next
  gwctl fault clear '*'   end that now
"
        );
    }
}
