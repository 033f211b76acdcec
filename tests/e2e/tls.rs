//! A data plane that serves TLS, as curl sees it.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use gateway_tests::{Act, DataPlane, Scripted, command, eventually, tools};

/// A certificate for `gw.example`, trusted by itself, and its key.
fn write_certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["gw.example".to_owned()]).unwrap();
    fs::write(folder.join("key"), made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("crt"), made.cert.pem()).unwrap();
}

/// Asks by HTTPS, trusting only the certificate in this file; yields the protocol and the body, or why it failed.
async fn ask(address: SocketAddr, trusted: &Path, flags: &[&str]) -> Result<String, String> {
    let mut curl = Command::new(tools::curl());
    let (port, ip) = (address.port(), address.ip());
    curl.args(["-sS", "--cacert", &trusted.display().to_string(), "-w", " by HTTP/%{http_version}"])
        .args([
            "--resolve",
            &format!("gw.example:{port}:{ip}"),
            &format!("https://gw.example:{port}/orders/x"),
        ])
        .args(flags);
    let done = command::run(curl).await;
    if done.status.success() { Ok(done.stdout) } else { Err(done.stderr) }
}

#[tokio::test]
async fn https_in_both_versions_is_served_and_a_new_certificate_shown_when_there_is_one_by_curl() {
    let replica = Scripted::start(|_, _| Act::ok(b"hello"));
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let service = format!("[[service]]\nname = \"orders\"\nreplicas = [\"{}\"]\n", replica.address());
    fs::write(path("services.toml"), service).unwrap();
    write_certificate(directory.path());
    let flags = ["--static", &path("services.toml"), "--tls-listen", "127.0.0.1:0"];
    let files = ["--tls-certificate", &path("crt"), "--tls-key", &path("key")];
    let data = DataPlane::start(&[&flags[..], &files].concat()).await;
    let secure = data.secure().expect("the ready line names it");

    let before = directory.path().join("before");
    fs::copy(path("crt"), &before).unwrap();
    assert_eq!(ask(secure, &before, &["--http1.1"]).await.unwrap(), "hello by HTTP/1.1");
    assert_eq!(ask(secure, &before, &["--http2"]).await.unwrap(), "hello by HTTP/2");
    assert_eq!(ask(secure, &before, &["--tls-max", "1.2"]).await.unwrap(), "hello by HTTP/2");
    let old = ask(secure, &before, &["--tls-max", "1.1"]).await.unwrap_err();
    assert!(old.contains("SSL") || old.contains("TLS"), "{old}");

    write_certificate(directory.path());
    eventually("the new certificate is shown", async || {
        ask(secure, &directory.path().join("crt"), &[]).await
    })
    .await;
    let stale = ask(secure, &before, &[]).await.unwrap_err();
    assert!(stale.contains("certificate"), "{stale}");
}
