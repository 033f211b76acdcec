//! What a data plane reports, checked and cut to size.
//!
//! Names must be right, for they are keys. Texts are for people and are cut rather than refused: a report is worth
//! more than the end of its longest sentence.

use gateway_proto::{Invalid, NodeId, ReplicaKey, time, v1};

use super::matrix::BreakerReport;

/// A reason or a sentence.
const MAX_TEXT_CHARS: usize = 512;
/// One of the last errors, or a value of an event's metadata.
const MAX_DETAIL_CHARS: usize = 200;
const MAX_KEY_CHARS: usize = 63;
const MAX_LAST_ERRORS: usize = 5;
const MAX_METADATA: usize = 16;
/// Transitions in one message; a data plane that has more to tell says so in `dropped_event_count`.
const MAX_EVENTS: usize = 1000;
const EVENT_TYPES: [&str; 3] = ["BREAKER_OPENED", "BREAKER_HALF_OPENED", "BREAKER_CLOSED"];

/// A checked `ReportNodeStatusRequest`, apart from the sender's identity.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// The breakers.
    pub breakers: BreakerReport,
    /// Transitions, oldest first.
    pub events: Vec<v1::Event>,
}

impl Report {
    /// Checks a report of `node`.
    ///
    /// # Errors
    /// [`Invalid`] naming the entry at fault: a bad name, a state or an event that this version does not know.
    pub fn parse(node: &NodeId, wire: v1::ReportNodeStatusRequest) -> Result<Self, Invalid> {
        if wire.events.len() > MAX_EVENTS {
            return Err(Invalid::new("events", format!("are more than {MAX_EVENTS} in one message")));
        }
        let breakers = wire.breakers.into_iter().enumerate().map(|(index, row)| {
            parse_breaker(node, row).map_err(|invalid| invalid.within(&format!("breakers[{index}]")))
        });
        let breakers = BreakerReport { full: wire.full, breakers: breakers.collect::<Result<_, _>>()? };
        let events = wire.events.into_iter().enumerate().map(|(index, event)| {
            parse_event(node, event).map_err(|invalid| invalid.within(&format!("events[{index}]")))
        });
        Ok(Self { breakers, events: events.collect::<Result<_, _>>()? })
    }
}

fn parse_breaker(node: &NodeId, mut row: v1::Breaker) -> Result<(ReplicaKey, v1::Breaker), Invalid> {
    let key = ReplicaKey::parse(&row.service, &row.replica_id)?;
    if matches!(v1::BreakerState::try_from(row.state), Err(_) | Ok(v1::BreakerState::Unspecified)) {
        return Err(Invalid::new("state", format!("{} is no state of a breaker", row.state)));
    }
    (row.service, row.replica_id) = (key.service.to_string(), key.replica.to_string());
    row.node_id = node.to_string();
    // Tools that write JSON cannot write an instant that is none.
    row.state_change_time = row.state_change_time.filter(time::is_valid);
    row.retry_time = row.retry_time.filter(time::is_valid);
    // Only a merged row counts data planes.
    (row.open_node_count, row.node_count) = (0, 0);
    cut(&mut row.address, MAX_TEXT_CHARS);
    cut(&mut row.reason, MAX_TEXT_CHARS);
    row.last_errors.truncate(MAX_LAST_ERRORS);
    row.last_errors.shrink_to_fit();
    row.last_errors.iter_mut().for_each(|text| cut(text, MAX_DETAIL_CHARS));
    Ok((key, row))
}

fn parse_event(node: &NodeId, mut event: v1::Event) -> Result<v1::Event, Invalid> {
    let key = ReplicaKey::parse(&event.service, &event.replica_id)?;
    (event.service, event.replica_id) = (key.service.to_string(), key.replica.to_string());
    if !EVENT_TYPES.contains(&event.event_type.as_str()) {
        let shown: String = event.event_type.escape_default().take(40).collect();
        return Err(Invalid::new("event_type", format!("\"{shown}\" is no transition of a breaker")));
    }
    event.node_id = node.to_string();
    event.event_time = event.event_time.filter(time::is_valid);
    event.event_type.shrink_to_fit();
    cut(&mut event.message, MAX_TEXT_CHARS);
    if event.metadata.len() > MAX_METADATA {
        return Err(Invalid::new("metadata", format!("has more than {MAX_METADATA} entries")));
    }
    for (mut key, mut value) in std::mem::take(&mut event.metadata) {
        cut(&mut key, MAX_KEY_CHARS);
        cut(&mut value, MAX_DETAIL_CHARS);
        event.metadata.insert(key, value);
    }
    Ok(event)
}

/// Shortens a text that is kept, and gives back the memory that the message had needed for it.
fn cut(text: &mut String, max_chars: usize) {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
    }
    text.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use gateway_proto::json::to_json;

    use super::*;

    fn breaker() -> v1::Breaker {
        v1::Breaker {
            service: "orders".into(),
            replica_id: "r-1".into(),
            state: v1::BreakerState::Open.into(),
            ..Default::default()
        }
    }

    fn event() -> v1::Event {
        v1::Event {
            service: "orders".into(),
            replica_id: "r-1".into(),
            event_type: "BREAKER_OPENED".into(),
            ..Default::default()
        }
    }

    fn parse(breakers: Vec<v1::Breaker>, events: Vec<v1::Event>) -> Result<Report, Invalid> {
        let wire = v1::ReportNodeStatusRequest { breakers, events, ..Default::default() };
        Report::parse(&NodeId::parse("n1").unwrap(), wire)
    }

    fn field(result: Result<Report, Invalid>) -> String {
        result.unwrap_err().violations()[0].field.clone()
    }

    #[test]
    fn a_row_and_an_event_are_of_the_data_plane_that_sent_them() {
        let lying = v1::Breaker { node_id: "other".into(), node_count: 9, ..breaker() };
        let report = parse(vec![lying], vec![v1::Event { node_id: "other".into(), ..event() }]).unwrap();
        let row = &report.breakers.breakers[0].1;
        assert_eq!((row.node_id.as_str(), row.node_count), ("n1", 0));
        assert_eq!(report.events[0].node_id, "n1");
    }

    #[test]
    fn bad_names_states_and_types_are_refused_with_their_place() {
        let bad_name = v1::Breaker { replica_id: "R".into(), ..breaker() };
        assert_eq!(field(parse(vec![breaker(), bad_name], vec![])), "breakers[1].replica_id");
        let no_state = v1::Breaker { state: 0, ..breaker() };
        assert_eq!(field(parse(vec![no_state], vec![])), "breakers[0].state");
        let made_up = v1::Event { event_type: "LEASE_EXPIRED".into(), ..event() };
        assert_eq!(field(parse(vec![], vec![made_up])), "events[0].event_type");
        assert_eq!(field(parse(vec![], vec![event(); 1001])), "events");
    }

    #[test]
    fn an_instant_that_is_none_is_left_out_so_that_every_answer_can_be_written_as_json() {
        for (seconds, nanos) in
            [(i64::MAX, 0), (i64::MIN, 0), (253_402_300_800, 0), (0, -1), (0, 1_000_000_000)]
        {
            let at = Some(prost_types::Timestamp { seconds, nanos });
            let row = v1::Breaker { state_change_time: at, retry_time: at, ..breaker() };
            let report = parse(vec![row], vec![v1::Event { event_time: at, ..event() }]).unwrap();
            let (row, event) = (&report.breakers.breakers[0].1, &report.events[0]);
            assert_eq!((row.state_change_time, row.retry_time, event.event_time), (None, None, None));
            to_json(row);
            to_json(event);
        }
        let end = Some(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 });
        let row = v1::Breaker { retry_time: end, ..breaker() };
        let report = parse(vec![row], vec![]).unwrap();
        assert_eq!(report.breakers.breakers[0].1.retry_time, end);
        to_json(&report.breakers.breakers[0].1);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "é".repeat(2000);
        let row = v1::Breaker { reason: long.clone(), last_errors: vec![long; 9], ..breaker() };
        let report = parse(vec![row], vec![]).unwrap();
        let row = &report.breakers.breakers[0].1;
        assert_eq!((row.reason.chars().count(), row.last_errors.len()), (512, 5));
        assert_eq!(row.last_errors[0].chars().count(), 200);
    }

    #[test]
    fn what_is_kept_of_a_large_message_is_no_larger_than_it_looks() {
        let roomy = |text: &str| {
            let mut roomy = String::with_capacity(1_000_000);
            roomy.push_str(text);
            roomy
        };
        let long = "x".repeat(1_000_000);
        let row = v1::Breaker {
            service: roomy("orders"),
            replica_id: roomy("r-1"),
            address: roomy("a:1"),
            reason: long.clone(),
            last_errors: vec![String::new(); 100_000],
            ..breaker()
        };
        let event = v1::Event {
            service: roomy("orders"),
            replica_id: roomy("r-1"),
            event_type: roomy("BREAKER_OPENED"),
            message: long,
            metadata: [(roomy("key"), roomy("value"))].into(),
            ..event()
        };
        let report = parse(vec![row], vec![event]).unwrap();
        let (row, event) = (&report.breakers.breakers[0].1, &report.events[0]);
        let texts = [&row.service, &row.replica_id, &row.address, &row.reason, &row.node_id];
        let more = [&event.service, &event.replica_id, &event.event_type, &event.message, &event.node_id];
        for text in texts.into_iter().chain(more).chain(event.metadata.iter().flat_map(|(k, v)| [k, v])) {
            assert!(text.capacity() <= 600, "{} bytes for {text:?}", text.capacity());
        }
        assert!(row.last_errors.capacity() <= 5, "{}", row.last_errors.capacity());
    }
}
