//! Which answers may be kept, and what they are found by.

use std::{rc::Rc, time::Duration};

use gateway_proto::policy::FallbackFields;
use http::{Method, StatusCode};

use crate::{
    proxy::{
        h1::Length,
        head::{RequestHead, ResponseHead, field_name::Name, fields::Fields, headers::delta_seconds},
    },
    routing::balancing::hash,
};

/// Says how old an answer is.
pub(in crate::proxy) const AGE: &str = "age";
/// Fields of a request by which its answer may differ and still be kept, one for each of their values.
const KEYED: [&str; 3] = ["accept", "accept-encoding", "accept-language"];
/// What replicas are told of the request that the client made, by which they may answer without saying so.
const TOLD: [Name; 4] =
    [Name::XForwardedHost, Name::XForwardedProto, Name::XForwardedPort, Name::XForwardedPrefix];
/// Fields of requests whose answers are somebody's own, or a part of one.
const PERSONAL: [&str; 3] = ["authorization", "range", "if-range"];
/// Fields by which nobody's answers differ from those of others, whom a replica may know by any other field: what browsers, libraries and
/// proxies send of their own accord with a GET, this gateway included. Not among them, though common: `X-Forwarded-User` and what else
/// proxies that ask who one is tell replicas, `baggage`, and all keys and tokens.
const HARMLESS: [&str; 47] = [
    "b3",
    "cache-control",
    "cdn-loop",
    "cf-connecting-ip",
    "cf-ray",
    "content-length",
    "dnt",
    "forwarded",
    "host",
    "if-modified-since",
    "if-none-match",
    "origin",
    "pragma",
    "priority",
    "purpose",
    "referer",
    "save-data",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-user",
    "sec-gpc",
    "sec-purpose",
    "te",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-amzn-trace-id",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-forwarded-for",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
];
/// What a replica says when an answer is not to be kept, or not to be used when it is stale.
const FORBIDDING: [&str; 6] =
    ["no-store", "no-cache", "private", "must-revalidate", "proxy-revalidate", "s-maxage"];

/// What an answer is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::proxy) struct Key {
    /// The [`Service::id`](crate::table::Service::id).
    pub(super) service: u64,
    /// Host, target and what its request accepts.
    pub(super) request: Rc<[u8]>,
    /// Of which this is one answer of several, see [`resource`].
    pub(in crate::proxy::forward) resource: u64,
}

/// A request whose answer may be kept, or be one that was.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Asked {
    pub(in crate::proxy::forward) key: Key,
    /// Whether nothing in it can say whose it is. Else it is for the replica to say that its answer is everybody's.
    pub(in crate::proxy::forward) is_anybodys: bool,
}

impl Asked {
    /// Whether an answer that may be used on these terms may be the one to this, as far as it matters who asks.
    pub(in crate::proxy::forward) fn lets(&self, terms: Terms) -> bool {
        self.is_anybodys || terms.is_public
    }
}

/// What a replica lets be done with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Terms {
    /// For how long it may be used when nobody gives another.
    pub(in crate::proxy) allowed: Duration,
    /// Whether it says that it is everybody's, whoever asked.
    pub(in crate::proxy) is_public: bool,
}

/// What the answer to a request would be kept under; `None` when it is nobody else's business, or no GET. `ignored` are the fields
/// of which the policy says that they make no answer somebody's own.
pub(in crate::proxy) fn asked(
    service: u64,
    head: &RequestHead,
    length: Length,
    ignored: &FallbackFields,
) -> Option<Asked> {
    let is_plain = head.method == Method::GET && length == Length::Empty;
    let is_personal = || {
        head.fields.contains(Name::Cookie)
            || PERSONAL.iter().any(|name| head.fields.get_all_named(name).next().is_some())
    };
    let is_forbidden =
        || elements(&head.fields, "cache-control").any(|element| element.eq_ignore_ascii_case("no-store"));
    if !is_plain || is_personal() || is_forbidden() {
        return None;
    }
    let mut key = Vec::with_capacity(256);
    push_resource(&mut key, head);
    let resource = resource_of(service, &key);
    for name in KEYED {
        for value in head.fields.get_all_named(name) {
            key.extend_from_slice(value);
            key.push(b',');
        }
        key.push(0);
    }
    for name in TOLD {
        key.extend_from_slice(head.fields.get(name).unwrap_or_default());
        key.push(0);
    }
    let is_harmless = |name: &[u8]| {
        KEYED.iter().chain(&HARMLESS).any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
            || Name::of(name).is_some_and(|name| TOLD.contains(&name))
            || ignored.has(name)
    };
    let is_anybodys = head.fields.iter().all(|(name, _)| is_harmless(name));
    Some(Asked { key: Key { service, request: key.into(), resource }, is_anybodys })
}

/// What a request is about: a hash of its service, host and target, whatever it accepts and whatever it is to do.
pub(in crate::proxy) fn resource(service: u64, head: &RequestHead) -> u64 {
    let mut bytes = Vec::with_capacity(256);
    push_resource(&mut bytes, head);
    resource_of(service, &bytes)
}

fn push_resource(bytes: &mut Vec<u8>, head: &RequestHead) {
    for part in [head.host().unwrap_or_default(), head.target()] {
        bytes.extend_from_slice(part.as_bytes());
        bytes.push(0);
    }
}

fn resource_of(service: u64, host_and_target: &[u8]) -> u64 {
    hash(host_and_target) ^ hash(&service.to_le_bytes())
}

/// Whether an answer, which is none of the failures that something stands in for, says that one before is not to be given to
/// anybody any more. To a request that `changes` something it does if that was done (RFC 9111, section 4.4); to any other if
/// it is not the same answer, nor one that says nothing of what is there.
pub(in crate::proxy) fn withdraws(status: StatusCode, changes: bool) -> bool {
    match changes {
        true => status.is_success() || status.is_redirection(),
        false => {
            !status.is_server_error()
                && !matches!(status.as_u16(), 304 | 400 | 406 | 408 | 412 | 416 | 425 | 429 | 431)
        }
    }
}

/// How old an answer was when it came, as those before say (RFC 9111 section 5.1): of what is no number nothing is known.
pub(in crate::proxy) fn age(fields: &Fields) -> Duration {
    let age = fields.get_all_named(AGE).next().map(<[u8]>::trim_ascii);
    age.and_then(delta_seconds).unwrap_or_default()
}

/// On which terms an answer may be kept: for use without an end, unless it says `stale-if-error`. `None` when it may not.
pub(in crate::proxy) fn may_keep(head: &ResponseHead) -> Option<Terms> {
    let fields = &head.fields;
    if head.status != StatusCode::OK
        || fields.get_all_named("set-cookie").next().is_some()
        || !varies_little(fields)
        || forbids(fields)
    {
        return None;
    }
    let (mut allowed, mut is_public) = (Duration::MAX, false);
    for directive in elements(fields, "cache-control") {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        is_public |= name.trim().eq_ignore_ascii_case("public");
        if name.trim().eq_ignore_ascii_case("stale-if-error") {
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            // Whoever says something that is no number has no wish for its answers to be used; of two, the shorter time holds.
            allowed = allowed.min(delta_seconds(value.as_bytes())?);
        }
    }
    Some(Terms { allowed, is_public })
}

/// Whether a replica says that its answer is not to be kept, or not to be used when it is stale.
pub(in crate::proxy) fn forbids(fields: &Fields) -> bool {
    elements(fields, "cache-control").any(|directive| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        FORBIDDING.iter().any(|forbidding| name.eq_ignore_ascii_case(forbidding))
    })
}

fn varies_little(fields: &Fields) -> bool {
    elements(fields, "vary").all(|name| KEYED.iter().any(|keyed| name.eq_ignore_ascii_case(keyed)))
}

/// The elements of a list; one that is no text is taken for one that nobody knows.
fn elements<'a>(fields: &'a Fields, name: &str) -> impl Iterator<Item = &'a str> {
    fields
        .get_all_named(name)
        .flat_map(|value| str::from_utf8(value).unwrap_or("*").split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}
