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

/// A data plane in zone `a`, with services of two replicas each at `places`: tier and zone. Yields what each has seen of `requests`.
async fn seen_by(
    policy: &str,
    places: [(u8, &str); 4],
    dead: &[usize],
    requests: usize,
) -> (DataPlane, Vec<usize>) {
    let replicas: Vec<Scripted> = (0..4)
        .map(|number| match dead.contains(&number) {
            true => Scripted::refusing(|_, _| Act::ok(b"")),
            false => Scripted::start(|_, _| Act::ok(b"")),
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services.toml");
    let mut text = "[[service]]\nname = \"orders\"\n".to_owned();
    for (replica, (tier, zone)) in replicas.iter().zip(places) {
        let address = replica.address();
        text += &format!(
            "[[service.replica]]\naddress = \"{address}\"\npriority = {tier}\nregion = \"eu\"\nzone = \"{zone}\"\n"
        );
    }
    // One failure is enough, and none comes back while this lasts.
    text +=
        "[service.policy.breaker]\nconsecutive_failure_count = 1\nbase_open = \"10m\"\nmax_open = \"10m\"\n";
    text += "[service.policy.health_check]\ntype = \"off\"\n";
    text += policy;
    std::fs::write(&file, text).unwrap();
    let flags = ["--static", &file.display().to_string(), "--region", "eu", "--zone", "a"];
    let data = DataPlane::start(&flags).await;
    // Whoever is dead is found out.
    for _ in 0..8 {
        assert_eq!(http1::get(data.address(), "/orders/x").await.status(), 200);
    }
    let before: Vec<_> = replicas.iter().map(|replica| replica.seen().len()).collect();
    for _ in 0..requests {
        assert_eq!(http1::get(data.address(), "/orders/x").await.status(), 200);
    }
    let seen = replicas.iter().zip(before).map(|(replica, before)| replica.seen().len() - before).collect();
    (data, seen)
}

#[tokio::test]
async fn requests_stay_in_the_zone_of_their_data_plane_while_somebody_there_lets_them_through() {
    let policy = "[service.policy.balancing]\nprefer_local = true\n";
    let places = [(0, "a"), (0, "a"), (0, "b"), (0, "b")];
    let (_data, seen) = seen_by(policy, places, &[], 20).await;
    assert_eq!(seen, [10, 10, 0, 0]);
    let (_data, seen) = seen_by(policy, places, &[0], 20).await;
    assert_eq!(seen, [0, 20, 0, 0]);
    let (_data, seen) = seen_by(policy, places, &[0, 1], 20).await;
    assert_eq!(seen, [0, 0, 10, 10]);
}

#[tokio::test]
async fn a_tier_that_is_half_gone_keeps_what_it_can_bear_and_the_next_one_takes_the_rest() {
    let policy = "[service.policy.balancing]\noverprovisioning_factor = 1.4\n";
    let places = [(0, "a"), (0, "a"), (1, "a"), (1, "a")];
    let (_data, seen) = seen_by(policy, places, &[0], 40).await;
    assert_eq!(seen, [0, 28, 6, 6]);
}
