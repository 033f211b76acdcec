//! An event, described: all that was noted of it, which lists have no room for.

use std::time::SystemTime;

use gateway_proto::{time::system_time, v1::Event};

use super::{page::Page, steps};
use crate::{
    age::{self, or_none},
    commands::events::actor,
    control::{Control, Scope},
    error::{Error, Exit},
    output::{Format, Output},
    table::Table,
};

/// How far back it is looked for.
const LOOKED_AT: usize = 100_000;

pub(super) async fn run(id: &str, control: &Control, output: &Output) -> Result<(), Error> {
    let events = control.events(&Scope::default(), "", LOOKED_AT).await?.events;
    let Some(event) = events.iter().find(|event| event.event_id == id) else {
        return Err(Error::new(Exit::NotFound, format!("the control plane has no event \"{id}\" any more"))
            .because("one that happens again goes on under the number of its last repetition")
            .hint("gwctl events -o name"));
    };
    match output.format {
        Format::Json => output.message(event),
        Format::Name => output.data(format_args!("{id}\n")),
        _ => output.data(render(event, SystemTime::now())),
    }
}

fn render(event: &Event, now: SystemTime) -> String {
    let when = |at: Option<prost_types::Timestamp>| {
        let full = at.map(|at| humantime::format_rfc3339_millis(system_time(at)).to_string());
        format!("{}   {} ago", or_none(full.as_deref().unwrap_or_default()), age::since(now, at))
    };
    let severity = event.severity().as_str_name().trim_start_matches("EVENT_SEVERITY_").to_lowercase();
    let mut facts = vec![
        ("Event", event.event_id.clone()),
        ("Type", format!("{}   {severity}", event.event_type)),
        ("Time", when(event.event_time)),
    ];
    if event.repeat_count > 0 {
        let times = i64::from(event.repeat_count) + 1;
        facts.push(("Repeated", format!("{times} times since {}", when(event.first_time))));
    }
    for (name, value) in [
        ("Service", &event.service),
        ("Replica", &event.replica_id),
        ("Data plane", &event.node_id),
        ("Noted by", &event.control_plane),
    ] {
        if !value.is_empty() {
            facts.push((name, value.clone()));
        }
    }
    facts.extend([("By", actor(event).to_owned()), ("Message", event.message.clone())]);
    let mut page = Page::of(facts);
    let mut details: Vec<_> = event.metadata.iter().collect();
    details.sort();
    let mut table = Table::new(["NAME", "VALUE"]).with_headings(false);
    details.into_iter().for_each(|(name, value)| table.push(vec![name.into(), value.into()]));
    page.section_if_any("Details", table);
    let Event { service, replica_id: replica, .. } = event;
    let next = match (service.is_empty(), replica.is_empty()) {
        (false, false) => steps([
            (format!("gwctl describe replica {service}/{replica}"), "how it is now"),
            (format!("gwctl events --replica {service}/{replica}"), "what else happened to it"),
        ]),
        (false, true) => steps([
            (format!("gwctl describe service {service}"), "how it is now"),
            (format!("gwctl events --service {service}"), "what else happened to it"),
        ]),
        (true, _) => Table::new(["COMMAND", "WHY"]),
    };
    page.ending(&[], next)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{time::timestamp, v1::EventSeverity};

    use super::*;

    #[test]
    fn it_shows_the_numbers_behind_the_sentence_and_where_to_look_next() {
        let at = |seconds| Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        let event = Event {
            event_id: "42".into(),
            event_time: at(984),
            first_time: at(900),
            repeat_count: 2,
            severity: EventSeverity::Warning.into(),
            event_type: "BREAKER_OPENED".into(),
            service: "orders".into(),
            replica_id: "r-1".into(),
            node_id: "dp-1".into(),
            message: "breaker opened: connect refused".into(),
            metadata: [("to", "OPEN"), ("from", "CLOSED")].map(|(k, v)| (k.into(), v.into())).into(),
            ..Default::default()
        };
        let text = render(&event, SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        assert_eq!(
            anstream::adapter::strip_str(&text).to_string(),
            "\
Event         42
Type          BREAKER_OPENED   warning
Time          1970-01-01T00:16:24.000Z   16s ago
Repeated      3 times since 1970-01-01T00:15:00.000Z   1m ago
Service       orders
Replica       r-1
Data plane    dp-1
By            dp-1
Message       breaker opened: connect refused

Details
  from   CLOSED
  to     OPEN

Next
  gwctl describe replica orders/r-1   how it is now
  gwctl events --replica orders/r-1   what else happened to it
"
        );
    }
}
