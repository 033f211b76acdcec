//! Past events, page by page, and events as they happen.

use std::{borrow::Cow, sync::Arc};

use gateway_proto::{Invalid, time, v1};
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    edge::Edge,
    observe::{Cursor, Position, Scope},
    query::{Field, Filter, Read, Schema, Words},
    refusal::Refusal,
    rpc::page::Page,
    writer::WriteError,
};

/// Events in one message of a watch.
const WATCH_BATCH: usize = 256;
/// Events that are looked at while others wait to be noted.
const AT_ONCE: usize = 1000;

/// What may be asked of an event.
pub(in crate::rpc) static EVENTS: Schema<v1::Event> = Schema {
    what: "an event",
    fields: &[
        Field { name: "service", read: Read::Text(|event| Cow::Borrowed(&event.service)) },
        Field { name: "replica_id", read: Read::Text(|event| Cow::Borrowed(&event.replica_id)) },
        Field { name: "node_id", read: Read::Text(|event| Cow::Borrowed(&event.node_id)) },
        Field { name: "actor", read: Read::Text(|event| Cow::Borrowed(&event.actor)) },
        Field { name: "event_type", read: Read::Text(|event| Cow::Borrowed(&event.event_type)) },
        Field {
            name: "severity",
            read: Read::Word(
                |event| event.severity,
                Words {
                    prefix: "EVENT_SEVERITY_",
                    name: |number| Some(v1::EventSeverity::try_from(number).ok()?.as_str_name()),
                    is_ordered: true,
                },
            ),
        },
        Field { name: "message", read: Read::Text(|event| Cow::Borrowed(&event.message)) },
        Field {
            name: "metadata",
            read: Read::Entry(|event, key| Some(Cow::Borrowed(event.metadata.get(key)?))),
        },
    ],
};

/// Which events are asked for.
#[derive(Debug)]
pub(super) struct Query {
    scope: Scope,
    filter: Filter<v1::Event>,
    /// From then on, and before then.
    from: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Query {
    fn parse(
        (service, replica_id): (&str, &str),
        filter: &str,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<Self, Invalid> {
        for (field, at) in [("start_time", &from), ("end_time", &until)] {
            if at.as_ref().is_some_and(|at| !time::is_valid(at)) {
                return Err(Invalid::new(field, "is no instant in the years 1 to 9999"));
            }
        }
        if let (Some(from), Some(until)) = (&from, &until)
            && order(from) >= order(until)
        {
            return Err(Invalid::new("end_time", "is not after start_time"));
        }
        let scope = Scope::parse(service, replica_id)?;
        Ok(Self { scope, filter: Filter::parse(&EVENTS, filter)?, from, until })
    }

    fn admits(&self, event: &v1::Event) -> bool {
        let at = event.event_time.as_ref().map(order);
        self.scope.admits(event)
            && self.from.as_ref().is_none_or(|from| at >= Some(order(from)))
            && self.until.as_ref().is_none_or(|until| at < Some(order(until)))
            && self.filter.admits(event)
    }
}

fn order(at: &Timestamp) -> (i64, i32) {
    (at.seconds, at.nanos)
}

/// One page of past events, newest first.
pub(super) fn list(edge: &Edge, wire: &v1::ListEventsRequest) -> Result<v1::ListEventsResponse, Refusal> {
    let query =
        Query::parse((&wire.service, &wire.replica_id), &wire.filter, wire.start_time, wire.end_time)?;
    let span = format!("{:?} {:?}", wire.start_time, wire.end_time);
    let arguments = ["events", &wire.service, &wire.replica_id, &wire.filter, &span];
    let page = Page::parse(wire.page_size, &wire.page_token, &arguments)?;
    let mut before = page.after().map(|name| name.parse().map_err(|_| Refusal::PageToken)).transpose()?;
    let mut listed: Vec<(Position, Arc<v1::Event>)> = Vec::new();
    while listed.len() <= page.size() {
        let observation = &edge.effects.observation;
        let looked = observation.read_events(|timeline| timeline.before(&query.scope, before, AT_ONCE));
        listed.extend(looked.events.into_iter().filter(|(_, event)| query.admits(event)));
        before = looked.reached;
        if before.is_none() {
            break;
        }
    }
    let (listed, next_page_token) = page.cut(listed.into_iter(), |(position, _)| position.to_string());
    let events = listed.into_iter().map(|(_, event)| Arc::unwrap_or_clone(event)).collect();
    let silent_control_planes = edge.effects.observation.silent_control_planes();
    Ok(v1::ListEventsResponse { events, next_page_token, silent_control_planes })
}

/// Reads what a watch is to show, and from where on.
pub(super) fn begin(edge: &Edge, wire: &v1::WatchEventsRequest) -> Result<(Query, Cursor), Refusal> {
    let query = Query::parse((&wire.service, &wire.replica_id), &wire.filter, None, None)?;
    let cursor = edge.effects.observation.read_events(|timeline| match wire.after_event_id.as_str() {
        "" => Ok(Cursor::After(timeline.last())),
        id => timeline.cursor(id),
    })?;
    Ok((query, cursor))
}

/// Tells events as they happen, until the reader leaves.
///
/// # Errors
/// When the shutdown begins.
pub(super) async fn watch(
    edge: Arc<Edge>,
    query: Query,
    mut cursor: Cursor,
    outbound: mpsc::Sender<Result<v1::WatchEventsResponse, Status>>,
) -> Result<(), Status> {
    let shutting_down = || Status::from(Refusal::from(WriteError::ShuttingDown));
    let observation = &edge.effects.observation;
    let mut last = observation.follow_events();
    // Nobody need be told that none is.
    let mut silent = Vec::new();
    loop {
        let seen = *last.borrow_and_update();
        let since = observation.read_events(|timeline| timeline.since(cursor, WATCH_BATCH));
        cursor = Cursor::After(since.reached);
        let asked = since.events.into_iter().filter(|event| query.admits(event));
        let events: Vec<_> = asked.map(Arc::unwrap_or_clone).collect();
        // That a control plane falls silent is an event itself, so this is looked at in time.
        let silent_control_planes = observation.silent_control_planes();
        let addresses: Vec<_> = silent_control_planes.iter().map(|silent| silent.address.clone()).collect();
        let is_other = addresses != silent;
        silent = addresses;
        if since.gap || !events.is_empty() || is_other {
            let message = Ok(v1::WatchEventsResponse { events, gap: since.gap, silent_control_planes });
            // A slow reader holds up only itself: what it misses shows as a gap.
            tokio::select! {
                sent = outbound.send(message) => if sent.is_err() { return Ok(()) },
                () = edge.shutdown.begun() => return Err(shutting_down()),
            }
        }
        if since.reached < seen {
            continue;
        }
        tokio::select! {
            _ = last.changed() => {}
            () = outbound.closed() => return Ok(()),
            () = edge.shutdown.begun() => return Err(shutting_down()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(filter: &str, from: Option<i64>, until: Option<i64>) -> Result<Query, Invalid> {
        let at = |seconds: i64| Timestamp { seconds, nanos: 0 };
        Query::parse(("", ""), filter, from.map(at), until.map(at))
    }

    fn event() -> v1::Event {
        v1::Event {
            event_time: Some(Timestamp { seconds: 100, nanos: 0 }),
            severity: v1::EventSeverity::Warning.into(),
            event_type: "BREAKER_OPENED".into(),
            service: "orders".into(),
            replica_id: "r-1".into(),
            node_id: "n1".into(),
            actor: "n1".into(),
            message: "connect refused".into(),
            metadata: [("rule".to_owned(), "consecutive_failures".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn every_field_of_an_event_that_the_contract_names_can_be_asked_for() {
        for filter in [
            "service = orders",
            "replica_id = r-1",
            "node_id = n1",
            "actor : n",
            "event_type = BREAKER_*",
            "severity >= WARNING",
            "message : \"refused\"",
            "metadata.rule = consecutive_failures AND NOT metadata : fault",
        ] {
            assert!(query(filter, None, None).unwrap().admits(&event()), "{filter}");
        }
        assert!(!query("severity > WARNING", None, None).unwrap().admits(&event()));
    }

    #[test]
    fn a_span_of_time_has_its_beginning_and_not_its_end() {
        let admits = |from, until| query("", from, until).unwrap().admits(&event());
        assert!(admits(Some(100), None) && admits(None, Some(101)) && admits(Some(100), Some(101)));
        assert!(!admits(Some(101), None) && !admits(None, Some(100)));
        let timeless = v1::Event { event_time: None, ..event() };
        assert!(!query("", Some(0), None).unwrap().admits(&timeless));
        for (from, until, field) in [
            (Some(5), Some(5), "end_time"),
            (Some(i64::MAX), None, "start_time"),
            (None, Some(i64::MIN), "end_time"),
        ] {
            assert_eq!(query("", from, until).unwrap_err().violations()[0].field, field);
        }
    }
}
