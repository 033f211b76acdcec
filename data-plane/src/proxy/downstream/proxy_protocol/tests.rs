use proptest::prelude::*;

use super::*;

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([0x20 | command, family]);
    bytes.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    bytes.extend(block);
    bytes
}

const IPV4: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x67, 0x01, 0xbb];

fn ipv6() -> Vec<u8> {
    let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
    [&address.octets()[..], &address.octets()[..], &[0x12, 0x67, 0x01, 0xbb]].concat()
}

/// Every kind of header, with what it names.
fn headers() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
    let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    let unknown = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    let (in_v4, in_v6) = (socket("192.0.2.7:4711"), socket("[2001:db8::7]:4711"));
    let with_tlvs = [&IPV4[..], &[0x04, 0, 3, 1, 2, 3, 0xff, 0xff, 0xff]].concat();
    vec![
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n".to_vec(), Some(in_v4)),
        (b"PROXY TCP6 2001:db8::7 2001:db8::7 4711 443\r\n".to_vec(), Some(in_v6)),
        (longest.into(), Some(socket(all))),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (unknown.into(), None),
        (v2(1, 0x11, &IPV4), Some(in_v4)),
        (v2(1, 0x11, &with_tlvs), Some(in_v4)),
        (v2(1, 0x21, &ipv6()), Some(in_v6)),
        (v2(1, 0x31, &[7; 216]), None),
        (v2(1, 0x00, &[]), None),
        (v2(1, 0x12, &IPV4), None),
        (v2(0, 0x11, &IPV4), None),
        (v2(0, 0x00, &[]), None),
        (v2(0, 0x11, &[1; MAX_HEADER - V2_HEAD]), None),
    ]
}

#[test]
fn every_header_is_known_whatever_follows_it() {
    for (bytes, source) in headers() {
        let expected = Ok(Beginning::Header { length: bytes.len(), source });
        for rest in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\r\n", &bytes] {
            assert_eq!(look(&[&bytes[..], rest].concat()), expected, "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn a_header_that_comes_in_pieces_is_waited_for_at_every_byte() {
    for (bytes, _) in headers() {
        for end in 0..bytes.len() {
            let is_certain = end >= if bytes[0] == b'P' { V1.len() } else { SIGNATURE.len() };
            let expected = if is_certain { Beginning::Part } else { Beginning::Open };
            assert_eq!(look(&bytes[..end]), Ok(expected), "{}", bytes[..end].escape_ascii());
        }
    }
}

#[test]
fn what_begins_otherwise_is_no_header_from_its_first_byte_that_differs() {
    for other in [
        "GET / HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "POST / HTTP/1.1",
        "PUT",
        "PROXYING / HTTP/1.1",
        "proxy TCP4",
        "\r\nGET",
        "\r\n\r\nGET",
        "\x16\x03\x01\x02",
    ] {
        assert_eq!(look(other.as_bytes()), Ok(Beginning::None), "{other:?}");
    }
}

#[test]
fn a_line_that_is_not_exactly_one_is_refused() {
    for line in [
        "",
        "TCP4",
        "TCP4 192.0.2.7 192.0.2.1 4711",
        "TCP4 192.0.2.7 192.0.2.1 4711 443 ",
        "TCP4 192.0.2.7 192.0.2.1 4711 443 1",
        "TCP4  192.0.2.7 192.0.2.1 4711 443",
        "TCP4 192.0.2.7 192.0.2.1 04711 443",
        "TCP4 192.0.2.7 192.0.2.1 +4711 443",
        "TCP4 192.0.2.7 192.0.2.1 4711 65536",
        "TCP4 192.0.2.07 192.0.2.1 4711 443",
        "TCP4 2001:db8::7 192.0.2.1 4711 443",
        "TCP6 192.0.2.7 192.0.2.1 4711 443",
        "TCP6 fe80::1%1 ::1 4711 443",
        "UDP4 192.0.2.7 192.0.2.1 4711 443",
        "UNKNOWNS",
        "tcp4 192.0.2.7 192.0.2.1 4711 443",
        "TCP4 192.0.2.7\t192.0.2.1 4711 443",
        "TCP4 192.0.2.7 192.0.2.1 4711 443\nX: y",
    ] {
        assert_eq!(look(format!("PROXY {line}\r\n").as_bytes()), Err(Defect::Line), "{line:?}");
    }
    let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 15));
    assert_eq!(look(endless.as_bytes()), Err(Defect::EndlessLine));
    assert_eq!(look(&endless.as_bytes()[..106]), Ok(Beginning::Part), "it may yet end in time");
}

#[test]
fn a_block_that_is_not_exactly_one_is_refused_as_soon_as_it_shows() {
    let broken = |at: usize, byte: u8| {
        let mut bytes = v2(1, 0x11, &IPV4);
        bytes[at] = byte;
        bytes
    };
    assert_eq!(look(&broken(12, 0x11)[..13]), Err(Defect::Version));
    assert_eq!(look(&broken(12, 0x31)[..13]), Err(Defect::Version));
    assert_eq!(look(&broken(12, 0x22)[..13]), Err(Defect::Command));
    assert_eq!(look(&broken(14, 0xff)[..16]), Err(Defect::TooLong));
    assert_eq!(look(&v2(1, 0x11, &IPV4[..11])), Err(Defect::Addresses));
    assert_eq!(look(&v2(1, 0x21, &IPV4)), Err(Defect::Addresses));
    assert_eq!(look(&v2(0, 0x11, &[1; MAX_HEADER - V2_HEAD + 1])[..16]), Err(Defect::TooLong));
}

proptest! {
    /// Whatever comes, the verdict on more bytes never takes back that on fewer.
    #[test]
    fn no_bytes_make_it_panic_or_change_its_mind(
        which in 0_usize..14,
        changes in proptest::collection::vec((0_usize..64, any::<u8>()), 0..4),
        rest in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = headers().swap_remove(which).0;
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.extend(rest);
        let whole = look(&bytes);
        for end in 0..bytes.len() {
            match look(&bytes[..end]) {
                Ok(Beginning::Open | Beginning::Part) => {}
                settled => prop_assert_eq!(settled, whole, "{}", end),
            }
        }
        if let Ok(Beginning::Header { length, .. }) = whole {
            prop_assert!(length <= bytes.len() && length <= MAX_HEADER);
        }
    }

    #[test]
    fn noise_is_no_header(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Beginning::Header { length, .. }) = look(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }

    #[test]
    fn what_is_written_is_what_is_read(a: [u8; 4], b: [u8; 4], from: u16, to: u16) {
        let (source, destination) = (SocketAddr::from((a, from)), SocketAddr::from((b, to)));
        let line = format!("PROXY TCP4 {} {} {from} {to}\r\n", source.ip(), destination.ip());
        let block = [&a[..], &b, &from.to_be_bytes(), &to.to_be_bytes()].concat();
        for bytes in [line.into_bytes(), v2(1, 0x11, &block)] {
            let expected = Beginning::Header { length: bytes.len(), source: Some(source) };
            prop_assert_eq!(look(&bytes), Ok(expected));
        }
    }
}
