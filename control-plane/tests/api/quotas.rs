//! How much one who is known may register.

use control_plane::store::StoreLocation;
use gateway_proto::v1;
use serde_json::json;
use tonic::Code;

use crate::{
    access::{Locked, entry, shown},
    plane::{explain, request},
};

#[tokio::test]
async fn who_has_as_much_as_his_entry_lets_him_is_refused_with_the_numbers_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = StoreLocation::Redb(folder.path().join("gateway.redb"));
    let rest = "roles = [\"replica\", \"reader\"]\nservices = [\"*\"]\nmax-replicas = 3\nmax-services = 2";
    let text = [entry("ci", rest), entry("other", rest), entry("ops", "roles = [\"operator\"]")].concat();
    let start = async || Locked::start_within(&text, 5000, |config| config.store = store.clone()).await;
    let register = async |locked: &Locked, token: &str, service: &str, port: u16| {
        let wish = request(service, &format!("10.0.0.1:{port}"));
        locked.plane.registry().register(shown(token, v1::RegisterRequest { permanent: true, ..wish })).await
    };
    let refused = async |locked: &Locked, service: &str, port: u16| {
        let refused = register(locked, "ci", service, port).await.unwrap_err();
        assert_eq!(
            (refused.code(), explain(&refused).1.as_str()),
            (Code::ResourceExhausted, "QUOTA_EXCEEDED"),
            "{refused}"
        );
        refused.message().to_owned()
    };
    let locked = start().await;
    let first = register(&locked, "ci", "a", 1).await.unwrap().into_inner().replica.unwrap();
    assert_eq!(first.registered_by, "ci");
    register(&locked, "ci", "b", 2).await.unwrap();
    let told = refused(&locked, "c", 3).await;
    assert!(told.starts_with("ci has 2 services and may have 2: deregister some"), "{told}");
    register(&locked, "ci", "a", 3).await.unwrap();
    let told = refused(&locked, "a", 4).await;
    assert!(told.starts_with("ci has 3 replicas and may have 3") && told.contains("max-replicas"), "{told}");
    let asked = v1::RegisterRequest { validate_only: true, ..request("a", "10.0.0.1:4") };
    let asked = locked.plane.registry().register(shown("ci", asked)).await;
    assert_eq!(asked.unwrap_err().code(), Code::ResourceExhausted, "so says a rehearsal");
    let me = locked.ask("GET", "/whoami", "ci", "").await.json();
    assert_eq!(me["registered"], json!({"replicas": 3, "services": 2}));
    assert_eq!((&me["grants"][0]["maxReplicas"], &me["grants"][0]["maxServices"]), (&json!(3), &json!(2)));
    let metrics = locked.ask("GET", "/metrics", "ci", "").await.body;
    assert!(metrics.contains("gateway_registry_quota_refusals_total{quota=\"identity\"} 2"), "{metrics}");
    locked.plane.stop().await;

    let locked = start().await;
    refused(&locked, "a", 4).await;
    register(&locked, "ci", "b", 2).await.expect("what is there may be registered again");
    register(&locked, "other", "a", 4).await.expect("he has a quota of his own");
    for (service, port) in [("x", 1), ("y", 2), ("z", 3), ("z", 4)] {
        register(&locked, "ops", service, port).await.expect("an operator has none");
    }
    let gone =
        v1::DeregisterRequest { service: "a".into(), replica_id: first.replica_id, ..Default::default() };
    locked.plane.registry().deregister(shown("ci", gone)).await.unwrap();
    register(&locked, "ci", "a", 5).await.expect("there is room again");
    let listed =
        locked.ask("GET", "/v1/services/-/replicas?filter=registered_by%20%3D%20%22ci%22", "ci", "").await;
    assert_eq!(listed.json()["replicas"].as_array().map(Vec::len), Some(3), "{}", listed.body);
    locked.plane.stop().await;
}

#[tokio::test]
async fn one_identity_without_a_number_of_its_own_does_not_fill_the_registry() {
    let rest = "roles = [\"replica\"]\nservices = [\"*\"]";
    let text = [entry("greedy", rest), entry("modest", rest)].concat();
    let locked = Locked::start_within(&text, 5000, |config| config.limits.replicas = 8).await;
    let register = async |token: &str, port: u16| {
        let wish = request("orders", &format!("10.0.0.1:{port}"));
        locked.plane.registry().register(shown(token, v1::RegisterRequest { permanent: true, ..wish })).await
    };
    for port in 1..=4 {
        register("greedy", port).await.unwrap();
    }
    let refused = register("greedy", 5).await.unwrap_err();
    assert!(refused.message().contains("greedy has 4 replicas and may have 4"), "{refused}");
    assert!(register("modest", 5).await.is_ok());
}
