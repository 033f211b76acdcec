//! Callers who are asked who they are: tokens, JWTs, their rates, and what comes of what they claim.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use control_plane::{Config, Settings, auth_file::fingerprint};
use gateway_proto::v1::{
    self, keep_alive_result::Result as Outcome, observability_service_client::ObservabilityServiceClient,
    registry_service_client::RegistryServiceClient, stream_snapshots_request::Message,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_stream::{StreamExt as _, iter, pending};
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    plane::{Plane, eventually, explain, request, seconds},
    rest::{Answer, send},
};

pub(crate) struct Locked {
    pub(crate) plane: Plane,
    _folder: TempDir,
}

pub(crate) fn entry(name: &str, rest: &str) -> String {
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\n{rest}\n", fingerprint(name))
}

pub(crate) fn entries() -> String {
    let replica = |service: &str| format!("roles = [\"replica\"]\nservices = [\"{service}\"]");
    [
        entry("ops", "roles = [\"operator\"]"),
        entry("see", "roles = [\"reader\"]"),
        entry("orders", &replica("orders")),
        entry("payments", &replica("payments")),
    ]
    .concat()
}

impl Locked {
    pub(crate) async fn start(text: &str, files: &[(&str, String)], rate: u32) -> Self {
        Self::start_with(text, files, rate, |_| {}).await
    }

    /// With other bounds.
    pub(crate) async fn start_within(text: &str, rate: u32, change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(text, &[], rate, change).await
    }

    async fn start_with(
        text: &str,
        files: &[(&str, String)],
        rate: u32,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let path = folder.path().join("auth.toml");
        std::fs::write(&path, text).unwrap();
        let access = Settings::default().with_auth_file(path).with_rate_limit(rate);
        let plane = Plane::start_with(|config| {
            config.access = access;
            change(config);
        });
        Self { plane: plane.await, _folder: folder }
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let headers = format!("authorization: Bearer {token}\ncontent-type: application/json");
        send(&self.plane, method, path, &headers, body).await
    }

    pub(crate) async fn lease(&self, token: &str, service: &str) -> v1::RegisterResponse {
        let wish = v1::RegisterRequest { lease_ttl: seconds(60), ..request(service, "10.0.0.1:80") };
        self.plane.registry().register(shown(token, wish)).await.unwrap().into_inner()
    }
}

pub(crate) fn shown<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

pub(crate) fn beat(registered: &v1::RegisterResponse) -> v1::HeartbeatRequest {
    let replica = registered.replica.clone().unwrap();
    v1::HeartbeatRequest {
        service: replica.service,
        replica_id: replica.replica_id,
        lease_id: registered.lease_id.clone(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_keep_alive_stream_renews_what_is_its_caller_s_and_nothing_else() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let ours = locked.lease("orders", "orders").await;
    let theirs = locked.lease("payments", "payments").await;
    let message = v1::KeepAliveRequest { heartbeats: vec![beat(&ours), beat(&theirs)] };
    let stream = locked.plane.registry().keep_alive(shown("orders", iter([message]))).await;
    let answer = stream.unwrap().into_inner().message().await.unwrap().unwrap();
    let [Some(Outcome::Renewed(_)), Some(Outcome::Lost(lost))] =
        [&answer.results[0].result, &answer.results[1].result]
    else {
        panic!("{answer:?}")
    };
    assert_eq!(lost.reason, "PERMISSION_DENIED");
    let refused = locked.plane.registry().heartbeat(shown("orders", beat(&theirs))).await.unwrap_err();
    assert_eq!(explain(&refused).1, "PERMISSION_DENIED");
    assert!(locked.plane.registry().heartbeat(shown("payments", beat(&theirs))).await.is_ok());
}

#[tokio::test]
async fn an_owner_looks_at_a_replica_of_its_own_service_and_at_nothing_else() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let (ours, theirs) = (locked.lease("orders", "orders").await, locked.lease("payments", "payments").await);
    let look = async |registered: &v1::RegisterResponse| {
        let v1::Replica { service, replica_id, .. } = registered.replica.clone().unwrap();
        let asked = v1::GetReplicaRequest { service, replica_id };
        locked.plane.registry().get_replica(shown("orders", asked)).await
    };
    assert_eq!(look(&ours).await.unwrap().into_inner().replica.unwrap().registered_by, "orders");
    let refused = look(&theirs).await.unwrap_err();
    assert_eq!(explain(&refused).1, "PERMISSION_DENIED");
    let absent = v1::RegisterResponse {
        replica: Some(v1::Replica { replica_id: "nobody".into(), ..theirs.replica.clone().unwrap() }),
        ..Default::default()
    };
    assert_eq!(
        look(&absent).await.unwrap_err().message(),
        refused.message(),
        "nor does it learn what is there"
    );
    let list = locked.ask("GET", "/v1/services/orders/replicas", "orders", "").await;
    assert_eq!(list.status, 403);
}

#[tokio::test]
async fn health_that_comes_with_heartbeats_is_told_of_as_a_change_like_any_other() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let ours = locked.lease("orders", "orders").await;
    let beat = v1::HeartbeatRequest { health: v1::HealthStatus::Degraded.into(), ..beat(&ours) };
    let message = open_for_ever(v1::KeepAliveRequest { heartbeats: vec![beat] });
    let _stream = locked.plane.registry().keep_alive(shown("orders", message)).await.unwrap();
    let told = eventually(async || {
        let events = locked.ask("GET", "/v1/events", "see", "").await.json();
        let mut events = events["events"].as_array().unwrap().iter();
        events.find(|event| event["metadata"]["request"] == "ReportHealth").cloned()
    });
    let told = told.await;
    assert_eq!((&told["eventType"], &told["actor"]), (&json!("CHANGE_ASKED"), &json!("orders")));
    assert_eq!(told["metadata"]["outcome"], "done");
}

#[tokio::test]
async fn a_data_plane_goes_by_its_own_node_ids_on_both_streams_and_by_no_other_s() {
    let entries = [
        entry("edge", "roles = [\"data-plane\"]\nnodes = [\"edge-*\"]"),
        entry("dp", "roles = [\"data-plane\"]"),
        entry("see", "roles = [\"reader\"]"),
    ];
    let locked = Locked::start(&entries.concat(), &[], 5000).await;
    let node = |id: &str| Some(v1::NodeIdentity { node_id: id.into(), ..Default::default() });
    let follows = async |token: &str, id: &str| {
        let hello = v1::Hello { node: node(id), services: vec!["*".into()], ..Default::default() };
        let hello = v1::StreamSnapshotsRequest { message: Some(Message::Hello(hello)) };
        let stream = locked.plane.discovery().stream_snapshots(shown(token, open_for_ever(hello))).await;
        stream?.into_inner().message().await
    };
    let reports = async |token: &str, id: &str| {
        let report = v1::ReportNodeStatusRequest { node: node(id), ..Default::default() };
        let stream =
            locked.plane.observability().report_node_status(shown(token, open_for_ever(report))).await;
        stream?.into_inner().message().await
    };
    for (token, id) in [("edge", "edge-1"), ("dp", "dp-1"), ("dp", "edge-1")] {
        assert!(follows(token, id).await.unwrap().is_some(), "{token} as {id}");
        assert!(reports(token, id).await.unwrap().is_some(), "{token} as {id}");
    }
    for refused in [follows("edge", "dp-1").await.unwrap_err(), reports("edge", "dp-1").await.unwrap_err()] {
        assert_eq!(
            (refused.code(), explain(&refused).1.as_str()),
            (Code::PermissionDenied, "PERMISSION_DENIED")
        );
        assert!(refused.message().contains("edge may not act as the data plane dp-1"), "{refused}");
    }
    let events = locked.ask("GET", "/v1/events", "see", "").await.body;
    assert!(events.contains("ACCESS_DENIED") && events.contains("ReportNodeStatus"), "{events}");
}

/// One message on a stream that stays open.
fn open_for_ever<T: Send + 'static>(message: T) -> impl tokio_stream::Stream<Item = T> + Send {
    iter([message]).chain(pending())
}

#[tokio::test]
async fn without_its_lease_a_replica_is_removed_by_no_other_one_of_its_service_also_not_by_its_address() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let leased = locked.lease("orders", "orders").await.replica.unwrap();
    let body = |address: &str| json!({"service": "orders", "address": address}).to_string();
    let refused = locked.ask("DELETE", "/register", "orders", &body("10.0.0.1:80")).await;
    assert_eq!(
        (refused.status, &refused.json()["reason"]),
        (400, &json!("INVALID_FIELD")),
        "{}",
        refused.body
    );
    assert!(refused.body.contains("has a lease"), "{}", refused.body);
    let path = format!("/v1/services/orders/replicas/{}", leased.replica_id);
    assert_eq!(locked.ask("GET", &path, "see", "").await.status, 200);
    assert_eq!(locked.ask("DELETE", "/register", "ops", &body("10.0.0.1:80")).await.status, 204);
    // Who registers without a lease knows none.
    assert_eq!(locked.ask("POST", "/register", "orders", &body("10.0.0.2:80")).await.status, 201);
    assert_eq!(locked.ask("DELETE", "/register", "orders", &body("10.0.0.2:80")).await.status, 204);
}

#[tokio::test]
async fn without_a_lease_a_replica_s_token_drains_and_undrains_where_it_may_register_and_undoes_no_operator_s_word()
 {
    let host = |name: &str, network: &str| {
        entry(name, &format!("roles = [\"replica\"]\nservices = [\"orders\"]\naddresses = [\"{network}\"]"))
    };
    let hosts = [host("host-a", "10.0.1.0/24"), host("host-b", "10.0.2.0/24")].concat();
    let locked = Locked::start(&(entries() + &hosts), &[], 5000).await;
    let register = async |token: &str, address: &str| {
        let wish = v1::RegisterRequest { lease_ttl: seconds(60), ..request("orders", address) };
        let replica =
            locked.plane.registry().register(shown(token, wish)).await.unwrap().into_inner().replica;
        replica.unwrap().replica_id
    };
    let (ours, theirs) = (register("host-a", "10.0.1.1:80").await, register("host-b", "10.0.2.1:80").await);
    let ask = async |token: &str, replica: &str, verb: &str| {
        let path = format!("/v1/services/orders/replicas/{replica}:{verb}");
        let body = if verb == "drain" { "{\"allowLast\": true}" } else { "" };
        let answer = locked.ask("POST", &path, token, body).await;
        let reason = answer.json()["reason"].as_str().unwrap_or_default().to_owned();
        (answer.status, reason, answer.body)
    };
    for verb in ["drain", "undrain"] {
        let (status, reason, body) = ask("host-a", &theirs, verb).await;
        assert_eq!((status, reason.as_str()), (403, "PERMISSION_DENIED"), "{verb}: {body}");
        assert!(body.contains("10.0.2.1:80 is none of the addresses of its entry"), "{body}");
        assert_eq!(ask("payments", &theirs, verb).await.0, 403);
        assert_eq!(ask("payments", "nobody", verb).await.0, 403, "whether it is there is not for him");
        assert_eq!(ask("host-a", "nobody", verb).await.0, 404);
        assert_eq!(ask("see", &theirs, verb).await.0, 403);
    }
    let drain_of = async |replica: &str| {
        let path = format!("/v1/services/orders/replicas/{replica}");
        locked.ask("GET", &path, "see", "").await.json()["drain"].clone()
    };
    assert_eq!(ask("host-a", &ours, "drain").await.0, 200);
    assert_eq!(drain_of(&ours).await["author"], "host-a");
    assert_eq!(ask("orders", &ours, "undrain").await.0, 200, "whoever owns it, too");
    assert_eq!(drain_of(&ours).await, Value::Null);
    assert_eq!(ask("ops", &theirs, "drain").await.0, 200);
    let (status, reason, body) = ask("host-b", &theirs, "undrain").await;
    assert_eq!((status, reason.as_str()), (403, "PERMISSION_DENIED"), "{body}");
    assert!(body.contains("was drained by an operator"), "{body}");
    assert_eq!(drain_of(&theirs).await["author"], "ops");
    assert_eq!(ask("ops", &theirs, "undrain").await.0, 200);
}

#[tokio::test]
async fn what_another_host_has_registered_is_replaced_reported_or_removed_by_who_may_register_there_or_shows_its_lease()
 {
    let host = |name: &str, network: &str| {
        entry(name, &format!("roles = [\"replica\"]\nservices = [\"orders\"]\naddresses = [\"{network}\"]"))
    };
    let hosts =
        [host("host-a", "10.0.1.0/24"), host("host-b", "10.0.2.0/24"), host("cluster", "10.0.0.0/16")]
            .concat();
    let locked = Locked::start(&(entries() + &hosts), &[], 5000).await;
    let register = async |token: &str, id: &str, address: &str, ttl| {
        let wish =
            v1::RegisterRequest { replica_id: id.into(), lease_ttl: ttl, ..request("orders", address) };
        locked.plane.registry().register(shown(token, wish)).await
    };
    let permanent = |id: &str, address: &str| v1::RegisterRequest {
        replica_id: id.into(),
        permanent: true,
        ..request("orders", address)
    };
    let wish = permanent("perm", "10.0.1.2:80");
    locked.plane.registry().register(shown("ops", wish)).await.unwrap();
    let leased = register("host-a", "r-1", "10.0.1.1:80", seconds(60)).await.unwrap().into_inner();
    let refused = |status: tonic::Status, verb: &str| {
        let said = status.message();
        assert_eq!(status.code(), Code::PermissionDenied, "{said}");
        assert!(said.contains(verb) && said.contains("is none of the addresses of its entry"), "{said}");
    };
    for id in ["r-1", "perm"] {
        let taken = register("host-b", id, "10.0.2.1:80", seconds(1)).await;
        refused(taken.unwrap_err(), &format!("may not take the place of orders/{id}"));
    }
    let report = v1::ReportHealthRequest {
        service: "orders".into(),
        replica_id: "perm".into(),
        health: v1::HealthStatus::Unhealthy.into(),
        ..Default::default()
    };
    let removal =
        v1::DeregisterRequest { service: "orders".into(), replica_id: "perm".into(), ..Default::default() };
    let mut registry = locked.plane.registry();
    refused(registry.report_health(shown("host-b", report.clone())).await.unwrap_err(), "may not report");
    refused(registry.deregister(shown("host-b", removal.clone())).await.unwrap_err(), "may not remove");
    let by_address = json!({"service": "orders", "address": "10.0.1.2:80"}).to_string();
    assert_eq!(locked.ask("DELETE", "/register", "host-b", &by_address).await.status, 403);
    // The owner goes on.
    registry.heartbeat(shown("host-a", beat(&leased))).await.unwrap();
    // Who may register there may do all of it.
    registry.report_health(shown("host-a", report)).await.unwrap();
    assert!(registry.deregister(shown("host-a", removal)).await.unwrap().into_inner().removed);
    // A replica moves with its own identity, and to another's whose addresses both hosts are.
    register("cluster", "r-1", "10.0.2.1:80", seconds(60)).await.unwrap();
    register("cluster", "r-1", "10.0.3.1:80", seconds(60)).await.unwrap();
    // Its lease is proof enough, wherever it is.
    let leased = register("host-b", "r-2", "10.0.2.2:80", seconds(60)).await.unwrap().into_inner();
    let removal = v1::DeregisterRequest {
        service: "orders".into(),
        replica_id: "r-2".into(),
        lease_id: leased.lease_id,
        ..Default::default()
    };
    assert!(registry.deregister(shown("host-a", removal)).await.unwrap().into_inner().removed);
}

#[tokio::test]
async fn strangers_who_hold_connections_keep_nobody_out_who_says_who_he_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("auth.toml");
    std::fs::write(&path, entries()).unwrap();
    let plane = Plane::start_with(|config| {
        config.access = Settings::default().with_auth_file(path);
        // The plane's own client has one of them, and has said nothing either.
        config.max_connections = 9;
    })
    .await;
    let watch = async || {
        let mut health = HealthClient::new(plane.connect().await);
        let mut watching = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert!(watching.message().await.unwrap().is_some());
        watching
    };
    let mut strangers = Vec::new();
    for _ in 0..8 {
        strangers.push(watch().await);
    }
    let asked = send(&plane, "GET", "/v1/services", "authorization: Bearer ops", "");
    let answer = tokio::time::timeout(Duration::from_secs(20), asked).await.expect("there is a place");
    assert_eq!(answer.status, 200);
    for (number, stranger) in strangers.iter_mut().enumerate() {
        let ended = tokio::time::timeout(Duration::from_millis(50), stranger.message()).await;
        assert_eq!(ended.is_err(), number < 4, "half of them stay: {number}");
    }
}

#[tokio::test]
async fn one_who_asks_too_often_is_told_when_to_come_back_and_others_do_not_notice() {
    let locked = Locked::start(&entries(), &[], 5).await;
    let list = async |token: &str| {
        locked.plane.registry().list_services(shown(token, v1::ListServicesRequest::default())).await
    };
    // As soon as this machine takes less than a fifth of a second for each.
    let refused = loop {
        if let Err(refused) = list("see").await {
            break refused;
        }
    };
    assert_eq!((refused.code(), explain(&refused).1.as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
    let details = tonic_types::StatusExt::get_error_details(&refused);
    assert!(details.retry_info().unwrap().retry_delay.unwrap() <= Duration::from_secs(1));
    let rest = loop {
        let answer = locked.ask("GET", "/v1/services", "see", "").await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!(rest.status, 429);
    assert!(rest.head.contains("retry-after: 1"), "{}", rest.head);
    assert!(list("ops").await.is_ok());
    assert_eq!(locked.ask("GET", "/readyz", "see", "").await.status, 200, "health is not counted");
}

#[tokio::test]
async fn wrong_credentials_from_one_address_are_looked_at_so_often_and_those_that_are_known_pass_all_the_same()
 {
    let locked = Locked::start(&entries(), &[], 5000).await;
    // Each time on a connection of its own: on one, all but the first few wait.
    let guess = async |count: usize| {
        let channel = locked.plane.connect().await;
        let mut guessing = JoinSet::new();
        for number in 0..count {
            let mut registry = RegistryServiceClient::new(channel.clone());
            let asked = shown(["a.b.c", "another"][number % 2], v1::ListServicesRequest::default());
            guessing.spawn(async move { explain(&registry.list_services(asked).await.unwrap_err()).1 });
        }
        guessing.join_all().await
    };
    let (mut tried, mut is_refused) = (0, false);
    while !is_refused {
        for reason in guess(10).await {
            is_refused |= reason == "RATE_LIMITED";
            assert!(is_refused || reason == "CREDENTIALS_INVALID", "{reason}");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
    let refused = loop {
        // So many that it may be let in for a moment.
        guess(10).await;
        let answer = locked.ask("GET", "/v1/services", "another", "").await;
        if answer.status != 401 {
            break answer;
        }
    };
    assert_eq!((refused.status, &refused.json()["reason"]), (429, &json!("RATE_LIMITED")));
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    assert_eq!(locked.ask("GET", "/v1/services", "see", "").await.status, 200);
    assert_eq!(locked.ask("GET", "/readyz", "a.b.c", "").await.status, 200);
}

#[tokio::test]
async fn one_who_is_known_holds_half_of_all_connections_and_half_of_all_places_for_watches_of_events() {
    let locked = Locked::start_within(&entries(), 5000, |config| config.max_connections = 6).await;
    let watch = async |token: &str| {
        let request = shown(token, v1::WatchEventsRequest::default());
        ObservabilityServiceClient::new(locked.plane.connect().await).watch_events(request).await
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(watch("see").await.unwrap());
    }
    let refused = watch("see").await.unwrap_err();
    assert_eq!(
        (refused.code(), explain(&refused).1.as_str()),
        (Code::ResourceExhausted, "QUOTA_EXCEEDED"),
        "{refused}"
    );
    assert!(watch("ops").await.is_ok());

    // Of places on one connection, too.
    let roomy = Locked::start(&entries(), &[], 5000).await;
    let mut watches = roomy.plane.observability();
    let mut held = Vec::new();
    let refused = loop {
        match watches.watch_events(shown("see", v1::WatchEventsRequest::default())).await {
            Ok(watching) => held.push(watching),
            Err(refused) => break refused,
        }
    };
    assert_eq!((held.len(), explain(&refused).1.as_str()), (128, "QUOTA_EXCEEDED"));
    assert!(watches.watch_events(shown("ops", v1::WatchEventsRequest::default())).await.is_ok());
}

#[tokio::test]
async fn one_token_of_data_planes_leaves_half_of_the_places_to_those_of_others() {
    let data_plane = |name| entry(name, "roles = [\"data-plane\"]");
    let entries = data_plane("greedy") + &data_plane("modest");
    let locked = Locked::start_within(&entries, 5000, |config| config.max_nodes = 2).await;
    // Streams that have not said yet whose they are hold a place, too.
    let follow = async |token| {
        let request = shown(token, pending::<v1::StreamSnapshotsRequest>());
        locked.plane.discovery().stream_snapshots(request).await
    };
    let mut held = Vec::new();
    let refused = loop {
        match follow("greedy").await {
            Ok(stream) => held.push(stream),
            Err(refused) => break refused,
        }
    };
    // Two for each data plane and 256 for those who only look, half of that.
    assert_eq!((held.len(), explain(&refused).1.as_str()), (130, "QUOTA_EXCEEDED"), "{refused}");
    assert!(follow("modest").await.is_ok());

    let report = async |token| {
        let request = shown(token, pending::<v1::ReportNodeStatusRequest>());
        locked.plane.observability().report_node_status(request).await
    };
    let _held = (report("greedy").await.unwrap(), report("greedy").await.unwrap());
    let refused = report("greedy").await.unwrap_err();
    assert_eq!(explain(&refused).1, "QUOTA_EXCEEDED", "{refused}");
    assert!(report("modest").await.is_ok());
}

#[tokio::test]
async fn strangers_learn_whether_it_is_ready_and_not_how_much_there_is() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let stranger = send(&locked.plane, "GET", "/readyz?verbose", "", "").await;
    assert_eq!((stranger.status, stranger.body.as_str()), (200, "[+]store ok\n[+]not draining\n"));
    let reader = locked.ask("GET", "/readyz?verbose", "see", "").await;
    assert!(reader.body.contains("0 replicas"), "{}", reader.body);
}

#[tokio::test]
async fn the_author_of_a_change_is_who_was_authenticated_whatever_he_says() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let body = json!({"timeout": {"request": "5s"}}).to_string();
    let path = "/v1/policies/orders?author=ana&allowMissing=1";
    let changed = locked.ask("PATCH", path, "ops", &body).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let events = locked.ask("GET", "/v1/events", "see", "").await.json();
    let of_type = |name: &str| {
        events["events"].as_array().unwrap().iter().find(|event| event["eventType"] == name).unwrap()
    };
    assert_eq!(of_type("POLICY_UPDATED")["actor"], "ops");
    let asked = of_type("CHANGE_ASKED");
    assert_eq!(asked["actor"], "ops");
    assert_eq!(asked["message"], "UpdatePolicy orders: done");
    assert_eq!(asked["metadata"], json!({"from": "127.0.0.1", "request": "UpdatePolicy", "outcome": "done"}));
    for _ in 0..50 {
        assert_eq!(locked.ask("PATCH", path, "see", &body).await.status, 403);
    }
    let events = locked.ask("GET", "/v1/events", "see", "").await.json();
    let denied: Vec<&Value> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["eventType"] == "ACCESS_DENIED")
        .collect();
    assert_eq!(denied.len(), 1, "like ones fold: {events}");
    let event = denied[0];
    assert_eq!((&event["actor"], &event["metadata"]["from"]), (&json!("see"), &json!("127.0.0.1")));
    let metrics = locked.ask("GET", "/metrics", "see", "").await.body;
    assert!(metrics.contains("gateway_access_denied_total{reason=\"PERMISSION_DENIED\"} 50"), "{metrics}");
}

#[tokio::test]
async fn whatever_is_sent_as_credentials_is_refused_or_known_and_never_shown() {
    let locked = Locked::start(&entries(), &[], 5000).await;
    let long = format!("authorization: Bearer {}", "x".repeat(20_000));
    for headers in [
        "authorization: Basic c2VzYW1l",
        "authorization: Bearer",
        "authorization: Bearer ",
        "authorization: sesame",
        "authorization: Bearer sesame",
        "authorization: Bearer ops\nauthorization: Bearer see",
        "authorization: Bearer a.b.c",
        "authorization: Bearer ops see",
        &long,
    ] {
        let answer = send(&locked.plane, "GET", "/v1/services", headers, "").await;
        let shown: String = headers.chars().take(60).collect();
        assert_eq!(answer.status, 401, "{shown}");
        assert_eq!(answer.json()["reason"], "CREDENTIALS_INVALID", "{shown}");
        assert!(!answer.body.contains("sesame"), "{}", answer.body);
    }
    let bearer = send(&locked.plane, "GET", "/v1/services", "authorization: bearer  see", "").await;
    assert_eq!(bearer.status, 200, "the scheme's name has no case");
    let events = locked.ask("GET", "/v1/events", "see", "").await.body;
    assert!(events.contains("ACCESS_DENIED") && !events.contains("sesame"), "{events}");
}

#[tokio::test]
async fn a_jwt_of_the_issuer_grants_what_its_claims_say_until_it_ends() {
    let key = Ed25519KeyPair::generate().unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encode(key.public_key().as_ref())}]});
    let text = "[jwt]\nissuer = \"https://idp.example\"\naudiences = [\"gateway\"]\njwks-file = \"jwks.json\"\n\
                [[jwt.rule]]\nclaim = \"groups\"\nvalue = \"ops-*\"\nroles = [\"operator\"]\n";
    let locked = Locked::start(text, &[("jwks.json", jwks.to_string())], 5000).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = |header: Value, claims: Value| {
        let message =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = key.sign(message.as_bytes());
        format!("{message}.{}", encode(signature.as_ref()))
    };
    let claims = |exp: u64, groups: Value| json!({"iss": "https://idp.example", "aud": ["gateway"], "sub": "ana", "exp": exp, "groups": groups});
    let header = || json!({"alg": "EdDSA", "kid": "k"});
    let good = token(header(), claims(now + 300, json!(["ops-eu"])));
    let me = locked.ask("GET", "/whoami", &good, "").await.json();
    assert_eq!(
        (&me["name"], &me["kind"], &me["grants"][0]["roles"]),
        (&json!("jwt:ana"), &json!("jwt"), &json!(["operator"]))
    );
    assert_eq!(locked.ask("GET", "/v1/services", &good, "").await.status, 200);
    for (token, status, reason) in [
        (token(header(), claims(now - 300, json!(["ops-eu"]))), 401, "CREDENTIALS_EXPIRED"),
        (token(header(), claims(now + 300, json!(["dev"]))), 403, "PERMISSION_DENIED"),
        (token(json!({"alg": "none"}), claims(now + 300, json!(["ops-eu"]))), 401, "CREDENTIALS_INVALID"),
        (good.replace(".e", ".f"), 401, "CREDENTIALS_INVALID"),
    ] {
        let answer = locked.ask("GET", "/v1/services", &token, "").await;
        assert_eq!((answer.status, &answer.json()["reason"]), (status, &json!(reason)));
    }
}
