//! The REST form of every RPC: paths, bodies, conditions, refusals.

use gateway_proto::{json::to_json, v1};
use serde_json::{Value, json};

use crate::plane::{Plane, request};

/// One HTTP request, and what came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} {}", self.head, self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The status, the reason and the first field at fault.
    pub(crate) fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.head);
        let problem = self.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (self.status, text(&problem["reason"]), text(&problem["violations"][0]["field"]))
    }
}

/// Sends a request with these headers, one a line, after `host: localhost`.
pub(crate) async fn send(plane: &Plane, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let headers: String = headers.lines().map(|line| format!("{}\r\n", line.trim())).collect();
    let host = if headers.contains("host: ") { "" } else { "host: localhost\r\n" };
    let length = match body {
        "" => String::new(),
        body => format!("content-length: {}\r\n", body.len()),
    };
    let request =
        format!("{method} {path} HTTP/1.1\r\n{host}{headers}{length}connection: close\r\n\r\n{body}");
    let (status, head, body) = plane.http(&request).await;
    Answer { status, head, body }
}

pub(crate) async fn get(plane: &Plane, path: &str) -> Answer {
    send(plane, "GET", path, "", "").await
}

/// Sends JSON.
pub(crate) async fn write(plane: &Plane, method: &str, path: &str, body: &Value) -> Answer {
    send(plane, method, path, "content-type: application/json", &body.to_string()).await
}

#[tokio::test]
async fn a_replica_lives_its_whole_life_over_rest() {
    let plane = Plane::start().await;
    let body = json!({"endpoint": {"address": "10.0.0.1:80"}, "leaseTtl": "30s", "labels": {"team": "web"}});
    let created = write(&plane, "POST", "/v1/services/orders/replicas", &body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let lease = created.json()["leaseId"].as_str().unwrap().to_owned();
    assert_eq!((lease.len(), created.header("cache-control")), (32, Some("no-store")));
    let id = created.json()["replica"]["replicaId"].as_str().unwrap().to_owned();
    let path = format!("/v1/services/orders/replicas/{id}");
    assert_eq!(created.header("location"), Some(path.as_str()));

    let replica = get(&plane, &path).await;
    assert_eq!((replica.status, &replica.json()["labels"]), (200, &json!({"team": "web"})));
    assert_eq!(replica.header("cache-control"), Some("no-cache"));
    assert_eq!(get(&plane, "/v1/services/orders").await.json()["replicaCount"], json!(1));
    assert_eq!(get(&plane, "/v1/services").await.json()["services"][0]["service"], json!("orders"));

    let renewed = send(&plane, "PUT", &format!("{path}/lease"), &format!("x-gw-lease: {lease}"), "").await;
    assert_eq!(renewed.status, 200, "{}", renewed.body);
    assert_eq!(renewed.json()["heartbeatInterval"], json!("10s"));
    assert!(renewed.json()["expireTime"].is_string());

    let report = json!({"leaseId": lease, "health": "DEGRADED", "reason": "slow disk"});
    let reported = write(&plane, "POST", &format!("{path}:reportHealth"), &report).await;
    assert_eq!(reported.json()["replica"]["health"], json!("HEALTH_STATUS_DEGRADED"));

    // Known at this address: 200, and a new lease takes the old one's place.
    let again = write(&plane, "POST", "/v1/services/orders/replicas", &body).await;
    assert_eq!((again.status, again.header("location")), (200, Some(path.as_str())));
    let stale = send(&plane, "DELETE", &path, &format!("x-gw-lease: {lease}"), "").await;
    assert_eq!(stale.problem(), (409, "LEASE_MISMATCH".into(), String::new()));

    let lease = again.json()["leaseId"].as_str().unwrap().to_owned();
    let removed = send(&plane, "DELETE", &path, &format!("x-gw-lease: {lease}"), "").await;
    assert_eq!((removed.status, &removed.json()["removed"]), (200, &json!(true)));
    let renewed = send(&plane, "PUT", &format!("{path}/lease"), &format!("x-gw-lease: {lease}"), "").await;
    assert_eq!(renewed.problem().1, "REPLICA_REMOVED");
    assert_eq!(get(&plane, &path).await.problem(), (404, "REPLICA_REMOVED".into(), String::new()));
}

#[tokio::test]
async fn an_operator_removes_by_force_and_a_dry_run_changes_nothing() {
    let plane = Plane::start().await;
    let body = json!({"replicaId": "r-1", "endpoint": {"address": "10.0.0.1:80"}});
    let dry = write(&plane, "POST", "/v1/services/orders/replicas?dryRun=1", &body).await;
    assert_eq!((dry.status, dry.header("location"), &dry.json()["leaseId"]), (200, None, &json!("")));
    assert_eq!(get(&plane, "/v1/services/orders").await.problem().1, "SERVICE_NOT_FOUND");

    write(&plane, "POST", "/v1/services/orders/replicas", &body).await;
    let path = "/v1/services/orders/replicas/r-1";
    assert_eq!(
        send(&plane, "DELETE", path, "", "").await.problem(),
        (400, "INVALID_FIELD".into(), "leaseId".into())
    );
    let ignored = send(&plane, "DELETE", path, "content-type: application/json", r#"{"force":true}"#).await;
    assert_eq!(ignored.problem(), (400, "INVALID_FIELD".into(), "body".into()));
    let removed = send(&plane, "DELETE", &format!("{path}?force=1&reason=gone"), "", "").await;
    assert_eq!((removed.status, &removed.json()["removed"]), (200, &json!(true)));
}

#[tokio::test]
async fn rest_says_what_grpc_says() {
    let plane = Plane::start().await;
    for (id, address) in [("r-1", "10.0.0.1:80"), ("r-2", "10.0.0.2:80")] {
        let request =
            v1::RegisterRequest { replica_id: id.into(), permanent: true, ..request("orders", address) };
        plane.register(request).await;
    }
    let mut registry = plane.registry();
    let services = registry.list_services(v1::ListServicesRequest::default()).await.unwrap().into_inner();
    assert_eq!(get(&plane, "/v1/services").await.json(), to_json(&services));

    let page = v1::ListReplicasRequest { service: "-".into(), page_size: 1, ..Default::default() };
    let replicas = registry.list_replicas(page).await.unwrap().into_inner();
    assert_eq!(get(&plane, "/v1/services/-/replicas?pageSize=1").await.json(), to_json(&replicas));
    let next = format!("/v1/services/-/replicas?pageSize=1&pageToken={}", replicas.next_page_token);
    assert_eq!(get(&plane, &next).await.json()["replicas"][0]["replicaId"], json!("r-2"));

    let replica = v1::GetReplicaRequest { service: "orders".into(), replica_id: "r-1".into() };
    let replica = registry.get_replica(replica).await.unwrap().into_inner();
    let path = "/v1/services/orders/replicas/r-1";
    assert_eq!(get(&plane, path).await.json(), to_json(&replica.replica.unwrap()));

    let mut observability = plane.observability();
    let events = observability.list_events(v1::ListEventsRequest::default()).await.unwrap().into_inner();
    assert_eq!(get(&plane, "/v1/events").await.json(), to_json(&events));
    let nodes = observability.list_nodes(v1::ListNodesRequest::default()).await.unwrap().into_inner();
    assert_eq!(get(&plane, "/v1/nodes").await.json(), to_json(&nodes));
    let breakers =
        observability.list_breakers(v1::ListBreakersRequest::default()).await.unwrap().into_inner();
    assert_eq!(get(&plane, "/v1/breakers?states=OPEN&perNode=true").await.json(), to_json(&breakers));

    // And it is counted like it.
    let metrics = get(&plane, "/metrics").await.body;
    let counted = "grpc_method=\"ListNodes\",grpc_code=\"OK\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn every_field_at_fault_is_named_in_rest_s_words() {
    let plane = Plane::start().await;
    let path = "/v1/services/Orders/replicas";
    let refused = write(&plane, "POST", path, &json!({"leaseTtl": "0s", "weight": 5000})).await;
    assert_eq!(refused.status, 400);
    let violations = refused.json()["violations"].as_array().unwrap().clone();
    let fields: Vec<_> = violations.iter().map(|violation| violation["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["service", "endpoint.address", "weight", "leaseTtl"]);
    assert!(refused.json()["detail"].as_str().unwrap().contains("leaseTtl: "), "{}", refused.body);

    let typo = write(&plane, "POST", "/v1/services/orders/replicas", &json!({"lease_tll": "30s"})).await;
    assert_eq!(typo.problem(), (400, "INVALID_FIELD".into(), "lease_tll".into()));
    let twice =
        send(&plane, "POST", path, "content-type: application/json", r#"{"weight":1,"weight":2}"#).await;
    assert_eq!(twice.problem().1, "MALFORMED_REQUEST");
    assert_eq!(get(&plane, "/v1/nodes?pageSize=-1").await.problem().2, "pageSize");
    assert_eq!(get(&plane, "/v1/nodes?pageToken=x").await.problem().1, "PAGE_TOKEN_INVALID");
}

#[tokio::test]
async fn what_leads_nowhere_is_told_apart_from_what_is_asked_in_the_wrong_way() {
    let plane = Plane::start().await;
    for path in
        ["/v1", "/v1/", "/v1/service", "/v1/services/", "/v1/services/a/replicas/b:drian", "/v1/services/%ff"]
    {
        assert_eq!(
            get(&plane, path).await.problem(),
            (404, "MALFORMED_REQUEST".into(), String::new()),
            "{path}"
        );
    }
    for (method, path, allow) in [
        ("POST", "/v1/services", "GET"),
        ("DELETE", "/v1/services/a/replicas", "GET,POST"),
        ("POST", "/v1/policies/a", "GET,PATCH,PUT,DELETE"),
        ("GET", "/v1/breakers/a/b:override", "POST"),
        ("OPTIONS", "/v1/services", "GET"),
    ] {
        let refused = send(&plane, method, path, "", "").await;
        assert_eq!(
            (refused.status, refused.header("allow")),
            (405, Some(&*allow.to_lowercase())),
            "{method} {path}"
        );
        assert_eq!(refused.problem().1, "MALFORMED_REQUEST");
    }
}

#[tokio::test]
async fn bodies_are_bounded_and_declared() {
    let plane = Plane::start().await;
    let path = "/v1/services/orders/replicas";
    let large = format!("{{\"version\":\"{}\"}}", "x".repeat(70_000));
    for (headers, body, status) in [
        ("content-type: text/plain", "{}", 415),
        ("content-type: application/x-www-form-urlencoded", "{}", 415),
        ("", "{}", 415),
        ("content-type: application/merge-patch+json", "{}", 415),
        ("content-type: application/json", "[]", 400),
        ("content-type: application/json", "{", 400),
        ("content-type: application/json", large.as_str(), 413),
    ] {
        let refused = send(&plane, "POST", path, headers, body).await;
        assert_eq!(refused.problem(), (status, "MALFORMED_REQUEST".into(), String::new()), "{headers}");
    }
    // Nothing to declare: what is missing is told instead.
    assert_eq!(send(&plane, "POST", path, "", "").await.problem().2, "endpoint.address");
}

#[tokio::test]
async fn the_head_alone_is_answered_without_a_body() {
    let plane = Plane::start().await;
    let head = send(&plane, "HEAD", "/v1/services", "", "").await;
    let whole = get(&plane, "/v1/services").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()));
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn the_document_of_all_this_is_served() {
    let plane = Plane::start().await;
    let document = get(&plane, "/openapi.json").await;
    assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
    assert_eq!(document.json()["openapi"], json!("3.1.0"));
    assert!(document.json()["paths"]["/v1/services/{service}/replicas"]["post"].is_object());
}
