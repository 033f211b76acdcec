//! Requests go round the replicas, exactly.

use bytes::Bytes;
use gateway_tests::{Act, Gateway, Scripted, http1::Connection};
use http::{Request, header::HOST};
use tokio::task::JoinSet;

const REQUESTS: usize = 800;
const CONNECTIONS: usize = 10;

/// Sends all requests over all connections at once, and returns what each of four replicas has seen.
async fn shares(host: Option<&'static str>, target: &'static str) -> Vec<usize> {
    let gateway = Gateway::start().await;
    let replicas: Vec<Scripted> = (0..4).map(|_| Scripted::start(|_, _| Act::ok(b"hello"))).collect();
    for (number, replica) in replicas.iter().enumerate() {
        gateway.register("orders", &format!("r-{number}"), replica.address()).await;
    }
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let proxy = gateway.proxy();
        clients.spawn(async move {
            let mut connection = Connection::open(proxy).await.unwrap();
            for _ in 0..REQUESTS / CONNECTIONS {
                let mut request = Request::get(target);
                if let Some(host) = host {
                    request = request.header(HOST, host);
                }
                let answer = connection.send(request.body(Bytes::new()).unwrap()).await.unwrap();
                assert_eq!(answer.status(), 200);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    replicas.iter().map(|replica| replica.seen().len()).collect()
}

#[tokio::test]
async fn requests_by_path_are_shared_out_exactly() {
    assert_eq!(shares(None, "/orders/hello").await, [200, 200, 200, 200]);
}

#[tokio::test]
async fn requests_by_host_are_shared_out_exactly() {
    assert_eq!(shares(Some("orders.localhost:8080"), "/hello").await, [200, 200, 200, 200]);
}

#[tokio::test]
async fn a_replica_that_joins_or_leaves_changes_the_shares_of_all_others_alike() {
    let gateway = Gateway::start().await;
    let replicas: Vec<Scripted> = (0..3).map(|_| Scripted::start(|_, _| Act::ok(b"hello"))).collect();
    let mut client = Connection::open(gateway.proxy()).await.unwrap();
    let mut counts = vec![Vec::new(); 3];
    // One replica, then two, then three: twelve requests each time.
    for number in 0..3 {
        gateway.register("orders", &format!("r-{number}"), replicas[number].address()).await;
        let before: Vec<usize> = replicas.iter().map(|replica| replica.seen().len()).collect();
        for _ in 0..12 {
            let request = Request::get("/orders/hello").body(Bytes::new()).unwrap();
            assert_eq!(client.send(request).await.unwrap().status(), 200);
        }
        counts[number] =
            replicas.iter().zip(before).map(|(replica, before)| replica.seen().len() - before).collect();
    }
    assert_eq!(counts, [[12, 0, 0], [6, 6, 0], [4, 4, 4]]);
}
