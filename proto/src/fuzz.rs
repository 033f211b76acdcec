//! What callers send, under texts that are made up: whatever is accepted is what it is for every reader behind, in one form,
//! and cannot say anything but itself. docs/fuzzing.md says how to run it for long.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    Address, ControlPlaneUrl, Endpoint, Labels, LeaseId, Networks, Route, TlsServerName,
    policy::{HashBy, Methods, Partial, RateKey, Upgrades},
    size, time, v1, without_user,
};

/// Texts of these pieces.
fn noise(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    vec(select(pieces), 0..=most).prop_map(|pieces| pieces.concat())
}

/// What hosts and ports are made of, and what some readers take for them.
const HOSTS: &[&str] = &[
    "127",
    "0",
    "1",
    "0177",
    "0x7f",
    "255",
    "256",
    "2130706433",
    ".",
    "a",
    "A",
    "-",
    "_",
    "example",
    "localhost",
    "[",
    "]",
    "::1",
    "::ffff:",
    "127.0.0.1",
    "10.0.0.7",
    "fe80::1",
    "%1",
    ":",
    ":80",
    ":0",
    ":65536",
    ":+80",
    "@",
    "/",
    "\\",
    "#",
    "?",
    " ",
    "\t",
    "\r\n",
    "\0",
    "\u{e4}",
    "xn--",
    "\u{ff11}",
];

/// The IPv4 address that the oldest reader of such texts, which many programs still call, takes a host for.
fn inet_aton(host: &str) -> Option<Ipv4Addr> {
    let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok().filter(|_| !text.starts_with('+')),
    };
    let numbers: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, bytes) = numbers.split_last()?;
    let room = 4_u32.checked_sub(u32::try_from(bytes.len()).ok()?).filter(|room| *room > 0)?;
    let fits = bytes.iter().all(|byte| *byte < 256) && u64::from(*last) < 1 << (8 * room);
    let high = bytes.iter().zip([24, 16, 8]).fold(0, |bits, (byte, place)| bits | byte << place);
    fits.then(|| Ipv4Addr::from_bits(high | last))
}

/// Whether a text can stand in a line of a head, of a log, or of a terminal, without being more than that.
fn is_one_line(text: &str) -> bool {
    text.chars().all(|c| (' '..='~').contains(&c))
}

fn policy(texts: &[String; 8]) -> v1::Policy {
    let [hash_by, path, host, statuses, service, header, fallback, content_type] = texts.clone();
    v1::Policy {
        balancing: Some(v1::BalancingPolicy { hash_by: Some(hash_by), ..Default::default() }),
        health_check: Some(v1::HealthCheckPolicy {
            path: Some(path),
            host: Some(host),
            expected_statuses: Some(statuses),
            grpc_service: Some(service),
            ..Default::default()
        }),
        fault: Some(v1::FaultPolicy { header: Some(header), ..Default::default() }),
        fallback: Some(v1::FallbackPolicy {
            service: Some(fallback),
            content_type: Some(content_type),
            ..Default::default()
        }),
        ..Default::default()
    }
}

const SETTINGS: &[&str] = &[
    "",
    "address",
    "header:",
    "cookie:",
    "x-user",
    "X-User",
    "/",
    "/health",
    "?full=1",
    "a.example",
    ":80",
    "[::1]",
    "200",
    "..=",
    "399",
    ",",
    "99",
    "600",
    "shop.v1.Orders",
    "=",
    "1",
    "orders",
    "text/html",
    "; charset=utf-8",
    " ",
    "\r\n",
    "\n",
    "\0",
    "\t",
    "\u{e4}",
    "\u{85}",
    "\u{202e}",
    "#",
    "..",
    "\"",
    "\\",
    "*",
    "none",
    "websocket",
    "h2c",
    "spdy/3.1",
    "GET",
    "get",
];

proptest! {
    /// No reader of addresses takes an accepted one for another place, and nothing rides on it.
    #[test]
    fn an_address_leads_to_one_place_whoever_reads_it(text in noise(HOSTS, 7)) {
        if let Ok(address) = Address::parse(&text) {
            prop_assert!(is_one_line(address.as_str()) && !address.as_str().contains(['@', '/', '\\', '#', '?', '%', ' ', '_']), "{}", text);
            prop_assert_eq!(&Address::parse(address.as_str()).unwrap(), &address);
            prop_assert_eq!(format!("{}:{}", address.host(), address.port()).replace(['[', ']'], ""), address.as_str().replace(['[', ']'], ""));
            if let Some(meant) = inet_aton(address.host()) {
                prop_assert_eq!(address.socket().map(|socket| socket.ip()), Some(IpAddr::V4(meant)), "{}", text);
            }
            let ip: Option<IpAddr> = address.host().parse().ok();
            prop_assert_eq!(address.socket().map(|socket| socket.ip()), ip, "{}", text);
        }
    }

    #[test]
    fn a_server_name_is_one_name_or_address_in_one_form(text in noise(HOSTS, 6)) {
        if let Ok(name) = TlsServerName::parse(&text) {
            prop_assert_eq!(TlsServerName::parse(name.as_str()), Ok(name.clone()));
            prop_assert!(is_one_line(name.as_str()) && !name.as_str().contains(['@', '/', '*', '[', ' ']), "{}", text);
            prop_assert!(inet_aton(name.as_str()).is_none_or(|meant| name.as_str() == meant.to_string()), "{}", text);
        }
    }

    #[test]
    fn an_endpoint_survives_the_wire(address in noise(HOSTS, 5), protocol in -1..5_i32, tls_server_name in noise(HOSTS, 3)) {
        if let Ok(endpoint) = Endpoint::parse(&v1::Endpoint { address, protocol, tls_server_name }) {
            prop_assert_eq!(Endpoint::parse(&endpoint.to_wire()), Ok(endpoint));
        }
    }

    #[test]
    fn networks_are_written_as_they_are_read(texts in vec(noise(&["10.0.0.0", "::", "2001:db8::", "::ffff:10.0.0.0", "/", "8", "08", "+8", "96", "104", "129", " ", ","], 5), 0..4)) {
        if let Ok(networks) = Networks::parse(texts.iter().map(String::as_str)) {
            let written = networks.to_string();
            let again = Networks::parse(written.split(',').filter(|text| !text.is_empty()));
            prop_assert_eq!(again, Ok(networks), "{}", written);
        }
    }

    #[test]
    fn labels_come_back_as_they_were(pairs in vec((noise(&["a", "/", ".", " ", "\0", "\n", "\u{1f}", "\u{e4}", "=", ","], 4), noise(&["b", " ", "\n", "\0", "\u{1f}", "\u{7f}", ","], 4)), 0..5)) {
        if let Ok(labels) = Labels::parse(pairs.clone()) {
            let expected: std::collections::BTreeMap<_, _> = pairs.into_iter().collect();
            let read: std::collections::BTreeMap<_, _> = labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            prop_assert!(read.iter().all(|(key, value)| is_one_line(key) && is_one_line(value)));
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn a_lease_id_is_thirty_two_digits_and_nothing_else(text in noise(&["0123456789abcdef", "0123456789ABCDEF", "0", "f", "+", "-", " ", "0x", "\u{ff11}"], 6)) {
        let is_one = text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit());
        let read = LeaseId::parse(&text).map(|id| id.reveal()).ok();
        prop_assert_eq!(read, is_one.then(|| text.to_ascii_lowercase()));
    }

    #[test]
    fn a_size_is_what_its_digits_and_its_unit_say(text in noise(&["0", "1", "64", "99999999999", "B", "KiB", "MiB", "TiB", "kb", "+", "-", ".", " ", "_"], 5)) {
        let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
        let unit = text.trim()[digits.len()..].trim_start();
        let place = ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|name| *name == unit).or(unit.is_empty().then_some(0));
        let expected = place.zip(digits.parse::<u128>().ok()).map(|(place, number)| number << (10 * place));
        let expected = expected.and_then(|bytes| u64::try_from(bytes).ok());
        prop_assert_eq!(size::parse(&text).ok(), expected, "{}", text);
    }

    #[test]
    fn an_instant_is_written_as_it_is_read(text in noise(&["2026-11-28", "T", "t", " ", "09:00:00", "23:59:60", ".5", ".0000000001", "Z", "+01:00", "-24:00", "-", "+", ":", "9999", "0000", "1", "\u{e4}"], 8), seconds in 0..200_000_000_000_u64) {
        if let Some(at) = time::parse_rfc3339(&text) {
            prop_assert_eq!(time::parse_rfc3339(&time::rfc3339(at)), Some(at), "{}", text);
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        prop_assert_eq!(time::parse_rfc3339(&time::rfc3339(at)), Some(at));
    }

    #[test]
    fn the_url_of_a_control_plane_has_a_host_a_port_and_nothing_else_or_an_absolute_path(text in noise(&["http", "https", "unix", "ftp", "://", "a", "[::1]", ":1", ":0", "/", "?x", "#x", "@", "user:sesame", " ", "\\"], 8)) {
        let Ok(read) = ControlPlaneUrl::parse(&text) else { return Ok(()) };
        match &read {
            ControlPlaneUrl::Web(url) => {
                prop_assert!(!text.contains('@') && url.path() == "/" && url.query().is_none(), "{}", text);
                prop_assert!(url.port_u16().is_some_and(|port| port > 0) && url.host().is_some_and(|host| !host.is_empty()), "{}", text);
            }
            ControlPlaneUrl::Unix(path) => prop_assert!(path.is_absolute() && read.to_string() == text, "{}", text),
        }
        prop_assert_eq!(ControlPlaneUrl::parse(&read.to_string()), Ok(read));
    }

    #[test]
    fn no_password_is_shown_wherever_it_stands(before in noise(&["http://", "ana", ":", "//", "/", "@", "?", " ", "\u{e4}"], 5), behind in noise(&["a", ":1", "/x", "@", "?"], 4)) {
        let shown = without_user(&format!("{before}:sesame@{behind}"));
        prop_assert!(!shown.contains("sesame"), "{}", shown);
    }

    /// Some of them end up in requests, heads, logs and terminals.
    #[test]
    fn a_setting_that_is_a_text_is_kept_in_one_form_and_is_one_line(texts in prop::array::uniform8(noise(SETTINGS, 3))) {
        let wire = policy(&texts);
        if let Ok(partial) = Partial::parse(&wire) {
            let written = partial.to_wire();
            prop_assert_eq!(Partial::parse(&written), Ok(partial));
            prop_assert!(texts.iter().all(|text| is_one_line(text)), "{:?}", texts);
        }
    }

    #[test]
    fn sets_of_methods_and_protocols_are_written_as_they_are_read(names in vec(noise(SETTINGS, 2), 0..4)) {
        if let Ok(methods) = Methods::parse(names.iter().map(String::as_str)) {
            prop_assert_eq!(Methods::parse(methods.names()), Ok(methods));
            prop_assert!(names.iter().all(|name| name == "*" || methods.has(name)));
        }
        if let Ok(upgrades) = Upgrades::parse(names.iter().map(String::as_str)) {
            prop_assert_eq!(Upgrades::parse(upgrades.names()), Ok(upgrades));
            prop_assert!(upgrades.protocols().all(|name| is_one_line(name) && !name.contains([',', ' '])));
            prop_assert!(upgrades.protocols().all(|name| !["h2", "h2c", "http", "tls"].contains(&name.split('/').next().unwrap())));
        }
    }

    #[test]
    fn what_is_hashed_or_counted_is_written_as_it_is_read(text in noise(SETTINGS, 3)) {
        if let Ok(hash_by) = text.parse::<HashBy>() {
            prop_assert_eq!(hash_by.to_string().parse::<HashBy>(), Ok(hash_by));
        }
        if let Ok(key) = text.parse::<RateKey>() {
            prop_assert_eq!(key.to_string().parse::<RateKey>(), Ok(key));
        }
    }

    #[test]
    fn a_route_is_written_as_it_is_read_and_its_texts_are_of_one_line(
        host in noise(&["*.", "shop", ".", "example", "Example", "[", "]", "::1", "0:0::1", ":80", " ", "\n", "\u{e4}", "_"], 5),
        path in noise(&["/", "api", "%2F", "..", ".", "//", "?", "#", " ", "\r\n", "\u{e4}", "*"], 5),
        rewrite in noise(&["/", "v2", "%00", "..", "?", " ", "\n"], 4),
        name in noise(&["x-a", "X-A", "host", ":path", " ", "", "\n"], 2),
        value in noise(&["1", " ", "\n", "\t", "\u{e4}", "\""], 3),
    ) {
        let headers = vec![v1::HeaderMatch { name, value }];
        let wire = v1::Route {
            name: "r".into(), service: "shop".into(), host, path_prefix: path, rewrite_prefix: rewrite, headers,
            ..Default::default()
        };
        if let Ok(route) = Route::parse(&wire) {
            prop_assert!(is_one_line(&route.conditions()), "{:?}", route);
            let prefixes = [Some(&route.path_prefix), route.rewrite_prefix.as_ref()];
            prop_assert!(prefixes.into_iter().flatten().all(|prefix| prefix.starts_with('/') && !prefix.contains(['?', '#', ' '])));
            prop_assert_eq!(Route::parse(&route.to_wire()), Ok(route));
        }
    }
}

#[test]
fn one_address_is_one_host_of_a_route_however_it_is_written() {
    let host = |text: &str| {
        let wire =
            v1::Route { name: "r".into(), service: "shop".into(), host: text.into(), ..Default::default() };
        Route::parse(&wire).unwrap().host
    };
    assert_eq!(host("[0:0::1]"), host("[::1]"));
    assert_eq!(host("[2001:DB8:0::1]"), host("[2001:db8::1]"));
}
