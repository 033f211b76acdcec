//! What is recorded of attempts, for the question what other rules would have done.

use std::sync::Arc;

use data_plane::routing::replay;
use gateway_proto::Policy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};

use crate::harness::{Gateway, eventually, raw_replica, read_message};

#[tokio::test]
async fn what_breaks_off_in_the_middle_of_its_body_was_sent_when_it_began_and_not_when_it_broke_off() {
    let breaks = Arc::new(Semaphore::new(0));
    let breaking = Arc::clone(&breaks);
    let replica = raw_replica(move |mut stream| {
        let breaks = Arc::clone(&breaking);
        async move {
            read_message(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
            breaks.acquire().await.expect("it is never closed").forget();
        }
    })
    .await;
    let policy = Policy::default();
    let gateway = Gateway::start(&[replica], policy).await;
    gateway.table.record_outcomes(64);
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = gateway.connect().await;
        client.write_all(b"GET /orders/ HTTP/1.1\r\nhost: gw\r\n\r\n").await.expect("it is taken");
        client.read_exact(&mut [0; 12]).await.expect("its answer has begun");
        clients.push(client);
    }
    let recorded = || gateway.service().replicas()[0].recorded();
    let read_on = clients.into_iter().map(|mut client| async move {
        let _ = client.read_to_end(&mut Vec::new()).await;
    });
    let clients: tokio::task::JoinSet<()> = read_on.collect();
    for count in 1..=8 {
        breaks.add_permits(1);
        eventually("it has broken off", || recorded().len() == count).await;
    }
    clients.join_all().await;
    let replayed = replay(&recorded(), &policy.breaker);
    assert_eq!((replayed.trips, replayed.failures, replayed.shed_failures), (1, 8, 0), "{:?}", recorded());
}
