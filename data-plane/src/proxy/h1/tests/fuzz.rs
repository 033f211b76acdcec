//! The parsers under messages that a seed makes and spoils.

use http::Method;
use rand::{Rng, rngs::SmallRng};

use super::{
    super::{
        limits::HeadLimits,
        request, response,
        scan::{HeadScan, Kind},
        write,
    },
    Verdict, messages, read_answer, read_request, read_response,
};
use crate::proxy::{fuzz::cases, head::field_name::Name};

/// Cases of one round.
const ROUND: usize = 4_000;

/// What has to hold for whatever is taken for a request.
fn check_request(bytes: &[u8], pieces: &[&[u8]]) {
    let verdict = read_request([bytes]);
    assert_eq!(read_request(pieces.iter().copied()), verdict, "in pieces: {}", bytes.escape_ascii());
    let Verdict::Whole(message) = verdict else { return };
    assert!(message.end <= bytes.len());
    let start = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let end = bytes[start..].windows(4).position(|four| four == b"\r\n\r\n").expect("it is whole") + 4;
    let (mut parsed, parsed_end) =
        request::parse(&bytes[start..], &HeadLimits::default()).expect("it was taken");
    assert_eq!(parsed_end, end);
    write::frame(&mut parsed.head.fields, parsed.length);
    let mut out = Vec::new();
    write::request_head(&mut out, &parsed.head, None);
    // Every line break is one that the gateway means.
    let breaks = out.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(breaks, parsed.head.fields.count() + 2, "{}", out.escape_ascii());
    assert_eq!(out.iter().filter(|&&byte| byte == b'\r').count(), breaks);
    if parsed.head.method != Method::CONNECT && parsed.head.fields.contains(Name::Host) {
        let (again, _) =
            request::parse(&out, &HeadLimits::default()).expect("what is sent onward is what is taken");
        assert_eq!((again.length, again.head.target()), (parsed.length, parsed.head.target()));
        assert_eq!(again.head.fields.count(), parsed.head.fields.count());
    }
}

/// A head that is guessed, and taken, is the one that is found line by line.
fn check_guess(random: &mut SmallRng, bytes: &[u8]) {
    let limits = HeadLimits {
        bytes: random.random_range(20..300),
        fields: random.random_range(0..8),
        target: random.random_range(1..40),
    };
    for kind in [Kind::Request, Kind::Response] {
        let mut scan = HeadScan::new(kind);
        let Some(guess) = scan.guess(bytes, &limits) else { continue };
        let taken = match kind {
            Kind::Request => request::parse(guess, &limits).map(|(_, end)| end),
            Kind::Response => response::parse(&Method::GET, None, guess, &limits).map(|(_, end)| end),
        };
        if let Ok(end) = taken {
            assert_eq!(scan.find(bytes, &limits), Ok(Some(0..end)), "{} by {limits:?}", bytes.escape_ascii());
        }
    }
}

#[test]
fn a_head_that_is_guessed_is_the_one_that_is_found() {
    let mut guesses = 0;
    cases(2 * ROUND, |random| {
        let is_request: bool = random.random();
        let mut bytes = if is_request { messages::request(random) } else { messages::response(random) };
        let limits = HeadLimits::default();
        guesses += usize::from(HeadScan::new(Kind::Request).guess(&bytes, &limits).is_some());
        check_guess(random, &bytes);
        messages::mutate(random, &mut bytes);
        check_guess(random, &bytes);
    });
    assert!(guesses > ROUND, "{guesses} only");
}

#[test]
fn no_request_confuses_the_parser() {
    cases(ROUND, |random| {
        let mut bytes = messages::request(random);
        messages::mutate(random, &mut bytes);
        let pieces = messages::pieces(random, &bytes);
        check_request(&bytes, &pieces);
    });
}

#[test]
fn no_response_confuses_the_parser() {
    cases(ROUND, |random| {
        let mut bytes = messages::response(random);
        messages::mutate(random, &mut bytes);
        let pieces = messages::pieces(random, &bytes);
        for method in [Method::GET, Method::HEAD] {
            let verdict = read_response(&method, [&bytes[..]]);
            assert_eq!(read_response(&method, pieces.iter().copied()), verdict, "{}", bytes.escape_ascii());
        }
    });
}

#[test]
fn no_switch_is_taken_for_one_but_to_what_was_asked_for() {
    cases(ROUND, |random| {
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
        for _ in 0..random.random_range(0..5) {
            let lines: [&[u8]; 9] = [
                b"connection: Upgrade\r\n",
                b"connection: upgrade, keep-alive\r\n",
                b"upgrade: websocket\r\n",
                b"Upgrade: WebSocket\r\n",
                b"upgrade: h2c\r\n",
                b"upgrade: websocket, h2c\r\n",
                b"content-length: 0\r\n",
                b"content-length: 5\r\n",
                b"transfer-encoding: chunked\r\n",
            ];
            bytes.extend_from_slice(lines[random.random_range(0..lines.len())]);
        }
        bytes.extend_from_slice(b"\r\nHTTP/1.1 200 OK\r\n");
        if random.random() {
            messages::mutate(random, &mut bytes);
        }
        let asked = Some(&b"x, websocket"[..]);
        let verdict = read_answer(&Method::GET, asked, [&bytes[..]]);
        let pieces = messages::pieces(random, &bytes);
        let again = read_answer(&Method::GET, asked, pieces.iter().copied());
        assert_eq!(again, verdict, "{}", bytes.escape_ascii());
        let Verdict::Whole(message) = verdict else { return };
        if message.start[0] != "101" {
            return;
        }
        let all = |name: &str| {
            let values = message.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
            values.map(|value| value.to_ascii_lowercase()).collect::<Vec<_>>()
        };
        let protocols: Vec<_> = all("upgrade")
            .into_iter()
            .filter(|value| !value.iter().all(|byte| b", \t".contains(byte)))
            .collect();
        assert_eq!(protocols.len(), 1, "{}", bytes.escape_ascii());
        let protocol = protocols[0].split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        let protocol: Vec<_> = protocol.filter(|protocol| !protocol.is_empty()).collect();
        assert!(protocol == [b"websocket"] || protocol == [b"x"], "{}", bytes.escape_ascii());
        assert!(all("connection").iter().any(|value| value.windows(7).any(|seven| seven == b"upgrade")));
        assert!(all("content-length").is_empty() && message.body.is_empty());
    });
}

#[test]
fn no_bytes_at_all_confuse_the_parsers() {
    cases(ROUND, |random| {
        let mut bytes = vec![0; random.random_range(0..200)];
        random.fill(&mut bytes[..]);
        if random.random() {
            bytes.splice(0..0, *b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        }
        let pieces = messages::pieces(random, &bytes);
        check_request(&bytes, &pieces);
    });
}
