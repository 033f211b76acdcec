//! HTTP/2: whatever frames a client sends, the replica sees in HTTP/1 what was asked for and nothing else; what is malformed
//! reaches nobody, and every stream is answered or reset.

use std::collections::HashMap;

use rand::{Rng, rngs::SmallRng, seq::IndexedMutRandom};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    rounds,
    stage::{PATIENCE, Stage, on_a_stage},
};
use crate::proxy::h1::tests::{Message, messages};

/// Connections of a round, each with up to three streams.
const CONNECTIONS: usize = 600;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// Nobody knows what it is for.
const UNKNOWN: u8 = 0xbe;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The field that tells requests apart, by numbers that no spoilt byte makes of one another: what an earlier connection asked
/// for may reach the replica late.
const MARK: &str = "x-mark";

/// What has to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The replica gets it.
    Taken,
    /// Others may judge otherwise than this gateway: if the replica gets it, then whole.
    Open,
    /// The replica hears nothing of it.
    Refused,
}
use Fate::{Open, Refused, Taken};

/// A request as it was meant.
#[derive(Debug)]
struct Wish {
    fate: Fate,
    method: &'static str,
    target: &'static str,
    host: &'static str,
    body: Vec<u8>,
    /// Whether its length is told as it is, or not at all.
    is_honest: bool,
}

/// Pseudo-fields and fields, in their order.
type Block = Vec<(String, Vec<u8>)>;

/// Values, and what has to become of requests with them.
type Choices<T> = [(T, Fate)];

fn choose<T: Copy>(random: &mut SmallRng, fate: &mut Fate, of: &Choices<T>) -> T {
    // Mostly the first ones, which are right.
    let index =
        if random.random_bool(0.7) { random.random_range(0..2) } else { random.random_range(0..of.len()) };
    *fate = of[index].1.max(*fate);
    of[index].0
}

/// Anything that may be asked, as a client of HTTP/2 says it.
fn wish(random: &mut SmallRng, mark: u64) -> (Wish, Block, Block) {
    let mut fate = Taken;
    let method = choose(
        random,
        &mut fate,
        &[
            ("GET", Taken),
            ("POST", Taken),
            ("HEAD", Taken),
            ("PURGE", Taken),
            ("G T", Refused),
            ("", Refused),
        ],
    );
    let target = choose(
        random,
        &mut fate,
        &[
            ("/orders/a?b=c", Taken),
            ("/orders/%2F..//x", Taken),
            ("/orders", Taken),
            ("/orders/a b", Refused),
            ("/orders/\0", Refused),
            ("/orders/\r\nx: 1", Refused),
            ("orders/a", Open),
            ("?a", Open),
            ("*", Open),
            ("http://b/orders/", Open),
            ("/orders/#a", Open),
            ("", Refused),
        ],
    );
    let mut host = choose(
        random,
        &mut fate,
        &[
            ("gw", Taken),
            ("gw:80", Taken),
            ("[::1]", Taken),
            ("orders.localhost", Open),
            ("u@gw", Refused),
            ("g w", Refused),
            ("gw/x", Refused),
            ("gw\r\nx: 1", Refused),
            ("%67w", Refused),
        ],
    );
    let scheme =
        choose(random, &mut fate, &[("http", Taken), ("https", Taken), ("ht tp", Refused), ("", Open)]);
    let mut fields: Block = vec![(MARK.into(), mark.to_string().into())];
    for _ in 0..random.random_range(0..4) {
        let (name, value) = choose::<(&str, &[u8])>(
            random,
            &mut fate,
            &[
                (("accept", b"*/*"), Taken),
                (("cookie", b"a=1"), Taken),
                (("te", b"trailers"), Taken),
                (("x-empty", b""), Taken),
                (("x-bytes", b"\xc3\xa4\xff"), Taken),
                (("x-forwarded-for", b"203.0.113.9"), Taken),
                (("", b"1"), Refused),
                (("connection", b"close"), Refused),
                (("keep-alive", b"1"), Refused),
                (("transfer-encoding", b"chunked"), Refused),
                (("upgrade", b"h2c"), Refused),
                (("proxy-connection", b"close"), Refused),
                (("te", b"gzip"), Refused),
                (("x-blank", b" 1"), Refused),
                (("X-Upper", b"1"), Refused),
                (("x name", b"1"), Refused),
                (("x:name", b"1"), Refused),
                (("x-line", b"1\r\nx: 1"), Refused),
                (("x-nul", b"1\x001"), Refused),
                ((":path", b"/orders/other"), Refused),
                ((":other", b"1"), Refused),
                (("host", b"other"), Refused),
            ],
        );
        fields.push((name.into(), value.into()));
    }
    let body: Vec<u8> =
        (0..random.random_range(0..4) * random.random_range(0..40)).map(|_| random.random()).collect();
    let said = match random.random_range(0..10) {
        0..4 => None,
        4..9 => Some(body.len()),
        _ => Some(random.random_range(0..100)),
    };
    let is_honest = said.is_none_or(|said| said == body.len());
    if let Some(said) = said {
        fields.push(("content-length".into(), said.to_string().into()));
    }
    fate = fate.max(if is_honest { Taken } else { Open });
    let mut trailers = Block::new();
    if random.random_bool(0.2) {
        let trailer = choose(
            random,
            &mut fate,
            &[("x-sum", Taken), ("x-more", Taken), (":path", Open), ("X-Sum", Open)],
        );
        trailers.push((trailer.into(), b"1".into()));
    }
    let mut block: Block =
        [(":method", method), (":scheme", scheme), (":path", target), (":authority", host)]
            .map(|(name, value)| (name.to_owned(), value.into()))
            .into();
    if random.random_bool(0.05) {
        // One is missing, or behind the fields.
        let moved = block.remove(random.random_range(0..block.len()));
        let is_last: bool = random.random();
        // Without an authority there is no host, but where a field says one.
        let has_host = moved.0 == ":authority" && !is_last && fields.iter().any(|(name, _)| name == "host");
        fate = if has_host { Open } else { Refused };
        if has_host {
            host = "other";
        }
        if is_last {
            fields.push(moved);
        }
    }
    block.append(&mut fields);
    (Wish { fate, method, target, host, body, is_honest }, block, trailers)
}

/// The fields as HPACK has them without its tables.
fn encoded(block: &Block) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in block {
        bytes.extend([0, u8::try_from(name.len()).unwrap()]);
        bytes.extend(name.as_bytes());
        bytes.push(u8::try_from(value.len()).unwrap());
        bytes.extend(value);
    }
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block in one frame or several.
fn headers(random: &mut SmallRng, stream: u32, block: &Block, flags: u8) -> Vec<Vec<u8>> {
    let bytes = encoded(block);
    let (first, rest) = bytes.split_at(random.random_range(0..=bytes.len()));
    if random.random() {
        let parts = [(HEADERS, flags, first), (CONTINUATION, END_HEADERS, rest)];
        // Nothing may come between them.
        return vec![parts.map(|(kind, flags, part)| frame(kind, flags, stream, part)).concat()];
    }
    let padding = random.random_range(0..9);
    let padded = [&[padding][..], &bytes, &vec![0; padding.into()]].concat();
    vec![match random.random() {
        true => frame(HEADERS, flags | END_HEADERS, stream, &bytes),
        false => frame(HEADERS, flags | END_HEADERS | PADDED, stream, &padded),
    }]
}

/// The frames of one request, in their order.
fn request(random: &mut SmallRng, stream: u32, wish: &Wish, block: &Block, trailers: &Block) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let ends_at_once = wish.body.is_empty() && trailers.is_empty() && random.random();
    frames.extend(headers(random, stream, block, if ends_at_once { END_STREAM } else { 0 }));
    if ends_at_once {
        return frames;
    }
    let pieces = messages::pieces(random, &wish.body);
    frames.extend(pieces.iter().map(|piece| frame(DATA, 0, stream, piece)));
    match trailers.is_empty() {
        true => frames.push(frame(DATA, END_STREAM, stream, b"")),
        false => frames.extend(headers(random, stream, trailers, END_STREAM)),
    }
    frames
}

/// The frames of several requests, each in its own order, and some that concern none.
fn interleaved(random: &mut SmallRng, mut streams: Vec<Vec<Vec<u8>>>) -> Vec<u8> {
    // Streams begin in the order of their numbers.
    let mut bytes: Vec<u8> = streams.iter_mut().flat_map(|frames| frames.remove(0)).collect();
    while let Some(frames) = streams.choose_mut(random) {
        if frames.is_empty() {
            streams.retain(|frames| !frames.is_empty());
            continue;
        }
        bytes.extend(frames.remove(0));
        match random.random_range(0..20) {
            0 => bytes.extend(frame(UNKNOWN, 0xff, 1, b"anything")),
            1 => bytes.extend(frame(PING, 0, 0, &[7; 8])),
            _ => {}
        }
    }
    bytes
}

/// How streams ended, by their numbers: whether with an answer.
struct Heard {
    streams: HashMap<u32, bool>,
    /// Whether the connection was ended before all of them.
    is_cut: bool,
}

/// Reads until so many streams have ended, or the connection has.
async fn hear(stream: &mut TcpStream, count: usize) -> Heard {
    let mut heard = Heard { streams: HashMap::new(), is_cut: false };
    while heard.streams.len() < count {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            heard.is_cut = true;
            break;
        }
        let [a, b, c, kind, flags, number @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            heard.is_cut = true;
            break;
        }
        let number = u32::from_be_bytes(number);
        match kind {
            RST_STREAM => drop(heard.streams.entry(number).or_insert(false)),
            DATA | HEADERS if flags & END_STREAM > 0 => drop(heard.streams.insert(number, true)),
            GOAWAY => heard.is_cut = true,
            _ => {}
        }
    }
    heard
}

/// What holds for whatever a replica gets.
fn check_message(message: &Message, because: &[u8]) {
    let count = |name: &str| message.fields.iter().filter(|(known, _)| known == name).count();
    let because = because.escape_ascii();
    assert_eq!(count("host"), 1, "{because}");
    for name in ["connection", "keep-alive", "te", "upgrade", "proxy-connection"] {
        assert_eq!(count(name), 0, "{name} because of {because}");
    }
    let forwarded = message.fields.iter().find(|(name, _)| name == "x-forwarded-for");
    assert_eq!(forwarded.map(|(_, value)| &value[..]), Some(&b"127.0.0.1"[..]), "{because}");
}

/// Whether a replica got what was wished for.
fn check(wish: &Wish, seen: &[&Message], because: &[u8]) {
    let because = because.escape_ascii();
    match (wish.fate, seen) {
        (Taken, [_]) | (Open | Refused, []) => {}
        (Open, [_]) => {}
        _ => panic!("{wish:?} was seen as {seen:?}: {because}"),
    }
    let [message] = seen else { return };
    let [method, target, host] = &message.start;
    assert_eq!((&**method, &**host), (wish.method, wish.host), "{because}");
    if wish.is_honest {
        assert_eq!(message.body, wish.body, "{because}");
    }
    if wish.fate == Taken {
        let rest = wish.target.strip_prefix("/orders").expect("others are nobody's");
        let expected = if rest.is_empty() { "/" } else { rest };
        assert_eq!(target, expected, "{because}");
    }
}

async fn meant(stage: &Stage, random: &mut SmallRng) -> usize {
    let numbers: Vec<u32> = (0..random.random_range(1..=3)).map(|index| 2 * index + 1).collect();
    let mut wishes = HashMap::new();
    let mut streams = Vec::new();
    for number in &numbers {
        let mark = random.random();
        let (wish, block, trailers) = wish(random, mark);
        streams.push(request(random, *number, &wish, &block, &trailers));
        wishes.insert(mark, wish);
    }
    let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &interleaved(random, streams)].concat();
    let mut stream = stage.connect().await;
    for piece in messages::pieces(random, &bytes) {
        // It may have ended already.
        let _ = stream.write_all(piece).await;
    }
    let heard = timeout(PATIENCE, hear(&mut stream, numbers.len())).await;
    let heard =
        heard.unwrap_or_else(|_| panic!("a stream is neither answered nor reset: {}", bytes.escape_ascii()));
    let seen = stage.seen(&bytes);
    seen.iter().for_each(|message| check_message(message, &bytes));
    let are_all_right = wishes.values().all(|wish| wish.fate == Taken);
    assert!(!(are_all_right && heard.is_cut), "the connection was cut: {}", bytes.escape_ascii());
    let marked = |message: &Message, mark: u64| {
        message.fields.iter().any(|(name, value)| name == MARK && *value == mark.to_string().as_bytes())
    };
    for (mark, wish) in &mut wishes {
        if heard.is_cut {
            wish.fate = wish.fate.max(Open);
        }
        let seen: Vec<_> = seen.iter().filter(|message| marked(message, *mark)).collect();
        check(wish, &seen, &bytes);
    }
    seen.len()
}

/// Bytes that are spoilt anywhere: they have an end, and cost nobody else anything.
async fn spoilt(stage: &Stage, random: &mut SmallRng) {
    let mut streams = Vec::new();
    for number in [1, 3] {
        let mark = random.random();
        let (wish, block, trailers) = wish(random, mark);
        streams.push(request(random, number, &wish, &block, &trailers));
    }
    let mut bytes = [&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 9])[..], &interleaved(random, streams)].concat();
    messages::mutate(random, &mut bytes);
    let bytes = [PREFACE, &bytes].concat();
    let mut stream = stage.connect().await;
    for piece in messages::pieces(random, &bytes) {
        let _ = stream.write_all(piece).await;
    }
    let _ = stream.shutdown().await;
    let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "it has no end: {}", bytes.escape_ascii());
    stage.seen(&bytes).iter().for_each(|message| check_message(message, &bytes));
}

async fn round(stage: &Stage, random: &mut SmallRng) {
    let mut requests = 0;
    for number in 0..CONNECTIONS {
        match random.random_bool(0.7) {
            true => requests += meant(stage, random).await,
            false => spoilt(stage, random).await,
        }
        if number % 50 == 0 {
            stage.serves_others(b"").await;
            stage.seen(b"");
        }
    }
    assert!(requests > CONNECTIONS / 10, "the cases are too wild: {requests}");
}

#[test]
fn a_replica_sees_exactly_the_requests_that_a_client_sent_in_http_2() {
    rounds(|random| on_a_stage(|_| {}, async |stage| round(stage, random).await));
}
