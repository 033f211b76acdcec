//! `gwctl call`, beside a data plane and a replica that answers as it is told.

use std::process::Output;

use gateway_tests::{Act, DataPlane, Scripted, binaries};
use serde_json::Value;

async fn call(data: &DataPlane, args: &[&str]) -> Output {
    let mut gwctl = binaries::gwctl();
    gwctl.arg("call").args(args).args(["--proxy", &format!("http://{}", data.address())]);
    tokio::task::spawn_blocking(move || gwctl.output().unwrap()).await.unwrap()
}

fn failed() -> Act {
    Act::Answer(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno".to_vec())
}

async fn start(replica: &Scripted) -> (DataPlane, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("static.toml");
    let text = format!("[[service]]\nname = 'orders'\nreplicas = ['{}']", replica.address());
    std::fs::write(&file, text).unwrap();
    (DataPlane::start(&["--static", file.to_str().unwrap(), "--debug-headers"]).await, folder)
}

#[tokio::test]
async fn a_body_comes_out_as_it_came_where_nobody_looks_at_it() {
    const BODY: &[u8] = b"\x00\xff\x1b[31m\r\nno last line";
    let replica = Scripted::start(|_, _| Act::ok(BODY));
    let (data, _folder) = start(&replica).await;
    let called = call(&data, &["orders/x"]).await;
    assert_eq!((called.status.code(), &called.stdout[..]), (Some(0), BODY));
    let by_host = call(&data, &["x", "-H", "Host: orders.localhost"]).await;
    assert_eq!(
        (by_host.status.code(), &by_host.stdout[..]),
        (Some(0), BODY),
        "the host that was named leads there"
    );
}

#[tokio::test]
async fn a_call_that_fails_is_made_again_as_often_as_is_allowed_and_the_last_answer_is_the_one() {
    let replica = Scripted::start(|_, number| if number < 2 { failed() } else { Act::ok(b"yes") });
    let (data, _folder) = start(&replica).await;
    let retried = ["--auto-retry", "--retry-delay", "10ms"];
    let called = call(&data, &[&["orders/x", "-o", "json"][..], &retried].concat()).await;
    let told: Value = serde_json::from_slice(&called.stdout).unwrap();
    let one = &told["calls"][0];
    let statuses: Vec<_> =
        one["tries"].as_array().unwrap().iter().map(|tried| tried["status"].as_u64()).collect();
    assert_eq!(called.status.code(), Some(0));
    assert_eq!((statuses, one["body"].as_str()), (vec![Some(500), Some(500), Some(200)], Some("yes\n")));

    let replica = Scripted::start(|_, _| failed());
    let (data, _folder) = start(&replica).await;
    let called = call(&data, &[&["orders/x", "--retry-limit", "2"][..], &retried].concat()).await;
    assert_eq!((called.status.code(), &called.stdout[..]), (Some(1), &b"no"[..]));
    let said = String::from_utf8(called.stderr).unwrap();
    assert_eq!(said.matches("try ").count(), 3, "{said}");
}
