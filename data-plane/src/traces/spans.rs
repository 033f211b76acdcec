//! The spans of a request: one of its own, and one for each attempt at a replica. Pure.
//!
//! Names and attributes are OpenTelemetry's for HTTP where it has one, and begin with `gw.` where it has none:
//! docs/tracing.md lists them. Whatever is from outside is cut to a length that a batch can bear.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, Version};

use super::{
    otlp::{KeyValue, Kind, Span, SpanEvent, Status, StatusCode, attribute},
    story::{Event, Story, Tried},
};
use crate::access_log::Outcome;

/// Characters of an attribute at most.
const MAX_CHARS: usize = 1024;
/// What an attempt came to for which nobody is to blame.
const NO_ERRORS: [&str; 5] = ["outrun", "abandoned", "client_gone", "client_stalled", "drained"];
/// The methods that name spans; any other could be made up by a client.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

/// All spans of a request, its own first.
pub(super) fn spans(story: &Story) -> impl Iterator<Item = Span> {
    std::iter::once(server(story)).chain(story.attempts.iter().map(|tried| client(story, tried)))
}

/// The request as its client saw it.
fn server(story: &Story) -> Span {
    let (method, original) = method(&story.method);
    let place = story.route.as_deref().or(story.service.as_deref());
    let verb = if original.is_some() { "HTTP" } else { method };
    let name = place.map_or_else(|| verb.to_owned(), |place| format!("{verb} {}", cut(place)));
    let mut attributes = vec![
        attribute("http.request.method", method),
        attribute("url.path", cut(&story.path)),
        attribute("url.scheme", if story.is_secure { "https" } else { "http" }),
        attribute("client.address", cut(&story.client)),
        attribute("network.peer.address", cut(&story.peer)),
        attribute("network.protocol.version", version(story.version)),
        attribute("gw.request_id", cut(&story.request_id)),
        attribute("gw.attempt_count", number(story.attempt_count as u64)),
        attribute("gw.end", story.end),
        attribute("http.request.body.size", number(story.received)),
        attribute("http.response.body.size", number(story.sent)),
    ];
    let mut put = |key: &str, value: Option<String>| {
        attributes.extend(value.map(|value| attribute(key, value)));
    };
    put("http.request.method_original", original.map(cut));
    put("http.route", story.route.as_deref().map(cut));
    put("gw.service", story.service.as_deref().map(cut));
    put("user_agent.original", story.user_agent.as_deref().map(|text| cut(&String::from_utf8_lossy(text))));
    if let Some(host) = &story.host {
        attributes.extend(server_of(host));
    }
    if let Some(status) = story.status {
        attributes.push(attribute("http.response.status_code", i64::from(status)));
    }
    let failure = match (story.status, story.error) {
        (Some(500..), Some(reason)) => Some(reason.to_owned()),
        (Some(status @ 500..), None) => Some(status.to_string()),
        _ if story.end == "upstream_broke_off" || story.end == "reset" => Some(story.end.to_owned()),
        _ => None,
    };
    attributes.extend(failure.as_deref().map(|why| attribute("error.type", why)));
    Span {
        parent_span_id: story.context.parent.map_or_else(Vec::new, |span| span.to_be_bytes().to_vec()),
        attributes,
        events: story.events.iter().map(|(at, event)| noted(story, *at, event)).collect(),
        status: failure.map(error),
        ..span(story, story.context.span, name, Kind::Server, (Duration::ZERO, story.duration))
    }
}

/// An attempt, as this gateway saw the replica.
fn client(story: &Story, tried: &Tried) -> Span {
    let (method, _) = method(&story.method);
    let replica = &tried.replica;
    let service = replica.key().service.as_str();
    let verb = if method == "_OTHER" { "HTTP" } else { method };
    let address = replica.address();
    let scheme = if replica.endpoint().tls_name().is_some() { "https" } else { "http" };
    let mut attributes = vec![
        attribute("http.request.method", method),
        attribute("url.full", cut(&format!("{scheme}://{address}{}", story.sent_path))),
        attribute("server.address", address.host()),
        attribute("server.port", i64::from(address.port())),
        attribute("gw.service", service),
        attribute("gw.replica", replica.key().replica.as_str()),
    ];
    if tried.number > 1 {
        attributes.push(attribute("http.request.resend_count", number(tried.number as u64 - 1)));
    }
    if tried.is_probe {
        attributes.push(attribute("gw.probe", true));
    }
    let (outcome, end) = match tried.ended {
        Some((outcome, took)) => (outcome, tried.began + took),
        None => (Outcome::Word("abandoned"), story.duration.max(tried.began)),
    };
    let failure = match outcome {
        Outcome::Status(status) => {
            attributes.push(attribute("http.response.status_code", i64::from(status)));
            (status >= 400).then(|| status.to_string())
        }
        Outcome::Word(word) => {
            attributes.push(attribute("gw.result", word));
            (!NO_ERRORS.contains(&word)).then(|| word.to_owned())
        }
    };
    attributes.extend(failure.as_deref().map(|why| attribute("error.type", why)));
    Span {
        parent_span_id: story.context.span.to_be_bytes().to_vec(),
        attributes,
        status: failure.map(error),
        ..span(
            story,
            story.context.attempt(tried.number),
            format!("{verb} {service}"),
            Kind::Client,
            (tried.began, end),
        )
    }
}

fn span(story: &Story, id: u64, name: String, kind: Kind, (from, to): (Duration, Duration)) -> Span {
    Span {
        trace_id: story.context.trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        trace_state: story.tracestate.clone(),
        name,
        kind: kind.into(),
        start_time_unix_nano: nanos(story.began + from),
        end_time_unix_nano: nanos(story.began + to),
        // Sampled.
        flags: 1,
        ..Span::default()
    }
}

fn noted(story: &Story, at: Duration, event: &Event) -> SpanEvent {
    let (name, attributes) = match event {
        Event::PassedOver(replica, state) => (
            "gw.breaker_skip",
            vec![
                attribute("gw.replica", replica.key().replica.as_str()),
                attribute("gw.breaker.state", *state),
            ],
        ),
        Event::Hedged(attempt) => ("gw.hedge", vec![attribute("gw.attempt", number(*attempt as u64))]),
        Event::Retried(after) => {
            ("gw.retry", vec![attribute("gw.retry.delay_ms", number(after.as_millis() as u64))])
        }
        Event::Stopped(why) => ("gw.stop", vec![attribute("gw.stop.reason", *why)]),
        Event::FellBack(kind) => ("gw.fallback", vec![attribute("gw.fallback.kind", *kind)]),
        Event::FaultInjected(what) => ("gw.fault", vec![attribute("gw.fault.kind", *what)]),
    };
    SpanEvent { time_unix_nano: nanos(story.began + at), name: name.to_owned(), attributes }
}

/// Who was asked for, as the request names it.
fn server_of(host: &str) -> Vec<KeyValue> {
    let port = host.rsplit_once(':').filter(|(_, port)| !port.is_empty() && !port.contains(']'));
    let port = port.and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
    let name = port.map_or(host, |(name, _)| name);
    let mut attributes = vec![attribute("server.address", cut(name.trim_matches(['[', ']'])))];
    attributes.extend(port.map(|(_, port)| attribute("server.port", i64::from(port))));
    attributes
}

/// A method that names spans, and the one that was sent if that is another.
fn method(method: &Method) -> (&'static str, Option<&str>) {
    const NAMES: [&str; METHODS.len()] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    match METHODS.iter().position(|known| known == method) {
        Some(place) => (NAMES[place], None),
        None => ("_OTHER", Some(method.as_str())),
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn error(why: String) -> Status {
    Status { message: why, code: StatusCode::Error.into() }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gateway_proto::{Address, Policy, ReplicaId, ServiceName};

    use super::*;
    use crate::{
        routing::Tick,
        table::{Replica, ReplicaSpec, ServiceSpec, Table},
        traces::{Parent, Sampling, otlp},
    };

    fn replica() -> Arc<Replica> {
        let (table, _) = Table::new(1);
        let address = Address::parse("10.0.0.7:9000").unwrap();
        let replicas = vec![ReplicaSpec::listed(ReplicaId::parse("r-1").unwrap(), address)];
        let name = ServiceName::parse("orders").unwrap();
        table.apply(&[ServiceSpec { name, policy: Policy::default(), replicas }], &[], Tick::ORIGIN);
        let service = table.service("orders").unwrap();
        service.replicas()[0].clone()
    }

    const MS: Duration = Duration::from_millis(1);

    fn story() -> Story {
        let parent = Parent { trace: 7, span: 8, is_sampled: true };
        Story {
            context: Sampling::new(0.0).decide(Some(parent), || 1 << 64).unwrap(),
            tracestate: "a=b".into(),
            began: UNIX_EPOCH + Duration::from_secs(1_000),
            duration: 30 * MS,
            method: Method::GET,
            path: "/orders/7".into(),
            host: Some("shop.example:8080".into()),
            is_secure: false,
            version: Version::HTTP_2,
            user_agent: None,
            client: "10.0.0.1".into(),
            peer: "10.0.0.2".into(),
            service: Some("orders".into()),
            route: None,
            status: Some(200),
            error: None,
            end: "complete",
            received: 0,
            sent: 5,
            request_id: "id".into(),
            sent_path: "/7".into(),
            attempts: Vec::new(),
            attempt_count: 0,
            events: Vec::new(),
        }
    }

    fn tried(number: usize, ended: Option<Outcome>) -> Tried {
        let ended = ended.map(|outcome| (outcome, 10 * MS));
        Tried { number, replica: replica(), is_probe: number == 2, began: 5 * MS, ended }
    }

    fn of<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a otlp::Value> {
        let mut found = attributes.iter().filter(|attribute| attribute.key == key);
        let value = found.next().and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
        assert!(found.next().is_none(), "{key} is there twice");
        value
    }

    fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
        match of(attributes, key)? {
            otlp::Value::Text(text) => Some(text.clone()),
            other => panic!("{key} is {other:?}"),
        }
    }

    #[test]
    fn spans_belong_together_and_lie_where_they_happened() {
        let mut story = story();
        story.attempts = vec![tried(1, Some(Outcome::Status(503))), tried(2, None)];
        let all: Vec<_> = spans(&story).collect();
        let [server, first, second] = &all[..] else { panic!("{all:?}") };
        assert!(all.iter().all(|span| span.trace_id == 7_u128.to_be_bytes() && span.flags == 1));
        assert_eq!(server.parent_span_id, 8_u64.to_be_bytes());
        assert_eq!((&first.parent_span_id, &second.parent_span_id), (&server.span_id, &server.span_id));
        let times = |span: &Span| (span.start_time_unix_nano, span.end_time_unix_nano);
        let at = |millis: u64| 1_000_000_000_000 + millis * 1_000_000;
        assert_eq!(
            (times(server), times(first), times(second)),
            ((at(0), at(30)), (at(5), at(15)), (at(5), at(30)))
        );
        assert_eq!(of(&first.attributes, "http.request.resend_count"), None);
        assert_eq!(of(&second.attributes, "http.request.resend_count"), Some(&otlp::Value::Number(1)));
        assert_eq!(of(&second.attributes, "gw.probe"), Some(&otlp::Value::Flag(true)));
        assert_eq!(text(&second.attributes, "gw.result").as_deref(), Some("abandoned"));
        assert_eq!(second.status, None, "nobody is to blame");
        assert_eq!(text(&first.attributes, "url.full").as_deref(), Some("http://10.0.0.7:9000/7"));
    }

    #[test]
    fn a_name_has_a_known_method_and_a_route_or_a_service_and_nothing_that_a_client_makes_up() {
        let mut story = story();
        let name = |story: &Story| server(story).name;
        assert_eq!(name(&story), "GET orders");
        story.route = Some("/api".into());
        assert_eq!(name(&story), "GET /api");
        story.method = Method::from_bytes(b"FROB").unwrap();
        assert_eq!(name(&story), "HTTP /api");
        let attributes = server(&story).attributes;
        assert_eq!(text(&attributes, "http.request.method").as_deref(), Some("_OTHER"));
        assert_eq!(text(&attributes, "http.request.method_original").as_deref(), Some("FROB"));
        (story.route, story.service) = (None, None);
        assert_eq!(name(&story), "HTTP");
    }

    #[test]
    fn a_request_is_an_error_where_its_client_saw_one_that_is_not_its_own() {
        let error = |status, error, end| {
            let span = server(&Story { status, error, end, ..story() });
            assert_eq!(span.status.is_some(), of(&span.attributes, "error.type").is_some());
            text(&span.attributes, "error.type")
        };
        assert_eq!(error(Some(200), None, "complete"), None);
        assert_eq!(error(Some(404), Some("no_route"), "complete"), None);
        assert_eq!(error(Some(503), Some("breaker_open"), "complete").as_deref(), Some("breaker_open"));
        assert_eq!(error(Some(500), None, "complete").as_deref(), Some("500"));
        assert_eq!(error(Some(200), None, "upstream_broke_off").as_deref(), Some("upstream_broke_off"));
        assert_eq!(error(None, None, "client_gone"), None);
    }

    #[test]
    fn events_say_what_led_to_other_attempts_or_to_none() {
        let mut story = story();
        story.events = vec![
            (MS, Event::PassedOver(replica(), "open")),
            (2 * MS, Event::Retried(25 * MS)),
            (3 * MS, Event::Hedged(2)),
            (4 * MS, Event::Stopped("retries_used")),
            (5 * MS, Event::FellBack("static")),
            (6 * MS, Event::FaultInjected("delay")),
        ];
        let events = server(&story).events;
        let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["gw.breaker_skip", "gw.retry", "gw.hedge", "gw.stop", "gw.fallback", "gw.fault"]);
        assert_eq!(text(&events[0].attributes, "gw.replica").as_deref(), Some("r-1"));
        assert_eq!(of(&events[1].attributes, "gw.retry.delay_ms"), Some(&otlp::Value::Number(25)));
        assert!(events.is_sorted_by_key(|event| event.time_unix_nano));
    }

    #[test]
    fn what_is_from_outside_is_cut() {
        let long = "\u{e4}".repeat(5_000);
        let span = server(&Story { path: long.clone(), user_agent: Some(long.into_bytes()), ..story() });
        for key in ["url.path", "user_agent.original"] {
            assert_eq!(text(&span.attributes, key).unwrap().chars().count(), MAX_CHARS);
        }
        for (host, name, port) in [
            ("shop.example:8080", "shop.example", Some(8080)),
            ("shop.example", "shop.example", None),
            ("[::1]:9", "::1", Some(9)),
            ("[::1]", "::1", None),
        ] {
            let attributes = server_of(host);
            assert_eq!(text(&attributes, "server.address").as_deref(), Some(name), "{host}");
            assert_eq!(of(&attributes, "server.port"), port.map(otlp::Value::Number).as_ref(), "{host}");
        }
    }
}
