//! What the control plane itself tells of data planes, as events.

use std::collections::HashMap;

use gateway_proto::{NodeId, time::timestamp, v1, why_left};

use super::{catalog::EventType, nodes::Identity, report::Held};
use crate::clock;

/// Services named in one sentence.
const MAX_NAMED: usize = 5;

/// `left`: the control plane that it has left for this one.
pub(super) fn connected(identity: &Identity, left: Option<v1::LeftControlPlane>) -> v1::Event {
    let mut message = format!("connected from {}, version {}", identity.address, identity.version);
    let metadata = [("address", identity.address.clone()), ("version", identity.version.clone())];
    if let Some(left) = &left {
        message += &format!("; has left {}: {}", left.url, why_left(left));
    }
    let mut event = event("NODE_CONNECTED", &identity.id, message, metadata);
    let left = left.into_iter().flat_map(|left| [("left", left.url), ("left_reason", left.reason)]);
    event.metadata.extend(left.map(|(key, value)| (key.to_owned(), value)));
    event
}

pub(super) fn disconnected(node: &NodeId) -> v1::Event {
    event("NODE_DISCONNECTED", node, "its snapshot stream ended".into(), [])
}

pub(super) fn left(node: &NodeId) -> v1::Event {
    event("NODE_LEFT", node, "ended with nothing in flight".into(), [])
}

pub(super) fn nacked(node: &NodeId, nack: &v1::Nack) -> v1::Event {
    let message = format!("refused an update: {}: {}", nack.reason, nack.message);
    event("NODE_NACKED", node, message, [("reason", nack.reason.clone())])
}

pub(super) fn lost(node: &NodeId, count: u64) -> v1::Event {
    let message = format!("{count} transitions of its breakers could not be told");
    event("NODE_EVENTS_LOST", node, message, [("lost", count.to_string())])
}

pub(super) fn peer_heard(peer: &str) -> v1::Event {
    let message = format!("the control plane at {peer} tells what its data planes report");
    of_registry("CONTROL_PLANE_HEARD", message, [("control_plane", peer.to_owned())])
}

pub(super) fn peer_silent(peer: &str, reason: &str) -> v1::Event {
    let message = format!("the control plane at {peer} does not tell what its data planes report: {reason}");
    of_registry("CONTROL_PLANE_SILENT", message, [("control_plane", peer.to_owned())])
}

/// What the number of replicas that a guard holds, and held before, means; `None`: nothing new.
pub(super) fn guard(node: &NodeId, before: usize, held: &Held) -> Option<v1::Event> {
    match (before, held.count) {
        (0, 0) => None,
        (0, count) => {
            let named: Vec<_> = held.services.iter().take(MAX_NAMED).map(ToString::to_string).collect();
            let more = if held.services.len() > MAX_NAMED { " and others" } else { "" };
            let services = format!("{}{more}", named.join(", "));
            let message = format!("holds {count} replicas that the registry no longer has: of {services}");
            Some(event("GUARD_HOLDING", node, message, [("held", count.to_string()), ("services", services)]))
        }
        (_, 0) => Some(event("GUARD_CLEARED", node, "holds no replica any more".into(), [])),
        _ => None,
    }
}

fn event<const N: usize>(
    event_type: &str,
    node: &NodeId,
    message: String,
    metadata: [(&str, String); N],
) -> v1::Event {
    let (node_id, actor) = (node.to_string(), node.to_string());
    v1::Event { node_id, actor, ..of_registry(event_type, message, metadata) }
}

/// What the registry itself tells now, as grave as the catalog says.
///
/// # Panics
/// When the catalog does not have the type.
pub(crate) fn of_registry<const N: usize>(
    event_type: &str,
    message: String,
    metadata: [(&str, String); N],
) -> v1::Event {
    let severity = EventType::find(event_type).expect("every type is in the catalog").severity;
    let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    v1::Event {
        event_time: Some(timestamp(clock::wall())),
        severity: severity.into(),
        event_type: event_type.into(),
        actor: "registry".into(),
        message,
        metadata,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::ServiceName;

    use super::*;

    #[test]
    fn every_event_has_its_type_and_no_metadata_but_that_of_the_catalog() {
        let node = NodeId::parse("n1").unwrap();
        let identity = Identity {
            id: node.clone(),
            version: "1".into(),
            process: String::new(),
            address: "10.0.0.9:1".into(),
            stream_number: 1,
        };
        let held =
            Held { count: 2, services: vec![ServiceName::parse("orders").unwrap()], ..Held::default() };
        let all = [
            connected(&identity, None),
            connected(&identity, Some(v1::LeftControlPlane::default())),
            disconnected(&node),
            left(&node),
            nacked(&node, &v1::Nack { reason: "INVALID_RESOURCE".into(), message: "no".into() }),
            lost(&node, 3),
            peer_heard("b:1"),
            peer_silent("b:1", "gone"),
            guard(&node, 0, &held).unwrap(),
            guard(&node, 1, &Held::default()).unwrap(),
        ];
        for event in all {
            let known = EventType::find(&event.event_type).unwrap();
            assert_eq!(event.severity(), known.severity);
            assert!(event.metadata.keys().all(|key| known.metadata.contains(&key.as_str())), "{event:?}");
        }
    }

    #[test]
    fn a_guard_is_news_when_it_begins_to_hold_and_when_it_has_let_go() {
        let node = NodeId::parse("n1").unwrap();
        let services = |count: usize| {
            (0..count).map(|number| ServiceName::parse(&format!("s{number}")).unwrap()).collect::<Vec<_>>()
        };
        let story = |before, count| {
            guard(&node, before, &Held { count, services: services(count), ..Held::default() })
                .map(|event| event.message)
        };
        assert_eq!(story(0, 0), None);
        assert_eq!(story(0, 2).unwrap(), "holds 2 replicas that the registry no longer has: of s0, s1");
        let many = "holds 6 replicas that the registry no longer has: of s0, s1, s2, s3, s4 and others";
        assert_eq!(story(0, 6).unwrap(), many);
        assert_eq!(story(2, 5), None);
        assert_eq!(story(2, 0).unwrap(), "holds no replica any more");
    }
}
