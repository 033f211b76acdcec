//! PROXY headers: the replica is told of whom a right one names; a connection whose header is spoilt is closed without a
//! word, and nothing of it reaches a replica.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use gateway_proto::Networks;
use rand::{Rng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    rounds,
    stage::{PATIENCE, Stage, on_a_stage},
};
use crate::proxy::{
    ProxyConfig, ProxyHeaders,
    downstream::proxy_protocol::fuzz::{header, reading, spoil},
    h1::tests::messages,
};

const CONNECTIONS: usize = 400;

fn required(config: &mut ProxyConfig) {
    config.proxy_headers = Some(ProxyHeaders::new(Networks::parse(["127.0.0.0/8"]).unwrap(), true));
}

async fn round(stage: &Stage, random: &mut SmallRng) {
    // Nothing of these is ever to be seen; what was closed early may be seen late.
    let (mut closed, mut told) = (HashSet::new(), 0);
    for number in 0..CONNECTIONS {
        let (target, mut bytes) = (format!("/{number}"), header(random));
        if random.random_bool(0.5) {
            spoil(random, &mut bytes);
        }
        let request = format!("GET /orders{target} HTTP/1.0\r\n\r\n");
        bytes.extend(request.as_bytes());
        let mut stream = stage.connect().await;
        for piece in messages::pieces(random, &bytes) {
            // It may have ended already.
            let _ = stream.write_all(piece).await;
        }
        let reading = reading(&bytes).map(|(length, source)| (&bytes[length..], source));
        // What is left may begin otherwise than the request that was meant.
        let is_meant = matches!(reading, Some((rest, _)) if rest == request.as_bytes());
        if !is_meant {
            // More is waited for, perhaps.
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        // With a reset, where it had sent more than was read.
        let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "it has no end: {}", bytes.escape_ascii());
        if reading.is_none() {
            assert!(answer.is_empty(), "{}: {}", bytes.escape_ascii(), answer.escape_ascii());
            closed.insert(target.clone());
        }
        let mut seen = stage.seen(&bytes);
        assert!(
            !seen.iter().any(|message| closed.contains(&message.start[1])),
            "{seen:?} because of {}",
            bytes.escape_ascii()
        );
        seen.retain(|message| message.start[1] == target);
        if let (Some((_, source)), true) = (reading, is_meant) {
            let client = source.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |source| source.ip().to_canonical());
            let [message] = &seen[..] else { panic!("{seen:?} because of {}", bytes.escape_ascii()) };
            let forwarded = message.fields.iter().find(|(name, _)| name == "x-forwarded-for");
            let forwarded = String::from_utf8(forwarded.expect("it is told").1.clone()).unwrap();
            assert_eq!(forwarded, client.to_string(), "{}", bytes.escape_ascii());
            told += 1;
        }
    }
    assert!(told > CONNECTIONS / 4, "the cases are too wild: {told}");
}

#[test]
fn a_replica_is_told_of_whom_a_proxy_header_names_and_of_nobody_whose_header_is_none() {
    rounds(|random| on_a_stage(required, async |stage| round(stage, random).await));
}
