//! HTTP/2 as h2spec, which knows the specification, finds it.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use gateway_tests::{Act, DataPlane, Scripted, command, tools};

/// Its last line and what it found wrong.
async fn checked(address: SocketAddr, flags: &[&str]) -> (String, Vec<String>) {
    let mut h2spec = Command::new(tools::h2spec());
    h2spec.args(["--strict", "--timeout", "4", "-h", &address.ip().to_string()]);
    // A replica reads a body before it answers, so that what is wrong with one shows before there is an answer.
    h2spec.args(["-p", &address.port().to_string(), "-P", "/orders/"]).args(flags);
    let stdout = command::run(h2spec).await.stdout;
    let (_, failures) = stdout.split_once("Failures:").unwrap_or_default();
    // Failed cases are marked, with their number and what they do.
    let failures = failures.lines().filter(|line| line.contains('×')).map(|line| line.trim().to_owned());
    (stdout.lines().last().unwrap_or_default().to_owned(), failures.collect())
}

#[tokio::test]
async fn http_2_is_as_it_is_specified_by_h2spec() {
    // Much of what is wrong with a stream is wrong with an open one, and ignored once there was an answer. So it is late enough
    // that a program which waits for its turn between two frames has sent the second one, too.
    let replica = Scripted::start(|_, _| {
        let Act::Answer(answer) = Act::ok(b"an answer of a few bytes") else { unreachable!() };
        Act::AnswerAfter(Duration::from_millis(50), answer)
    });
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let service = format!("[[service]]\nname = \"orders\"\nreplicas = [\"{}\"]\n", replica.address());
    fs::write(path("services.toml"), service).unwrap();
    let made = rcgen::generate_simple_self_signed(["gw.example".to_owned()]).unwrap();
    fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    fs::write(path("crt"), made.cert.pem()).unwrap();
    let flags = ["--static", &path("services.toml"), "--tls-listen", "127.0.0.1:0"];
    let files = ["--tls-certificate", &path("crt"), "--tls-key", &path("key")];
    let data = DataPlane::start(&[&flags[..], &files].concat()).await;

    let secure = data.secure().expect("the ready line names it");
    for (address, flags) in [(secure, &["--tls", "--insecure"][..]), (data.address(), &[])] {
        let (last, failures) = checked(address, flags).await;
        assert_eq!((last.as_str(), failures), ("146 tests, 146 passed, 0 skipped, 0 failed", vec![]));
    }
}
