//! The harness itself: a test is worth as much as the replicas that it trusts.

mod bench_cores;
mod counts;
mod histories;
mod leases;

use gateway_tests::{Act, Scripted, http1};

#[tokio::test]
async fn it_records_what_it_is_sent_and_plays_its_script() {
    let replica = Scripted::start(|_, number| if number == 0 { Act::ok(b"hello") } else { Act::Reset });
    let request = http::Request::post("/a%20b?c").body("body".into()).unwrap();
    let mut connection = http1::Connection::open(replica.address()).await.unwrap();
    let answer = connection.send(request).await.unwrap();
    assert_eq!(answer.body().as_ref(), b"hello");
    assert!(connection.send(http1::request(http::Method::GET, "/")).await.is_err());

    let seen = replica.seen();
    assert_eq!(
        (seen[0].method(), seen[0].target(), seen[0].body.as_slice()),
        ("POST", "/a%20b?c", &b"body"[..])
    );
    assert_eq!(seen[1].method(), "GET");
}

#[tokio::test]
async fn chunked_bodies_are_read_without_their_framing() {
    let replica = Scripted::start(|_, _| Act::AnswerAndClose(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()));
    let request =
        b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
    http1::raw(replica.address(), request).await;
    assert_eq!(replica.seen()[0].body, b"abc0123456789");
}

#[tokio::test]
async fn its_port_can_refuse_and_listen_again() {
    let mut replica = Scripted::refusing(|_, _| Act::ok(b""));
    assert!(http1::Connection::open(replica.address()).await.is_err());
    replica.listen();
    assert_eq!(http1::get(replica.address(), "/").await.status(), 200);
    replica.refuse().await;
    assert!(http1::Connection::open(replica.address()).await.is_err());
}
