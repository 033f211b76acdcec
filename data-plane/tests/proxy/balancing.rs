//! Which replica a request goes to, where its key, the load or the latency decides.

use std::{collections::BTreeSet, sync::Arc};

use gateway_proto::{
    Policy,
    policy::{Algorithm, Balancing},
};
use tokio::{io::AsyncWriteExt, sync::Semaphore};

use crate::harness::{Act, Gateway, Replica, body, eventually, ok, status};

fn policy(algorithm: Algorithm, hash_by: &str) -> Policy {
    let hash_by = hash_by.parse().expect("a valid key");
    Policy { balancing: Balancing { algorithm, hash_by, ..Balancing::default() }, ..Policy::default() }
}

async fn three() -> Vec<Replica> {
    let mut replicas = Vec::new();
    for name in ["one", "two", "three"] {
        replicas.push(Replica::start(move |_, _| ok(name)).await);
    }
    replicas
}

#[tokio::test]
async fn requests_of_one_user_go_to_one_replica_and_those_of_many_to_all() {
    let replicas = three().await;
    let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
    for (hash_by, name) in [("header:X-User", "x-user: "), ("cookie:sid", "cookie: a=b; sid=")] {
        let gateway = Gateway::start(&addresses, policy(Algorithm::ConsistentHash, hash_by)).await;
        let mut used = BTreeSet::new();
        for user in 0..20 {
            let request = format!(
                "GET /orders/ HTTP/1.1\r\nhost: gw\r\n{name}user-{user}\r\nconnection: close\r\n\r\n"
            );
            let first = gateway.send(&request).await;
            assert_eq!(status(&first), 200, "{first}");
            for _ in 0..3 {
                assert_eq!(body(&gateway.send(&request).await), body(&first), "{hash_by} {user}");
            }
            used.insert(body(&first).to_owned());
        }
        assert_eq!(used.len(), 3, "{hash_by}");
        // Without a key they take turns.
        let mut turns = BTreeSet::new();
        for _ in 0..3 {
            turns.insert(body(&gateway.get("/orders/").await).to_owned());
        }
        assert_eq!(turns.len(), 3);
    }
}

#[tokio::test]
async fn requests_of_one_client_address_go_to_one_replica_until_it_fails() {
    let replicas = three().await;
    let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
    let gateway = Gateway::start(&addresses, policy(Algorithm::ConsistentHash, "address")).await;
    let first = gateway.get("/orders/").await;
    for _ in 0..10 {
        assert_eq!(body(&gateway.get("/orders/").await), body(&first));
    }
    let index = ["one", "two", "three"].iter().position(|name| *name == body(&first)).unwrap();
    replicas[index].kill().await;
    let second = gateway.get("/orders/").await;
    assert_eq!(status(&second), 200);
    assert_ne!(body(&second), body(&first));
    assert_eq!(body(&gateway.get("/orders/").await), body(&second), "its heir is the same each time");
}

#[tokio::test]
async fn a_replica_that_is_busy_gets_nothing_while_another_is_free() {
    let free = Replica::start(|_, _| ok("free")).await;
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let busy = crate::harness::raw_replica(move |mut stream| {
        let gate = Arc::clone(&opened);
        async move {
            let _ = crate::harness::read_message(&mut stream).await;
            let _turn = gate.acquire().await;
            let Act::Send(bytes) = ok("busy") else { return };
            let _ = stream.write_all(bytes.as_bytes()).await;
        }
    })
    .await;
    let gateway = Gateway::start(&[busy, free.address], policy(Algorithm::LeastRequest, "address")).await;
    // Until one is held by the busy one, all are answered by the other.
    let held = async {
        loop {
            if body(&gateway.get("/orders/").await) == "busy" {
                return;
            }
        }
    };
    let others = async {
        eventually("a request is held", || gateway.inflight(0) == 1).await;
        for _ in 0..20 {
            assert_eq!(body(&gateway.get("/orders/").await), "free");
        }
        assert_eq!(gateway.inflight(0), 1);
        gate.add_permits(1);
    };
    tokio::join!(held, others);
}
