use http::{Method, Version};
use proptest::prelude::*;

use super::*;

fn fields(lines: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in lines {
        fields.append_other(name.as_bytes(), value.as_bytes());
    }
    fields
}

fn trusted() -> Networks {
    Networks::parse(["10.0.0.0/8", "2001:db8::/32"]).unwrap()
}

/// What a replica is told under `name` of a request with these fields.
fn told(lines: &[(&str, &str)], peer: Peer<'_>, prefix: Option<&str>) -> Vec<(String, String)> {
    let mut fields = fields(lines);
    let host = fields.span(Name::Host);
    let target = fields.store(b"/");
    let prefix = prefix.map(|prefix| fields.store(prefix.as_bytes()));
    let mut head = RequestHead::new(Method::GET, Version::HTTP_11, target, host, fields);
    tell(&mut head, peer, true, prefix);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    head.fields.iter().map(|(name, value)| (text(name).to_ascii_lowercase(), text(value))).collect()
}

fn one<'a>(told: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = told.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let first = values.next();
    assert_eq!(values.next(), None, "{name} is said twice");
    first
}

const STRANGER: Peer<'static> = Peer { ip: "192.0.2.7", scheme: "http", is_trusted: false };
const PROXY: Peer<'static> = Peer { ip: "10.0.0.1", scheme: "http", is_trusted: true };
const CLAIMS: [(&str, &str); 8] = [
    ("Host", "inside:81"),
    ("X-Forwarded-For", "198.51.100.1"),
    ("x-forwarded-for", "203.0.113.9"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "outside.example"),
    ("X-Forwarded-Port", "8443"),
    ("X-Forwarded-Prefix", "/outer"),
    ("Forwarded", "for=198.51.100.1;proto=https"),
];

#[test]
fn a_strangers_claims_are_replaced_by_what_is_seen() {
    let told = told(&CLAIMS, STRANGER, Some("/orders"));
    assert_eq!(one(&told, "x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(one(&told, "x-forwarded-proto"), Some("http"));
    assert_eq!(one(&told, "x-forwarded-host"), Some("inside:81"));
    assert_eq!(one(&told, "x-forwarded-port"), Some("81"));
    assert_eq!(one(&told, "x-forwarded-prefix"), Some("/orders"));
    assert_eq!(one(&told, "forwarded"), Some("for=192.0.2.7;host=\"inside:81\";proto=http"));
}

#[test]
fn a_trusted_proxys_claims_are_kept_and_added_to() {
    let told = told(&CLAIMS, PROXY, Some("/orders"));
    assert_eq!(one(&told, "x-forwarded-for"), Some("198.51.100.1, 203.0.113.9, 10.0.0.1"));
    assert_eq!(one(&told, "x-forwarded-proto"), Some("https"));
    assert_eq!(one(&told, "x-forwarded-host"), Some("outside.example"));
    assert_eq!(one(&told, "x-forwarded-port"), Some("8443"));
    assert_eq!(one(&told, "x-forwarded-prefix"), Some("/outer/orders"));
    let forwarded = "for=198.51.100.1;proto=https, for=10.0.0.1;host=\"inside:81\";proto=http";
    assert_eq!(one(&told, "forwarded"), Some(forwarded));
}

#[test]
fn what_a_trusted_proxy_does_not_say_well_is_said_by_this_gateway() {
    for (name, bad) in [
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-proto", "https, http"),
        ("x-forwarded-host", "a b"),
        ("x-forwarded-host", "user@a"),
        ("x-forwarded-port", "0"),
        ("x-forwarded-port", "+80"),
        ("x-forwarded-port", "65536"),
        ("x-forwarded-prefix", "//evil.example"),
        ("x-forwarded-prefix", "outer"),
        ("x-forwarded-prefix", "/a?b"),
    ] {
        let told = told(&[("host", "inside"), (name, bad)], PROXY, None);
        assert_eq!(one(&told, "x-forwarded-proto"), Some("http"), "{name}: {bad}");
        assert_eq!(one(&told, "x-forwarded-host"), Some("inside"), "{name}: {bad}");
        assert_eq!(one(&told, "x-forwarded-port"), Some("80"), "{name}: {bad}");
        assert_eq!(one(&told, "x-forwarded-prefix"), None, "{name}: {bad}");
    }
    let twice = [("x-forwarded-host", "a"), ("x-forwarded-host", "b"), ("host", "inside")];
    assert_eq!(one(&told(&twice, PROXY, None), "x-forwarded-host"), Some("inside"), "which one?");
}

#[test]
fn the_port_is_the_one_that_the_client_named_or_its_schemes() {
    let port = |lines: &[(&str, &str)], scheme| {
        let told = told(lines, Peer { scheme, ..PROXY }, None);
        one(&told, "x-forwarded-port").unwrap().to_owned()
    };
    assert_eq!(port(&[("host", "a")], "http"), "80");
    assert_eq!(port(&[("host", "a")], "https"), "443");
    assert_eq!(port(&[("host", "a:8080")], "https"), "8080");
    assert_eq!(port(&[("host", "[2001:db8::1]")], "http"), "80");
    assert_eq!(port(&[("host", "[2001:db8::1]:81")], "http"), "81");
    assert_eq!(port(&[], "http"), "80");
    assert_eq!(port(&[("host", "a"), ("x-forwarded-proto", "HTTPS")], "http"), "443");
    assert_eq!(port(&[("host", "a:1"), ("x-forwarded-host", "b:2")], "http"), "2");
}

#[test]
fn forwarded_quotes_what_is_no_token() {
    let peer = Peer { ip: "2001:db8::7", scheme: "https", is_trusted: false };
    let element =
        |host: Option<&str>| String::from_utf8(forwarded_element(peer, host.map(str::as_bytes))).unwrap();
    assert_eq!(element(Some("a.example")), "for=\"[2001:db8::7]\";host=a.example;proto=https");
    assert_eq!(element(Some("[::1]:8")), "for=\"[2001:db8::7]\";host=\"[::1]:8\";proto=https");
    assert_eq!(element(Some("a\"\\")), "for=\"[2001:db8::7]\";host=\"a\\\"\\\\\";proto=https");
    assert_eq!(element(Some("")), "for=\"[2001:db8::7]\";proto=https");
    assert_eq!(element(None), "for=\"[2001:db8::7]\";proto=https");
}

#[test]
fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
    for (lines, client) in [
        (&["203.0.113.9"][..], Some("203.0.113.9")),
        (&["1.1.1.1, 203.0.113.9, 10.0.0.2"], Some("203.0.113.9")),
        (&["1.1.1.1", "203.0.113.9:4711", "10.0.0.2"], Some("203.0.113.9")),
        (&["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
        (&["::ffff:203.0.113.9, [2001:db8::2]:80, 2001:db8::3"], Some("203.0.113.9")),
        (&["[fe80::1]"], Some("fe80::1")),
        (&["1.1.1.1, unknown, 10.0.0.2"], Some("10.0.0.2")),
        (&["1.1.1.1, 010.0.0.2"], None),
        (&["fe80::1%eth0"], None),
        (&["[fe80::1%3]:80"], None),
        (&["localhost"], None),
        (&["203.0.113.9 "], Some("203.0.113.9")),
        (&["203.0.113.9,,"], Some("203.0.113.9")),
        (&["\"203.0.113.9\""], None),
        (&[""], None),
        (&[], None),
    ] {
        let lines: Vec<_> = lines.iter().map(|value| ("x-forwarded-for", *value)).collect();
        let found = claimed_client(&fields(&lines), &trusted());
        assert_eq!(found, client.map(|client| client.parse().unwrap()), "{lines:?}");
    }
}

#[test]
fn the_search_for_the_client_has_an_end() {
    let list = format!("203.0.113.9{}", ", 10.0.0.2".repeat(10_000));
    let found = claimed_client(&fields(&[("x-forwarded-for", &list)]), &trusted());
    assert_eq!(found, Some("10.0.0.2".parse().unwrap()));
}

proptest! {
    /// Whatever stands to the left of the last address that is not trusted changes nothing.
    #[test]
    fn nobody_can_be_somebody_else_by_what_he_sends_himself(forged in "[0-9a-f.:, \\[\\]a-z\"%-]{0,60}") {
        let list = format!("{forged}, 203.0.113.9, 10.0.0.2");
        let found = claimed_client(&fields(&[("x-forwarded-for", &list)]), &trusted());
        prop_assert_eq!(found, Some("203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn no_claim_makes_it_panic_or_forge_a_line(value in "[\\t -~]{0,60}") {
        let lines: Vec<_> = CLAIMS.iter().map(|(name, _)| (*name, value.as_str())).collect();
        let all = told(&lines, PROXY, Some("/orders"));
        for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-port", "forwarded"] {
            prop_assert!(one(&all, name).is_some(), "{}", name);
        }
    }
}
