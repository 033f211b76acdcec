//! An override, described: what an operator decided, on which breakers it holds, and what became of it.

use std::time::SystemTime;

use gateway_proto::{
    json::to_json,
    nearest::nearest,
    v1::{Breaker, Event, OverrideEntry},
};
use serde_json::json;

use super::{EVENT_LIMIT, NO_EVENTS, events_table, jsons, page::Page, replica::breaker_table, steps};
use crate::{
    age::{self, or_none},
    commands::get::override_subject,
    control::{Control, Scope, quoted},
    error::{Error, Exit},
    output::{Format, Output},
    partial::or_without,
};

/// What is known of an override.
#[derive(Debug, Clone, Default)]
struct About {
    entry: OverrideEntry,
    /// Those that it holds, on each data plane.
    breakers: Vec<Breaker>,
    events: Vec<Event>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

pub(super) async fn run(id: &str, control: &Control, output: &Output) -> Result<(), Error> {
    let entries = control.overrides("").await?.overrides;
    let Some(entry) = entries.iter().find(|entry| entry.override_id == id).cloned() else {
        return Err(unknown(id, &entries));
    };
    if output.format == Format::Name {
        return output.data(format_args!("{}\n", entry.override_id));
    }
    let mut missing = Vec::new();
    let scope = Scope { service: entry.service.clone(), ..Scope::default() };
    let breakers = or_without(control.breakers(&scope, true).await, "breakers", &mut missing).breakers;
    let holds = |row: &Breaker| row.active_override.as_ref().is_some_and(|active| active.override_id == id);
    let filter = format!("metadata.override_id = {}", quoted(id));
    let events = control.events(&scope, &filter, EVENT_LIMIT).await;
    let events = or_without(events, "events", &mut missing).events;
    let about = About { entry, breakers: breakers.into_iter().filter(holds).collect(), events, missing };
    match output.format {
        Format::Json => output.value(&about.to_json()),
        _ => output.data(render(&about, SystemTime::now())),
    }
}

fn unknown(id: &str, entries: &[OverrideEntry]) -> Error {
    let mut error = Error::new(Exit::NotFound, format!("there is no override \"{id}\" now"))
        .because("each ends by itself, and what became of it is among the events");
    let meant = nearest(id, entries.iter().map(|entry| entry.override_id.as_str()));
    error.hints.extend(meant.map(|id| format!("did you mean \"{id}\"?")));
    error.hint("gwctl get overrides -o wide")
}

impl About {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "override": to_json(&self.entry),
            "breakers": jsons(&self.breakers),
            "events": jsons(&self.events),
            "notShown": self.missing,
        })
    }
}

fn render(about: &About, now: SystemTime) -> String {
    let About { entry, .. } = about;
    let mut facts = vec![
        ("Override", entry.override_id.clone()),
        ("What", override_subject(entry)),
        (
            "Ends",
            format!("in {}, at {}", age::until(now, entry.expire_time), age::time_of_day(entry.expire_time)),
        ),
        ("Decided", format!("{} ago by {}", age::since(now, entry.create_time), or_none(&entry.author))),
        ("Reason", or_none(&entry.reason).to_owned()),
    ];
    if !entry.address.is_empty() {
        facts.push(("Address", entry.address.clone()));
    }
    let mut page = Page::of(facts);
    page.section_if_any("Breakers that it holds", breaker_table(&about.breakers, now));
    page.section("Events, newest first", events_table(about.events.iter(), now), NO_EVENTS);
    let id = &entry.override_id;
    let next = steps([
        (format!("gwctl end-override {id}"), "hand it back to the rules now"),
        (format!("gwctl get overrides {}", entry.service), "what else is decided for the service"),
    ]);
    page.ending(&about.missing, next)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{time::timestamp, v1::OverrideKind};

    use super::*;

    fn entry() -> OverrideEntry {
        let at = |seconds| Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        OverrideEntry {
            override_id: "breaker/orders/r-1".into(),
            service: "orders".into(),
            replica_id: "r-1".into(),
            kind: OverrideKind::BreakerOpen.into(),
            create_time: at(99_760),
            expire_time: at(100_660),
            author: "ana".into(),
            reason: "bad deploy".into(),
            ..Default::default()
        }
    }

    #[test]
    fn it_says_what_was_decided_by_whom_why_and_until_when() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let text = render(&About { entry: entry(), ..About::default() }, now);
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "\
Override      breaker/orders/r-1
What          orders/r-1: breaker OPEN
Ends          in 11m, at 03:57:40Z
Decided       4m ago by ana
Reason        bad deploy

Events, newest first
  none since the control plane started

Next
  gwctl end-override breaker/orders/r-1   hand it back to the rules now
  gwctl get overrides orders              what else is decided for the service
"
        );
    }

    #[test]
    fn a_typing_mistake_finds_the_one_that_was_meant() {
        let error = unknown("breaker/orders/r1", &[entry()]);
        assert_eq!(error.exit, Exit::NotFound);
        assert_eq!(error.hints[0], "did you mean \"breaker/orders/r-1\"?");
    }
}
