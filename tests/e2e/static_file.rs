//! A data plane by itself: a fixed list of services, no control plane.

use gateway_tests::{Act, DataPlane, Scripted, http1};

#[tokio::test]
async fn a_static_file_is_enough_to_route_and_to_fail_over() {
    let working = Scripted::start(|_, _| Act::ok(b"hello"));
    let refusing = Scripted::refusing(|_, _| Act::ok(b""));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services.toml");
    let replicas = format!("[\"{}\", \"{}\"]", refusing.address(), working.address());
    // Without checks, which would have the dead one out before its breaker.
    let policy = "[service.policy.health_check]\ntype = \"off\"\n";
    std::fs::write(&file, format!("[[service]]\nname = \"orders\"\nreplicas = {replicas}\n{policy}"))
        .unwrap();

    let data = DataPlane::start(&["--static", &file.display().to_string()]).await;
    assert_eq!(http1::get(data.admin(), "/readyz").await.status(), 200);
    for _ in 0..20 {
        let answer = http1::get(data.address(), "/orders/hello").await;
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (200, &b"hello"[..]));
    }
    let breakers = http1::get(data.admin(), "/breakers").await;
    let text = String::from_utf8_lossy(breakers.body()).into_owned();
    assert!(text.contains("consecutive_failures 5 >= 5: connect refused"), "{text}");
}

#[tokio::test]
async fn weights_are_shares() {
    let light = Scripted::start(|_, _| Act::ok(b""));
    let heavy = Scripted::start(|_, _| Act::ok(b""));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services.toml");
    let text = format!(
        "[[service]]\nname = \"orders\"\n\
         [[service.replica]]\naddress = \"{}\"\nweight = 100\n\
         [[service.replica]]\naddress = \"{}\"\nweight = 300\n",
        light.address(),
        heavy.address()
    );
    std::fs::write(&file, text).unwrap();
    let data = DataPlane::start(&["--static", &file.display().to_string()]).await;
    for _ in 0..80 {
        assert_eq!(http1::get(data.address(), "/orders/x").await.status(), 200);
    }
    assert_eq!((light.seen().len(), heavy.seen().len()), (20, 60));
}
