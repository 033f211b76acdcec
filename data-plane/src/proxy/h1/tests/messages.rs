//! Messages made from a seed: mostly right ones, and then something is done to them.

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

/// What parsers have stumbled over.
const ODD: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\x0b",
    b"\x7f",
    b"\xc3\xa4",
    b"\xff",
    b"#",
    b"%",
    b"@",
    b"[",
    b"0",
    b"1",
    b"f",
    b"-",
    b"+",
    b"\"",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"chunked",
    b"identity",
    b"close",
    b"keep-alive",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Host: b\r\n",
    b"Expect: 100-continue\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"3\r\nabc\r\n",
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"Connection: close\r\n",
    b"http://b",
];

fn one<'a>(random: &mut SmallRng, of: &[&'a str]) -> &'a str {
    of.choose(random).expect("there is one")
}

fn fields(random: &mut SmallRng) -> String {
    let mut text = String::new();
    for _ in 0..random.random_range(0..5) {
        let names =
            ["x-one", "X-Two", "Accept", "Cookie", "via", "Connection", "TE", "x-one", "Expect", "Trailer"];
        let values =
            ["", "1", "a, b", "close", "keep-alive", "x-one", "\u{fc}", "a\tb", "100-continue", "trailers"];
        let (space, behind) = (one(random, &["", " ", " \t"]), one(random, &["", "", " "]));
        text += &format!("{}:{space}{}{behind}\r\n", one(random, &names), one(random, &values));
    }
    text
}

fn body(random: &mut SmallRng) -> (String, String) {
    let length = random.random_range(0..40);
    let data: String = (0..length).map(|_| random.random_range('a'..='z')).collect();
    match random.random_range(0..5) {
        0 => (format!("{}: {length}\r\n", one(random, &["Content-Length", "content-length"])), data),
        1 | 2 => {
            let mut text = String::new();
            let mut rest = data.as_str();
            while !rest.is_empty() {
                let (chunk, tail) = rest.split_at(random.random_range(1..=rest.len()));
                let extension = one(random, &["", "", ";a", ";a=b", "; a=\"b c\""]);
                text += &format!("{:x}{extension}\r\n{chunk}\r\n", chunk.len());
                rest = tail;
            }
            let trailers = one(random, &["", "", "x-sum: 1\r\n", "x-sum: 1\r\nx-more: 2\r\n"]);
            let coding = one(random, &["chunked", "Chunked", "chunked ", "gzip, chunked", "chunked, gzip"]);
            (format!("Transfer-Encoding: {coding}\r\n"), format!("{text}0\r\n{trailers}\r\n"))
        }
        3 => (String::new(), data),
        _ => (String::new(), String::new()),
    }
}

/// A request, mostly a right one.
pub(in crate::proxy) fn request(random: &mut SmallRng) -> Vec<u8> {
    let method = one(random, &["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PURGE", "CONNECT", "get"]);
    let targets = [
        "/",
        "/a/b?c=d",
        "/%2f//..",
        "/a?b?c",
        "*",
        "http://b/x",
        "https://b:1?x",
        "a:443",
        "/\u{e4}",
        "/{|}\"",
        "",
    ];
    let version = one(random, &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0"]);
    let host = one(
        random,
        &["Host: a\r\n", "host: a.b:80\r\n", "Host:\r\n", "Host: [::1]\r\n", "", "Host: a b\r\n"],
    );
    let (framing, body) = body(random);
    let (first, second) = (fields(random), fields(random));
    let begin = one(random, &["", "", "", "\r\n"]);
    let target = one(random, &targets);
    format!("{begin}{method} {target} {version}\r\n{first}{host}{framing}{second}\r\n{body}").into_bytes()
}

/// A response, mostly a right one.
pub(in crate::proxy) fn response(random: &mut SmallRng) -> Vec<u8> {
    let status = one(
        random,
        &["200 OK", "404 Not Found", "204 No", "304 Not", "500", "503 ", "999 X", "103 Hints", "101 X"],
    );
    let version = one(random, &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]);
    let (framing, body) = body(random);
    let (first, second) = (fields(random), fields(random));
    format!("{version} {status}\r\n{first}{framing}{second}\r\n{body}").into_bytes()
}

/// Does something to a message, or nothing.
pub(in crate::proxy) fn mutate(random: &mut SmallRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..8)).min(bytes.len());
        match random.random_range(0..6) {
            0 => drop(bytes.drain(at..end)),
            1 | 2 => drop(bytes.splice(at..at, ODD.choose(random).expect("there is one").iter().copied())),
            3 => drop(bytes.splice(at..end, ODD.choose(random).expect("there is one").iter().copied())),
            4 => {
                let copy = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, copy));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
}

/// The bytes in pieces, perhaps of one byte each.
pub(in crate::proxy) fn pieces<'a>(random: &mut SmallRng, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let largest = *[1, 3, 20, 200].choose(random).expect("there is one");
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(random.random_range(1..=largest.min(bytes.len())));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
