//! HTTP/1: whatever a client sends, the replica sees the requests that it was, in their order, and nothing else; and the client
//! sees as many answers.

use http::Method;
use rand::{Rng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    rounds,
    stage::{PATIENCE, Stage, on_a_stage},
};
use crate::proxy::h1::{
    Length, Refusal,
    tests::{Message, Verdict, messages, read_request, read_response},
};

/// Connections of a round, each with up to three requests.
const CONNECTIONS: usize = 3000;

/// What was asked: method, target and body.
type Asked = (String, String, Vec<u8>);

/// What a connection's bytes are, read one message after the other.
struct Reading {
    asked: Vec<Message>,
    /// Whether the gateway has to say something behind the last of them.
    ends_in_refusal: bool,
}

fn reading(mut bytes: &[u8]) -> Reading {
    let mut asked = Vec::new();
    loop {
        match read_request([bytes]) {
            Verdict::Whole(message) => {
                bytes = &bytes[message.end..];
                let is_last = !message.is_kept_alive;
                asked.push(message);
                if is_last {
                    return Reading { asked, ends_in_refusal: false };
                }
            }
            Verdict::Unfinished => return Reading { asked, ends_in_refusal: false },
            // A connection that begins so ends without an answer.
            Verdict::Refused(Refusal::OtherProtocol) if asked.is_empty() => {
                return Reading { asked, ends_in_refusal: false };
            }
            Verdict::Refused(_) | Verdict::BrokenBody(_) => return Reading { asked, ends_in_refusal: true },
        }
    }
}

/// Sends these bytes in pieces, and reads until all that is expected has come, or the connection ends. The final answers.
async fn ask(mut stream: TcpStream, pieces: &[&[u8]], reading: &Reading) -> usize {
    for piece in pieces {
        // It may have ended already.
        let _ = stream.write_all(piece).await;
    }
    let mut methods = reading.asked.iter().map(|message| message.start[0].parse::<Method>().unwrap());
    let mut method = methods.next().unwrap_or(Method::GET);
    let expected = reading.asked.len() + usize::from(reading.ends_in_refusal);
    let (mut answers, mut bytes) = (0, Vec::new());
    while answers < expected {
        match read_response(&method, [&bytes[..]]) {
            Verdict::Whole(message) if message.end > 0 && message.length != Length::UntilClose => {
                bytes.drain(..message.end);
                if !message.start[0].starts_with('1') {
                    answers += 1;
                    method = methods.next().unwrap_or(Method::GET);
                }
                continue;
            }
            Verdict::Whole(_) | Verdict::Unfinished => {}
            other => panic!("the client got {}: {other:?}", bytes.escape_ascii()),
        }
        let read = timeout(PATIENCE, stream.read_buf(&mut bytes)).await;
        if !matches!(read.expect("no answer comes"), Ok(1..)) {
            // The end of the connection may be that of the last answer.
            let verdict = read_response(&method, [&bytes[..]]);
            return answers + usize::from(!bytes.is_empty() && matches!(verdict, Verdict::Whole(_)));
        }
    }
    answers
}

/// What a replica of `orders` is to be asked, of all that was asked.
fn of_service(asked: &[Message]) -> Vec<Asked> {
    let to_service = |message: &Message| {
        let rest = message.start[1].strip_prefix("/orders").filter(|_| message.start[0] != "CONNECT")?;
        let target = match rest.as_bytes().first() {
            Some(b'/') => rest.to_owned(),
            None | Some(b'?') => format!("/{rest}"),
            Some(_) => return None,
        };
        Some((message.start[0].clone(), target, message.body.clone()))
    };
    asked.iter().filter_map(to_service).collect()
}

fn connection(random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..=3) {
        let mut request = messages::request(random);
        if let Some(at) = request.windows(2).position(|two| two == b" /") {
            request.splice(at..at + 2, *b" /orders/");
        }
        if random.random_bool(0.3) {
            messages::mutate(random, &mut request);
        }
        bytes.extend(request);
    }
    bytes
}

async fn round(stage: &Stage, random: &mut SmallRng) {
    let mut requests = 0;
    for _ in 0..CONNECTIONS {
        let bytes = connection(random);
        if bytes.windows(12).any(|text| text.eq_ignore_ascii_case(b"100-continue")) {
            // Whether such a connection goes on depends on when its pieces come.
            continue;
        }
        let reading = reading(&bytes);
        let answers = ask(stage.connect().await, &messages::pieces(random, &bytes), &reading).await;
        let expected = reading.asked.len() + usize::from(reading.ends_in_refusal);
        assert_eq!(answers, expected, "{}", bytes.escape_ascii());
        let asked = of_service(&reading.asked);
        requests += asked.len();
        let seen = stage.seen(&bytes).into_iter();
        let seen: Vec<Asked> =
            seen.map(|Message { start: [method, target, _], body, .. }| (method, target, body)).collect();
        assert_eq!(seen, asked, "{}", bytes.escape_ascii());
    }
    assert!(requests > CONNECTIONS / 20, "the cases are too wild: {requests}");
}

#[test]
fn a_replica_sees_exactly_the_requests_that_a_client_sent() {
    rounds(|random| on_a_stage(|_| {}, async |stage| round(stage, random).await));
}
