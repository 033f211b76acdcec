//! What operators decide, over REST: policies, and overrides of breakers and guards.

use gateway_proto::v1;
use serde_json::json;

use crate::{
    plane::{Plane, request},
    rest::{get, send, write},
};

const MERGE_PATCH: &str = "content-type: application/merge-patch+json";

#[tokio::test]
async fn a_policy_is_patched_read_resolved_and_removed() {
    let plane = Plane::start().await;
    let path = "/v1/policies/orders";
    assert_eq!(get(&plane, path).await.problem(), (404, "POLICY_NOT_FOUND".into(), String::new()));
    let missing = send(&plane, "PATCH", path, MERGE_PATCH, r#"{"retry":{"maxRetryCount":5}}"#).await;
    assert_eq!(missing.problem().1, "POLICY_NOT_FOUND");

    let patch = r#"{"retry":{"maxRetryCount":5},"breaker":{"failureRatio":0.25}}"#;
    let created =
        send(&plane, "PATCH", "/v1/policies/orders?allowMissing=1&author=ana", MERGE_PATCH, patch).await;
    assert_eq!(
        (created.status, &created.json()["policy"]["updatedBy"]),
        (200, &json!("ana")),
        "{}",
        created.body
    );

    // What is null is cleared, what is left out stays.
    let patch = r#"{"retry":null,"drainTimeout":"5s"}"#;
    let changed = send(&plane, "PATCH", path, MERGE_PATCH, patch).await;
    let policy = changed.json()["policy"].clone();
    assert_eq!((&policy["breaker"]["failureRatio"], &policy["drainTimeout"]), (&json!(0.25), &json!("5s")));
    assert!(policy.get("retry").is_none(), "{policy}");

    let read = get(&plane, path).await;
    assert_eq!(read.json(), policy);
    assert_eq!(read.header("etag"), changed.header("etag"));
    let resolved = get(&plane, "/v1/policies/orders:resolve").await.json();
    assert_eq!(resolved["policy"]["retry"]["maxRetryCount"], json!(2));
    assert_eq!(resolved["origins"]["breaker.failure_ratio"], json!("orders"));

    assert_eq!(send(&plane, "DELETE", path, "", "").await.status, 200);
    assert_eq!(get(&plane, path).await.status, 404);
}

#[tokio::test]
async fn a_put_is_all_of_a_policy() {
    let plane = Plane::start().await;
    let path = "/v1/policies/*";
    let body = json!({"timeout": {"connect": "2s"}, "drainTimeout": "5s"});
    assert_eq!(write(&plane, "PUT", path, &body).await.status, 200);
    let replaced = write(&plane, "PUT", path, &json!({"drainTimeout": "7s"})).await.json();
    assert!(replaced["policy"].get("timeout").is_none(), "{replaced}");
    // What was read may be sent back with a change in it.
    let mut read = get(&plane, path).await.json();
    read["retry"] = json!({"maxRetryCount": 0});
    let replaced = write(&plane, "PUT", path, &read).await.json();
    assert_eq!(
        (&replaced["policy"]["drainTimeout"], &replaced["policy"]["retry"]["maxRetryCount"]),
        (&json!("7s"), &json!(0))
    );
}

#[tokio::test]
async fn an_etag_guards_a_change_and_saves_a_read() {
    let plane = Plane::start().await;
    let path = "/v1/policies/orders";
    let first = write(&plane, "PUT", path, &json!({"drainTimeout": "5s"})).await;
    let etag = first.header("etag").unwrap().to_owned();
    let unchanged = send(&plane, "GET", path, &format!("if-none-match: \"x\", W/{etag}"), "").await;
    assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
    assert_eq!(unchanged.header("etag"), Some(etag.as_str()));

    let guarded = format!("if-match: {etag}\n{MERGE_PATCH}");
    let second = send(&plane, "PATCH", path, &guarded, r#"{"drainTimeout":"6s"}"#).await;
    assert_eq!(second.status, 200, "{}", second.body);
    let stale = send(&plane, "PATCH", path, &guarded, r#"{"drainTimeout":"7s"}"#).await;
    assert_eq!(stale.problem(), (412, "ETAG_MISMATCH".into(), String::new()));
    let stale = send(&plane, "DELETE", path, &format!("if-match: {etag}"), "").await;
    assert_eq!(stale.status, 412);
    let any =
        send(&plane, "PATCH", path, &format!("if-match: *\n{MERGE_PATCH}"), r#"{"drainTimeout":"7s"}"#).await;
    assert_eq!(any.status, 200);
    let fresh = send(&plane, "GET", path, &format!("if-none-match: {etag}"), "").await;
    assert_eq!((fresh.status, &fresh.json()["drainTimeout"]), (200, &json!("7s")));
}

#[tokio::test]
async fn a_dry_run_of_a_policy_says_what_is_wrong_and_changes_nothing() {
    let plane = Plane::start().await;
    let path = "/v1/policies/orders?allowMissing=1&dryRun=1";
    let tried = send(&plane, "PATCH", path, MERGE_PATCH, r#"{"drainTimeout":"5s"}"#).await;
    assert_eq!((tried.status, &tried.json()["policy"]["drainTimeout"]), (200, &json!("5s")));
    let body = r#"{"breaker":{"failureRatio":2},"retry":{"baseBackoff":"3600s"}}"#;
    let refused = send(&plane, "PATCH", path, MERGE_PATCH, body).await;
    assert_eq!(refused.status, 400);
    let violations = refused.json()["violations"].clone();
    let mut fields: Vec<_> =
        violations.as_array().unwrap().iter().map(|violation| violation["field"].as_str().unwrap()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["breaker.failureRatio", "retry.baseBackoff"]);
    assert_eq!(get(&plane, "/v1/policies/orders").await.status, 404);
}

#[tokio::test]
async fn a_breaker_is_forced_listed_and_handed_back() {
    let plane = Plane::start().await;
    plane
        .register(v1::RegisterRequest { replica_id: "r-1".into(), ..request("orders", "10.0.0.1:80") })
        .await;
    let body = json!({"state": "FORCED_OPEN", "ttl": "600s", "reason": "bad disk"});
    let forced = write(&plane, "POST", "/v1/breakers/orders/r-1:override", &body).await;
    let entry = forced.json()["activeOverride"].clone();
    assert_eq!(
        (forced.status, &entry["kind"]),
        (200, &json!("OVERRIDE_KIND_BREAKER_OPEN")),
        "{}",
        forced.body
    );
    assert_eq!(entry["author"], json!("127.0.0.1"), "the caller, as over gRPC");
    let listed = get(&plane, "/v1/overrides?service=orders").await.json();
    assert_eq!(listed["overrides"], json!([entry]));

    let id = entry["overrideId"].as_str().unwrap();
    let ended = send(&plane, "DELETE", &format!("/v1/overrides/{id}?reason=mended"), "", "").await;
    assert_eq!(ended.json()["ended"], json!(true), "{}", ended.body);
    let encoded = id.replace('/', "%2F");
    let ended = send(&plane, "DELETE", &format!("/v1/overrides/{encoded}"), "", "").await;
    assert_eq!((ended.status, &ended.json()["ended"]), (200, &json!(false)));

    let reset = send(&plane, "POST", "/v1/breakers/orders/-:reset", "", "").await;
    assert_eq!(reset.status, 200, "{}", reset.body);
    let lasting =
        write(&plane, "POST", "/v1/breakers/orders/r-1:override", &json!({"state": "FORCED_OPEN"})).await;
    assert_eq!(lasting.status, 400);
    let violations = lasting.json()["violations"].clone();
    assert_eq!((&violations[0]["field"], &violations[1]["field"]), (&json!("reason"), &json!("ttl")));
}

#[tokio::test]
async fn a_repeated_registration_is_given_its_first_answer() {
    let plane = Plane::start().await;
    let body = r#"{"endpoint":{"address":"10.0.0.1:80"}}"#;
    let key = "content-type: application/json\nidempotency-key: 8e03978e-40d5-43dd-bc93-6894a57f9324";
    let path = "/v1/services/orders/replicas";
    let first = send(&plane, "POST", path, key, body).await;
    let again = send(&plane, "POST", path, key, body).await;
    assert_eq!((first.status, &first.json()["leaseId"]), (201, &again.json()["leaseId"]));
    let other = send(&plane, "POST", path, key, r#"{"endpoint":{"address":"10.0.0.1:80"},"weight":7}"#).await;
    assert_eq!(other.problem(), (400, "REQUEST_ID_REUSED".into(), "requestId".into()));
}

#[tokio::test]
async fn a_guard_is_released_for_a_time() {
    let plane = Plane::start().await;
    write(&plane, "POST", "/v1/services/orders/replicas", &json!({"endpoint": {"address": "10.0.0.1:80"}}))
        .await;
    let released = write(&plane, "POST", "/v1/services/orders:releaseGuard", &json!({"ttl": "60s"})).await;
    assert_eq!((released.status, &released.json()["replicaIds"]), (200, &json!([])), "{}", released.body);
    let refused = write(&plane, "POST", "/v1/services/orders:releaseGuard", &json!({"ttl": "0s"})).await;
    assert_eq!(refused.problem(), (400, "INVALID_FIELD".into(), "ttl".into()));
}
