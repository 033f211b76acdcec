//! What is written about the API holds: its OpenAPI document, and the lines to paste of docs/rest.md.

use std::{path::Path, process::Command};

use gateway_tests::{Act, Gateway, Scripted, command, http1, tools};

#[tokio::test]
async fn answers_are_as_the_openapi_document_describes_them_by_python() {
    let gateway = Gateway::start().await;
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "r-1", replica.address()).await;
    gateway.synced().await;
    assert_eq!(http1::get(gateway.proxy(), "/orders/x").await.status(), 200);
    let mut command = Command::new(tools::python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python/openapi.py"));
    command.arg(gateway.control.address().to_string());
    let checked = command::run(command).await.success();
    for line in [
        "valid 3.1.0",
        "POST /v1/services/orders/replicas 201",
        "GET /v1/breakers 200",
        "GET /statistics 200",
    ] {
        assert!(checked.lines().any(|checked| checked == line), "{line}:\n{checked}");
    }
}

/// The lines of the blocks that are to be pasted into a shell.
fn lines_to_paste(document: &str) -> String {
    let blocks = document.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix("sh\n")).collect()
}

#[tokio::test]
async fn the_lines_of_the_rest_document_work_in_their_order_by_curl() {
    let gateway = Gateway::start().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rest.md");
    let document = std::fs::read_to_string(path).unwrap();
    let lines = lines_to_paste(&document).replace("localhost:7400", &gateway.control.address().to_string());
    assert!(lines.matches("curl ").count() > 15, "{lines}");
    // Whatever is refused ends the script, and says so.
    let strict = "set -euo pipefail\n\
        curl() { command curl --silent --show-error --fail-with-body --max-time 10 \"$@\"; }\n";
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{strict}{lines}")]).env("PATH", tools::path());
    let finished = command::run(shell).await;
    assert_eq!(finished.code(), 0, "{}\n{}", finished.stdout, finished.stderr);
    // The script takes away what it brought.
    assert_eq!(gateway.replicas("orders").await, [], "{}", finished.stdout);
}
