//! PROXY headers that a seed makes and spoils, read by a second reader that shares nothing with the first.

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use super::{Beginning, MAX_HEADER, SIGNATURE, SocketAddr, look};
use crate::proxy::{fuzz::cases, h1::tests::messages};

/// A right header.
pub(in crate::proxy) fn header(random: &mut SmallRng) -> Vec<u8> {
    let (source, destination) = (random.random::<u32>(), random.random::<u32>());
    let (from, to) = (random.random::<u16>(), random.random::<u16>());
    let v4 = |bits: u32| std::net::Ipv4Addr::from_bits(bits);
    let v6 = |bits: u32| std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(bits));
    let block = |source: &[u8], destination: &[u8]| {
        [source, destination, &from.to_be_bytes(), &to.to_be_bytes()].concat()
    };
    let of_v4 = || block(&v4(source).octets(), &v4(destination).octets());
    let of_v6 = || block(&v6(source).octets(), &v6(destination).octets());
    match random.random_range(0..8) {
        0 => format!("PROXY TCP4 {} {} {from} {to}\r\n", v4(source), v4(destination)).into_bytes(),
        1 => format!("PROXY TCP6 {} {} {from} {to}\r\n", v6(source), v6(destination)).into_bytes(),
        2 => format!("PROXY UNKNOWN{}\r\n", ["", " ", " whatever\n it is"].choose(random).unwrap())
            .into_bytes(),
        kind => {
            let (command, family, mut block) = match kind {
                3 | 4 => (1, 0x11, of_v4()),
                5 => (1, 0x21, of_v6()),
                6 => (random.random_range(0..2), random.random(), [of_v6(), of_v6(), vec![0; 216]].concat()),
                _ => (0, 0, Vec::new()),
            };
            block.extend((0..random.random_range(0..3) * random.random_range(0..600)).map(|_| b'x'));
            let length = u16::try_from(block.len()).unwrap().to_be_bytes();
            [&SIGNATURE[..], &[0x20 | command, family], &length, &block].concat()
        }
    }
}

/// Does something to a header.
pub(in crate::proxy) fn spoil(random: &mut SmallRng, bytes: &mut Vec<u8>) {
    let head = bytes.len().min(60);
    match random.random_range(0..4) {
        0 => messages::mutate(random, bytes),
        1 => bytes[random.random_range(0..head)] ^= 1 << random.random_range(0..8),
        2 => bytes.truncate(random.random_range(0..bytes.len())),
        _ => {
            let odd: &[&[u8]] =
                &[b" ", b"0", b"+", b"-1", b"%1", b"256", b"65536", b"\r", b"\n", b"\r\n", b"::", b"TCP6 "];
            let at = random.random_range(0..head);
            bytes.splice(at..at, odd.choose(random).unwrap().iter().copied());
        }
    }
}

/// The length of the whole, right header that these bytes begin with, and whom it names.
pub(in crate::proxy) fn reading(bytes: &[u8]) -> Option<(usize, Option<SocketAddr>)> {
    if bytes.first() == Some(&b'P') { reading_v1(bytes) } else { reading_v2(bytes) }
}

fn reading_v1(bytes: &[u8]) -> Option<(usize, Option<SocketAddr>)> {
    let end = (2..=bytes.len().min(107)).find(|at| bytes[..*at].ends_with(b"\r\n"))?;
    let line = str::from_utf8(&bytes[..end - 2]).ok()?;
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Some((end, None)),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let is_one = |text: &str| match family {
                "TCP4" => {
                    let parts: Vec<_> = text.split('.').map(decimal).collect();
                    parts.len() == 4 && parts.iter().all(|part| part.is_some_and(|part| part < 256))
                }
                _ => text.contains(':') && !text.contains('%') && text.parse::<std::net::Ipv6Addr>().is_ok(),
            };
            let port = |text| decimal(text).and_then(|port| u16::try_from(port).ok());
            (is_one(source) && is_one(destination)).then_some(())?;
            let source = source.parse().ok()?;
            port(to)?;
            Some((end, Some(SocketAddr::new(source, port(from)?))))
        }
        _ => None,
    }
}

/// A number as it is written by those who write it.
fn decimal(text: &str) -> Option<u32> {
    let number = text
        .chars()
        .try_fold(0_u32, |number, digit| number.checked_mul(10)?.checked_add(digit.to_digit(10)?));
    number.filter(|number| number.to_string() == text)
}

fn reading_v2(bytes: &[u8]) -> Option<(usize, Option<SocketAddr>)> {
    let rest = bytes.strip_prefix(b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a")?;
    let [command @ (0x20 | 0x21), family, high, low, rest @ ..] = rest else { return None };
    let length = usize::from(*high) * 256 + usize::from(*low);
    let block = rest.get(..length).filter(|_| 16 + length <= MAX_HEADER)?;
    let source = match (command, family) {
        (0x20, _) => None,
        (_, 0x11) => {
            let [a, b, c, d, _, _, _, _, high, low, _, _, ..] = block else { return None };
            Some(SocketAddr::from(([*a, *b, *c, *d], u16::from(*high) << 8 | u16::from(*low))))
        }
        (_, 0x21) => {
            let address: [u8; 16] = block.get(..16)?.try_into().ok()?;
            let [high, low, _, _] = block.get(32..36)? else { return None };
            Some(SocketAddr::from((address, u16::from(*high) << 8 | u16::from(*low))))
        }
        _ => None,
    };
    Some((16 + length, source))
}

/// Cases of a round.
const ROUND: usize = 20_000;

#[test]
fn a_header_is_taken_for_what_a_second_reader_takes_it_for_or_for_none() {
    cases(ROUND, |random| {
        let mut bytes = header(random);
        if random.random_bool(0.7) {
            spoil(random, &mut bytes);
        }
        bytes.extend_from_slice([&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\r\n"].choose(random).unwrap());
        let seen = look(&bytes);
        let ours = match seen {
            Ok(Beginning::Header { length, source }) => Some((length, source)),
            _ => None,
        };
        assert_eq!(ours, reading(&bytes), "{}: {seen:?}", bytes.escape_ascii());
    });
}
