//! The first bytes of a connection, which tell HTTP/1 from HTTP/2: whatever they are, it is answered in one of the two, or ends, and
//! the replica sees what they ask for in HTTP/1, or nothing.

use rand::rngs::SmallRng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    noise, rounds,
    stage::{PATIENCE, Stage, on_a_stage},
};
use crate::proxy::h1::tests::{Verdict, messages, read_request};

const CONNECTIONS: usize = 600;
const PIECES: &[&str] = &[
    "P",
    "PR",
    "PRI",
    "PRI ",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "PRI * HTTP/2.0\r\n",
    "INVALID CONNECTION PREFACE",
    "GET",
    " ",
    "/orders/",
    " HTTP/1.1",
    " HTTP/2.0",
    "\r\n",
    "\r\nhost: a",
    "\r\n\r\n",
    "\n",
    "\u{16}\u{3}\u{1}",
    "\0\0\0\u{4}\0\0\0\0\0",
    "SSH-2.0-x",
];
/// A SETTINGS frame of any length.
const SETTINGS: u8 = 4;

async fn round(stage: &Stage, random: &mut SmallRng) {
    for _ in 0..CONNECTIONS {
        let bytes = noise(random, PIECES, 7);
        let bytes = bytes.as_bytes();
        let mut stream = stage.connect().await;
        for piece in messages::pieces(random, bytes) {
            // It may have ended already.
            let _ = stream.write_all(piece).await;
        }
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        let shown = format!("{}: {}", bytes.escape_ascii(), answer.escape_ascii());
        assert!(ended.is_ok(), "it has no end: {shown}");
        let (is_http1, is_http2) = (answer.starts_with(b"HTTP/1.1 "), answer.get(3) == Some(&SETTINGS));
        assert!(answer.is_empty() || is_http1 || is_http2, "{shown}");
        assert!(!(is_http1 && bytes.starts_with(b"PRI ")), "{shown}");
        // A client that has closed its side may be taken for gone.
        let asks = matches!(read_request([bytes]), Verdict::Whole(_)) && !bytes.starts_with(b"PRI ");
        assert!(stage.seen(bytes).is_empty() || asks, "{shown}");
    }
    stage.serves_others(b"").await;
}

#[test]
fn whatever_a_connection_begins_with_is_answered_in_one_version_of_http_or_ends() {
    rounds(|random| on_a_stage(|_| {}, async |stage| round(stage, random).await));
}
