//! `gwctl top` without a terminal: once for programs, and as tables one after the other.

use gateway_tests::{Act, Gateway, Load, Process, Scripted, binaries, command, eventually};

#[tokio::test]
async fn top_measures_once_for_programs_and_goes_on_as_tables() {
    let gateway = Gateway::start_unchecked().await;
    let good = Scripted::start(|_, _| Act::ok(b"hello"));
    gateway.register("orders", "good", good.address()).await;
    let load = Load::start(gateway.proxy(), "/orders/hello", 50);
    let url = gateway.control.url();
    let measured = eventually("top measures the load", async || {
        let measured = command::gwctl(&url, &["top", "--once", "-o", "json"]).await.json();
        let service = measured["services"][0].clone();
        if service["success"] == 1.0 && service["p99Seconds"].is_f64() {
            Ok(service)
        } else {
            Err(measured.to_string())
        }
    })
    .await;
    assert_eq!(measured["service"], "orders");
    assert!(measured["requestsPerSecond"].as_f64().unwrap() > 5.0, "{measured}");
    assert_eq!(measured["replicas"][0]["replicaId"], "good");
    assert_eq!(measured["openBreakerCount"], 0);

    let mut top = binaries::gwctl();
    top.args(["--endpoint", &url, "top"]);
    let top = Process::spawn("top", &mut top);
    eventually("there are two tables", async || {
        let printed = top.stdout();
        if printed.matches("SERVICE ").count() >= 2 { Ok(()) } else { Err(printed) }
    })
    .await;
    assert!(!top.stdout().contains('\u{1b}'), "{}", top.stdout());
    let missing = command::gwctl(&url, &["top", "odrers", "--once"]).await;
    assert_eq!(missing.code(), 3, "{}", missing.stderr);
    assert!(missing.stderr.contains("did you mean \"orders\"?"), "{}", missing.stderr);
    load.stop().await.assert_flawless();
}
