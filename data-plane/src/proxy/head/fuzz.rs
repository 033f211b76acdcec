//! What is read of a head, and what is said of the client, under what a seed makes up.

use std::net::{IpAddr, Ipv6Addr};

use gateway_proto::Networks;
use http::{Method, Version};
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use super::{
    RequestHead,
    field_name::Name,
    forwarding::{Peer, claimed_client, tell},
    headers::strip_own,
    hints::CallerHints,
    request_id::RequestId,
    trace_context,
};
use crate::{
    proxy::fuzz::{cases, fields, noise},
    traces::Parent,
};

const ROUND: usize = 4_000;

/// What addresses are made of, and what has been taken for them.
const ADDRESSES: &[&str] = &[
    "192.0.2.7",
    "10.0.0.1",
    "::1",
    "2001:db8::7",
    "::ffff:10.0.0.1",
    "[",
    "]",
    ":",
    ":80",
    ":65536",
    ":0080",
    "%1",
    "\"",
    "unknown",
    "_hidden",
    "0",
    "1",
    "256",
    ".",
    " ",
    "\t",
    "a",
    ",",
    ", ",
];
const CLAIMS: [&str; 7] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
    "x-request-id",
];

fn trusted() -> Networks {
    Networks::parse(["10.0.0.0/8"]).unwrap()
}

/// An address as proxies write it, read by hand.
fn address(text: &str) -> Option<IpAddr> {
    let is_port = |port: &str| {
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        digits
            && port.trim_start_matches('0').len() <= 5
            && port.parse::<u32>().is_ok_and(|port| port < 65536)
    };
    let v6 = |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let found = match text.strip_prefix('[') {
        Some(rest) => {
            let (inner, behind) = rest.split_once(']')?;
            let fits = behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port);
            v6(inner).filter(|_| fits)
        }
        None if text.matches(':').count() > 1 => v6(text),
        None => {
            let (host, fits) =
                text.split_once(':').map_or((text, true), |(host, port)| (host, is_port(port)));
            host.parse().ok().map(IpAddr::V4).filter(|_| fits)
        }
    };
    found.filter(|_| text.len() <= 64).map(|address| address.to_canonical())
}

#[test]
fn the_client_is_the_one_that_reading_the_list_by_hand_finds() {
    cases(ROUND, |random| {
        let lines: Vec<_> = (0..random.random_range(0..3)).map(|_| noise(random, ADDRESSES, 12)).collect();
        let all = lines.join(",");
        let entries =
            all.split(',').map(|entry| entry.trim_matches([' ', '\t'])).filter(|entry| !entry.is_empty());
        let mut expected = None;
        for entry in entries.rev() {
            let Some(address) = address(entry) else { break };
            expected = Some(address);
            if !trusted().contains(address) {
                break;
            }
        }
        let fields = fields(lines.iter().map(|line| ("X-Forwarded-For", line.as_str())));
        assert_eq!(claimed_client(&fields, &trusted()), expected, "{lines:?}");
    });
}

/// What a peer may say, well or not.
fn claims(random: &mut SmallRng) -> Vec<(&'static str, String)> {
    let values = [
        "https",
        "http",
        "a.example",
        "[::1]:81",
        "8443",
        "0",
        "/outer",
        "//evil",
        "for=192.0.2.9",
        ";proto=https",
        "/",
        "-",
        "..",
    ];
    let pieces = [&values[..], ADDRESSES].concat();
    let count = random.random_range(0..8);
    (0..count).map(|_| (*CLAIMS.choose(random).unwrap(), noise(random, &pieces, 3))).collect()
}

/// All that replicas are told of a request with these fields.
fn told(lines: &[(&str, String)], host: &str, peer: Peer<'_>) -> Vec<(String, String)> {
    let mut fields = fields(lines.iter().map(|(name, value)| (*name, value.as_str())));
    strip_own(&mut fields);
    let (target, host) = (fields.store(b"/x"), fields.store(host.as_bytes()));
    let mut head = RequestHead::new(Method::GET, Version::HTTP_11, target, Some(host), fields);
    tell(&mut head, peer, true, None);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    head.fields.iter().map(|(name, value)| (text(name).to_ascii_lowercase(), text(value))).collect()
}

#[test]
fn what_a_stranger_says_of_the_client_changes_nothing_of_what_is_told() {
    let stranger = Peer { ip: "192.0.2.7", scheme: "http", is_trusted: false };
    cases(ROUND, |random| {
        let host = *["a", "a:8080", "[::1]:1", ""].choose(random).unwrap();
        let mut said = claims(random);
        // Whoever reads names as CGI does takes them for the same.
        said.iter_mut().filter(|_| random.random()).for_each(|(name, _)| {
            *name = match *name {
                "x-forwarded-for" => "X_Forwarded-For",
                "x-forwarded-host" => "x-forwarded_host",
                other => other,
            };
        });
        assert_eq!(told(&said, host, stranger), told(&[], host, stranger), "{said:?}");
    });
}

#[test]
fn what_a_trusted_proxy_says_is_told_well_formed_or_not_at_all_and_the_next_gateway_finds_the_same_client() {
    let proxy = Peer { ip: "10.0.0.1", scheme: "http", is_trusted: true };
    cases(ROUND, |random| {
        let said = claims(random);
        let told = told(&said, "a:81", proxy);
        let all = |name: &str| {
            told.iter().filter(|(known, _)| known == name).map(|(_, value)| &**value).collect::<Vec<_>>()
        };
        assert!(
            matches!(all("x-forwarded-proto")[..], [proto] if ["http", "https"].contains(&&*proto.to_ascii_lowercase())),
            "{said:?}"
        );
        assert!(
            matches!(all("x-forwarded-port")[..], [port] if port.parse::<u16>().is_ok_and(|port| port > 0)),
            "{said:?}"
        );
        assert!(
            matches!(all("x-forwarded-host")[..], [host] if host.parse::<http::uri::Authority>().is_ok()),
            "{said:?}"
        );
        assert!(
            all("x-forwarded-prefix")
                .iter()
                .all(|prefix| prefix.starts_with('/') && !prefix.starts_with("//")),
            "{said:?}"
        );
        assert!(
            matches!(all("forwarded")[..], [all] if all.ends_with("for=10.0.0.1;host=\"a:81\";proto=http")),
            "{said:?}"
        );
        let before =
            claimed_client(&fields(said.iter().map(|(name, value)| (*name, value.as_str()))), &trusted());
        let after = claimed_client(&fields(told.iter().map(|(name, value)| (&**name, &**value))), &trusted());
        assert_eq!(after, before.or(Some(proxy.ip.parse().unwrap())), "{said:?}");
    });
}

/// Whether this is a `traceparent`, taken apart at its dashes.
fn is_traceparent(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace, span, flags, more @ ..] = &parts[..] else { return false };
    let fits = |part: &str, length| part.len() == length && is_hex(part);
    fits(version, 2)
        && fits(trace, 32)
        && fits(span, 16)
        && fits(flags, 2)
        && u128::from_str_radix(trace, 16) != Ok(0)
        && u64::from_str_radix(span, 16) != Ok(0)
        && match *version {
            "ff" => false,
            "00" => more.is_empty(),
            _ => true,
        }
}

#[test]
fn a_trace_is_what_its_parts_say_or_none_and_what_passes_passes_again() {
    let pieces = ["-", "0", "00", "a", "f", "F", "g", "=", ",", " ", "k=v", "t@v=1", "\u{e4}"];
    cases(ROUND, |random| {
        let (trace, span) = (random.random::<u128>() >> random.random_range(0..128), random.random::<u64>());
        let version = *["00", "00", "00", "01", "cc", "ff"].choose(random).unwrap();
        let mut parent = format!("{version}-{trace:032x}-{span:016x}-{:02x}", random.random::<u8>());
        if random.random() {
            let at = random.random_range(0..=parent.len());
            let end = (at + random.random_range(0..3)).min(parent.len());
            parent.replace_range(at..end, &noise(random, &pieces[..7], 2));
        }
        let state = noise(random, &pieces, 9);
        let mut head = fields([("traceparent", &*parent), ("tracestate", &*state), ("accept", "*")]);
        trace_context::settle(&mut head);
        let is_one = is_traceparent(&parent);
        assert_eq!(head.get(Name::Traceparent).is_some(), is_one, "{parent:?}");
        assert!(is_one || head.count() == 1, "what belongs to none goes, too");
        let passed: Vec<_> = head.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        trace_context::settle(&mut head);
        let again: Vec<_> = head.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        assert_eq!(passed, again);
        if is_one {
            let read = Parent::parse(parent.as_bytes()).expect("it is valid");
            assert_eq!(parent[..53], format!("{}-{:032x}-{:016x}-", &parent[..2], read.trace, read.span));
        }
    });
}

#[test]
fn hints_say_exactly_what_they_are_read_as_or_are_refused() {
    let times = ["1", "8", "00", "ms", "s", "m", "h", " ", "-", "+", ".", "days", "99999999999999999999"];
    let counts = ["0", "1", "25", "6", "off", "OFF", "+", "-", " ", "\u{e4}"];
    cases(ROUND, |random| {
        let (time, count) = (noise(random, &times, 4), noise(random, &counts, 3));
        if let Ok(hints) = CallerHints::of(&fields([("x-gw-timeout", &*time)])) {
            let read = hints.time.expect("it was said");
            assert!(!read.is_zero(), "{time}");
            assert_eq!(
                humantime::parse_duration(&humantime::format_duration(read).to_string()),
                Ok(read),
                "{time}"
            );
        }
        let expected = match &*count {
            "off" => Some(0),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse::<u8>().ok(),
            _ => None,
        };
        let read = CallerHints::of(&fields([("x-gw-retry", &*count)])).ok().and_then(|hints| hints.retries);
        assert_eq!(read, expected, "{count}");
    });
}

#[test]
fn an_id_is_kept_whole_or_not_at_all() {
    cases(ROUND, |random| {
        let said = noise(
            random,
            &["a", "7", "-", "~", " ", "\t", "\u{e4}", "\"", "0123456789abcdef0123456789abcdef"],
            6,
        );
        let id = RequestId::of(&fields([("x-request-id", &*said)]), true, || 7);
        let is_sane = !said.is_empty() && said.len() <= 128 && said.chars().all(|c| ('!'..='~').contains(&c));
        assert_eq!(id.as_str(), if is_sane { &*said } else { "00000000000000000000000000000007" });
    });
}
