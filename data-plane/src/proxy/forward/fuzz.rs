//! What requests and answers say to the gateway, under what a seed makes up, against a second reading of the same.

use std::time::{Duration, SystemTime};

use gateway_proto::policy::{Algorithm, Balancing};
use http::StatusCode;
use rand::{Rng, rngs::SmallRng};

use super::{affinity, grpc, pushback, route, stale};
use crate::{
    proxy::{
        fuzz::{cases, fields, noise},
        head::{ResponseHead, hints::timeout_text},
    },
    routing::{balancing::hash, retry::Pushback},
};

const ROUND: usize = 4_000;
/// What numbers are made of, and what has been taken for them.
const NUMBERS: &[&str] =
    &["0", "1", "7", "59", "+", "-", " ", ".", "e", "99999999999999999999", "_", "\u{e4}", ""];

/// What digits alone say; more than fits is the most there is.
fn digits(text: &str) -> Option<u64> {
    let is_one = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    is_one.then(|| text.parse().unwrap_or(u64::MAX))
}

#[test]
fn a_call_has_as_much_time_as_its_timeout_says_and_the_next_one_no_more() {
    cases(ROUND, |random| {
        let text = noise(random, &["0", "1", "9", "99999999", "H", "M", "S", "m", "u", "n", "+", " "], 4);
        let nanos = |unit| match unit {
            'H' => Some(3_600_000_000_000_u128),
            'M' => Some(60_000_000_000),
            'S' => Some(1_000_000_000),
            'm' => Some(1_000_000),
            'u' => Some(1_000),
            'n' => Some(1),
            _ => None,
        };
        let expected = text.char_indices().next_back().and_then(|(at, unit)| {
            let number = digits(&text[..at]).filter(|_| at <= 8)?;
            Some(u128::from(number) * nanos(unit)?)
        });
        let read = grpc::timeout(&fields([("grpc-timeout", &*text)]));
        assert_eq!(read.ok().flatten().map(|time| time.as_nanos()), expected, "{text:?}");

        let left = Duration::from_nanos(random.random::<u64>() >> random.random_range(0..64));
        let told = timeout_text(left);
        let told = grpc::timeout(&fields([("grpc-timeout", &*told)])).unwrap().unwrap();
        assert!(told <= left.max(Duration::from_micros(1)), "{told:?} of {left:?}");
        assert!(
            left - told.min(left) <= (left / 10_000).max(Duration::from_micros(1)),
            "{told:?} of {left:?}"
        );
    });
}

#[test]
fn a_status_is_a_number_in_digits_or_none() {
    cases(ROUND, |random| {
        let text = noise(random, NUMBERS, 3);
        let expected = digits(&text).and_then(|number| u8::try_from(number).ok());
        assert_eq!(grpc::status(text.as_bytes()), expected, "{text:?}");
    });
}

#[test]
fn a_replica_is_left_alone_for_as_long_as_it_says() {
    // Sun, 06 Nov 1994 08:49:37 GMT.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    cases(ROUND, |random| {
        let text = noise(random, NUMBERS, 3);
        let after = |time| Some(Pushback::After(time));
        let said = pushback::of(&fields([("retry-after", &*text)]), false, now);
        assert_eq!(
            said,
            digits(text.trim_matches(' ')).and_then(|seconds| after(Duration::from_secs(seconds))),
            "{text:?}"
        );

        let said = pushback::of(&fields([("grpc-retry-pushback-ms", &*text)]), true, now);
        let millis = text.parse::<u64>().ok().filter(|_| digits(&text).is_some());
        let expected =
            millis.map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis)));
        assert_eq!(said, Some(expected), "{text:?}");

        let wait = Duration::from_secs(random.random_range(0..1_000_000));
        let date = httpdate::fmt_http_date(now + wait);
        assert_eq!(pushback::of(&fields([("retry-after", &*date)]), false, now), after(wait), "{date}");
    });
}

/// One directive or more, with anything about them.
fn directives(random: &mut SmallRng) -> String {
    let pieces = [
        "no-store",
        "No-Cache",
        "private",
        "public",
        "max-age",
        "s-maxage",
        "must-revalidate",
        "stale-if-error",
        "=",
        "=60",
        "=\"7\"",
        "=+5",
        ",",
        ", ",
        " ",
        "\"",
        "=99999999999999999999",
        "x",
    ];
    noise(random, &pieces, 6)
}

#[test]
fn what_a_replica_lets_nobody_keep_or_use_stale_is_not_kept_and_what_it_bounds_is_bounded() {
    cases(ROUND, |random| {
        let lines: Vec<_> = (0..random.random_range(0..3)).map(|_| directives(random)).collect();
        let said = lines.iter().flat_map(|line| line.split(',')).map(|directive| {
            let (name, value) =
                directive.split_once('=').map_or((directive, None), |(name, value)| (name, Some(value)));
            (name.trim().to_ascii_lowercase(), value.unwrap_or_default().trim().to_owned())
        });
        let mut expected = Some(Duration::MAX);
        for (name, value) in said {
            match &*name {
                "no-store" | "no-cache" | "private" | "must-revalidate" | "s-maxage" => expected = None,
                "stale-if-error" => {
                    let inner =
                        value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(&value);
                    let allowed = digits(inner).map(Duration::from_secs);
                    expected = expected.zip(allowed).map(|(one, other)| one.min(other));
                }
                _ => {}
            }
        }
        let head = ResponseHead::new(
            StatusCode::OK,
            fields(lines.iter().map(|line| ("cache-control", line.as_str()))),
        );
        assert_eq!(stale::may_keep(&head).map(|terms| terms.allowed), expected, "{lines:?}");

        let age = noise(random, NUMBERS, 3);
        let expected = Duration::from_secs(digits(age.trim_matches(' ')).unwrap_or(0));
        assert_eq!(stale::age(&fields([("age", &*age)])), expected, "{age:?}");
    });
}

#[test]
fn a_key_is_the_first_cookie_of_its_name() {
    let balancing = Balancing {
        algorithm: Algorithm::ConsistentHash,
        hash_by: "cookie:sid".parse().unwrap(),
        ..Balancing::default()
    };
    cases(ROUND, |random| {
        let pieces = ["sid", "=", ";", "; ", " ", "x", "sid=1", "SID=2", "\"", ",", "\u{e4}"];
        let lines: Vec<_> = (0..random.random_range(0..3)).map(|_| noise(random, &pieces, 8)).collect();
        let all = lines.join(";");
        let cookies = all.split(';').filter_map(|cookie| cookie.split_once('='));
        let first = cookies
            .map(|(name, value)| (name.trim_start(), value.trim_end()))
            .find(|(name, _)| *name == "sid");
        let fields = fields(lines.iter().map(|line| ("cookie", line.as_str())));
        let expected = first.map(|(_, value)| hash(value.as_bytes()));
        assert_eq!(affinity::key(&balancing, &fields, "10.0.0.7"), expected, "{lines:?}");
    });
}

#[test]
fn a_request_goes_where_its_host_says_or_else_its_first_segment() {
    cases(ROUND, |random| {
        let hosts = [
            "orders",
            ".",
            "localhost",
            ".localhost",
            ".gw.example",
            ".GW.Example",
            ":80",
            ":",
            "[::1]",
            "a",
        ];
        let (host, path) =
            (noise(random, &hosts, 4), noise(random, &["/", "orders", "%6F", "..", ".", "*", "?"], 5));
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let name = name.map_or(&*host, |(name, _)| name).to_ascii_lowercase();
        let by_host = ["localhost", "gw.example"].iter().find_map(|suffix| {
            let service = name.strip_suffix(suffix)?.strip_suffix('.')?;
            (!service.is_empty() && !service.contains('.')).then(|| service.to_owned())
        });
        let by_path = path
            .strip_prefix('/')
            .and_then(|rest| rest.split(['/', '?']).next())
            .filter(|name| !name.is_empty());
        let expected = by_host.clone().or(by_path.map(str::to_owned));
        let found = route::route(Some(host.as_bytes()), path.as_bytes(), Some("gw.example"));
        let found = found.map(|route| (route.service.to_ascii_lowercase(), route.is_by_path));
        assert_eq!(
            found,
            expected.map(|service| (service.to_ascii_lowercase(), by_host.is_none())),
            "{host:?} {path:?}"
        );
    });
}
