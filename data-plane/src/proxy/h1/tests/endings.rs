//! The last bytes of a connection, which go out together with its end.

use std::{future::poll_fn, rc::Rc};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::super::wire::{Buffers, Wire};
use crate::proxy::downstream::stream::Stream;

/// Both ends of a connection, the client's last.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, client)
}

fn wire(stream: TcpStream) -> Wire {
    Wire::new(Stream::Tcp(stream), Rc::new(Buffers::default()))
}

#[tokio::test]
async fn whatever_is_written_last_arrives_whole_and_before_the_end() {
    for size in [1, 5_000, 3_000_000] {
        let (stream, mut client) = pair().await;
        let mut wire = wire(stream);
        wire.output().extend_from_slice(b"head");
        wire.queue(Bytes::from(vec![b'x'; size]), b"tail");
        wire.ends_behind();
        let reading = tokio::spawn(async move {
            let mut seen = Vec::new();
            client.read_to_end(&mut seen).await.unwrap();
            seen
        });
        poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
        let seen = reading.await.unwrap();
        assert_eq!(seen.len(), 4 + size + 4);
        assert!(seen.starts_with(b"headx") && seen.ends_with(b"xtail"));
        drop(wire);
    }
}

#[tokio::test]
async fn what_is_written_last_arrives_though_the_client_has_sent_what_nobody_reads() {
    let (stream, mut client) = pair().await;
    client.write_all(b"\r\n").await.unwrap();
    stream.readable().await.unwrap();
    let mut wire = wire(stream);
    wire.output().extend_from_slice(b"the last words");
    wire.ends_behind();
    poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
    // On what is unread: that resets the connection, behind what was sent.
    drop(wire);
    let mut seen = [0; 14];
    client.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"the last words");
}
