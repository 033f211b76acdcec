//! `gwctl events`: what happened, oldest first, and with `-w` what happens.

use std::time::SystemTime;

use gateway_proto::{
    ReplicaKey, ServiceName,
    json::to_json,
    time::system_time,
    v1::{Event, EventSeverity, WatchEventsRequest, WatchEventsResponse},
};
use prost_types::Timestamp;

use crate::{
    age::{self, NONE},
    control::{Control, Scope},
    error::{Error, Exit},
    interruption::Interruption,
    output::{Document, Format, Listing, Output, Shown},
    table::{ALARM, CAUTION, Cell, Table},
};

/// Flags of `gwctl events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those of this service
    #[arg(long, value_name = "SERVICE")]
    service: Option<ServiceName>,
    /// Only those of this replica, by its whole id; it need not exist any more
    #[arg(long, value_name = "SERVICE/REPLICA", conflicts_with = "service", value_parser = parse_key)]
    replica: Option<ReplicaKey>,
    /// Only those for which this holds, e.g. 'severity >= WARNING AND actor = "ana"'
    #[arg(long, default_value = "", value_name = "EXPRESSION", hide_default_value = true)]
    filter: String,
    /// List the newest N events, 1..=100000
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

fn parse_key(text: &str) -> Result<ReplicaKey, String> {
    let (service, replica) = text.split_once('/').ok_or("is written SERVICE/REPLICA")?;
    ReplicaKey::parse(service, replica).map_err(|invalid| invalid.to_string())
}

/// Lists, and watches until stdout closes.
///
/// # Errors
/// What the control plane refuses; a watch that breaks is opened again instead, from the last event it printed.
pub(crate) async fn run(args: Args, shown: &Shown, control: &Control, output: &Output) -> Result<(), Error> {
    let scope = match &args.replica {
        Some(key) => Scope::from(key),
        None => Scope::from(args.service.as_ref()),
    };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut response = control.events(&scope, &args.filter, limit).await?;
    if response.events.is_empty() {
        output.note(match args.filter.as_str() {
            "" => "no events: nothing has happened here since the control plane started",
            _ => "no event that the control plane still has passes the filter",
        });
        if let Some(doubt) = control.doubt_about(&scope.service).await.filter(|_| !scope.service.is_empty()) {
            output.note(doubt);
        }
    }
    if shown.watch.is_some() {
        response.events.reverse();
        output.data(lines(&response.events, output, output.headings))?;
        let headings = output.headings && response.events.is_empty();
        let after = response.events.last().map(|event| event.event_id.clone()).unwrap_or_default();
        return output.while_read(watch((scope, args.filter), after, headings, control, output)).await;
    }
    // Newest first over the wire, and for programs; people read downwards.
    if output.format != Format::Json {
        response.events.reverse();
    }
    let rows = table(response.events.iter(), When::Ago(SystemTime::now()));
    let names = response.events.iter().map(|event| event.event_id.clone());
    output.listing(Listing::new(&response, "events", names, Some(rows)), shown)
}

/// Prints events as they come, the first ones under `headings`.
async fn watch(
    (scope, filter): (Scope, String),
    mut after: String,
    mut headings: bool,
    control: &Control,
    output: &Output,
) -> Result<(), Error> {
    let mut interruption = Interruption::none();
    let mut last = None;
    loop {
        let Scope { service, replica_id } = scope.clone();
        let request =
            WatchEventsRequest { service, replica_id, after_event_id: after.clone(), filter: filter.clone() };
        let broken = match control.watch_events(request).await {
            Ok(mut stream) => {
                let mut backlog = Backlog::after(last);
                loop {
                    match stream.message().await {
                        Ok(Some(mut response)) => {
                            interruption.over(output);
                            backlog.pass(&mut response);
                            control.tell_of(&response.silent_control_planes);
                            if response.gap {
                                output.note("some events are lost: the control plane no longer holds them");
                            }
                            output.data(lines(&response.events, output, headings))?;
                            if let Some(last) = response.events.last() {
                                headings = false;
                                after.clone_from(&last.event_id);
                            }
                            last = response
                                .events
                                .iter()
                                .filter_map(|event| event.event_time)
                                .chain(last)
                                .max_by_key(order);
                        }
                        Ok(None) => break "the control plane ended it".to_owned(),
                        Err(status) => break status.message().to_owned(),
                    }
                }
            }
            Err(error) if error.exit == Exit::Unreachable => error.headline,
            Err(error) => return Err(error),
        };
        interruption.wait(&broken, output).await;
    }
}

/// What a watch that goes on at another control plane begins with: numbers of events are each control plane's own, so that it
/// begins with all that it has.
#[derive(Debug)]
struct Backlog {
    /// When the last event was that was shown; `None`: there is nothing to pass over.
    shown_until: Option<Timestamp>,
    has_begun: bool,
}

impl Backlog {
    fn after(shown_until: Option<Timestamp>) -> Self {
        Self { shown_until, has_begun: false }
    }

    /// Takes out what has been shown before. A message with fewer events than one can have is the last one of the backlog.
    fn pass(&mut self, response: &mut WatchEventsResponse) {
        const FULL: usize = 256;
        let Some(shown_until) = self.shown_until else { return };
        let count = response.events.len();
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first && !response.gap {
            // It goes on where it was.
            self.shown_until = None;
            return;
        }
        response.events.retain(|event| event.event_time.is_none_or(|at| order(&at) > order(&shown_until)));
        if is_first {
            // What is older was there, so nothing between is missing.
            response.gap = response.events.len() == count;
        }
        if count < FULL {
            self.shown_until = None;
        }
    }
}

fn order(at: &Timestamp) -> (i64, i32) {
    (at.seconds, at.nanos)
}

/// Events in the order given, one line each: a table row, a JSON object, or an id.
fn lines(events: &[Event], output: &Output, headings: bool) -> String {
    match output.format {
        Format::Json => match &output.document {
            Document::Path(path) => events.iter().map(|event| path.lines(&to_json(event))).collect(),
            _ => events
                .iter()
                .map(|event| format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", to_json(event)))
                .collect(),
        },
        Format::Name => ids(events.iter()),
        Format::Table | Format::Wide => {
            let table = table(events.iter(), When::TimeOfDay).with_headings(headings);
            if output.csv { table.to_csv() } else { table.to_string() }
        }
    }
}

fn ids<'a>(events: impl Iterator<Item = &'a Event>) -> String {
    events.map(|event| format!("{}\n", event.event_id)).collect()
}

/// How a table writes the time of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    /// `16s ago`, seen from here.
    Ago(SystemTime),
    /// `14:02:11.304Z`: lines that stay on the screen cannot say "ago".
    TimeOfDay,
}

/// Events in the order given.
pub(crate) fn table<'a>(events: impl Iterator<Item = &'a Event>, when: When) -> Table {
    let mut table = Table::new(["TIME", "SEV", "TYPE", "SUBJECT", "BY", "DETAIL"]);
    for event in events {
        let time = event.event_time.map_or_else(
            || NONE.to_owned(),
            |at| match when {
                When::Ago(now) => format!("{} ago", age::short(age::elapsed(now, at))),
                When::TimeOfDay => time_of_day(system_time(at)),
            },
        );
        table.push(vec![
            time.into(),
            severity(event),
            (&event.event_type).into(),
            subject(event).into(),
            actor(event).into(),
            detail(event).into(),
        ]);
    }
    table
}

/// UTC to the millisecond, like the logs.
fn time_of_day(at: SystemTime) -> String {
    let full = humantime::format_rfc3339_millis(at).to_string();
    full.split_once('T').map_or(full.clone(), |(_, time)| time.to_owned())
}

fn severity(event: &Event) -> Cell {
    match event.severity() {
        EventSeverity::Error => Cell::styled("error", ALARM),
        EventSeverity::Warning => Cell::styled("warn", CAUTION),
        EventSeverity::Info | EventSeverity::Unspecified => "info".into(),
    }
}

/// Who did it: somebody by name, a data plane, or the registry itself.
pub(super) fn actor(event: &Event) -> &str {
    let named = [&event.actor, &event.node_id].into_iter().find(|name| !name.is_empty());
    named.map_or("registry", String::as_str)
}

/// What happened, and how often in a row: `probe failed (x4)`.
fn detail(event: &Event) -> String {
    match event.repeat_count {
        ..=0 => event.message.clone(),
        repeats => format!("{} (x{})", event.message, i64::from(repeats) + 1),
    }
}

/// What it happened to: a replica, a service, all services, or the data plane itself.
fn subject(event: &Event) -> String {
    match (event.service.as_str(), event.replica_id.as_str()) {
        ("", "") if event.event_type.starts_with("POLICY_") => "*".into(),
        ("", "") if event.node_id.is_empty() => NONE.into(),
        ("", "") => event.node_id.clone(),
        (service, "") => service.into(),
        (service, replica) => format!("{service}/{replica}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::time::timestamp;

    use super::*;

    #[test]
    fn what_another_control_plane_tells_again_is_shown_once() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let events = |times: std::ops::Range<i64>, gap| WatchEventsResponse {
            events: times.map(|time| Event { event_time: at(time), ..Default::default() }).collect(),
            gap,
            ..Default::default()
        };
        let times = |response: &WatchEventsResponse| {
            response.events.iter().map(|event| event.event_time.unwrap().seconds).collect::<Vec<_>>()
        };
        let mut backlog = Backlog::after(at(7));
        let mut first = events(5..10, true);
        backlog.pass(&mut first);
        assert_eq!((times(&first), first.gap), (vec![8, 9], false));
        let mut late = events(6..7, false);
        backlog.pass(&mut late);
        assert_eq!(times(&late), [6], "it came after that");
        // The same control plane goes on where it was, and one that has only newer ones has lost some.
        let mut same = events(8..9, false);
        Backlog::after(at(7)).pass(&mut same);
        let mut lost = events(20..22, true);
        Backlog::after(at(7)).pass(&mut lost);
        assert_eq!((times(&same), times(&lost), lost.gap), (vec![8], vec![20, 21], true));
    }

    fn event(kind: &str, severity: EventSeverity, node: &str, replica: &str, message: &str) -> Event {
        Event {
            event_id: "7".into(),
            event_time: Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(50_531_304))),
            severity: severity.into(),
            event_type: kind.into(),
            service: if replica.is_empty() { String::new() } else { "orders".into() },
            replica_id: replica.into(),
            node_id: node.into(),
            message: message.into(),
            ..Default::default()
        }
    }

    fn events() -> [Event; 3] {
        [
            event("REPLICA_REGISTERED", EventSeverity::Info, "", "r-1", "at 10.0.0.1:80"),
            Event {
                repeat_count: 3,
                ..event(
                    "BREAKER_OPENED",
                    EventSeverity::Warning,
                    "dp-1",
                    "r-1",
                    "consecutive_failures 5 >= 5",
                )
            },
            event("NODE_DISCONNECTED", EventSeverity::Error, "dp-1", "", "stream \x1b[2Jended"),
        ]
    }

    #[test]
    fn a_row_says_what_happened_to_whom_and_who_saw_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(50_547);
        let plain =
            anstream::adapter::strip_str(&table(events().iter(), When::Ago(now)).to_string()).to_string();
        assert_eq!(
            plain,
            "\
TIME      SEV     TYPE                 SUBJECT      BY         DETAIL
15s ago   info    REPLICA_REGISTERED   orders/r-1   registry   at 10.0.0.1:80
15s ago   warn    BREAKER_OPENED       orders/r-1   dp-1       consecutive_failures 5 >= 5 (x4)
15s ago   error   NODE_DISCONNECTED    dp-1         dp-1       stream \\u{1b}[2Jended
"
        );
    }

    #[test]
    fn a_policy_of_no_service_is_that_of_all() {
        let updated = event("POLICY_UPDATED", EventSeverity::Info, "", "", "policy updated");
        assert_eq!(subject(&updated), "*");
    }

    #[test]
    fn what_somebody_did_is_said_to_be_by_him() {
        for (named, node, shown) in [("ana", "", "ana"), ("", "dp-1", "dp-1"), ("", "", "registry")] {
            let event = Event { actor: named.into(), node_id: node.into(), ..Default::default() };
            assert_eq!(actor(&event), shown);
        }
    }

    #[test]
    fn watched_lines_carry_the_time_of_day() {
        let output = Output::plain(Format::Table);
        let plain = anstream::adapter::strip_str(&lines(&events()[..1], &output, false)).to_string();
        assert_eq!(
            plain,
            "14:02:11.304Z   info   REPLICA_REGISTERED   orders/r-1   registry   at 10.0.0.1:80\n"
        );
    }

    #[test]
    fn watched_json_is_one_object_a_line() {
        let output = Output::plain(Format::Json);
        let text = lines(&events(), &output, true);
        let kinds: Vec<serde_json::Value> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["object"]["eventType"].clone()
            })
            .collect();
        assert_eq!(kinds, ["REPLICA_REGISTERED", "BREAKER_OPENED", "NODE_DISCONNECTED"]);
    }
}
